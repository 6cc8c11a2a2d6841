"""What every record on disk has in common: one JSON file with its kind and version, written atomically, some with a checksum of their own."""

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sparselight.errors import RunError
from sparselight.files import write_bytes


class Part(BaseModel):
    """Plain data inside a record."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Record(Part):
    """A record with a kind and a version, one JSON file."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int] = 1

    def save(self, path: Path) -> None:
        content = {"record": self.KIND, "version": self.VERSION, **self.model_dump(mode="json")}
        write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            RunError: when the file is missing, damaged, of another kind, or written by a newer version.
        """
        asked = f"read the {cls.KIND} record {path}"
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            kind, version = content["record"], content["version"]
        except FileNotFoundError:
            raise RunError(asked=asked, why="there is no such file", instead="run the stage that writes it, or give the folder of a finished one") from None
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise RunError(asked=asked, why=f"it is damaged ({err})", instead="delete that file and run the same command again") from None
        if kind != cls.KIND:
            raise RunError(asked=asked, why=f"it is a {kind} record", instead=f"give the path of a {cls.KIND} record")
        if version > cls.VERSION:
            raise RunError(asked=asked, why=f"it has version {version}, this sparselight reads up to {cls.VERSION}", instead="upgrade sparselight")
        try:
            return cls.model_validate(cls._fields(content))
        except ValidationError as err:
            raise RunError(asked=asked, why=f"it is damaged ({err.errors()[0]['msg']} at {err.errors()[0]['loc']})",
                           instead="delete that file and run the same command again") from None
        except ValueError as err:
            raise RunError(asked=asked, why=f"it is damaged ({err})", instead="delete that file and run the same command again") from None

    @classmethod
    def _fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in content.items() if name not in ("record", "version")}


class CheckedRecord(Record):
    """A record that carries the SHA-256 of its own content, so that a changed byte is noticed; older versions without one are read as they are."""

    def save(self, path: Path) -> None:
        content = {"record": self.KIND, "version": self.VERSION, "sha256": "", **self.model_dump(mode="json")}
        content["sha256"] = _content_hash(content)
        write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def _fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        fields = super()._fields(content)
        expected = fields.pop("sha256", None)
        if expected is None and content["version"] >= cls.VERSION:
            raise ValueError("its checksum is missing")
        if expected is not None and expected != _content_hash(content):
            raise ValueError("its content does not match its checksum")
        return fields


def _content_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps({**content, "sha256": ""}, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class MetricValue(Part):
    """A measured number with its uncertainty."""

    value: float
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    n: int
    """How many independent units (groups of examples) the interval resamples, or observations where there is no interval."""
    unit: str = "groups"
    seeds: list[int] = Field(default_factory=list)

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{interval}"
