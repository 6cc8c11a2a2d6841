"""A whole run on images with reports: from a table of paths to a page with pictures, named with pictures shown, and reports steered."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from sparselight.errors import ConfigError
from sparselight.intervene.study_setting import SteerConfig
from sparselight.pipeline import run_pipeline
from sparselight.pipeline.naming import NamingRun
from sparselight.pipeline.opened import open_run
from sparselight.pipeline.recipe import Recipe
from sparselight.pipeline.steer_place import Place, before_findings
from sparselight.pipeline.steering import find_features, steer_texts, study_run
from sparselight.records import SteeringRecord
from sparselight.testing import tiny_llava
from sparselight.testing.llm_server import LlmServer
from sparselight.vocab import WORKS

FINDINGS = ("Small pleural effusion on the left.", "No pleural effusion. The lungs are clear.", "Patchy opacity at the right base.",
            "Pacemaker in place. No pneumothorax.")
N_PATCHES = 16


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-two studies with invented reports: what is there is a bright corner."""
    folder = tmp_path_factory.mktemp("studies")
    rng = np.random.default_rng(0)
    with (folder / "studies.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["study", "patient", "path", "indication", "findings"])
        for number in range(32):
            pixels = rng.integers(40, 90, (32, 32)).astype(np.uint8)
            pixels[:16, :16] += np.uint8(40 * (number % 4))
            PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
            writer.writerow([f"s{number}", f"p{number}", f"{number}.png", f"Cough for {number} days.", FINDINGS[number % 4]])
    return folder / "studies.csv"


def recipe(table: Path, model: Path, **changes: Any) -> Recipe:
    sae = {"architecture": "topk", "k": 3, "n_tokens": 2048, "batch_tokens": 64, "dead_after_tokens": 512}
    return Recipe.parse({
        "corpus": {"kind": "image_text", "root": str(table), "id": "study", "group": "patient", "held_out_frac": 0.4, "image_text": {"image": "path"}},
        "select": {"seed_labels": ["finding=pleural effusion"], "max_tokens": 1200, "common_frac": 1.0, "guard": "off"},
        "subject": {"source": str(model), "context_tokens": 128}, "sample": {"general_tokens": 600, "held_out_tokens": 300},
        "harvest": {"site": "resid_post.0", "dtype": "float32"}, "train": {**sae, "n_latents": 24}, "residual": {**sae, "n_latents": 8, "k": 1},
        "evaluate": {"suite": "reconstruction", "n_bootstrap": 40, "n_tokens": 300, "controls": False},
        "explain": {"min_support": 3, "min_fires": 3, "min_groups": 2, "n_shuffles": 2, "n_bootstrap": 20, "context_tokens": 12},
        "intervene": {"n_features": 1, "n_candidates": 2, "side_effect_tokens": 60}, **changes,
    })


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], str]:
    place = tmp_path_factory.mktemp("runs")
    result = run_pipeline(recipe(table, tiny_llava(place / "model")), place / "run")
    assert result.report is not None
    return place / "run", result.stages, (place / "run" / result.report).read_text(encoding="utf-8")


def test_from_studies_to_a_page_with_pictures(run: tuple[Path, dict[str, str], str]) -> None:
    folder, stages, page = run
    assert {stage for stage, works in WORKS.items() if "images with text" in works} == set(stages)
    cards = open_run(folder).cards
    shown = [context for card in cards for context in card.contexts]
    assert shown and all(context.grid == (4, 4) and context.tokens[:N_PATCHES] == ["<image>"] * N_PATCHES for context in shown)
    assert all((folder / str(context.media)).is_file() for context in shown)
    assert any(any(value > 0 for value in context.activations[:N_PATCHES]) for context in shown)
    assert all(context.activations[context.peak] > 0 for context in shown)
    assert 'href="data:image/png;base64,' in page and "img-src data:" in page and 'aria-label="picture of 4 x 4 patches;' in page
    assert {card.explanation.label.partition("=")[0] for card in cards if card.explanation} & {"patch", "token", "piece", "section", "finding"}


def test_a_model_that_takes_pictures_is_shown_them(run: tuple[Path, dict[str, str], str]) -> None:
    with LlmServer() as server:
        with NamingRun(run[0], top=2, endpoint=server.url, model="test-model",
                       overrides=["explain.llm.images=true", "explain.scorers.n_control_latents=0"]) as naming:
            naming.run()
        images = [part for body in server.requests for message in body["messages"] if isinstance(message["content"], list)
                  for part in message["content"] if part["type"] == "image_url"]
    assert images and all(part["image_url"]["url"].startswith("data:image/png;base64,") for part in images)


def test_reports_are_steered_towards_a_finding(run: tuple[Path, dict[str, str], str], tmp_path: Path) -> None:
    place = Place(run[0])
    latent = max((card for card in place.cards if card.source == "base"), key=lambda card: card.fire_rate).latent
    prompts = place.prompts(3, 0)
    assert all(prompt.text.startswith("INDICATION: Cough") and prompt.text.endswith("FINDINGS:") and prompt.images for prompt in prompts)  # type: ignore[union-attr]
    config = SteerConfig.parse({"strengths": [1.0, 8.0], "n_prompts": 3, "n_tokens": 6, "n_random": 1, "sample_tokens": 300, "general_tokens": 100,
                                "max_doublings": 0, "n_bootstrap": 500, "baselines": ["random direction", "random latent"]}, "steer")
    study = study_run(place, "base", latent, config, "finding: pleural effusion", out=tmp_path).study
    assert study == SteeringRecord.load(tmp_path / "steering.json")
    assert (study.goal_unit, study.goal_on) == ("share of reports", "text")
    assert {rate.method for rate in study.findings} == {response.method for response in study.responses}
    assert {rate.strength for rate in study.findings} == {0.0, 1.0, 8.0} and all(rate.rate.n == 6 for rate in study.findings)
    assert all(text.example.startswith("s") and text.prompt.endswith("FINDINGS:") for text in study.texts)
    page = (tmp_path / "steering.html").read_text(encoding="utf-8")
    assert "a rule-based labeller finds" in page
    shown = steer_texts(place, "base", latent, "add", "8x", ["FINDINGS:"], n_tokens=4)
    assert len(shown.texts) == 3 and len({text.example for text in shown.texts}) == 3
    assert find_features(place, "finding: pleural effusion").found["association"]


def test_a_report_is_given_up_to_its_findings() -> None:
    assert before_findings("INDICATION: x.\nFINDINGS: y.\nIMPRESSION: z.") == "INDICATION: x.\nFINDINGS:"
    assert before_findings("IMPRESSION: z.") == "FINDINGS:"


def test_pictures_are_refused_where_there_are_none(run: tuple[Path, dict[str, str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    with NamingRun(run[0], top=1, endpoint="http://127.0.0.1:9/v1", model="m", overrides=["explain.llm.images=true"]) as naming:
        naming.examples.maker.modality = "text"
        with pytest.raises(ConfigError, match=r"explain\.llm\.images"):
            _ = naming.namer
