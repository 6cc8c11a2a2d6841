"""Strict configs: load from TOML, override by dotted name, resolve, hash, save.

A config is frozen plain data. An unknown key, a wrong type or a value out of range is refused with the setting's dotted name;
nothing is coerced and nothing is ignored.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from sparselight.errors import ConfigError, nearest


class Config(BaseModel):
    """Base of every config: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def parse(cls, data: Mapping[str, Any], prefix: str = "") -> Self:
        """Validate plain data.

        Args:
            prefix: dotted name of this config inside the recipe, for messages.

        Raises:
            ConfigError: naming the first faulty setting, its value and what would be accepted.
        """
        try:
            return cls.model_validate_json(json.dumps(data))
        except ValidationError as err:
            raise _config_error(cls, err.errors()[0], prefix) from None

    def hash(self) -> str:
        """SHA-256 of the canonical JSON of all values, defaults included."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json")).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as plain data.

    Raises:
        ConfigError: when the file is missing, unreadable or not TOML.
    """
    asked = f"read the recipe {path}"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        json.dumps(data)
        return data
    except FileNotFoundError:
        raise ConfigError(asked=asked, why="there is no such file", instead="give the path of a TOML file, for example recipes/demo.toml") from None
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(asked=asked, why=str(err), instead="make the file readable UTF-8 text") from None
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(asked=asked, why=f"it is not valid TOML: {err}", instead="mend the line named here") from None
    except TypeError:
        raise ConfigError(asked=asked, why="it holds a date or a time, and no setting is one", instead="put it in quotes") from None


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `data` with each `a.b=value` set. A value is read as TOML (`3e-4`, `true`, `[1, 2]`), else as a string.

    Raises:
        ConfigError: when an override has no `=` or its name leads into a value that is no table.
    """
    result = json.loads(json.dumps(data))
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name.strip():
            raise ConfigError(asked=f"apply the override {override!r}", why="it is not of the form name=value", instead="write for example --set train.lr=3e-4")
        *parents, last = name.strip().split(".")
        table = result
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ConfigError(asked=f"set {name.strip()}", why=f"{parent} is a value, not a table", instead="give the dotted name of one setting")
        table[last] = _toml_value(text.strip())
    return result


def _toml_value(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
        json.dumps(value)
    except (tomllib.TOMLDecodeError, TypeError):  # no TOML, or a date, which no setting is
        return text
    return value


def _config_error(cls: type[Config], error: ErrorDetails, prefix: str) -> ConfigError:
    location = [str(part) for part in error["loc"] if not str(part).startswith("function-")]
    dotted = ".".join(([prefix] if prefix else []) + location)
    if error["type"] == "extra_forbidden":
        return ConfigError(asked=f"set {dotted}", why="there is no such setting", instead=nearest(location[-1], _field_names(cls, location[:-1])))
    if error["type"] == "missing":
        return ConfigError(asked=f"use this config without {dotted}", why="that setting has no default", instead=f"add {dotted}")
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "value_error" and isinstance(error["input"], dict):  # several settings that do not go together
        return ConfigError(asked=f"use the settings of {dotted or cls.__name__}", why=message, instead="change one of those (see docs/reference/recipe.md)")
    return ConfigError(asked=f"set {dotted or cls.__name__} to {error['input']!r}", why=f"the value {message}" if message[0].islower() else message,
                       instead="give a value of that kind and range (see docs/reference/recipe.md)")


def _field_names(cls: type[BaseModel], path: list[str]) -> list[str]:
    model: type[BaseModel] = cls
    for part in path:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), model)
    return list(model.model_fields)
