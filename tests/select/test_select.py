import math
import sys

import numpy as np
import pytest

from sparselight.config import canonical_json
from sparselight.corpus import ListCorpus
from sparselight.errors import ConfigError, MissingExtraError, RunError
from sparselight.protocols import Example
from sparselight.select import SelectConfig, Selection, select_examples
from sparselight.select.bm25 import pooled_scores
from sparselight.select.terms import TermIndex, split_word

CIPHER = ["cipher", "key", "digest", "hmac", "nonce", "signature", "encrypt", "padding"]
OTHER = [[f"topic{chr(97 + t)}word{chr(97 + w)}" for w in range(8)] for t in range(6)]


def make_corpus():
    """Files 0-5 are of the domain, 0 and 1 its seeds; 60 more are of six other topics; all share filler words."""
    rng = np.random.default_rng(0)
    examples = []

    def add(group, words, n=2):
        for section in range(n):
            text = " ".join(["import", "self", "filler", *rng.choice(words, 20)])
            examples.append(Example(f"{group}#{section}", text, group))

    for number in range(6):
        add(f"crypt/file{number}.py", CIPHER)
    for number in range(60):
        add(f"rest/file{number}.py", OTHER[number % 6])
    return ListCorpus(examples, "a toy corpus")


def count(examples):
    return [len(example.text.split()) for example in examples]


CONFIG = SelectConfig(seeds=("crypt/file0.py", "crypt/file1.py"), max_tokens=10_000)


def test_finds_the_domain_and_nothing_else():
    corpus = make_corpus()
    selection = select_examples(corpus, CONFIG, count)
    assert {corpus[index].group for index in selection.examples} == {f"crypt/file{number}.py" for number in range(6)}
    assert selection.is_seed == [True] * 4 + [False] * 8
    assert {corpus[index].group for index in selection.examples[:4]} == set(CONFIG.seeds)
    assert selection.scores[4:] == sorted(selection.scores[4:], reverse=True)
    assert all(score > 0 for score in selection.scores)
    assert set(selection.terms) == set(CIPHER)
    assert selection.n_tokens == sum(count([corpus[index] for index in selection.examples]))
    summary = selection.summary()
    assert (summary["n_examples"], summary["n_seeds"], summary["n_tokens"]) == (12, 4, selection.n_tokens)
    assert summary["last_score"] == selection.scores[-1]


def test_the_more_alike_the_higher():
    corpus = make_corpus()
    mixed = [Example(f"mix{n}", " ".join(CIPHER[:n] + OTHER[0][n:]), f"mix/{n}.py") for n in (1, 4, 7)]
    selection = select_examples(ListCorpus([*corpus, *mixed], "toy"), CONFIG, count)
    ranks = [selection.examples.index(len(corpus) + i) for i in range(3)]
    assert ranks == sorted(ranks, reverse=True)


def test_the_budget_bounds_the_tokens_and_keeps_the_best():
    corpus = make_corpus()
    whole = select_examples(corpus, CONFIG, count)
    part = select_examples(corpus, CONFIG.model_copy(update={"max_tokens": 160}), count)
    assert part.n_tokens == 23 * 6 <= 160 < 23 * 7
    assert part.examples == whole.examples[:6]
    with pytest.raises(ConfigError, match=r"select.max_tokens = 91.*the seeds alone hold 92"):
        select_examples(corpus, CONFIG.model_copy(update={"max_tokens": 91}), count)


def test_one_text_counts_once():
    corpus = make_corpus()
    copies = [Example("copy of a seed", corpus[0].text, "a/copy.py"), Example("copy", corpus[5].text, "b/copy.py")]
    plain = select_examples(corpus, CONFIG, count)
    doubled = select_examples(ListCorpus([*copies, *corpus], "toy"), CONFIG, count)
    texts = [[*copies, *corpus][index].text for index in doubled.examples]
    assert len(set(texts)) == len(texts) == len(plain.examples)
    assert doubled.scores == pytest.approx(plain.scores, rel=1e-6)
    assert 0 not in doubled.examples  # the seed stands for its copy


def test_seeds_match_by_name_or_pattern():
    corpus = make_corpus()
    by_name = select_examples(corpus, CONFIG, count)
    by_pattern = select_examples(corpus, CONFIG.model_copy(update={"seeds": ("crypt/file[01].py",)}), count)
    assert by_name == by_pattern


