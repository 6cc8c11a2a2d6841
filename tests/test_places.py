"""Names in place of paths."""

import pytest

from sparselight.places import at_home, known_as, without_paths


@pytest.mark.parametrize(("place", "name"), [
    ("demo", "demo"), ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"), ("EleutherAI/pythia-70m@step1000", "EleutherAI/pythia-70m@step1000"),
    ("runs/a/model", "runs/a/model"), ("/data/esm2_t6_8M", "esm2_t6_8M"), ("/data/esm2_t6_8M/", "esm2_t6_8M"),
    ("/work/protein/subject2/model", "subject2 model"),
    ("/data/esm2-ft/checkpoint-500", "esm2-ft checkpoint-500"), ("/home/anna/model", "model"), ("/home/anna", "a folder"),
    ("/Users/anna/x y/Model", "x y Model"),
    ("/root/.pyenv/lib/python3.11", "python3.11"), (r"C:\Users\anna\bert-tiny", "bert-tiny"), ("/", "a folder"), ("", ""), ("~nobody/x", "~nobody/x"),
    ("/home/anna/.cache/huggingface/hub/models--owner--big-model/snapshots/0a1b2c", "owner/big-model"),
])
def test_a_place_is_known_by_its_name(place: str, name: str) -> None:
    assert known_as(place) == name
    assert known_as(name) == name


def test_the_users_own_folder_is_never_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/people/anna")
    assert known_as("/srv/people/anna/model") == "model"
    assert known_as("~/model") == "model"
    assert known_as("~") == known_as("/srv/people/anna") == known_as("/srv/people/anna/") == "a folder"
    assert known_as("/srv/people/annabel/model") == "annabel model"


def test_paths_inside_a_text() -> None:
    text = "the standard library of Python 3.11 (/root/.pyenv/versions/3.11.7/lib/python3.11), 98 % and/or 1/2 a token; owner/name at https://hub.co/owner/name"
    assert without_paths(text) == text.replace("/root/.pyenv/versions/3.11.7/lib/python3.11", "python3.11")
    assert without_paths("made from /data/a/subject/model, then C:\\Users\\anna\\bert.") == "made from subject model, then bert."


def test_commands_and_settings_keep_their_paths_but_for_the_users_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/anna")
    assert at_home('sparselight serve /srv/anna/runs/a --x "/srv/anna"') == 'sparselight serve ~/runs/a --x "~"'
    for other in ("root = \"/srv/annabel/x\"", "/data/srv/anna/x", "/srv/anna-2", "/data/corpus"):
        assert at_home(other) == other
    monkeypatch.setenv("HOME", "/")
    assert at_home("/a/b") == "/a/b"
