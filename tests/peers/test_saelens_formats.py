"""Every architecture of SAELens read here, its training checkpoints, its readers of other formats beside ours. Run by `make test-peers`.

What SAELens saves, we load; what its reader of a format makes of a folder, ours makes too; what we write without a record, it loads.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sparselight as sl
from sparselight.sae import Sae
from sparselight.sae.formats.verify import compare, probe_vectors

pytestmark = pytest.mark.peers

D, F, K, OUT = 24, 96, 6, 16
BASE = {"d_in": D, "d_sae": F}
OUTPUT = {**BASE, "d_out": OUT, "apply_b_dec_to_input": False}
INFERENCE: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", BASE), "standard, b_dec not subtracted": ("standard", {**BASE, "apply_b_dec_to_input": False}),
    "gated": ("gated", BASE), "jumprelu": ("jumprelu", BASE), "topk": ("topk", {**BASE, "k": K}),
    "topk by decoder norm": ("topk", {**BASE, "k": K, "rescale_acts_by_decoder_norm": True}), "transcoder": ("transcoder", OUTPUT),
    "skip transcoder": ("skip_transcoder", OUTPUT), "jumprelu transcoder": ("jumprelu_transcoder", OUTPUT),
    "jumprelu skip transcoder": ("jumprelu_skip_transcoder", OUTPUT),
}
TOPK = {**BASE, "k": K}
TRAINING: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", BASE), "gated": ("gated", BASE), "jumprelu": ("jumprelu", BASE),
    "topk": ("topk", {**TOPK, "rescale_acts_by_decoder_norm": False}),
    "topk by decoder norm": ("topk", {**TOPK, "rescale_acts_by_decoder_norm": True}),
    "batchtopk": ("batchtopk", {**TOPK, "rescale_acts_by_decoder_norm": False}),
    "batchtopk by decoder norm": ("batchtopk", {**TOPK, "rescale_acts_by_decoder_norm": True}),
    "matryoshka": ("matryoshka_batchtopk", {**TOPK, "rescale_acts_by_decoder_norm": True, "matryoshka_widths": [24, 96]}),
}
SCALINGS = {"scale": "expected_average_only_in", "whiten": "covariance_whitening"}


def weights(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,), "threshold": (F,), "W_skip": (D, D)}
    made = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    return {**made, "threshold": made["threshold"].abs()}


def gemma(folder: Path) -> dict[str, Any]:
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in weights().items() if name != "W_skip"})
    return {"reader": "gemma_2", "repository": "google/gemma-scope-2b-pt-res", "folder": "layer_20/width_16k/average_l0_71",
            "overrides": {"d_in": D, "d_sae": F}}


def gemma_2(folder: Path) -> dict[str, Any]:
    names = {"W_skip": "affine_skip_connection"}
    save_file({names.get(name, name.lower()): tensor for name, tensor in weights().items()}, folder / "params.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "hf_hook_point_in": "model.layers.5.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.5.post_feedforward_layernorm.output", "affine_connection": True}))
    return {"reader": "gemma_3", "repository": "google/gemma-scope-2-1b-pt", "folder": "transcoder/layer_5_width_16k_l0_small_affine"}


def llama(folder: Path) -> dict[str, Any]:
    given = weights()
    directions = torch.nn.functional.normalize(given["W_dec"])  # SAELens takes them to be of unit norm
    (folder / "checkpoints").mkdir()
    linear = {"encoder.weight": given["W_enc"].T, "encoder.bias": given["b_enc"], "decoder.weight": directions.T, "decoder.bias": given["b_dec"]}
    save_file({name: tensor.contiguous() for name, tensor in linear.items()}, folder / "checkpoints" / "final.safetensors")
    (folder / "hyperparams.json").write_text(json.dumps({
        "d_model": D, "d_sae": F, "act_fn": "jumprelu", "jump_relu_threshold": 0.5, "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True,
        "dataset_average_activation_norm": {"in": 3.0, "out": 3.0}, "hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_resid_post"}))
    return {"reader": "llama_scope", "repository": "fnlp/Llama3_1-8B-Base-LXR-8x", "folder": "Llama3_1-8B-Base-L3R-8x", "norm": 3.0}


def llama_r1(folder: Path) -> dict[str, Any]:
    given = weights()
    linear = {"encoder.weight": given["W_enc"].T, "encoder.bias": given["b_enc"], "decoder.weight": torch.nn.functional.normalize(given["W_dec"]).T,
              "decoder.bias": given["b_dec"], "log_jumprelu_threshold": given["threshold"].log()}
    save_file({name: tensor.contiguous() for name, tensor in linear.items()}, folder / "sae_weights.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "sae_type": "sae", "d_model": D, "expansion_factor": F // D, "act_fn": "jumprelu", "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 3.0, "out": 3.0}, "hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_resid_post"}))
    return {"reader": "llama_scope_r1_distill", "repository": "fnlp/Llama-Scope-R1-Distill", "folder": "400M-Slimpajama-400M-OpenR1-Math-220k/L3R", "norm": 3.0}


def qwen(folder: Path) -> dict[str, Any]:
    given = weights()
    state = {"W_enc": given["W_enc"].T, "W_dec": given["W_dec"].T, "b_enc": given["b_enc"], "b_dec": given["b_dec"]}
    torch.save({name: tensor.contiguous() for name, tensor in state.items()}, folder / "layer7.sae.pt")
    return {"reader": "qwen_scope", "repository": "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", "folder": "layer7.sae.pt",
            "overrides": {"d_in": D, "d_sae": F, "activation_fn_kwargs": {"k": K}}, "settings": {"k": K}}


def goodfire(folder: Path) -> dict[str, Any]:
    given, name = weights(), "Llama-3.1-8B-Instruct-SAE-l19.pth"
    state = {"encoder_linear.weight": given["W_enc"].T, "encoder_linear.bias": given["b_enc"], "decoder_linear.weight": given["W_dec"].T,
             "decoder_linear.bias": given["b_dec"]}
    torch.save({key: tensor.contiguous() for key, tensor in state.items()}, folder / name)
    return {"reader": "goodfire", "repository": "Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "folder": name, "overrides": {"d_in": D, "d_sae": F}}


def circuit_tracer(folder: Path) -> dict[str, Any]:
    given = weights()
    state = {"W_enc": given["W_enc"].T.contiguous(), **{name: given[name] for name in ("b_enc", "W_dec", "b_dec")}}
    save_file(state, folder / "layer_5.safetensors")
    (folder / "wandb-config.yaml").write_text(f"d_model: {{value: {D}}}\nd_feature: {{value: {F}}}\nbatch_size: {{value: 64}}\n")
    (folder / "config.yaml").write_text("model_name: Qwen/Qwen3-0.6B\nmodel_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"
                                        "feature_output_hook: mlp.hook_out\n")
    return {"reader": "mwhanna_transcoder", "repository": "mwhanna/qwen3-0.6b-transcoders", "folder": "layer_5.safetensors", "source": "layer_5.safetensors"}


def dictionary_learning(folder: Path) -> dict[str, Any]:
    given = weights()
    torch.save({name: given[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}, folder / "ae.pt")
    trainer = {"dict_class": "JumpReluAutoEncoder", "activation_dim": D, "dict_size": F, "layer": 8, "lm_name": "EleutherAI/pythia-70m"}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    return {"reader": "dictionary_learning_1", "repository": "canrager/lm_sae", "folder": "pythia70m/trainer_0"}


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "gemma_scope": gemma, "gemma_scope_2": gemma_2, "llama_scope": llama, "llamascopium": llama_r1, "qwen_scope": qwen, "goodfire": goodfire,
    "circuit_tracer": circuit_tracer, "dictionary_learning": dictionary_learning,
}


def our_sae(kind: str) -> Sae:
    """As if read from elsewhere: without a record."""
    given = weights(7)
    common = {name: given[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if kind == "topk":
        return sl.sae_from_arrays(**common, k=K, subtract_b_dec=True)
    return sl.sae_from_arrays(**common, threshold=given["threshold"], subtract_b_dec=False, W_skip=given["W_skip"] if kind == "skip transcoder" else None)


OURS = ("jumprelu", "topk", "skip transcoder")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, run_driver: Callable[..., str]) -> dict[str, Path]:
    root, made = tmp_path_factory.mktemp("saelens_formats"), {}
    x = 2 * torch.randn(256, D, generator=torch.Generator().manual_seed(5))

    def add(name: str, case: dict[str, Any], vectors: Tensor = x) -> Path:
        folder = made.setdefault(name, root / f"case{len(made)}")
        (folder / "sae").mkdir(parents=True, exist_ok=True)
        (folder / "case.json").write_text(json.dumps(case))
        save_file({"x": vectors}, folder / "inputs.safetensors")
        return folder

    for kind, (architecture, settings) in INFERENCE.items():
        add(f"inference: {kind}", {"what": "inference", "architecture": architecture, "settings": settings})
    add("layer_norm", {"what": "inference", "architecture": "topk", "settings": {**TOPK, "normalize_activations": "layer_norm"}})
    for scaling, name in SCALINGS.items():
        for kind, (architecture, settings) in TRAINING.items():
            settings = {**settings, "normalize_activations": name}
            add(f"{scaling}: {kind}", {"what": "training", "architecture": architecture, "settings": settings, "scaling": scaling})
    for form, write in READERS.items():
        folder = add(f"reader: {form}", {})
        (folder / "case.json").write_text(json.dumps({"what": "reader", **write(folder / "sae")}))
    for kind in OURS:
        folder = add(f"ours: {kind}", {"what": "load"}, probe_vectors(our_sae(kind)))
        sl.export_sae(our_sae(kind), folder / "sae", "saelens")
    run_driver("saelens", "saelens_formats_driver.py", list(made.values()))
    return made


def check(name: str, folder: Path, sae: Sae, given: Callable[[Tensor], Tensor] = lambda x: x) -> Any:
    theirs, x = load_file(folder / "outputs.safetensors"), load_file(folder / "inputs.safetensors")["x"]
    found = compare(name, sae, theirs["latents"], theirs["reconstruction"], given(x))
    print(found.line())
    return found


@pytest.mark.parametrize("kind", INFERENCE)
def test_they_save_we_load(kind: str, cases: dict[str, Path]) -> None:
    folder = cases[f"inference: {kind}"]
    found = check(kind, folder, sl.load_sae(folder / "sae"))
    assert found.equal
    assert found.n_active > 256


@pytest.mark.parametrize("kind", TRAINING)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_training_checkpoint_is_what_they_export(scaling: str, kind: str, cases: dict[str, Path]) -> None:
    """The unfolded checkpoint with its scaling beside it, read here, and the same SAE folded and exported by SAELens."""
    folder = cases[f"{scaling}: {kind}"]
    sae = sl.load_sae(folder / "sae")
    assert sae.imported is not None
    assert "folded into the weights" in sae.imported.conventions["scaling"]
    found = check(f"{scaling}, {kind}", folder, sae)
    assert found.equal
    assert found.n_active > 256
    assert check("exported", folder, sl.load_sae(folder / "exported")).equal


def test_layer_norm_is_left_to_the_user(cases: dict[str, Path]) -> None:
    def layer_norm(x: Tensor) -> Tensor:
        centered = x - x.mean(1, keepdim=True)
        return centered / (centered.std(1, keepdim=True) + 1e-5)

    folder = cases["layer_norm"]
    sae = sl.load_sae(folder / "sae", normalization="outside")
    theirs, x = load_file(folder / "outputs.safetensors"), load_file(folder / "inputs.safetensors")["x"]
    codes = sae.encode(layer_norm(x))
    assert torch.allclose(codes.to_dense(), theirs["latents"], atol=1e-4)
    centered = x - x.mean(1, keepdim=True)
    undone = sae.decode(codes) * centered.std(1, keepdim=True) + x.mean(1, keepdim=True)
    assert torch.allclose(undone, theirs["reconstruction"], atol=1e-3)


@pytest.mark.parametrize("form", READERS)
def test_their_reader_and_ours(form: str, cases: dict[str, Path]) -> None:
    folder = cases[f"reader: {form}"]
    case = json.loads((folder / "case.json").read_text())
    sae = sl.load_sae(folder / "sae" / case.get("source", ""), **case.get("settings", {}))
    assert sae.imported is not None
    assert sae.imported.format == form
    found = check(form, folder, sae)
    assert found.equal
    assert found.n_active > 256


@pytest.mark.parametrize("kind", OURS)
def test_we_save_they_load(kind: str, cases: dict[str, Path]) -> None:
    assert check(kind, cases[f"ours: {kind}"], our_sae(kind)).equal


def test_a_wrong_reading_is_seen(cases: dict[str, Path]) -> None:
    """The scaling left out."""
    folder = cases["scale: batchtopk"]
    sae = sl.load_sae(folder / "sae")
    sae.W_enc.div_(math.sqrt(2))
    assert not check("wrong", folder, sae).equal
