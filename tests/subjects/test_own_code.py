"""Subjects that the user's own code makes: found, trusted, called with what is asked, refused with the reason."""

from pathlib import Path
from typing import Any

import pytest

from sparselight.config import ConfigError
from sparselight.errors import SubjectError
from sparselight.subjects import ModuleSubject, SubjectConfig, load_subject
from sparselight.subjects.own_code import code_fingerprint

CODE = """
# A comment.
from dataclasses import dataclass

import torch
from sparselight.testing.tiny import tiny_subject
from beside import D


@dataclass
class Settings:
    d: int = D


def make(n_layers=2, device=None):
    subject = tiny_subject(d=Settings().d, n_layers=n_layers)
    subject.asked_device = device
    return subject


def plain(d: int):
    return tiny_subject(d=d)


def fails():
    raise ValueError("no such weights")


def nothing():
    return 3


number = 3
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(CODE)
    (tmp_path / "beside.py").write_text("D = 16\n")
    return tmp_path / "own.py"


def load(source: str, **settings: Any) -> Any:
    return load_subject(SubjectConfig.parse({"kind": "module", "source": source, "trust_remote_code": True, **settings}, "subject"))


def test_a_function_of_a_file_makes_the_subject(code: Path) -> None:
    subject = load(f"{code}:make", arguments={"n_layers": 3}, device="cpu")
    assert subject.d_site("resid_post.2") == 16
    assert str(subject.asked_device) == "cpu"
    assert load(f"{code}:plain", arguments={"d": 8}).d_site("embed") == 8


def test_a_function_of_an_installed_module_makes_the_subject() -> None:
    assert load("sparselight.testing.tiny:tiny_subject", arguments={"d": 24}).d_site("embed") == 24


@pytest.mark.parametrize(("source", "settings", "why"), [
    ("{code}:make", {"trust_remote_code": False}, "runs the Python code of"),
    ("{code}", {}, "names no function"),
    ("{code}:make it", {}, "names no function"),
    ("{code}x.py:make", {}, "no such file"),
    ("sparselight.nowhere:make", {}, "ModuleNotFoundError"),
    ("{code}:mak", {}, "no function mak"),
    ("{code}:number", {}, "no function number"),
    ("{code}:make", {"arguments": {"layers": 2}}, "unexpected keyword argument 'layers'"),
    ("{code}:plain", {}, "missing a required argument: 'd'"),
    ("{code}:plain", {"device": "cpu", "arguments": {"d": 8}}, "takes no argument `device`"),
    ("{code}:fails", {}, "ValueError: no such weights"),
    ("{code}:nothing", {}, "returns a int, which lacks name"),
    ("{code}:make", {"context_tokens": 64}, "does not use it"),
    ("{code}:make", {"pooling": "mean"}, "does not use it"),
])
def test_what_cannot_be_is_refused(code: Path, source: str, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(SubjectError) as err:
        load(source.format(code=code), **settings)
    assert why in err.value.why
    assert err.value.instead


def test_code_with_a_mistake_is_refused(code: Path) -> None:
    code.write_text("def make(:\n")
    with pytest.raises(SubjectError, match="SyntaxError"):
        load(f"{code}:make")


def test_arguments_are_for_modules_alone() -> None:
    with pytest.raises(SubjectError, match="does not use them"):
        load_subject(SubjectConfig(arguments={"d": 3}))
    with pytest.raises(ConfigError):
        SubjectConfig.parse({"arguments": {"d": [3]}}, "subject")


def test_the_fingerprint_of_code_follows_what_it_does(code: Path) -> None:
    def fingerprint() -> str:
        return code_fingerprint(SubjectConfig(kind="module", source=f"{code}:make"))

    first = fingerprint()
    code.write_text(CODE.replace("# A comment.", "# Another one.\n\n"))
    assert fingerprint() == first
    code.write_text(CODE.replace("n_layers=2", "n_layers=4"))
    assert fingerprint() != first
    assert code_fingerprint(SubjectConfig(kind="module", source="sparselight.testing.tiny:tiny_subject")) == ""
    assert code_fingerprint(SubjectConfig()) == ""


def test_a_module_says_what_it_is(code: Path) -> None:
    code.write_text("""
from torch import nn
from sparselight.protocols import Example
from sparselight.subjects import ModuleSubject
from sparselight.testing.tiny import tiny_subject


def make():
    whole = tiny_subject()
    return ModuleSubject(whole.model.model, whole.prepare, "inner", "1", [Example("a", "def", "a")], context_tokens=64)
""")
    subject = load(f"{code}:make")
    assert isinstance(subject, ModuleSubject)
    assert subject.ref().token_policy.context_tokens == 64
    assert subject.n_parameters() > 1000
    assert "inner" in repr(subject)
