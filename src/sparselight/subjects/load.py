"""Loading a subject by its config: the package's own model, a local folder, or a Hugging Face hub name.

Only safetensors weights are read (pickle files can run code). Refuses, each with what to do instead: a folder or name that is not
there, a hub that cannot be reached, weights that are incomplete or only in pickle form, a model that is no causal language model.
"""

import contextlib
import importlib.util
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from sparselight.errors import MissingExtraError, SubjectError
from sparselight.subjects.causal_lm import CausalLM
from sparselight.subjects.config import SubjectConfig

HUB_ADVICE = ("check the name in subject.source, log in with `hf auth login` if the model is gated, "
              "or give a local folder with config.json, model.safetensors and tokenizer.json")


def load_subject(config: SubjectConfig) -> CausalLM:
    """Load the model under study.

    Raises:
        MissingExtraError: when transformers is not installed.
        SubjectError: when there is no such model, or it cannot be studied.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(package="transformers", extra="text", asked=f"load the model {config.source!r}")
    device = pick_device(config.device)
    source, is_local = find_source(config.source)
    model, tokenizer = _load(config, source, is_local)
    name = config.source if config.revision is None or is_local else f"{config.source}@{config.revision}"
    return CausalLM(_to_device(model, device), tokenizer, name, config.context_tokens)


def find_source(source: str) -> tuple[str, bool]:
    """What transformers is to load, and whether that is a local folder.

    Raises:
        SubjectError: when a folder is meant and not there.
    """
    if source == "demo":
        folder = Path(str(resources.files("sparselight"))) / "assets" / "demo_subject"
        if not (folder / "config.json").is_file():
            raise SubjectError(asked="load the demo subject", why=f"this installation lacks its files in {folder}",
                               instead="install a released wheel of sparselight, or set subject.source to a local folder or a hub name")
        return str(folder), True
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SubjectError(asked=f"load the model in {source}", why="that folder has no config.json",
                               instead="give the folder that holds config.json, model.safetensors and tokenizer.json")
        return str(folder), True
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise SubjectError(asked=f"load the model {source!r}", why="there is no such folder",
                           instead="give an existing folder, or a hub name such as owner/name, in subject.source")
    return source, False


def pick_device(name: str) -> torch.device:
    """The torch device of a setting.

    Raises:
        SubjectError: when this machine or this torch has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as err:
        raise SubjectError(asked=f"run the subject on subject.device = {name!r}", why=_first_line(err), instead="use 'auto' or 'cpu'") from None
    return device


def _load(config: SubjectConfig, source: str, is_local: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = f"load the model {config.source!r}"
    shared: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if not is_local:
        shared["revision"] = config.revision or "main"
    try:
        with _quiet(is_local):
            tokenizer = AutoTokenizer.from_pretrained(source, **shared)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, **shared, **{_dtype_key(): getattr(torch, config.dtype)}, use_safetensors=True, output_loading_info=True,
            )
            model, info = loaded
    except Exception as err:  # transformers, the hub client, safetensors and remote code each raise their own kinds
        raise _loading_error(asked, source, is_local, err) from None
    if info["missing_keys"] or info.get("mismatched_keys"):
        faulty = sorted(map(str, [*info["missing_keys"], *info.get("mismatched_keys", ())]))
        raise SubjectError(asked=asked, why=f"its weights do not fill a causal language model ({len(faulty)} missing or misshapen, such as {faulty[0]})",
                           instead="give a complete checkpoint of a causal language model in subject.source")
    return model, tokenizer


def _loading_error(asked: str, source: str, is_local: bool, err: Exception) -> SubjectError:
    """The reason in one line, in our words where the cause is a known one."""
    text = str(err)
    folder = Path(source)
    if is_local and not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        why = "its weights are only there as pickle files, which can run code when read" if pickled else "that folder has no weights (model.safetensors)"
        return SubjectError(asked=asked, why=why, instead="save the model with save_pretrained(folder, safe_serialization=True) and give that folder")
    if "safetensors" in text and ("does not appear to have" in text or "no file named" in text):
        return SubjectError(asked=asked, why="it has no safetensors weights, and pickle weights can run code when read",
                            instead="choose a revision or a copy of the model with model.safetensors (subject.revision)")
    if "Unrecognized configuration class" in text or "AutoModelForCausalLM" in text:
        return SubjectError(asked=asked, why="it is not a causal language model",
                            instead="choose a model that predicts the next token, such as a GPT, Llama, Gemma or Qwen")
    if "trust_remote_code" in text:
        return SubjectError(asked=asked, why="it needs Python code from the hub", instead="read that code, then set subject.trust_remote_code = true")
    return SubjectError(asked=asked, why=_first_line(err), instead="check that the folder is a complete Hugging Face checkpoint" if is_local else HUB_ADVICE)


@contextlib.contextmanager
def _quiet(hide_bars: bool) -> Iterator[None]:
    """Hold back transformers' warnings, and its bars where no download is to be watched; errors speak for themselves."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if hide_bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _dtype_key() -> str:
    """The argument changed its name in transformers 4.56."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _to_device(model: Any, device: torch.device) -> Any:
    try:
        return model.to(device)
    except RuntimeError as err:
        raise SubjectError(asked=f"move the model to {device}", why=_first_line(err),
                           instead="use a smaller model, subject.dtype = 'bfloat16', or subject.device = 'cpu'") from None


def _first_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return (lines[0] if lines else type(err).__name__).rstrip(".")
