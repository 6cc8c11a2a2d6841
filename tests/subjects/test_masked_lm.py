import pytest
import torch

from sparselight.errors import ConfigError, SubjectError
from sparselight.protocols import Example
from sparselight.subjects import MaskedLM, SubjectConfig, TokenSettings
from sparselight.testing import check_subject, tiny_corpus, tiny_family, tiny_proteins, tiny_tokenizer
from sparselight.testing.families import family_tokenizer, tiny_model


def bert(**settings: object) -> MaskedLM:
    return MaskedLM(tiny_model("bert"), family_tokenizer("bert"), "bert", 64, **settings)  # type: ignore[arg-type]


def test_every_token_is_hidden_once_and_scored() -> None:
    subject = bert()
    batch = subject.prepare(tiny_corpus(3).examples)
    assert subject.ref().masking is not None
    assert subject.ref().masking.n_groups == 7
    assert subject.scored(batch).all()
    assert torch.isfinite(subject.loss(batch)).all()
    for number in range(7):
        hidden = subject.masked_round(batch, number)[1]
        for example in range(3):
            share = hidden[batch.example == example].float().mean()
            assert 0 < share < 0.25


def test_the_loss_is_that_of_the_bare_model_with_the_same_tokens_hidden() -> None:
    subject = bert(mask_frac=0.34)
    batch = subject.prepare(tiny_corpus(2).examples)
    loss = subject.loss(batch)
    for number in range(3):
        masked, hidden = subject.masked_round(batch, number)
        assert (masked.input_ids != batch.input_ids).sum() == hidden.sum()
        log_p = subject.model(input_ids=masked.input_ids, attention_mask=masked.attention_mask.long()).logits[batch.counts].log_softmax(-1)
        torch.testing.assert_close(loss[hidden], -log_p[hidden, batch.token_id[hidden]])


def test_fewer_rounds_score_fewer_tokens() -> None:
    batch = bert().prepare(tiny_corpus(4).examples)
    some, whole = bert(mask_rounds=2), bert()
    assert torch.equal(some.scored(batch), ~some.loss(batch).isnan())
    assert 0.2 < some.scored(batch).float().mean() < 0.4
    assert torch.equal(some.loss(batch)[some.scored(batch)], whole.loss(batch)[some.scored(batch)])
    check_subject(some, tiny_corpus(3).examples)
    with pytest.raises(SubjectError, match="7 or less"):
        bert(mask_rounds=8)
    with pytest.raises(ConfigError, match="mask_frac"):
        SubjectConfig.parse({"mask_frac": 0.0})


def test_which_tokens_are_hidden_depends_on_seed_and_position_alone() -> None:
    examples = tiny_corpus(4).examples
    together, alone = bert().prepare(examples), bert().prepare(examples[2:3])
    assert torch.equal(bert()._group(together)[together.example == 2], bert()._group(alone))
    assert not torch.equal(bert(mask_seed=1)._group(alone), bert()._group(alone))
    assert bert(mask_seed=1).fingerprint == bert().fingerprint, "the masks change no activation"


def test_edits_reach_the_masked_loss() -> None:
    subject = bert()
    batch = subject.prepare(tiny_corpus(2).examples)
    assert torch.equal(subject.loss(batch, {"resid_post.0": lambda x: x}), subject.loss(batch))
    assert not torch.equal(subject.loss(batch, {"resid_post.0": torch.zeros_like}), subject.loss(batch))


def test_mask_tokens_of_a_text_count_and_are_predicted() -> None:
    subject = tiny_family("esm")
    assert isinstance(subject, MaskedLM)
    batch = subject.prepare([Example("a", "MK<mask>AY", "g")])
    assert [subject.token_text(token) for token in batch.token_id.tolist()] == ["M", "K", "<mask>", "A", "Y"]
    assert subject.predict(batch).shape == (5, 33)
    assert subject.loss(batch).isnan().tolist() == [False, False, True, False, False]


def test_esm_is_studied_as_published() -> None:
    """Activations are those of the bare model on <cls> residues <eos>, also for proteins that share a batch with longer ones."""
    subject, proteins = tiny_family("esm"), tiny_proteins(4).examples
    x, batch = subject.capture(subject.prepare(proteins), ["resid_post.1"])["resid_post.1"], subject.prepare(proteins)
    for number, protein in enumerate(proteins):
        own = batch.example == number
        tokens = family_tokenizer("esm")(protein.text[:62], return_tensors="pt")
        hidden = subject.model.esm(**tokens, output_hidden_states=True).hidden_states
        # The last hidden state has passed the final normalization; the hook's has not.
        normed = subject.model.esm.encoder.emb_layer_norm_after(x[own][:62])
        torch.testing.assert_close(normed, hidden[-1][0, 1:-1][:62], atol=1e-4, rtol=1e-4)


def test_what_a_masked_model_has_not_is_refused() -> None:
    subject = bert()
    with pytest.raises(SubjectError, match="continuation"):
        subject.generate("def", 3)
    with pytest.raises(SubjectError, match="straight way"):
        subject.output_effects(torch.zeros(1, 16), "resid_post.1")
    with pytest.raises(SubjectError, match="no mask token"):
        MaskedLM(tiny_model("bert"), tiny_tokenizer(), "bert", 64)
    with pytest.raises(SubjectError, match="no output layer"):
        MaskedLM(tiny_model("bert_encoder"), family_tokenizer("bert"), "bert", 64)
    with pytest.raises(SubjectError, match="not an encoder"):
        MaskedLM(tiny_model("bert"), family_tokenizer("bert"), "bert", None, TokenSettings(context_tokens=64, pooling="mean"))
