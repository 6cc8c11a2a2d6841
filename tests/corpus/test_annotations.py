"""Annotations: offsets are characters whatever the script, a wrong one is refused with its value, BRAT and CoNLL mean what their makers meant."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselight.corpus import CorpusConfig, ListCorpus, load_corpus
from sparselight.corpus.conll import tag_spans
from sparselight.errors import CorpusError
from sparselight.protocols import Span

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=2, max_size=40).filter(str.strip)


def read(path: Path, **settings: Any) -> ListCorpus:
    return load_corpus(CorpusConfig.parse({"root": str(path), **settings}, "corpus"))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = {".csv": ",", ".tsv": "\t"}[path.suffix]
        path.write_text("\n".join([separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)]) + "\n", encoding="utf-8")
    return path


@settings(max_examples=60, deadline=None)
@given(TEXT, st.data())
def test_spans_survive_reading_cutting_and_saving(text: str, data: st.DataObject) -> None:
    text = text * 12  # long enough to be cut
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "a.jsonl", [{"id": "x", "text": text}])
        table = write_rows(folder / "spans.parquet", [{"id": "x", "start": start, "end": end, "name": "kind", "value": "v"}])
        whole = read(folder / "a.jsonl", id="id", spans=str(table))
        assert [whole[0].text[span.start:span.end] for span in whole[0].spans] == [text[start:end]]
        cut = read(folder / "a.jsonl", id="id", spans=str(table), section_chars=200)
        cut.save(folder / "saved" / "cut.parquet")
        again = ListCorpus.load(folder / "saved" / "cut.parquet", "disk")
        assert "".join(example.text[span.start:span.end] for example in again for span in example.spans) == text[start:end]
        assert again.fingerprint() == cut.fingerprint()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_spans_and_labels_from_every_table(suffix: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"id": 1, "text": "Zoë met Bob"}, {"id": 2, "text": "nobody"}])
    spans = write_rows(tmp_path / f"spans{suffix}", [
        {"id": "1", "start": 8, "end": 11, "name": "entity", "value": "person"}, {"id": "1", "start": 0, "end": 3, "name": "entity", "value": "person"},
        {"id": "1", "start": 0, "end": 11, "name": "clause", "value": "main"}])
    labels = write_rows(tmp_path / f"labels{suffix}", [{"id": "2", "name": "topic", "value": "none"}])
    corpus = read(path, id="id", spans=str(spans), example_labels=str(labels))
    assert [(corpus[0].text[span.start:span.end], span.name) for span in corpus[0].spans] == [("Zoë", "entity"), ("Zoë met Bob", "clause"), ("Bob", "entity")]
    assert (corpus[1].labels, corpus[1].spans) == ({"topic": "none"}, ())


@pytest.mark.parametrize(("row", "words"), [
    ({"id": "1", "start": 0, "end": 99}, "the span 0 to 99 (entity = 'v') is empty or outside the text of '1', which has 3 characters"),
    ({"id": "1", "start": 2, "end": 2}, "the span 2 to 2"), ({"id": "1", "start": -1, "end": 2}, "the span -1 to 2"),
    ({"id": "77", "start": 0, "end": 1}, "no example has the id '77'"), ({"id": "1", "start": "one", "end": 2}, "its start is 'one', not a whole number"),
])
def test_a_wrong_span_is_refused_with_its_value(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"id": 1, "text": "abc"}])
    table = write_rows(tmp_path / "spans.jsonl", [{**row, "name": "entity", "value": "v"}])
    with pytest.raises(CorpusError) as refused:
        read(path, id="id", spans=str(table))
    assert words in str(refused.value)
    assert "spans.jsonl, line 1" in str(refused.value)
    corpus = read(path, id="id", spans=str(table), on_bad_row="skip")
    assert corpus.reading is not None
    assert (corpus[0].spans, corpus.reading.bad.n) == ((), 1)


def test_faults_of_annotation_tables(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"id": 1, "text": "abc"}])
    with pytest.raises(CorpusError, match=r"corpus.spans.*no such file"):
        read(path, spans=str(tmp_path / "no.csv"))
    (tmp_path / "spans.xml").write_text("<a/>")
    with pytest.raises(CorpusError, match="its ending is none of"):
        read(path, spans=str(tmp_path / "spans.xml"))
    table = write_rows(tmp_path / "labels.csv", [{"id": "a.jsonl:1", "name": "t", "value": "x"}, {"id": "a.jsonl:1", "name": "t", "value": "y"}])
    with pytest.raises(CorpusError, match="has the label t = 'x' already, and here 'y'"):
        read(path, example_labels=str(table))


# BRAT

BRAT_TEXT = "Zoë Müller and Bob\nwork at ACME.\r\nEnd"


@pytest.fixture
def brat(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one.txt").write_text(BRAT_TEXT, encoding="utf-8", newline="")
    (tmp_path / "sub" / "one.ann").write_text(
        "T1\tPerson 0 10\tZoë Müller\nT2\tPerson 15 18\tBob\nT3\tPair 0 3;15 18\tZoë Bob\nT4\tPlace 15 23\tBob work\nT5\tEnd 34 37\tEnd\n"
        "R1\tWorks Arg1:T1 Arg2:T4\nA1\tSure T1\nA2\tSure T2\n#1\tNote T1\thello\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("plain")
    return tmp_path


def test_brat(brat: Path) -> None:
    corpus = read(brat, kind="brat")
    one, two = corpus
    assert (one.id, one.group, one.text, two.spans) == ("sub/one", "sub/one", BRAT_TEXT, ())
    assert sorted((span.value, one.text[span.start:span.end]) for span in one.spans) == [
        ("End", "End"), ("Pair", "Bob"), ("Pair", "Zoë"), ("Person", "Bob"), ("Person", "Zoë Müller"), ("Place", "Bob\nwork")]
    assert corpus.reading is not None
    assert dict(corpus.reading.notes) == {
        "BRAT relations left aside": 1, "BRAT attributes left aside": 2, "BRAT notes left aside": 1, "texts without an .ann file": 1}
    assert read(brat / "sub" / "one.ann", kind="brat", span_name="ner")[0].spans[0].name == "ner"


@pytest.mark.parametrize(("line", "words"), [
    ("T1\tPerson 1 12\tZoë Müller", "T1 (Person at 1 12) says 'Zoë Müller' where the text has"), ("T1\tPerson 0 999\tZoë", "outside the text"),
    ("T1\tPerson 5 5\t", "empty or outside"), ("T1 Person 0 3 Zoë", "not of the form"), ("X1\twhat", "no line of BRAT's"),
])
def test_a_wrong_brat_line_is_refused(line: str, words: str, brat: Path) -> None:
    (brat / "sub" / "one.ann").write_text(f"T9\tPerson 0 3\tZoë\n{line}\n", encoding="utf-8")
    with pytest.raises(CorpusError) as refused:
        read(brat, kind="brat")
    assert words in str(refused.value)
    assert "sub/one.ann, line 2" in str(refused.value)
    assert len(read(brat, kind="brat", on_bad_row="skip")[0].spans) == 1


def test_annotations_without_text_are_refused(brat: Path) -> None:
    (brat / "three.ann").write_text("")
    with pytest.raises(CorpusError, match=r"three.ann.*no .txt of that name"):
        read(brat, kind="brat")


# CoNLL

CONLL = """-DOCSTART- -X- O

