"""`sparselight train`: recipes, sweeps, what it prints, what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparselight.cli import main
from sparselight.errors import ConfigError
from sparselight.pipeline.train_recipe import load_train_recipe
from sparselight.sae import load_sae
from sparselight.store import HarvestConfig, harvest
from sparselight.testing import tiny_corpus, tiny_subject

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "train").glob("*.toml"))
SITES = ("model.layers.2.mlp:input", "mlp_out.2")
SMALL = [part for setting in ("n_latents=64", "batch_tokens=128", "n_tokens=1280", "dead_after_tokens=256") for part in ("--set", f"train.{setting}")]
SWEEP = """
[train]
n_latents = 48
batch_tokens = 128
n_tokens = 1280
objective = {aux = 0.0625}
[sweep.narrow]
k = 2
[sweep.wide]
k = 4
objective = {orthogonal = 0.25, orthogonal_chunk = 16}
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store with one site and one with the two sites of the transcoder recipes."""
    folder, subject, corpus = tmp_path_factory.mktemp("stores"), tiny_subject(), tiny_corpus(64)
    for name, sites in (("one", ["resid_post.1"]), ("two", list(SITES))):
        harvest(subject, corpus.examples, sites, folder / name, HarvestConfig(site=sites[0]), corpus.fingerprint())
    return {name: folder / name for name in ("one", "two")}


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as found:
        main(["train", *map(str, arguments)])
    return found.value.code or 0  # type: ignore[return-value]


@pytest.mark.parametrize("recipe", [path.stem for path in RECIPES])
def test_every_recipe_runs(recipe: str, stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transcodes, loaded, small = "transcoder" in recipe, load_train_recipe(recipe), SMALL
    extra: list[object] = []
    if loaded.needs_base or loaded.needs_init:
        assert call(stores["one"], "--recipe", "topk", "--out", tmp_path / "base", *SMALL, "--set", "train.k=4") == 0
        extra = ["--base" if loaded.needs_base else "--init", tmp_path / "base" / "sae"]
    if loaded.needs_init:
        small = SMALL[2:]  # the width is that of the SAE
        extra += ["--set", "train.finetune.n_new=16"] if "extended" in recipe else []
    if recipe == "residual_silent":
        extra += ["--silent", stores["one"]]
    if "k" in load_train_recipe(recipe).configs.get("", load_train_recipe("topk").configs[""]).model_fields_set:
        extra += ["--set", "train.k=4"]
    store = stores["two" if transcodes else "one"]
    capsys.readouterr()
    assert call(store, "--recipe", recipe, "--out", tmp_path / "out", *small, *extra, *(["--site", SITES[0]] if transcodes else []), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    names = list(load_train_recipe(recipe).configs)
    assert [sae["name"] for sae in result["saes"]] == [name or "out" for name in names]
    for sae in result["saes"]:
        assert load_sae(sae["folder"]).weights_hash() == sae["weights"]
        assert 0 < sae["fvu"] < 5
        assert sae["l0"] > 0


def test_there_is_a_recipe_for_every_variant() -> None:
    assert {path.stem for path in RECIPES} == {
        "relu", "gated", "jump_relu", "topk", "batch_topk", "matryoshka", "transcoder", "skip_transcoder", "orthogonal", "orthogonal_every_5", "tilted",
        "residual", "residual_silent", "finetune", "finetune_tilted", "extended_random", "extended_most_active", "recsae", "sweep",
    }


def test_a_sweep_is_planned_trained_and_found_finished(stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(SWEEP)
    arguments = (stores["one"], "--recipe", recipe, "--out", tmp_path / "out")
    assert call(*arguments, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(sae["name"], sae["n_steps"], sae["finished"]) for sae in plan["saes"]] == [("narrow", 10, False), ("wide", 10, False)]
    assert not (tmp_path / "out").exists()
    assert call(*arguments) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("narrow", "wide", "fvu", "l0", "dead", "next:"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["narrow", "wide"]
    assert call(*arguments, "--json") == 0
    weights = [sae["weights"] for sae in json.loads(capsys.readouterr().out)["saes"]]
    assert weights == [load_sae(tmp_path / "out" / name / "sae").weights_hash() for name in ("narrow", "wide")]
    assert call(*arguments, "--dry-run") == 0
    assert "finished" in capsys.readouterr().out


def test_fine_tuning_says_what_its_record_says(stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a recipe --init means `finetune`; before and after the work the terminal has the notes."""
    assert call(stores["one"], "--out", tmp_path / "base", *SMALL, "--set", "train.k=4") == 0
    arguments = (stores["one"], "--init", tmp_path / "base" / "sae", "--out", tmp_path / "out", *SMALL[2:])
    capsys.readouterr()
    for extra in (["--dry-run"], []):
        assert call(*arguments, *extra) == 0
        shown = capsys.readouterr().out
        assert "Trained on from an SAE of 64 latents" in shown
        assert "Few tokens: " in shown
    record = load_sae(tmp_path / "out" / "sae").record
    assert record is not None
    assert [note.split(" ")[0] for note in record.notes] == ["Trained", "Few"]


