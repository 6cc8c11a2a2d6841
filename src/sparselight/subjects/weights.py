"""Reads a model and its tokenizer from a folder or the Hugging Face hub: safetensors only, no code from the hub unless asked.

Owns: what kind of model a checkpoint is, number formats, quantization, division over devices. Refuses, each with what to do instead: a hub
that cannot be reached, weights that are incomplete or only in pickle form, a checkpoint of another kind, bitsandbytes or accelerate where
they are not installed.
"""

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sparselight.errors import SubjectError, first_line
from sparselight.subjects.config import Kind, SubjectConfig
from sparselight.subjects.image_text.families import FAMILIES, family_of
from sparselight.subjects.image_text.processor import load_processor

HUB_ADVICE = ("check the name in subject.source, log in with `hf auth login` if the model is gated, "
              "or give a local folder with config.json, model.safetensors and tokenizer.json")
OFFLINE_ADVICE = "connect once so that the model is kept in the local cache, or give a local folder in subject.source"
KIND_TITLES: dict[Kind, str] = {"causal_lm": "causal language model", "masked_lm": "masked language model", "encoder": "encoder",
                                "image_text": "image-text model"}
KIND_ADVICE: dict[Kind, str] = {
    "causal_lm": "choose a model that predicts the next token, such as a GPT, Llama, Gemma or Qwen",
    "masked_lm": "choose a model that predicts masked tokens, such as a BERT, RoBERTa or ESM-2",
    "encoder": "choose a model with an encoder, such as a BERT or T5",
    "image_text": "choose a model that reads images beside text, such as a LLaVA, PaliGemma or Qwen2-VL",
}
UNUSED_PARTS = ("pooler", "contact_head")  # heads beside the encoder, which checkpoints of other heads lack


def load_parts(config: SubjectConfig, source: str, is_local: bool, device: torch.device) -> tuple[Any, Any, Kind]:
    """The model on its device or devices, its tokenizer (of an image-text model its processor), and what kind it is.

    Raises:
        SubjectError: when it cannot be loaded.
    """
    from transformers import AutoTokenizer

    asked = f"load the model {config.source!r}"
    shared: dict[str, Any] = {"trust_remote_code": config.trust_remote_code, **({} if is_local else {"revision": config.revision or "main"})}
    placing = _placing(config, asked)
    kind: Kind | None = None
    try:
        with _quiet(is_local):
            model_config = _read_config(source, shared)
            assert config.kind != "recommender" and config.kind != "module", "load_subject has taken those"
            kind = config.kind if config.kind != "auto" else find_kind(model_config, source)
            if kind == "image_text":
                family_of(model_config, f"{asked} as an image-text model")
                tokenizer = load_processor(source, shared, model_config.model_type, asked)
            else:
                tokenizer = AutoTokenizer.from_pretrained(source, **shared)
            loaded: Any = _loader(kind, model_config).from_pretrained(
                source, **shared, **placing, **{_dtype_key(): getattr(torch, config.dtype)}, use_safetensors=True, output_loading_info=True,
            )
            model, info = loaded
    except SubjectError:
        raise
    except Exception as err:  # transformers, the hub client, safetensors and remote code each raise their own kinds
        raise _loading_error(asked, source, is_local, kind or "causal_lm", err) from None
    missing = _drop_unused(model, list(map(str, info["missing_keys"])))
    faulty = sorted([*missing, *map(str, info.get("mismatched_keys") or ())])
    if faulty:
        raise SubjectError(asked=asked, why=f"its weights do not fill {_one(KIND_TITLES[kind])} ({len(faulty)} missing or misshapen, such as {faulty[0]})",
                           instead=f"give a complete checkpoint of {_one(KIND_TITLES[kind])} in subject.source, or set subject.kind to what it is")
    return (model if placing else _to_device(model, device)), tokenizer, kind


