"""A specialization from recipe to page: equal terms, exact resume, further variants and domains, and everything that is refused."""

import importlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from specialise_cases import HELD_OUT, SEED, SITE, SMALL, tables, write_files

import sparselight as sl
from sparselight.cli import main
from sparselight.errors import ConfigError, CorpusError, RunError, SaeError, StoreError
from sparselight.pipeline.specialise import DEFAULT_VARIANTS, VARIANTS, SpecialiseConfig, l0_on, train_budgets, train_variants
from sparselight.pipeline.specialise.running import SpecialiseRun
from sparselight.pipeline.specialise.variants import sample_rows, settings_of, total_k
from sparselight.protocols import no_progress
from sparselight.records import EvalRecord, SpecialisationRecord
from sparselight.sae import Sae, load_sae
from sparselight.store import FolderStore

CHEAP = ("--set", "specialise.equal_l0=false", "--budgets", "none")


@dataclass
class Place:
    """A recipe, and what a whole specialization made of it."""

    folder: Path
    recipe: Path
    out: Path

    @property
    def variants(self) -> Path:
        return next(self.out.glob("variants-*"))

    @property
    def run(self) -> Path:
        return self.out / "run"

    @property
    def record(self) -> SpecialisationRecord:
        return SpecialisationRecord.load(self.out / "specialisation.json")

    def store(self, name: str) -> FolderStore:
        return FolderStore.open(next(self.run.glob("harvest-*")) / name)

    def base(self) -> Sae:
        return load_sae(next(self.run.glob("train-*")) / "sae")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("specialise")
    write_files(folder)
    recipe = folder / "mine.toml"
    recipe.write_text(tables(folder) + SMALL)
    made = Place(folder, recipe, folder / "out")
    assert call(recipe, "--out", made.out) == 0
    return made


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as found:
        main(["specialise", *map(str, arguments)])
    return int(found.value.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, str]:
    """The three parts of a refusal."""
    capsys.readouterr()
    assert call(*arguments, "--json") == 2
    return dict(json.loads(capsys.readouterr().out))


def short(**changes: object) -> SpecialiseConfig:
    sizes = {"n_new": 16, "k_new": 2, "n_tokens": 1024, "batch_tokens": 256, "min_domain_tokens": 512, "checkpoint_every_s": 0}
    return SpecialiseConfig.parse({**sizes, **changes})


# What comes of it.

def test_everything_is_made_and_named_in_the_record(place: Place):
    record = place.record
    assert list(record.variants) == list(DEFAULT_VARIANTS)
    for name, variant in record.variants.items():
        assert name == "base" or (place.out / str(variant.folder) / "cfg.json").is_file()
        assert variant.n_new == {"base": 0, "finetune": 0, "finetune_tilted": 0}.get(name, 16)
    assert (place.out / str(record.report)).read_text(encoding="utf-8").count("<section") == 11
    assert (place.out / str(record.cards)).is_file()
    assert record.explained == "boost"
    assert sorted(record.budgets.values())[-1] == record.n_tokens["domain_train"]
    for path in (record.evaluation, record.equal_l0_evaluation, record.budget_evaluation):
        assert EvalRecord.load(place.out / str(path)).base == "base"


def test_terms_are_equal(place: Place):
    record, base = place.record, place.base()
    for name, variant in record.variants.items():
        if name in ("base", "grafted"):
            continue
        on_top = 4 / 3 if name == "boost_silent" else 1  # its rows of general text come on top
        assert variant.n_tokens_seen == pytest.approx(2048 * on_top, rel=1e-2)
        config = load_sae(place.variants / name / "sae").record.config
        assert config["k"] == (2 if name.startswith("boost") else record.k)
        assert (config["seed"], config["data_seed"]) == (0, 0)
    assert record.k == pytest.approx(l0_on(base, sample_rows(place.store("domain_train"), SITE, 512)) + 2)
    stitched = load_sae(place.variants / "boost" / "stitched")
    assert torch.equal(stitched.W_dec[:48], base.W_dec)
    assert stitched.record.parents[0] == base.weights_hash()
    equal = EvalRecord.load(place.out / str(record.equal_l0_evaluation))
    found = [row.value.value for row in equal.rows if row.metric == "l0" and row.dataset == "domain" and row.coder in record.variants]
    assert len(found) == len(record.variants)
    assert max(found) < 1.5 * min(found)
    assert record.l0 is not None


