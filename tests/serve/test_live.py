"""The live endpoints: what fires where, what turning a feature does, in every modality; limits, hostile input, two requests at once."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from live_run import N_LATENTS, SITES, make_live_run

from sparselight.cli.serve import live_settings
from sparselight.errors import ConfigError, CorpusError, RunError, SparselightError
from sparselight.pipeline.opened import open_run
from sparselight.records import EditSet
from sparselight.serve.live.config import LiveConfig
from sparselight.serve.live.models import ActivationsRequest, EditRequest, LiveEdit, LiveInput
from sparselight.serve.live.service import LiveService
from sparselight.serve.live.work import BusyError, Stop, StoppedError, Worker

HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "'; DROP TABLE cards; --", "{{7*7}}", "\u202eabc\u0000\u0007", "x" * 5000]
TEXT = "def read_path(folder, line=None):\n    return folder + line\n"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LiveService]:
    folder = tmp_path_factory.mktemp("live")
    config = LiveConfig(max_tokens=150, max_new_tokens=16, max_edits=4, time_limit_s=600)
    found = {modality: LiveService(make_live_run(folder / modality, modality), config, modality) for modality in SITES}
    for service in found.values():
        service.load()
    return found


def ask(service: LiveService, **given) -> ActivationsRequest:
    return service.activations(ActivationsRequest(**given), begun())


def turn(service: LiveService, given: dict, *edits: LiveEdit, **settings):
    return service.edit(EditRequest(input=LiveInput(**given), edits=list(edits), **settings), begun())


def begun(seconds: float = 600.0) -> Stop:
    stop = Stop(seconds)
    stop.begin()
    return stop


def inputs() -> dict[str, dict]:
    return {"text": {"text": TEXT}, "residues": {"sequence": ">a header\nMKAYV LAGGLLW\n"}, "items": {"history": ["100", "Scream B (1980)", "205"]},
            "image": {"example": "study 1"}}


@pytest.mark.parametrize("modality", list(SITES))
def test_activations_are_those_of_the_sae(services, modality) -> None:
    service = services[modality]
    answer = ask(service, input=inputs()[modality], top=6, features=["residual/3"])
    run = service.run
    given = service._given(LiveInput(**inputs()[modality]))
    x = run.subject.capture(given.batch, [run.site])[run.site]
    dense = {source: run.sae(source).encode(x).to_dense().numpy() for source in N_LATENTS}
    assert len(answer.tokens) == len(x) and answer.features[0].feature == "residual/3"
    for feature in answer.features:
        np.testing.assert_allclose(feature.activations, dense[feature.source][:, feature.latent], rtol=1e-5, atol=1e-6)
        assert feature.text == f"feature {feature.latent}" and (feature.relative or 0) == pytest.approx(feature.max_activation / 2.0)
    strongest = max(float(own.max()) for own in dense.values())
    assert answer.features[1].max_activation == pytest.approx(strongest, rel=1e-5)
    assert answer.n_firing == {source: int((own > 0).any(0).sum()) for source, own in dense.items()}
    token = answer.tokens[-1]
    assert [one.activation for one in token.top] == sorted((one.activation for one in token.top), reverse=True)


def test_info_loads_no_model(services) -> None:
    fresh = LiveService(services["text"].folder, LiveConfig())
    info = fresh.info(edits_allowed=False)
    assert (info.input, info.writes, info.ready, info.edits_allowed) == ("text", "text", False, False)
    assert "subject" not in fresh.run.__dict__
    assert info.beginning is not None and info.beginning.text
    assert services["residues"].info(True).beginning.sequence and services["items"].info(True).beginning.history
    assert [services[modality].info(True).writes for modality in SITES] == ["text", "sequence", "ranking", "text"]
    assert services["image"].info(True).beginning.example


def test_an_edit_continues_a_text_as_the_run_does(services) -> None:
    service = services["text"]
    answer = turn(service, inputs()["text"], LiveEdit(feature="base/5", operation="add", amount=6.0), n_tokens=8)
    ((before, after),) = service.run.edit("base/5", "add", 6.0).generate(TEXT, 8)
    assert (answer.before.text, answer.after.text) == (before.text, after.text)
    assert "".join(piece.text for piece in answer.after.pieces) == after.text
    assert len(answer.kl_nats) == len(answer.kl_nats) and answer.mean_kl_nats > 0 and not answer.kl_why_not
    assert answer.places[0].kl_nats == max(answer.kl_nats)
    total = [sum(getattr(one, side) for one in answer.candidates) for side in ("before", "after")]
    assert all(0 < one <= 1.0001 for one in total)


def test_an_edit_of_nothing_changes_nothing(services) -> None:
    for modality, given in inputs().items():
        answer = turn(services[modality], given, n_tokens=4)
        assert answer.mean_kl_nats == pytest.approx(0, abs=1e-6) and answer.places == []
        if answer.before:
            assert answer.before.text == answer.after.text and not any(piece.changed for piece in answer.after.pieces)
        if answer.ranking:
            assert answer.ranking.overlap == 1.0 and answer.ranking.before == answer.ranking.after


def test_a_sequence_with_gaps_is_filled_in(services) -> None:
    edit = LiveEdit(feature="base/1", operation="add", amount=8.0)
    answer = turn(services["residues"], {"sequence": "MK__VLAGG?"}, edit)
    assert answer.kind == "sequence" and answer.prompt == "MK__VLAGG_"
    assert len(answer.before.text) == len(answer.after.text) == 10 and answer.before.text.startswith("MK")
    assert set(answer.before.text + answer.after.text) <= set("LAGVSERTIDPKQNFYMHWC")


def test_a_sequence_without_gaps_gets_them_where_the_edit_acts_most(services) -> None:
    answer = turn(services["residues"], {"sequence": "MKAYVLAGGLLW"}, LiveEdit(feature="base/1", operation="add", amount=8.0), n_tokens=3)
    hidden = {index for index, letter in enumerate(answer.prompt) if letter == "_"}
    assert hidden == {place.token for place in answer.places[:3]}
    kept = [letter for index, letter in enumerate(answer.after.text) if index not in hidden]
    assert kept == [letter for index, letter in enumerate("MKAYVLAGGLLW") if index not in hidden]


def test_a_ranking_before_and_after(services) -> None:
    answer = turn(services["items"], inputs()["items"], LiveEdit(feature="base/2", operation="clamp", amount=2.0, unit="max"), top=5)
    ranking = answer.ranking
    assert [item.rank_before for item in ranking.before] == [1, 2, 3, 4, 5] and [item.rank_after for item in ranking.after] == [1, 2, 3, 4, 5]
    assert not {"100", "205"} & {item.item for item in (*ranking.before, *ranking.after)}
    assert ranking.overlap == pytest.approx(len({one.item for one in ranking.before} & {one.item for one in ranking.after}) / 5)
    assert answer.kind == "ranking" and "max = " in answer.edits[0]


def test_units_are_measured_once_and_as_the_run_measures_them(services, monkeypatch) -> None:
    service = services["text"]
    for unit in ("max", "mean", "active_mean", "q99"):
        answer = turn(service, inputs()["text"], LiveEdit(feature="base/7", amount=1.5, unit=unit), n_tokens=0)
        expected = service.run.edit("base/7", "clamp", 1.5, unit=unit).edits.edits[0]
        made = EditSet.model_validate({name: value for name, value in answer.record.items() if name not in ("record", "version")})
        assert made.edits == [expected]
    monkeypatch.setattr(service.run, "reference_rows", lambda: pytest.fail("measured again"))
    turn(service, inputs()["text"], LiveEdit(feature="base/7", amount=1.0, unit="q50"), n_tokens=0)


def test_items_by_title_and_examples_by_id(services) -> None:
    items = services["items"]
    found = items.find_items("scream", 3)
    assert found.n_found == 4 and all("Scream" in item.title for item in found.items)
    assert items.find_items("205", 5).items[0].item == "205"
    listed = items.find_examples("user1", 100)
    assert listed.n_found == len(listed.examples) >= 1
    answer = ask(services["residues"], input={"example": "protein1"})
    assert answer.text == services["residues"].examples.find("protein1").text and "zinc finger" in answer.html
    with pytest.raises(CorpusError, match="none of that id"):
        ask(items, input={"example": "nobody"})
    with pytest.raises(ConfigError, match="subject is a causal_lm"):
        services["text"].find_items("a", 3)


@pytest.mark.parametrize(("modality", "given", "match"), [
    ("text", {"text": "x" * 30_000}, "live.max_chars"), ("text", {"text": "key " * 400}, "live.max_tokens"), ("text", {"text": ""}, "has no token"),
    ("text", {"sequence": "MK"}, "the run is of text"), ("text", {"text": "a", "example": "b"}, "images with text"),
    ("residues", {"sequence": "M<b>K"}, "is no residue"), ("residues", {"text": "MK"}, "the run is of residues"),
    ("items", {"history": ["no such film"]}, "no item has that id or title"), ("items", {"history": ["Night"]}, "4 items have that"),
    ("items", {"history": ["100"] * 300}, "live.max_history"), ("items", {"history": []}, "has no token"),
])
def test_what_cannot_be_run_is_refused(services, modality, given, match) -> None:
    with pytest.raises(SparselightError, match=match):
        ask(services[modality], input=given)


@pytest.mark.parametrize(("edit", "settings", "match"), [
    ({"feature": "base/48"}, {}, "base has 48 latents"), ({"feature": "nope/1"}, {}, "none of that name"), ({"feature": "base/x"}, {}, "no feature's name"),
    ({"feature": "base/1", "operation": "explode"}, {}, "no such operation"), ({"feature": "base/1", "operation": "swap"}, {}, "no such operation"),
    ({"feature": "base/1", "unit": "miles"}, {}, "no unit 'miles'"), ({"feature": "base/1", "amount": float("nan")}, {}, "not finite"),
    ({"feature": "base/1", "operation": "ablate", "amount": 2.0}, {}, "takes no amount"), ({"feature": "base/1"}, {"n_tokens": 99}, "live.max_new_tokens"),
])
def test_edits_that_cannot_be_honored_are_refused(services, edit, settings, match) -> None:
    with pytest.raises(SparselightError, match=match):
        turn(services["text"], inputs()["text"], LiveEdit(**edit), **settings)


def test_more_features_than_may_be_turned(services) -> None:
    with pytest.raises(ConfigError, match="live.max_edits = 4"):
        turn(services["text"], inputs()["text"], *[LiveEdit(feature=f"base/{latent}") for latent in range(5)])


@pytest.mark.parametrize("payload", HOSTILE[:-1])
def test_hostile_text_never_becomes_markup(services, payload) -> None:
    service = services["text"]
    answer = ask(service, input={"text": f"{payload} key = {payload}"}, top=3)
    edited = turn(service, {"text": f"{payload} key"}, LiveEdit(feature="base/1", operation="add", amount=5.0), n_tokens=4)
    for html in (answer.html, *(feature.html for feature in answer.features)):
        bare = html.replace("<span class=\"token", "").replace("</span>", "")
        assert "<" not in bare and "\u202e" not in html and "\0" not in html
    for side in (edited.before, edited.after):
        assert "<" not in side.html.replace("<mark>", "").replace("</mark>", "")


def test_two_edits_at_once_do_not_mix(services) -> None:
    service = services["text"]
    edits = [LiveEdit(feature=f"base/{latent}", operation="add", amount=7.0) for latent in (1, 5, 9, 13)]

    def work(edit: LiveEdit):
        future = service.worker.submit(lambda stop: service.edit(EditRequest(input=LiveInput(text=TEXT), edits=[edit], n_tokens=8), stop))
        answer = future.result(600)
        return answer.after.text, answer.before.text, answer.mean_kl_nats

    alone = [work(edit) for edit in edits]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, edits * 2))
    assert together == alone * 2
    assert len({kl for _, _, kl in alone}) == len(edits)


def test_work_stops_within_a_pass_and_leaves_no_hook(services) -> None:
    service, stop = services["text"], begun()
    model = service.run.subject.model
    hooks = len(model._forward_pre_hooks)
    passes = []

    def count(*_) -> None:
        passes.append(1)
        if len(passes) == 6:
            stop.set()

    handle = model.register_forward_pre_hook(count)
    try:
        with pytest.raises(StoppedError, match="has gone"):
            service.edit(EditRequest(input=LiveInput(text=TEXT), edits=[LiveEdit(feature="base/1", amount=1.0)], n_tokens=16), stop)
    finally:
        handle.remove()
    assert len(passes) == 6 and len(model._forward_pre_hooks) == hooks
    with pytest.raises(StoppedError, match="live.time_limit_s"):
        service.activations(ActivationsRequest(input=LiveInput(text=TEXT)), begun(-1.0))
    assert ask(service, input=inputs()["text"]).features


def test_only_so_many_may_wait() -> None:
    worker, free = Worker(LiveConfig(max_waiting=2), "test"), threading.Event()
    first = worker.submit(lambda _: free.wait(600))
    second = worker.submit(lambda _: "done")
    with pytest.raises(BusyError, match="live.max_waiting"):
        worker.submit(lambda _: None)
    free.set()
    assert first.result(120) and second.result(120) == "done"
    assert worker.submit(lambda _: 3).result(120) == 3
    worker.close()


def test_a_run_that_is_not_trained_is_refused(plain_run: Path, services) -> None:
    with pytest.raises(RunError):
        open_run(plain_run / "nowhere")
    with pytest.raises(SparselightError):
        LiveService(plain_run, LiveConfig()).load()


def test_endpoints(services, connect) -> None:
    client = connect(services["text"].folder, services["items"].folder)
    assert client.get("/api/runs/text/live").json()["modality"] == "text"
    answer = client.post("/api/runs/text/live/activations", json={"input": {"text": TEXT}, "top": 2})
    assert answer.status_code == 200 and len(answer.json()["features"]) == 2
    edit = client.post("/api/runs/text/live/edit", json={"input": {"text": TEXT}, "edits": [{"feature": "base/1", "amount": 3}], "n_tokens": 3})
    assert edit.status_code == 200 and edit.json()["kind"] == "text"
    assert client.get("/api/runs/items/live/items", params={"text": "scream"}).json()["n_found"] == 4
    assert client.get("/api/runs/text/live/examples", params={"text": "cipher"}).json()["n_found"] > 0
    for path, body, status in (("nope/live/activations", {"input": {"text": "a"}}, 404), ("text/live/activations", {"input": {}}, 422),
                               ("text/live/activations", {"input": {"text": ""}}, 400), ("text/live/edit", {"input": {"text": "a"}, "edits": [{}]}, 422)):
        refused = client.post(f"/api/runs/{path}", json=body)
        assert refused.status_code == status and set(refused.json()) == {"asked", "why", "instead"}


def test_a_shared_server_lets_nobody_turn_features(services, connect) -> None:
    token = "a-long-enough-token"
    client = connect(services["text"].folder, share_readonly=True, token=token)
    head = {"authorization": f"Bearer {token}"}
    assert client.post("/api/runs/text/live/edit", json={"input": {"text": TEXT}, "edits": []}, headers=head).status_code == 403
    assert client.post("/api/runs/text/live/activations", json={"input": {"text": TEXT}, "top": 1}, headers=head).status_code == 200


def test_an_image_is_shown_under_its_heat_map(services) -> None:
    service = services["image"]
    answer = ask(service, input={"example": "study 1"}, top=3)
    grid = service.run.subject.patch_grids([service.examples.find("study 1")])[0][0]
    assert [token.start for token in answer.tokens[:grid[0] * grid[1]]] == [-1] * (grid[0] * grid[1])
    assert '<svg class="patches"' in answer.features[0].html and 'href="/api/runs/image/media/' in answer.features[0].html
    edit = LiveEdit(feature="base/1", operation="add", amount=8.0)
    edited = turn(service, {"example": "study 1"}, edit, n_tokens=6)
    assert edited.kind == "text" and edited.prompt == "FINDINGS:" and edited.mean_kl_nats > 0
    other = turn(service, {"example": "study 1", "text": "FINDINGS: key"}, edit, n_tokens=3)
    assert other.prompt == "FINDINGS: key"


def test_all_images_of_a_study_are_shown(services) -> None:
    service = services["image"]
    found = ask(service, input={"example": "study 2"}, top=200)
    (rows, columns), second = service.run.subject.patch_grids([service.examples.find("study 2")])[0]
    assert second == (rows, columns) and found.notes == []
    assert all(one.html.count('<svg class="patches"') == 2 and "image&gt;" not in one.html for one in found.features)
    on_second = next(one for one in found.features if rows * columns <= one.peak < 2 * rows * columns)
    pictures = [image.sha256[:16] for image in service.examples.find("study 2").images]
    assert on_second.html.index(pictures[1]) < on_second.html.index(pictures[0])  # the one with the firing first
    assert all((service.folder / "media" / f"{name}.png").is_file() for name in pictures)


def test_the_model_runs_as_the_server_says(services) -> None:
    fast = LiveService(services["text"].folder, LiveConfig(device="cpu", dtype="bfloat16"), "text")
    fast.load()
    assert fast.run.subject.model.dtype == torch.bfloat16
    own, other = (ask(service, input=inputs()["text"], top=1).features[0] for service in (services["text"], fast))
    assert own.max_activation == pytest.approx(other.max_activation, rel=0.1)
    with pytest.raises(ConfigError, match="live.dtype"):
        LiveService(services["items"].folder, LiveConfig(dtype="bfloat16"))
    assert not {"device", "dtype"} & set(fast.info(True).limits)


def test_settings_of_the_command() -> None:
    assert live_settings(["live.max_tokens=64", "live.device=cpu"]) == LiveConfig(max_tokens=64, device="cpu")
    assert live_settings([]) == LiveConfig()
    for wrong, why in (("port=1", "only the model"), ("live.max_tokens=0", "live.max_tokens"), ("live.nope=1", "live.nope"), ("live.dtype=int3", "live.dtype")):
        with pytest.raises(ConfigError, match=why):
            live_settings([wrong])


def test_answers_of_a_shared_server_name_no_folder(services) -> None:
    folder = str(services["text"].folder)
    for hides in (False, True):
        service = LiveService(services["text"].folder, LiveConfig(), "text", hide_paths=hides)
        service._loading = Future()
        service._loading.set_exception(RunError(asked="load", why=f"{folder}/model is gone", instead="restore it"))
        assert (folder in service.problem) is not hides and "is gone" in service.problem


def test_a_run_shows_itself_in_a_notebook(services) -> None:
    from sparselight.serve.notebook import MAX_BYTES

    shown = services["text"].run.show(n_features=2, features=["residual/3"])
    assert 'id="f-residual-3"' in shown.page and len(shown.page.encode()) <= MAX_BYTES
    assert 'sandbox="allow-scripts"' in shown._repr_html_() and "<script" not in shown._repr_html_()


def test_what_is_loaded_is_told(services, tmp_path) -> None:
    fresh = LiveService(services["items"].folder, LiveConfig())
    for _ in range(50):
        fresh.begin_loading()
    assert fresh._loading.result(60) is None and fresh.info(True).ready
    lost = LiveService(make_live_run(tmp_path / "lost", "items"), LiveConfig())
    (tmp_path / "lost" / "subject-0123456789" / "recommender.json").unlink()
    lost.begin_loading()
    assert isinstance(lost._loading.exception(60), RunError) and "not in the run's folder" in lost.info(True).problem
