"""SAEs between sparsify and here, both ways, with the real library: equal latents and reconstructions. Run by `make peers`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sparselight as sl
from sparselight.sae import Sae
from sparselight.sae.formats.verify import compare, probe_vectors

pytestmark = pytest.mark.peers

D_IN, N_LATENTS, K = 32, 128, 8
THEIRS: dict[str, dict[str, Any]] = {
    "sae": {}, "free decoder norms": {"normalize_decoder": False}, "multi-topk": {"multi_topk": True},
    "expansion factor": {"num_latents": 0, "expansion_factor": 4}, "transcoder": {"transcode": True},
    "skip transcoder": {"transcode": True, "skip_connection": True},
    "sae with a skip connection": {"skip_connection": True},
}
OURS = ("b_dec subtracted", "b_dec not subtracted", "transcoder", "skip transcoder")


def our_sae(kind: str) -> Sae:
    generator = torch.Generator().manual_seed(7)
    shapes = {"W_enc": (D_IN, N_LATENTS), "W_dec": (N_LATENTS, D_IN), "b_enc": (N_LATENTS,), "b_dec": (D_IN,), "W_skip": (D_IN, D_IN)}
    weights = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items() if name != "W_skip" or kind == "skip transcoder"}
    sae = sl.sae_from_arrays(**weights, k=K, subtract_b_dec=kind == "b_dec subtracted")
    if kind == "transcoder":
        from sparselight.sae.import_notes import ImportNotes

        sae.imported = ImportNotes(source="made here", format="saelens", conventions={}, facts={"transcoder": True})
    return sae


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, run_driver: Callable[..., str]) -> dict[str, Path]:
    """A folder a case, run by sparsify: SAEs that it made and saved, and SAEs that we saved."""
    root, made = tmp_path_factory.mktemp("sparsify"), {}
    for number, (kind, settings) in enumerate(THEIRS.items()):
        made[f"theirs: {kind}"] = folder = root / f"theirs{number}"
        folder.mkdir()
        (folder / "make.json").write_text(json.dumps({"d_in": D_IN, "seed": number, "num_latents": N_LATENTS, "k": K, **settings}))
        save_file({"x": 2 * torch.randn(256, D_IN, generator=torch.Generator().manual_seed(number))}, folder / "inputs.safetensors")
    for number, kind in enumerate(OURS):
        made[f"ours: {kind}"] = folder = root / f"ours{number}"
        sae = our_sae(kind)
        sl.export_sae(sae, folder / "sae", "sparsify")
        save_file({"x": probe_vectors(sae)}, folder / "inputs.safetensors")
    run_driver("sparsify", "sparsify_driver.py", list(made.values()))
    return made


def outputs(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    found = load_file(folder / "outputs.safetensors")
    return load_file(folder / "inputs.safetensors")["x"], found["latents"], found["reconstruction"]


@pytest.mark.parametrize("kind", [f"theirs: {kind}" for kind in THEIRS])
def test_they_save_we_load(kind: str, cases: dict[str, Path]) -> None:
    sae = sl.load_sae(cases[kind] / "sae")
    x, latents, x_hat = outputs(cases[kind])
    found = compare(kind, sae, latents, x_hat, x)
    print(found.line())
    assert found.equal
    assert found.n_active == K * len(x)
    assert sae.imported is not None
    assert sae.imported.format == "sparsify"


@pytest.mark.parametrize("kind", OURS)
def test_we_save_they_load(kind: str, cases: dict[str, Path]) -> None:
    x, latents, x_hat = outputs(cases[f"ours: {kind}"])
    found = compare(kind, our_sae(kind), latents, x_hat, x)
    print(found.line())
    assert found.equal
    assert found.support_differs == 0


@pytest.mark.parametrize("kind", OURS)
def test_what_they_save_again_is_the_same(kind: str, cases: dict[str, Path]) -> None:
    folder = cases[f"ours: {kind}"]
    assert sl.load_sae(folder / "copy").weights_hash() == sl.load_sae(folder / "sae").weights_hash()


def test_a_wrong_reading_is_seen(cases: dict[str, Path]) -> None:
    """As SAELens reads sparsify's default: b_dec not subtracted."""
    sae = sl.load_sae(cases["theirs: sae"] / "sae")
    sae.subtract_b_dec = False
    x, latents, x_hat = outputs(cases["theirs: sae"])
    assert not compare("wrong", sae, latents, x_hat, x).equal
