"""From rankings to a selection: old results, interleaving, near copies, the guard, influence."""

import numpy as np
import pytest
from selectable import count, topic_vectors, toy_corpus, toy_examples

from sparselight.corpus import ListCorpus
from sparselight.errors import ConfigError
from sparselight.protocols import Example
from sparselight.select import SelectConfig, Selection, select_examples
from sparselight.select.bm25 import pooled_scores
from sparselight.select.choose import ranking
from sparselight.select.terms import TermIndex

CONFIG = SelectConfig(seeds=("crypt/file0.py", "crypt/file1.py"), max_tokens=10_000)
BOTH = CONFIG.model_copy(update={"retrieve": ("bm25", "dense")})


def change(**settings):
    return CONFIG.model_copy(update=settings)


def as_version_0_1_0(corpus, config):
    """What version 0.1.0 selected, spelled out: BM25 with group seeds, seeds first, then best first, up to the budget."""
    examples = list(corpus)
    seeds = [index for index, example in enumerate(examples) if example.group in config.seeds]
    first = {}
    for index in [*seeds, *range(len(examples))]:
        first.setdefault(examples[index].text, index)
    candidates = sorted(first.values())
    index = TermIndex.build([examples[candidate].text for candidate in candidates], config.common_frac)
    is_seed = np.isin(candidates, seeds)
    scores = pooled_scores(index, [index.distinctive(number, config.query_terms)[0] for number in np.flatnonzero(is_seed)], config)
    ranked = [number for number in np.lexsort((np.arange(len(candidates)), -scores, ~is_seed)) if is_seed[number] or scores[number] > 0]
    total, chosen = 0, []
    for number in ranked:
        total += count([examples[candidates[number]]])[0]
        if total > config.max_tokens:
            break
        chosen.append(number)
    return [candidates[number] for number in chosen], [float(scores[number]) for number in chosen]


@pytest.mark.parametrize("max_tokens", [160, 10_000])
def test_the_selections_of_version_0_1_0_are_unchanged(max_tokens):
    copies = [Example("copy of a seed", toy_examples()[0].text, "a/copy.py"), Example("copy", toy_examples()[5].text, "b/copy.py")]
    for corpus in (toy_corpus(), toy_corpus(*copies)):
        held_out = np.array([example.group in ("crypt/file4.py", "rest/file3.py") for example in corpus])
        for given in (None, held_out):
            selection = select_examples(corpus, change(max_tokens=max_tokens), count, held_out=given)
            assert (selection.examples, selection.scores) == as_version_0_1_0(corpus, change(max_tokens=max_tokens))
    if max_tokens == 10_000:
        assert select_examples(toy_corpus(), CONFIG, count).examples == [3, 0, 1, 2, 5, 4, 11, 6, 8, 10, 9, 7]  # as that version printed it


def test_strategies_take_turns():
    scores = {"bm25": np.array([9.0, 5, 4, 3, 0, 1]), "dense": np.array([0.1, 0.9, 0.2, 0.8, 0.7, -1])}
    is_seed = np.array([True, False, False, False, False, False])
    merged = ranking(scores, is_seed)
    assert merged.numbers == [0, 1, 2, 3, 4, 5]  # seed; firsts 1, 1; seconds 2, 3; thirds 3, 4; fourths 5, 2
    assert merged.scores == [1, 1, 1 / 2, 1 / 2, 1 / 3, 1 / 4]
    assert ranking(dict(reversed(scores.items())), is_seed).numbers == [0, 1, 3, 2, 4, 5]
    only = ranking({"dense": scores["dense"]}, is_seed)
    assert only.numbers == [0, 1, 3, 4, 2]
    assert only.scores == [0.1, 0.9, 0.8, 0.7, 0.2]


def test_a_union_holds_what_either_alone_puts_first():
    corpus = toy_corpus()
    config = BOTH.model_copy(update={"max_tokens": 4 * 23 + 4 * 23})
    union = select_examples(corpus, config, count, vectors=topic_vectors)
    for strategy in ("bm25", "dense"):
        alone = select_examples(corpus, config.model_copy(update={"retrieve": (strategy,)}), count, vectors=topic_vectors)
        assert set(alone.examples[4:6]) <= set(union.examples)
        assert alone.scores == alone.scores_by[strategy]
    assert set(union.scores_by) == {"bm25", "dense"}
    assert len(union.examples) == 8


def nearly(example: Example, group: str) -> Example:
    """The same text but for its last word; the toy's texts are long enough for a Jaccard index above 0.8."""
    return Example(f"{group}#0", f"{example.text} end", group)


