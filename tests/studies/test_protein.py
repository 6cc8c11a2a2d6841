"""The protein study: directions as latents, probes of letters, and tables whose choices the fit side makes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from studies.protein import claims, tables
from studies.protein.coders import FIRES_ABOVE, components, neurons
from studies.protein.probes import features_of, measure_probes, smoothed
from studies.protein.steering import GOALS

from sparselight.evaluate import Case, Dataset, EvaluateConfig
from sparselight.protocols import Example, Span
from sparselight.testing import tiny_family
from sparselight.vocab import UNLABELLED


def test_directions_fire_on_what_is_far_out_and_give_it_back() -> None:
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7.0) + 3
    for coder in (neurons(x), components(x)):
        codes = coder.encode(x)
        dense = codes.to_dense()
        assert dense.shape == (400, coder.n_latents) == (400, 12)
        assert float(codes.values.min()) > FIRES_ABOVE and not (dense[:, :6] * dense[:, 6:]).any(), "a direction has one sign a token"
        assert torch.allclose((dense > 0).float().mean(), torch.tensor(0.067), atol=0.02), "as often as a normal variable lies there"
        y = (x - coder.mean) @ coder.directions
        far = (y / coder.scale).abs() > FIRES_ABOVE
        assert torch.allclose(coder.decode(codes), coder.mean + (y * far) @ coder.directions.T, atol=1e-4)


def test_means_over_windows_are_shorter_at_the_ends() -> None:
    values = np.arange(6.0)[:, None]
    assert smoothed(values, 3)[:, 0].tolist() == [0.5, 1, 2, 3, 4, 4.5]
    found = features_of("ML" + "A" * 40)
    assert found.shape[0] == 42 and np.isfinite(found).all()
    assert found[0, -6] == 1 and found[35, -6] == 0, "near the beginning or not"


def row(what: str, coder: str = "", layer: int = 3, seed: int | None = 0, **more: object) -> dict[str, object]:
    return {"what": what, "coder": coder, "layer": layer, "seed": seed, **more}


def label_row(coder: str, layer: int, fit: float, f1: float, seed: int | None = 0) -> dict[str, object]:
    return row("label", coder, layer, seed, kind="signal peptide", label="signal peptide", latent=1, fit_score=fit, f1=f1, f1_low=f1 - 0.1, f1_high=f1 + 0.1,
               null_f1_max=0.2, f1_everywhere=0.03)


def test_the_layer_that_stands_for_a_coder_is_chosen_on_the_fit_side() -> None:
    rows = [label_row("topk", 1, 0.5, 0.9), label_row("topk", 3, 0.8, 0.6), label_row("relu", 3, 0.7, 0.95), label_row("neurons", 3, 0.3, 0.2)]
    best = tables.chosen(rows, "topk", tables.SIGNAL)
    assert best is not None and best["layer"] == 3, "not the one that looks best held out"
    found = {claim: verdict for claim, _, verdict in claims.label_claims(rows)}
    assert found["A latent stands for signal peptides (F1 of 0.5 or more)"] == "holds"
    assert found["It fits signal peptides better than the best of 1 controls"] == "holds"
    assert "0.60 [0.50, 0.70] (0.20)" in tables.label_table(
        [*rows, *(row("value", coder, metric="association_f1") for coder in ("topk", "relu", "neurons"))], tables.SIGNAL)


def test_a_claim_about_all_coders_needs_every_interval() -> None:
    def value(coder: str, layer: int, seed: int | None = 0) -> dict[str, object]:
        return row("value", coder, layer, seed, metric="association_f1", setting="spans", value=0.4, low=0.3, high=0.5)

    def difference(coder: str, layer: int, low: float) -> dict[str, object]:
        return row("difference", coder, layer, reference="neurons", metric="association_f1", setting="spans", value=0.1, low=low, high=0.2)

    rows = [value(coder, layer) for coder in ("topk", "neurons") for layer in (1, 3)]
    for low, verdict in ((0.05, "holds"), (-0.05, "depends")):
        assert [claim[2] for claim in claims.better_than_controls([*rows, difference("topk", 1, 0.05), difference("topk", 3, low)])] == [verdict]
    apart = [value("topk", 3), row("value", "feed-forward neurons", 3, None, metric="association_f1", setting="spans", value=0.1, low=0.05, high=0.2)]
    assert [claim[2] for claim in claims.better_than_controls(apart)] == ["holds"]


def test_goals_name_labels_that_the_corpus_has() -> None:
    assert {goal.label for goal in GOALS.values()} == set(claims.GOALS)


@pytest.mark.parametrize("is_unknown", [False, True])
def test_probes_are_measured_once_for_both_readers(tmp_path: Path, is_unknown: bool) -> None:
    rng = np.random.default_rng(0)
    examples = []
    for number in range(60):
        text = "".join(rng.choice(list("DEKRNQSTGP"), 40))
        at = int(rng.integers(0, 20))
        spans = [Span(at, at + 15, "region", "hydrophobic")]
        spans += [Span(38, 40, UNLABELLED, UNLABELLED)] if is_unknown else []
        examples.append(Example(f"p{number}", text[:at] + "L" * 15 + text[at + 15:], f"p{number}", spans=tuple(spans)))
    config = EvaluateConfig.parse({"n_tokens": 2000, "n_bootstrap": 40}, "evaluate")
    case = Case("resid_post.0", {"d": Dataset("d", examples[:30], examples[30:])}, config, tiny_family("esm"))
    measure_probes(case, "d", ["region"], tmp_path / "probes.json")
    rows = json.loads((tmp_path / "probes.json").read_text())
    assert [found["reader"] for found in rows] == ["probe", "letters"]
    assert all(found["f1_low"] <= found["f1"] <= found["f1_high"] for found in rows)
    assert rows[1]["f1"] > 0.9, "letters alone tell a run of L"
