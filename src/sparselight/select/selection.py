"""The outcome of a selection: which examples, in which order, and why. One Parquet file on disk."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from sparselight.errors import RunError
from sparselight.files import atomic_path


@dataclass(frozen=True, slots=True)
class Selection:
    """Examples of a corpus that belong to the domain, seeds first, then best first."""

    examples: list[int]
    """Indices into the corpus."""
    scores: list[float]
    """The score of each; a seed's also counts its match with itself, so compare seeds with seeds only."""
    is_seed: list[bool]
    n_tokens: int
    terms: list[str]
    """The 20 terms that weigh most over all queries."""

    def summary(self) -> dict[str, Any]:
        """A few numbers for people."""
        found = [score for score, seed in zip(self.scores, self.is_seed, strict=True) if not seed]
        return {
            "n_examples": len(self.examples), "n_seeds": sum(self.is_seed), "n_tokens": self.n_tokens,
            "best_score": max(found, default=None), "last_score": min(found, default=None), "terms": self.terms,
        }

    def save(self, path: Path) -> None:
        table = pa.table(
            {"example": pa.array(self.examples, pa.int64()), "score": pa.array(self.scores, pa.float64()), "is_seed": pa.array(self.is_seed, pa.bool_())},
            metadata={"sparselight": json.dumps({"record": "selection", "version": 1, "n_tokens": self.n_tokens, "terms": self.terms})},
        )
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a selection.

        Raises:
            RunError: when the file is missing, damaged, or written by a newer version.
        """
        asked = f"read the selection {path}"
        try:
            table = pq.read_table(path)
            about = json.loads(table.schema.metadata[b"sparselight"])
            if about["version"] > 1:
                raise RunError(asked=asked, why=f"it has version {about['version']}, this sparselight reads up to 1", instead="upgrade sparselight")
            examples, scores, is_seed = (table.column(name).to_pylist() for name in ("example", "score", "is_seed"))
            return cls(examples, scores, is_seed, about["n_tokens"], about["terms"])
        except FileNotFoundError:
            raise RunError(asked=asked, why="there is no such file", instead="run the select stage") from None
        except (OSError, pa.ArrowException, KeyError, TypeError, json.JSONDecodeError) as err:
            raise RunError(asked=asked, why=f"it is damaged ({err})", instead="delete that file and run the same command again") from None
