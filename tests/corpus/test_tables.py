"""Tables as corpora: every text comes back as it was written, columns are found by name, a bad row is named by file and line."""

import csv
import gzip
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
from sparselight.errors import ConfigError, CorpusError

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=8)


def read(path: Path, **settings: Any) -> ListCorpus:
    return load_corpus(CorpusConfig.parse({"root": str(path), **settings}, "corpus"))


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="")
    return path


def write_csv(path: Path, header: list[str], rows: list[list[str]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, delimiter=delimiter).writerows([header, *rows])
    return path


@settings(max_examples=40, deadline=None)
@given(TEXTS)
def test_every_text_comes_back_from_every_table(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [{"text": text, "n": number} for number, text in enumerate(texts)]
        paths = [
            write_jsonl(folder / "a.jsonl", rows), write_csv(folder / "a.csv", ["n", "text"], [[str(row["n"]), row["text"]] for row in rows]),
            write_csv(folder / "a.tsv", ["text", "n"], [[row["text"], str(row["n"])] for row in rows], "\t"),
        ]
        (folder / "a.json").write_text(json.dumps(rows), encoding="utf-8")
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
        for path in [*paths, folder / "a.json", folder / "a.parquet"]:
            for in_memory in (True, False):
                corpus = read(path, id="n", in_memory=in_memory)
                assert [example.text for example in corpus] == texts, path.suffix
                assert [example.id for example in corpus] == [str(number) for number in range(len(texts))]


def test_columns_by_name(tmp_path: Path) -> None:
    rows = [{"uid": 7, "meta": {"title": "One", "year": 1999}, "body": "first", "who": "ann", "ok": True, "none": None},
            {"uid": 8, "meta": {"title": "Two", "year": 2001}, "body": "", "who": "bob", "ok": False, "none": None}]
    path = write_jsonl(tmp_path / "notes.jsonl", rows)
    corpus = read(path, text=["meta.title", "body"], id="uid", group="who", labels={"year": "meta.year", "ok": "ok", "none": "none"})
    assert [example.text for example in corpus] == ["One\n\nfirst", "Two"]
    assert (corpus[0].id, corpus[0].group, corpus[0].labels) == ("7", "ann", {"year": "1999", "ok": "true"})
    assert corpus[1].labels["ok"] == "false"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "notes.parquet")
    other = read(tmp_path / "notes.parquet", text=["meta.title", "body"], id="uid", group="who", labels={"year": "meta.year", "ok": "ok", "none": "none"})
    assert list(other) == list(corpus)


def test_ids_without_a_column_are_the_place(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_jsonl(tmp_path / "sub" / "b.jsonl", [{"text": "one"}])
    (tmp_path / "a.jsonl").write_text('\ufeff{"text": "uno"}\n\n{"text": "line\u2028separator"}\r\n', encoding="utf-8", newline="")
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as handle:
        handle.write('{"text": "zipped"}')
    corpus = read(tmp_path, kind="jsonl", group="_file")
    assert [(example.id, example.group) for example in corpus] == [
        ("a.jsonl:1", "a.jsonl"), ("a.jsonl:3", "a.jsonl"), ("c.jsonl.gz:1", "c.jsonl.gz"), ("sub/b.jsonl:1", "sub/b.jsonl")]
    assert [example.text for example in corpus] == ["uno", "line\u2028separator", "zipped", "one"]


def test_csv_lines_are_physical_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufefftext,n\r\n"two\r\nlines, ""quoted""",1\r\n\r\nlast,2\r\n', encoding="utf-8", newline="")
    assert [(example.id, example.text) for example in read(tmp_path / "a.csv")] == [("a.csv:2", 'two\r\nlines, "quoted"'), ("a.csv:5", "last")]
    (tmp_path / "b.tsv").write_text('text\tn\n5" disk\t1\n', encoding="utf-8")
    assert read(tmp_path / "b.tsv", quote="")[0].text == '5" disk'


def test_json_of_splits_and_pairs(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"train": [["hello", "greet"], ["bye", "leave"]], "test": [["hi", "greet"]]}))
    corpus = read(tmp_path / "a.json", text="0", labels={"intent": "1"}, split="_split")
    train, held_out = corpus.split()
    assert [example.text for example in train] == ["hello", "bye"]
    assert [(example.text, example.labels) for example in held_out] == [("hi", {"intent": "greet"})]


def test_long_texts_are_cut_in_one_group(tmp_path: Path) -> None:
    corpus = read(write_jsonl(tmp_path / "a.jsonl", [{"text": "A paragraph.\n\n" * 40}, {"text": "short"}]), section_chars=200)
    assert [example.id for example in corpus] == [*(f"a.jsonl:1#{number}" for number in range(len(corpus) - 1)), "a.jsonl:2"]
    assert "".join(example.text for example in corpus if example.group == "a.jsonl:1") == "A paragraph.\n\n" * 40


BAD = [
    ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', "a.jsonl, line 2: it is not valid JSON (Expecting ',' delimiter, column 1"),
    ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2: it is a JSON list, not an object"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', "line 2: it is not UTF-8 text (byte 13 of the line, 27 of the file)"),
    ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "line 2: it has no field 'text', only 'txt'"),
    ("a.jsonl", b'{"text": "a"}\n{"text": 5}\n', "line 2: the field 'text' is 5, not text"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "  "}\n', "line 2: its text is empty"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2: it holds half of a surrogate pair"),
    ("a.csv", b"text,n\na,1\nb\n", "a.csv, line 3: it has 1 fields, the header has 2"),
    ("a.csv", b"text,n\na,1\n\"b\"x,1\n", "line 3: "),
    ("a.csv", b"text,n\na,1\ncaf\xe9,1\n", "line 3: it is not UTF-8 text (byte 3 of line 3, 14 of the file)"),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD)
