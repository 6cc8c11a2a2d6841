"""Duplicates: near ones are those that a comparison of all pairs finds, and no split divides them."""

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselight.corpus import CorpusConfig, ListCorpus
from sparselight.corpus.arrow import SpooledExamples
from sparselight.corpus.dedup import DisjointSets, deduplicate
from sparselight.corpus.minhash import N_HASHES, jaccard, minhash_signatures, near_pairs, normalized, rows_per_band, shingle_hashes

WORDS = ["lattice", "harbor", "violet", "engine", "marble", "quiet", "thunder", "orchid", "pillar", "saddle", "copper", "meadow", "lantern", "river", "falcon"]


def some_texts(n: int, seed: int = 0) -> list[str]:
    """Texts of 30 words, some of them copies of earlier ones with up to three words changed."""
    rng, texts = random.Random(seed), []
    for _ in range(n):
        words = rng.choice(texts).split() if texts and rng.random() < 0.4 else [rng.choice(WORDS) + str(rng.randrange(99)) for _ in range(30)]
        for _ in range(rng.randrange(4)):
            words[rng.randrange(30)] = f"changed{rng.randrange(99)}"
        texts.append(" ".join(words))
    return texts


def shingles(text: str) -> set[str]:
    return {text[at:at + 5] for at in range(len(text) - 4)} if len(text) >= 5 else {text}


def exact_jaccard(a: str, b: str) -> float:
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def components(n: int, pairs: list[tuple[int, int]]) -> list[int]:
    sets = DisjointSets(n)
    for i, j in pairs:
        sets.join(i, j)
    return sets.roots().tolist()


def test_disjoint_sets() -> None:
    assert components(6, [(4, 5), (1, 4), (3, 2)]) == [0, 1, 2, 2, 1, 1]


def test_links_by_way_of_a_third_text_are_followed() -> None:
    """A is like B, B is like C, A is not like C, and all three may share a bucket."""
    text = " ".join(f"{word}{number}" for number, word in enumerate(WORDS * 4))
    chain = [text]
    for number in range(12):
        words = chain[-1].split()
        words[4 * number:4 * number + 3] = ["new", "words", str(number)]
        chain.append(" ".join(words))
    assert exact_jaccard(chain[0], chain[-1]) < 0.5
    found, _ = near_pairs(chain, chain.__getitem__, 0.8)
    assert set(components(len(chain), list(found))) == {0}


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_clusters_are_those_of_all_pairs(threshold: float) -> None:
    n = 160
    texts = some_texts(n)
    sets = [shingles(text) for text in texts]
    expected = [(i, j) for i, j in combinations(range(n), 2) if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold]
    found, n_unchecked = near_pairs(texts, texts.__getitem__, threshold)
    assert found <= set(expected)
    assert components(n, list(found)) == components(n, expected)
    assert len(expected) > 10
    assert n_unchecked == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=6))
def test_shingles_are_those_of_python(texts: list[str]) -> None:
    hashes, starts = shingle_hashes(texts)
    ends = [*starts[1:].tolist(), len(hashes)]
    sets = [set(hashes[start:end].tolist()) for start, end in zip(starts.tolist(), ends, strict=True)]
    assert [len(found) for found in sets] == [len(shingles(text)) for text in texts]
    for (a, found_a), (b, found_b) in combinations(zip(texts, sets, strict=True), 2):
        if len(a) >= 5 and len(b) >= 5:
            assert jaccard(np.unique(list(found_a)), np.unique(list(found_b))) == pytest.approx(exact_jaccard(a, b))


def test_signatures_estimate_jaccard() -> None:
    rng = random.Random(1)
    base = "".join(rng.choice("abcdefghij") for _ in range(4000))
    texts = [base, base[:3000] + "".join(rng.choice("klmnop") for _ in range(1000))]
    signatures = minhash_signatures(texts)
    assert (signatures[0] == signatures[1]).mean() == pytest.approx(exact_jaccard(*texts), abs=4 * (0.25 / N_HASHES) ** 0.5)


def test_bands_keep_their_recall() -> None:
    for threshold in (0.5, 0.8, 0.9, 1.0):
        rows = rows_per_band(threshold)
        assert 1 - (1 - threshold**rows) ** (N_HASHES // rows) >= 0.995


def corpus_of(texts: list[str], groups: list[str] | None = None) -> ListCorpus:
    return ListCorpus.from_texts(texts, groups=groups)


def test_exact_means_what_a_reader_sees() -> None:
    assert normalized("  The\tCAFE\u0301 \n") == normalized("the café")
    corpus, found = deduplicate(corpus_of(["The café", "other", "the  CAFE\u0301\n", "THE CAFÉ", "othe r"]), CorpusConfig(dedup="exact"))
    assert [example.id for example in corpus] == ["0", "1", "4"]
    assert found is not None
    assert (found.n_clusters, found.n_exact, found.n_near, found.n_dropped) == (1, 2, 0, 2)
    assert found.largest[0].ids == ["0", "2", "3"]
    assert found.largest[0].kind == "exact"


@pytest.mark.parametrize("spooled", [False, True])
def test_no_split_divides_near_duplicates(spooled: bool) -> None:
    texts = some_texts(200, seed=3)
    corpus = corpus_of(texts, [f"g{number // 2}" for number in range(200)])
    if spooled:
        corpus = ListCorpus(SpooledExamples.write(corpus), "disk")
    grouped, found = deduplicate(corpus, CorpusConfig(dedup="near", dedup_action="group"))
    assert found is not None
    assert found.n_groups_joined == len(set(corpus.groups())) - len(set(grouped.groups())) > 10
    assert [example.text for example in grouped] == texts
    for seed in range(5):
        sides = [[example.text for example in side] for side in grouped.split(0.3, seed)]
        train, held_out = ([shingles(normalized(text)) for text in side] for side in sides)
        assert max(len(a & b) / len(a | b) for a in train for b in held_out) < 0.8


def test_groups_that_share_a_text_stay_whole() -> None:
    page = some_texts(1)[0]
    pages = corpus_of(["alpha beta gamma", page, page, "delta epsilon"], ["a", "a", "b", "b"])
    corpus, found = deduplicate(pages, CorpusConfig(dedup="exact", dedup_action="group"))
    assert corpus.groups() == ["a"]
    assert found is not None
    assert (found.n_dropped, found.n_groups_joined) == (0, 1)


def test_dropping_leaves_no_near_pair_of_firsts() -> None:
    corpus, found = deduplicate(corpus_of(some_texts(200, seed=5)), CorpusConfig(dedup="near"))
    assert found is not None
    assert found.n_dropped == 200 - len(corpus) == found.n_near + found.n_exact
    assert all(exact_jaccard(a.text, b.text) < 0.8 for a, b in combinations(corpus, 2))


def test_crowded_buckets_are_bounded_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    texts = [f"the heart is normal in size and the lungs are clear {' '.join(rng.choice(WORDS) for _ in range(5))}" for _ in range(200)]
    assert deduplicate(corpus_of(texts), CorpusConfig(dedup="near"))[1].n_unchecked == 0  # type: ignore[union-attr]
    monkeypatch.setattr("sparselight.corpus.minhash.MAX_FAILED", 0)
    assert deduplicate(corpus_of(texts), CorpusConfig(dedup="near"))[1].n_unchecked > 0  # type: ignore[union-attr]