def test_near_duplicates_are_dropped_on_wish():
    twin_of_seed, twin = nearly(toy_examples()[0], "twin/seed.py"), nearly(toy_examples()[5], "twin/other.py")
    corpus = toy_corpus(twin_of_seed, twin)
    plain = select_examples(corpus, CONFIG, count)
    assert {len(corpus) - 2, len(corpus) - 1} <= set(plain.examples)
    assert "near_duplicates" not in plain.left_out
    dropped = select_examples(corpus, change(near_duplicates="drop"), count)
    assert dropped.left_out == {"near_duplicates": 2}
    assert len(corpus) - 2 not in dropped.examples
    assert len({5, len(corpus) - 1} & set(dropped.examples)) == 1
    beside = select_examples(corpus, SelectConfig(seed_texts=(toy_examples()[5].text + " finis",), near_duplicates="drop", max_tokens=10_000), count)
    assert not {5, len(corpus) - 1} & set(beside.examples)


@pytest.mark.parametrize("guard", ["drop", "report", "off"])
def test_the_guard_keeps_training_and_held_out_text_apart(guard):
    """A training example like a held-out one, and a held-out one like a seed."""
    like_held_out, like_seed = nearly(toy_examples()[8], "leak/train.py"), nearly(toy_examples()[0], "leak/held_out.py")
    corpus = toy_corpus(like_held_out, like_seed)
    n = len(corpus)
    held_out = np.array([example.group in ("crypt/file4.py", "leak/held_out.py") for example in corpus])
    selection = select_examples(corpus, change(guard=guard), count, held_out=held_out)
    leaks = {n - 2, n - 1}
    assert leaks & set(selection.examples) == (set() if guard == "drop" else leaks)
    assert {8, 9} <= set(selection.examples)  # the held-out examples of the domain stay
    assert selection.left_out == ({} if guard == "off" else {"held_out_copies": 1, "seed_copies": 1})


def test_a_seed_text_that_stands_in_the_held_out_side_is_kept_out_of_evaluation():
    corpus = toy_corpus()
    held_out = np.array([example.group == "crypt/file4.py" for example in corpus])
    config = SelectConfig(seed_texts=(corpus[8].text,), max_tokens=10_000)
    selection = select_examples(corpus, config, count, held_out=held_out)
    assert 8 not in selection.examples
    assert 9 in selection.examples
    assert selection.left_out == {"seed_copies": 1}


def test_what_a_budget_does_not_reach_is_not_counted():
    corpus = toy_corpus(nearly(toy_examples()[0], "leak/held_out.py"))
    held_out = np.array([example.group == "leak/held_out.py" for example in corpus])
    small = select_examples(corpus, change(max_tokens=4 * 23), count, held_out=held_out)
    assert len(small.examples) == 4
    assert small.left_out == {}


def test_influence_orders_the_pool_anew():
    corpus = toy_corpus()
    asked = []

    def influence(examples):
        asked.extend(examples)
        return np.array([-int(example.id.partition("file")[2][0]) for example in examples], dtype=np.float32)

    config = change(rerank="tracin", max_tokens=6 * 23, pool_factor=1.5)
    selection = select_examples(corpus, config, count, influence=influence)
    pool = select_examples(corpus, change(max_tokens=9 * 23), count).examples
    assert sorted(example.id for example in asked) == sorted(corpus[index].id for index in pool)
    assert selection.is_seed == [True] * 4 + [False] * 2
    assert selection.n_tokens == 6 * 23
    best = sorted(pool[4:], key=lambda index: int(corpus[index].id.partition("file")[2][0]))[:2]
    assert [corpus[index].group for index in selection.examples[4:]] == [corpus[index].group for index in best]
    assert selection.scores[4:] == sorted(selection.scores[4:], reverse=True)
    assert selection.scores_by["bm25"] != selection.scores


def test_influence_must_be_given_and_finite():
    config = change(rerank="tracin")
    with pytest.raises(ConfigError, match=r"select\.rerank = 'tracin': influence is measured on a trained SAE"):
        select_examples(toy_corpus(), config, count)
    for bad in (lambda examples: np.full(len(examples), np.nan), lambda examples: np.zeros(3)):
        with pytest.raises(ConfigError, match=r"are not \d+ finite numbers"):
            select_examples(toy_corpus(), config, count, influence=bad)


def test_all_of_it_is_saved(tmp_path):
    corpus = toy_corpus(nearly(toy_examples()[5], "twin/other.py"))
    selection = select_examples(corpus, BOTH.model_copy(update={"near_duplicates": "drop"}), count, vectors=topic_vectors)
    selection.save(tmp_path / "selection.parquet")
    assert Selection.load(tmp_path / "selection.parquet") == selection
    assert selection.left_out == {"near_duplicates": 1}
    assert selection.summary()["left_out"] == selection.left_out


def test_the_same_call_gives_the_same():
    first, second = (select_examples(ListCorpus(toy_examples(), "again"), BOTH, count, vectors=topic_vectors) for _ in range(2))
    assert first == second
