"""Proteins: each format gives the same residues and instances, positions survive repairs, and bad input is named or counted, never guessed."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uniprot_service import flat_entry

from sparselight.corpus import CorpusConfig, ListCorpus, load_corpus
from sparselight.corpus.columns import BadValue
from sparselight.corpus.protein.residues import RESIDUES, clean
from sparselight.errors import ConfigError, CorpusError, MissingExtraError
from sparselight.protocols import Span

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQLEERLGLI"
NEW_SYNTAX = """ID   TEST_HUMAN              Reviewed;          30 AA.
AC   P00001; Q11111;
DT   01-JAN-1990, integrated into UniProtKB/Swiss-Prot.
DT   01-JAN-1990, sequence version 1.
DT   01-JAN-2020, entry version 100.
DE   RecName: Full=Test; EC=1.1.1.1;
OS   Homo sapiens (Human).
OC   Eukaryota.
OX   NCBI_TaxID=9606;
DR   GO; GO:0005634; C:nucleus; IDA:UniProtKB.
KW   Zinc {ECO:0000269|PubMed:1}; Zinc-finger.
FT   SIGNAL          <1..5
FT   CHAIN           6..30
FT                   /note="Test"
FT   PROPEP          ?2..3
FT   TRANSIT         ?..4
FT   ZN_FING         6..>30
FT                   /note="C2H2-type 1; atypical"
FT   BINDING         7
FT                   /ligand="Zn(2+)"
FT   DISULFID        8..12
FT                   /note="Interchain (with C-3)"
FT   MOD_RES         P00001-2:9
FT                   /note="Phosphoserine"
SQ   SEQUENCE   30 AA;  4000 MW;  0123456789ABCDEF CRC64;
     MKTAYIAKQR QISFVKSHFS RQLEERLGLI