def find_kind(model_config: Any, source: str) -> Kind:
    """What a checkpoint is, by what its config says it was saved as; without that, by its model type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if (Path(source) / "modules.json").is_file():
        return "encoder"  # a sentence-transformers folder
    if model_config.model_type in FAMILIES:
        return "image_text"
    for name in model_config.architectures or ():
        if name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values() and not name.endswith("ForConditionalGeneration"):
            return "masked_lm"
        if name.endswith(("ForCausalLM", "LMHeadModel")) or (name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and not model_config.is_encoder_decoder):
            return "causal_lm"
        if name.endswith(("Model", "ForConditionalGeneration", "Classification", "ForQuestionAnswering")):
            decodes = model_config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
            return "causal_lm" if decodes and name.endswith("ForConditionalGeneration") else "encoder"
    if model_config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not model_config.is_encoder_decoder:
        return "masked_lm"
    return "causal_lm" if model_config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "encoder"


def _read_config(source: str, shared: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(source, **shared)


def _loader(kind: Kind, model_config: Any) -> Any:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMaskedLM, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    if kind == "image_text":
        of_hub = getattr(model_config, "auto_map", None) or {}
        return AutoModelForCausalLM if "AutoModelForCausalLM" in of_hub and "AutoModelForImageTextToText" not in of_hub else AutoModelForImageTextToText
    if kind == "encoder":
        has_own = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(model_config.model_type, "").endswith("EncoderModel")
        return AutoModelForTextEncoding if has_own or model_config.is_encoder_decoder else AutoModel
    return AutoModelForCausalLM if kind == "causal_lm" else AutoModelForMaskedLM


def _placing(config: SubjectConfig, asked: str) -> dict[str, Any]:
    """Arguments that put a model onto several devices or into few bits; empty where it is moved to one device as it is."""
    if config.device_map != "none" and config.device != "auto":
        raise SubjectError(asked=asked, why=f"subject.device_map = {config.device_map!r} chooses devices, and subject.device = {config.device!r} names one",
                           instead="set one of the two and leave the other as it is")
    if config.device_map != "none":
        _need("accelerate", f"{asked} with subject.device_map = {config.device_map!r}", "leave subject.device_map = 'none'")
    if config.quantize == "none":
        return {} if config.device_map == "none" else {"device_map": config.device_map}
    for package in ("accelerate", "bitsandbytes"):
        _need(package, f"{asked} with subject.quantize = {config.quantize!r}", "set subject.quantize = 'none' and subject.dtype = 'bfloat16'")
    from transformers import BitsAndBytesConfig

    bits = (BitsAndBytesConfig(load_in_8bit=True) if config.quantize == "int8"
            else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, config.dtype)))
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    return {"quantization_config": bits, "device_map": config.device_map if config.device_map != "none" else {"": device}}


def _need(package: str, asked: str, instead: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise SubjectError(asked=asked, why=f"the package {package} is not installed", instead=f"run `pip install 'sparselight[large]'`, or {instead}")


def _drop_unused(model: Any, missing: Sequence[str]) -> list[str]:
    """Leave out heads beside the encoder that the checkpoint lacks, which would be random; what else is missing is returned."""
    for part in UNUSED_PARTS:
        if any(part in key.split(".") for key in missing):
            for module in (model, getattr(model, "base_model", model)):
                if getattr(module, part, None) is not None:
                    setattr(module, part, None)
    return [key for key in missing if not any(part in key.split(".") for part in UNUSED_PARTS)]


def _loading_error(asked: str, source: str, is_local: bool, kind: Kind, err: Exception) -> SubjectError:
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
    if "Unrecognized configuration class" in text or "AutoModelFor" in text:
        return SubjectError(asked=asked, why=f"it is not {_one(KIND_TITLES[kind])}", instead=f"set subject.kind = 'auto', or {KIND_ADVICE[kind]}")
    if "trust_remote_code" in text:
        return SubjectError(asked=asked, why="it needs Python code from the hub", instead="read that code, then set subject.trust_remote_code = true")
    if not is_local and ("connect" in text.lower() or "offline" in text.lower() or isinstance(err, ConnectionError | TimeoutError)):
        return SubjectError(asked=asked, why="the Hugging Face hub cannot be reached and the model is not in the local cache", instead=OFFLINE_ADVICE)
    return SubjectError(asked=asked, why=first_line(err), instead="check that the folder is a complete Hugging Face checkpoint" if is_local else HUB_ADVICE)


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
        raise SubjectError(asked=f"move the model to {device}", why=first_line(err),
                           instead="use a smaller model, subject.dtype = 'bfloat16', or subject.device = 'cpu'") from None


def _one(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
