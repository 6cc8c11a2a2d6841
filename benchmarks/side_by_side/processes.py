"""Workers seen from the coordinator: started in their own environment, asked one thing at a time, ended by their own handle."""

import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from .candidates import CANDIDATES, OURS
from .task import Task

ROOT = Path(__file__).resolve().parents[2]
ANSWER_LIMIT_S = 900.0
TUNED = {"THP_MEM_ALLOC_ENABLE": "1"}  # PyTorch's own switch for transparent huge pages


class CandidateError(Exception):
    """A candidate cannot do a task, and why."""


def python_of(name: str) -> Path:
    """The interpreter that has a candidate's library: its own environment's, else this one if it can import the library.

    Raises:
        CandidateError: when neither has it.
    """
    row = CANDIDATES[name]
    own = ROOT / row.environment / "bin" / "python"
    if name not in OURS and own.exists():
        return own
    found = subprocess.run([sys.executable, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec({row.package!r}) is None)"], check=False)
    if found.returncode == 0:
        return Path(sys.executable)
    raise CandidateError(f"{row.package} is not installed: run `make bench-setup`")


class Process:
    """One worker. A context manager: it is gone on leaving."""

    def __init__(self, name: str, task: Task, folder: Path, tuned: bool = False):
        self.name = name
        variables = os.environ | {"OMP_NUM_THREADS": str(task.threads), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in __exit__)
        self.process = subprocess.Popen(
            [str(python_of(name)), "-m", "benchmarks.side_by_side.worker", name, json.dumps(task.as_json()), str(folder)],
            cwd=ROOT, env=variables | (TUNED if tuned else {}), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            if pipe is not None:
                pipe.close()

    def start(self) -> dict[str, Any]:
        """Wait until it is ready, then have it make its candidate; returns the facts of it."""
        self._answer()
        return self.ask("make")

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Raises CandidateError when the library raised, or the process ended or hangs."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise CandidateError(self._last_words()) from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], ANSWER_LIMIT_S)[0]:
            raise CandidateError(f"no answer within {ANSWER_LIMIT_S:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise CandidateError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CandidateError(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self.process.wait(10)
        self.log.seek(0)
        lines = [line for line in self.log.read().splitlines() if line.strip()]
        return f"the process ended with code {code}: {lines[-1] if lines else 'it said nothing'}"
