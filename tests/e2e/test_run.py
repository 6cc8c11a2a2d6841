"""Whole runs: from corpus to report, skipped when finished, resumed when killed."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import duckdb
import pytest
from small_run import command, overrides, run_command

from sparselight.records import EvalRecord, InterventionRecord, RunRecord
from sparselight.sae import load_sae
from sparselight.vocab import METRICS, STAGES, WORKS

pytestmark = pytest.mark.e2e


def test_every_stage_leaves_what_it_promises(small_run: tuple[Path, dict]) -> None:
    out, result = small_run
    assert tuple(result["stages"]) == STAGES
    record = RunRecord.load(out / "run.json")
    assert set(record.wall_s) == set(STAGES)
    assert all(seconds >= 0 for seconds in record.wall_s.values())
    evaluation = EvalRecord.load(out / result["stages"]["evaluate"] / "evaluation.json")
    assert {row.dataset for row in evaluation.rows} == {"general", "domain", ""}  # "": what weights alone tell
    assert {"base", "base+residual", "base+general residual", "untrained SAE"} < {row.coder for row in evaluation.rows}
    assert {row.metric for row in evaluation.rows} <= set(METRICS)
    assert InterventionRecord.load(out / result["stages"]["intervene"] / "interventions.json")
    with duckdb.connect(str(out / result["stages"]["explain"] / "catalogue.duckdb"), read_only=True) as catalogue:
        assert catalogue.execute("select count(*) from cards").fetchone() == (256 + 64,)


def test_what_the_table_says_works_was_run(small_run: tuple[Path, dict]) -> None:
    assert {stage for stage, modalities in WORKS.items() if "text" in modalities} == set(small_run[1]["stages"])


def test_the_report_is_one_safe_file(small_run: tuple[Path, dict]) -> None:
    out, result = small_run
    page = (out / result["report"]).read_text()
    assert len(page) < 3_000_000
    assert not re.search(r"""(src|href)=["']https?://""", page)


def test_the_stitched_sae_is_the_sum(small_run: tuple[Path, dict]) -> None:
    out, result = small_run
    base, residual = load_sae(out / result["stages"]["train"] / "sae"), load_sae(out / result["stages"]["residual"] / "sae")
    stitched = load_sae(out / result["stages"]["residual"] / "stitched")
    assert stitched.n_latents == base.n_latents + residual.n_latents
    assert stitched.record is not None
    assert stitched.record.part_sizes == [base.n_latents, residual.n_latents]


def test_a_finished_run_is_not_run_again(small_run: tuple[Path, dict]) -> None:
    out, result = small_run
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.parent != out}
    again = json.loads(run_command("run", "demo", "--out", str(out), "--json", *overrides()).stdout)
    assert again["stages"] == result["stages"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_lost_file_is_made_again_and_a_look_leaves_the_record_alone(small_run: tuple[Path, dict]) -> None:
    out, result = small_run
    before = (out / "run.json").read_text()
    assert run_command("run", "demo", "--out", str(out), "--until", "select", *overrides()).returncode == 0
    assert (out / "run.json").read_text() == before
    (out / result["report"]).unlink()
    again = json.loads(run_command("run", "demo", "--out", str(out), "--json", *overrides()).stdout)
    assert (out / again["report"]).exists()


def test_a_changed_setting_redoes_only_what_depends_on_it(small_run: tuple[Path, dict]) -> None:
    out, _ = small_run
    plan = json.loads(run_command("run", "demo", "--out", str(out), "--json", "--dry-run", *overrides(explain__n_shuffles=3)).stdout)
    todo = {row["stage"] for row in plan["rows"] if not row["finished"]}
    assert todo == {"explain", "intervene", "report"}
    assert plan["seconds"] > 0


def test_dry_run_touches_nothing(tmp_path: Path) -> None:
    done = run_command("run", "demo", "--out", str(tmp_path / "new"), "--dry-run", *overrides())
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "new").exists()
    assert "nothing was done" in done.stdout


def test_killed_in_training_and_run_again_gives_the_same_weights(small_run: tuple[Path, dict], tmp_path: Path) -> None:
    out, longer = tmp_path / "killed", overrides(train__n_tokens=600_000, train__checkpoint_every_s=0.2)
    arguments = ("run", "demo", "--out", str(out), "--json", "--until", "train", *longer)
    with (tmp_path / "told").open("wb") as told:
        process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=told)
        while process.poll() is None and not list(out.glob("train-*/checkpoint*")):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(out.glob("train-*/checkpoint*")), (tmp_path / "told").read_text()[-2000:]
    assert not list(out.glob("train-*/record.json"))
    resumed = json.loads(run_command(*arguments).stdout)
    whole = json.loads(run_command("run", "demo", "--out", str(tmp_path / "whole"), "--json", "--until", "train", *longer).stdout)
    assert resumed["summaries"]["train"]["weights"] == whole["summaries"]["train"]["weights"]


def test_the_recipe_in_the_repository_is_the_demo() -> None:
    from sparselight.pipeline import load_recipe

    assert load_recipe("demo").hash() == load_recipe(Path(__file__).parents[2] / "recipes" / "demo.toml").hash()


def test_the_readme_example_runs(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = re.search(r"```python\n(import sparselight as sl.*?)```", readme, re.S)
    assert code is not None
    lines = [line for line in code[1].splitlines() if line.strip()]
    assert len(lines) <= 15
    (tmp_path / "example.py").write_text(code[1])
    import sys

    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    assert "base+residual" in done.stdout