def test_drift_and_new_latents_say_what_was_frozen(place: Place):
    variants = place.record.variants
    for name in ("boost", "extended_random", "grafted"):
        drift = variants[name].drift
        assert drift is not None
        assert (drift.mean_cosine, drift.turned_frac) == (pytest.approx(1.0, abs=1e-6), 0.0)
    assert variants["boost"].drift.fire_rate_change == {"general": 0.0, "domain": 0.0}
    assert variants["finetune"].drift.mean_cosine < 1
    assert variants["scratch_domain"].drift is None
    assert variants["finetune"].new_latents == []
    for one in variants["boost"].new_latents:
        assert 0 <= one.token_frac.value <= min(1.0, one.active.value + 1e-9)
    evaluation = EvalRecord.load(place.out / place.record.evaluation)
    l0 = {(row.coder, row.dataset): row.value.value for row in evaluation.rows if row.metric == "l0"}
    added = {one.dataset: one.active.value for one in variants["boost"].new_latents}
    for dataset, active in added.items():
        assert l0["boost", dataset] - l0["base", dataset] == pytest.approx(active, abs=1e-6)


def test_the_page_says_what_a_reader_must_know(place: Place):
    page = (place.out / "report.html").read_text(encoding="utf-8")
    for words in ("Gain and forgetting", "The domain has few tokens", "At one l0", "Drift of the base", "What the new latents are", *DEFAULT_VARIANTS):
        assert words in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("https://arxiv.org", "")


# Again, and further.

def test_run_again_it_trains_nothing(place: Place, monkeypatch: pytest.MonkeyPatch):
    before = {path: path.stat().st_mtime_ns for path in place.out.rglob("*.safetensors")}
    monkeypatch.setattr(importlib.import_module("sparselight.train.training"), "_work", lambda *_: pytest.fail("a finished variant was trained again"))
    assert call(place.recipe, "--out", place.out) == 0
    assert {path: path.stat().st_mtime_ns for path in place.out.rglob("*.safetensors")} == before


