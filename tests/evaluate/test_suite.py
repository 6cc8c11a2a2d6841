"""Suites and their names, the settings with one table a family, what a family declares."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparselight.config import Config
from sparselight.errors import ConfigError
from sparselight.evaluate import FAMILIES, SUITES, CaseConfig, EvaluateConfig, choose
from sparselight.evaluate.runner import NEEDS


def names(suite: str) -> list[str]:
    return [choice.family.name for choice in choose(suite)]


def test_suites_hold_the_families_that_name_them() -> None:
    assert names("core") == [name for name, family in FAMILIES.items() if "core" in family.suites]
    assert {"reconstruction", "behaviour", "geometry"} <= set(names("core")) <= set(names("full"))


def test_names_may_be_mixed_and_come_in_the_order_of_the_table() -> None:
    assert names("probing, geometry") == ["geometry", "probing"]
    assert names("core,probing") == [*names("core"), "probing"]
    assert [choice.by_name for choice in choose("core,probing")] == [False] * len(names("core")) + [True]


@pytest.mark.parametrize(("suite", "words"), [("probin", "use 'probing'"), ("", "it names nothing"), ("geometry,cor", "use 'core'")])
def test_unknown_names_are_refused_with_the_nearest(suite: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        choose(suite)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_table(name: str) -> None:
    family = FAMILIES[name]
    assert family.name == name
    assert family.title
    assert issubclass(family.config, Config)
    assert getattr(EvaluateConfig(), name) == family.config()
    assert set(family.needs) <= set(NEEDS)
    assert set(family.suites) <= set(SUITES)
    assert all(field.description for field in family.config.model_fields.values())


def test_settings_are_found_by_their_dotted_name() -> None:
    config = EvaluateConfig.parse({"n_tokens": 7, "controls": ["untrained"], "probing": {"k": [3]}}, "evaluate")
    assert isinstance(config, CaseConfig)
    assert (config.n_tokens, config.controls, config.probing.k) == (7, ["untrained"], [3])
    with pytest.raises(ConfigError, match=r"set evaluate\.probing\.kk: there is no such setting. Instead: use 'k'"):
        EvaluateConfig.parse({"probing": {"kk": [3]}}, "evaluate")
    with pytest.raises(ConfigError, match=r"evaluate\.prob"):
        EvaluateConfig.parse({"prob": {}}, "evaluate")


def test_families_do_not_load_scikit_learn_until_they_run() -> None:
    code = "import sys; from sparselight.evaluate import FAMILIES; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_family_has_its_page() -> None:
    pages = Path(__file__).parents[2] / "docs" / "evaluation"
    said = "\n".join(path.read_text(encoding="utf-8") for path in pages.glob("*.md"))
    assert [name for name in FAMILIES if name not in said] == []
