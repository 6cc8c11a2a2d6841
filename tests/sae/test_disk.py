"""SAE folders: what is written reads back exactly, foreign ones read where they can, damaged ones are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparselight.errors import SaeError
from sparselight.records import SaeRecord, SubjectRef, TokenPolicy
from sparselight.sae import Sae, initialize, load_sae, save_sae, save_stitched

X = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Sae, Path]:
    sae = initialize(Sae(5, 12), torch.linspace(-1, 1, 5), torch.Generator().manual_seed(1))
    sae.threshold.copy_(torch.linspace(0, 0.5, 12))
    subject = SubjectRef(name="tiny", fingerprint="f", token_policy=TokenPolicy(prepend_bos=True, context_tokens=64))
    record = SaeRecord(
        architecture="batch_topk", role="base", site="model.layers.1:output", subject=subject, store_fingerprint="s", d_in=5, n_latents=12, k=2, l0=2.1,
        n_dead=1, dead_after_tokens=100, n_tokens_seen=1000, normalization="n", loss_scale="l", config={})
    save_sae(sae, record, tmp_path / "sae")
    return sae, tmp_path / "sae"


def edit_cfg(folder: Path, **changes: Any) -> None:
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**cfg, **changes}))


def edit_weights(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "sae_weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "sae_weights.safetensors")


@pytest.mark.parametrize("subtract_b_dec", [True, False])
def test_save_then_load_changes_nothing(saved: tuple[Sae, Path], subtract_b_dec: bool) -> None:
    sae, folder = saved
    sae.subtract_b_dec = subtract_b_dec
    assert sae.record is not None
    save_sae(sae, sae.record, folder)  # over an existing one
    loaded = load_sae(folder)
    assert loaded.weights_hash() == sae.weights_hash()
    assert torch.equal(loaded.reconstruct(X), sae.reconstruct(X))
    assert loaded.record == sae.record
    assert sorted(path.name for path in folder.parent.iterdir()) == ["sae"]
    assert sorted(path.name for path in folder.iterdir()) == ["cfg.json", "sae_weights.safetensors", "sparselight.json"]


def test_cfg_is_saelens(saved: tuple[Sae, Path]) -> None:
    cfg = json.loads((saved[1] / "cfg.json").read_text())
    metadata = cfg.pop("metadata")
    assert cfg == {
        "architecture": "jumprelu", "d_in": 5, "d_sae": 12, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "none"}
    assert metadata.pop("sae_lens_version")
    assert metadata == {
        "model_name": "tiny", "hook_name": "model.layers.1:output", "hf_hook_name": "model.layers.1", "context_size": 64, "prepend_bos": True,
        "exclude_special_tokens": True, "training_architecture": "batchtopk", "l0": 2.1, "num_dead_features": 1}


def test_a_killed_writers_leftovers_go_away(saved: tuple[Sae, Path]) -> None:
    sae, folder = saved
    (folder.parent / ".sae.123.new.tmp").mkdir()
    assert sae.record is not None
    save_sae(sae, sae.record, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["sae"]


def test_foreign_folder_without_our_record(saved: tuple[Sae, Path]) -> None:
    sae, folder = saved
    (folder / "sparselight.json").unlink()
    loaded = load_sae(str(folder))
    assert loaded.record is None
    assert loaded.weights_hash() == sae.weights_hash()


def test_standard_folder_has_threshold_zero(saved: tuple[Sae, Path]) -> None:
    sae, folder = saved
    edit_cfg(folder, architecture="standard")
    edit_weights(folder, lambda tensors: tensors.pop("threshold"))
    sae.threshold.zero_()
    assert torch.equal(load_sae(folder).reconstruct(X), sae.reconstruct(X))


@pytest.mark.parametrize(("fault", "words"), [
    (lambda f: (f / "cfg.json").unlink(), "there is no cfg.json"),
    (lambda f: (f / "cfg.json").write_text("{"), "cfg.json cannot be read"),
    (lambda f: (f / "cfg.json").write_text("[]"), "cfg.json is damaged"),
    (lambda f: edit_cfg(f, architecture="jump_relu"), "architecture is 'jump_relu'.*use 'jumprelu'"),
    (lambda f: edit_cfg(f, d_in="5"), "d_in = '5', which is no int"),
    (lambda f: edit_cfg(f, d_in=6), r"W_dec has shape \[12, 5\], cfg.json says \[12, 6\]"),
    (lambda f: edit_cfg(f, normalize_activations="layer_norm"), "normalize_activations = 'layer_norm'"),
    (lambda f: edit_cfg(f, reshape_activations="hook_z"), "reshape_activations = 'hook_z'"),
    (lambda f: (f / "sae_weights.safetensors").unlink(), "there is no sae_weights"),
    (lambda f: (f / "sae_weights.safetensors").write_bytes((f / "sae_weights.safetensors").read_bytes()[:-9]), "sae_weights.safetensors is damaged"),
    (lambda f: edit_weights(f, lambda t: t.pop("threshold")), "with exactly W_dec, W_enc, b_dec, b_enc, threshold"),
    (lambda f: edit_weights(f, lambda t: t.update(scaling_factor=torch.ones(12))), "scaling_factor"),
    (lambda f: edit_weights(f, lambda t: t["b_enc"].fill_(torch.nan)), "b_enc holds values that are not finite"),
    (lambda f: (f / "sparselight.json").write_text("{}"), "sparselight.json: it is damaged"),
])
def test_refusals(saved: tuple[Sae, Path], fault: Any, words: str) -> None:
    fault(saved[1])
    with pytest.raises(SaeError, match=words):
        load_sae(saved[1])


def test_record_of_another_sae(saved: tuple[Sae, Path]) -> None:
    sae, folder = saved
    assert sae.record is not None
    sae.record.model_copy(update={"n_latents": 13}).save(folder / "sparselight.json")
    with pytest.raises(SaeError, match=r"shape \[5, 13\], the weights have \[5, 12\]"):
        load_sae(folder)


def test_stitched_without_records(tmp_path: Path) -> None:
    with pytest.raises(SaeError, match="where they came from"):
        save_stitched(Sae(5, 12), tmp_path / "sae")
