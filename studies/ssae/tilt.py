"""Tilted risk: what larger t gives to rare concepts and takes from reconstruction, at several sparsities.

Planted features and CLINC150 have known rare concepts: general SAEs are trained from scratch, and at one k fine-tuned, on general data. On the demo subject
the general SAE is fine-tuned on a domain, as in the paper, and tokens of rare ids stand for rare concepts. t is relative to a loss near 1 at the start of a
training from scratch (normalize = "scalar", mse = "mean").
"""

from typing import NamedTuple

import numpy as np
from studies.boost.variants import FINETUNE_LR, Work
from studies.common.benches import Bench
from studies.common.measure import ROWS, rows_of, tail_tokens, tail_values
from studies.common.results import Row

from sparselight.train import TrainConfig, train_many

TILTS = (0.0, 1.0, 10.0, 500.0)
KS = {"planted": (4, 8, 16), "clinc": (6, 12, 24), "demo": (8, 16, 32)}
ON_DOMAIN = ("demo",)  # benches whose general SAE is fine-tuned on a domain


class Tilted(NamedTuple):
    """One training."""

    variant: str
    """`scratch` or `finetune`."""
    t: float
    k: float


def trainings(bench: Bench) -> dict[str, Tilted]:
    ks = {"finetune": KS[bench.name]} if bench.name in ON_DOMAIN else {"scratch": KS[bench.name], "finetune": (bench.base["k"],)}
    return {f"{variant}-t{t:g}-k{k}": Tilted(variant, t, k) for variant, own in ks.items() for k in own for t in TILTS}


def sweep_tilt(work: Work, domain: str, seed: int) -> list[Row]:
    """All t at all k, on one stream."""
    bench, sides, sweep = work.bench, work.bench.domains[domain], trainings(work.bench)
    configs = {name: TrainConfig.parse(settings_of(bench, seed, one), "train") for name, one in sweep.items()}
    source = sides if bench.name in ON_DOMAIN else bench.general
    base = work.base(seed)
    inits = {name: base for name, one in sweep.items() if one.variant == "finetune"}
    folder, subject = work.seed_folder(seed) / domain / "tilt", source.train.manifest.subject
    saes = train_many(source.train, None, bench.site, configs, folder, subject, inits=inits)
    chosen = np.unique(np.linspace(0, source.held_out.n_tokens - 1, ROWS).astype(np.int64))
    x, tail = rows_of(source.held_out, bench.site), tail_tokens(source.train, source.held_out, chosen)
    return [{"domain": domain, **sweep[name]._asdict(), "values": {**work.measured(sae, domain, equal_l0=False), **tail_values(sae, x, tail)}}
            for name, sae in saes.items()]


def settings_of(bench: Bench, seed: int, one: Tilted) -> dict[str, object]:
    """Of `train`; fine-tuning takes its width from the SAE."""
    tuned = one.variant == "finetune"
    common = {name: value for name, value in bench.base.items() if not (tuned and name in ("n_latents", "lr"))}
    more = {"n_tokens": bench.domain_tokens, "lr": FINETUNE_LR} if tuned else {}
    return {**common, **more, "k": one.k, "seed": seed, "data_seed": seed, **({"objective": {"tilt": one.t}} if one.t else {})}
