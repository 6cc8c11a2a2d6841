"""Formats without a package to compare with: what their sources compute, written out densely here, against what is read.

Each case makes the files with random weights in the format's own names and orientation, and gives the latents and the reconstruction that its
library computes for x.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparselight.errors import SaeError
from sparselight.sae.formats import load_sae

D, F, K = 8, 24, 4
Tensors = dict[str, Tensor]
Case = tuple[Tensor, Tensor, Tensor]  # x as it is given, latents, reconstruction


@pytest.fixture
def w() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(5)

    def make(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return make


def largest(pre: Tensor, k: int = K) -> Tensor:
    top = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())


def check(source: str | Path, x: Tensor, latents: Tensor, x_hat: Tensor, **settings: Any) -> Any:
    sae = load_sae(source, **settings)
    codes = sae.encode(x)
    assert torch.equal(codes.to_dense() > 0, latents > 0)
    assert int((latents > 0).sum()) > len(x)
    for ours, theirs in ((codes.to_dense(), latents), (sae.decode(codes, x), x_hat)):
        assert float((ours - theirs).abs().max()) <= 1e-6 * max(10.0, float(theirs.abs().max()))
    assert sae.imported is not None
    assert set(sae.imported.conventions) == {"b_dec", "selection", "scaling", "input", "decoder", "dtype", "tokens"}
    return sae.imported


def layer_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.std(-1, keepdim=True) + eps)


# OpenAI, BioNeMo, InterProt: OpenAI's names, or vectors that are normalized one by one.

def openai_state(w: Callable[..., Tensor]) -> dict[str, Any]:
    return {"pre_bias": w(D), "encoder.weight": w(F, D), "latent_bias": w(F), "decoder.weight": w(D, F), "stats_last_nonzero": torch.zeros(F, dtype=torch.long)}


def openai_forward(state: dict[str, Any], x: Tensor, select: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    z = select((x - state["pre_bias"]) @ state["encoder.weight"].T + state["latent_bias"])
    return z, z @ state["decoder.weight"].T + state["pre_bias"]


def test_openai_relu(w: Callable[..., Tensor], tmp_path: Path) -> None:
    state, x = openai_state(w), w(30, D)
    torch.save({**state, "activation": "ReLU", "activation_state_dict": {}}, tmp_path / "8.pt")
    notes = check(tmp_path / "8.pt", x, *openai_forward(state, x, torch.relu))
    assert notes.guessed_from == "the tensors of 8.pt"
    assert notes.conventions["b_dec"].startswith("subtracted")


def test_openai_tied(w: Callable[..., Tensor], tmp_path: Path) -> None:
    state, x = openai_state(w), w(30, D)
    state.pop("decoder.weight")
    torch.save({**state, "decoder.linear.weight": state["encoder.weight"]}, tmp_path / "8.pt")
    check(tmp_path, x, *openai_forward({**state, "decoder.weight": state["encoder.weight"].T}, x, torch.relu))


def test_openai_topk_wants_normalized_vectors(w: Callable[..., Tensor], tmp_path: Path) -> None:
    state, x = openai_state(w), w(30, D)
    torch.save({**state, "activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}, tmp_path / "8.pt")
    with pytest.raises(SaeError, match=r"differs from token to token.*normalization='outside'.*wrap_coder"):
        load_sae(tmp_path / "8.pt")
    given = layer_norm(3 * x + 1)
    notes = check(tmp_path / "8.pt", given, *openai_forward(state, given, largest), normalization="outside")
    assert "must be given normalized" in notes.conventions["input"]
    with pytest.raises(SaeError, match="normalization"):
        load_sae(tmp_path / "8.pt", normalization="inside")


def test_openai_identity(w: Callable[..., Tensor], tmp_path: Path) -> None:
    torch.save({**openai_state(w), "activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "Identity"}}, tmp_path / "8.pt")
    with pytest.raises(SaeError, match="negative activations"):
        load_sae(tmp_path / "8.pt")


@pytest.mark.parametrize("normalized", [False, True])
def test_bionemo(normalized: bool, w: Callable[..., Tensor], tmp_path: Path) -> None:
    state, x = openai_state(w), w(30, D)
    content = {"model_state_dict": {f"module.{name}": value for name, value in state.items()}, "optimizer_state_dict": {}, "global_step": 7, "epoch": 1,
               "model_config": {"input_dim": D, "hidden_dim": F, "top_k": K, "normalize_input": normalized}, "input_dim": D, "hidden_dim": F}
    torch.save(content, tmp_path / "checkpoint_final.pt")
    given = layer_norm(x, 1e-8) if normalized else x
    check(tmp_path, given, *openai_forward(state, given, largest), **({"normalization": "outside"} if normalized else {}))
    if normalized:
        with pytest.raises(SaeError, match="normalize_input is on"):
            load_sae(tmp_path)


def test_bionemo_says_nothing(w: Callable[..., Tensor], tmp_path: Path) -> None:
    state, x = openai_state(w), w(30, D)
    torch.save({"model_state_dict": state, "input_dim": D, "hidden_dim": F}, tmp_path / "c.pt")
    with pytest.raises(SaeError, match=r"give normalize_input=\.\.\."):
        load_sae(tmp_path)
    with pytest.raises(SaeError, match=r"give k=\.\.\."):
        load_sae(tmp_path, normalize_input=False)
    check(tmp_path, x, *openai_forward(state, x, largest), normalize_input=False, k=K)


def test_interprot(w: Callable[..., Tensor], tmp_path: Path) -> None:
    state, x = {"w_enc": w(D, F), "w_dec": w(F, D), "b_enc": w(F), "b_pre": w(D)}, layer_norm(w(30, D))
    save_file(state, tmp_path / "esm2_l24.safetensors")
    for settings, words in (({}, "give k="), ({"k": K}, "normalization='outside'")):
        with pytest.raises(SaeError, match=words):
            load_sae(tmp_path, **settings)
    z = largest((x - state["b_pre"]) @ state["w_enc"] + state["b_enc"])
    check(tmp_path, x, z, z @ state["w_dec"] + state["b_pre"], k=K, normalization="outside")


# InterPLM: dictionary_learning's names with more beside them.

def interplm_state(w: Callable[..., Tensor], bias: str) -> dict[str, Any]:
    return {"encoder.weight": w(F, D), "encoder.bias": w(F), "decoder.weight": w(D, F), bias: w(D), "activation_rescale_factor": w(F).abs() + 0.5,
            "normalize_to_sqrt_d": torch.tensor(False)}


@pytest.mark.parametrize("kind", ["ReLUSAE", "ReLUSAE_Tied", "JumpReLUSAE"])
@pytest.mark.parametrize("divided", [False, True])
def test_interplm(kind: str, divided: bool, w: Callable[..., Tensor], tmp_path: Path) -> None:
    bias = "bias" if kind == "ReLUSAE" else "decoder.bias"
    state, x = interplm_state(w, bias), w(30, D)
    threshold = w(F).abs() if kind == "JumpReLUSAE" else torch.zeros(F)
    torch.save({**state, **({"threshold": threshold} if kind == "JumpReLUSAE" else {})}, tmp_path / "ae_unnormalized.pt")
    pre = (x - state[bias] if kind == "ReLUSAE" else x) @ state["encoder.weight"].T + state["encoder.bias"]
    z = torch.where(pre > threshold, pre.relu(), 0)
    shown = z / state["activation_rescale_factor"] if divided else z
    notes = check(tmp_path, x, shown, z @ state["decoder.weight"].T + state[bias], **({"normalize_features": True} if divided else {}))
    assert notes.format == "interplm"
    assert "activation_rescale_factor" in notes.conventions["scaling"]


def test_interplm_topk_and_batch_topk(w: Callable[..., Tensor], tmp_path: Path) -> None:
    state, x = interplm_state(w, "b_dec"), w(30, D)
    torch.save({**state, "k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.7)}, tmp_path / "ae.pt")
    with pytest.raises(SaeError, match=r"give dict_class=\.\.\. \(TopKSAE or BatchTopKSAE\)"):
        load_sae(tmp_path)
    pre = (x - state["b_dec"]) @ state["encoder.weight"].T + state["encoder.bias"]
    for kind, z in (("TopKSAE", largest(pre)), ("BatchTopKSAE", torch.where(pre > 0.7, pre, 0))):
        check(tmp_path, x, z, z @ state["decoder.weight"].T + state["b_dec"], dict_class=kind)


def test_interplm_scaled_to_sqrt_d(w: Callable[..., Tensor], tmp_path: Path) -> None:
    torch.save({**interplm_state(w, "bias"), "normalize_to_sqrt_d": torch.tensor(True)}, tmp_path / "ae.pt")
    with pytest.raises(SaeError, match="normalize_to_sqrt_d is on"):
        load_sae(tmp_path)


# Qwen Scope, Goodfire, circuit-tracer: orientation is the trap.

def test_qwen_scope(w: Callable[..., Tensor], tmp_path: Path) -> None:
    state, x = {"W_enc": w(F, D), "b_enc": w(F), "W_dec": w(D, F), "b_dec": w(D)}, w(30, D)
    z = largest(x @ state["W_enc"].T + state["b_enc"])
    x_hat = z @ state["W_dec"].T + state["b_dec"]
    torch.save(state, tmp_path / "layer7.sae.pt")
    with pytest.raises(SaeError, match=r"only the repository's name.*give k="):
        load_sae(tmp_path / "layer7.sae.pt")
    notes = check(tmp_path / "layer7.sae.pt", x, z, x_hat, k=K)
    assert notes.facts == {"k": K, "layer": 7}
    named = tmp_path / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}"
    named.mkdir()
    torch.save(state, named / "layer7.sae.pt")
    assert "from the name of the source" in check(named, x, z, x_hat).conventions["selection"]


def test_goodfire(w: Callable[..., Tensor], tmp_path: Path) -> None:
    shapes = {"encoder_linear.weight": (F, D), "encoder_linear.bias": (F,), "decoder_linear.weight": (D, F), "decoder_linear.bias": (D,)}
    state, x = {name: w(*shape) for name, shape in shapes.items()}, w(30, D)
    torch.save(state, tmp_path / "l19.pth")
    z = (x @ state["encoder_linear.weight"].T + state["encoder_linear.bias"]).relu()
    check(tmp_path, x, z, z @ state["decoder_linear.weight"].T + state["decoder_linear.bias"])


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("skip", [False, True])
def test_circuit_tracer(kind: str, skip: bool, w: Callable[..., Tensor], tmp_path: Path) -> None:
    state, x = {"W_enc": w(F, D), "b_enc": w(F), "W_dec": w(F, D), "b_dec": w(D)}, w(30, D)
    pre = x @ state["W_enc"].T + state["b_enc"]
    threshold = w(F).abs()
    z = {"relu": pre.relu(), "jumprelu": torch.where(pre > threshold, pre, 0), "topk": largest(pre)}[kind]
    extra: Tensors = {"activation_function.threshold": threshold} if kind == "jumprelu" else {"k": torch.tensor(K)} if kind == "topk" else {}
    x_hat = z @ state["W_dec"] + state["b_dec"]
    if skip:
        extra["W_skip"] = w(D, D)
        x_hat = x_hat + x @ extra["W_skip"].T
    for layer in range(3):
        save_file({**state, **extra}, tmp_path / f"layer_{layer}.safetensors")
    settings = {"drop_negative": True} if kind == "topk" else {}
    notes = check(tmp_path / "layer_2.safetensors", x, z, x_hat, **settings)
    assert notes.facts == {"transcoder": True, "layer": 2}
    (tmp_path / "config.yaml").write_text("model_name: tiny\nmodel_kind: transcoder_set\nfeature_input_hook: hook_resid_mid\n"
                                          "feature_output_hook: hook_mlp_out\n")
    with pytest.raises(SaeError, match=r"3 transcoders.*give layer="):
        load_sae(tmp_path)
    notes = check(tmp_path, x, z, x_hat, layer=1, **settings)
    assert notes.facts == {"site": "hook_resid_mid", "target_site": "hook_mlp_out", "model": "tiny", "transcoder": True, "layer": 1}


def test_circuit_tracer_lets_negative_ones_pass(w: Callable[..., Tensor], tmp_path: Path) -> None:
    state = {"W_enc": w(F, D), "b_enc": w(F), "W_dec": w(F, D), "b_dec": w(D)}
    save_file({**state, "activation_function.threshold": -torch.ones(F)}, tmp_path / "layer_0.safetensors")
    with pytest.raises(SaeError, match="24 thresholds lie below 0"):
        load_sae(tmp_path / "layer_0.safetensors")
    save_file({**state, "k": torch.tensor(K)}, tmp_path / "layer_0.safetensors")
    with pytest.raises(SaeError, match="give drop_negative="):
        load_sae(tmp_path / "layer_0.safetensors")


# Llama Scope and Llamascopium: scaling, decoder norms in selection, log thresholds.

def lorem_state(w: Callable[..., Tensor]) -> Tensors:
    return {"W_E": w(D, F), "b_E": w(F), "W_D": w(F, D) * torch.linspace(0.5, 2, F).unsqueeze(1), "b_D": w(D)}


def new_config(**changes: Any) -> dict[str, Any]:
    return {"sae_type": "sae", "d_model": D, "expansion_factor": F / D, "hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_mlp_out",
            "use_decoder_bias": True, "use_glu_encoder": False, "act_fn": "jumprelu", "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True,
            "top_k": K, **changes}


@pytest.mark.parametrize("act_fn", ["jumprelu", "relu", "topk"])
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("mode", ["dataset-wise", "inference"])
def test_llamascopium(act_fn: str, with_norm: bool, mode: str, w: Callable[..., Tensor], tmp_path: Path) -> None:
    state, x = lorem_state(w), 5 * w(30, D)
    norm_in, norm_out = 9.0, 4.0
    scale_in, scale_out = (math.sqrt(D) / norm for norm in (norm_in, norm_out)) if mode == "dataset-wise" else (1.0, 1.0)
    threshold, norms = w(F).abs() + 0.1, state["W_D"].norm(dim=1) if with_norm else torch.ones(F)
    pre = (x * scale_in @ state["W_E"] + state["b_E"]) * norms
    selected = {"jumprelu": torch.where(pre > threshold, pre, 0), "relu": pre.relu(), "topk": largest(pre)}[act_fn]
    x_hat = (selected / norms @ state["W_D"] + state["b_D"]) / scale_out
    extra = {"activation_function.log_jumprelu_threshold": threshold.log()} if act_fn == "jumprelu" else {}
    mean_norms = {"hook_resid_post": norm_in, "hook_mlp_out": norm_out}
    extra |= {f"dataset_average_activation_norm.blocks.3.{hook}": torch.tensor(norm) for hook, norm in mean_norms.items()}
    save_file({**state, **extra}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(new_config(act_fn=act_fn, norm_activation=mode, sparsity_include_decoder_norm=with_norm)))
    shown = selected if act_fn == "topk" and with_norm else selected / norms  # the k largest are kept in the units that select
    notes = check(tmp_path, x, shown, x_hat)
    assert notes.format == "llamascopium"
    assert notes.facts == {"site": "blocks.3.hook_resid_post", "target_site": "blocks.3.hook_mlp_out"}


def test_llama_scope_of_2024(w: Callable[..., Tensor], tmp_path: Path) -> None:
    """Its threshold is one for x itself, as the library folds it (and SAELens reads it)."""
    state, x, norm, threshold = lorem_state(w), 5 * w(30, D), 9.0, 0.7
    scale = math.sqrt(D) / norm
    norms = state["W_D"].norm(dim=1)
    folded = (x @ state["W_E"] + state["b_E"] / scale) * norms
    z = torch.where(folded > threshold, folded, 0) / norms
    (tmp_path / "checkpoints").mkdir()
    linear = {"encoder.weight": state["W_E"].T, "encoder.bias": state["b_E"], "decoder.weight": state["W_D"].T, "decoder.bias": state["b_D"]}
    save_file({name: tensor.contiguous() for name, tensor in linear.items()}, tmp_path / "checkpoints" / "final.safetensors")
    config = new_config(jump_relu_threshold=threshold, dataset_average_activation_norm={"in": norm, "out": norm}, hook_point_out="blocks.3.hook_resid_post")
    (tmp_path / "hyperparams.json").write_text(json.dumps(config))
    notes = check(tmp_path, x, z * scale, z @ state["W_D"] + state["b_D"] / scale)
    assert notes.facts == {"site": "blocks.3.hook_resid_post"}
    (tmp_path / "hyperparams.json").write_text(json.dumps({name: value for name, value in config.items() if name != "sparsity_include_decoder_norm"}))
    with pytest.raises(SaeError, match="whether the norms take part in selection"):
        load_sae(tmp_path)


@pytest.mark.parametrize(("change", "words"), [
    ({"use_glu_encoder": True}, "use_glu_encoder = True"), ({"sae_type": "lorsa"}, "sae_type = 'lorsa'"), ({"act_fn": "batchtopk"}, "act_fn = 'batchtopk'"),
    ({"norm_activation": "token-wise"}, "differs from token to token"), ({"d_model": 9}, "d_model = 9, the weights have 8"),
])
def test_llamascopium_refusals(change: dict[str, Any], words: str, w: Callable[..., Tensor], tmp_path: Path) -> None:
    names = {f"dataset_average_activation_norm.blocks.3.{hook}": torch.tensor(3.0) for hook in ("hook_resid_post", "hook_mlp_out")}
    save_file({**lorem_state(w), "activation_function.log_jumprelu_threshold": w(F), **names}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(new_config(**change)))
    with pytest.raises(SaeError, match=words):
        load_sae(tmp_path)


# Gemma Scope 2 is compared with SAELens' reader; its skip connection is the trap.

def test_gemma_scope_2_skip_connection(w: Callable[..., Tensor], tmp_path: Path) -> None:
    shapes = {"w_enc": (D, F), "b_enc": (F,), "w_dec": (F, D), "b_dec": (D,), "threshold": (F,), "affine_skip_connection": (D, D)}
    state, x = {name: w(*shape) for name, shape in shapes.items()}, w(30, D)
    state["threshold"].abs_()
    save_file(state, tmp_path / "params.safetensors")
    pre = x @ state["w_enc"] + state["b_enc"]
    z = torch.where(pre > state["threshold"], pre, 0)
    check(tmp_path, x, z, z @ state["w_dec"] + state["b_dec"] + x @ state["affine_skip_connection"])
    save_file({**state, "w_dec": w(F, 3, D)}, tmp_path / "params.safetensors")
    with pytest.raises(SaeError, match="cross-layer"):
        load_sae(tmp_path)


def test_gemma_scope_embeddings_are_asked(w: Callable[..., Tensor], tmp_path: Path) -> None:
    import numpy as np

    folder = tmp_path / "embedding" / "width_4k" / "average_l0_6"
    folder.mkdir(parents=True)
    state, x = {"W_enc": w(D, F), "b_enc": w(F), "W_dec": w(F, D), "b_dec": w(D), "threshold": w(F).abs()}, w(30, D)
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    with pytest.raises(SaeError, match=r"scaled by sqrt\(d\).*give input_scale="):
        load_sae(folder)
    scale = 1 / math.sqrt(D)
    pre = x * scale @ state["W_enc"] + state["b_enc"]
    z = torch.where(pre > state["threshold"], pre, 0)
    notes = check(folder, x, z, (z @ state["W_dec"] + state["b_dec"]) / scale, input_scale=scale)
    assert "input_scale" in notes.conventions["scaling"]
