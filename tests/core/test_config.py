"""Strict configs: overrides, nearest names, types, hashes."""

from pathlib import Path

import pytest

from sparselight.config import Config, apply_overrides, load_toml
from sparselight.errors import ConfigError


class Inner(Config):
    lr: float = 1e-3
    names: tuple[str, ...] = ()


class Outer(Config):
    inner: Inner = Inner()
    steps: int = 5


def test_overrides_are_read_as_toml_else_as_strings() -> None:
    data = apply_overrides({"inner": {"lr": 1.0}}, ["inner.lr=3e-4", "steps=7", 'inner.names=["a", "b"]'])
    parsed = Outer.parse(data)
    assert parsed == Outer(inner=Inner(lr=3e-4, names=("a", "b")), steps=7)
    assert apply_overrides({}, ["root=some/folder"]) == {"root": "some/folder"}


def test_hash_depends_on_values_only() -> None:
    assert Outer.parse({}).hash() == Outer.parse({"steps": 5}).hash() != Outer.parse({"steps": 6}).hash()


@pytest.mark.parametrize(("data", "message"), [
    ({"stepz": 1}, "cannot set stepz: there is no such setting. Instead: use 'steps'"),
    ({"inner": {"rl": 1}}, "cannot set inner.rl: there is no such setting. Instead: use 'lr'"),
    ({"steps": "5"}, "cannot set steps to '5': the value should be a valid integer"),
    ({"steps": 5.5}, "cannot set steps to 5.5"),
    ({"inner": 3}, "cannot set inner to 3"),
])
def test_refusals_name_the_setting(data: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Outer.parse(data)
    assert message in str(caught.value)


def test_bad_override_and_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name=value"):
        apply_overrides({}, ["train.lr"])
    with pytest.raises(ConfigError, match="a value, not a table"):
        apply_overrides({"train": 3}, ["train.lr=1"])
    with pytest.raises(ConfigError, match="no such file"):
        load_toml(tmp_path / "missing.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_toml(tmp_path / "bad.toml")