def test_a_bad_row_is_refused_by_place_or_counted(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError) as refused:
        read(tmp_path / name)
    assert words in str(refused.value)
    corpus = read(tmp_path / name, on_bad_row="skip")
    assert [example.text for example in corpus] == ["a"]
    assert corpus.reading is not None
    assert corpus.reading.bad.n == 1
    assert words in f"{corpus.reading.bad.shown[0].where}: {corpus.reading.bad.shown[0].why}"


def test_a_bad_value_is_named_with_its_setting(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "id": None, "tags": ["x"], "g": 1.5}])
    for settings_, words in (({"id": "id"}, "its id is missing (corpus.id = 'id')"), ({"group": "g"}, "its group is 1.5, neither text nor a whole number"),
                             ({"labels": ["tags"]}, "the field 'tags' is ['x']")):
        with pytest.raises(CorpusError) as refused:
            read(path, **settings_)
        assert words in str(refused.value)


def test_a_repeated_id_is_refused_or_left_out(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "id": 1}, {"text": "b", "id": 2}, {"text": "c", "id": 1}])
    with pytest.raises(CorpusError, match="'1' .*: an earlier example has that id"):
        read(path, id="id")
    assert [example.text for example in read(path, id="id", on_bad_row="skip")] == ["a", "b"]


WHOLE_FILE = [
    ("a.csv", b"text,n\na,1\n\"b,1\nc,1\n", "line 3.*never closed"), ("a.csv", b"", "names no column"), ("a.csv", b"text,text\na,b\n", "'text' occurs twice"),
    ("a.csv", b"txt,n\na,b\n", "its columns are txt, n"), ("a.json", b"{", "not valid JSON"), ("a.json", b'{"a": 1}', "holds a number where rows"),
    ("a.parquet", b"PAR1 no", "no readable Parquet"), ("a.jsonl.gz", b"no gzip", "damaged gzip"), ("a.jsonl", b"", "holds no example"),
]


@pytest.mark.parametrize(("name", "content", "words"), WHOLE_FILE)
def test_a_file_that_cannot_be_read_is_refused_whatever_the_policy(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=words):
        read(tmp_path / name, on_bad_row="skip")


def test_parquet_with_bad_text(tmp_path: Path) -> None:
    column = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xff\xfe")])
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a.parquet, row 2: it holds text that is not UTF-8"):
        read(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="its columns are text"):
        read(tmp_path / "a.parquet", text="body")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_may_begin_with_an_underscore(suffix: str, tmp_path: Path) -> None:
    if suffix == ".csv":
        write_csv(tmp_path / "a.csv", ["_id", "text"], [["x", "a"]])
    else:
        pq.write_table(pa.table({"_id": ["x"], "text": ["a"]}), tmp_path / "a.parquet")
    assert read(tmp_path / f"a{suffix}", id="_id", group="_file")[0].id == "x"
    with pytest.raises(CorpusError, match="'_no' .*its columns are _id, text"):
        read(tmp_path / f"a{suffix}", id="_no")


def test_a_label_that_no_row_has_is_a_mistake(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "topic": "x"}])
    with pytest.raises(CorpusError, match="no row has the field 'topc'"):
        read(path, labels=["topc"])


SETTINGS = [
    ({"kind": "text", "id": "uid"}, "corpus.id.*a corpus of kind text does not use it"), ({"kind": "jsonl", "documents": "line"}, "corpus.documents"),
    ({"kind": "text", "documents": "heading"}, "corpus.documents.*needs corpus.heading"), ({"kind": "jsonl", "dedup_action": "group"}, "corpus.dedup_action"),
    ({"kind": "jsonl", "held_out_values": ["x"]}, "corpus.held_out_values.*corpus.split"), ({"kind": "jsonl", "streaming": True}, "corpus.streaming"),
    ({"kind": "jsonl", "split": "s", "held_out_ids": "ids.txt"}, "corpus.held_out_ids"), ({"kind": "parquett"}, "corpus.kind"),
]


@pytest.mark.parametrize(("settings_", "words"), SETTINGS)
def test_a_setting_that_would_be_ignored_is_refused(settings_: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, **settings_)


@pytest.mark.parametrize(("root", "kind"), [
    ("a/b.jsonl.gz", "jsonl"), ("B.CSV", "csv"), ("hf://x:y", "hf_dataset"), ("notes.md", "text"), ("stdlib", "python_source"), ("a.conll", "conll"),
    ("folder", "python_source"),
])
def test_the_ending_says_the_kind(root: str, kind: str) -> None:
    assert CorpusConfig.parse({"root": root}).kind == CorpusConfig(root=root).kind == kind


@pytest.mark.parametrize(("files", "kind"), [
    ({"a.txt": "one", "b.md": "two", "setup.py": "x = 1"}, "text"), ({"a.py": "x = 1", "b.py": "y = 2", "README.md": "r"}, "python_source"),
    ({"deep/a.jsonl": '{"text": "one"}'}, "jsonl"), ({"a.txt": "Ann went", "a.ann": "T1\tPER 0 3\tAnn"}, "brat"), ({"a.bin": "?"}, "python_source"),
])
def test_the_kind_of_a_folder_is_that_of_most_of_its_files(tmp_path: Path, files: dict[str, str], kind: str) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert CorpusConfig.parse({"root": str(tmp_path)}, "corpus").kind == kind
    assert CorpusConfig.parse({"root": str(tmp_path), "kind": "csv"}, "corpus").kind == "csv"
