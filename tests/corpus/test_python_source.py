"""Reading Python source: sections cover the text exactly, labels stand on the right characters, faults are named."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselight.corpus import CorpusConfig, PythonSource, load_corpus, source_fingerprint
from sparselight.corpus.python_source import cut_sections, module_name, token_class_spans
from sparselight.errors import CorpusError

SOURCE = '''"""Module doc."""
import os  # the system


class Keeper:
    """Keeps a secret."""

    def reveal(self, times=2):
        return "secret" * times
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pack" / "test").mkdir(parents=True)
    (tmp_path / "pack" / "__init__.py").write_text(SOURCE)
    (tmp_path / "pack" / "keeper.py").write_text(SOURCE * 3)
    (tmp_path / "pack" / "test" / "test_keeper.py").write_text(SOURCE)
    (tmp_path / "table.py").write_text("DATA = (" + "0x1f, " * 500 + ")\n")
    return tmp_path


@given(st.text(alphabet="ab \n\t#\x0c\r", max_size=400), st.integers(5, 60))
def test_sections_cover_the_text_exactly(text: str, max_chars: int) -> None:
    sections = cut_sections(text, max_chars)
    assert "".join(text[start:end] for start, end in sections) == text
    assert all(0 < end - start <= max_chars for start, end in sections)


def test_sections_end_at_top_level_statements() -> None:
    text = "def one():\n    pass\n\ndef two():\n    pass\n\ndef three():\n    pass\n"
    assert next(text[start:end] for start, end in cut_sections(text, 30)) == "def one():\n    pass\n\n"


def test_token_classes_stand_on_their_characters() -> None:
    found = {(SOURCE[span.start:span.end], span.value) for span in token_class_spans(SOURCE)}
    for expected in [("import", "keyword"), ("os", "name"), ("# the system", "comment"), ('"""Keeps a secret."""', "docstring"), ('"secret"', "string"),
                     ("*", "operator"), ("2", "number"), ("Keeper", "name")]:
        assert expected in found


def test_form_feeds_do_not_shift_labels() -> None:
    text = "import os\n\x0c\nimport sys\n"
    assert [text[span.start:span.end] for span in token_class_spans(text)] == ["import", "os", "import", "sys"]


def test_f_strings_are_strings_in_every_python() -> None:
    text = 'x = f"ab{{{y}c"\n'
    labels = {text[span.start:span.end]: span.value for span in token_class_spans(text)}
    assert all(value == "string" for found, value in labels.items() if "ab" in found or found == "c")


def test_a_source_that_python_refuses_keeps_the_labels_before_the_fault() -> None:
    spans = token_class_spans("import os\nprint 'x' '''never closed\n")
    assert (spans[0].value, spans[1].value) == ("keyword", "name")


def test_examples_have_labels_and_data_tables_are_left_out(folder: Path) -> None:
    corpus = load_corpus(CorpusConfig(root=str(folder)))
    assert {example.group for example in corpus} == {"pack/__init__.py", "pack/keeper.py", "pack/test/test_keeper.py"}
    assert corpus[0].labels == {"package": "pack", "module": "pack"}
    assert len(PythonSource.read(folder, include_tests=False, section_chars=1600).groups()) == 2


def test_annotation_sees_the_whole_file(folder: Path) -> None:
    corpus = load_corpus(CorpusConfig(root=str(folder), section_chars=200))
    keeper = [example for example in corpus if example.group == "pack/keeper.py"]
    assert len(keeper) > 2
    for plain, annotated in zip(keeper, corpus.annotate(keeper), strict=True):
        assert plain.text == annotated.text
        assert all(0 <= span.start < span.end <= len(plain.text) for span in annotated.spans)
        words = {plain.text[span.start:span.end] for span in annotated.spans if span.value == "keyword"}
        assert words <= {"import", "class", "def", "return"}


def test_round_trip_on_disk(folder: Path, tmp_path: Path) -> None:
    corpus = load_corpus(CorpusConfig(root=str(folder)))
    corpus.save(tmp_path / "corpus.parquet")
    assert PythonSource.load(tmp_path / "corpus.parquet", "disk").fingerprint() == corpus.fingerprint()


def test_split_never_divides_a_group_and_is_stable(folder: Path) -> None:
    corpus = load_corpus(CorpusConfig(root=str(folder), section_chars=200))
    train, held_out = corpus.split(0.8, seed=1, always_train=["pack/__init__.py"])
    assert not set(train.groups()) & set(held_out.groups())
    assert "pack/__init__.py" in train.groups()
    again = corpus.subset([i for i, example in enumerate(corpus) if example.group in held_out.groups()][::-1])
    assert set(again.groups()) == set(held_out.groups())
    with pytest.raises(CorpusError, match="would be empty"):
        corpus.split(1e-9)


def test_sample_keeps_whole_examples_within_the_budget(folder: Path) -> None:
    corpus = load_corpus(CorpusConfig(root=str(folder), section_chars=200))
    sample = corpus.sample(3, lambda examples: [1] * len(examples), seed=4)
    assert len(sample) == 3
    assert [corpus.examples.index(example) for example in sample] == sorted(corpus.examples.index(example) for example in sample)
    assert len(corpus.sample(10**6, lambda examples: [1] * len(examples))) == len(corpus)


def test_source_fingerprint_notices_a_change(folder: Path) -> None:
    config = CorpusConfig(root=str(folder))
    before = source_fingerprint(config)
    assert before == source_fingerprint(config)
    (folder / "pack" / "new.py").write_text(SOURCE)
    assert source_fingerprint(config) != before


def test_module_names() -> None:
    assert module_name("asyncio/sslproto.py") == "asyncio.sslproto"
    assert module_name("json/__init__.py") == "json"


def test_faults(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        load_corpus(CorpusConfig(root=str(tmp_path / "nothing")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="holds no example"):
        load_corpus(CorpusConfig(root=str(tmp_path / "empty")))
    (tmp_path / "empty" / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(CorpusError, match="not UTF-8 text .byte 3."):
        load_corpus(CorpusConfig(kind="text", root=str(tmp_path / "empty")))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_named(folder: Path) -> None:
    (folder / "pack" / "keeper.py").chmod(0)
    with pytest.raises(CorpusError, match="keeper.py"):
        load_corpus(CorpusConfig(root=str(folder)))


def test_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.txt").write_text("First paragraph.\n\n" * 30)
    (tmp_path / "two.md").write_text("# Title\n")
    corpus = load_corpus(CorpusConfig(kind="text", root=str(tmp_path), section_chars=200))
    assert set(corpus.groups()) == {"a/one.txt", "two.md"}
    assert corpus[0].labels == {"folder": "a"}
    assert load_corpus(CorpusConfig(kind="text", root=str(tmp_path / "two.md")))[0].text == "# Title\n"
