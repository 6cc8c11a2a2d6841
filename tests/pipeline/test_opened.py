"""A run in hand: features by name, amounts in their own units, edits saved and done again."""

from pathlib import Path

import pytest
import torch

import sparselight as sl
from sparselight.errors import ConfigError, RunError
from sparselight.pipeline import opened
from sparselight.pipeline.recipe import load_recipe
from sparselight.protocols import Example
from sparselight.records import Edit, EditSet, RunRecord, SaeRecord, StageRecord
from sparselight.sae import Sae
from sparselight.sae.disk import save_sae

SITE, PROMPT = "resid_post.2", "def read(path):\n"
STAGES = ("corpus", "select", "harvest", "train", "residual")


def make_sae(n_latents: int, seed: int) -> Sae:
    generator = torch.Generator().manual_seed(seed)
    sae = Sae(256, n_latents).requires_grad_(False)
    sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(n_latents, 256, generator=generator), dim=1))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.threshold.fill_(0.5)
    return sae


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, subject = tmp_path_factory.mktemp("run"), sl.load_subject("demo", device="cpu")
    places = {stage: folder / f"{stage}-0123456789" for stage in STAGES}
    for stage, place in places.items():
        place.mkdir()
        StageRecord(stage=stage, hash="0123456789", output=stage, inputs={}, config={}, wall_s=0.0, machine="", sparselight_version="", files={}).save(
            place / "record.json")
    for name in ("general_train", "domain_train"):
        examples = [Example(f"{name}{number}", f"def f{number}(a, b):\n    return a + b * {number}\n", str(number)) for number in range(6)]
        from sparselight.store import HarvestConfig, harvest

        harvest(subject, examples, [SITE], places["harvest"] / name, HarvestConfig(site=SITE), name)
    for stage, inside, n_latents, seed in (("train", "sae", 32, 0), ("residual", "sae", 8, 1), ("residual", "stitched", 40, 2)):
        record = SaeRecord(architecture="batch_topk", role="base", site=SITE, subject=subject.ref(), store_fingerprint="", d_in=256, n_latents=n_latents, k=4.0,
                           l0=4.0, n_dead=0, dead_after_tokens=1, n_tokens_seen=1, normalization="none", loss_scale="", config={})
        save_sae(make_sae(n_latents, seed), record, places[stage] / inside)
    RunRecord(name="small", recipe=load_recipe("demo").model_dump(mode="json"), stages={stage: place.name for stage, place in places.items()}, wall_s={}).save(
        folder / "run.json")
    return folder


@pytest.fixture(scope="module")
def run(run_folder: Path):
    return sl.open_run(run_folder)


def test_what_a_run_has(run) -> None:
    assert run.sources == ["base", "residual", "stitched"]
    assert run.sae("residual").n_latents == 8
    assert run.sae() is run.sae("base")
    assert run.latent("residual/3") == ("residual", 3)
    assert run.latent(5) == ("base", 5)
    assert "resid_post.2" in repr(run)
    with pytest.raises(RunError, match="explain is not finished"):
        run.catalogue  # noqa: B018


def test_threads_that_ask_for_an_sae_at_once_get_the_same(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, load, first = sl.open_run(run_folder), opened.load_sae, []

    def load_late(folder: Path) -> Sae:
        if not first:
            first.append(None)
            first[0] = run.sae("base")  # another thread, which is quicker
        return load(folder)

    monkeypatch.setattr(opened, "load_sae", load_late)
    assert run.sae("base") is first[0] is run.sae("base")


def test_an_edit_is_measured_entered_saved_and_done_again(run, run_folder, tmp_path) -> None:
    edit = run.edit(["base/3", "residual/2"], "clamp", 3, unit="max", where="generated", title="louder")
    assert [one.source for one in edit.edits.edits] == ["base", "residual"]
    rows = torch.cat(list(run.reference_rows()))
    assert edit.edits.edits[0].scales == pytest.approx([float(run.sae().encode(rows).to_dense()[:, 3].max())])
    assert edit.edits.edits[0].weights == run.sae().weights_hash()
    (before, after), = edit.generate(PROMPT, 10)
    assert before.text == run.subject.generate(PROMPT, 10)
    assert after.text == run.subject.generate(PROMPT, 10, edit.functions)
    ids = torch.tensor([run.subject._tokens.prompt(PROMPT).ids.tolist()])
    plain = run.model.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0)
    with edit as model:
        written = model.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0)
    assert written[0, ids.shape[1]:].tolist() == after.token_ids
    assert torch.equal(run.model.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0), plain)
    again = sl.open_run(run_folder).edit(edit.save(tmp_path / "louder.json"))
    assert again.edits.edits == edit.edits.edits
    assert again.generate(PROMPT, 10)[0][1].text == after.text


def test_single_edits_and_conditions(run) -> None:
    batch = run.subject.prepare([Example("a", PROMPT, "g")])
    given = run.edit(Edit(site=SITE, latents=[3], operation="add", amount=20.0))
    assert given.edits.edits[0].source == "base"
    named = run.edit(3, "add", 20)
    assert torch.equal(run.subject.predict(batch, given.functions), run.subject.predict(batch, named.functions))
    conditional = run.edit(3, "add", 20, condition=sl.Condition(latent=1, source="residual"))
    assert list(conditional.coders) == ["base", "residual"]
    run.subject.predict(batch, conditional.functions)
    assert "add 20 base latents 3 at resid_post.2" in repr(named)


@pytest.mark.parametrize(("what", "settings", "error", "words"), [
    (99, {}, ConfigError, "base has 32 latents"), ("stiched/3", {}, RunError, "stitched"), ("residual/x", {}, ConfigError, "no feature's name"),
    (3, {"operation": "clamp", "amount": 1.0, "unit": "q9x"}, ConfigError, "no unit"), (3, {"where": "generatd"}, ConfigError, "generated"),
    (3, {"operation": "louder"}, ConfigError, "no such operation"),
])
def test_what_the_run_cannot_honor_is_refused(run, what, settings: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        run.edit(what, **settings)


def test_settings_beside_a_finished_edit_are_refused(run) -> None:
    with pytest.raises(ConfigError, match="stand in it"):
        run.edit(Edit(site=SITE, latents=[3], operation="ablate"), "clamp", 2.0)


def test_edits_of_another_subject_are_refused(run, tmp_path) -> None:
    made = run.edit(3).edits
    other = made.model_copy(update={"subject": made.subject.model_copy(update={"fingerprint": "0" * 64})})
    other.save(tmp_path / "other.json")
    for what in (other, tmp_path / "other.json"):
        with pytest.raises(RunError, match="weights, tokenizer or token policy differ"):
            run.edit(what)
    with pytest.raises(RunError, match="no such file"):
        run.edit(tmp_path / "nowhere.json")
    (tmp_path / "torn.json").write_text('{"record": "edit_set", "ver')
    with pytest.raises(RunError, match="damaged"):
        run.edit(tmp_path / "torn.json")
    assert EditSet.load(tmp_path / "other.json").subject.fingerprint == "0" * 64
