"""An SAE as a folder: the SAELens layout (cfg.json, sae_weights.safetensors) and sparselight.json, our record, beside it.

Writes inference form: architecture `jumprelu`, float32, no normalization (all scaling is folded in). Reads `jumprelu` and `standard`
(ReLU; threshold 0) folders of SAELens 6 too, without sparselight.json. Refuses what would change outputs unseen: another architecture,
normalization, reshaping, an unknown or missing tensor, a wrong shape, values that are not finite. No pickle.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparselight.errors import RunError, SaeError, nearest
from sparselight.files import atomic_path, make_folder, write_bytes
from sparselight.records import SaeRecord
from sparselight.sae.architectures import ARCHITECTURES
from sparselight.sae.base import TENSORS, Sae

CFG, WEIGHTS, RECORD = "cfg.json", "sae_weights.safetensors", "sparselight.json"
SAELENS_VERSION = "6.54.12"  # whose layout this is; without it SAELens takes a folder for one from before 6.0 and drops its metadata
READABLE = {"jumprelu": set(TENSORS), "standard": set(TENSORS) - {"threshold"}}


def save_sae(sae: Sae, record: SaeRecord, folder: Path) -> None:
    """Write an SAE; a reader sees the old folder, the new one or none, never a mixture."""
    make_folder(folder.parent)
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a writer that was killed
        shutil.rmtree(leftover)
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}.tmp") for kind in ("new", "old"))
    make_folder(temporary)
    with atomic_path(temporary / WEIGHTS) as path:
        save_file({name: tensor.float() for name, tensor in sae.tensors().items()}, path)
    write_bytes(temporary / CFG, (json.dumps(saelens_config(sae, record), indent=1) + "\n").encode())
    record.save(temporary / RECORD)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    sae.record = record


def save_stitched(sae: Sae, folder: Path) -> None:
    """Write a stitched SAE with the record that stitching gave it.

    Raises:
        SaeError: when its parts had no records.
    """
    if sae.record is None:
        raise SaeError(asked=f"save a stitched SAE to {folder}", why="its parts say not where they came from", instead="use save_sae with a record")
    save_sae(sae, sae.record, folder)


def saelens_config(sae: Sae, record: SaeRecord) -> dict[str, Any]:
    """cfg.json. `hook_name` is our site name; SAELens' own TransformerLens names do not apply to Hugging Face modules."""
    path, colon, side = record.site.rpartition(":")
    policy = record.subject.token_policy
    return {
        "architecture": "jumprelu", "d_in": sae.d_in, "d_sae": sae.n_latents, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": sae.subtract_b_dec, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": SAELENS_VERSION, "model_name": record.subject.name,
            "hook_name": record.site, "hf_hook_name": path if colon and side == "output" else None,
            "context_size": policy.context_tokens, "prepend_bos": policy.prepend_bos, "exclude_special_tokens": not policy.count_specials,
            "training_architecture": ARCHITECTURES[record.architecture].saelens_name, "l0": record.l0, "num_dead_features": record.n_dead,
        },
    }


def load_sae(folder: str | Path) -> Sae:
    """Read an SAE folder; `.record` is None when sparselight.json is not there.

    Raises:
        SaeError: when files are missing or damaged, or the folder holds what this cannot represent exactly.
    """
    folder = Path(folder)
    cfg = _read_cfg(folder)
    architecture = _check_cfg(folder, cfg)
    tensors = _read_tensors(folder, cfg, READABLE[architecture])
    sae = Sae(cfg["d_in"], cfg["d_sae"], cfg["apply_b_dec_to_input"])
    with torch.no_grad():
        for name, tensor in tensors.items():
            getattr(sae, name).copy_(tensor)
    sae.record = _read_record(folder, sae)
    return sae.requires_grad_(False)


def _refuse(folder: Path, why: str, instead: str) -> SaeError:
    return SaeError(asked=f"load the SAE {folder}", why=why, instead=instead)


def _read_cfg(folder: Path) -> dict[str, Any]:
    try:
        cfg = json.loads((folder / CFG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _refuse(folder, f"there is no {CFG} in it", "give a folder with cfg.json and sae_weights.safetensors") from None
    except (OSError, ValueError) as err:
        raise _refuse(folder, f"{CFG} cannot be read ({err})", "restore that file") from None
    if not isinstance(cfg, dict):
        raise _refuse(folder, f"{CFG} is damaged (no object)", "restore that file")
    return cfg


def _check_cfg(folder: Path, cfg: dict[str, Any]) -> str:
    architecture = cfg.get("architecture")
    if architecture not in READABLE:
        raise _refuse(folder, f"its architecture is {architecture!r}", f"{nearest(str(architecture), READABLE)} (export a trained SAE to its inference form)")
    for name, kind in (("d_in", int), ("d_sae", int), ("apply_b_dec_to_input", bool)):
        if type(cfg.get(name)) is not kind:
            raise _refuse(folder, f"{CFG} says {name} = {cfg.get(name)!r}, which is no {kind.__name__}", f"set {name} in that file")
    for name in ("normalize_activations", "reshape_activations"):
        if cfg.get(name, "none") != "none":
            raise _refuse(folder, f"{CFG} asks for {name} = {cfg[name]!r}", "fold that into the weights with the library that made it, then set it to 'none'")
    return str(architecture)


def _read_tensors(folder: Path, cfg: dict[str, Any], names: set[str]) -> dict[str, Tensor]:
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise _refuse(folder, f"there is no {WEIGHTS} in it", "give a folder with cfg.json and sae_weights.safetensors") from None
    except (OSError, SafetensorError) as err:
        raise _refuse(folder, f"{WEIGHTS} is damaged ({err})", "restore that file") from None
    if tensors.keys() != names:
        raise _refuse(folder, f"{WEIGHTS} holds {', '.join(sorted(tensors))}", f"give one with exactly {', '.join(sorted(names))}")
    d_in, n_latents = cfg["d_in"], cfg["d_sae"]
    shapes = {"W_enc": [d_in, n_latents], "b_enc": [n_latents], "W_dec": [n_latents, d_in], "b_dec": [d_in], "threshold": [n_latents]}
    for name, tensor in sorted(tensors.items()):
        if list(tensor.shape) != shapes[name]:
            raise _refuse(folder, f"{name} has shape {list(tensor.shape)}, {CFG} says {shapes[name]}", "restore both files from one source")
        if not tensor.isfinite().all():
            raise _refuse(folder, f"{name} holds values that are not finite", "restore that file")
    return tensors


def _read_record(folder: Path, sae: Sae) -> SaeRecord | None:
    if not (folder / RECORD).exists():
        return None
    try:
        record = SaeRecord.load(folder / RECORD)
    except RunError as err:
        raise _refuse(folder, f"{RECORD}: {err.why}", err.instead) from None
    if (record.d_in, record.n_latents) != (sae.d_in, sae.n_latents):
        raise _refuse(folder, f"{RECORD} is about an SAE of shape {[record.d_in, record.n_latents]}, the weights have {[sae.d_in, sae.n_latents]}",
                      "restore all files from one source")
    return record
