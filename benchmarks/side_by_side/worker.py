"""The process of one candidate, in the environment of its library: `python -m benchmarks.side_by_side.worker NAME TASK FOLDER`.

It reads one JSON object a line from stdin and answers with one a line on what was stdout; anything that a library prints goes to stderr.
Between commands it waits in a read and uses no processor. Commands: `make` (library, version, probe), `turn` (some steps, with their
seconds), `memory` (peak above what imports and data took), `roof` (what the device can do), `quit`.
"""

import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

import torch

from .candidates import CANDIDATES
from .candidates.base import give_weights
from .data import read
from .memory import Memory
from .probe import probe
from .roof import measure
from .task import Task


class Worker:
    """A candidate and what it is given."""

    def __init__(self, name: str, task: Task, folder: Path):
        torch.set_num_threads(task.threads)
        torch.set_float32_matmul_precision(task.precision)
        self.name, self.task = name, task
        self.library = importlib.import_module(f".candidates.{CANDIDATES[name].module}", __package__)
        self.given = read(folder, task.device)
        load_lazily(task.device)
        self.memory = Memory(task.device)
        self.n_steps = 0

    def make(self) -> dict[str, Any]:
        row = CANDIDATES[self.name]
        cls = self.library.Inference if self.task.mode == "encode" else self.library.Trainer
        self.candidate = cls(self.task, row.variant)
        give_weights(self.candidate, self.task, self.given)
        probed = probe(self.candidate, self.task, self.given)
        gc.collect()
        return {
            "library": row.title, "version": importlib.metadata.version(row.distribution), "torch": torch.__version__, "probe": probed,
            "device": torch.cuda.get_device_name() if self.task.device == "cuda" else None,
            "precision": torch.get_float32_matmul_precision(), **getattr(self.candidate, "facts", {}),
        }

    def turn(self, min_s: float, max_steps: int, cycle: int) -> dict[str, Any]:
        """Steps until `min_s` seconds have gone by, in whole cycles, one at least."""
        seconds: list[float] = []
        while not seconds or len(seconds) % cycle or (sum(seconds) < min_s and len(seconds) < max_steps):
            x = self.given.batches[self.n_steps % len(self.given.batches)]
            self.wait()
            began = time.perf_counter()
            self.candidate.run(x)
            self.wait()
            seconds.append(time.perf_counter() - began)
            self.n_steps += 1
        return {"seconds": seconds}

    def wait(self) -> None:
        if self.task.device == "cuda":
            torch.cuda.synchronize()


def load_lazily(device: str) -> None:
    """Have PyTorch load what it loads at first use (its compiler, with the first optimizer), so that it counts as nobody's memory."""
    weight = torch.nn.Parameter(torch.ones(64, 64, device=device))
    optimizer = torch.optim.Adam([weight])
    (weight @ weight).square().mean().backward()
    optimizer.step()


def serve(worker: Worker, answers: IO[str]) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop("do")
        if command == "quit":
            return
        try:
            match command:
                case "make":
                    answer = worker.make()
                case "turn":
                    answer = worker.turn(**request)
                case "memory":
                    answer = {"peak_bytes": worker.memory.peak()}
                case "roof":
                    answer = measure(worker.task.device)
                case _:
                    answer = {"error": f"there is no command {command!r}"}
        except Exception as err:  # whatever a library raises belongs in the results, under its name
            answer = {"error": f"{type(err).__name__}: {err}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, task, folder = sys.argv[1:]
    try:
        worker = Worker(name, Task(**json.loads(task)), Path(folder))
    except Exception as err:
        answers.write(json.dumps({"error": f"{type(err).__name__}: {err}"}) + "\n")
        return
    answers.write(json.dumps({"ready": True}) + "\n")
    answers.flush()
    serve(worker, answers)


if __name__ == "__main__":
    main()
