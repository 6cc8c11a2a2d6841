"""Comparing: what is found on disk, what must be equal, what becomes one column, and how differences get their intervals."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from compare_cases import N_GROUPS, resampled, write_evaluation, write_sae_record
from scipy import stats

from sparselight.errors import RunError
from sparselight.evaluate.statistics import Resamples
from sparselight.pipeline.comparison import compare, default_folder, write
from sparselight.pipeline.comparison_sources import open_sources
from sparselight.pipeline.comparison_values import welch
from sparselight.records import EvalRecord, EvalRow, MetricValue, RunRecord, SaeRecord
from sparselight.report.compare_data import Comparison, Row
from sparselight.sae.disk import RECORD


def row_of(comparison: Comparison, metric: str, dataset: str = "general", setting: str = "") -> Row:
    return next(row for row in comparison.rows if (row.metric, row.dataset, row.setting) == (metric, dataset, setting))


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Two SAEs of like fvu, each evaluated by itself on the same tokens."""
    write_evaluation(tmp_path / "first", {"topk": (0.30, 32.0)})
    write_evaluation(tmp_path / "second", {"batch_topk": (0.31, 32.0)})
    return [str(tmp_path / "first"), str(tmp_path / "second")]


def test_differences_are_paired_over_the_same_tokens(pair: list[str]) -> None:
    row = row_of(compare(pair), "fvu")
    assert (row.best, row.rival, row.pairing) == ("topk", "batch_topk", "tokens")
    first, second = (resampled(level, 0.06, 0.002, sum(map(ord, name))) for name, level in (("topk", 0.30), ("batch_topk", 0.31)))
    low, high = np.quantile((first - second)[1:], [0.025, 0.975])
    assert row.difference is not None
    assert row.difference.value == pytest.approx(-0.01)
    assert (row.difference.low, row.difference.high) == (pytest.approx(low), pytest.approx(high))
    assert row.difference.n == N_GROUPS
    assert row.is_clear  # although the two intervals overlap by far
    assert row.values["topk"].high > row.values["batch_topk"].low
    assert row.p is not None
    assert row.p < 0.05


def test_other_resamples_are_not_paired(pair: list[str]) -> None:
    path = Path(pair[1]) / "evaluation.json"
    EvalRecord.load(path).model_copy(update={"n_bootstrap": 500}).save(path)
    comparison = compare(pair)
    row = row_of(comparison, "fvu")
    assert row.pairing == "separate"
    assert not row.is_clear
    assert any("evaluate.n_bootstrap" in note for note in comparison.notes)


def test_separate_intervals_are_put_together_by_mover(pair: list[str]) -> None:
    for place in pair:
        for file in Path(place).rglob("resampled.parquet"):
            file.unlink()
    row = row_of(compare(pair), "fvu")
    own, other, difference = row.values["topk"], row.values["batch_topk"], row.difference
    assert row.pairing == "separate"
    assert difference.low == pytest.approx(-0.01 - np.hypot(own.value - own.low, other.high - other.value))
    assert difference.high == pytest.approx(-0.01 + np.hypot(own.high - own.value, other.value - other.low))


def test_without_any_interval_nothing_is_called_best(pair: list[str]) -> None:
    row = row_of(compare(pair), "mean_max_cosine", "")
    assert (row.best, row.pairing, row.is_clear) == ("topk", "", False)
    assert row.difference.low is None


def test_l0_has_no_better_direction(pair: list[str]) -> None:
    row = row_of(compare(pair), "l0")
    assert (row.best, row.rival, row.difference) == (None, None, None)


@pytest.mark.parametrize(("changes", "words"), [
    ({"site": "resid_post.3"}, "site: resid_post.2 (first); resid_post.3 (second)"),
    ({"held_out": "ef" * 32}, "held-out examples of general"),
    ({"seed": 1}, "seed of the tokens and resamples (evaluate.seed): 0 (first); 1 (second)"),
    ({"config": {"l2": 0.1}}, "setting evaluate.probing.l2"),
    ({"n_tokens": {"general": 10, "domain": 40_000}}, "number of held-out tokens of general (evaluate.n_tokens)"),
    ({"subject": None}, "subject: sparselight-demo-lm"),
])
def test_what_was_not_measured_alike_is_refused_with_what_differs(changes: dict, words: str, tmp_path: Path) -> None:
    write_evaluation(tmp_path / "first", {"topk": (0.30, 32.0)})
    write_evaluation(tmp_path / "second", {"batch_topk": (0.31, 32.0)}, **changes)
    places = [str(tmp_path / "first"), str(tmp_path / "second")]
    with pytest.raises(RunError) as caught:
        compare(places)
    assert words in str(caught.value)
    assert "--anyway" in str(caught.value)
    comparison = compare(places, anyway=True)
    assert any(words in line for line in comparison.mismatches)
    assert row_of(comparison, "fvu").pairing == "separate"


