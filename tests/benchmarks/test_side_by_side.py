"""The benchmark beside other libraries, in its parts that need none of them: what is given, what is checked, how times become ratios."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks.side_by_side import data, results
from benchmarks.side_by_side.candidates import ALL_KINDS, CANDIDATES, OURS, peers_for
from benchmarks.side_by_side.candidates.base import Weights, give_weights
from benchmarks.side_by_side.goals import GOALS, added, faster, growth, leaner
from benchmarks.side_by_side.memory import Memory
from benchmarks.side_by_side.probe import probe
from benchmarks.side_by_side.processes import CandidateError, Process, python_of
from benchmarks.side_by_side.roof import floor_s
from benchmarks.side_by_side.rounds import Times, Turn, ratio, summary, take_turns
from benchmarks.side_by_side.task import ENCODE_KINDS, KINDS, Task
from torch import Tensor

D_IN, N_LATENTS, K, BATCH = 32, 256, 8, 128
STATES = [(kind, state) for kind, states in KINDS.items() for state in states]


def task(kind: str = "topk", state: str = "fresh", mode: str = "train") -> Task:
    return Task(mode, kind, state, D_IN, N_LATENTS, K, BATCH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given")
    data.write(path, D_IN, N_LATENTS, BATCH, K, seed=0)
    return path


class Plain:
    """A candidate in plain PyTorch; `error` is added to its decoder, to be found."""

    def __init__(self, task: Task, error: float = 0.0):
        self.task, self.error = task, error
        self.made = Weights(torch.zeros(N_LATENTS, D_IN), torch.zeros(N_LATENTS), torch.zeros(N_LATENTS, D_IN), torch.zeros(D_IN), True)
        self.threshold = 0.0

    def weights(self) -> Weights:
        return self.made

    def set_threshold(self, value: float) -> None:
        self.threshold = value

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights, kind = self.made, self.task.kind
        pre = (x - weights.b_dec) @ weights.W_enc.T + weights.b_enc
        if kind == "jump_relu":
            codes = pre * (pre > self.threshold)
        elif kind == "relu":
            codes = pre.relu()
        elif kind == "topk":
            codes = pre.relu() * (pre >= pre.topk(K, dim=1).values[:, -1:])
        else:
            codes = pre.relu() * (pre >= pre.flatten().topk(K * len(x)).values[-1])
        return codes, codes @ (weights.W_dec + self.error) + weights.b_dec

    def run(self, x: Tensor) -> None:
        raise NotImplementedError


def test_activations_and_weights_are_the_same_for_everyone(folder: Path) -> None:
    given = data.read(folder, "cpu")
    assert [batch.shape for batch in given.batches] == [(BATCH, D_IN)] * data.N_BATCHES
    assert torch.equal(torch.cat(given.batches), data.activations(D_IN, data.N_BATCHES * BATCH, seed=0))
    first, second = (torch.cat([rows for _, rows in data.weight_blocks(D_IN, 3 * data.BLOCK // 2, seed=0)]) for _ in range(2))
    assert torch.equal(first, second)
    assert len(first.unique(dim=0)) == 3 * data.BLOCK // 2
    torch.testing.assert_close(first.norm(dim=1), torch.ones(len(first)))


@pytest.mark.parametrize(("kind", "state"), STATES)
def test_the_probe_passes_what_is_right_and_sees_what_is_wrong(kind: str, state: str, folder: Path) -> None:
    given = data.read(folder, "cpu")
    found = []
    for error in (0.0, 1e-3):
        candidate = Plain(task(kind, state), error)
        give_weights(candidate, task(kind, state), given)
        found.append(probe(candidate, task(kind, state), given))
    right, wrong = found
    assert right["passed"]
    assert right["agreeing_frac"] == 1.0
    assert not wrong["passed"]
    wanted_l0 = N_LATENTS / 2 if kind in ("relu", "jump_relu") and state == "fresh" else K
    assert right["l0"] == pytest.approx(wanted_l0, rel=0.15)
    assert right["l0"] == right["l0_by_definition"]


def test_an_encoder_that_subtracts_nothing_gets_a_bias_that_does_the_same(folder: Path) -> None:
    given = data.read(folder, "cpu")
    subtracts, does_not = Plain(task("relu")), Plain(task("relu"))
    does_not.made = does_not.made._replace(subtracts_b_dec=False)
    for candidate in (subtracts, does_not):
        give_weights(candidate, task("relu"), given)
    x = given.batches[0]
    torch.testing.assert_close(x @ does_not.made.W_enc.T + does_not.made.b_enc, (x - subtracts.made.b_dec) @ subtracts.made.W_enc.T, rtol=1e-4, atol=1e-4)


class Scripted:
    """A process that gives the times it was told, and notes its turns."""

    def __init__(self, name: str, turns: list[list[float]], log: list[str]):
        self.name, self.turns, self.log = name, iter(turns), log

    def ask(self, command: str, **_: object) -> dict[str, list[float]]:
        self.log.append(self.name)
        return {"seconds": next(self.turns)}


def test_rounds_interleave_and_leave_the_warm_up_out() -> None:
    log: list[str] = []
    slow, fast = [[99.0], [4.0, 6.0], [8.0]], [[99.0], [1.0], [1.0, 2.0, 3.0]]
    times = take_turns({"slow": Scripted("slow", slow, log), "fast": Scripted("fast", fast, log)}, reps=2, warm_up=1)  # type: ignore[dict-item]
    assert [set(log[start:start + 2]) for start in (0, 2, 4)] == [{"slow", "fast"}] * 3
    assert (times["slow"].turns_s, times["fast"].turns_s) == ([5.0, 8.0], [1.0, 2.0])
    assert ratio(times["slow"], times["fast"]) == {"median": 4.5, "min": 4.0, "max": 5.0}
    assert summary(times["slow"], batch=12) == {"step_s": 6.0, "min_s": 4.0, "max_s": 8.0, "n_steps": 3, "tokens_per_s": 2.0}


def test_steps_that_differ_count_by_whole_cycles() -> None:
    times = Times()
    times.add([1.0, 1.0, 7.0, 1.0, 1.0, 4.0], Turn(cycle=3).cycle)
    assert (times.steps_s, times.turns_s) == ([3.0, 2.0], [2.5])


def entry(**changes: object) -> results.Entry:
    machine = {"processor": "P", "cores": 2, "gpu": None, "torch": "2", "threads": 2, "system": "S", "python": "3", "date": "2026-01-01", "load_before": 0.0}
    base = {"device": "P", "mode": "train", "kind": "topk", "state": "fresh", "shape": "s", "d_in": 1, "n_latents": 2, "k": 1, "batch": 1,
            "precision": "highest", "autocast": False, "seed": 0, "machine": machine, "rows": {}}
    return base | changes


def row(step_s: float, peak: int, **ratios: float) -> dict[str, object]:
    found = {"step_s": step_s, "min_s": step_s, "max_s": step_s, "n_steps": 1, "tokens_per_s": 1 / step_s, "peak_bytes": peak}
    return found | ({"ratio": {name: {"median": value, "min": value, "max": value} for name, value in ratios.items()}} if ratios else {})


def test_a_measurement_replaces_the_one_before_it_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for changed in ({"rows": {"old": {}}}, {"kind": "relu"}, {"rows": {"new": {}}}, {"device": "Q"}):
        results.save(entry(**changed), path)
    found = results.load(path)
    assert sorted((each["device"], each["kind"], *each["rows"]) for each in found) == [("P", "relu"), ("P", "topk", "new"), ("Q", "topk")]


def test_goals_read_the_worst_of_each_shape() -> None:
    rows = {"ours": row(1, 50), "saelens": row(40, 200, ours=40.0), "sparsify": row(9, 100, ours=9.0), "overcomplete": {"skipped": "why"}}
    entries = [entry(rows=rows), entry(kind="batch_topk", rows={"ours": row(1, 50), "saelens": row(30, 40, ours=30.0)}), entry(shape="m", rows=rows)]
    assert faster(["topk", "batch_topk"])(entries) == {"s": 9.0, "m": 9.0}
    assert faster(["topk", "batch_topk"], ["saelens"])(entries) == {"s": 30.0, "m": 40.0}
    assert faster(["topk"], precision="medium")(entries) == {}
    assert leaner(entries) == {"s": 1.25, "m": 0.5}
    terms = {"plain": row(1, 1), "tilted (TERM)": row(1.5, 1, plain=1.5) | {"compared_with": "plain"}}
    assert added("tilted (TERM)")([entry(mode="overheads", rows=terms)]) == {"s": 50.0}
    widths = {name: {"n_latents": n, "us_per_token": cost} for name, n, cost in (("m=1", 1000, 2.0), ("m=2", 4000, 6.0))}
    assert growth([entry(mode="scaling", rows=widths)]) == {"s": 0.75}
    assert [GOALS[0].met(8), GOALS[0].met(7.9), GOALS[8].met(1.0), GOALS[8].met(1.1)] == [True, False, True, False]


def test_the_roofline_adds_product_and_traffic() -> None:
    roof = {"product_flops": 2.0 * BATCH * N_LATENTS * D_IN, "copy_bytes_s": float(56 * N_LATENTS * D_IN + 12 * BATCH * K * D_IN)}
    assert floor_s(task(), roof) == pytest.approx(2.0)


def test_peak_memory_is_above_what_was_there() -> None:
    memory = Memory("cpu")
    held = torch.ones(1 << 24)
    assert memory.peak() >= 0.9 * held.nbytes
    assert memory.peak() < 4 * held.nbytes


def test_every_candidate_has_its_row_and_file() -> None:
    package = Path(data.__file__).parent / "candidates"
    for name, found in CANDIDATES.items():
        assert (package / f"{found.module}.py").exists(), name
        assert set(found.encode_kinds) <= set(found.kinds) & set(ENCODE_KINDS) | {"jump_relu"}
    assert set(OURS) <= set(CANDIDATES)
    assert {kind: len(peers_for(kind, "train")) for kind in ALL_KINDS} == {"topk": 6, "batch_topk": 3, "matryoshka": 2, "relu": 3, "jump_relu": 3}


def test_a_task_goes_through_json_and_its_prefixes_end_with_the_dictionary() -> None:
    made = task("matryoshka")
    assert Task(**json.loads(json.dumps(made.as_json()))) == made
    assert made.prefix_ends == (16, 32, 64, 128, 256)


@pytest.fixture(scope="module")
def process(folder: Path) -> Iterator[Process]:
    with Process("ours", task("batch_topk"), folder) as started:
        yield started


def test_a_worker_of_ours_answers_in_a_process_of_its_own(process: Process) -> None:
    facts = process.start()
    assert facts["probe"]["passed"], facts
    assert facts["torch"] == torch.__version__
    assert len(process.ask("turn", min_s=0.0, max_steps=4, cycle=2)["seconds"]) == 2
    assert process.ask("memory")["peak_bytes"] > 0
    with pytest.raises(CandidateError, match="no command 'dance'"):
        process.ask("dance")


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setitem(CANDIDATES, "saelens", replace(CANDIDATES["saelens"], environment=".venv-none", package="no_such_package"))
    with pytest.raises(CandidateError, match="no_such_package is not installed: run `make bench-setup`"):
        python_of("saelens")


def test_a_worker_that_cannot_begin_says_why(tmp_path: Path) -> None:
    with Process("ours", task(), tmp_path) as started, pytest.raises(CandidateError, match="FileNotFoundError"):
        started.start()
