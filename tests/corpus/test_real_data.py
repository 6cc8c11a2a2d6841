"""Public data sets as they come, read by settings alone. They are not part of this repository: without them every test here is skipped."""

from pathlib import Path
from typing import Any

import pytest

from sparselight.corpus import CorpusConfig, ListCorpus, load_corpus

DATA = Path(__file__).parents[3] / "shared" / "data"


def read(name: str, **settings: Any) -> ListCorpus:
    if not (DATA / name).exists():
        pytest.skip(f"the data set {name} is not at {DATA / name}")
    return load_corpus(CorpusConfig.parse({"root": str(DATA / name), **settings}, "corpus"))


def test_wikitext_articles() -> None:
    corpus = read("wikitext2/valid.txt", documents="heading", heading=" = [^=]")
    assert len(corpus.groups()) == 60
    assert corpus[0].text.startswith(" = Homarus gammarus =")
    train, held_out = corpus.split(0.25)
    assert not set(train.groups()) & set(held_out.groups())


def test_clinc_intents_with_their_own_split() -> None:
    corpus = read("clinc150/data_full.json", text="0", labels={"intent": "1"}, split="_split", held_out_values=["test", "oos_test"])
    assert len(corpus) == 23_700
    assert len({example.labels["intent"] for example in corpus}) == 151
    assert len(corpus.split()[1]) == 5_500
    clean = read("clinc150/data_full.json", text="0", labels={"intent": "1"}, split="_split", held_out_values=["test", "oos_test"], dedup="near")
    assert clean.reading is not None
    assert clean.reading.duplicates is not None
    assert clean.reading.duplicates.n_near > 500


def test_biographies() -> None:
    corpus = read("biasbios_sample", kind="csv", text="hard_text", labels=["profession", "gender"], dedup="near", dedup_action="group")
    assert len(corpus) == 1_280
    assert len({example.labels["profession"] for example in corpus}) == 28
    assert corpus.reading is not None
    assert corpus.reading.duplicates is not None
    assert corpus.reading.duplicates.n_exact >= 2


def test_radiology_reports() -> None:
    corpus = read("openi_reports/indiana_reports.csv", text=["findings", "impression"], id="uid", labels={"problems": "Problems"}, on_bad_row="skip")
    assert len(corpus) == 3_826
    assert corpus.reading is not None
    assert corpus.reading.bad.n == 25  # reports without findings and impression
    assert sum(example.labels["problems"] == "normal" for example in corpus) == 1_354


def test_a_table_of_items() -> None:
    assert len(read("recsae_ml1m/item_ids.tsv", text="movieId", id="item_id")) == 3_125
