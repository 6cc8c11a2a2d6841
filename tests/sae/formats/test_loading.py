"""What is recognized, what is said of it, and what is asked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sparselight as sl
from sparselight.errors import SaeError
from sparselight.sae import Sae, save_sae
from sparselight.sae.formats import export_sae, load_sae
from sparselight.sae.import_notes import CONVENTIONS


@pytest.fixture
def tree(random_sae: Callable[..., Sae], tmp_path: Path) -> Path:
    """What sparsify leaves: hookpoints, one of them with two seeds, and settings at the root."""
    root = tmp_path / "run"
    for seed, path in enumerate(("layers.2", "layers.10", "layers.11/seed0", "layers.11/seed1")):
        export_sae(random_sae(seed=seed, k=3), root / path, "sparsify")
    (root / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-70m", "dataset": "tiny", "ctx_len": 64, "sae": {}}))
    (root / "state.pt").write_bytes(b"not looked at")
    return root


def test_a_tree_is_listed_in_order(tree: Path) -> None:
    with pytest.raises(SaeError, match=r"it holds 4 SAEs: layers.2, layers.10, layers.11/seed0, layers.11/seed1\..*for example .*run/layers.2"):
        load_sae(tree)


@pytest.mark.parametrize("path", ["layers.2", "layers.11/seed1", "layers.2/sae.safetensors"])
def test_one_of_a_tree(path: str, tree: Path) -> None:
    sae = load_sae(tree / path)
    assert sae.imported is not None
    assert sae.imported.facts == {"site": path.split("/")[0], "model": "EleutherAI/pythia-70m", "dataset": "tiny", "context_tokens": 64}
    assert sae.imported.format == "sparsify"
    assert sae.imported.guessed_from == "cfg.json and sae.safetensors"
    assert set(sae.imported.conventions) == set(CONVENTIONS)


def test_notes_are_shown(tree: Path) -> None:
    sae = sl.load_sae(tree / "layers.2")
    assert "read as sparsify (recognized by cfg.json and sae.safetensors)" in repr(sae)
    page = sae._repr_html_()
    assert "subtracted from the input before encoding" in page
    assert "the 3 largest positive pre-activations of each token" in page


def test_names_never_run_as_html(random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    folder = tmp_path / "<b>"
    export_sae(random_sae(k=3), folder, "sparsify")
    assert "<b>" not in load_sae(folder)._repr_html_()


def test_ours_keeps_its_record_and_has_no_notes(random_sae: Callable[..., Sae], record_of: Callable[..., Any], tmp_path: Path) -> None:
    sae = random_sae()
    save_sae(sae, record_of(sae), tmp_path / "sae")
    back = load_sae(tmp_path / "sae")
    assert back.record == sae.record
    assert back.imported is None
    assert back.weights_hash() == sae.weights_hash()


def test_naming_a_format(tree: Path) -> None:
    sae = load_sae(f"sparsify:{tree}/layers.2")
    assert sae.imported is not None
    assert sae.imported.guessed_from is None
    faulty = ((f"sparsfy:{tree}", "use 'sparsify'"), (f"gemma_scope:{tree}/layers.2", "there is no params.npz"), (str(tree / "nothing"), "no such file"))
    for source, words in faulty:
        with pytest.raises(SaeError, match=words):
            load_sae(source)


def test_a_file_with_a_colon_in_its_name(random_sae: Callable[..., Sae], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_sae(random_sae(k=3), tmp_path / "model:3", "sparsify")
    monkeypatch.chdir(tmp_path)
    assert load_sae("model:3").k == 3


def test_settings_are_checked(tree: Path) -> None:
    for settings, words in (({"kk": 3}, "has no setting kk"), ({"input_scale": "2"}, "input_scale = '2' is no float"), ({"input_scale": True}, "is no float")):
        with pytest.raises(SaeError, match=words):
            load_sae(tree / "layers.2", **settings)


def test_input_scale(tree: Path) -> None:
    sae, scaled = load_sae(tree / "layers.2"), load_sae(tree / "layers.2", input_scale=4)
    x = torch.randn(10, sae.d_in, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(scaled.encode(x).to_dense(), sae.encode(4 * x).to_dense(), atol=1e-4)
    assert torch.allclose(scaled.reconstruct(x), sae.reconstruct(4 * x) / 4, atol=1e-4)
    assert scaled.imported is not None
    assert scaled.imported.conventions["scaling"] == "inputs times 4 (input_scale), folded into the weights"


def test_several_files_in_one_folder_are_listed(tmp_path: Path) -> None:
    for layer in (1, 2, 10):
        torch.save({"W_enc": torch.ones(4, 3), "b_enc": torch.ones(4), "W_dec": torch.ones(3, 4), "b_dec": torch.ones(3)}, tmp_path / f"layer{layer}.sae.pt")
    with pytest.raises(SaeError, match=r"3 SAEs: layer1.sae.pt, layer2.sae.pt, layer10.sae.pt"):
        load_sae(tmp_path)
    assert load_sae(tmp_path / "layer10.sae.pt", k=2).k == 2


# dictionary_learning: what its files leave open.

def test_a_class_that_the_tensors_leave_open(random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    export_sae(random_sae(k=3), tmp_path / "t", "dictionary_learning")
    (tmp_path / "t" / "config.json").unlink()
    with pytest.raises(SaeError, match=r"AutoEncoderTopK or BatchTopKSAE, which select differently.*give dict_class="):
        load_sae(tmp_path / "t")
    assert load_sae(tmp_path / "t", dict_class="AutoEncoderTopK").k == 3
    with pytest.raises(SaeError, match=r"threshold is -1: training never set it.*give threshold="):
        load_sae(tmp_path / "t", dict_class="BatchTopKSAE")
    assert float(load_sae(tmp_path / "t", dict_class="BatchTopKSAE", threshold=0.5).threshold.min()) == 0.5
    with pytest.raises(SaeError, match="dict_class is 'GatedAutoEncoder', its tensors are those of"):
        load_sae(tmp_path / "t", dict_class="GatedAutoEncoder")


def test_the_loaders_own_normalization(random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    """dictionary_learning rescales rows of an AutoEncoder when it loads one; so do we, and say it."""
    sae = random_sae()
    state = {"encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "decoder.weight": 3 * sae.W_dec.T, "bias": sae.b_dec}
    torch.save({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "ae.pt")
    x = torch.randn(10, sae.d_in, generator=torch.Generator().manual_seed(0))
    loaded, stored = load_sae(tmp_path), load_sae(tmp_path, normalize_decoder=False)
    assert torch.allclose(loaded.W_dec.norm(dim=1), torch.ones(sae.n_latents))
    assert torch.allclose(loaded.encode(x).to_dense(), 3 * stored.encode(x).to_dense(), atol=1e-5)
    assert torch.allclose(loaded.reconstruct(x), stored.reconstruct(x), atol=1e-4)
    assert loaded.imported is not None
    assert "as its own loader makes them" in loaded.imported.conventions["decoder"]


# SAELens: what disk.py leaves out.

def saelens_folder(folder: Path, cfg: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae_weights.safetensors")
    return folder


OLD_CFG = {"model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8, "d_in": 6, "d_sae": 20, "dtype": "float32",
           "context_size": 256, "prepend_bos": True, "activation_fn_str": "relu", "finetuning_scaling_factor": False,
           "normalize_activations": False, "sae_lens_version": "3.7.0"}


def test_before_6(random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    sae = random_sae()
    sae.threshold.zero_()
    weights = {name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    back = load_sae(saelens_folder(tmp_path / "sae", OLD_CFG, {**weights, "scaling_factor": torch.ones(20)}))
    assert back.weights_hash() == sae.weights_hash()
    assert back.imported is not None
    assert back.imported.facts == {"model": "gpt2-small", "site": "blocks.8.hook_resid_pre", "context_tokens": 256, "prepend_bos": True}
    assert back.imported.conventions["tokens"] == "texts begin with BOS"
    assert "before SAELens 6.0" in back.imported.cautions[0]
    topk = load_sae(saelens_folder(tmp_path / "topk", {**OLD_CFG, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}, weights))
    assert topk.k == 4


def test_finetuning(random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    sae, factor = random_sae(), torch.linspace(0.5, 2, 20)
    sae.threshold.zero_()
    tensors = {**{name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}, "scaling_factor": factor}
    with pytest.raises(SaeError, match="does not mention"):
        load_sae(saelens_folder(tmp_path / "a", OLD_CFG, tensors))
    back = load_sae(saelens_folder(tmp_path / "b", {**OLD_CFG, "finetuning_scaling_factor": True}, tensors))
    x = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    z = sae.encode(x).to_dense()
    assert torch.equal(back.encode(x).to_dense(), z)
    assert torch.allclose(back.reconstruct(x), (z * factor) @ sae.W_dec + sae.b_dec, atol=1e-5)


NEW_CFG = {"architecture": "jumprelu", "d_in": 6, "d_sae": 20, "dtype": "float32", "apply_b_dec_to_input": True, "normalize_activations": "none",
           "reshape_activations": "none", "metadata": {"sae_lens_version": "6.54.0", "hook_name": "blocks.1.hook_z", "prepend_bos": False}}


@pytest.mark.parametrize(("change", "settings", "words"), [
    ({"normalize_activations": "layer_norm"}, {}, r"layer_norm.*differs from token to token"),
    ({"normalize_activations": "constant_norm_rescale"}, {}, r"x \* sqrt\(d_in\) / \|x\|"),
    ({"normalize_activations": "expected_average_only_in"}, {}, "give input_scale="),
    ({"normalize_activations": "covariance_whitening"}, {}, "activation_whitening.safetensors is not there"),
    ({"normalize_activations": "z_score"}, {}, "normalize_activations = 'z_score'"),
    ({"reshape_activations": "hook_q"}, {}, "reshape_activations = 'hook_q'"),
    ({"architecture": "temporal"}, {}, "no selection from one product"),
    ({"architecture": "abstopk"}, {}, "wrap_coder"),
    ({"architecture": "topk", "k": None}, {}, "k = None"),
    ({"d_sae": 21}, {}, r"d_in, d_sae, d_out = \[6, 21, 6\], the weights have \[6, 20, 6\]"),
    ({"apply_b_dec_to_input": None}, {}, "apply_b_dec_to_input = None"),
])
def test_refusals_of_saelens(change: dict[str, Any], settings: dict[str, Any], words: str, random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    tensors = random_sae().tensors()
    if change.get("architecture") == "topk":
        tensors.pop("threshold")
    with pytest.raises(SaeError, match=words):
        load_sae(saelens_folder(tmp_path / "sae", {**NEW_CFG, **change}, tensors), **settings)


@pytest.mark.parametrize(("change", "settings", "convention", "words"), [
    ({"normalize_activations": "layer_norm"}, {"normalization": "outside"}, "input", "must be given normalized"),
    ({"reshape_activations": "hook_z"}, {}, "input", "all attention heads, concatenated"),
    ({"normalize_activations": "expected_average_only_in"}, {"input_scale": 1.0}, "scaling", "input_scale"),
])
def test_said_by_saelens(change: dict[str, Any], settings: dict[str, Any], convention: str, words: str, random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    sae = random_sae()
    back = load_sae(saelens_folder(tmp_path / "sae", {**NEW_CFG, **change}, sae.tensors()), **settings)
    assert torch.allclose(back.W_enc, sae.W_enc)
    assert back.imported is not None
    assert words in back.imported.conventions[convention]
    assert back.imported.conventions["tokens"] == "texts do not begin with BOS"
