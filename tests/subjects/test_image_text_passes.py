"""Edits, generation, stores and evaluation on image-text subjects."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.subjects.image_text_models import studies, subject

from sparselight.errors import SubjectError
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import MeanCoder
from sparselight.evaluate.runner import evaluate
from sparselight.interpret.tokens import SetTokens, TokenSet
from sparselight.pipeline.evaluation_sources import subject_settings
from sparselight.store import HarvestConfig, harvest
from sparselight.testing import IMAGE_TEXT_MODELS

FAMILIES = list(IMAGE_TEXT_MODELS)
SITE = "resid_post.0"
BEGUN = 40  # characters of a report that are given


class AtImages:
    """Adds to image tokens, or to those of the text."""

    needs_places = True

    def __init__(self, of_image: bool, amount: float):
        self.of_image, self.amount = of_image, amount

    def __call__(self, _x):
        raise AssertionError("called through `at`")

    def during(self, phase):
        return self if phase == "prompt" else None

    def at(self, places):
        chosen = ((places.char_start < 0) == self.of_image) & ~places.generated
        return lambda x: torch.where(chosen[:, None], x + self.amount, x)


def begun(n: int = 4):
    return [replace(example, id=f"{example.id} begun", text=example.text[:BEGUN]) for example in studies()[:n]]


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_at_image_tokens_reach_the_text_and_those_of_text_no_image(family: str) -> None:
    found = subject(family)
    batch = found.prepare(studies())
    of_image = batch.char_start < 0
    plain = found.predict(batch)
    at_image, at_text = (found.predict(batch, {SITE: AtImages(which, 0.5)}) for which in (True, False))
    assert not torch.allclose(at_image[of_image], plain[of_image]) and not torch.allclose(at_image[~of_image], plain[~of_image])
    assert torch.equal(at_text[of_image], plain[of_image]) and not torch.allclose(at_text[~of_image], plain[~of_image])
    assert torch.equal(found.predict(batch, {SITE: AtImages(True, 0.0)}), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_that_of_the_text_alone(family: str) -> None:
    found = subject(family)
    batch = found.prepare(studies())
    loss = found.loss(batch)
    assert torch.equal(loss.isnan(), batch.char_start < 0)
    assert torch.equal(found.scored(batch), batch.char_start >= 0)


@pytest.mark.parametrize("family", ["llava", "paligemma", "qwen2_vl", "idefics3"])
def test_generation_is_that_of_transformers(family: str) -> None:
    found = subject(family)
    for example in begun():
        batch = found.prepare([example])
        mask = torch.ones_like(batch.input_ids)
        given = found.family.arguments([{name: values[0] for name, values in batch.inputs.items()}], batch.input_ids, mask)
        own = found.model.generate(input_ids=batch.input_ids, attention_mask=mask, **given, max_new_tokens=8, do_sample=False,
                                   suppress_tokens=[found.family.image_token_id])[0, batch.input_ids.shape[1]:].tolist()
        written = found.generate_many([example], 8)[0]
        assert written.token_ids == own[:len(written.token_ids)]
        assert written.ended or len(written.token_ids) == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_edits_is_the_same_with_and_without_a_cache_and_beside_others(family: str) -> None:
    found, edits = subject(family), {SITE: lambda x: x + 0.3}
    prompts = [*begun(), begun()[0]]
    plain = [one.token_ids for one in found.generate_many(prompts, 6)]
    edited = [one.token_ids for one in found.generate_many(prompts, 6, edits)]
    assert edited == [one.token_ids for one in found.generate_many(prompts, 6, edits, use_cache=False)]
    assert edited == [found.generate_many([prompt], 6, edits)[0].token_ids for prompt in prompts]
    assert edited != plain and edited[0] == edited[-1]
    assert found.generate_many(begun(1), 6, {SITE: lambda x: x})[0].token_ids == plain[0]
    at_images = found.generate_many(prompts, 6, {SITE: AtImages(True, 2.0)})
    assert [one.token_ids for one in at_images] == [one.token_ids for one in found.generate_many(prompts, 6, {SITE: AtImages(True, 2.0)}, use_cache=False)]


def test_prompts_with_other_images_are_not_taken_for_one() -> None:
    found = subject("llava")
    one, two = begun()[0], replace(begun()[0], images=studies()[3].images)
    together = found.generate_many([one, two], 6)
    assert [together[0].token_ids, together[1].token_ids] == [found.generate_many([example], 6)[0].token_ids for example in (one, two)]
    logits = [found.predict(found.prepare([example]))[-1] for example in (one, two)]
    assert not torch.allclose(*logits)


def test_generation_without_an_image_is_refused() -> None:
    with pytest.raises(SubjectError, match="it has no image.*text_alone"):
        subject("llava").generate("FINDINGS:", 4)
    assert subject("llava", text_alone=True).generate_many(["FINDINGS: key"], 4)[0].token_ids


def test_capture_ends_after_the_last_site() -> None:
    found, reached = subject("llava"), []
    handle = found.layers[1].register_forward_hook(lambda *_: reached.append(1))
    found.capture(found.prepare(studies()), ["resid_post.0"])
    handle.remove()
    assert not reached


def test_output_effects_are_read_through_the_output_layer() -> None:
    found = subject("qwen2_vl")
    assert found.output_effects(torch.eye(32)[:3], SITE).shape == (3, found.n_vocabulary)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_store_holds_image_tokens_without_characters(family: str, tmp_path: Path) -> None:
    found = subject(family)
    store = harvest(found, studies(), [SITE], tmp_path / "store", HarvestConfig(site=SITE, dtype="float32"), "studies")
    batch, table = found.prepare(studies()), store.tokens()
    for column in ("example", "position", "token_id", "char_start", "char_end"):
        assert table.column(column).to_pylist() == getattr(batch, column).tolist()
    torch.testing.assert_close(store.read(np.arange(store.n_tokens), SITE), found.capture(batch, [SITE])[SITE], rtol=1e-4, atol=1e-4)
    assert store.manifest.subject.kind == "image_text" and store.manifest.subject.token_policy.images.image_tokens == "all"
    tokens = SetTokens.of(TokenSet("all", store, np.arange(store.n_tokens), {example.id: example for example in studies()}))
    assert (tokens.char_start < 0).sum() == sum(rows * columns for grids in found.patch_grids(studies()) for rows, columns in grids)


def test_evaluation_compares_coders_on_such_rows() -> None:
    found = subject("llava")
    x = found.capture(found.prepare(studies()), ["resid_post.1"])["resid_post.1"]
    record = evaluate({"same": Contender(Same(), is_control=False), "mean": Contender(MeanCoder(x.mean(0)), is_control=True)}, found,
                      {"general": list(studies())}, "resid_post.1", x.mean(0), CaseConfig(n_tokens=10**6, n_bootstrap=40, batch_tokens=256), base="same")
    values = {(row.coder, row.metric): row.value.value for row in record.rows}
    assert values["same", "fvu"] == pytest.approx(0, abs=1e-6) and values["same", "ce_increase_nats"] == pytest.approx(0, abs=1e-5)


class Same:
    def reconstruct(self, x):
        return x


def test_a_record_gives_the_subject_again() -> None:
    settings = subject_settings(subject("llava", image_tokens="last", max_images=1).ref())
    assert settings.image_text.image_tokens == "last" and settings.image_text.max_images == 1 and settings.image_text.prompt_prefix == "{images}\n"
    from sparselight.subjects import load_subject

    assert load_subject(settings).fingerprint == subject("llava", image_tokens="last", max_images=1).fingerprint