def test_killed_between_and_within_variants_it_goes_on(place: Place, tmp_path: Path):
    base, domain, general = place.base(), place.store("domain_train"), place.store("general_train")
    config = short(variants=["boost", "finetune"])
    whole = train_variants(base, domain, general, config, tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop_late(done: float, total: float, note: str = "") -> None:
        if note.startswith("finetune") and done / total > 0.8:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_variants(base, domain, general, config, tmp_path / "cut", stop_late)
    finished = (tmp_path / "cut" / "boost" / "sae" / "sae_weights.safetensors").stat().st_mtime_ns
    assert not (tmp_path / "cut" / "finetune" / "sae").exists()
    again = train_variants(base, domain, general, config, tmp_path / "cut")
    assert (tmp_path / "cut" / "boost" / "sae" / "sae_weights.safetensors").stat().st_mtime_ns == finished
    assert {name: sae.weights_hash() for name, sae in again.items()} == {name: sae.weights_hash() for name, sae in whole.items()}


def test_a_run_folder_is_only_read_and_another_domain_harvests_nothing_general(place: Place, tmp_path: Path):
    before = {path: path.stat().st_mtime_ns for path in place.run.rglob("*") if path.is_file()}
    files = [path.name for path in (place.run / ".").iterdir()]
    assert call(place.run, "--out", tmp_path / "a", "--variants", "boost", *CHEAP, "--set", "specialise.n_new=16", "--set", "specialise.k_new=2", *small()) == 0
    other = tmp_path / "lists.toml"
    other.write_text('name = "lists"\n[select]\nseeds = ["lists/sorting.py"]\nmax_tokens = 4000\ncommon_frac = 0.5\n' + SMALL)
    assert call(other, "--run", place.run, "--out", tmp_path / "b", "--variants", "boost", *CHEAP) == 0
    assert {path: path.stat().st_mtime_ns for path in place.run.rglob("*") if path.is_file()} == before
    assert [path.name for path in (place.run / ".").iterdir()] == files
    assert not (tmp_path / "b" / "run").exists()
    records = [SpecialisationRecord.load(tmp_path / name / "specialisation.json") for name in "ab"]
    assert records[0].variants["base"].weights == records[1].variants["base"].weights == place.record.variants["base"].weights
    assert records[0].variants["boost"].weights != records[1].variants["boost"].weights
    assert records[1].selection["seeds"] == ["lists/sorting.py"]
    assert any("No control was trained" in warning for warning in records[0].warnings)


def small() -> list[str]:
    """The settings of SMALL as overrides."""
    told = {"specialise.n_tokens": 1024, "specialise.batch_tokens": 256, "specialise.min_domain_tokens": 512, "evaluate.suite": "reconstruction",
            "evaluate.n_tokens": 400, "evaluate.n_bootstrap": 40, "explain.explain_tokens": 800, "explain.score_tokens": 500, "explain.n_shuffles": 1,
            "explain.n_bootstrap": 10, "explain.min_support": 5, "explain.min_groups": 1}
    return [part for name, value in told.items() for part in ("--set", f"{name}={value}")]


def test_more_variants_join_the_finished_ones(place: Place, tmp_path: Path):
    config = short(variants=["boost"])
    base, domain, general = place.base(), place.store("domain_train"), place.store("general_train")
    first = train_variants(base, domain, general, config, tmp_path)
    at = (tmp_path / "boost" / "sae" / "sae_weights.safetensors").stat().st_mtime_ns
    names = ["boost", "extended_random_all", "extended_most_active_all", "grafted"]
    more = train_variants(base, domain, general, short(variants=names), tmp_path)
    assert list(more) == ["base", *(name for name in VARIANTS if name in names)]
    assert more["boost"].weights_hash() == first["boost"].weights_hash()
    assert (tmp_path / "boost" / "sae" / "sae_weights.safetensors").stat().st_mtime_ns == at
    assert (tmp_path / "finetune" / "sae").exists(), "a graft needs it"
    assert more["extended_random_all"].n_latents == 48 + 16
    assert not torch.allclose(more["extended_random_all"].W_dec[:48], base.W_dec)


def test_active_latents_of_the_base_by_record_or_on_the_domain(place: Place):
    base, domain = place.base(), place.store("domain_train")
    assert total_k(base, domain, SITE, short(k_from="record")) == base.record.k + 2
    counted = l0_on(base, sample_rows(domain, SITE, 512))
    assert total_k(base, domain, SITE, short(k_from="domain", equal_l0_tokens=512)) == pytest.approx(counted + 2)
    base.record = None
    assert total_k(base, domain, SITE, short(equal_l0_tokens=512)) == pytest.approx(counted + 2)


def test_budgets_are_beginnings_of_the_domain(place: Place, tmp_path: Path):
    base, domain = place.base(), place.store("domain_train")
    saes = train_budgets(base, domain, short(budgets=[400, 800]), tmp_path)
    assert list(saes) == [400, 800]
    assert saes[400].weights_hash() != saes[800].weights_hash()
    assert train_budgets(base, domain, short(budgets=[]), tmp_path) == {}
    with pytest.raises(ConfigError, match=r"specialise\.budgets"):
        train_budgets(base, domain, short(budgets=[domain.n_tokens + 1]), tmp_path)


def test_a_penalty_is_taken_from_the_record(place: Place):
    base = place.base()
    base.record = base.record.model_copy(update={"architecture": "jump_relu", "config": {"objective": {"l0": 0.01}}})
    assert settings_of("finetune", base, short(), 6)["objective"] == {"l0": 0.01}
    base.record = base.record.model_copy(update={"config": {}})
    with pytest.raises(ConfigError, match=r"specialise\.objective"):
        settings_of("finetune", base, short(), 6)
    assert settings_of("finetune_tilted", base, short(objective={"l0": 0.2}), 6)["objective"] == {"l0": 0.2, "tilt": 1.0}
    assert "objective" not in settings_of("boost", base, short(), 6)


def test_the_function_gives_what_the_verb_gives(place: Place):
    result = sl.specialise(place.recipe, place.out)
    assert result.record.variants == place.record.variants
    assert load_sae(result.variants["boost"]).record.role == "stitched"
    assert result.headline[0].startswith("The residual SAE (boost)")


def test_a_plan_does_nothing_and_knows_what_is_finished(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert call(place.recipe, "--out", tmp_path / "new", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "new").exists()
    assert plan["n_domain_tokens"] is None
    assert {"corpus", "select", "harvest", "train", "boost", "evaluate"} <= {step["name"] for step in plan["steps"]}
    assert call(place.recipe, "--out", place.out, "--dry-run", "--json", "--variants", "boost,finetune,extended_random_all") == 0
    steps = {step["name"]: step["finished"] for step in json.loads(capsys.readouterr().out)["steps"]}
    assert (steps["boost"], steps["finetune"], steps["extended_random_all"]) == (True, True, False)
    assert call(place.recipe, "--out", place.out, "--dry-run") == 0
    assert "advised" in capsys.readouterr().out


# What is refused; nothing is written where that is known before the work.

def test_unknown_names(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    error = refused(capsys, place.recipe, "--out", out, "--variants", "boost,finetuned")
    assert "'finetuned' is no variant" in error["why"]
    assert "finetune" in error["why"]
    assert "--budgets" in refused(capsys, place.recipe, "--out", out, "--budgets", "fifty")["asked"]
    assert "specialise.n_newer" in refused(capsys, place.recipe, "--out", out, "--set", "specialise.n_newer=3")["asked"]
    assert not out.exists()


def test_no_seeds_and_seeds_that_match_nothing(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bare = tmp_path / "bare.toml"
    bare.write_text(tables(place.folder, "") + SMALL)
    assert "no seed is given" in refused(capsys, bare, "--out", tmp_path / "out")["why"]
    without = tmp_path / "without.toml"
    without.write_text(tables(place.folder).partition("[select]")[0] + SMALL)
    assert "select.seeds" in refused(capsys, without, "--out", tmp_path / "out")["instead"]
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(f'[select]\nseeds = ["security/ciphers.py"]\n{SMALL}')
    error = refused(capsys, wrong, "--run", place.run, "--out", tmp_path / "out")
    assert "select.seeds" in error["asked"]
    assert SEED in error["instead"]


def test_seeds_that_are_held_out(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    all_out = tmp_path / "all.toml"
    all_out.write_text(f'[select]\nseeds = ["{HELD_OUT[0]}"]\ncommon_frac = 0.5\n{SMALL}')
    assert "held out" in refused(capsys, all_out, "--run", place.run, "--out", tmp_path / "a")["why"]
    rows = [json.loads(line) for line in (place.folder / "corpus.jsonl").read_text().splitlines()]
    text = next(row["text"] for row in rows if row["file"] == HELD_OUT[0])
    leak = tmp_path / "leak.toml"
    leak.write_text(f'[select]\nseed_texts = [{json.dumps(text)}]\nguard = "off"\nmax_tokens = 4000\ncommon_frac = 0.5\n{SMALL}')
    error = refused(capsys, leak, "--run", place.run, "--out", tmp_path / "b")
    assert "are seeds" in error["why"]
    assert "select.guard" in error["instead"]


def test_a_base_of_another_site_or_subject(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = next(place.run.glob("train-*")) / "sae"
    for change in ({"site": "resid_post.0"}, {"subject": "other"}):
        other = tmp_path / next(iter(change))
        shutil.copytree(folder, other)
        content = json.loads((other / "sparselight.json").read_text())
        if "subject" in change:
            content["subject"] |= {"name": "other", "fingerprint": "0" * 64}
        else:
            content |= change
        (other / "sparselight.json").write_text(json.dumps(content))
        error = refused(capsys, place.run, "--base", other, "--out", tmp_path / "out", *CHEAP)
        assert "resid_post.0" in error["why"] if "site" in change else "other" in error["why"]
        assert error["error"] == "SaeError"


def test_parts_that_do_not_belong_together(place: Place, tmp_path: Path):
    base, domain, general = place.base(), place.store("domain_train"), place.store("general_train")
    with pytest.raises(CorpusError, match="advised for 16 new latents") as found:
        train_variants(base, domain, general, short(min_domain_tokens=10**6), tmp_path)
    assert "select.max_tokens" in found.value.instead
    manifest = general.manifest
    other = FolderStore(general.folder, manifest.model_copy(update={"subject": manifest.subject.model_copy(update={"fingerprint": "1" * 64})}))
    with pytest.raises(StoreError, match="another subject"):
        train_variants(base, domain, other, short(), tmp_path)
    wide = Sae(40, 8)
    with pytest.raises(SaeError, match="it reads 40 dimensions"):
        train_variants(wide, domain, general, short(), tmp_path)
    with pytest.raises(SaeError, match="transcoder"):
        train_variants(Sae(32, 8, False, skip=True), domain, general, short(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_few_tokens_by_the_verb(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    error = refused(capsys, place.run, "--out", tmp_path / "out", "--variants", "boost", *CHEAP)
    assert error["error"] == "CorpusError"
    assert "specialise.min_domain_tokens" in error["why"]


def test_tables_of_a_run_and_folders_of_others(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "only read" in refused(capsys, place.run, "--set", "select.max_tokens=10")["why"]
    changed = tmp_path / "changed.toml"
    changed.write_text(tables(place.folder).replace("general_tokens = 6000", "general_tokens = 5000") + SMALL)
    assert "table sample" in refused(capsys, changed, "--run", place.run)["why"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    assert "something else" in refused(capsys, place.recipe, "--out", tmp_path / "full")["why"]
    with pytest.raises(RunError, match="stage train is not finished"):
        half = tmp_path / "half"
        shutil.copytree(place.run, half)
        record = json.loads((half / "run.json").read_text())
        del record["stages"]["train"]
        (half / "run.json").write_text(json.dumps(record))
        SpecialiseRun(str(half), out=tmp_path / "out").run(no_progress)


def test_a_recipe_of_it_is_refused_by_run_and_read_by_select(place: Place, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as found:
        main(["run", str(place.recipe), "--dry-run"])
    assert found.value.code == 2
    assert "sparselight specialise" in capsys.readouterr().err
    with pytest.raises(SystemExit) as found:
        main(["select", str(place.recipe), "--dry-run"])
    assert not found.value.code


def test_settings():
    assert SpecialiseConfig.parse({"variants": ["grafted", "boost"]}).variants == ("base", "boost", "grafted")
    for wrong in ({"budgets": [5, 3]}, {"budgets": [0]}, {"variants": ["nothing"]}, {"silent_frac": 1.0}):
        with pytest.raises(ConfigError):
            SpecialiseConfig.parse(wrong)
