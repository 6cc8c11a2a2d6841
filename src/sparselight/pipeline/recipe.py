"""A run as one config: the recipe. Each table is the config of one stage, defined beside the code that it sets.

Recipes are TOML files; `sparselight run FILE --set a.b=c` loads one. Checks that need two tables at once stand here.
"""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from pydantic import Field

from sparselight.config import Config, apply_overrides, load_toml
from sparselight.corpus import CorpusConfig
from sparselight.errors import ConfigError, nearest
from sparselight.evaluate import EvaluateConfig
from sparselight.interpret import ExplainConfig
from sparselight.select import SelectConfig
from sparselight.store import HarvestConfig
from sparselight.subjects import SubjectConfig
from sparselight.train import TrainConfig


class SampleConfig(Config):
    """How much of the corpus is used, in tokens; the domain's budget is select.max_tokens."""

    general_tokens: int = Field(1_000_000, gt=0)
    """Tokens of training text drawn from the whole corpus, the domain at its natural rate."""
    held_out_tokens: int = Field(120_000, gt=0)
    """Held-out tokens drawn from the whole corpus; evaluation and evidence use them."""
    seed: int = 0
    """Of the draws."""


class InterveneConfig(Config):
    """Which features the report turns off to show what they do."""

    n_features: int = Field(3, ge=0)
    """How many features are shown ablated: those of the candidates whose ablation changes a prediction most."""
    n_candidates: int = Field(12, ge=1)
    """How many of the best-evidenced features are tried, domain features first."""
    side_effect_tokens: int = Field(4_000, gt=0)
    """General held-out tokens on which the side effect is measured."""
    seed: int = 0
    """Of the draw of control latents."""


class Recipe(Config):
    """A complete run."""

    name: str = "run"
    """Shown in the report."""
    corpus: CorpusConfig = CorpusConfig()
    select: SelectConfig
    subject: SubjectConfig = SubjectConfig()
    sample: SampleConfig = SampleConfig()
    harvest: HarvestConfig = HarvestConfig()
    train: TrainConfig
    residual: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    explain: ExplainConfig = ExplainConfig()
    intervene: InterveneConfig = InterveneConfig()


def load_recipe(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Load a recipe by path, or by name one that ships with the package (`demo`), and apply `a.b=c` overrides.

    Raises:
        ConfigError: for a missing file, an unknown setting (the nearest name is offered) or a wrong value.
    """
    data = apply_overrides(load_toml(find_recipe(source)), overrides)
    if "specialise" in data:
        raise ConfigError(asked=f"run the recipe {str(source)!r}", why="it is one of a specialization (it has a table specialise)",
                          instead=f"run `sparselight specialise {source}`")
    return Recipe.parse(data)


def find_recipe(source: str | Path, kind: str = ".") -> Path:
    """A path as it is, or the recipe of that name in the package's folder of that kind."""
    path = Path(source)
    if path.suffix == ".toml" or len(path.parts) > 1:
        return path
    for folder in recipe_folders():
        if (folder / kind / f"{source}.toml").is_file():
            return folder / kind / f"{source}.toml"
    known = sorted({found.stem for folder in recipe_folders() for found in (folder / kind).glob("*.toml")})
    raise ConfigError(asked=f"find the recipe {str(source)!r}", why="it is neither a file nor a recipe of the package", instead=nearest(str(source), known))


def recipe_folders() -> list[Path]:
    """Where recipes ship: inside an installed package, or beside `src` in a checkout."""
    package = Path(str(resources.files("sparselight")))
    return [folder for folder in (package / "recipes", package.parents[1] / "recipes") if folder.is_dir()]
