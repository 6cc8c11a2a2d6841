"""A suite on a case: what is kept and found again, which passes are shared, what is missing and said so, paired differences, odd coders."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError, CorpusError, RunError, SaeError
from sparselight.evaluate import FAMILIES, Case, Contender, Dataset, EvaluateConfig, run_suite, undefined_lines
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.sheet import Sheet
from sparselight.evaluate.statistics import Resamples
from sparselight.protocols import Example
from sparselight.records import EvalRecord, MetricValue
from sparselight.sae import Sae, initialize
from sparselight.subjects import CausalLM
from sparselight.testing import tiny_corpus, tiny_subject

SITE = "resid_post.1"
TWO = "reconstruction,behaviour"


@pytest.fixture(scope="module")
def subject() -> CausalLM:
    return tiny_subject()


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(tiny_corpus(48))


@pytest.fixture(scope="module")
def activations(subject: CausalLM, examples: list[Example]) -> Float[Tensor, "token d_in"]:
    return subject.capture(subject.prepare(examples), [SITE])[SITE]


def make_sae(x: Float[Tensor, "token d_in"], seed: int, n_latents: int = 64) -> Sae:
    sae = initialize(Sae(32, n_latents), x.mean(0), torch.Generator().manual_seed(seed))
    sae.threshold.fill_(float(x.std()))
    return sae


@pytest.fixture(scope="module")
def coders(activations: Tensor) -> dict[str, Contender]:
    return {name: Contender(make_sae(activations, seed), is_control=False) for seed, name in enumerate(("base", "other"))}


def settings(**changes: Any) -> EvaluateConfig:
    return EvaluateConfig.parse({"suite": TWO, "n_tokens": 500, "n_bootstrap": 60, "batch_tokens": 256, **changes}, "evaluate")


def make_case(subject: CausalLM | None, examples: list[Example], config: EvaluateConfig) -> Case:
    fit = [example for example in examples if example.group.split("/")[0] in ("files", "security")]
    dataset = Dataset("general", fit, [example for example in examples if example not in fit])
    return Case(SITE, {"general": dataset}, config, subject)


Run = Callable[..., EvalRecord]


@pytest.fixture
def run(subject: CausalLM, examples: list[Example], coders: dict[str, Contender]) -> Run:
    def call(folder: Path | None = None, case: Case | None = None, contenders: dict[str, Contender] | None = None, **changes: Any) -> EvalRecord:
        config = settings(**changes)
        return run_suite(case or make_case(subject, examples, config), contenders or coders, config, folder=folder)

    return call


def watch(monkeypatch: pytest.MonkeyPatch, name: str, before: Callable[[], None]) -> None:
    """Call something whenever a family begins to measure."""
    family = FAMILIES[name]

    @functools.wraps(family.measure)
    def measure(*arguments: Any) -> None:
        before()
        family.measure(*arguments)

    monkeypatch.setitem(FAMILIES, name, family._replace(measure=measure))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The families that were measured, in order."""
    calls: list[str] = []
    for name in TWO.split(","):
        watch(monkeypatch, name, functools.partial(calls.append, name))
    return calls


def test_a_finished_family_is_found_again_and_all_numbers_are_the_same(run: Run, tmp_path: Path, measured: list[str]) -> None:
    first = run(tmp_path)
    assert measured == TWO.split(",")
    assert run(tmp_path) == first == EvalRecord.load(tmp_path / "evaluation.json")
    assert measured == TWO.split(",")
    without = run()
    assert (without.rows, without.differences, without.undefined) == (first.rows, first.differences, first.undefined)


