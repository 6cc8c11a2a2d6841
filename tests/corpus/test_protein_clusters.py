"""Homology groups: mutated copies come together down to the stated identity, unrelated proteins stay apart, and no split divides a cluster."""

from pathlib import Path

import numpy as np
import pytest

from sparselight.corpus import CorpusConfig, load_corpus
from sparselight.corpus.protein.clusters import kmer_clusters, read_clusters
from sparselight.corpus.protein.residues import AMINO_ACIDS
from sparselight.errors import CorpusError

LETTERS = np.array(list(AMINO_ACIDS))


def families(n: int, n_members: int, length: int, identity: float, seed: int = 0) -> list[str]:
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        first = rng.choice(LETTERS, length)
        for _ in range(n_members):
            other = first.copy()
            places = rng.choice(length, round((1 - identity) * length), replace=False)
            other[places] = rng.choice(LETTERS, len(places))
            found.append("".join(other))
    return found


def test_mutated_copies_come_together_and_others_stay_apart() -> None:
    sequences = families(12, 3, 300, 0.8)
    assert np.array_equal(kmer_clusters(sequences, 0.6), np.repeat(np.arange(0, 36, 3), 3))
    assert np.array_equal(kmer_clusters(sequences, 1.0), np.arange(36)), "at identity 1 only the same 5-mers count"


def test_a_fragment_belongs_to_its_whole_and_repeats_of_few_letters_link_nothing() -> None:
    first, second = families(2, 1, 300, 1.0)
    assert kmer_clusters([first, first[100:160], second], 0.9).tolist() == [0, 0, 2]
    assert kmer_clusters([first + "SGSGSGSGSGSGSGSGSG", second + "SGSGSGSGSGSGSGSGSG", "MK"], 0.4).tolist() == [0, 1, 2]


def test_links_are_followed() -> None:
    rng = np.random.default_rng(3)
    parts = ["".join(rng.choice(LETTERS, 60)) for _ in range(3)]
    assert kmer_clusters([parts[0] + parts[1], parts[1] + parts[2], parts[2]], 0.7).tolist() == [0, 0, 0]


def test_no_split_divides_a_cluster(tmp_path: Path) -> None:
    sequences = families(10, 4, 120, 0.85, seed=1)
    (tmp_path / "a.fasta").write_text("".join(f">p{number}\n{text}\n" for number, text in enumerate(sequences)))
    corpus = load_corpus(CorpusConfig.parse({"root": str(tmp_path / "a.fasta"), "protein": {"cluster_identity": 0.6}}, "corpus"))
    assert [example.group for example in corpus] == [f"p{4 * (number // 4)}" for number in range(40)]
    train, held_out = corpus.split(0.4)
    assert not set(train.groups()) & set(held_out.groups())
    assert corpus.reading is not None
    assert sum(corpus.reading.notes.values()) == 30


def test_a_cluster_file(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">sp|P1|X\nMKTAY\n>sp|P2|Y\nMKTAW\n>P3\nMKTAF\n")
    clusters = tmp_path / "clusters.tsv"
    clusters.write_text("P2\tP2\nP2\tsp|P1|X\n")
    corpus = load_corpus(CorpusConfig.parse({"root": str(tmp_path / "a.fasta"), "protein": {"clusters": str(clusters)}}, "corpus"))
    assert [example.group for example in corpus] == ["P2", "P2", "P3"]
    assert corpus.reading is not None
    assert corpus.reading.notes["proteins in no cluster of corpus.protein.clusters, each a group of its own"] == 1
    clusters.write_text("P2\tP1\nP3\tP1\n")
    with pytest.raises(CorpusError, match="in the clusters 'P2' and 'P3'"):
        read_clusters(str(clusters))
    clusters.write_text("P2 P1\n")
    with pytest.raises(CorpusError, match="1 columns"):
        read_clusters(str(clusters))
