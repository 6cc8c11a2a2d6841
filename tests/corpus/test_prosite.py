"""PROSITE patterns: every element of the syntax, overlaps, ends, what is refused; and the published patterns find the proteins that PROSITE says they do."""

import re
from pathlib import Path

import pytest

from sparselight.corpus import CorpusConfig, load_corpus
from sparselight.corpus.protein.prosite import PATTERNS, find_pattern, named_pattern
from sparselight.errors import ConfigError

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "emboss_swissprot"


@pytest.mark.parametrize(("pattern", "sequence", "found"), [
    ("R-G-D", "ARGDARGD", [(1, 4), (5, 8)]),
    ("A-x-A", "AAAA", [(0, 3), (1, 4)]),
    ("[ST]-x(2)-[DE]", "SAADTEE", [(0, 4)]),
    ("N-{P}-[ST]-{P}", "NPSANASANASP", [(4, 8)]),
    ("C-x(2,4)-C", "CAACAAAC", [(0, 4), (3, 8)]),
    ("<M-A", "MAMA", [(0, 2)]),
    ("A-C>", "ACAC", [(2, 4)]),
    ("A(3)", "AAAA", [(0, 3), (1, 4)]),
    ("A(1,2)-C.", "AAC", [(0, 3), (1, 3)]),
    ("A-[G>]", "AGA", [(0, 2), (2, 3)]),
    ("[<M]-A", "AMA", [(0, 1), (1, 3)]),
    ("r-g-d".upper(), "argd", [(1, 4)]),
    (PATTERNS["zinc_finger_C2H2"], "MYKCPECGKSFSQKSNLQKHQRTHTG", [(3, 24)]),
])
def test_every_element(pattern: str, sequence: str, found: list[tuple[int, int]]) -> None:
    assert [tuple(match) for match in find_pattern(pattern, sequence)] == found


@pytest.mark.parametrize("pattern", ["", "RGD*", "A-J", "A-<C", "A>-C", "A-x(4,2)", "[AC-D", "A--C", "A-(2)", "{}-A", "A-x(2"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError):
        find_pattern(pattern, "ACD")


def test_names_and_matches_as_spans(tmp_path: Path) -> None:
    assert named_pattern("RGD") == "R-G-D"
    with pytest.raises(ConfigError, match="zinc_finger_C2H2"):
        named_pattern("zinc_finger_C2H3")
    (tmp_path / "a.fasta").write_text(">a\nMARGDA\n")
    corpus = load_corpus(CorpusConfig.parse({"root": str(tmp_path / "a.fasta"), "protein": {"patterns": {"adhesion": "RGD", "two": "A-x(2,3)-A"}}}, "corpus"))
    assert [(span.start, span.end, span.name, span.value) for span in corpus[0].spans] == [(1, 6, "pattern", "two"), (2, 5, "pattern", "adhesion")]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the PROSITE and Swiss-Prot samples in ../shared/data")
def test_published_patterns_find_the_proteins_that_prosite_lists() -> None:
    by_name = {accession: example.text for example in load_corpus(CorpusConfig.parse({"root": str(DATA / "seq.dat")}, "corpus")) for accession in [example.id]}
    checked = 0
    for block in (DATA / "prosite_subset.dat").read_text().split("\n//"):
        pattern = "".join(line[5:].strip() for line in block.split("\n") if line.startswith("PA "))
        listed = re.findall(r"(\w+)\s*,\s*\S+\s*,\s*(\w);", " ".join(line[5:] for line in block.split("\n") if line.startswith("DR ")))
        for accession, verdict in listed:
            if pattern and accession in by_name and verdict in "TN":
                assert bool(find_pattern(pattern, by_name[accession])) == (verdict == "T"), (accession, pattern)
                checked += 1
    assert checked >= 20