//
"""
JSON_ENTRY = {
    "entryType": "UniProtKB reviewed (Swiss-Prot)", "primaryAccession": "P00001", "sequence": {"value": SEQUENCE},
    "organism": {"scientificName": "Homo sapiens"},
    "proteinDescription": {"recommendedName": {"ecNumbers": [{"value": "1.1.1.1"}]}}, "keywords": [{"name": "Zinc"}, {"name": "Zinc-finger"}],
    "uniProtKBCrossReferences": [{"database": "GO", "id": "GO:0005634"}, {"database": "PDB", "id": "1ABC"}],
    "features": [
        {"type": "Signal", "location": {"start": {"value": 1, "modifier": "OUTSIDE"}, "end": {"value": 5, "modifier": "EXACT"}}},
        {"type": "Chain", "location": {"start": {"value": 6, "modifier": "EXACT"}, "end": {"value": 30, "modifier": "EXACT"}}},
        {"type": "Propeptide", "location": {"start": {"value": 2, "modifier": "UNSURE"}, "end": {"value": 3, "modifier": "EXACT"}}},
        {"type": "Transit peptide", "location": {"start": {"modifier": "UNKNOWN"}, "end": {"value": 4, "modifier": "EXACT"}}},
        {"type": "Zinc finger", "description": "C2H2-type 1; atypical",
         "location": {"start": {"value": 6, "modifier": "EXACT"}, "end": {"value": 30, "modifier": "OUTSIDE"}}},
        {"type": "Binding site", "ligand": {"name": "Zn(2+)"},
         "location": {"start": {"value": 7, "modifier": "EXACT"}, "end": {"value": 7, "modifier": "EXACT"}}},
        {"type": "Disulfide bond", "description": "Interchain (with C-3)",
         "location": {"start": {"value": 8, "modifier": "EXACT"}, "end": {"value": 12, "modifier": "EXACT"}}},
        {"type": "Modified residue", "description": "Phosphoserine",
         "location": {"sequence": "P00001-2", "start": {"value": 9, "modifier": "EXACT"}, "end": {"value": 9, "modifier": "EXACT"}}},
    ],
}
TSV = ("Entry\tOrganism\tKeywords\tGene Ontology IDs\tEC number\tSequence\tSignal peptide\tPropeptide\tTransit peptide\tZinc finger\t"
       "Binding site\tDisulfide bond\tModified residue\n"
       f"P00001\tHomo sapiens (Human)\tZinc;Zinc-finger\tGO:0005634\t1.1.1.1\t{SEQUENCE}\tSIGNAL <1..5; /evidence=\"ECO:1\"\tPROPEP ?2..3\tTRANSIT ?..4\t"
       'ZN_FING 6..>30; /note="C2H2-type 1; atypical"; /evidence="ECO:1|PROSITE-ProRule:PRU00042"\t'
       'BINDING 7; /ligand="Zn(2+)"; /ligand_id="ChEBI:CHEBI:29105"\t'
       'DISULFID 8..12; /note="Interchain (with C-3)"\tMOD_RES P00001-2:9; /note="Phosphoserine"\n')
GFF3 = ("##gff-version 3\nP00001\tUniProtKB\tSignal peptide\t<1\t5\t.\t.\t.\tID=x\nP00001\tUniProtKB\tChain\t6\t30\t.\t.\t.\tID=y\n"
        "P00001\tUniProtKB\tPropeptide\t?2\t3\t.\t.\t.\t.\nP00001\tUniProtKB\tTransit peptide\t?\t4\t.\t.\t.\t.\n"
        "P00001\tUniProtKB\tZinc finger\t6\t30\t.\t.\t.\tNote=C2H2-type 1%3B atypical\n"
        "P00001\tUniProtKB\tBinding site\t7\t7\t.\t.\t.\tNote=Zn(2+)\nP00001\tUniProtKB\tDisulfide bond\t8\t12\t.\t.\t.\tNote=Interchain (with C-3)\n")
SPANS = [
    Span(0, 5, "signal peptide", "signal peptide", "1-5"), Span(5, 30, "zinc finger", "C2H2-type", "6-30"), Span(6, 7, "binding site", "Zn(2+)", "7-7"),
    Span(7, 8, "disulfide bond", "disulfide bond", "8-12"), Span(11, 12, "disulfide bond", "disulfide bond", "8-12"),
]


def read(path: Path, content: str | None = None, **settings: Any) -> ListCorpus:
    if content is not None:
        path.write_text(content, encoding="utf-8")
    return load_corpus(CorpusConfig.parse({"root": str(path), "kind": "protein", **settings}, "corpus"))


@pytest.mark.parametrize(("name", "content"), [
    ("a.dat", NEW_SYNTAX), ("a.json", json.dumps({"results": [JSON_ENTRY]})), ("a.tsv", TSV),
    ("a.gff3", f"{GFF3}##FASTA\n>P00001 x\n{SEQUENCE[:20]}\n{SEQUENCE[20:]}\n"),
])
def test_every_format_gives_the_same_residues_and_instances(tmp_path: Path, name: str, content: str) -> None:
    corpus = read(tmp_path / name, content, protein={"terms": ["organism", "keyword", "go", "ec"]})
    assert [(example.id, example.group, example.text) for example in corpus] == [("P00001", "P00001", SEQUENCE)]
    assert list(corpus[0].spans) == SPANS
    assert corpus.reading is not None
    assert corpus.reading.notes["features with an unknown end (?) left out"] == 2
    if name != "a.gff3":
        assert corpus.reading.notes["features on another sequence (an isoform) left out"] == 1
        assert corpus[0].labels == {"organism": "Homo sapiens", "keyword: Zinc": "yes", "keyword: Zinc-finger": "yes",
                                    "go: GO:0005634": "yes", "ec: 1.1.1.1": "yes"}


def test_the_second_level_and_a_choice_of_kinds(tmp_path: Path) -> None:
    corpus = read(tmp_path / "a.dat", NEW_SYNTAX, protein={"detail": True, "features": ["zinc finger"]})
    assert [span.value for span in corpus[0].spans] == ["C2H2-type 1; atypical"]
    with pytest.raises(ConfigError, match="zinc finger"):
        read(tmp_path / "a.dat", protein={"features": ["zink finger"]})


def test_gff3_beside_a_fasta(tmp_path: Path) -> None:
    (tmp_path / "a.gff3").write_text(GFF3)
    corpus = read(tmp_path / "a.fasta", f">sp|P00001|TEST_HUMAN Test OS=Homo sapiens OX=9606\n{SEQUENCE}\n", protein={"annotations": str(tmp_path / "a.gff3")})
    assert list(corpus[0].spans) == SPANS
    assert corpus[0].labels == {"organism": "Homo sapiens"}
    with pytest.raises(CorpusError, match="no ##FASTA part"):
        read(tmp_path / "a.gff3")


def test_spans_survive_saving(tmp_path: Path) -> None:
    corpus = read(tmp_path / "a.dat", NEW_SYNTAX)
    corpus.save(tmp_path / "corpus.parquet")
    again = ListCorpus.load(tmp_path / "corpus.parquet", corpus.origin)
    assert list(again[0].spans) == SPANS
    assert again.fingerprint() == corpus.fingerprint()


# Three lines.

THREE = ">1afo_A|P02724|GLPA_HUMAN\nMKTAYIAKQR\nSSU2HHHh11\n>P59899|EUKARYA|SP|0\nMKTAY\n11111\n"


def test_three_line_files_are_told_by_their_labels(tmp_path: Path) -> None:
    corpus = read(tmp_path / "a.fasta", THREE)
    assert [(span.start, span.end, span.name, span.value) for span in corpus[0].spans] == [
        (0, 2, "signal peptide", "signal peptide"), (2, 3, "unlabelled", "unlabelled"), (3, 4, "topological domain", "outside"),
        (4, 7, "transmembrane region", "helix"),
        (7, 8, "transmembrane region", "helix"), (8, 10, "topological domain", "inside")]
    assert corpus[1].spans == (), "a letter that covers the whole protein says nothing"
    assert corpus.reading is not None
    assert corpus.reading.notes["residues with the letter U, whose label is not known: unlabelled"] == 1


def test_three_line_faults(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="as many labels"):
        read(tmp_path / "a.3line", ">a\nMKTAY\n111\n")
    with pytest.raises(CorpusError, match="'Q' has no meaning"):
        read(tmp_path / "a.3line", ">a\nMKTAY\n111QQ\n")
    corpus = read(tmp_path / "a.3line", ">a\nMKTAY\niiMMM\n", protein={"letter_labels": {"i": "", "M": "membrane=yes"}})
    assert [(span.start, span.end, span.name) for span in corpus[0].spans] == [(2, 5, "membrane")]


def test_files_as_splits_and_excluded_ids(tmp_path: Path) -> None:
    folder = tmp_path / "folds"
    folder.mkdir()
    for number in range(3):
        (folder / f"cv_{number}.fasta").write_text(f">p{number}|x\nMKTAYIAKQR\nSSU2HHHH11\n>q{number}|x\nMKTAYIAKQK\nSSU2HHHH11\n")
    (tmp_path / "blacklist.txt").write_text(">q1|x\nnobody\n")
    corpus = read(folder, split="_file", held_out_values=["cv_2.fasta"], protein={"exclude_ids": str(tmp_path / "blacklist.txt")})
    train, held_out = corpus.split()
    assert [example.id for example in train] == ["p0", "q0", "p1"]
    assert [example.id for example in held_out] == ["p2", "q2"]
    assert corpus.reading is not None
    assert corpus.reading.notes["ids of corpus.protein.exclude_ids that no protein has"] == 1
    with pytest.raises(ConfigError, match="_file"):
        read(folder, split="fold")


# Bad input.

@pytest.mark.parametrize(("sequence", "why"), [
    ("MKT1AY", "'1' at residue 4"), ("MKT*AY", r"stop \(\*\) inside, at residue 4"),
    ("ACGT" * 20, "nucleotides"), ("---", "nothing is left"), ("", "empty"), ("MKÄ", "no amino acid"),
])
def test_what_is_no_protein_is_a_bad_row(tmp_path: Path, sequence: str, why: str) -> None:
    content = f">good\nMKTAY\n>bad\n{sequence}\n"
    with pytest.raises(CorpusError, match=why) as err:
        read(tmp_path / "a.fasta", content)
    assert "line 3 (bad)" in str(err.value)
    corpus = read(tmp_path / "a.fasta", on_bad_row="skip")
    assert [example.id for example in corpus] == ["good"]
    assert corpus.reading is not None
    assert corpus.reading.bad.n == 1


def test_repairs_are_counted_and_move_annotations(tmp_path: Path) -> None:
    (tmp_path / "a.gff3").write_text("a\t.\tZinc finger\t3\t6\t.\t.\t.\tNote=C2H2-type\na\t.\tMotif\t2\t3\t.\t.\t.\tNote=gone\n")
    corpus = read(tmp_path / "a.fasta", ">a\nm--Ktj.A*\n", protein={"annotations": str(tmp_path / "a.gff3")})
    assert corpus[0].text == "MKTXA"
    assert [(span.start, span.end, span.name) for span in corpus[0].spans] == [(1, 4, "zinc finger")]
    assert corpus.reading is not None
    assert {name.partition(": ")[2] for name in corpus.reading.notes} == {
        "lower case raised", "J (leucine or isoleucine) read as X", "gaps taken out", "stop at the end taken out"}
    with pytest.raises(CorpusError, match="repair = false"):
        read(tmp_path / "a.fasta", protein={"repair": False})


@given(st.text(st.sampled_from([*sorted(RESIDUES), "-", ".", *"acdj"]), max_size=30))
def test_every_kept_residue_keeps_its_letter(raw: str) -> None:
    try:
        cleaned = clean(raw, True)
    except BadValue:
        assert not raw.strip("-.")
        return
    for index, letter in enumerate(raw):
        start, end = cleaned.moved(index, index + 1)
        assert cleaned.text[start:end] == ("" if letter in "-." else letter.upper().replace("J", "X"))


def test_features_out_of_range_are_refused_or_counted(tmp_path: Path) -> None:
    (tmp_path / "a.gff3").write_text("a\t.\tHelix\t3\t9\t.\t.\t.\t.\na\t.\tHelix\t2\t4\t.\t.\t.\t.\nz\t.\tHelix\t2\t4\t.\t.\t.\t.\n")
    protein = {"annotations": str(tmp_path / "a.gff3")}
    with pytest.raises(CorpusError, match=r"helix 3\.\.9 lies outside its 5 residues"):
        read(tmp_path / "a.fasta", ">a\nMKTAY\n", protein=protein)
    corpus = read(tmp_path / "a.fasta", on_bad_row="skip", protein=protein)
    assert [(span.start, span.end) for span in corpus[0].spans] == [(1, 4)]
    assert corpus.reading is not None
    assert corpus.reading.notes["sequences that only corpus.protein.annotations names"] == 1


def test_obsolete_entries_are_counted_by_reason(tmp_path: Path) -> None:
    gone = {"entryType": "Inactive", "primaryAccession": "P99999", "inactiveReason": {"inactiveReasonType": "MERGED", "mergeDemergeTo": ["P00001"]}}
    corpus = read(tmp_path / "a.json", json.dumps([JSON_ENTRY, gone]))
    assert len(corpus) == 1
    assert corpus.reading is not None
    assert corpus.reading.notes["obsolete entries left out: P99999 (merged -> P00001)"] == 1


@pytest.mark.parametrize(("name", "content", "why"), [
    ("a.fasta", "", "no example"), ("a.fasta", "MKTAY\n", "before any header"), ("a.fasta", ">\nMKTAY\n", "names no id"),
    ("a.fasta", ">a\nMK\n>a\nMT\n", "'a'"), ("a.seq", "x", "ending"),
    ("a.tsv", "Entry\tLength\nP1\t3\n", "columns are Entry, Length"), ("a.json", "{", "not valid JSON"), ("a.dat", "ID   X\nnonsense\n//\n", "Biopython"),
])
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: str, why: str) -> None:
    with pytest.raises(CorpusError, match=why):
        read(tmp_path / name, content)


def test_without_biopython_flat_files_are_refused_with_the_command_that_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Bio", None)
    with pytest.raises(MissingExtraError, match=r"sparselight\[protein\]"):
        read(tmp_path / "a.dat", NEW_SYNTAX)
    assert len(read(tmp_path / "a.tsv", TSV)) == 1


def test_settings_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.fasta"
    path.write_text(">a\nMKTAY\n")
    for settings, why in (({"section_chars": 300}, "section_chars"), ({"protein": {"on_long": "crop"}}, "max_residues"),
                          ({"protein": {"clusters": "x", "cluster_identity": 0.5}}, "cluster")):
        with pytest.raises(ConfigError, match=why):
            read(path, **settings)
    with pytest.raises(ConfigError, match=r"corpus\.protein"):
        load_corpus(CorpusConfig.parse({"root": str(path), "kind": "text", "protein": {"detail": True}}, "corpus"))
    with pytest.raises(CorpusError, match=r"corpus\.protein\.exclude_ids"):
        read(path, protein={"exclude_ids": str(tmp_path / "nowhere")})


# Lengths and kinds.

def test_long_proteins(tmp_path: Path) -> None:
    (tmp_path / "a.gff3").write_text("a\t.\tHelix\t7\t12\t.\t.\t.\t.\n")
    beside = {"annotations": str(tmp_path / "a.gff3"), "max_residues": 8}
    windows = read(tmp_path / "a.fasta", f">a\n{SEQUENCE[:20]}\n>b\nMKT\n", protein=beside)
    assert [(piece.id, piece.group, len(piece.text)) for piece in windows] == [("a#0", "a", 8), ("a#1", "a", 8), ("a#2", "a", 4), ("b", "b", 3)]
    assert [(span.start, span.end, span.instance) for piece in windows for span in piece.spans] == [(6, 8, "7-12"), (0, 4, "7-12")]
    cropped = read(tmp_path / "a.fasta", protein={**beside, "on_long": "crop"})
    assert [(piece.id, len(piece.text)) for piece in cropped] == [("a", 8), ("b", 3)]
    skipped = read(tmp_path / "a.fasta", protein={**beside, "on_long": "skip"})
    assert [piece.id for piece in skipped] == ["b"]
    assert skipped.reading is not None
    assert skipped.reading.notes["proteins of more than 8 residues left out (corpus.protein.max_residues)"] == 1


def test_endings_say_the_kind(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.fasta.gz", "wt") as handle:
        handle.write(">a\nMKTAY\n")
    (tmp_path / "swiss.dat").write_text(flat_entry("P00001"))
    (tmp_path / "ratings.dat").write_text("1::2::3::4\n")
    kinds = [CorpusConfig.parse({"root": str(tmp_path / name)}, "corpus").kind for name in ("a.fasta.gz", "swiss.dat", "ratings.dat")]
    assert kinds == ["protein", "protein", "interactions"]
    assert read(tmp_path / "a.fasta.gz")[0].text == "MKTAY"


# Real files.

@pytest.mark.skipif(not (DATA / "emboss_swissprot").is_dir(), reason="needs the Swiss-Prot sample in ../shared/data")
def test_real_swiss_prot_entries() -> None:
    corpus = load_corpus(CorpusConfig.parse({"root": str(DATA / "emboss_swissprot" / "seq.dat")}, "corpus"))
    counts: dict[str, set[tuple[str, str, str]]] = {}
    for example in corpus:
        for span in example.spans:
            counts.setdefault(span.name, set()).add((example.id, span.value, span.instance))
    assert len(corpus) == 100
    assert (len(counts["transmembrane region"]), len(counts["topological domain"]), len(counts["helix"]), len(counts["zinc finger"])) == (125, 142, 257, 1)


@pytest.mark.skipif(not (DATA / "tmbed").is_dir(), reason="needs TMbed's data in ../shared/data")
def test_real_tmbed_fold() -> None:
    corpus = load_corpus(CorpusConfig.parse({"root": str(DATA / "tmbed" / "beta.fasta")}, "corpus"))
    letters = sum(span.end - span.start for example in corpus for span in example.spans if span.value == "beta strand")
    lines = (DATA / "tmbed" / "beta.fasta").read_text().split("\n")[2::3]
    assert letters == sum(line.count("B") + line.count("b") for line in lines) > 1000