@pytest.mark.parametrize(("seed", "hint"), [
    ("crypt/fil0.py", "use 'crypt/file0.py'"), ("lib/file3.py", "use 'crypt/file3.py'"), ("zzz", "for example 'crypt/file0.py'"),
])
def test_a_seed_that_matches_nothing_is_refused_with_the_nearest(seed, hint):
    with pytest.raises(ConfigError, match=f"'{seed}' .select.seeds.*{hint}"):
        select_examples(make_corpus(), CONFIG.model_copy(update={"seeds": ("crypt/file0.py", seed)}), count)


def test_seeds_are_needed_and_must_say_something():
    with pytest.raises(ConfigError, match=r"select\.seeds"):
        SelectConfig.parse({"seeds": []}, "select")
    with pytest.raises(ConfigError, match=r"select\.seeds"):
        SelectConfig.parse({"seeds": [""]}, "select")
    corpus = ListCorpus([*make_corpus(), Example("x", "import self filler if 12", "x.py")], "toy")
    with pytest.raises(ConfigError, match="hold no term"):
        select_examples(corpus, CONFIG.model_copy(update={"seeds": ("x.py",)}), count)


def test_without_bm25s_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtraError, match=r"sparselight\[retrieval\]"):
        select_examples(make_corpus(), CONFIG, count)


@pytest.mark.parametrize(("word", "terms"), [
    ("read_HTTPResponse2", ["read", "http", "response"]), ("sha256", ["sha"]), ("__init__", ["init"]), ("camelCaseWord", ["camel", "case", "word"]),
    ("if", []), ("True", []), ("ab_cd", []), ("SSLContext", ["ssl", "context"]),
])
def test_words_are_cut_into_terms(word, terms):
    assert split_word(word) == terms


def test_terms_of_too_many_texts_are_dropped():
    index = TermIndex.build(["common alpha", "common beta", "common beta", "gamma delta"], common_frac=0.5)
    assert index.vocabulary == ["alpha", "beta", "gamma", "delta"]
    assert index.texts == [[0], [1], [1], [2, 3]]
    assert index.idf[1] == pytest.approx(math.log(1 + 2.5 / 2.5))


def test_scores_follow_the_formula():
    index = TermIndex.build(["cat cat dog", "dog bird", "fish", "bird bird bird cat"], common_frac=1.0)
    number = {term: i for i, term in enumerate(index.vocabulary)}
    queries = [np.array([number["cat"]]), np.array([number["dog"], number["bird"]])]
    lengths = np.array([3, 2, 1, 4])
    tf = {"cat": np.array([2, 0, 0, 1]), "dog": np.array([1, 1, 0, 0]), "bird": np.array([0, 1, 0, 3])}
    length_norm = 1.5 * (1 - 0.75 + 0.75 * lengths / lengths.mean())
    score = {term: math.log(1 + (4 - 2 + 0.5) / (2 + 0.5)) * counts / (counts + length_norm) for term, counts in tf.items()}
    each = np.stack([score["cat"], score["dog"] + score["bird"]])
    config = SelectConfig(seeds=("x",), max_tokens=1, pool=1)
    assert pooled_scores(index, queries, config) == pytest.approx(each.max(axis=0), rel=1e-6)
    assert pooled_scores(index, queries, config.model_copy(update={"pool": 5})) == pytest.approx(each.mean(axis=0), rel=1e-6)


def test_distinctive_terms_are_those_with_the_largest_tf_idf():
    index = TermIndex.build(["rare often often often often", "often", "often other", "other thing"], common_frac=1.0)
    terms, weights = index.distinctive(0, 2)
    assert [index.vocabulary[term] for term in terms] == ["often", "rare"]
    assert weights == pytest.approx([4 * math.log(1 + 1.5 / 3.5), math.log(1 + 3.5 / 1.5)])


def test_save_then_load(tmp_path):
    selection = select_examples(make_corpus(), CONFIG, count)
    selection.save(tmp_path / "selection.parquet")
    assert Selection.load(tmp_path / "selection.parquet") == selection
    assert canonical_json(selection.summary())
    with pytest.raises(RunError, match="no such file"):
        Selection.load(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(RunError, match="damaged"):
        Selection.load(tmp_path / "bad.parquet")
