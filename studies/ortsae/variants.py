"""The five SAEs that are compared, trained on equal data to an equal number of active latents.

ReLU has no k: its L1 weight is searched on the first seed until l0 is within 5 % of k, by secants in logarithms, each trial a whole training
(`search/l1.json` keeps them); the trial that fits is that seed's training. OrtSAE has gamma = 0.25 against a squared error averaged over dimensions of
activations scaled to unit variance; `penalty_share` says how much that is. A small ladder of gamma shows where it would act more.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sources import Source
from torch.nn.functional import normalize

from sparselight.files import write_bytes
from sparselight.sae import Sae, load_sae
from sparselight.train import TrainConfig, train_many
from sparselight.train.log import read_log

GAMMA = 0.25
LADDER = (0.05, 1.0, 4.0)
L0_TOLERANCE = 0.05
MAX_TRIALS = 7
SEARCH_SEED = 0
VARIANTS = ("relu", "batch_topk", "matryoshka", "ortsae", "ortsae_5")
TITLES = {"relu": "ReLU", "batch_topk": "BatchTopK", "matryoshka": "Matryoshka", "ortsae": "OrtSAE", "ortsae_5": "OrtSAE, every 5th step"}


def settings(source: Source, variant: str, l1: float | None = None, gamma: float = GAMMA) -> dict[str, Any]:
    """Of `train`, for one variant."""
    common = dict(source.settings)
    if variant == "relu":
        del common["k"]
        return {**common, "architecture": "relu", "objective": {"l1": l1, "sparsity_warmup_frac": 0.1}}
    if variant == "matryoshka":
        return {**common, "architecture": "matryoshka"}
    if variant == "batch_topk":
        return common
    return {**common, "objective": {"orthogonal": gamma, **({"orthogonal_every": 5} if variant == "ortsae_5" else {})}}


def train_seed(source: Source, folder: Path, seed: int, l1: float) -> dict[str, Sae]:
    """All variants of one seed on one stream; what is finished is loaded."""
    return train(source, folder / f"seed-{seed}", {variant: settings(source, variant, l1) for variant in VARIANTS}, seed)


def train(source: Source, folder: Path, named: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Sae]:
    configs = {name: TrainConfig.parse({**one, "seed": seed, "data_seed": seed}, "train") for name, one in named.items()}
    return train_many(source.store, None, source.site, configs, folder, source.store.manifest.subject, progress=Line(f"{source.name} {folder.name}"))


def find_l1(source: Source, folder: Path) -> float:
    """The L1 weight whose ReLU SAE of SEARCH_SEED has about k active latents; kept in search/l1.json with all trials."""
    path, k = folder / "search" / "l1.json", float(source.settings["k"])
    trials: list[dict[str, float]] = json.loads(path.read_text()) if path.exists() else []
    while not (trials and abs(trials[-1]["l0"] / k - 1) <= L0_TOLERANCE):
        if len(trials) >= MAX_TRIALS:
            raise SystemExit(f"{source.name}: no L1 weight within {MAX_TRIALS} trials has l0 = {k:g}; the last ones: {trials[-3:]}")
        l1 = next_l1(trials, k, source.l1)
        place = folder / "search" / f"l1-{l1:.5g}"
        sae = train(source, place, {"relu": settings(source, "relu", l1)}, SEARCH_SEED)["relu"]
        assert sae.record is not None
        trials.append({"l1": l1, "l0": sae.record.l0})
        write_bytes(path, (json.dumps(trials, indent=1) + "\n").encode())
        print(f"  {source.name}: l1 {l1:.5g} gives l0 {sae.record.l0:.2f}, wanted {k:g}")
    l1 = trials[-1]["l1"]
    own = folder / f"seed-{SEARCH_SEED}" / "relu"
    if not own.exists():
        shutil.copytree(folder / "search" / f"l1-{l1:.5g}" / "relu", own)
    return l1


def next_l1(trials: list[dict[str, float]], k: float, guess: float) -> float:
    """A secant step for log l0 = log k over log l1; the first one supposes a slope of -1, and no step is longer than a factor of 4."""
    if not trials:
        return guess
    last, slope = trials[-1], -1.0
    if len(trials) > 1 and trials[-2]["l1"] != last["l1"]:
        slope = min(-0.3, math.log(trials[-2]["l0"] / last["l0"]) / math.log(trials[-2]["l1"] / last["l1"]))
    return float(f"{last['l1'] * math.exp(max(-1.4, min(1.4, math.log(k / max(last['l0'], 1e-3)) / slope))):.5g}")


def penalty_share(folder: Path, gamma: float) -> dict[str, float]:
    """gamma * L_orth / L_MSE from a training's log: over its first and its last tenth."""
    lines = [line for line in read_log(folder / "log.jsonl") if "orthogonal" in line]
    tenth = max(1, len(lines) // 10)
    orthogonal, mse = (np.array([line[name] for line in lines]) for name in ("orthogonal", "mse"))
    share = gamma * orthogonal / mse
    return {"gamma": gamma, "first_tenth": float(share[:tenth].mean()), "last_tenth": float(share[-tenth:].mean()),
            "mse_last": float(mse[-tenth:].mean()), "orthogonal_last": float(orthogonal[-tenth:].mean())}


def ladder(source: Source, folder: Path) -> list[dict[str, float]]:
    """Other weights of the penalty on SEARCH_SEED: what they do on the fit side to explained variance and the mean nearest cosine."""
    named = {f"gamma-{gamma:g}": settings(source, "ortsae", gamma=gamma) for gamma in LADDER}
    saes: dict[float, tuple[Path, Sae]] = {gamma: (folder / "ladder" / f"gamma-{gamma:g}", sae) for gamma, sae in
                                           zip(LADDER, train(source, folder / "ladder", named, SEARCH_SEED).values(), strict=True)}
    for gamma, name in ((0.0, "batch_topk"), (GAMMA, "ortsae")):
        place = folder / f"seed-{SEARCH_SEED}" / name
        saes[gamma] = place, load_sae(place / "sae")
    x = source.store.sample(20_000, source.site)
    spread = float((x - x.mean(0)).square().sum())
    rows = []
    for gamma in sorted(saes):
        place, sae = saes[gamma]
        share = penalty_share(place, gamma) if gamma else {"gamma": 0.0}
        with torch.no_grad():
            error = sum(float((part - sae.reconstruct(part)).square().sum()) for part in x.split(2048))
        rows.append({**share, "fit_explained_variance": 1 - error / spread, "mean_max_cosine": mean_max_cosine(sae)})
    return rows


@torch.no_grad()
def mean_max_cosine(sae: Sae) -> float:
    """Equation 6 of the paper, over the whole decoder."""
    rows = normalize(sae.W_dec)
    total = 0.0
    for start in range(0, len(rows), 4096):
        cosines = rows[start:start + 4096] @ rows.T
        own = torch.arange(len(cosines))
        cosines[own, start + own] = -1
        total += float(cosines.max(1).values.sum())
    return total / len(rows)


class Line:
    """Progress as a line now and then, for a log file."""

    def __init__(self, name: str):
        self.name, self.shown = name, -1

    def __call__(self, done: float, total: float, note: str = "") -> None:
        tenth = int(10 * done / max(total, 1))
        if tenth > self.shown:
            self.shown = tenth
            print(f"  {self.name}: {10 * tenth} % {note}", flush=True)
