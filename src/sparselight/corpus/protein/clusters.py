"""Groups of homologous proteins, which no split may divide: from a cluster file, or by shared 5-mers.

Two proteins a, b are linked when |K(a) & K(b)| >= p^5 min(|K(a)|, |K(b)|), K their sets of distinct 5-mers and p `cluster_identity`: with independent
substitutions at identity p, a share p^5 of the 5-mers survives. And more than chance explains: unrelated proteins of those lengths share as many with a
probability of at most 1 / pairs of the corpus, by a Poisson law of mean 2 |K(a)| |K(b)| (sum of squared residue frequencies)^5; the 2 is for residues that
follow each other more often than by frequency. 5-mers of one or two letters (low complexity) do not count. Links are followed (single linkage: for a split
that must not leak, the safe side). Where remote homologs matter, MMseqs2 or Foldseek make the clusters and this reads them. Memory: about 100 bytes a residue.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from scipy import sparse
from scipy.special import pdtrc

from sparselight.corpus.base import ListCorpus
from sparselight.corpus.dedup import joined_groups
from sparselight.corpus.protein.config import ProteinConfig
from sparselight.corpus.protein.entries import header_id
from sparselight.corpus.sources import Source
from sparselight.errors import CorpusError

K = 5
CORRELATION = 2.0  # how much oftener than by residue frequencies 5-mers agree
BLOCK = 512  # proteins compared with all others at once
BASE = 26  # letters


def read_clusters(path: str) -> dict[str, str]:
    """Member to representative, ids as in FASTA headers.

    Raises:
        CorpusError: when a line has other than two columns, or a member stands in two clusters.
    """
    asked, found = f"read corpus.protein.clusters = {path!r}", dict[str, str]()
    for number, line in enumerate(Source(Path(path).expanduser(), Path(path).name).text().split("\n"), 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != 2:
            raise CorpusError(asked=asked, why=f"line {number} has {len(cells)} columns", instead="give lines of representative<tab>member")
        representative, member = map(header_id, cells)
        if found.setdefault(member, representative) != representative:
            raise CorpusError(asked=asked, why=f"{member!r} (line {number}) is in the clusters {found[member]!r} and {representative!r}",
                              instead="give each member once")
    return found


def group_homologs(corpus: ListCorpus, config: ProteinConfig, notes: Counter[str]) -> ListCorpus:
    """The corpus with its groups joined as `cluster_identity` asks; what a cluster file says is in the groups already."""
    if config.cluster_identity is None:
        return corpus
    roots = kmer_clusters([example.text for example in corpus], config.cluster_identity)
    renamed, n_joined = joined_groups([example.group for example in corpus], roots)
    largest = int(np.bincount(roots).max())
    notes[f"groups joined to others by shared 5-mers (corpus.protein.cluster_identity = {config.cluster_identity:g}); "
          f"the largest cluster has {largest:,} examples"] += n_joined
    return corpus.regroup(renamed)


def kmer_clusters(sequences: Sequence[str], identity: float) -> Int[np.ndarray, " sequence"]:
    """For each sequence the first one of its cluster."""
    from scipy.sparse.csgraph import connected_components

    kmers, rate = _kmer_matrix(sequences), CORRELATION * _chance_of_agreement(sequences)
    sizes, links = np.diff(kmers.indptr), []
    level, columns = 1 / max(1, len(sequences) * (len(sequences) - 1) // 2), kmers.T.tocsr()
    for start in range(0, len(sequences), BLOCK):
        shared = (kmers[start:start + BLOCK] @ columns).tocoo()
        row, column, n_shared = shared.row + start, shared.col, shared.data
        some = (row < column) & (n_shared >= identity**K * np.minimum(sizes[row], sizes[column]))
        row, column, n_shared = row[some], column[some], n_shared[some]
        near = pdtrc(n_shared - 1, rate * sizes[row] * sizes[column]) <= level
        links.append(np.stack([row[near], column[near]]))
    first, second = np.concatenate(links, axis=1) if links else np.zeros((2, 0), dtype=np.int64)
    graph = sparse.coo_matrix((np.ones(len(first)), (first, second)), shape=(len(sequences), len(sequences)))
    _, label = connected_components(graph, directed=False)
    _, roots = np.unique(label, return_index=True)
    return roots[label]


def _chance_of_agreement(sequences: Sequence[str]) -> float:
    """Probability that two 5-mers drawn by residue frequencies are the same."""
    counts = np.bincount(np.frombuffer("".join(sequences).encode("ascii"), dtype=np.uint8)).astype(np.float64)
    return float(((counts / max(counts.sum(), 1)) ** 2).sum() ** K)


def _kmer_matrix(sequences: Sequence[str]) -> sparse.csr_matrix:
    """[sequence, k-mer]: 1 where the sequence holds the k-mer, those of one or two different letters left out."""
    lengths = np.array([len(text) for text in sequences])
    codes = np.frombuffer("".join(sequences).encode("ascii"), dtype=np.uint8).astype(np.int64) - ord("A")
    owner = np.repeat(np.arange(len(sequences)), lengths)
    n = max(0, len(codes) - K + 1)
    hashes, letters = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for offset in range(K):
        hashes = hashes * BASE + codes[offset:offset + n]
        letters |= 1 << codes[offset:offset + n]
    keep = (owner[:n] == owner[K - 1:]) & (_without_lowest(_without_lowest(letters)) != 0)
    pairs = np.unique(owner[:n][keep] * BASE**K + hashes[keep])
    row, kmer = np.divmod(pairs, BASE**K)
    known, column = np.unique(kmer, return_inverse=True)
    return sparse.csr_matrix((np.ones(len(row), dtype=np.int32), (row, column)), shape=(len(sequences), len(known)))


def _without_lowest(bits: Int[np.ndarray, " kmer"]) -> Int[np.ndarray, " kmer"]:
    """The sets without their lowest member: twice, and what is left had three or more."""
    return bits & (bits - 1)
