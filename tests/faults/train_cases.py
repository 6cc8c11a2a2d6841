"""Tiny trainings of every kind, and a server that runs them in processes of their own, to be killed by test_train_faults.py.

As a program: reads a line `CASE<tab>FOLDER`, forks and says the process's id; reads an empty line, waits for the end and says the exit code. A training
leaves its hash in FOLDER/hash. Forking spares each the import of torch; the server itself computes nothing.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from planted import OUT_SITE, SITE, SUBJECT, MemoryStore

from sparselight.protocols import Progress, no_progress
from sparselight.sae import ARCHITECTURES
from sparselight.train import TrainConfig, train_many, train_sae

SIZES: dict = {"n_latents": 40, "batch_tokens": 32, "n_tokens": 24 * 32, "dead_after_tokens": 128, "log_every_steps": 4}
SPARSITY: dict[str, dict] = {"l1": {"l1": 0.05}, "l0": {"l0": 0.01}}
NEEDS = {"relu": SPARSITY["l1"], "gated": SPARSITY["l1"], "jump_relu": SPARSITY["l0"]}
VARIANTS: dict[str, dict] = {
    "orthogonal": {"objective": {"orthogonal": 0.25, "orthogonal_every": 2, "orthogonal_chunk": 16}},
    "tilt": {"objective": {"tilt": 5.0}},
    "tilt of examples": {"objective": {"tilt": 5.0, "tilt_unit": "example"}},
    "dead latents": {"n_latents": 200, "k": 1.0, "objective": {"aux": 0.5, "aux_k": 3}},
    "l1 rising": {"architecture": "relu", "objective": {"l1": 0.05, "sparsity_warmup_frac": 0.5, "aux": 0.0}},
    "tanh l0": {"architecture": "relu", "objective": {"l0": 0.01, "l0_form": "tanh"}},
    "l0 target": {"architecture": "jump_relu", "objective": {"l0": 1.0, "l0_target": 4.0}},
    "whiten": {"normalize": "whiten"}, "per dimension": {"normalize": "per_dimension"}, "bf16": {"autocast": "bf16"}, "running threshold": {"threshold": "ema"},
    "free decoder": {"decoder_norm": "free", "optimizer": {"kind": "adamw", "weight_decay": 0.1, "clip_norm": 0}, "schedule": {"decay": "cosine"}},
    "transcoder": {"target_site": OUT_SITE}, "skip transcoder": {"target_site": OUT_SITE, "skip": True, "normalize": "whiten"},
    "best": {"best_every_steps": 3},
}


def config_for(settings: dict, **changes: object) -> TrainConfig:
    architecture = settings.get("architecture", "batch_topk")
    rank = {"k": 4} if "k" in ARCHITECTURES[architecture].settings else {}
    objective = NEEDS.get(architecture, {}) if "objective" not in settings else {}
    return TrainConfig.parse({**SIZES, **rank, **({"objective": objective} if objective else {}), **settings, **changes}, "train")


def skewed(d: int, seed: int) -> Tensor:
    return torch.randn(700, d, generator=torch.Generator().manual_seed(seed)) ** 3


STORE = MemoryStore({SITE: skewed(12, 0), OUT_SITE: skewed(8, 1)})
Case = Callable[[Path, dict, Progress], str]


def one(settings: dict) -> Case:
    def run(folder: Path, changes: dict, progress: Progress) -> str:
        return train_sae(STORE, None, SITE, config_for(settings, **changes), folder, SUBJECT, progress=progress).weights_hash()

    return run


def residual(folder: Path, changes: dict, progress: Progress) -> str:
    base = train_sae(STORE, None, SITE, config_for({}, **changes), folder / "base", SUBJECT, progress=progress)
    rest = train_sae(STORE, None, SITE, config_for({"n_latents": 16, "k": 2}, **changes), folder / "residual", SUBJECT, base, progress)
    return f"{base.weights_hash()} {rest.weights_hash()}"


def many(folder: Path, changes: dict, progress: Progress) -> str:
    settings = {"topk": {"architecture": "topk"}, "relu": {"architecture": "relu"}, **{name: VARIANTS[name] for name in ("orthogonal", "whiten", "bf16")}}
    lengths = {"topk": {"n_tokens": 15 * 32}, "relu": {"seed": 4}}
    configs = {name.replace(" ", "_"): config_for({**one, **lengths.get(name, {})}, **changes) for name, one in settings.items()}
    saes = train_many(STORE, None, SITE, configs, folder, SUBJECT, progress=progress)
    return " ".join(sae.weights_hash() for sae in saes.values())


CASES: dict[str, Case] = {
    **{name: one({"architecture": name}) for name in ARCHITECTURES}, **{name: one(settings) for name, settings in VARIANTS.items()},
    "residual": residual, "many": many,
}


def serve() -> None:
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # type: ignore[assignment]  # it guards against a power cut, not a kill, and takes most of the time here
    while line := sys.stdin.readline():
        case, folder = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            changes = {"checkpoint_every_s": 0.005, **({} if case == "many" else {"n_tokens": 120 * 32})}
            try:
                made = CASES[case](Path(folder), changes, no_progress)
                (Path(folder) / "hash").write_text(made)  # a kill leaves nothing beside it, and it is read after the end alone
            except BaseException as err:
                print(err, file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
