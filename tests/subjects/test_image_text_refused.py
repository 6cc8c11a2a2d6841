"""What image-text subjects refuse, and what they say then."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.subjects.image_text_models import CONTEXT_TOKENS, folder_of, studies, subject

from sparselight.errors import ConfigError, SubjectError
from sparselight.subjects import SubjectConfig, load_subject
from sparselight.subjects.image_text.config import ImageTextConfig
from sparselight.subjects.image_text.families import family_of
from sparselight.subjects.image_text.subject import ImageText


def load(folder: Path, **settings):
    return load_subject(SubjectConfig(**{"source": str(folder), "context_tokens": CONTEXT_TOKENS, **settings}))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder_of("llava"), tmp_path / "model"))


def change(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_text_model_reads_no_images(tmp_path: Path) -> None:
    from sparselight.testing import tiny_subject

    text = tiny_subject()
    text.model.save_pretrained(tmp_path)
    text._tokens.vocabulary._tokenizer.save_pretrained(tmp_path)
    with pytest.raises(SubjectError, match="it reads no images.*llava"):
        load(tmp_path, kind="image_text")
    with pytest.raises(SubjectError, match="subject.image_text.*reads no images"):
        load(tmp_path, image_text=ImageTextConfig(max_images=1))


@pytest.mark.parametrize(("kind", "words"), [
    ("llava_next", "tiles"), ("idefics2", "stand for no place"), ("mllama", "cross-attention"), ("blip", "is not known here")])
def test_models_without_a_grid_of_image_tokens_are_refused_by_name(kind: str, words: str) -> None:
    config = type("Config", (), {"model_type": kind, "vision_config": None})()
    with pytest.raises(SubjectError, match=words):
        family_of(config, "load it")


def test_a_folder_without_image_processor_is_refused(copy: Path) -> None:
    (copy / "processor_config.json").unlink()
    with pytest.raises(SubjectError, match="processor"):
        load(copy)


def test_a_tokenizer_without_the_image_token_is_refused() -> None:
    from transformers import AutoProcessor

    from sparselight.subjects.image_text.processor import Processor
    from sparselight.testing import tiny_tokenizer

    found = subject("llava")
    images = AutoProcessor.from_pretrained(folder_of("llava")).image_processor
    with pytest.raises(SubjectError, match="tokenizer has no image token <image>"):
        ImageText(found.model, Processor(tiny_tokenizer(), images, None), "llava", CONTEXT_TOKENS)


def test_a_processor_of_another_model_is_refused(copy: Path, tmp_path: Path) -> None:
    change(copy / "config.json", image_token_id=7, image_token_index=7)
    with pytest.raises(SubjectError, match="<image> is 401 in its tokenizer, and 7 in its config"):
        load(copy)


def test_pixels_of_another_size_are_refused(copy: Path) -> None:
    content = json.loads((copy / "processor_config.json").read_text())
    content["image_processor"] |= {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    (copy / "processor_config.json").write_text(json.dumps(content))
    with pytest.raises(SubjectError, match="do not fit together"):
        load(copy)


def test_images_of_no_fixed_size_are_refused(copy: Path) -> None:
    content = json.loads((copy / "processor_config.json").read_text())
    content["image_processor"] |= {"do_center_crop": False}
    (copy / "processor_config.json").write_text(json.dumps(content))
    with pytest.raises(SubjectError, match="do not fit together|of different shapes"):
        load(copy)


def test_a_row_must_hold_an_image(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="one image and the prompt round it take 18 positions.*more than 18"):
        load(folder_of("llava"), context_tokens=16)
    with pytest.raises(SubjectError, match="'study 2'.*its 2 images.*max_images"):
        load(folder_of("llava"), context_tokens=24).prepare(studies())


def test_examples_without_images_and_texts_with_image_tokens_are_refused() -> None:
    with pytest.raises(SubjectError, match="'study 0'.*has no image.*text_alone"):
        subject("llava").prepare([replace(studies()[0], images=())])
    with pytest.raises(SubjectError, match="'study 0'.*image token"):
        subject("llava").prepare([replace(studies()[0], text="FINDINGS: <image>")])


@pytest.mark.parametrize(("settings", "words"), [
    ({"pack": True}, "subject.pack"), ({"chat_template": True}, "subject.chat_template"), ({"overlap_tokens": 3}, "subject.overlap_tokens"),
    ({"pooling": "mean"}, "subject.pooling"),
])
def test_settings_of_rows_that_mean_nothing_here_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(SubjectError, match=words):
        load(folder_of("llava"), **settings)


@pytest.mark.parametrize(("settings", "words"), [
    ({"prompt_prefix": "USER:"}, "{images} once"), ({"image_form": "<image>"}, "{image} once"),
    ({"part": "vision", "image_tokens": "last"}, "no tokens but patches"),
    ({"prompt_prefix": "{images}", "instruction": "Say it."}, "set one of the two"),
])
def test_prompts_that_cannot_be_meant_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageTextConfig.parse(settings, "subject.image_text")
    assert words in str(caught.value)


def test_templates_with_something_between_images_or_a_date_are_refused(copy: Path) -> None:
    template = copy / "chat_template.jinja"
    template.write_text("{% for part in messages[0].content %}{% if part.type == 'image' %}{{ loop.index }}: <image>{% endif %}{% endfor %}")
    with pytest.raises(SubjectError, match="not twice what it writes for one.*prompt_prefix"):
        load(copy)
    template.write_text("{{ strftime_now('%d') }}<image>")
    with pytest.raises(SubjectError, match="date of the day"):
        load(copy)
    assert load(copy, image_text=ImageTextConfig(prompt_prefix="{images}\n")).fingerprint == subject("llava").fingerprint
