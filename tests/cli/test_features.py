"""`sparselight features`: search, card, SQL, export."""

import json

import pytest
from explained_run import make_run

from sparselight.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("features"))


def answer(capsys, *arguments, code=0):
    """Stdout of the command."""
    with pytest.raises(SystemExit) as end:
        main(["features", *map(str, arguments)])
    assert end.value.code in (code, None if code == 0 else code)
    return capsys.readouterr().out


def test_search_lists_cards_and_names_the_next_command(run, capsys):
    out = answer(capsys, run, "key")
    assert all(word in out for word in ("base/0", "base/1", "residual/0", "the word", "0.90 [0.80, 1.00]"))
    assert f"next: sparselight features {run} --latent base/0" in out
    assert "residual/0" not in answer(capsys, run, "key", "--source", "base")
    found = json.loads(answer(capsys, run, "key", "--grade", "A", "--limit", "2", "--domain", "--sort", "f1", "--json"))
    assert [(card["source"], card["latent"], card["grade"]) for card in found["cards"]] == [("base", 0, "A"), ("residual", 0, "A")]
    assert "no feature fits" in answer(capsys, run, "nothing says this")


def test_a_card_is_shown_whole(run, capsys):
    out = answer(capsys, run, "--latent", "residual/0")
    assert "residual/0  grade A: the word `key`" in out
    assert "fires on 9 of 900 tokens read" in out
    assert "[top] lists.py: a<< key>>" in out
    assert "promotes: ' value'" in out
    assert json.loads(answer(capsys, run, "--latent", "1", "--json"))["latent"] == 1
    assert "edits tried" in answer(capsys, run, "--latent", "base/0")


def test_sql_and_export(run, tmp_path, capsys):
    assert json.loads(answer(capsys, run, "--sql", "SELECT count(*) AS n FROM cards", "--json")) == {"rows": [{"n": 3}]}
    assert "residual" in answer(capsys, run, "--sql", "SELECT source FROM cards")
    assert "3 cards" in answer(capsys, run, "--export", tmp_path / "cards.csv")
    assert (tmp_path / "cards.csv").read_text().startswith("source,latent,grade")
    assert json.loads(answer(capsys, run / "catalogue.duckdb", "--json"))["cards"]


def test_the_plot_sets_trained_latents_beside_controls(run, tmp_path, capsys):
    out = json.loads(answer(capsys, run, "--plot", tmp_path / "evidence.svg", "--json"))
    assert "50.0\u00a0% of the base SAE's latents that fire reach a held-out F1 of 0.5, 25.0\u00a0% of untrained SAE" in out["says"]
    picture = (tmp_path / "evidence.svg").read_text()
    assert picture.startswith("<svg xmlns=") and picture.count("<g stroke=") == 3


@pytest.mark.parametrize(("arguments", "said"), [
    (["--latent", "99"], "base has the latents 0 to 1"),
    (["--latent", "x"], "not a number"),
    (["--latent", "base/1", "--source", "residual"], "not that of --source"),
    (["key", "--latent", "1"], "a question of its own"),
    (["--grade", "Z"], "no such grade"),
    (["--sort", "f2"], "use 'f1'"),
    (["--sql", "DROP TABLE cards"], "run the SQL"),
])
def test_what_cannot_be_answered_is_refused(run, capsys, arguments, said):
    with pytest.raises(SystemExit) as end:
        main(["features", str(run), *arguments])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_place_without_a_catalogue_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["features", str(tmp_path)])
    assert "run the stage `explain` first" in capsys.readouterr().err
