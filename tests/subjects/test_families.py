"""Standard site names mean the same in every family: each definition is checked on a model of it, with arithmetic of the test's own."""

import pytest
import torch
from torch import Tensor, nn
from transformers import GraniteConfig, GraniteForCausalLM

from sparselight.errors import SubjectError
from sparselight.protocols import Example
from sparselight.subjects import CausalLM, HuggingFaceSubject
from sparselight.testing import FAMILY_MODELS, check_subject, tiny_corpus, tiny_family, tiny_proteins, tiny_tokenizer
from sparselight.testing.families import DECODER

PARALLEL = {"phi", "gptj", "falcon", "gpt_neox"}
# Where a post-norm family keeps the two normalizations of a layer.
POST_NORM = {
    "opt_post_norm": ("model.decoder.layers.{}.self_attn_layer_norm", "model.decoder.layers.{}.final_layer_norm"),
    "bert": ("bert.encoder.layer.{}.attention.output.LayerNorm", "bert.encoder.layer.{}.output.LayerNorm"),
    "roberta": ("roberta.encoder.layer.{}.attention.output.LayerNorm", "roberta.encoder.layer.{}.output.LayerNorm"),
    "electra": ("electra.encoder.layer.{}.attention.output.LayerNorm", "electra.encoder.layer.{}.output.LayerNorm"),
    "mpnet": ("mpnet.encoder.layer.{}.attention.LayerNorm", "mpnet.encoder.layer.{}.output.LayerNorm"),
    "distilbert": ("distilbert.transformer.layer.{}.sa_layer_norm", "distilbert.transformer.layer.{}.output_layer_norm"),
    "bert_encoder": ("encoder.layer.{}.attention.output.LayerNorm", "encoder.layer.{}.output.LayerNorm"),
}
# The projection down from mlp_act.N to what the feed-forward block gives, before any normalization of that.
DOWN = {
    "llama": "model.layers.{}.mlp.down_proj", "gpt2": "transformer.h.{}.mlp.c_proj", "opt": "model.decoder.layers.{}.fc2",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h", "esm": "esm.encoder.layer.{}.output.dense", "bert": "bert.encoder.layer.{}.output.dense",
    "distilbert": "distilbert.transformer.layer.{}.ffn.lin2", "modernbert": "model.layers.{}.mlp.Wo",
    "t5_encoder": "encoder.block.{}.layer.1.DenseReluDense.wo",
}


def examples(family: str) -> list[Example]:
    return tiny_proteins(3).examples if family == "esm" else tiny_corpus(3).examples


def captured(subject: HuggingFaceSubject, family: str) -> dict[str, Tensor]:
    return subject.capture(subject.prepare(examples(family)), subject.sites())


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4 * float(b.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("family", FAMILY_MODELS)
def test_families_pass_the_battery_with_all_standard_sites(family: str) -> None:
    subject = tiny_family(family)
    parts = ["resid_pre", "attn_out", "resid_mid", "mlp_act", "mlp_out", "resid_post"]
    if family in PARALLEL:
        parts.remove("resid_mid")
    assert subject.sites() == ["embed", *(f"{part}.{layer}" for layer in range(2) for part in parts)]
    assert {subject.d_site(site) for site in subject.sites() if "mlp_act" not in site} == {16}
    assert subject.d_site("mlp_act.0") > 16
    check_subject(subject, examples(family))


@pytest.mark.parametrize("family", FAMILY_MODELS)
def test_the_residual_stream_adds_up(family: str) -> None:
    subject = tiny_family(family)
    x = captured(subject, family)
    assert torch.equal(x["resid_post.0"], x["resid_pre.1"])
    for layer in range(2):
        before, attention, feed_forward, after = (x[f"{part}.{layer}"] for part in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
        if family in PARALLEL:
            assert subject.wirings[layer] == "parallel"
            close(before + attention + feed_forward, after)
            continue
        middle = x[f"resid_mid.{layer}"]
        if family in POST_NORM:
            assert subject.wirings[layer] == "post_norm"
            first, second = (subject.model.get_submodule(path.format(layer)) for path in POST_NORM[family])
            assert isinstance(first, nn.LayerNorm)
            close(first(before + attention), middle)
            close(second(middle + feed_forward), after)
        else:
            assert subject.wirings[layer] == "sequential"
            close(before + attention, middle)
            close(middle + feed_forward, after)


@pytest.mark.parametrize("family", DOWN)
def test_feed_forward_activations_are_what_is_projected_down(family: str) -> None:
    subject = tiny_family(family)
    x = captured(subject, family)
    for layer in range(2):
        close(subject.model.get_submodule(DOWN[family].format(layer))(x[f"mlp_act.{layer}"]), x[f"mlp_out.{layer}"])


def test_feed_forward_activations_come_after_the_nonlinearity() -> None:
    subject = tiny_family("llama")
    x = subject.capture(subject.prepare(examples("llama")), ["mlp_act.1", "model.layers.1.mlp:input"])
    mlp, inner = subject.model.model.layers[1].mlp, x["model.layers.1.mlp:input"]
    close(torch.nn.functional.silu(mlp.gate_proj(inner)) * mlp.up_proj(inner), x["mlp_act.1"])


def test_the_esm_site_of_published_saes_is_resid_post() -> None:
    """`esm.encoder.layer.3.output`, and hidden_states[4] of transformers, is resid_post.3."""
    subject = tiny_family("esm")
    batch = subject.prepare(examples("esm"))
    x = subject.capture(batch, ["resid_post.0", "esm.encoder.layer.0.output:output", "esm.encoder.layer.0:output"])
    hidden = subject.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), output_hidden_states=True).hidden_states
    assert torch.equal(x["resid_post.0"], hidden[1][batch.counts])
    assert torch.equal(x["resid_post.0"], x["esm.encoder.layer.0.output:output"])


def test_names_whose_definition_a_model_does_not_keep_are_refused() -> None:
    subject = CausalLM(GraniteForCausalLM(GraniteConfig(**{**DECODER, "residual_multiplier": 0.5})), tiny_tokenizer(), "granite", 64)
    assert subject.wirings == ["unknown", "unknown"]
    assert subject.sites() == ["embed", "resid_pre.0", "mlp_act.0", "resid_post.0", "resid_pre.1", "mlp_act.1", "resid_post.1"]
    with pytest.raises(SubjectError, match="does not add up"):
        subject.d_site("attn_out.1")
    assert subject.d_site("model.layers.1.self_attn:output") == 16
    with pytest.raises(SubjectError, match="side by side"):
        tiny_family("gpt_neox").d_site("resid_mid.0")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "bert", "gemma2", "esm"])
def test_half_precision_keeps_the_names(family: str, dtype: torch.dtype) -> None:
    whole = tiny_family(family)
    subject = type(whole)(whole.model.to(dtype), whole._tokens.vocabulary._tokenizer, family, 64)
    assert subject.sites() == tiny_family(family).sites()
    assert subject.wirings == tiny_family(family).wirings
