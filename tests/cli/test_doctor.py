"""The doctor tells what is there and, for what is not, what it is needed for and the command that brings it."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from sparselight.cli import doctor as module
from sparselight.cli.doctor import PURPOSES, DoctorReport, at_least, dependencies, doctor, package_problems, render_doctor


def without(names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_every_dependency_has_a_purpose_and_no_purpose_is_left_over() -> None:
    assert {package.name for package in dependencies()} == set(PURPOSES)


def test_the_report_is_plain_data_and_text() -> None:
    report = doctor()
    assert DoctorReport.model_validate_json(json.dumps(report.model_dump(mode="json"))) == report
    assert report.torch is not None
    assert report.torch.n_threads >= 1
    assert report.n_stdlib_sources > 100
    text = render_doctor(report)
    assert report.python in text
    assert all(package.name in text for package in report.packages)


def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    without({"bm25s"}, monkeypatch)
    problems = package_problems(dependencies())
    assert [problem.fix for problem in problems] == ["pip install 'sparselight[retrieval]'"]
    assert "bm25s (missing)" in problems[0].what
    assert PURPOSES["bm25s"] in problems[0].what


def test_two_missing_packages_of_one_extra_are_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    without({"transformers", "tokenizers"}, monkeypatch)
    assert [problem.fix for problem in package_problems(dependencies())] == ["pip install 'sparselight[text]'"]


def test_a_missing_demo_subject_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_demo_subject", lambda: None)
    report = doctor()
    assert any("demo subject" in problem.what for problem in report.problems)
    assert "demo subject  missing" in render_doctor(report)


def test_a_python_without_sources_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    assert any("no Python source" in problem.what for problem in doctor().problems)


@pytest.mark.parametrize(("version", "needed", "fits"), [
    ("2.13.0+cpu", ">=2.4", True), ("2.3.1", ">=2.4", False), ("13", ">=13.0", True), ("13.0", ">=13", True), ("0.2.5", ">=0.2.30", False),
    ("1", "", True), ("4.50.0.dev0", ">=4.48", True),
])
def test_versions_compare_by_number(version: str, needed: str, fits: bool) -> None:
    assert at_least(version, needed) is fits


def test_no_browser_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert module.find_browser() is None
