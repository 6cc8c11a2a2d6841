"""The five kinds of seed: what each finds, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from selectable import CIPHER, count, toy_corpus, toy_examples

from sparselight.errors import ConfigError
from sparselight.select import SelectConfig, find_seeds, seed_names, select_examples

EXAMPLES = toy_examples()
DOMAIN = {f"crypt/file{number}.py" for number in range(6)}


def groups(selection, corpus, seeds=False):
    return {corpus[index].group for index, is_seed in zip(selection.examples, selection.is_seed, strict=True) if is_seed == seeds}


@pytest.mark.parametrize("settings", [
    {"seed_texts": (" ".join(CIPHER),)}, {"query": "which cipher and which key, nonce and padding?"}, {"seed_labels": ("package=crypt",)},
    {"seed_labels": ("keyword=import",)}, {"seeds": ("crypt/file0.py",), "query": "digest and hmac"},
])
def test_every_kind_finds_the_domain(settings):
    corpus = toy_corpus()
    selection = select_examples(corpus, SelectConfig(max_tokens=10_000, **settings), count)
    assert groups(selection, corpus) | groups(selection, corpus, seeds=True) == DOMAIN
    assert sum(selection.is_seed) == sum(n for kind, n in selection.seed_counts.items() if kind in ("seeds", "seed_labels"))


def test_a_seed_file_is_read_in_sections(tmp_path: Path):
    (tmp_path / "domain.txt").write_text("\n\n".join(" ".join(CIPHER * 20) for _ in range(5)))
    config = SelectConfig(seed_files=(str(tmp_path / "domain.txt"),), max_tokens=10_000)
    found = find_seeds(EXAMPLES, config)
    assert not found.inside
    assert found.counts == {"seed_files": len(found.outside)}
    assert len(found.outside) > 1
    corpus = toy_corpus()
    assert groups(select_examples(corpus, config, count), corpus) == DOMAIN


def test_labels_name_exactly_the_examples_that_have_them():
    assert find_seeds(EXAMPLES, SelectConfig(seed_labels=("package=crypt",))).inside == list(range(12))
    assert find_seeds(EXAMPLES, SelectConfig(seed_labels=("keyword=import",))).inside == [10, 11]


def test_what_is_held_out_is_no_seed():
    held_out = np.array([example.group in ("crypt/file0.py", "crypt/file1.py") for example in EXAMPLES])
    config = SelectConfig(seeds=("crypt/file0.py", "crypt/file2.py"), seed_labels=("package=crypt",), max_tokens=10_000)
    found = find_seeds(EXAMPLES, config, held_out)
    assert found.inside == list(range(4, 12))
    assert found.counts == {"seeds": 2, "seed_labels": 8, "held_out": 4}
    selection = select_examples(toy_corpus(), config, count, held_out=held_out)
    assert not any(is_seed and held_out[index] for index, is_seed in zip(selection.examples, selection.is_seed, strict=True))
    with pytest.raises(ConfigError, match=r"all 4 examples that match are held out"):
        find_seeds(EXAMPLES, SelectConfig(seeds=("crypt/file[01].py",)), held_out)


@pytest.mark.parametrize(("settings", "words"), [
    ({"seed_labels": ("package=crypto",)}, r"select\.seed_labels.*use 'package=crypt'"),
    ({"seed_labels": ("author=me",)}, r"use a label of another kind: keyword, package"),
    ({"seed_files": ("nowhere.txt",)}, r"seed file 'nowhere.txt' \(select\.seed_files\): No such file"),
    ({"query": "zebra"}, "hold no term"),
])
def test_a_seed_that_is_of_no_use_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        select_examples(toy_corpus(), SelectConfig(**settings), count)


def test_files_that_are_no_text_are_refused(tmp_path: Path):
    (tmp_path / "bad").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text(" \n")
    for name, words in (("bad", "not UTF-8"), ("empty", "it is empty")):
        with pytest.raises(ConfigError, match=words):
            find_seeds(EXAMPLES, SelectConfig(seed_files=(str(tmp_path / name),)))


@pytest.mark.parametrize(("settings", "words"), [
    ({}, "no seed is given"), ({"seed_labels": ["crypt"]}, r"select\.seed_labels\.0"), ({"query": "x", "retrieve": ["tfidf"]}, r"select\.retrieve\.0"),
    ({"query": "x", "retrieve": []}, r"select\.retrieve"), ({"query": "x", "retrieve": ["dense", "dense"]}, "twice"),
    ({"query": "x", "encoder": "facebook/contriever"}, "would do nothing"), ({"query": "x", "pool_factor": 2.0}, "select.rerank = 'tracin'"),
    ({"query": "x", "retrieve": ["dense"], "b": 0.5}, "select.retrieve = 'bm25'"),
    ({"query": "x", "retrieve": ["dense"], "encoder_pooling": "cls"}, "activations of the subject are averaged"),
    ({"query": "x", "method": "bm25", "retrieve": ["bm25"]}, "old name"),
])
def test_settings_that_do_not_go_together_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        SelectConfig.parse(settings, "select")


def test_recipes_that_name_the_method_still_load():
    old = SelectConfig.parse({"method": "bm25", "seeds": ["a"], "max_tokens": 5, "query_terms": 32, "pool": 3, "common_frac": 0.2, "k1": 1.5, "b": 0.75})
    assert old == SelectConfig(seeds=("a",), max_tokens=5)
    assert SelectConfig.parse(old.model_dump(mode="json")) == old


def test_all_seeds_have_a_name():
    config = SelectConfig(seeds=("a.py",), seed_texts=("some text",), seed_labels=("k=v",), query="what?")
    assert seed_names(config) == ["a.py", "some text", "k=v", "what?"]