def test_an_interrupted_evaluation_goes_on_with_what_is_missing(run: Run, tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run()
    measured.clear()

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        watch(patch, "behaviour", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert not (tmp_path / "evaluation.json").exists()
    resumed = run(tmp_path)
    assert measured == ["reconstruction", "behaviour"]
    assert (resumed.rows, resumed.differences, resumed.notes) == (whole.rows, whole.differences, whole.notes)


@pytest.mark.parametrize("changes", [{"n_bootstrap": 61}, {"reconstruction": {"bins_per_decade": 3}}, {"controls": False}])
def test_what_changes_a_result_is_measured_again(run: Run, tmp_path: Path, measured: list[str], changes: dict[str, Any]) -> None:
    run(tmp_path, suite="reconstruction")
    run(tmp_path, suite="reconstruction", **changes)
    assert measured == ["reconstruction", "reconstruction"]


def test_other_weights_or_data_are_measured_again(run: Run, tmp_path: Path, measured: list[str], subject: CausalLM, examples: list[Example],
                                                  activations: Tensor) -> None:
    run(tmp_path, suite="reconstruction")
    run(tmp_path, suite="reconstruction", contenders={"base": Contender(make_sae(activations, 5), is_control=False)})
    fewer = make_case(subject, examples[:-1], settings(suite="reconstruction"))
    run(tmp_path, suite="reconstruction", case=fewer)
    assert len(measured) == 3
    assert len(list((tmp_path / "families").iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "gone", "record"])
def test_a_damaged_family_is_measured_again(run: Run, tmp_path: Path, measured: list[str], damage: str) -> None:
    first = run(tmp_path, suite="reconstruction")
    folder = next((tmp_path / "families").iterdir())
    if damage == "gone":
        (folder / "resampled.parquet").unlink()
    else:
        path = folder / {"cut": "resampled.parquet", "record": "family.json"}[damage]
        path.write_bytes(path.read_bytes()[:-20])
    assert run(tmp_path, suite="reconstruction").rows == first.rows
    assert len(measured) == 2


def test_coders_whose_weights_cannot_be_seen_are_measured_each_time(run: Run, tmp_path: Path, measured: list[str]) -> None:
    class Half:
        def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
            return x / 2

    for _ in range(2):
        record = run(tmp_path, suite="reconstruction", contenders={"half": Contender(Half(), is_control=False)}, controls=False)
    assert len(measured) == 2
    assert not (tmp_path / "families").exists()
    assert record.families["reconstruction"].tables == []


def test_passes_are_shared_and_counted(subject: CausalLM, examples: list[Example], coders: dict[str, Contender]) -> None:
    config = settings(controls=False)
    case = make_case(subject, examples, config)
    record = run_suite(case, coders, config)
    fit, held_out = (case.tokens("general", side).n_tokens for side in ("fit", "held_out"))
    runs = record.families
    assert runs["reconstruction"].passed_tokens == fit + held_out  # captured once, for the mean and for all families
    assert runs["behaviour"].passed_tokens == (1 + len(coders) + 2) * held_out
    assert case.passed_tokens == sum(run.passed_tokens for run in runs.values())
    assert record.n_tokens == {"general": held_out}


def test_spans_are_made_when_a_family_first_asks(subject: CausalLM, examples: list[Example], coders: dict[str, Contender]) -> None:
    asked: list[int] = []

    def annotate(part: Sequence[Example]) -> list[Example]:
        asked.append(len(part))
        spans = {example.id: example.spans for example in examples}
        return [dataclasses.replace(example, spans=spans[example.id]) for example in part]

    bare = [dataclasses.replace(example, spans=()) for example in examples]
    config = settings(suite="reconstruction", controls=False)
    case = make_case(subject, bare, config)
    case = dataclasses.replace(case, datasets={"general": dataclasses.replace(case.datasets["general"], annotate=annotate)})
    run_suite(case, coders, config)
    assert asked == []
    assert not case.tokens("general", "held_out").examples[0].spans
    case.annotate()
    assert case.tokens("general", "held_out").examples[0].spans
    assert len(asked) == 2  # both sides


def test_what_a_suite_needs_and_lacks_is_listed(run: Run, examples: list[Example], subject: CausalLM, tmp_path: Path) -> None:
    config = settings(suite="core")
    weights_only = run(case=Case(SITE, {}, config, None), suite="core")
    assert weights_only.families["behaviour"].not_measured == "it runs the subject, and none is given"
    assert weights_only.families["reconstruction"].not_measured == "it needs held-out tokens, and none are given"
    assert weights_only.families["geometry"].not_measured == ""
    assert {row.family for row in weights_only.rows} == {"geometry"}
    assert any("no controls were measured" in note for note in weights_only.notes)
    bare = [Example(example.id, example.text, example.group) for example in examples]
    with pytest.raises(ConfigError, match="measure probing: no example carries an annotation"):
        run(case=make_case(subject, bare, settings(suite="probing")), suite="probing")
    with pytest.raises(ConfigError, match="measure behaviour: it runs the subject"):
        run(case=Case(SITE, {}, config, None), suite="behaviour")
    with pytest.raises(ConfigError, match="there is only one"):
        run(suite="stability", contenders={"base": Contender(make_sae(torch.randn(9, 32), 0), is_control=False)})


def test_a_family_of_a_suite_that_refuses_is_listed_and_the_others_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise CorpusError(asked="measure", why="the annotation is not there", instead="give it")

    watch(monkeypatch, "behaviour", refuse)
    record = run(suite="core")
    assert record.families["behaviour"].not_measured == "the annotation is not there"
    assert record.families["reconstruction"].not_measured == ""
    with pytest.raises(CorpusError, match="the annotation is not there"):
        run(suite="behaviour")


def test_the_record_says_what_was_measured_on_what(run: Run, tmp_path: Path, subject: CausalLM, coders: dict[str, Contender]) -> None:
    record = run(tmp_path)
    assert record.subject == subject.ref()
    assert (record.site, record.suite, record.base, record.n_bootstrap) == (SITE, TWO, "base", 60)
    assert record.coders["base"].weights == coders["base"].coder.weights_hash()  # type: ignore[attr-defined]
    assert not record.coders["other"].is_control
    assert all(coder.is_control for name, coder in record.coders.items() if name not in coders)
    assert "untrained SAE" in record.coders
    data = record.datasets["general"]
    assert data.n_groups == 4
    assert data.held_out != data.fit
    assert record.families["behaviour"].config == FAMILIES["behaviour"].config().model_dump(mode="json")
    flat = pq.read_table(tmp_path / "values.parquet").to_pylist()
    assert len(flat) == len(record.rows) + len(record.differences) + len(record.undefined)
    assert flat[0]["value"] == record.rows[0].value.value
    for name in record.families["reconstruction"].tables:
        assert pq.read_table(tmp_path / name).num_rows > 0


def test_controls_go_by_one_switch(run: Run) -> None:
    with_controls, without, chosen = run(suite="reconstruction"), run(suite="reconstruction", controls=False), run(suite="reconstruction", controls=["raw"])
    own = {"base", "other", "zero ablation", "mean ablation"}
    assert own == set(without.coders)
    assert len(set(with_controls.coders) - own) == 2
    assert next(name for name in chosen.coders if name not in own).startswith("raw channels")
    by_metric = {row.metric for row in with_controls.rows if row.coder == "base"}
    assert by_metric == {row.metric for row in with_controls.rows if row.coder == "untrained SAE"}


def test_differences_are_taken_on_the_same_resamples(run: Run, tmp_path: Path) -> None:
    record = run(tmp_path, suite="reconstruction")
    table = pq.read_table(next((tmp_path / "families").iterdir()) / "resampled.parquet").to_pylist()
    kept = {(row["coder"], row["metric"]): np.array(row["resampled"]) for row in table if not row["setting"]}
    difference = next(row for row in record.differences if (row.coder, row.metric, row.reference) == ("other", "fvu", "base")).value
    paired = kept["other", "fvu"] - kept["base", "fvu"]
    assert difference.value == paired[0]
    assert (difference.low, difference.high) == pytest.approx(tuple(np.quantile(paired[1:], [0.025, 0.975])))
    assert {row.coder for row in record.differences} & {"zero ablation", "mean ablation"} == set()


def test_plain_values_differ_without_an_interval_and_what_is_not_finite_is_not_defined() -> None:
    findings, resamples = Findings(), Resamples.draw(4, 40, 0)
    for coder, value, ratio in (("a", 0.5, 1.0), ("b", 0.25, float("nan"))):
        findings.add(Cell(coder, "dead_frac", "general"), MetricValue(value=value, n=10, unit="latents"))
        findings.add(Cell(coder, "mean_max_cosine"), MetricValue(value=ratio, n=10, unit="latents"))
    findings.lacks(Cell("b", "l0", "general"), "it has no codes")
    sheet = Sheet({"general": resamples}, {"a": False, "b": False}, [("b", "a")])
    sheet.add("geometry", findings)
    assert [(row.metric, row.value.value, row.value.low, row.value.unit) for row in sheet.differences] == [("dead_frac", -0.25, None, "latents")]
    assert [(entry.metric, entry.why) for entry in sheet.undefined] == [("mean_max_cosine", "it came out as nan"), ("l0", "it has no codes")]
    record = EvalRecord(rows=sheet.rows, differences=sheet.differences, n_tokens={}, undefined=sheet.undefined)
    assert undefined_lines(record)[1] == "general, l0 of b is not defined: it has no codes"


def test_an_sae_that_never_fires_gets_values_or_reasons(run: Run, activations: Tensor) -> None:
    dead = make_sae(activations, 0)
    dead.threshold.fill_(1e9)
    record = run(suite="core", contenders={"dead": Contender(dead, is_control=False)}, controls=False)
    values = {row.metric: row.value.value for row in record.rows if row.coder == "dead" and not row.setting}
    assert (values["l0"], values["dead_frac"]) == (0, 1)
    assert all(np.isfinite(row.value.value) for row in record.rows)
    assert any(entry.coder == "dead" and entry.setting == "alive" for entry in record.undefined)


def test_one_group_gives_values_without_intervals(run: Run, subject: CausalLM, examples: list[Example]) -> None:
    groups = sorted({example.group for example in examples})[:2]
    fit, held_out = ([example for example in examples if example.group == group] for group in groups)
    config = settings()
    record = run(case=Case(SITE, {"general": Dataset("general", fit, held_out)}, config, subject))
    assert record.rows
    assert all(row.value.low is None for row in record.rows if row.value.unit == "groups")
    assert any("one group" in note for note in record.notes)


def test_sides_that_share_a_group_are_refused(subject: CausalLM, examples: list[Example]) -> None:
    with pytest.raises(CorpusError, match="stand on both sides"):
        Case(SITE, {"general": Dataset("general", examples[:24], examples[20:])}, settings(), subject)


def test_coders_that_do_not_belong_are_refused(run: Run, activations: Tensor) -> None:
    base = Contender(make_sae(activations, 0), is_control=False)
    with pytest.raises(ConfigError, match="the evaluation's own"):
        run(contenders={"zero ablation": base})
    with pytest.raises(SaeError, match="width d_in = 16"):
        run(contenders={"base": base, "narrow": Contender(Sae(16, 8), is_control=False)}, controls=False)


def test_two_processes_do_not_write_one_folder(run: Run, tmp_path: Path) -> None:
    from sparselight.files import folder_lock

    with folder_lock(tmp_path, "test"), pytest.raises(RunError, match="another process is writing"):
        run(tmp_path)


def test_records_of_version_1_are_read(tmp_path: Path) -> None:
    value = {"value": 0.3, "low": 0.2, "high": 0.4, "n": 8, "unit": "groups", "seeds": [0]}
    row = {"coder": "base", "is_control": False, "dataset": "general", "metric": "fvu", "value": value, "reference": None}
    old = {"record": "evaluation", "version": 1, "rows": [row], "differences": [], "n_tokens": {"general": 700}, "notes": ["a note"]}
    (tmp_path / "evaluation.json").write_text(json.dumps(old))
    record = EvalRecord.load(tmp_path / "evaluation.json")
    assert (record.rows[0].setting, record.rows[0].family, record.rows[0].value.high) == ("", "", 0.4)
    assert (record.families, record.undefined, record.subject) == ({}, [], None)
    record.save(tmp_path / "again.json")
    assert EvalRecord.load(tmp_path / "again.json") == record
