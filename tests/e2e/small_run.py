"""A small run on real text: the asyncio package of the running Python through the model that ships with the package."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

SMALL = {
    "name": "small", "corpus.root": str(Path(asyncio.__file__).parent), "select.seeds": ["sslproto.py"], "select.max_tokens": 20_000,
    "sample.general_tokens": 50_000, "sample.held_out_tokens": 10_000, "harvest.shard_tokens": 16_384,
    "train.n_latents": 256, "train.k": 16, "train.n_tokens": 120_000, "train.batch_tokens": 1024,
    "residual.n_latents": 64, "residual.k": 2, "residual.n_tokens": 40_000, "residual.batch_tokens": 1024,
    "evaluate.n_tokens": 4_000, "evaluate.n_bootstrap": 200, "explain.explain_tokens": 20_000, "explain.score_tokens": 10_000,
    "explain.n_shuffles": 2, "explain.n_bootstrap": 100, "intervene.n_features": 1, "intervene.side_effect_tokens": 600,
}


def overrides(**changes: object) -> list[str]:
    """`--set` arguments of the small run; a keyword `a__b=c` changes `a.b`."""
    settings = {**SMALL, **{name.replace("__", "."): value for name, value in changes.items()}}
    return [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sparselight", *arguments]


def run_command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=1800, check=False, cwd=cwd)
