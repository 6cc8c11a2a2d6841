"""Hugging Face datasets, saved to disk or as files: the real library, no network."""

import gc
from pathlib import Path
from typing import Any

import pytest

from sparselight.corpus import CorpusConfig, ListCorpus, load_corpus
from sparselight.corpus.hub import parse_root
from sparselight.errors import CorpusError

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    features = datasets.Features({"body": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"]), "uid": datasets.Value("int64")})
    splits = {
        "train": datasets.Dataset.from_dict({"body": ["one \U0001f600", "two", "three"], "label": [0, 1, -1], "uid": [1, 2, 3]}, features=features),
        "test": datasets.Dataset.from_dict({"body": ["four"], "label": [1], "uid": [4]}, features=features),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def read(root: object, **settings: Any) -> ListCorpus:
    return load_corpus(CorpusConfig.parse({"root": str(root), "kind": "hf_dataset", "text": "body", **settings}, "corpus"))


def test_all_splits_of_a_saved_dataset(saved: Path) -> None:
    corpus = read(saved, id="uid", labels=["label"], split="_split")
    assert [(example.id, example.text, example.labels) for example in corpus] == [
        ("1", "one \U0001f600", {"label": "bad"}), ("2", "two", {"label": "good"}), ("3", "three", {}), ("4", "four", {"label": "good"})]
    assert [example.id for example in corpus.split()[1]] == ["4"]
    assert corpus.fingerprint() == read(saved, id="uid", labels=["label"], split="_split", in_memory=False).fingerprint()


def test_one_split_by_name(saved: Path) -> None:
    corpus = read(f"hf://{saved}::train")
    assert [example.id.rpartition("/")[2] for example in corpus] == ["saved:train:1", "saved:train:2", "saved:train:3"]
    with pytest.raises(CorpusError, match="no split 'dev', only train, test"):
        read(f"hf://{saved}::dev")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")  # the library leaves a streamed file open
@pytest.mark.parametrize("streaming", [False, True])
def test_files_through_the_library(streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("body,topic\nfirst,x\nsecond,y\nthird,x\n")
    corpus = read(tmp_path / "data", labels=["topic"], streaming=streaming, max_examples=2)
    assert len(corpus) == 2
    if streaming:
        assert [(example.text, example.labels["topic"]) for example in corpus] == [("first", "x"), ("second", "y")]
    gc.collect()


def test_a_column_that_is_not_there(saved: Path) -> None:
    with pytest.raises(CorpusError, match="its columns are body, label, uid"):
        read(saved, text="text")


def test_offline_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(CorpusError) as refused:
        read("hf://sparselight/no-such-dataset")
    message = str(refused.value)
    assert "\n" not in message
    assert "hf://sparselight/no-such-dataset" in message
    assert "connect to the network" in message


def test_names() -> None:
    assert parse_root("hf://wikitext:wikitext-2-raw-v1:train") == ("wikitext", "wikitext-2-raw-v1", "train")
    assert parse_root("hf://imdb::test") == ("imdb", "", "test")
    assert parse_root("hf://owner/name") == ("owner/name", "", "")
    with pytest.raises(CorpusError, match="not of the form"):
        parse_root("hf://a:b:c:d")