U.N. NNP B-ORG
official NN O
Zoë NNP B-PER
Müller NNP I-PER
heads VB O
Baghdad NNP S-LOC
. . O

# text = ignored
# NN O

-DOCSTART- -X- O

New NNP I-LOC
York NNP I-LOC
Boston NNP B-LOC
"""


def test_conll(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL, encoding="utf-8")
    corpus = read(tmp_path / "a.conll")
    assert [example.text for example in corpus] == ["U.N. official Zoë Müller heads Baghdad .", "#", "New York Boston"]
    assert [example.group for example in corpus] == ["a.conll:document 1", "a.conll:document 1", "a.conll:document 2"]
    assert [[(example.text[span.start:span.end], span.value) for span in example.spans] for example in corpus] == [
        [("U.N.", "ORG"), ("Zoë Müller", "PER"), ("Baghdad", "LOC")], [], [("New York", "LOC"), ("Boston", "LOC")]]
    assert corpus[0].spans[0].name == "entity"


@pytest.mark.parametrize(("tags", "spans"), [
    ("B-A I-A E-A", [(0, 2, "A")]), ("B-A I-B", [(0, 0, "A"), (1, 1, "B")]), ("S-A S-A", [(0, 0, "A"), (1, 1, "A")]),
    ("B-A L-A U-A O", [(0, 1, "A"), (2, 2, "A")]),
    ("I-A I-A B-A I-A", [(0, 1, "A"), (2, 3, "A")]), ("O O", []), ("B-A E-A I-A", [(0, 1, "A"), (2, 2, "A")]), ("O B-A", [(1, 1, "A")]),
])
def test_tag_schemes(tags: str, spans: list[tuple[int, int, str]]) -> None:
    pairs = [("O", "") if tag == "O" else (tag[0], tag[2:]) for tag in tags.split()]
    assert list(tag_spans(pairs)) == spans


TOKEN = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TOKEN, st.sampled_from(["", "A", "B"])), min_size=1, max_size=8))
def test_conll_round_trip(tokens: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.conll"
        path.write_text("".join(f"{token}\t{f'S-{kind}' if kind else 'O'}\n" for token, kind in tokens), encoding="utf-8", newline="")
        example, = read(path)
        assert example.text == " ".join(token for token, _ in tokens)
        assert [example.text[span.start:span.end] for span in example.spans] == [token for token, kind in tokens if kind]


@pytest.mark.parametrize(("line", "words"), [("word X-PER", "the tag 'X-PER' is none of"), ("word", "one column only")])
def test_a_wrong_conll_line_is_refused(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(f"one O\n\ntwo O\n{line}\n")
    with pytest.raises(CorpusError) as refused:
        read(tmp_path / "a.conll")
    assert "a.conll, line 4" in str(refused.value)
    assert words in str(refused.value)
    assert [example.text for example in read(tmp_path / "a.conll", on_bad_row="skip")] == ["one"]


def test_texts_in_memory() -> None:
    corpus = ListCorpus.from_texts(["ab", "cd"], labels={"topic": ["x", ""]}, groups=["g", "g"], spans=[[Span(0, 1, "n", "v")], []])
    assert (corpus[0].labels, corpus[1].labels, corpus.groups(), corpus[0].spans[0].end) == ({"topic": "x"}, {}, ["g"], 1)
    for wrong, words in (({"labels": {"topic": ["x"]}}, r"labels\['topic'\] has 1 entries"), ({"ids": ["1", "1"]}, "'1' occurs twice"),
                         ({"spans": [[Span(0, 3, "n", "v")], []]}, "has 2 characters")):
        with pytest.raises(CorpusError, match=words):
            ListCorpus.from_texts(["ab", "cd"], **wrong)  # type: ignore[arg-type]