def test_rows_of_one_store_are_known_by_their_ids_whether_or_not_texts_were_given(tmp_path: Path) -> None:
    sides = {"held_out_store": "s" * 64, "held_out_ids": "12" * 32}
    write_evaluation(tmp_path / "first", {"topk": (0.30, 32.0)}, data=sides)
    write_evaluation(tmp_path / "second", {"batch_topk": (0.31, 32.0)}, data=sides, held_out="ef" * 32)
    write_evaluation(tmp_path / "third", {"relu": (0.31, 32.0)}, data={**sides, "held_out_ids": "34" * 32})
    assert row_of(compare([str(tmp_path / "first"), str(tmp_path / "second")]), "fvu").pairing == "tokens"
    with pytest.raises(RunError, match="held-out examples of general"):
        compare([str(tmp_path / "first"), str(tmp_path / "third")])


def test_coders_of_one_evaluation_are_paired_whatever_else_differs(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "first", {"a": (0.30, 32.0), "b": (0.31, 32.0)})
    write_evaluation(tmp_path / "second", {"c": (0.6, 32.0)}, site="resid_post.3")
    row = row_of(compare([str(tmp_path / "first"), str(tmp_path / "second")], anyway=True), "fvu")
    assert (row.best, row.rival, row.pairing) == ("a", "b", "tokens")


def test_older_records_use_the_differences_that_they_hold(tmp_path: Path) -> None:
    values = {"base": MetricValue(value=0.3, low=0.2, high=0.4, n=9), "base+residual": MetricValue(value=0.28, low=0.18, high=0.38, n=9)}
    rows = [EvalRow(coder=name, is_control=False, dataset="domain", metric="fvu", value=value) for name, value in values.items()]
    change = MetricValue(value=-0.02, low=-0.03, high=-0.01, n=9)
    difference = EvalRow(coder="base+residual", is_control=False, dataset="domain", metric="fvu", value=change, reference="base")
    EvalRecord(rows=rows, differences=[difference], n_tokens={"domain": 100}).save(tmp_path / "evaluation.json")
    text = json.loads((tmp_path / "evaluation.json").read_text())
    old = {name: text[name] for name in ("record", "rows", "differences", "n_tokens", "notes")}
    (tmp_path / "evaluation.json").write_text(json.dumps(old | {"version": 1}))
    row = row_of(compare([str(tmp_path)]), "fvu", "domain")
    assert (row.best, row.pairing, row.is_clear, row.difference.low) == ("base+residual", "tokens", True, -0.03)


def test_seeds_of_one_sae_become_a_column(tmp_path: Path) -> None:
    saes = {f"topk-s{seed}": (0.30 + 0.01 * seed, 32.0) for seed in range(3)} | {"wide": (0.25, 32.0)}
    sources = {f"topk-s{seed}": write_sae_record(tmp_path / f"saes/topk-s{seed}/sae", seed, log_to=["wandb"] if seed else []) for seed in range(3)}
    sources["wide"] = write_sae_record(tmp_path / "saes/wide/sae", 0, k=64.0)
    write_evaluation(tmp_path / "all", saes, sources=sources)
    comparison = compare([str(tmp_path / "all")])
    assert [(column.name, [member.seed for member in column.members]) for column in comparison.saes] == [("topk (3 seeds)", [0, 1, 2]), ("wide", [0])]
    row = row_of(comparison, "fvu")
    value = row.values["topk (3 seeds)"]
    assert row.seeds == {"topk (3 seeds)": [pytest.approx(0.30), pytest.approx(0.31), pytest.approx(0.32)]}
    assert value.value == pytest.approx(0.31)
    assert value.high - value.value == pytest.approx(stats.t.ppf(0.975, 2) * 0.01 / np.sqrt(3))
    assert (value.n, value.unit) == (3, "seeds")
    assert comparison.saes[0].series == comparison.saes[1].series  # they differ in k alone
    assert row.pairing == "tokens"  # one of the two has a single seed
    assert "k 32" in comparison.saes[0].kind
    assert "k 64" in comparison.saes[1].kind


