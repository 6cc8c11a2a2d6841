"""What `sparselight train` trains: a recipe with one [train] table, or with several [sweep.NAME] tables that change it, all on one stream.

    needs_base = true          # refuse to run without a base SAE (a residual SAE)
    needs_init = true          # refuse to run without an SAE to go on from (fine-tuning)
    [train]                    # settings of all
    n_tokens = 1_000_000
    [sweep.k16]                # one SAE, in the folder k16
    k = 16

Refuses: any other table, since it would have no effect (whole runs are recipes of `sparselight run`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparselight.config import apply_overrides, load_toml
from sparselight.errors import ConfigError, nearest
from sparselight.pipeline.recipe import find_recipe
from sparselight.train import TrainConfig

NEEDS = ("needs_base", "needs_init")
KEYS = (*NEEDS, "train", "sweep")


@dataclass(frozen=True)
class TrainRecipe:
    """Settings by name; a recipe without a sweep has one, named ''."""

    configs: Mapping[str, TrainConfig]
    needs_base: bool
    needs_init: bool = False


def load_train_recipe(source: str | Path, overrides: Iterable[str] = ()) -> TrainRecipe:
    """Load a recipe by path, or by name one of those in recipes/train, and apply `train.a=b` and `sweep.NAME.a=b` overrides.

    Raises:
        ConfigError: for a missing file, an unknown table or setting, or a wrong value.
    """
    data = apply_overrides(load_toml(find_recipe(source, "train")), overrides)
    asked = f"train by the recipe {str(source)!r}"
    if unknown := sorted(data.keys() - set(KEYS)):
        raise ConfigError(asked=asked, why=f"it has {unknown[0]!r}, which no training reads",
                          instead=f"{nearest(unknown[0], KEYS)}; `sparselight run` does whole runs")
    train, sweep, needs = _table(data, "train"), _table(data, "sweep"), {name: data.get(name, False) for name in NEEDS}
    for name, value in needs.items():
        if type(value) is not bool:
            raise ConfigError(asked=asked, why=f"{name} = {value!r} is neither true nor false", instead=f"write {name} = true, or leave it out")
    if not sweep:
        return TrainRecipe({"": TrainConfig.parse(train, "train")}, **needs)
    return TrainRecipe({name: TrainConfig.parse(merged(train, _table(sweep, name, "sweep.")), f"sweep.{name}") for name in sweep}, **needs)


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some changed, table by table."""
    result = dict(settings)
    for name, value in changes.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _table(data: Mapping[str, Any], name: str, prefix: str = "") -> dict[str, Any]:
    value = data.get(name, {})
    if not isinstance(value, dict):
        raise ConfigError(asked=f"set {prefix}{name} to {value!r}", why="it is a table of settings",
                          instead=f"set one of them, for example {prefix}{name}.k=16")
    return value
