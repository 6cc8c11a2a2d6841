"""Every format that is written reads back with the same outputs, whatever the shape and the precision; what it cannot say is refused."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sparselight.errors import SaeError
from sparselight.sae import Sae
from sparselight.sae.formats import FORMATS, export_sae, load_sae, writable

SHAPES = {"d_in": st.integers(1, 9), "n_latents": st.integers(1, 17), "seed": st.integers(0, 1000)}
TOLERANCE = 1e-5


def clear_inputs(sae: Sae, seed: int = 0) -> torch.Tensor:
    """Rows of which no order of summation decides what is selected."""
    x = 2 * torch.randn(64, sae.d_in, generator=torch.Generator().manual_seed(seed))
    pre = sae.pre_activations(x)
    if sae.k is None:
        clear = ((pre - sae.threshold.clamp(min=0)).abs() > 1e-4).all(1)
    else:
        ordered = pre.relu().sort(dim=1, descending=True).values
        last = ordered[:, sae.k - 1]
        following = ordered[:, sae.k] if sae.k < sae.n_latents else torch.zeros(len(x))
        clear = ((last - following).abs() > 1e-4) | (last == 0)
    return x[clear]


def assert_same(ours: Sae, theirs: Sae, x: torch.Tensor) -> None:
    a, b = ours.encode(x).to_dense(), theirs.encode(x).to_dense()
    scale = 1 + float(a.abs().max()) if len(x) else 1
    assert torch.equal(a > 0, b > 0)
    assert torch.allclose(a, b, atol=TOLERANCE * scale, rtol=TOLERANCE)
    assert torch.allclose(ours.reconstruct(x), theirs.reconstruct(x), atol=10 * TOLERANCE * scale, rtol=TOLERANCE)


def writes(sae: Sae, form: str) -> bool:
    """What the page of formats promises."""
    if form in ("gemma_scope", "gemma_scope_2"):
        return sae.k is None and not (form == "gemma_scope" and sae.W_skip is not None)
    return form == "saelens" or (sae.W_skip is None and (sae.k is not None or form == "dictionary_learning"))


@pytest.mark.parametrize("form", writable())
@settings(max_examples=25, deadline=None)
@given(**SHAPES, subtract=st.booleans(), k=st.none() | st.integers(1, 5), zero=st.booleans(), imported=st.booleans())
def test_written_then_read(form: str, random_sae: Callable[..., Sae], record_of: Callable[..., Any], d_in: int, n_latents: int, seed: int, subtract: bool,
                           k: int | None, zero: bool, imported: bool) -> None:
    sae = random_sae(d_in, n_latents, subtract, seed, k=None if k is None else min(k, n_latents))
    if zero:
        sae.threshold.zero_()
    sae.record = None if imported else record_of(sae)
    with tempfile.TemporaryDirectory() as folder:
        if not writes(sae, form):
            with pytest.raises(SaeError, match=f"cannot write this SAE as {form}"):
                export_sae(sae, Path(folder) / "out", form)
            assert not list(Path(folder).iterdir())
            return
        export_sae(sae, Path(folder) / "out", form)
        back = load_sae(Path(folder) / "out")
        assert_same(sae, back, clear_inputs(sae, seed))
        assert load_sae(f"{form}:{folder}/out").weights_hash() == back.weights_hash()


@settings(max_examples=20, deadline=None)
@given(**SHAPES, dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]), form=st.sampled_from(["sparsify", "gemma_scope_2"]))
def test_stored_in_another_precision(random_sae: Callable[..., Sae], d_in: int, n_latents: int, seed: int, dtype: torch.dtype, form: str) -> None:
    """What is read is what is stored, in float32; the notes name the stored precision."""
    sae = random_sae(d_in, n_latents, form == "sparsify", seed, k=1 if form == "sparsify" else None)
    for tensor in (*sae.parameters(), sae.threshold):
        tensor.copy_(tensor.to(dtype))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        export_sae(sae, folder, form)
        file = next(folder.glob("*.safetensors"))
        save_file({key: tensor.to(dtype) for key, tensor in load_file(file).items()}, file)
        back = load_sae(folder)
        assert back.weights_hash() == sae.weights_hash()
        assert back.imported is not None
        assert str(dtype).removeprefix("torch.") in back.imported.conventions["dtype"]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("form", ["saelens", "gemma_scope_2"])
def test_transcoders(form: str, skip: bool, random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    sae = random_sae(6, 20, False, d_out=4, skip=skip)
    export_sae(sae, tmp_path / "out", form)
    assert load_sae(tmp_path / "out").weights_hash() == sae.weights_hash()


def test_transcoder_of_sparsify(random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    sae = random_sae(6, 20, False, skip=True, k=3)
    export_sae(sae, tmp_path / "model.layers.3.mlp", "sparsify")
    assert json.loads((tmp_path / "model.layers.3.mlp" / "cfg.json").read_text())["transcode"] is True
    back = load_sae(tmp_path / "model.layers.3.mlp")
    assert back.weights_hash() == sae.weights_hash()
    assert back.imported is not None
    assert back.imported.facts == {"site": "model.layers.3.mlp", "transcoder": True}
    export_sae(back, tmp_path / "again", "saelens")
    assert load_sae(tmp_path / "again").weights_hash() == sae.weights_hash()


def test_a_skip_connection_beside_a_subtracted_bias(random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    """sparsify allows both; here b_dec moves into b_enc."""
    sae = random_sae(6, 20, False, skip=True, k=3)
    export_sae(sae, tmp_path / "out", "sparsify")
    cfg = json.loads((tmp_path / "out" / "cfg.json").read_text())
    (tmp_path / "out" / "cfg.json").write_text(json.dumps({**cfg, "transcode": False}))
    back = load_sae(tmp_path / "out")
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(3))
    assert sae.W_skip is not None
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    kept = torch.zeros_like(pre).scatter(1, pre.topk(3).indices, pre.topk(3).values.relu())
    assert torch.allclose(back.reconstruct(x), kept @ sae.W_dec + sae.b_dec + x @ sae.W_skip, atol=1e-4)
    assert back.imported is not None
    assert "moved into b_enc" in back.imported.conventions["b_dec"]


@pytest.mark.parametrize(("form", "change", "kind"), [
    ("dictionary_learning", {"threshold": 0.0}, "AutoEncoder"), ("dictionary_learning", {"threshold": 0.3}, "BatchTopKSAE"),
    ("dictionary_learning", {"k": 4}, "AutoEncoderTopK"), ("dictionary_learning", {"norm": 2.0, "threshold": 0.0}, "AutoEncoderNew"),
    ("dictionary_learning", {}, "JumpReluAutoEncoder"),
])
def test_class_of_dictionary_learning(form: str, change: dict[str, Any], kind: str, random_sae: Callable[..., Sae], record_of: Callable[..., Any],
                                      tmp_path: Path) -> None:
    sae = random_sae(k=change.get("k"))
    if "threshold" in change:
        sae.threshold.fill_(change["threshold"])
    sae.W_dec.mul_(change.get("norm", 1.0))
    sae.record = record_of(sae)
    said = export_sae(sae, tmp_path / "out", form)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["trainer"]["dict_class"] == kind
    assert any("record" in sentence for sentence in said)
    assert_same(sae, load_sae(tmp_path / "out"), clear_inputs(sae))


def test_nothing_is_written_over(random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("1")
    with pytest.raises(SaeError, match="something is there already"):
        export_sae(random_sae(), tmp_path, "saelens")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_writer_that_fails_leaves_nothing(random_sae: Callable[..., Sae], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparselight.sae.formats.sparsify.save_file", fail)
    with pytest.raises(Exception, match="disk is full"):
        export_sae(random_sae(k=3), tmp_path / "out", "sparsify")
    assert not list(tmp_path.iterdir())


def test_every_format_reads_and_says_against_what_it_was_verified() -> None:
    root = Path(__file__).parents[3]
    for form in FORMATS.values():
        tests = [word.strip("();,") for word in form.verified.split() if word.strip("();,").endswith(".py")]
        assert tests, form.name
        assert all((root / test).is_file() or (root / "tests" / "peers" / test).is_file() for test in tests), form.verified
