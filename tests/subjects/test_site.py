import pytest
import torch

from sparselight.errors import SubjectError
from sparselight.testing import tiny_corpus, tiny_family, tiny_subject


@pytest.mark.parametrize(("kind", "centers"), [("gpt2", True), ("gpt_neox", True), ("opt", True), ("gemma2", False), ("olmo2", False)])
def test_output_effects_are_the_derivative_of_the_logits_up_to_the_norms_scale(kind: str, centers: bool) -> None:
    subject = tiny_family(kind)
    subject.model.config.final_logit_softcapping = None
    batch = subject.prepare(tiny_corpus(1).examples)
    x = subject.capture(batch, ["resid_post.1"])["resid_post.1"]
    if centers:
        x = x - x.mean(-1, keepdim=True)
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))
    if centers:
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
    ("pooled", "one vector a token", "subject.pooling"),
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
