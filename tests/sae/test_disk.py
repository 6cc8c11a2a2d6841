"""SAE folders: what is written reads back exactly, foreign ones read where they can, damaged ones are refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparselight.errors import SaeError
from sparselight.records import SaeRecord
from sparselight.sae import Sae, initialize, load_sae, save_sae, save_stitched

X = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))


FORMS: dict[str, dict[str, Any]] = {  # and what each is called on disk
    "jumprelu": {}, "topk": {"k": 3}, "jumprelu_transcoder": {"subtract_b_dec": False, "d_out": 4},
    "jumprelu_skip_transcoder": {"subtract_b_dec": False, "d_out": 4, "skip": True},
    "sparselight_topk_transcoder": {"subtract_b_dec": False, "d_out": 4, "k": 3},
    "sparselight_topk_skip_transcoder": {"subtract_b_dec": False, "d_out": 4, "k": 3, "skip": True},
}


@pytest.fixture
def saved(tmp_path: Path, record_of: Callable[..., SaeRecord]) -> tuple[Sae, Path]:
    sae = initialize(Sae(5, 12), torch.linspace(-1, 1, 5), torch.Generator().manual_seed(1))
    sae.threshold.copy_(torch.linspace(0, 0.5, 12))
    save_sae(sae, record_of(sae, site="model.layers.1:output", k=2, l0=2.1), tmp_path / "sae")
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


@pytest.mark.parametrize("name", FORMS)
def test_every_form_comes_back_bit_for_bit(name: str, tmp_path: Path, random_sae: Callable[..., Sae], record_of: Callable[..., SaeRecord]) -> None:
    sae = random_sae(5, 12, **FORMS[name])
    transcoder = "transcoder" in name
    record = record_of(sae, target_site="model.layers.2:output" if transcoder else None, topk_threshold=0.7 if sae.k else None)
    save_sae(sae, record, tmp_path / "sae")
    cfg = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert cfg["architecture"] == name
    assert (cfg.get("d_out"), cfg.get("k")) == (4 if transcoder else None, 3 if sae.k else None)
    assert ("not_in_saelens" in cfg["metadata"]) == name.startswith("sparselight")
    assert cfg["metadata"].get("hf_hook_name_out") == ("model.layers.2" if transcoder else None)
    loaded = load_sae(tmp_path / "sae")
    assert loaded.weights_hash() == sae.weights_hash()
    assert torch.equal(loaded.reconstruct(X), sae.reconstruct(X))
    assert (loaded.k, loaded.d_out, loaded.record) == (sae.k, sae.d_out, record)
    assert loaded.W_enc.stride() == sae.W_enc.stride()


def test_a_transcoder_between_equal_widths_is_one_by_its_record(tmp_path: Path, random_sae: Callable[..., Sae], record_of: Callable[..., SaeRecord]) -> None:
    sae = random_sae(5, 12, subtract_b_dec=False)
    save_sae(sae, record_of(sae, target_site="resid_post.2"), tmp_path / "sae")
    assert json.loads((tmp_path / "sae" / "cfg.json").read_text())["architecture"] == "jumprelu_transcoder"
    assert load_sae(tmp_path / "sae").weights_hash() == sae.weights_hash()


def test_records_of_earlier_versions_read(saved: tuple[Sae, Path]) -> None:
    path = saved[1] / "sparselight.json"
    record = json.loads(path.read_text())
    for name in ("target_site", "topk_threshold", "notes"):
        del record[name]
    path.write_text(json.dumps(record))
    assert load_sae(saved[1]).record == saved[0].record


def test_gated_folder_of_saelens_is_folded(saved: tuple[Sae, Path], random_sae: Callable[..., Sae]) -> None:
    _, folder = saved
    sae, (b_gate, b_mag, r_mag) = random_sae(5, 12), torch.randn(3, 12, generator=torch.Generator().manual_seed(3))
    edit_cfg(folder, architecture="gated")
    save_file({"W_enc": sae.W_enc.contiguous(), "W_dec": sae.W_dec, "b_dec": sae.b_dec, "b_gate": b_gate, "b_mag": b_mag, "r_mag": r_mag},
              folder / "sae_weights.safetensors")
    product = (X - sae.b_dec) @ sae.W_enc
    z = (product + b_gate > 0) * (r_mag.exp() * product + b_mag).relu()
    torch.testing.assert_close(load_sae(folder).encode(X).to_dense(), z)


def test_topk_by_activation_times_decoder_norm_is_normalized(saved: tuple[Sae, Path], random_sae: Callable[..., Sae]) -> None:
    """SAELens' rescale_acts_by_decoder_norm: what is ranked, and given out, is pre * |w|; what is decoded is that / |w|."""
    _, folder = saved
    sae = random_sae(5, 12)
    sae.W_dec.mul_(torch.linspace(0.2, 3, 12).unsqueeze(1))
    edit_cfg(folder, architecture="topk", k=2, rescale_acts_by_decoder_norm=True)
    save_file({name: tensor for name, tensor in sae.tensors().items() if name != "threshold"}, folder / "sae_weights.safetensors")
    top = (sae.pre_activations(X) * sae.W_dec.norm(dim=1)).topk(2)
    z = torch.zeros(30, 12).scatter(1, top.indices, top.values.relu())
    loaded = load_sae(folder)
    torch.testing.assert_close(loaded.encode(X).to_dense(), z)
    torch.testing.assert_close(loaded.reconstruct(X), z / sae.W_dec.norm(dim=1) @ sae.W_dec + sae.b_dec)


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
    (lambda f: edit_cfg(f, architecture="topk"), "k = None, which is no int"),
    (lambda f: edit_cfg(f, architecture="topk", k=13), "k = 13 of 12 latents"),
    (lambda f: edit_cfg(f, architecture="jumprelu_transcoder", apply_b_dec_to_input=False), "d_out = None, which is no int"),
    (lambda f: edit_cfg(f, architecture="jumprelu_transcoder", d_out=5), "subtract b_dec, which belongs to its output"),
    (lambda f: edit_cfg(f, architecture="jumprelu_skip_transcoder", apply_b_dec_to_input=False, d_out=5), "with exactly W_dec, W_enc, W_skip, b_dec"),
    (lambda f: edit_cfg(f, architecture="jumprelu_transcoder", apply_b_dec_to_input=False, d_out=4), r"W_dec has shape \[12, 5\], cfg.json says \[12, 4\]"),
    (lambda f: edit_cfg(f, architecture="matching_pursuit"), "architecture is 'matching_pursuit'"),
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
