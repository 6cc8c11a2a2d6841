import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, OPTConfig, OPTForCausalLM

from sparselight.errors import SubjectError
from sparselight.subjects import CausalLM
from sparselight.testing import check_subject, tiny_corpus, tiny_subject, tiny_tokenizer

N_VOCABULARY = 400


def make_family(kind: str) -> CausalLM:
    torch.manual_seed(0)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=N_VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.2))
    elif kind == "gpt_neox":
        model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=N_VOCABULARY, max_position_embeddings=64, hidden_size=16, num_hidden_layers=2,
                                                 num_attention_heads=2, intermediate_size=32, initializer_range=0.2))
    elif kind == "opt":
        model = OPTForCausalLM(OPTConfig(vocab_size=N_VOCABULARY, max_position_embeddings=64, hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=2,
                                         num_attention_heads=2, ffn_dim=32, pad_token_id=1, init_std=0.2))
    else:
        model = Gemma2ForCausalLM(Gemma2Config(vocab_size=N_VOCABULARY, max_position_embeddings=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                               num_key_value_heads=1, head_dim=8, intermediate_size=32, initializer_range=0.2))
    return CausalLM(model, tiny_tokenizer(N_VOCABULARY), kind, context_tokens=64)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "opt", "gemma2"])
def test_families_pass_the_battery_with_all_standard_sites(kind: str) -> None:
    subject = make_family(kind)
    layers = [f"{part}.{layer}" for layer in range(2) for part in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    assert subject.sites() == ["embed", *layers]
    assert {subject.d_site(site) for site in subject.sites()} == {16}
    check_subject(subject, tiny_corpus(3).examples)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "opt", "gemma2"])
def test_attention_and_feed_forward_outputs_add_up_to_the_residual_stream(kind: str) -> None:
    subject = make_family(kind)
    x = subject.capture(subject.prepare(tiny_corpus(2).examples), subject.sites())
    for layer in range(2):
        total = x[f"resid_pre.{layer}"] + x[f"attn_out.{layer}"] + x[f"mlp_out.{layer}"]
        torch.testing.assert_close(total, x[f"resid_post.{layer}"], atol=1e-4, rtol=1e-4)
    assert torch.equal(x["resid_post.0"], x["resid_pre.1"])


@pytest.mark.parametrize(("kind", "centres"), [("gpt2", True), ("gpt_neox", True), ("opt", True), ("gemma2", False)])
def test_output_effects_are_the_derivative_of_the_logits_up_to_the_norms_scale(kind: str, centres: bool) -> None:
    subject = make_family(kind)
    subject.model.config.final_logit_softcapping = None
    batch = subject.prepare(tiny_corpus(1).examples)
    x = subject.capture(batch, ["resid_post.1"])["resid_post.1"]
    if centres:
        x = x - x.mean(-1, keepdim=True)
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))
    if centres:
        direction = direction - direction.mean()
    # A small step across the activation leaves its length as it is, so that the final normalization only divides by a constant.
    across = direction - (x @ direction / x.square().sum(-1))[:, None] * x
    step = 1e-2 * across
    difference = (subject.predict(batch, {"resid_post.1": lambda y: y + step}) - subject.predict(batch, {"resid_post.1": lambda y: y - step})) / 2e-2
    expected = subject.output_effects(across, "resid_post.1") / x.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(difference, expected, atol=0.01 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize(("site", "why", "instead"), [
    ("resid_post.3", "layers 0 to 2", "'resid_post.2'"),
    ("resid_post.-1", "layers 0 to 2", "'resid_post.0'"),
    ("resid_post", "names no layer", "'resid_post.1'"),
    ("resid_pots.1", "no such site", "'resid_post.1'"),
    ("qqqq", "no such site", "resid_pre.N"),
    ("model.layers.0:outptu", "ends in :input or :output", "model.layers.0:output"),
    ("model.layers.0.mpl:output", "no module 'model.layers.0.mpl'", "'model.layers.0.mlp'"),
    (":output", "no module ''", "print(model)"),
    ("model.rotary_emb:output", "not one vector a position", "[row, position, d]"),
])
def test_site_errors_name_what_is_near(site: str, why: str, instead: str) -> None:
    with pytest.raises(SubjectError) as caught:
        tiny_subject().d_site(site)
    assert repr(site) in str(caught.value)
    assert why in caught.value.why
    assert instead in caught.value.instead


def test_module_paths_address_inputs_and_outputs() -> None:
    subject = tiny_subject()
    batch = subject.prepare(tiny_corpus(2).examples)
    paths = [f"model.layers.1{end}" for end in (":input", ":output", ".self_attn:output", ".mlp.gate_proj:output", ".self_attn:input")]
    x = subject.capture(batch, [*paths, "resid_pre.1", "resid_post.1", "attn_out.1"])
    assert torch.equal(x[paths[0]], x["resid_pre.1"])
    assert torch.equal(x[paths[1]], x["resid_post.1"])
    assert torch.equal(x[paths[2]], x["attn_out.1"])
    assert subject.d_site(paths[3]) == 64
    torch.testing.assert_close(x[paths[4]], subject.model.model.layers[1].input_layernorm(x["resid_pre.1"]))


def test_a_module_that_runs_twice_is_refused() -> None:
    subject = tiny_subject()
    subject.model.model.layers[1].mlp = subject.model.model.layers[0].mlp
    with pytest.raises(SubjectError, match="runs 2 times"):
        subject.d_site("model.layers.0.mlp:output")
