"""Tiny image-text models for the tests of this folder, each written once a session."""

import functools
import tempfile
from pathlib import Path

from sparselight.protocols import Example
from sparselight.subjects import SubjectConfig, load_subject
from sparselight.subjects.image_text.config import ImageTextConfig
from sparselight.testing.image_text import IMAGE_TEXT_MODELS, tiny_studies

FOLDER = tempfile.TemporaryDirectory(prefix="image-text-")
CONTEXT_TOKENS = 256


@functools.cache
def folder_of(family: str) -> Path:
    return IMAGE_TEXT_MODELS[family](Path(FOLDER.name) / family)


@functools.cache
def studies() -> tuple[Example, ...]:
    return tuple(tiny_studies(Path(FOLDER.name) / "images"))


@functools.cache
def subject(family: str, **settings: object):
    """A subject of a family; settings are those of subject.image_text."""
    return load_subject(SubjectConfig(source=str(folder_of(family)), context_tokens=CONTEXT_TOKENS, image_text=ImageTextConfig(**settings)))
