"""Notes and user labels: only ever added to, never torn, refused where they are not allowed, exported with the catalogue."""

import csv
import json
import threading
from pathlib import Path

import pytest
from worded_run import make_worded_run, plain

from sparselight.errors import ConfigError, StoreError
from sparselight.interpret import Catalogue
from sparselight.interpret.catalogue.notes import NOTES, add_note, by_feature, label_of, read_notes, withdraw_note
from sparselight.pipeline.explaining import run_catalogue
from sparselight.serve.notes import notes_of

ADDRESS = "/api/runs/run/notes"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_worded_run(tmp_path / "run", plain, n_cards=4)
    (folder / NOTES).unlink()
    return folder


def test_notes_are_read_back_in_order_and_withdrawn(tmp_path) -> None:
    first = add_note(tmp_path, "base", 3, "ada", label="keys", text=" about keys\nand locks ")
    second = add_note(tmp_path, "base", 3, "bob", label="secrets")
    add_note(tmp_path, "residual", 0, "", text="\ud800 odd \u202e")
    notes = read_notes(tmp_path)
    assert [note.who for note in notes] == ["ada", "bob", ""] and notes[0].text == "about keys\nand locks" and notes[2].text == "? odd \u202e"
    assert label_of(by_feature(notes)["base", 3]) == "secrets"
    withdraw_note(tmp_path, second.id, "ada")
    assert read_notes(tmp_path)[0].id == first.id and label_of(by_feature(read_notes(tmp_path))["base", 3]) == "keys"
    assert len((tmp_path / NOTES).read_text().splitlines()) == 4
    with pytest.raises(ConfigError, match="withdrawn already"):
        withdraw_note(tmp_path, second.id, "ada")


def test_a_torn_line_is_passed_over_and_closed(tmp_path) -> None:
    add_note(tmp_path, "base", 0, "a", text="one")
    with (tmp_path / NOTES).open("ab") as handle:
        handle.write(b'{"id": "cut sho')
    assert len(read_notes(tmp_path)) == 1
    add_note(tmp_path, "base", 0, "a", text="two")
    assert [note.text for note in read_notes(tmp_path)] == ["one", "two"]


def test_many_writers_lose_nothing(tmp_path) -> None:
    def write(writer: int) -> None:
        for number in range(20):
            add_note(tmp_path, "base", number, str(writer), text="x" * 3000)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((note.who, note.latent) for note in read_notes(tmp_path)) == sorted((str(writer), number) for writer in range(4) for number in range(20))


@pytest.mark.parametrize(("given", "match"), [({}, "neither a label nor a text"), ({"text": "x" * 20_000}, "more than 10,000"),
                                              ({"label": "x" * 300}, "more than 200")])
def test_notes_without_or_with_too_many_words_are_refused(tmp_path, given, match) -> None:
    with pytest.raises(ConfigError, match=match):
        add_note(tmp_path, "base", 0, "a", **given)
    assert not (tmp_path / NOTES).exists()


def test_a_link_in_the_files_place_is_not_followed(tmp_path) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / NOTES).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        add_note(tmp_path, "base", 0, "a", text="x")
    assert (tmp_path / "elsewhere").read_text() == ""


def test_endpoints(run, connect) -> None:
    client = connect(run, allow_edits=True)
    made = client.post(ADDRESS, json={"feature": "base/1", "who": "ada", "label": "keys", "text": "<script>alert(1)</script>"})
    assert made.status_code == 201 and made.json()["feature"] == "base/1"
    assert client.get(ADDRESS, params={"feature": "base/1"}).json()["notes"] == [made.json()]
    assert client.get(ADDRESS, params={"feature": "base/2"}).json() == {"notes": [], "may_write": True}
    assert [note.label for note in notes_of(run, "base", 1)] == ["keys"]
    assert client.get("/api/runs/run/features/base/1").json()["notes"][0]["label"] == "keys"
    assert client.post(f"{ADDRESS}/withdraw", json={"note": made.json()["id"]}).json()["notes"] == []
    audit = [json.loads(line) for line in (run / "serve_audit.jsonl").read_text().splitlines()]
    assert [line["what"] for line in audit] == ["note", "note"] and audit[0]["label"] == "keys"
    for body, status in (({"feature": "base/999", "text": "x"}, 400), ({"feature": "base", "text": "x"}, 400), ({"feature": "base/1"}, 400),
                         ({"feature": "base/1", "text": "x", "other": 1}, 422), ({"feature": "../x/1", "text": "x"}, 400)):
        assert client.post(ADDRESS, json=body).status_code == status
    assert read_notes(run) == []


def test_a_server_is_read_only_unless_told(run, connect) -> None:
    client = connect(run)
    refused = client.post(ADDRESS, json={"feature": "base/1", "text": "x"})
    assert refused.status_code == 403 and "--allow-edits" in refused.json()["instead"]
    assert client.post(f"{ADDRESS}/withdraw", json={"note": "x"}).status_code == 403
    assert not client.get(ADDRESS).json()["may_write"] and not (run / NOTES).exists()


def test_notes_are_exported_with_the_catalogue(run, tmp_path) -> None:
    import pyarrow.parquet as pq

    catalogue = Catalogue(run_catalogue(run).path)
    add_note(run, "base", 1, "ada", label="keys", text="one, two")
    add_note(run, "base", 1, "bob", text="three")
    with catalogue.export(tmp_path / "a.csv").open(encoding="utf-8", newline="") as handle:
        rows = {(row["source"], row["latent"]): row for row in csv.DictReader(handle)}
    assert (rows["base", "1"]["user_label"], rows["base", "1"]["notes"], rows["base", "2"]["user_label"]) == ("keys", "one, two | three", "")
    assert "keys" in pq.read_table(catalogue.export(tmp_path / "a.parquet")).column("user_label").to_pylist()
    assert pq.read_table(catalogue.export(tmp_path / "all") / "notes.parquet").column("who").to_pylist() == ["ada", "bob"]
    features = [json.loads(line) for line in catalogue.export(tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    own = next(one for one in features if one["layer"] == "layer-base" and one["index"] == "1")
    assert own["explanations"][0]["description"] == "keys" and own["explanations"][0]["typeName"] == "user" and len(own["notes"]) == 2
    assert all("notes" not in one for one in features if one is not own)