def test_the_best_state_is_saved_on_wish(stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (stores["one"], "--out", tmp_path, *SMALL, "--set", "train.k=4", "--best")
    assert call(*arguments, "--set", "train.best_every_steps=2", "--json") == 0
    best = json.loads(capsys.readouterr().out)["saes"][0]["best"]
    assert load_sae(best).n_latents == 64
    assert call(*arguments[:1], "--out", tmp_path / "other", *arguments[3:]) == 2
    assert "train.best_every_steps" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["--recipe", "batchtopk"], "use 'batch_topk'"),
    (["--recipe", "missing.toml"], "there is no such file"),
    (["--set", "train.kk=3"], "set train.kk: there is no such setting. Instead: use 'k'"),
    (["--set", "harvest.site=x"], "it has 'harvest', which no training reads"),
    (["--set", "train=3"], "set train to 3: it is a table"),
    (["--recipe", "sweep", "--set", "sweep.k16.k=0"], "set sweep.k16.k to 0"),
    (["--recipe", "residual"], "give --base, the folder of an SAE"),
    (["--recipe", "finetune"], "give --init, where one lies"),
    (["--recipe", "finetune", "--set", "needs_init=3"], "needs_init = 3 is neither true nor false"),
    (["--init", "nowhere"], "load the SAE nowhere"),
    (["--set", "train.finetune.n_new=4"], "there is no SAE to go on from"),
    (["--set", "train.silent_frac=0.5"], "without a base SAE"),
    (["--base", "nowhere"], "load the SAE nowhere"),
    (["--recipe", "transcoder"], "train on the activations of mlp_out.2: that site is not in the store, which holds resid_post.1"),
    (["--site", "resid_post.9"], "use 'resid_post.1'"),
    (["--set", "train.n_latents=8"], "set train.k to 32"),
    (["--set", "train.batch_tokens=100000", "--set", "train.n_tokens=100000"], "draw batches of train.batch_tokens = 100000"),
    (["--set", 'train.log_to=["mlflow"]'], "set train.log_to"),
])
def test_refusals(arguments: list[str], words: str, stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(stores["one"], "--out", tmp_path / "out", *arguments) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_what_is_no_store_is_refused(stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path) == 2
    assert "there is no store" in capsys.readouterr().err
    assert call(stores["two"], "--out", tmp_path / "out") == 2
    assert "it holds 2 sites" in capsys.readouterr().err
    (tmp_path / "run.json").write_text(json.dumps({"record": "run", "version": 1, "name": "r", "recipe": {}, "stages": {}, "wall_s": {}}))
    assert call(tmp_path) == 2
    assert "its activations are not harvested" in capsys.readouterr().err


def test_a_run_folder_gives_its_general_training_store(stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(stores["one"], tmp_path / "harvest-0" / "general_train")
    stages = {"harvest": "harvest-0"}
    (tmp_path / "run.json").write_text(json.dumps({"record": "run", "version": 1, "name": "r", "recipe": {}, "stages": stages, "wall_s": {}}))
    assert call(tmp_path, "--out", tmp_path / "saes", *SMALL, "--set", "train.k=4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["site"] == "resid_post.1"


def test_a_sweep_changes_tables_setting_by_setting(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(SWEEP)
    configs = load_train_recipe(tmp_path / "r.toml", ["train.lr=1e-3", "sweep.wide.lr=2e-3"]).configs
    assert {name: config.lr for name, config in configs.items()} == {"narrow": 1e-3, "wide": 2e-3}
    assert configs["wide"].objective.aux == configs["narrow"].objective.aux == 0.0625
    (tmp_path / "bad.toml").write_text("needs_base = 3\n")
    with pytest.raises(ConfigError, match="needs_base = 3 is neither true nor false"):
        load_train_recipe(tmp_path / "bad.toml")


def test_help_is_complete() -> None:
    done = subprocess.run([sys.executable, "-m", "sparselight", "train", "--help"], capture_output=True, text=True, check=True, env={"COLUMNS": "200"})
    options = ("--recipe", "--out", "--site", "--set", "--base", "--init", "--silent", "--best", "--dry-run", "--json", "sweep.NAME")
    assert all(option in done.stdout for option in options)
    assert all(path.stem in done.stdout for path in RECIPES)
