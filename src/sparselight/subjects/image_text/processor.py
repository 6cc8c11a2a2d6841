"""Reads the processor of a vision-language model: its tokenizer and what makes tensors of images.

Owns: processors whose part for videos is left out, since it needs torchvision and nothing here shows videos. Refuses: folders in which one of the two parts
is missing or cannot be read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparselight.errors import SubjectError, first_line

WITH_VIDEOS = ("qwen2_vl", "qwen2_5_vl", "smolvlm")
ADVICE = "give the processor files that come with this model (processor_config.json or preprocessor_config.json, tokenizer.json)"


@dataclass(frozen=True, slots=True)
class Processor:
    """Tokenizer and image processor, as the processors of transformers name them."""

    tokenizer: Any
    image_processor: Any
    chat_template: str | None

    def apply_chat_template(self, conversation: Any, **arguments: Any) -> Any:
        return self.tokenizer.apply_chat_template(conversation, chat_template=self.chat_template, **arguments)


def load_processor(source: str, shared: Mapping[str, Any], model_type: str, asked: str) -> Any:
    """Tokenizer and image processor of a model.

    Args:
        shared: arguments of every loader: revision, trust_remote_code.

    Raises:
        SubjectError: when the files of one of them are not there.
    """
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

    title = "image processor"
    try:
        if model_type not in WITH_VIDEOS:
            processor = AutoProcessor.from_pretrained(source, **shared)
        else:
            images = AutoImageProcessor.from_pretrained(source, **shared)
            title = "tokenizer"
            tokenizer = AutoTokenizer.from_pretrained(source, **shared)
            processor = Processor(tokenizer, images, getattr(tokenizer, "chat_template", None) or _template(source, shared))
    except ImportError:
        raise
    except Exception as err:  # the hub's and the files' many kinds; what names neither part is the loader's to explain
        if not any(word in str(err) for word in ("rocessor", "okenizer", "placeholder", "NoneType")):
            raise
        raise SubjectError(asked=asked, why=f"its {title} cannot be read: {first_line(err)}", instead=ADVICE) from None
    for part, title in (("image_processor", "image processor"), ("tokenizer", "tokenizer")):
        if getattr(processor, part, None) is None:
            raise SubjectError(asked=asked, why=f"its processor ({type(processor).__name__}) has no {title}", instead=ADVICE)
    return processor


def _template(source: str, shared: Mapping[str, Any]) -> str | None:
    """The chat template in a file of its own, where older processors keep it."""
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(source, "chat_template.json", revision=shared.get("revision"))
        return str(json.loads(Path(str(path)).read_text(encoding="utf-8"))["chat_template"])
    except (OSError, ValueError, LookupError):
        return None
