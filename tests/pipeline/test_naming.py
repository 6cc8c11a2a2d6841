"""`sparselight explain` on a run folder: what is chosen, what lands in the catalogue, what a user can get wrong."""

import json

import pytest
from specialise_cases import tables, write_files

import sparselight as sl
from sparselight.cli import main
from sparselight.config import load_toml
from sparselight.errors import ConfigError, EndpointError, RunError
from sparselight.pipeline import load_recipe, run_pipeline
from sparselight.pipeline.explaining import run_catalogue
from sparselight.pipeline.naming import NamingRun, NamingTables, parse_key
from sparselight.pipeline.recipe import recipe_folders
from sparselight.testing import LlmServer

REST = """
[residual]
n_latents = 16
k = 2
n_tokens = 2048
batch_tokens = 256
[evaluate]
suite = "reconstruction"
controls = false
n_tokens = 300
n_bootstrap = 40
[explain]
explain_tokens = 3000
score_tokens = 2000
n_shuffles = 1
n_bootstrap = 10
min_support = 5
min_groups = 1
controls = []
[explain.examples]
n_positive = 8
n_negative = 8
[explain.llm]
backoff_s = 0.01
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of seconds whose stage explain is finished."""
    folder = tmp_path_factory.mktemp("naming")
    write_files(folder)
    (folder / "recipe.toml").write_text(tables(folder) + REST)
    run_pipeline(load_recipe(folder / "recipe.toml"), folder / "run", until="explain")
    return folder / "run"


@pytest.fixture
def server():
    with LlmServer() as server:
        yield server


def command(capsys, *arguments):
    """Exit code, stdout, stderr of a command."""
    with pytest.raises(SystemExit) as left:
        main(["explain", *map(str, arguments)])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def test_names_land_in_the_catalogue_and_a_second_call_costs_nothing(run, server):
    first = sl.name_latents(run, server.url, "test-model", top=5)
    assert len(first.latents) == 5
    assert first.questions.n_calls == server.n_requests
    named = [latent for latent in first.latents if latent.explanations]
    assert named
    catalogue = run_catalogue(run)
    for latent in named:
        (explanation,) = [found for found in catalogue.card(*parse_key(latent.key)).explanations if found.explainer == "llm"]
        assert explanation == latent.explanations[0]
        assert explanation.made_with["model"] == "test-model"
        assert explanation.score("detection") is not None
    scored = [latent.explanations[0].score("detection") for latent in named if latent.explanations[0].score("detection").values]
    assert scored and all("shuffled" in score.controls for score in scored)
    before = server.n_requests
    again = sl.name_latents(run, server.url, "test-model", top=5)
    assert server.n_requests == before
    assert again.latents == first.latents
    assert again.questions.n_calls == 0
    record = json.loads((run / "llm" / "naming.json").read_text())
    assert record["questions"]["n_cached"] == again.questions.n_cached


def test_statistical_explanations_are_scored_without_any_server(run):
    result = sl.name_latents(run, explainer="statistical", scorers=["keywords"], top=64)
    scored = [found for latent in result.latents for found in latent.explanations]
    assert scored and all(found.explainer == "statistical" for found in scored)
    assert any(found.score("keywords").values for found in scored)
    assert all(found.score("label_rule") is not None for found in scored)  # what was there stays
    assert result.questions.n_asked == 0


def test_scores_of_earlier_calls_stay_with_the_same_explanation(run, server):
    named = sl.name_latents(run, server.url, "test-model", top=4)
    key = next(latent.key for latent in named.latents if latent.explanations)
    sl.name_latents(run, server.url, "test-model", latents=[key], scorers=["fuzzing", "intruder"])
    (found,) = [found for found in run_catalogue(run).card(*parse_key(key)).explanations if found.explainer == "llm"]
    assert {score.scorer for score in found.scores} == {"detection", "fuzzing", "intruder"}


def test_the_command(run, server, capsys):
    code, out, err = command(capsys, run, "--endpoint", server.url, "--model", "test-model", "--top", 3, "--dry-run", "--json")
    plan = json.loads(out)
    assert (code, server.n_requests) == (0, 0)
    assert plan["n_latents"] == 3
    assert plan["estimate"]["n_calls"] > 0
    code, out, err = command(capsys, run, "--endpoint", server.url, "--model", "test-model", "--top", 3, "--json")
    result = json.loads(out)
    assert code == 0
    assert server.n_requests == result["questions"]["n_calls"] == plan["estimate"]["n_calls"]
    key = result["latents"][0]["key"]
    code, out, err = command(capsys, run, "--endpoint", server.url, "--model", "test-model", "--latents", key)
    assert code == 0
    assert key in out and "questions" in out and "next: " in out
    assert "estimate" in err


