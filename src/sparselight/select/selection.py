"""The outcome of a selection: which examples, in which order, and why. One Parquet file on disk."""

import json
from dataclasses import dataclass, field
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
    """The score of each; a seed's also counts its match with itself, so compare seeds with seeds only. Of several strategies 1 / the best rank, and
    where examples were ordered anew, their influence."""
    is_seed: list[bool]
    n_tokens: int
    terms: list[str]
    """The 20 terms that weigh most over all BM25 queries; empty without them."""
    scores_by: dict[str, list[float]] = field(default_factory=dict)
    """Strategy to its own scores."""
    seed_counts: dict[str, int] = field(default_factory=dict)
    """Seeds by the setting that named them; `held_out`: examples that match and were set aside."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Examples that were passed over on the way to the budget, by reason; with select.guard = "report" those that would have been.
    `not_compared`: texts that are alike too many others to be compared with all of them for near copies."""

    def summary(self) -> dict[str, Any]:
        """A few numbers for people."""
        found = [score for score, seed in zip(self.scores, self.is_seed, strict=True) if not seed]
        return {
            "n_examples": len(self.examples), "n_seeds": sum(self.is_seed), "n_tokens": self.n_tokens,
            "best_score": max(found, default=None), "last_score": min(found, default=None), "terms": self.terms,
            "seed_counts": self.seed_counts, "left_out": self.left_out,
        }

    def save(self, path: Path) -> None:
        about = {"record": "selection", "version": 1, "n_tokens": self.n_tokens, "terms": self.terms, "seed_counts": self.seed_counts,
                 "left_out": self.left_out}
        table = pa.table(
            {"example": pa.array(self.examples, pa.int64()), "score": pa.array(self.scores, pa.float64()), "is_seed": pa.array(self.is_seed, pa.bool_()),
             **{f"score_{name}": pa.array(scores, pa.float64()) for name, scores in self.scores_by.items()}},
            metadata={"sparselight": json.dumps(about)},
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
            scores_by = {name.removeprefix("score_"): table.column(name).to_pylist() for name in table.column_names if name.startswith("score_")}
            return cls(examples, scores, is_seed, about["n_tokens"], about["terms"], scores_by, about.get("seed_counts", {}), about.get("left_out", {}))
        except FileNotFoundError:
            raise RunError(asked=asked, why="there is no such file", instead="run the select stage") from None
        except (OSError, pa.ArrowException, KeyError, TypeError, json.JSONDecodeError) as err:
            raise RunError(asked=asked, why=f"it is damaged ({err})", instead="delete that file and run the same command again") from None