def test_two_columns_of_seeds_are_compared_over_seeds(tmp_path: Path) -> None:
    saes = {f"{name}-s{seed}": (level + 0.01 * seed, 32.0) for name, level in (("topk", 0.30), ("relu", 0.40)) for seed in range(3)}
    sources = {name: write_sae_record(tmp_path / name, int(name[-1]), architecture=name[:4].rstrip("-")) for name in saes}
    write_evaluation(tmp_path / "all", saes, sources=sources)
    row = row_of(compare([str(tmp_path / "all")]), "fvu")
    assert (row.best, row.rival, row.pairing) == ("topk (3 seeds)", "relu (3 seeds)", "seeds")
    found = stats.ttest_ind([0.30, 0.31, 0.32], [0.40, 0.41, 0.42], equal_var=False).confidence_interval()
    assert (row.difference.low, row.difference.high) == (pytest.approx(found.low), pytest.approx(found.high))


def test_welch_is_scipys() -> None:
    first, second = [0.3, 0.35, 0.33, 0.4], [0.2, 0.25, 0.5]
    found = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    value = welch(first, second)
    assert (value.low, value.high) == (pytest.approx(found.low), pytest.approx(found.high))


@pytest.mark.parametrize("settings", [{"lr": 0.001}, {"objective": {"aux": 0.0, "l1": 0.0}}, {"n_tokens": 5}])
def test_other_settings_are_no_seeds(settings: dict, tmp_path: Path) -> None:
    sources = {"s0": write_sae_record(tmp_path / "s0", 0), "s1": write_sae_record(tmp_path / "s1", 1, **settings)}
    write_evaluation(tmp_path / "all", {"s0": (0.3, 32.0), "s1": (0.31, 32.0)}, sources=sources)
    comparison = compare([str(tmp_path / "all")])
    assert [column.name for column in comparison.saes] == ["s0", "s1"]
    assert comparison.saes[0].series != comparison.saes[1].series


def test_kinds_name_what_differs_and_no_more(tmp_path: Path) -> None:
    sources = {"a": write_sae_record(tmp_path / "a", 0, k=8.0), "b": write_sae_record(tmp_path / "b", 3), "both": write_sae_record(tmp_path / "both", 0)}
    parts = SaeRecord.load(tmp_path / "both" / RECORD)
    parts.model_copy(update={"architecture": "stitched", "part_sizes": [1000, 24], "config": {"base": parts.config}}).save(tmp_path / "both" / RECORD)
    write_evaluation(tmp_path / "all", {"a": (0.3, 32.0), "b": (0.31, 32.0), "both": (0.2, 33.0)}, sources=sources)
    kinds = [column.kind for column in compare([str(tmp_path / "all")]).saes]
    assert kinds == ["batch_topk, 1,024 latents, k 8", "batch_topk, 1,024 latents, k 32", "stitched, 1,000 + 24 latents"]


def test_the_same_weights_evaluated_twice_are_one_column(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "first", {"base": (0.30, 32.0), "x": (0.4, 32.0)})
    write_evaluation(tmp_path / "second", {"base": (0.30, 32.0), "y": (0.5, 32.0)})
    comparison = compare([str(tmp_path / "first"), str(tmp_path / "second")])
    assert [column.name for column in comparison.saes] == ["base", "x", "y"]
    assert [column.name for column in comparison.controls] == ["untrained SAE", "random decoder", "PCA, 32 components", "neurons, 32 largest", "mean ablation"]
    assert any(note.startswith("base was evaluated 2 times") for note in comparison.notes)


def test_equal_names_are_told_apart_by_where_they_come_from(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "runs/one/evaluation", {"base": (0.30, 32.0)})
    write_evaluation(tmp_path / "runs/two/evaluation", {"base": (0.31, 32.0), "base+residual": (0.2, 33.0)})
    comparison = compare([str(tmp_path / "runs/one"), str(tmp_path / "runs/two")])
    assert [column.name for column in comparison.saes] == ["one", "two/base", "two/base+residual"]


def test_what_is_not_defined_has_its_reason(pair: list[str]) -> None:
    comparison = compare(pair)
    assert row_of(comparison, "mean_max_cosine", "").undefined["PCA, 32 components"] == "this coder has no decoder directions"


