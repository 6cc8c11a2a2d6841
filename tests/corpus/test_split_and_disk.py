"""Explicit splits, corpora on disk, provenance: nothing leaks, nothing grows with the text, a changed file is noticed."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sparselight.corpus import CorpusConfig, ListCorpus, corpus_record, load_corpus, source_fingerprint
from sparselight.corpus.arrow import BATCH, SpooledExamples
from sparselight.errors import CorpusError, StoreError
from sparselight.protocols import Example
from sparselight.records import CorpusRecord

ROWS = [{"id": f"d{number}", "text": f"{name} is text {number}", "who": f"p{number // 3}", "part": "dev" if number // 3 == 2 else "main",
         "topic": "ab"[number % 2]} for number, name in enumerate(["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal", "ivy", "jon", "kim", "lea"])]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def config(path: Path, **settings: Any) -> CorpusConfig:
    return CorpusConfig.parse({"root": str(path), "id": "id", "labels": ["topic"], **settings}, "corpus")


def test_the_split_column_decides(path: Path) -> None:
    corpus = load_corpus(config(path, group="who", split="part"))
    train, held_out = corpus.split(0.9, seed=5)
    assert [example.id for example in held_out] == ["d6", "d7", "d8"]
    assert not set(train.groups()) & set(held_out.groups())
    other = load_corpus(config(path, split="who", held_out_values=["p0", "p3"])).split()[1]
    assert {example.id for example in other} == {"d0", "d1", "d2", "d9", "d10", "d11"}


def test_a_split_that_divides_a_group_is_refused(path: Path) -> None:
    with pytest.raises(CorpusError, match=r"the group 'p0' would be on both sides \('d0' in train, 'd1' held out\)"):
        load_corpus(config(path, group="who", split="topic", held_out_values=["b"])).split()
    with pytest.raises(CorpusError, match="one side would be empty"):
        load_corpus(config(path, split="part", held_out_values=["nothing"])).split()
    with pytest.raises(CorpusError, match="'p2' is a seed of the selection"):
        load_corpus(config(path, group="who", split="part")).split(always_train=["p*"])


def test_a_split_that_divides_near_duplicates_is_refused(path: Path) -> None:
    rows = [{**row, "text": "the same text twice"} if row["id"] in ("d0", "d7") else row for row in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grouped = config(path, split="part", dedup="exact", dedup_action="group")
    with pytest.raises(CorpusError, match=r"'d0' would be on both sides"):
        load_corpus(grouped).split()
    assert len(load_corpus(config(path, split="part", dedup="exact")).split()[1]) == 2


def test_held_out_ids(path: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("d1\n\np3\n")
    corpus = load_corpus(config(path, group="who", held_out_ids=str(tmp_path / "ids.txt"), section_chars=None))
    with pytest.raises(CorpusError, match="'p0' would be on both sides"):
        corpus.split()
    (tmp_path / "ids.txt").write_text("p3\n")
    held_out = load_corpus(config(path, group="who", held_out_ids=str(tmp_path / "ids.txt"))).split()[1]
    assert [example.id for example in held_out] == ["d9", "d10", "d11"]
    (tmp_path / "ids.txt").write_text("p3\np99\n")
    with pytest.raises(CorpusError, match="'p99'.*no example or group has that name"):
        load_corpus(config(path, held_out_ids=str(tmp_path / "ids.txt"), group="who"))


def test_max_examples_is_a_seeded_draw_in_corpus_order(path: Path) -> None:
    draw = [example.id for example in load_corpus(config(path, max_examples=5, seed=1))]
    assert draw == [example.id for example in load_corpus(config(path, max_examples=5, seed=1, in_memory=False))]
    assert draw == sorted(draw, key=lambda name: int(name[1:]))
    assert draw != [example.id for example in load_corpus(config(path, max_examples=5, seed=2))]
    assert len(load_corpus(config(path, max_examples=500))) == 12


def test_disk_and_memory_are_the_same_corpus(path: Path, tmp_path: Path) -> None:
    settings = {"group": "who", "split": "part", "dedup": "exact", "dedup_action": "group"}
    memory, disk = (load_corpus(config(path, in_memory=kept, **settings)) for kept in (True, False))
    assert isinstance(disk.examples, SpooledExamples)
    assert list(memory) == list(disk)
    assert list(memory.examples[3:6]) == list(disk.examples[3:6])
    assert memory.fingerprint() == disk.fingerprint()
    assert [side.fingerprint() for side in memory.split()] == [side.fingerprint() for side in disk.split()]
    disk.save(tmp_path / "saved.parquet")
    again = ListCorpus.load(tmp_path / "saved.parquet", "disk")
    assert list(again) == list(memory)
    assert again.fingerprint() == memory.fingerprint()
    assert [side.fingerprint() for side in again.split()] == [side.fingerprint() for side in memory.split()]


def test_a_large_saved_corpus_stays_on_disk(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load_corpus(config(path))
    corpus.save(tmp_path / "saved.parquet")
    monkeypatch.setattr("sparselight.corpus.base.SPOOL_BYTES", 1)
    again = ListCorpus.load(tmp_path / "saved.parquet", "disk")
    assert isinstance(again.examples, SpooledExamples)
    assert again.fingerprint() == corpus.fingerprint()


def test_threads_that_look_at_other_parts_of_a_corpus_on_disk_do_not_meet() -> None:
    class Shared(SpooledExamples):
        """Another thread comes to the last example whenever somebody has come to the first ones."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_mapped" and value is not None and value[0] == 0:
                self[len(self) - 1]

    examples = [Example(f"d{number}", f"text {number}", "g") for number in range(BATCH + 9)]
    assert Shared.write(examples)[3] == examples[3]


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    file = tmp_path / "large.jsonl"
    with file.open("w") as handle:
        for number in range(2000):
            handle.write(json.dumps({"text": f"{number} " + "many words " * 1800}) + "\n")
    tracemalloc.start()
    try:
        corpus = load_corpus(CorpusConfig(root=str(file), in_memory=False))
        train, held_out = corpus.split()
        fingerprint = train.fingerprint()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 39e6
    assert peak < 16e6  # a batch of 256 texts is 5 MB, and Python holds it twice while it is written
    assert len(train) + len(held_out) == 2000
    assert fingerprint == load_corpus(CorpusConfig(root=str(file))).split()[0].fingerprint()


