"""Goals: what each measures, where it is present in text, how it is written, what is refused."""

import numpy as np
import pytest
import torch

from sparselight.corpus.python_source import token_class_spans
from sparselight.errors import ConfigError, CorpusError
from sparselight.intervene.generate import can_generate
from sparselight.intervene.generated import Generated, mean_activations, whole_texts
from sparselight.intervene.goal_forms import following_tokens, listed, parse_goal, token_goal
from sparselight.intervene.goals import FunctionGoal, LabelGoal, PatternGoal, ProbeGoal, TokenGoal
from sparselight.protocols import Example
from sparselight.testing import tiny_corpus, tiny_subject

SITE = "resid_post.1"


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


def test_the_probability_of_tokens_is_summed():
    log_probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]).log()
    assert TokenGoal((0, 2), "").probability(log_probs).tolist() == pytest.approx([0.75, 0.8])


def test_a_token_is_present_where_it_comes_next(subject):
    examples = [Example("a", "key key", "a"), Example("b", "key", "b")]
    batch = subject.prepare(examples)
    goal = TokenGoal((int(batch.token_id[-1]),), "")
    present = goal.present(subject, examples)
    nexts = [bool(batch.example[i + 1] == batch.example[i] and batch.token_id[i + 1] == batch.token_id[-1]) for i in range(batch.n_tokens - 1)]
    assert present.tolist() == [*nexts, False]
    assert not present[[i for i in range(batch.n_tokens - 1) if batch.example[i] != batch.example[i + 1]]].any()


def test_patterns_count_texts_or_matches(subject):
    texts = [Generated("a key", "cipher key key"), Generated("key", "monkey")]
    goal = parse_goal("words: key, cipher", subject, SITE)
    assert goal.values(subject, texts).tolist() == [1, 0]
    assert PatternGoal("key", "matches").values(subject, texts).tolist() == [2, 1]
    example = Example("a", "for key in items", "a")
    batch = subject.prepare([example])
    covered = {example.text[start:end] for start, end, here in zip(batch.char_start, batch.char_end, goal.present(subject, [example]), strict=True) if here}
    assert "".join(sorted(covered)).replace(" ", "")
    assert all(set(part.strip()) <= set("key") for part in covered)


def test_a_label_is_a_share_of_the_generated_tokens(subject):
    goal, texts = LabelGoal("word=key"), [Generated("key ", "key items"), Generated("", "items")]
    batch = subject.prepare(whole_texts(texts))
    words = [i for i in range(batch.n_tokens) if int(batch.example[i]) == 0 and int(batch.char_start[i]) >= 4]
    inside = [i for i in words if int(batch.char_end[i]) <= 7]
    assert goal.values(subject, texts) == pytest.approx([len(inside) / len(words), 0])
    spans = LabelGoal("token_class=keyword", lambda examples: [
        Example(example.id, example.text, example.group, spans=tuple(token_class_spans(example.text))) for example in examples])
    assert spans.values(subject, [Generated("", "for key in items:\n    pass\n")])[0] > 0


def test_a_probe_tells_the_annotation(subject):
    examples = tiny_corpus(40).examples
    goal = parse_goal("annotation: package=security", subject, SITE, examples)
    assert isinstance(goal, ProbeGoal)
    values = goal.values(subject, [Generated("", example.text) for example in examples])
    carries = np.array([example.labels["package"] == "security" for example in examples])
    assert values[carries].mean() > values[~carries].mean() + 0.3
    assert goal.present(subject, examples).sum() == subject.prepare([example for example in examples if example.labels["package"] == "security"]).n_tokens
    with pytest.raises(CorpusError, match="0 of 40 examples carry it"):
        parse_goal("annotation: package=nowhere", subject, SITE, examples)


def test_a_function_of_the_user(subject):
    goal = FunctionGoal(len, "length")
    assert goal.values(subject, [Generated("x", "abc")]).tolist() == [3]
    examples = [Example("a", "key", "a"), Example("b", "key key key", "b")]
    assert set(subject.prepare(examples).example[torch.from_numpy(goal.present(subject, examples))].tolist()) == {1}
    with pytest.raises(ConfigError, match="finite number"):
        FunctionGoal(lambda text: float("nan"), "nothing").values(subject, [Generated("", "a")])


def test_what_follows_firings_is_weighed_by_how_much_more_it_does():
    token_id, example = np.array([1, 5, 1, 5, 2, 6, 2, 7, 3, 6]), np.array([0] * 8 + [1] * 2)
    fires = token_id == 1
    assert following_tokens(token_id, example, fires, 2)[0] == 5
    assert 6 not in following_tokens(token_id, example, fires, 5)
    with pytest.raises(CorpusError, match="fires nowhere"):
        following_tokens(token_id, example, token_id == 9)


def test_lists_may_be_quoted():
    assert listed(r'key, " a b", "x,\n"') == ["key", " a b", "x,\n"]


def test_tokens_are_found_with_and_without_a_blank(subject):
    text = next(subject.token_text(i) for i in range(subject.n_vocabulary) if subject.token_text(i).startswith(" ") and subject.token_text(i).strip())
    ids = {i for i in range(subject.n_vocabulary) if subject.token_text(i) in (text, text.strip())}
    assert set(token_goal(subject, [text.strip()]).token_ids) == ids
    assert "next token" in token_goal(subject, [text]).title


@pytest.mark.parametrize(("text", "match"), [
    ("certificates", "kind of goal"), ("tokens:", "names nothing"), ("regex: (", "no regular expression"), ("label: word", "kind=value"),
    ("annotation: package", "kind=value"), ("tokens: supercalifragilistic", "no token of"),
])
def test_goals_that_are_none(subject, text, match):
    with pytest.raises(ConfigError, match=match):
        parse_goal(text, subject, SITE)


def test_mean_activations_of_the_end_of_a_text(subject):
    example = Example("a", "key items", "a")
    batch = subject.prepare([example])
    x = subject.capture(batch, [SITE])[SITE]
    assert mean_activations(subject, SITE, [example])[0] == pytest.approx(x.double().mean(0).numpy(), abs=1e-6)
    assert mean_activations(subject, SITE, [example], [3])[0] == pytest.approx(x[batch.char_start >= 3].double().mean(0).numpy(), abs=1e-6)
    assert not mean_activations(subject, SITE, [example], [99]).any()
    assert can_generate(subject)