def test_histograms_and_curves_come_from_the_tables(pair: list[str]) -> None:
    comparison = compare(pair)
    expected = {(name, dataset) for name in ("topk", "batch_topk") for dataset in ("general", "domain")}
    assert {(item.column, item.dataset) for item in comparison.histograms} == expected
    for item in comparison.histograms:
        assert sum(item.shares) + item.never == pytest.approx(1.0)
        assert len(item.edges) == len(item.shares) + 1
    assert [(item.column, item.metric, item.x) for item in comparison.curves] == [
        (name, "clustering_coefficient", [0.0001, 0.0003, 0.001, 0.003, 0.01]) for name in ("topk", "batch_topk")]


def test_places_are_found(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "runs/demo/evaluate-1234", {"base": (0.3, 32.0)})
    RunRecord(name="demo", recipe={}, stages={"evaluate": "evaluate-1234"}, wall_s={}).save(tmp_path / "runs/demo/run.json")
    sae = write_sae_record(tmp_path / "saes/topk/sae", 0)
    (tmp_path / "saes/topk/sae/cfg.json").write_text("{}")
    write_evaluation(tmp_path / "saes/topk/evaluation", {"topk": (0.3, 32.0), "other": (0.4, 32.0)}, sources={"topk": sae})
    write_evaluation(tmp_path / "saes/relu/evaluation", {"relu": (0.35, 32.0)})
    found = {place: [source.path.relative_to(tmp_path).parts[:-1] for source in open_sources([str(tmp_path / place)])]
             for place in ("runs/demo", "saes/topk", "saes/topk/sae", "saes/topk/evaluation/evaluation.json", "saes")}
    assert open_sources([str(tmp_path / "runs/demo")])[0].name == "demo"
    assert found["runs/demo"] == [("runs", "demo", "evaluate-1234")]
    assert found["saes/topk"] == found["saes/topk/sae"] == found["saes/topk/evaluation/evaluation.json"] == [("saes", "topk", "evaluation")]
    assert found["saes"] == [("saes", "relu", "evaluation"), ("saes", "topk", "evaluation")]
    assert [name for name, coder in open_sources([sae])[0].coders.items() if not coder.is_control] == ["topk"]
    assert len(compare([str(tmp_path / "saes/topk"), str(tmp_path / "saes/relu")]).saes) == 3
    assert default_folder(compare([str(tmp_path / "saes/topk"), str(tmp_path / "saes/relu")])) == Path("comparisons/topk-relu")


def test_refusals(tmp_path: Path, pair: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="sparselight evaluate"):
        compare([pair[0], str(tmp_path / "empty")])
    with pytest.raises(RunError, match="no such file or folder"):
        compare([str(tmp_path / "nowhere")])
    write_evaluation(tmp_path / "alone", {"topk": (0.3, 32.0)}, controls=False)
    with pytest.raises(RunError, match="only one coder"):
        compare([str(tmp_path / "alone")])
    row = EvalRow(coder="z", is_control=False, dataset="elsewhere", metric="fvu", value=MetricValue(value=1.0, n=1))
    EvalRecord(rows=[row], differences=[], n_tokens={"elsewhere": 4}).save(tmp_path / "other.json")
    with pytest.raises(RunError, match="none of its metrics"):
        compare([pair[0], str(tmp_path / "other.json")])
    next(Path(pair[0]).rglob("resampled.parquet")).write_bytes(b"torn")
    with pytest.raises(RunError, match="damaged"):
        compare(pair)


def test_files(pair: list[str], tmp_path: Path) -> None:
    comparison = compare(pair)
    result = write(comparison, tmp_path / "out")
    assert Comparison.load(Path(result.data)) == comparison
    table = pq.read_table(result.table).to_pylist()
    best = [line for line in table if line["metric"] == "fvu" and line["dataset"] == "general" and line["is_best"]]
    assert [(line["column"], line["rival"], line["is_clear"], line["pairing"]) for line in best] == [("topk", "batch_topk", True, "tokens")]
    assert {line["undefined"] for line in table if line["value"] is None} >= {"this coder has no decoder directions"}
    assert "topk" in Path(result.page).read_text(encoding="utf-8")


def test_the_cases_are_resampled_as_the_suite_does() -> None:
    values = resampled(0.3, 0.06, 0.002, 1)
    value, lacks = Resamples.draw(N_GROUPS, 200, 0).summarize(values)
    assert (value.value, lacks) == (pytest.approx(0.3), "")
