"""The JSON API: what it lists is what the catalogue finds, a run that is not finished shows what is there, nothing outside a run is reached."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worded_run import make_worded_run, plain

from sparselight.errors import ConfigError, RunError
from sparselight.interpret import Catalogue
from sparselight.interpret.catalogue import SORTS, write_catalogue
from sparselight.interpret.evidence import graded
from sparselight.records import Card, Context, Evidence, Explanation, MetricValue, StageRecord
from sparselight.serve import ServeSettings
from sparselight.serve.data.columns import Columns
from sparselight.serve.data.explorer import ExplorerData
from sparselight.serve.data.features import feature_list
from sparselight.serve.data.served import Runs, pathless, slug
from sparselight.serve.models import FeatureQuery
from sparselight.testing.run_folder import make_run_folder


def random_card(latent: int, source: str, rng: np.random.Generator) -> Card:
    def value(number: float) -> MetricValue:
        return MetricValue(value=number, low=number - 0.1, high=number + 0.1, n=9)

    fields = {"fire_rate": float(rng.choice([0, 0.001, 0.02, 0.3])), "domain_fire_rate": float(rng.choice([0, 0.02, 0.4])), "n_fires": int(rng.integers(9)),
              "max_activation": float(rng.integers(5))}
    contexts = [Context(example="e", group="g", tokens=[" a", f" t{int(rng.integers(99))}"], activations=[0.0, 1.0], peak=1, kind="top") for _ in range(3)]
    explanation = None
    if rng.random() < 0.8:
        f1, word = float(rng.choice([0.1, 0.55, 0.95])), rng.choice(["Alpha", "beta", "100%", "a_b", "ÄÖ", "'; DROP TABLE cards"])
        evidence = Evidence(precision=value(f1), recall=value(f1), f1=value(f1), control_f1=value(0.1), threshold=0.1, n_fires=50, n_labelled=50)
        explanation = Explanation(text=f"the word {word}", label=f"word={word}", explainer="statistical", evidence=evidence)
    return graded(Card(latent=latent, source=source, explanation=explanation, contexts=contexts, promotes=[], suppresses=[], grade_why="", **fields))


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    rng = np.random.default_rng(0)
    cards = [random_card(latent, source, rng) for source in ("residual", "base") for latent in rng.permutation(40).tolist()]
    return Catalogue(write_catalogue(iter([cards]), tmp_path_factory.mktemp("catalogue")))


def test_the_list_is_what_the_catalogue_finds(catalogue: Catalogue) -> None:
    columns = Columns(catalogue)
    conditions: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}), ({"text": "aLpha"}, {"text": "alpha"}), ({"text": "100%"}, {"text": "100%"}), ({"text": "a_b"}, {"text": "a_b"}),
        ({"text": "äö"}, {"text": "äö"}),
        ({"text": "' OR 1=1"}, {"text": "' OR 1=1"}), ({"grade": "B"}, {"grade": "B"}), ({"source": "base"}, {"source": "base"}),
        ({"source": "nope"}, {"source": "nope"}), ({"supported": True}, {"supported_only": True}), ({"domain_only": True}, {"domain": True}),
        ({"min_fire_rate": 0.001, "max_fire_rate": 0.02}, {"min_fire_rate": 0.001, "max_fire_rate": 0.02}),
    ]
    for sort, (ours, theirs) in itertools.product(SORTS, conditions):
        found = feature_list(columns, None, FeatureQuery(sort=sort, limit=500, **ours))
        expected = [(card.source, card.latent) for card in catalogue.search(sort=sort, **theirs)]
        assert [(row.source, row.latent) for row in found.rows] == expected, (sort, ours)
        assert found.total == len(expected)


def test_both_directions_keep_missing_values_last(catalogue: Catalogue) -> None:
    columns = Columns(catalogue)
    for descending in (True, False):
        values = columns.numbers["f1"][columns.order("f1", descending)]
        known = values[np.isfinite(values)]
        assert np.isfinite(values[:len(known)]).all()
        assert (np.diff(known) <= 0).all() if descending else (np.diff(known) >= 0).all()
    assert list(columns.order("grade", True)) != list(columns.order("grade", False))


def test_parts_make_up_the_whole(plain_run: Path) -> None:
    data = ExplorerData(Runs([plain_run]), ServeSettings())
    whole = data.features("run", limit=500)
    parts = [row for offset in range(0, whole.total, 7) for row in data.features("run", limit=7, offset=offset).rows]
    assert parts == whole.rows
    assert whole.total == 24
    assert all(row.peak_tokens for row in whole.rows)
    assert data.features("run", offset=10_000).rows == []
    for wrong in ({"sort": "text; DROP"}, {"limit": 501}, {"offset": -1}, {"min_fire_rate": float("nan")}, {"text": "x" * 501}, {"nope": 1}):
        with pytest.raises(ConfigError):
            data.features("run", **wrong)


def test_a_card(plain_run: Path, connect: Any) -> None:
    client = connect(plain_run)
    card = client.get("/api/runs/run/features/base/1").json()
    catalogue = Catalogue(next(plain_run.glob("explain-*")))
    assert card["text"] == catalogue.card("base", 1).explanation.text
    assert [group["kind"] for group in card["contexts"]] == ["top", "quantile", "random"]
    assert card["contexts"][0]["contexts"][0]["html"].startswith("<span")
    assert (card["previous"], card["next"]) == ({"source": "base", "latent": 0}, {"source": "base", "latent": 2})
    assert [near["text"] != "" for near in card["neighbours"]] == [True, False]
    assert card["explanations"][1]["explanation"]["scores"][0]["controls"]["shuffled"]["balanced_accuracy"]["value"] == 0.5
    assert set(card["figures"]) == {"evidence", "quantiles"}
    assert len(client.get("/api/runs/run/features/base/0").json()["edits"]) == 1
    assert [note["id"] for note in client.get("/api/runs/run/features/base/0").json()["notes"]] == ["n0", "n1", "n2"]
    for missing in ("base/77", "nope/1", "residual/1"):
        answer = client.get(f"/api/runs/run/features/{missing}")
        assert (answer.status_code, set(answer.json())) == (404, {"asked", "why", "instead"})
    assert client.get("/api/runs/run/features/base/-1").status_code == 422
    assert client.get("/api/runs/run/features/base/x").status_code == 422


def test_overview_facets_curves_log(plain_run: Path, connect: Any) -> None:
    client = connect(plain_run)
    overview = client.get("/api/runs/run/overview").json()
    assert overview["n_features"] == 24
    assert {source["source"]: source["n_cards"] for source in overview["sources"]} == {"base": 17, "residual": 7}
    assert {"run", "fvu", "ce", "training", "evidence", "fire_rates"} == set(overview["figures"])
    assert [stage["name"] for stage in overview["stages"] if not stage["is_finished"]] == []
    assert overview["metrics"][0]["interval"]
    facets = client.get("/api/runs/run/facets").json()
    assert sum(grade["n"] for grade in facets["grades"]) == facets["n_features"] == 24
    assert facets["label_kinds"] == [{"name": "kind", "n": 24}]
    assert {curve["name"] for curve in client.get("/api/runs/run/curves").json()["curves"]} == {"fvu", "l0"}
    log = client.get("/api/runs/run/log").json()
    assert [stage["stage"] for stage in log["stages"]][-1] == "report"
    assert log["training"][0]["lines"][-1]["step"] == 4
    assert client.get("/api/runs").json()["abilities"] == {"version": client.app.version, "is_shared": False, "may_try": True, "may_write": False}


def test_an_unfinished_run_shows_what_is_there(tmp_path: Path, connect: Any) -> None:
    run = make_worded_run(tmp_path / "half", plain)
    record = json.loads((run / "run.json").read_text())
    for stage in ("explain", "intervene", "report", "evaluate"):
        del record["stages"][stage]
    (run / "run.json").write_text(json.dumps(record))
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "run.json").write_text("{}\n")
    client = connect(run, begun)
    overview = client.get("/api/runs/half/overview").json()
    assert "explain is not finished" in overview["problem"]
    assert (overview["n_features"], overview["headline"], set(overview["figures"])) == (0, [], {"run", "training"})
    assert client.get("/api/runs/half/features").status_code == 400
    listed = client.get("/api/runs").json()["runs"]
    assert "explain" in listed[0]["missing"]
    assert "first stage is not finished" in listed[1]["problem"]
    assert client.get("/api/runs/begun/overview").status_code == 400
    for page in ("/", "/runs/half", "/runs/half/features", "/runs/begun", "/runs/half/log"):
        assert client.get(page).status_code < 500


def test_records_that_lie_reach_nothing_outside(tmp_path: Path, connect: Any) -> None:
    run = make_worded_run(tmp_path / "run", plain)
    (tmp_path / "secret").mkdir()
    StageRecord(stage="train", hash="x", output="x", inputs={}, config={}, wall_s=0, machine="SECRET", sparselight_version="0", files={}).save(
        tmp_path / "secret" / "record.json")
    record = json.loads((run / "run.json").read_text())
    record["stages"] |= {"train": "../secret", "residual": str(tmp_path / "secret"), "evaluate": "", "report": "a\0b"}
    (run / "run.json").write_text(json.dumps(record))
    client = connect(run)
    assert "SECRET" not in client.get("/api/runs/run/log").text
    assert client.get("/api/runs/run/overview").status_code == 200


def test_pictures_only_from_their_folder(tmp_path: Path, connect: Any) -> None:
    run = make_worded_run(tmp_path / "run", plain, "image")
    name = next((run / "media").iterdir()).name
    (tmp_path / "outside.png").write_bytes(b"secret")
    (run / "media" / "link.png").symlink_to(tmp_path / "outside.png")
    (run / "media" / "notes.html").write_text("<script>")
    (run / "media" / "drawing.svg").write_text("<svg onload=alert(1)>")
    client = connect(run)
    answer = client.get(f"/api/runs/run/media/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    for wrong in ("link.png", "notes.html", "drawing.svg", "..%2Frun.json", "%2E%2E/run.json", "..%5Crun.json", "nope.png", "x%00.png", "%2Fetc%2Fpasswd"):
        assert client.get(f"/api/runs/run/media/{wrong}").status_code in (404, 422), wrong
    card = client.get("/api/runs/run/features/base/0").json()
    context = card["contexts"][0]["contexts"][0]
    assert context["media"] == f"/api/runs/run/media/{name}"
    assert f'<image href="/api/runs/run/media/{name}"' in context["html"]


def test_a_new_catalogue_is_seen(tmp_path: Path) -> None:
    run = make_worded_run(tmp_path / "run", plain)
    data = ExplorerData(Runs([run]), ServeSettings())
    before = [view.explanation.text for view in data.feature("run", "base", 1).explanations]
    assert data.feature("run", "base", 1) is data.feature("run", "base", 1)
    catalogue = Catalogue(run / "catalogue.duckdb")
    catalogue.add_explanations({("base", 1): [Explanation(text="another name", explainer="statistical")]})
    after = data.feature("run", "base", 1)
    assert "another name" in [view.explanation.text for view in after.explanations]
    assert "another name" not in before
    assert [row.latent for row in data.features("run", text="another name").rows] == [1]


def test_runs_are_told_apart(tmp_path: Path) -> None:
    folders = [make_run_folder(tmp_path / parent / "demo run", iter([[]])) for parent in ("a", "b")]
    assert list(Runs(folders)) == ["demo-run", "demo-run-2"]
    assert (slug("../../<script>"), slug("..."), slug("a b"), slug("x" * 99)) == ("script", "run", "a-b", "x" * 60)
    for wrong, why in ((tmp_path / "nope", "no such folder"), (tmp_path, "no run.json"), (folders[0], "once")):
        with pytest.raises(RunError, match=why):
            Runs([*folders, wrong])
    with pytest.raises(RunError, match="no run folder"):
        Runs([])


def test_an_empty_catalogue(tmp_path: Path, connect: Any) -> None:
    client = connect(make_run_folder(tmp_path / "empty", iter([[]])))
    assert client.get("/api/runs/empty/features").json() == {"total": 0, "offset": 0, "rows": []}
    assert client.get("/api/runs/empty/facets").json()["n_features"] == 0
    for page in ("", "/features", "/log"):
        assert client.get(f"/runs/empty{page}").status_code == 200


def test_numbers_that_are_none_become_null(tmp_path: Path, connect: Any) -> None:
    card = random_card(0, "base", np.random.default_rng(1)).model_copy(update={"max_activation": math.inf, "quantiles": [0.0, math.nan]})
    client = connect(make_run_folder(tmp_path / "odd", iter([[card]])))
    answer = client.get("/api/runs/odd/features/base/0")
    assert answer.status_code == 200
    assert answer.json()["quantiles"] == [0.0, None]
    assert client.get("/api/runs/odd/overview").status_code == 200
    assert client.get("/runs/odd/features/base/0").status_code == 200


def test_paths_of_the_machine() -> None:
    given = {"a": "/home/me/texts/", "b": ["C:\\data\\x", "no/path", "~/y"], "c": 3}
    assert pathless(given) == {"a": ".../texts", "b": [".../x", "no/path", ".../y"], "c": 3}


def test_damaged_files_are_problems_not_failures(tmp_path: Path, connect: Any) -> None:
    run = make_worded_run(tmp_path / "run", plain)
    kinds = (("*/record.json",), ("evaluate-*/evaluation.json", "*/log.jsonl", "*/sae/sparselight.json", "steering/*/*", "llm/*"), ("explain-*/*.duckdb",))
    for number, patterns in enumerate(kinds):
        broken = Path(shutil.copytree(run, tmp_path / f"broken{number}"))
        for path in [path for pattern in patterns for path in broken.glob(pattern)]:
            path.write_bytes(b'{"record": \xff')
        client = connect(broken)
        for page in ("/api/runs", "/api/runs/{}/overview", "/api/runs/{}/log", "/api/runs/{}/features", "/api/runs/{}/curves", "/runs/{}", "/"):
            assert client.get(page.format(broken.name)).status_code < 500, (patterns, page)
