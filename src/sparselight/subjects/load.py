"""Loading a subject by its config: the package's own model, a local folder, a Hugging Face hub name, or what a function of the user's returns.

Refuses, each with what to do instead: a folder or name that is not there, a device that this machine does not have, settings that this
kind of model cannot honor.
"""

import importlib.util
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch

from sparselight.errors import MissingExtraError, SubjectError, first_line
from sparselight.places import known_as
from sparselight.subjects.causal_lm import CausalLM
from sparselight.subjects.config import SubjectConfig
from sparselight.subjects.encoder import Encoder, read_pooling
from sparselight.subjects.hugging_face import HuggingFaceSubject
from sparselight.subjects.image_text.subject import ImageText
from sparselight.subjects.image_text.vision import VisionEncoder
from sparselight.subjects.masked_lm import MaskedLM
from sparselight.subjects.own_code import load_own
from sparselight.subjects.recommender.folder import load_recommender
from sparselight.subjects.weights import load_parts


def load_subject(config: SubjectConfig) -> HuggingFaceSubject:
    """Load the model under study: a CausalLM, a MaskedLM, an Encoder, a vision-language model (its language part, or its vision encoder), a recommender,
    or what a function of the user's own returns (`own_code`).

    The latter two have the same methods; what they cannot do (generation of text, packed rows) they refuse by name.

    Raises:
        MissingExtraError: when transformers is not installed.
        SubjectError: when there is no such model, or it cannot be studied.
    """
    if config.kind == "recommender":
        return cast("HuggingFaceSubject", _load_recommender(config))
    if config.kind == "module":
        return cast("HuggingFaceSubject", load_own(config, pick_device(config.device)))
    if config.arguments:
        raise SubjectError(asked="set subject.arguments", why=f"a subject of kind {config.kind} does not use them", instead="set subject.kind = 'module'")
    if config.recommender != SubjectConfig.model_fields["recommender"].default:
        raise SubjectError(asked="set subject.recommender", why=f"a subject of kind {config.kind} does not use it", instead="set subject.kind = 'recommender'")
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(package="transformers", extra="text", asked=f"load the model {config.source!r}")
    source, is_local = find_source(config.source)
    if is_local and config.source != "demo":
        subject = _load(config, source, is_local, known_as(str(Path(source).absolute())))
        subject.source = config.source
        return subject
    return _load(config, source, is_local, config.source if config.revision is None or is_local else f"{config.source}@{config.revision}")


def _load(config: SubjectConfig, source: str, is_local: bool, name: str) -> HuggingFaceSubject:
    model, tokenizer, kind = load_parts(config, source, is_local, pick_device(config.device))
    if kind == "image_text":
        part: type[ImageText | VisionEncoder] = VisionEncoder if config.image_text.part == "vision" else ImageText
        return part(model, tokenizer, name, None, config, config.image_text)
    if config.image_text != SubjectConfig.model_fields["image_text"].default:
        raise SubjectError(asked="set subject.image_text", why=f"{name} is a model of kind {kind}, which reads no images",
                           instead="leave it out, or choose a vision-language model in subject.source")
    if kind == "encoder":
        return _load_encoder(config, source, is_local, model, tokenizer, name)
    if kind == "masked_lm":
        return MaskedLM(model, tokenizer, name, None, config, config.mask_frac, config.mask_rounds, config.mask_seed)
    return CausalLM(model, tokenizer, name, None, config)


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
        raise SubjectError(asked=f"run the subject on subject.device = {name!r}", why=first_line(err), instead="use 'auto' or 'cpu'") from None
    return device


def _load_recommender(config: SubjectConfig) -> Any:
    for name, field in SubjectConfig.model_fields.items():
        if name not in ("source", "kind", "device", "recommender") and getattr(config, name) != field.get_default(call_default_factory=True):
            raise SubjectError(asked=f"set subject.{name} to {getattr(config, name)!r}", why="a recommender does not use it", instead="leave it out")
    if config.source == "train":
        raise SubjectError(asked="load a recommender with subject.source = 'train'", why="a recommender is trained on a corpus, and none is given",
                           instead="run a recipe, or call sparselight.train_recommender and give its folder")
    return load_recommender(config.source, pick_device(config.device), config.recommender.unknown_items)


def _load_encoder(config: SubjectConfig, source: str, is_local: bool, model: Any, tokenizer: Any, name: str) -> Encoder:
    pooling, normalize = config.pooling, False
    if pooling == "auto":
        folder = Path(source) if is_local else _pooling_files(source, config.revision)
        how, normalize = read_pooling(folder, f"pool the activations of {config.source!r} as its files say (subject.pooling = 'auto')")
        settings = config.model_copy(update={"pooling": how})
    else:
        settings = config
    return Encoder(model, tokenizer, name, None, settings, normalize)


def _pooling_files(source: str, revision: str | None) -> Path:
    """The small sentence-transformers files of a hub model, in the local cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=["modules.json", "*_Pooling/config.json"]))
    except Exception as err:  # the hub client has many kinds
        raise SubjectError(asked=f"read how {source!r} pools", why=first_line(err), instead="set subject.pooling to mean, cls, max or last") from None
