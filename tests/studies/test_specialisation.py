import importlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from sparselight.sae import Sae

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ("boost", "ssae")


def module(name: str) -> Any:
    pytest.importorskip("transformers")
    return importlib.import_module(f"studies.{name}")


def rows(values: dict[int, float], **named: object) -> list[dict[str, object]]:
    return [{"seed": seed, "values": {"fvu": value}, **named} for seed, value in values.items()]


@pytest.mark.parametrize("name", ["boost.run", "boost.collect", "ssae.run", "ssae.collect", "ssae.shift", "common.sentences"])
def test_every_module_is_importable(name: str) -> None:
    assert isinstance(module(name), ModuleType)


def test_verdicts_follow_the_interval() -> None:
    results = module("common.results")
    clear, mixed = {0: -2.0, 1: -2.1, 2: -1.9}, {0: -2.0, 1: 2.1, 2: 0.3}
    assert [results.verdict(clear, -1), results.verdict(clear, 1), results.verdict(mixed, 1)] == ["holds", "the opposite", "not shown"]
    assert [results.within(clear, 3), results.within(clear, 1), results.within(mixed, 1)] == ["holds", "does not hold", "not shown"]
    assert [results.at_least(clear, -3), results.at_least(clear, -1), results.at_least(mixed, 0)] == ["holds", "does not hold", "not shown"]
    assert results.verdict({0: 1.0}, 1) == results.verdict({}, 1) == "not testable here"


def test_values_are_averaged_over_domains_within_a_seed() -> None:
    results = module("common.results")
    found = [*rows({0: 1.0, 1: 2.0}, domain="a"), *rows({0: 3.0, 1: 6.0}, domain="b"), *rows({0: 50.0}, domain="c", variant="other")]
    assert results.by_seed(found[:4], "fvu") == {0: 2.0, 1: 4.0}
    assert results.by_seed(found, "fvu", domain="b") == {0: 3.0, 1: 6.0}
    assert results.difference({0: 2.0, 1: 4.0}, {0: 1.0, 2: 1.0}, relative=True) == {0: 100.0}
    assert results.shown({0: 1.0, 1: 2.0}, 2) == f"1.50 ± {12.706205 * 0.5:.2f}"


def test_domains_without_all_seeds_are_left_out() -> None:
    results = module("common.results")
    found = [{"experiment": "e", "bench": "b", "domain": domain, "seed": seed} for domain, seeds in (("a", (0, 1)), ("b", (0,))) for seed in seeds]
    assert {row["domain"] for row in results.whole(found)} == {"a"}


def test_labels_with_a_latent_of_their_own_are_detected() -> None:
    measure = module("common.measure")
    sae = Sae(3, 3, subtract_b_dec=False)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(3))
        sae.W_dec.copy_(torch.eye(3))
    labels = np.array([0, 0, 1, 1, 2, 2])
    x = torch.eye(3)[labels]
    x[4:] = torch.eye(3)[[0, 1]]  # the third label has no direction of its own
    assert measure.detected(sae, x, labels, x, labels, 3).tolist() == [True, True, False]
    assert measure.fvu_l0(sae, x) == (0.0, 1.0)


@pytest.mark.slow
def test_a_quick_run_goes_from_training_to_tables(tmp_path: Path) -> None:
    variants, tilt, results, benches = (module(name) for name in ("boost.variants", "ssae.tilt", "common.results", "common.benches"))
    work = variants.open_work("planted", benches.Request(out=tmp_path, data_root=tmp_path, quick=True))
    work = replace(work, bench=replace(work.bench, base={**work.bench.base, "n_tokens": 4096, "batch_tokens": 256}, domain_tokens=1024))
    for name, experiment in {"boost-variants": variants.compare_variants, "boost-k": variants.sweep_k, "boost-budgets": variants.sweep_budgets}.items():
        results.keep(tmp_path, name, "planted", "dark", 0, partial(experiment, work, "dark", 0))
    results.keep(tmp_path, "ssae-tilt", "planted", "dark", 0, partial(tilt.sweep_tilt, work, "dark", 0))
    results.keep(tmp_path, "ssae-tilt", "planted", "dark", 0, lambda: pytest.fail("a finished seed is not made again"))
    for study in STUDIES:
        found, collect = results.gather(tmp_path, study)["rows"], module(f"{study}.collect")
        assert {row["experiment"].partition("-")[0] for row in found} == {study}
        assert all(np.isfinite(list(row["values"].values())).all() for row in found)
        for table in collect.tables(found).values():
            assert table().startswith("|")
        for svg in module(f"{study}.plot").figures(found).values():
            ElementTree.fromstring(svg)
    claims = {claim.claim: claim for claim in module("boost.collect").claims(module("boost.collect").Found(results.gather(tmp_path, "boost")["rows"]))}
    assert claims["Boost lowers the domain's fvu"].verdict == "not testable here"  # one seed has no interval


@pytest.mark.parametrize("study", STUDIES)
def test_the_tables_of_the_readme_come_from_the_results(study: str) -> None:
    folder, results = ROOT / "studies" / study, module("common.results")
    if not (folder / "results.json").exists():
        pytest.skip("the study has no results yet")
    found, text = results.whole(json.loads((folder / "results.json").read_text())["rows"]), (folder / "README.md").read_text(encoding="utf-8")
    assert results.fill(text, module(f"{study}.collect").tables(found)) == text
    for name, svg in module(f"{study}.plot").figures(found).items():
        assert (folder / f"{name}.svg").read_text() == svg
