"""Duplicates among the examples of a corpus: found, then dropped or put into one group so that no split divides them.

Exact duplicates have equal normalized texts, and studies with images are duplicates where they share one: reports repeat ("no acute disease")
though the pictures differ. Near ones are similar (`minhash.py`); similarity is followed from text to text, so a cluster may
hold two texts that are alike only by way of a third: for a split that must not leak, that is the safe side. With `group`, whole groups are
joined: if a page of one document is found in another one, the two documents stay together.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from sparselight.corpus.base import ListCorpus
from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.minhash import near_pairs, normalized
from sparselight.records import DuplicateCluster, Duplicates

PRIOR = "prior"  # the name of an image of an earlier study, which that study has too
N_SHOWN_CLUSTERS, N_SHOWN_IDS, N_SHOWN_CHARS = 10, 5, 120


class DisjointSets:
    """Union-find over 0 .. n-1; the smallest member stands for its set."""

    def __init__(self, n: int):
        self.parent = list(range(n))

    def find(self, x: int) -> int:
        while self.parent[x] != x:
            self.parent[x] = self.parent[self.parent[x]]
            x = self.parent[x]
        return x

    def join(self, x: int, y: int) -> None:
        x, y = self.find(x), self.find(y)
        self.parent[max(x, y)] = min(x, y)

    def roots(self) -> Int[np.ndarray, " member"]:
        return np.fromiter(map(self.find, range(len(self.parent))), dtype=np.int64, count=len(self.parent))


def deduplicate(corpus: ListCorpus, config: CorpusConfig) -> tuple[ListCorpus, Duplicates | None]:
    """Drop or group the duplicates of a corpus as its config says, and tell what was found."""
    if config.dedup == "none":
        return corpus, None
    exact = exact_roots(corpus)
    roots, n_unchecked = near_roots(corpus, exact, config.dedup_jaccard) if config.dedup == "near" else (exact, 0)
    order = np.arange(len(corpus))
    kept, n_joined = corpus, 0
    if config.dedup_action == "drop":
        kept = corpus.subset(np.flatnonzero(roots == order).tolist())
    else:
        renamed, n_joined = joined_groups([example.group for example in corpus], roots)
        kept = corpus.regroup(renamed)
    members = np.bincount(roots, minlength=len(corpus))
    return kept, Duplicates(
        method=config.dedup, action=config.dedup_action, n_clusters=int((members > 1).sum()), n_exact=int((exact != order).sum()),
        n_near=int((roots != order).sum() - (exact != order).sum()), n_dropped=len(corpus) - len(kept), n_groups_joined=n_joined,
        n_unchecked=n_unchecked, largest=_largest(corpus, roots, exact),
    )


def exact_roots(corpus: ListCorpus) -> Int[np.ndarray, " example"]:
    """For each example the first one with the same normalized text; for one with images, the first that is tied to it by shared images."""
    first: dict[bytes, int] = {}
    sets = DisjointSets(len(corpus))
    for index, example in enumerate(corpus):
        own = [image.sha256.encode() for image in example.images if image.name != PRIOR]
        for key in own or [normalized(example.text).encode(errors="surrogatepass")]:
            sets.join(index, first.setdefault(hashlib.blake2b(key, digest_size=16).digest(), index))
    return sets.roots()


def near_roots(corpus: ListCorpus, exact: Int[np.ndarray, " example"], threshold: float) -> tuple[Int[np.ndarray, " example"], int]:
    """For each example the first one of its cluster of exact and near duplicates; and the number of texts not compared with all candidates."""
    texts = np.fromiter((not example.images for example in corpus), dtype=bool, count=len(corpus))
    unique = np.flatnonzero((exact == np.arange(len(corpus))) & texts)
    sets = DisjointSets(len(corpus))
    for index in np.flatnonzero(exact != np.arange(len(corpus))):
        sets.join(int(index), int(exact[index]))

    def text_at(number: int) -> str:
        return normalized(corpus[int(unique[number])].text)

    pairs, n_unchecked = near_pairs(map(text_at, range(len(unique))), text_at, threshold)
    for i, j in pairs:
        sets.join(int(unique[i]), int(unique[j]))
    return sets.roots(), n_unchecked


def joined_groups(groups: Sequence[str], roots: Int[np.ndarray, " example"]) -> tuple[dict[int, str], int]:
    """New groups of the examples whose group is joined to an earlier one, by index, and how many groups disappear that way."""
    number: dict[str, int] = {}
    for group in groups:
        number.setdefault(group, len(number))
    sets, names = DisjointSets(len(number)), list(number)
    for index in np.flatnonzero(roots != np.arange(len(groups))).tolist():
        sets.join(number[groups[index]], number[groups[int(roots[index])]])
    new = sets.roots()
    renamed = {index: names[new[number[group]]] for index, group in enumerate(groups) if new[number[group]] != number[group]}
    return renamed, int((new != np.arange(len(new))).sum())


def _largest(corpus: ListCorpus, roots: Int[np.ndarray, " example"], exact: Int[np.ndarray, " example"]) -> list[DuplicateCluster]:
    members = np.bincount(roots, minlength=len(corpus))
    clusters = []
    for root in np.argsort(-members, kind="stable")[:N_SHOWN_CLUSTERS]:
        if members[root] > 1:
            indices = np.flatnonzero(roots == root)
            text = corpus[int(root)].text
            clusters.append(DuplicateCluster(
                kind="exact" if len(set(exact[indices].tolist())) == 1 else "near", ids=[corpus[int(index)].id for index in indices[:N_SHOWN_IDS]],
                n_examples=int(members[root]), n_chars=len(text), text=text[:N_SHOWN_CHARS],
            ))
    return clusters
