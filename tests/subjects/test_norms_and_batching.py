import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselight.errors import ConfigError, SubjectError
from sparselight.protocols import Example
from sparselight.records import TokenPolicy
from sparselight.subjects import SubjectConfig, TokenSettings, batches_by_length, kept_tokens, norm_limits
from sparselight.subjects.batching import narrow_parts
from sparselight.testing import check_subject, tiny_corpus, tiny_family, tiny_subject

SITE = "resid_post.1"


def test_norm_limits_are_a_multiple_of_the_median() -> None:
    subject, examples = tiny_subject(), tiny_corpus(12).examples
    norms = subject.capture(subject.prepare(examples), [SITE])[SITE].norm(dim=-1)
    for batch_tokens in (64, 100_000):
        assert norm_limits(subject, examples, [SITE], ratio=3.0, batch_tokens=batch_tokens)[SITE] == pytest.approx(3 * float(norms.median()), rel=1e-5)
    with pytest.raises(SubjectError, match="hold no token"):
        norm_limits(subject, [], [SITE])


def test_massive_tokens_are_named_and_not_edited() -> None:
    plain, examples = tiny_subject(), tiny_corpus(4).examples
    x = plain.capture(plain.prepare(examples), [SITE])[SITE]
    limit = float(x.norm(dim=-1).quantile(0.8))
    subject = plain.with_max_norms({SITE: limit})
    check_subject(subject, examples)
    batch = subject.prepare(examples)
    captured = subject.capture(batch, [SITE, "resid_post.0"])
    assert torch.equal(captured[SITE], x), "capture hands out all; whoever stores leaves out"
    kept = kept_tokens(captured, subject.ref().token_policy)
    assert 0.75 < kept.float().mean() < 0.85
    assert torch.equal(kept, x.norm(dim=-1) <= limit)
    seen: list[torch.Tensor] = []
    subject.predict(batch, {SITE: lambda y: seen.append(y.clone()) or torch.zeros_like(y)})  # type: ignore[func-returns-value]
    assert torch.equal(seen[0], x[kept])
    assert subject.fingerprint != plain.fingerprint
    assert subject.ref().token_policy.max_norms == {SITE: limit}
    assert plain.ref().token_policy.max_norms == {}


def test_limits_are_checked() -> None:
    with pytest.raises(SubjectError, match="layers 0 to 2"):
        tiny_subject().with_max_norms({"resid_post.9": 1.0})
    with pytest.raises(ConfigError, match="not above 0"):
        SubjectConfig.parse({"max_norms": {SITE: 0.0}})


@given(st.lists(st.integers(0, 90), max_size=40), st.integers(1, 200), st.integers(0, 5))
def test_batches_hold_every_example_once_and_keep_to_their_size(sizes: list[int], max_tokens: int, overlap: int) -> None:
    policy = TokenPolicy(prepend_bos=True, append_eos=True, context_tokens=20, overlap_tokens=overlap)
    groups = list(batches_by_length(sizes, max_tokens, policy))
    assert sorted(index for group in groups for index in group) == [index for index, size in enumerate(sizes) if size]
    for group in groups:
        rows = [1 if sizes[index] <= 18 else 1 + -(-(sizes[index] - 18) // (18 - overlap)) for index in group]
        width = 2 + max(min(sizes[index], 18) for index in group)
        assert len(group) == 1 or sum(rows) * width <= max_tokens


def test_batches_are_what_prepare_makes() -> None:
    subject, examples = tiny_subject(context_tokens=20), tiny_corpus(20).examples
    for group in batches_by_length(subject.n_tokens(examples), 100, subject.ref().token_policy):
        assert len(group) == 1 or subject.prepare([examples[index] for index in group]).input_ids.numel() <= 100


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_rows_of_like_length_share_a_pass(family: str, padding_side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_family(family, TokenSettings.parse({"context_tokens": 24, "padding_side": padding_side}))
    examples = [Example(str(number), " ".join(["word"] * size), str(number)) for number, size in enumerate((1, 2, 70, 3, 1, 40, 2))]
    batch = subject.prepare(examples)
    whole = subject.capture(batch, [SITE])[SITE]
    assert len(narrow_parts(batch, padding_side)) == 1, "too little to spare"
    monkeypatch.setattr("sparselight.subjects.batching.PASS_POSITIONS", 8)
    parts = narrow_parts(batch, padding_side)
    assert len(parts) > 1
    assert sum(part.input_ids.numel() for _, part in parts) < batch.input_ids.numel()
    assert torch.equal(torch.cat([tokens for tokens, _ in parts]).sort().values, torch.arange(batch.n_tokens))
    for tokens, part in parts:
        assert torch.equal(part.input_ids[part.counts], batch.token_id[tokens])
        assert torch.equal(part.example, batch.example[tokens])
        assert part.attention_mask.any(0).all(), "no column is padding alone"
    torch.testing.assert_close(subject.capture(batch, [SITE])[SITE], whole, rtol=1e-4, atol=1e-5)