def test_a_full_disk_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.ipc.new_file", full)
    with pytest.raises(StoreError, match="the disk is full"):
        load_corpus(config(path, in_memory=False))


def test_fingerprints_follow_files_and_settings(path: Path, tmp_path: Path) -> None:
    first, source = load_corpus(config(path)).fingerprint(), source_fingerprint(config(path))
    assert load_corpus(config(path)).fingerprint() == first
    assert source_fingerprint(config(path)) == source
    moved = tmp_path / "elsewhere" / "rows.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    assert load_corpus(config(moved)).fingerprint() == first
    assert load_corpus(config(path, labels=[])).fingerprint() != first
    assert load_corpus(config(path, seed=3, held_out_frac=0.5)).fingerprint() == first
    path.write_text(path.read_text().replace('"part": "main"', '"part": "else"'))  # a column that is not read
    assert load_corpus(config(path)).fingerprint() != first
    assert source_fingerprint(config(path)) != source


def test_the_record_tells_what_was_read(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text() + '{"id": "bad"}\n')
    record = corpus_record(config(path, group="who", split="part", on_bad_row="skip", dedup="exact"))
    record.save(tmp_path / "corpus.json")
    assert CorpusRecord.load(tmp_path / "corpus.json") == record
    assert (record.n_examples, record.n_groups, record.n_held_out, record.n_bad_rows) == (12, 4, 3, 1)
    assert record.bad_rows[0].where == "rows.jsonl, line 13"
    assert [(label.name, label.n, label.n_values) for label in record.labels] == [("topic", 12, 2)]
    assert record.settings == {"kind": "jsonl", "id": "id", "labels": ["topic"], "group": "who", "split": "part", "on_bad_row": "skip", "dedup": "exact"}
    assert (record.sources[0].name, record.sources[0].n_bytes) == ("rows.jsonl", path.stat().st_size)


@pytest.mark.parametrize(("documents", "settings", "expected"), [
    ("file", {}, [("a.txt#0", "# One\nx\n\ny\n# Two\nz\n")]), ("block", {}, [("a.txt:1#0", "# One\nx\n"), ("a.txt:4#0", "y\n# Two\nz\n")]),
    ("line", {}, [("a.txt:1#0", "# One"), ("a.txt:2#0", "x"), ("a.txt:4#0", "y"), ("a.txt:5#0", "# Two"), ("a.txt:6#0", "z")]),
    ("heading", {"heading": "# "}, [("a.txt:1#0", "# One\nx\n\ny\n"), ("a.txt:5#0", "# Two\nz\n")]),
])
def test_documents_of_a_text_file(documents: str, settings: dict[str, Any], expected: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# One\r\nx\n\ny\n# Two\nz\n", newline="")
    corpus = load_corpus(CorpusConfig.parse({"root": str(tmp_path / "a.txt"), "documents": documents, **settings}))
    assert [(example.id, example.text) for example in corpus] == expected
    assert all(example.group == example.id.removesuffix("#0") for example in corpus)


def test_a_heading_that_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CorpusError, match=r"corpus.heading.*no regular expression"):
        load_corpus(CorpusConfig(root=str(tmp_path / "a.txt"), documents="heading", heading="("))