@pytest.mark.parametrize("recipe", ["recsae", "maira2", "contrastive"])
def test_recipes(run, server, recipe):
    with NamingRun(run, recipe=recipe, endpoint=server.url, model="test-model", top=2, overrides=["explain.scorers.n_control_latents=2"]) as naming:
        result = naming.run()
    assert result.questions.n_read == result.questions.n_asked > 0
    if recipe == "recsae":
        controls = result.controls.get("llm", {}).get("level_prediction", {})
        assert controls.keys() <= {"shuffled", "random_latent", "raw_neuron"}


def test_every_recipe_is_read():
    names = {path.stem for folder in recipe_folders() for path in (folder / "explain").glob("*.toml")}
    assert names == {"recsae", "maira2", "contrastive"}
    for folder in recipe_folders():
        for path in (folder / "explain").glob("*.toml"):
            NamingTables.parse(load_toml(path))


@pytest.mark.parametrize(("arguments", "error", "words"), [
    ({}, ConfigError, "--endpoint"),
    ({"endpoint": "http://127.0.0.1:9/v1"}, ConfigError, "--model"),
    ({"endpoint": "http://127.0.0.1:9/v1", "model": "m"}, EndpointError, "cannot be reached"),
    ({"latents": ["12"]}, ConfigError, "residual/12"),
    ({"latents": ["base/99999"]}, ConfigError, "latents 0 to 47"),
    ({"scorers": ["detektion"]}, ConfigError, "explain.scorers.names"),
    ({"scorers": ["embedding"], "explainer": "statistical"}, ConfigError, "explain.scorers.encoder"),
    ({"overrides": ["explain.llm.max_call=3"]}, ConfigError, "max_calls"),
    ({"overrides": ["explain.explain_tokens=3"]}, ConfigError, "explain.explain_tokens"),
    ({"recipe": "recsea"}, ConfigError, "recsae"),
    ({"endpoint": "http://127.0.0.1:9/v1", "model": "m", "overrides": ["explain.llm.max_calls=2"]}, ConfigError, "one latent"),
    ({"endpoint": "http://127.0.0.1:9/v1", "model": "m", "overrides": ['explain.llm.prompts="/no/such/folder"']}, ConfigError, "explain.llm.prompts"),
])
def test_what_a_user_can_get_wrong(run, arguments, error, words):
    before = {path for path in run.rglob("*") if path.is_file() and "llm" not in path.parts}
    with pytest.raises(error) as caught:
        sl.name_latents(run, top=3, **arguments)
    assert words in str(caught.value)
    assert {path for path in run.rglob("*") if path.is_file() and "llm" not in path.parts} >= before


def test_no_run(tmp_path):
    with pytest.raises(RunError):
        sl.name_latents(tmp_path, "http://127.0.0.1:9/v1", "m")


def test_settings_of_the_language_model_do_not_redo_the_stage(run):
    from sparselight.pipeline.stages import without_llm

    recipe = load_recipe(run.parent / "recipe.toml")
    other = load_recipe(run.parent / "recipe.toml", ["explain.llm.concurrency=3", 'explain.scorers.names=["fuzzing"]'])
    assert other.explain.llm.concurrency == 3
    assert without_llm(recipe.explain) == without_llm(other.explain)


def test_an_encoder_of_the_users(run, tmp_path):
    from sparselight.testing.families import family_tokenizer, tiny_model

    encoder = tmp_path / "encoder"
    tiny_model("bert_encoder").save_pretrained(encoder)
    family_tokenizer("bert_encoder").save_pretrained(encoder)

    def scored():
        result = sl.name_latents(run, explainer="statistical", scorers=["embedding"], top=64, overrides=[
            f'explain.scorers.encoder="{encoder}"', "explain.scorers.encoder_tokens=32"])
        return [found.score("embedding") for latent in result.latents for found in latent.explanations]

    with pytest.raises(ConfigError, match=r"explain\.scorers\.encoder"):  # nothing says how it pools
        scored()
    (encoder / "modules.json").write_text(json.dumps([
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]))
    (encoder / "1_Pooling").mkdir()
    (encoder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}))
    assert any(score.values["auroc"].low is not None for score in scored() if score.values)
