"""A subject that the user's own Python code makes: `subject.kind = "module"`, `subject.source = "FILE.py:FUNCTION"`.

The function returns any `protocols.Subject`, mostly a ModuleSubject; it is called with `subject.arguments`, and with `device` where it takes one. A recipe
can come from anybody, so its code runs only where `subject.trust_remote_code` says so. Refuses: code that is not trusted, not there or fails, settings that
only Hugging Face models know, results that are no subjects.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sparselight.errors import SubjectError, first_line, nearest
from sparselight.places import at_home
from sparselight.protocols import Subject
from sparselight.subjects.config import SubjectConfig

USED = ("source", "kind", "arguments", "device", "trust_remote_code")
OURS = ("sparselight.subjects.unirep:unirep",)
"""Functions that come with sparselight."""
PARTS = ("name", "fingerprint", "device", "ref", "sites", "d_site", "prepare", "n_tokens", "token_text", "capture", "loss", "predict")


def load_own(config: SubjectConfig, device: torch.device) -> Subject:
    """Run the function that `source` names and take the subject that it returns.

    Raises:
        SubjectError: when it may not be run, cannot be found, fails, or returns something else.
    """
    for name, field in SubjectConfig.model_fields.items():
        if name not in USED and getattr(config, name) != field.get_default(call_default_factory=True):
            raise SubjectError(asked=f"set subject.{name} to {getattr(config, name)!r}", why="a subject of kind 'module' does not use it",
                               instead="leave it out, or hand it to the function in subject.arguments")
    asked = f"load the subject {at_home(config.source)!r}"
    place, _, name = config.source.rpartition(":")
    if not place or not name.isidentifier():
        raise SubjectError(asked=asked, why="it names no function", instead="write subject.source = 'FILE.py:FUNCTION' or 'package.module:FUNCTION'")
    if not config.trust_remote_code and config.source not in OURS:
        raise SubjectError(asked=asked, why=f"that runs the Python code of {at_home(place)}", instead="read it, then set subject.trust_remote_code = true")
    make = _function(_module(place, asked), name, asked)
    arguments: dict[str, Any] = dict(config.arguments)
    if _takes(make, "device"):
        arguments.setdefault("device", device)
    elif config.device != "auto":
        raise SubjectError(asked=f"run {at_home(config.source)} on subject.device = {config.device!r}", why=f"{name} takes no argument `device`",
                           instead=f"give {name} one, or leave subject.device out")
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as err:
        raise SubjectError(asked=f"call {name}({', '.join(arguments)})", why=first_line(err), instead="change subject.arguments") from None
    try:
        subject = make(**arguments)
    except SubjectError:
        raise
    except Exception as err:  # the user's code
        raise SubjectError(asked=asked, why=f"{name} fails with {type(err).__name__}: {first_line(err)}", instead=f"mend {name}; --debug shows where") from err
    missing = [part for part in PARTS if not hasattr(subject, part)]
    if missing:
        raise SubjectError(asked=asked, why=f"{name} returns a {type(subject).__name__}, which lacks {', '.join(missing[:4])}",
                           instead="return a sparselight.subjects.ModuleSubject, or an object with all parts of sparselight.protocols.Subject")
    found: Subject = subject
    return found


def code_fingerprint(config: SubjectConfig) -> str:
    """SHA-256 of the code that `source` names, without its comments and layout: stages that were made with other code are made again. "" for other kinds.

    Of a package's module, and of what a file imports, nothing is hashed: that is what the `version` of a ModuleSubject is for.
    """
    place = Path(config.source.rpartition(":")[0]).expanduser()
    if config.kind != "module" or place.suffix != ".py" or not place.is_file():
        return ""
    return hashlib.sha256(ast.unparse(ast.parse(place.read_bytes())).encode()).hexdigest()


def _module(place: str, asked: str) -> ModuleType:
    path = Path(place).expanduser()
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise SubjectError(asked=asked, why="there is no such file", instead="give the path of an existing .py file before the colon")
    try:
        return _run_file(path.absolute()) if is_file else importlib.import_module(place)
    except Exception as err:  # the user's code
        why = f"{at_home(place)} fails with {type(err).__name__}: {first_line(err)}"
        raise SubjectError(asked=asked, why=why, instead="mend it; --debug shows where") from err


def _run_file(path: Path) -> ModuleType:
    """The module of a file, which finds what stands beside it as a script does."""
    name = f"sparselight_subject_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up there
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _function(module: ModuleType, name: str, asked: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__]
        raise SubjectError(asked=asked, why=f"it has no function {name}", instead=nearest(name, functions))
    return found


def _takes(function: Callable[..., Any], argument: str) -> bool:
    try:
        return argument in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
