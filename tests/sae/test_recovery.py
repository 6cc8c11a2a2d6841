"""Every architecture finds a dictionary that was planted in the data, and is as sparse at inference as training made it.

Features are independent, fire on 1 of 12 tokens and are 1.5 times as many as dimensions: few enough that a sparse code is unique, so the
planted directions are what there is to find. Matryoshka is given first groups that hold them all, or half of them and more: smaller ones
would be made to merge independent features (arXiv 2503.17547, section 4).
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from planted import OUT_SITE, SITE, SUBJECT, MemoryStore, directions, fvu, planted
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.sae import ARCHITECTURES, Sae, load_sae
from sparselight.train import TrainConfig, train_sae

COMMON: dict[str, Any] = {"n_latents": 64, "n_tokens": 300_000, "batch_tokens": 512, "lr": 3e-3, "dead_after_tokens": 20_000}
SETTINGS: dict[str, dict[str, Any]] = {
    "relu": {"objective": {"l1": 0.03}},
    "jump_relu": {"objective": {"l0": 0.01}, "bandwidth": 0.3, "first_threshold": 0.3},
    "gated": {"objective": {"l1": 0.06}},
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "matryoshka": {"k": 4, "group_fracs": (0.75, 0.25)},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "relu with free decoder rows": {"architecture": "relu", "decoder_norm": "free", "objective": {"l1": 0.03, "l1_decoder_norm": True}},
    "jump_relu by tanh": {"architecture": "jump_relu", "bandwidth": 0.3, "first_threshold": 0.3, "objective": {"l0": 0.015, "l0_form": "tanh"}},
    "jump_relu towards an l0": {"architecture": "jump_relu", "bandwidth": 0.3, "first_threshold": 0.3, "objective": {"l0": 1, "l0_target": 4}},
    "batch_topk, running mean": {"architecture": "batch_topk", "k": 4, "threshold": "ema"},
    "batch_topk, bf16 products": {"architecture": "batch_topk", "k": 4, "autocast": "bf16"},
    "matryoshka of three": {"architecture": "matryoshka", "k": 4, "n_latents": 96, "group_fracs": (0.25, 0.25, 0.5)},
    "matryoshka within tokens": {"architecture": "matryoshka", "k": 4, "group_fracs": (0.75, 0.25), "within_token": True},
}


def trained(settings: dict[str, Any], folder: Path, x: Tensor | dict[str, Tensor] | None = None) -> Sae:
    config = TrainConfig.parse({**COMMON, **settings}, "train")
    return train_sae(MemoryStore(planted(directions(), 30_000, 1) if x is None else x), None, SITE, config, folder, SUBJECT)


def found(sae: Sae, truth: Tensor) -> float:
    """Mean over planted directions of the largest cosine with a decoder row."""
    return float((truth @ normalize(sae.W_dec).T).max(1).values.mean())


def test_every_architecture_is_here() -> None:
    assert SETTINGS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", [*SETTINGS, *VARIANTS])
def test_planted_dictionary_is_found(name: str, tmp_path: Path) -> None:
    sae = trained(VARIANTS[name] if name in VARIANTS else {"architecture": name, **SETTINGS[name]}, tmp_path)
    test = planted(directions(), 20_000, 2)
    assert found(sae, directions()) >= 0.95
    assert fvu(sae, test) < 0.2
    assert sae.record is not None
    l0 = len(sae.encode(test).values) / len(test)
    assert l0 == pytest.approx(sae.record.l0, rel=0.02)
    if sae.record.k is not None and "k" in ARCHITECTURES[sae.record.architecture].settings:
        assert l0 == pytest.approx(4, rel=0.02)
    else:
        assert 3 < l0 < 16  # what the penalties above come to
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(sae.n_latents))
    assert (sae.k, sae.record.topk_threshold is not None) == ((4, True) if name in ("topk", "matryoshka within tokens") else (None, False))
    assert load_sae(tmp_path / "sae").weights_hash() == sae.weights_hash()


@pytest.mark.parametrize("name", ["topk", "relu"])
def test_a_transcoder_finds_the_directions_that_features_have_at_its_target(name: str, tmp_path: Path) -> None:
    there = directions(48, 28, seed=7)
    sae = trained({"architecture": name, **SETTINGS[name], "target_site": OUT_SITE, "n_latents": 96, "n_tokens": 600_000}, tmp_path,
                  {SITE: planted(directions(), 30_000, 1), OUT_SITE: planted(there, 30_000, 1)})  # the same features at the same tokens
    assert found(sae, there) >= 0.95
    assert sae.record is not None
    assert (sae.record.target_site, sae.d_out, sae.subtract_b_dec) == (OUT_SITE, 28, False)
