"""log.jsonl: one JSON object a line, one line each few steps; a resumed training leaves no line twice.

Fields: step, tokens (seen so far), each term of the objective before weighting, fvu (of this batch's targets), l0, n_dead, lr, threshold
(smallest value kept), grad_norm, tokens_per_s (since the line before). Losses are in scaled units, see objectives/. The same lines go to the
trackers of train.log_to.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sparselight.files import write_bytes, write_error
from sparselight.train.trackers import Tracker, close_trackers


class TrainingLog:
    """Appends lines; opened at the step where training begins or goes on."""

    def __init__(self, path: Path, step: int, trackers: Sequence[Tracker] = ()):
        kept = [line for line in read_log(path) if line["step"] <= step]
        write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._path, self._file, self._trackers = path, path.open("a", encoding="utf-8"), trackers
        self._at, self._tokens = time.perf_counter(), None if step else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        close_trackers(self._trackers)

    def write(self, line: dict[str, Any]) -> None:
        now = time.perf_counter()
        if self._tokens is not None:
            line["tokens_per_s"] = round((line["tokens"] - self._tokens) / max(now - self._at, 1e-9))
        self._at, self._tokens = now, line["tokens"]
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as err:
            raise write_error(self._path, err) from err
        for tracker in self._trackers:
            tracker.write(line["step"], {name: value for name, value in line.items() if name != "step" and value is not None})


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log; a last line that a killed writer left torn is passed over."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines
