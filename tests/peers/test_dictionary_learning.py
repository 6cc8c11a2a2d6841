"""Dictionaries between dictionary_learning and here, both ways, with the real library's own loader. Run by `make peers`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sparselight as sl
from sparselight.records import SaeRecord, SubjectRef, TokenPolicy
from sparselight.sae import Sae
from sparselight.sae.formats.verify import compare, probe_vectors

pytestmark = pytest.mark.peers

D, F, K = 32, 128, 8
THEIRS: dict[str, dict[str, Any]] = {
    "AutoEncoder": {}, "AutoEncoderNew": {}, "GatedAutoEncoder": {}, "JumpReluAutoEncoder": {}, "AutoEncoderTopK": {"arguments": [D, F, K]},
    "BatchTopKSAE": {"arguments": [D, F, K], "threshold": 3.0}, "MatryoshkaBatchTopKSAE": {"arguments": [D, F, K, [32, 96]], "threshold": 3.0},
}
OURS = {"AutoEncoder": {"threshold": 0.0}, "AutoEncoderNew": {"threshold": 0.0, "norm": 2.0}, "BatchTopKSAE": {"threshold": 1.5}, "AutoEncoderTopK": {"k": K},
        "JumpReluAutoEncoder": {}}


def our_sae(kind: str) -> Sae:
    form: dict[str, Any] = OURS[kind]
    generator = torch.Generator().manual_seed(7)
    shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
    weights = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    weights["W_dec"] = torch.nn.functional.normalize(weights["W_dec"]) * form.get("norm", 1.0)
    threshold = form.get("threshold", torch.rand(F, generator=generator) * 3)
    sae = sl.sae_from_arrays(**weights, threshold=threshold, k=form.get("k"), subtract_b_dec=True)
    subject = SubjectRef(name="tiny", fingerprint="f", token_policy=TokenPolicy(prepend_bos=True, context_tokens=64))
    sae.record = SaeRecord(
        architecture="batch_topk", role="base", site="layers.3", subject=subject, store_fingerprint="s", d_in=D, n_latents=F, k=K, l0=8.0, n_dead=0,
        dead_after_tokens=100, n_tokens_seen=1000, normalization="n", loss_scale="l", config={})
    return sae


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, run_driver: Callable[..., str]) -> dict[str, Path]:
    root, made = tmp_path_factory.mktemp("dictionary_learning"), {}
    for number, (kind, settings) in enumerate(THEIRS.items()):
        made[f"theirs: {kind}"] = folder = root / f"theirs_{kind}"
        folder.mkdir()
        (folder / "make.json").write_text(json.dumps({"dict_class": kind, "seed": number, "arguments": [D, F], **settings}))
        np.savez(folder / "inputs.npz", x=2 * torch.randn(256, D, generator=torch.Generator().manual_seed(number)).numpy())
    for kind in OURS:
        made[f"ours: {kind}"] = folder = root / f"ours_{kind}"
        sae = our_sae(kind)
        sl.export_sae(sae, folder / "sae", "dictionary_learning")
        np.savez(folder / "inputs.npz", x=probe_vectors(sae).numpy())
    run_driver("dictionary_learning", "dictionary_learning_driver.py", list(made.values()))
    return made


def outputs(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    found, given = np.load(folder / "outputs.npz"), np.load(folder / "inputs.npz")
    return torch.from_numpy(given["x"]), torch.from_numpy(found["latents"]), torch.from_numpy(found["reconstruction"])


@pytest.mark.parametrize("kind", THEIRS)
def test_they_save_we_load(kind: str, cases: dict[str, Path]) -> None:
    sae = sl.load_sae(cases[f"theirs: {kind}"] / "sae")
    x, latents, x_hat = outputs(cases[f"theirs: {kind}"])
    found = compare(kind, sae, latents, x_hat, x)
    print(found.line())
    assert found.equal
    assert found.n_active > len(x)
    assert sae.imported is not None
    assert sae.imported.facts | {"k": K} == {"model": "tiny", "site": "layers.3", "layer": 3, "context_tokens": 128, "architecture": kind, "k": K}


@pytest.mark.parametrize("kind", OURS)
def test_we_save_they_load(kind: str, cases: dict[str, Path]) -> None:
    folder = cases[f"ours: {kind}"]
    assert json.loads((folder / "sae" / "config.json").read_text())["trainer"]["dict_class"] == kind
    x, latents, x_hat = outputs(folder)
    found = compare(kind, our_sae(kind), latents, x_hat, x)
    print(found.line())
    assert found.equal


@pytest.mark.parametrize("kind", OURS)
def test_what_they_save_again_is_the_same(kind: str, cases: dict[str, Path]) -> None:
    folder = cases[f"ours: {kind}"]
    assert sl.load_sae(folder / "copy").weights_hash() == sl.load_sae(folder / "sae").weights_hash()


def test_a_wrong_reading_is_seen(cases: dict[str, Path]) -> None:
    """As their JumpReluAutoEncoder is often taken: with b_dec subtracted."""
    sae = sl.load_sae(cases["theirs: JumpReluAutoEncoder"] / "sae")
    sae.subtract_b_dec = True
    x, latents, x_hat = outputs(cases["theirs: JumpReluAutoEncoder"])
    assert not compare("wrong", sae, latents, x_hat, x).equal
