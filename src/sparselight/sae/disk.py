"""An SAE as a folder: the SAELens layout (cfg.json, sae_weights.safetensors) and sparselight.json, our record, beside it.

Writes the inference form, float32; which of SAELens' architectures that is, and what is read besides, stands in saelens.py. A folder
without sparselight.json is read too. Refuses what would change outputs unseen: an unknown architecture, normalization, reshaping, an
unknown or missing tensor, a wrong shape, values that are not finite. No pickle.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparselight.errors import RunError, SaeError, nearest
from sparselight.files import atomic_path, make_folder, write_bytes
from sparselight.records import SaeRecord
from sparselight.sae.base import Sae
from sparselight.sae.saelens import LAYOUTS, Layout, sae_from, saelens_config, saelens_tensors

CFG, WEIGHTS, RECORD = "cfg.json", "sae_weights.safetensors", "sparselight.json"


def save_sae(sae: Sae, record: SaeRecord, folder: Path) -> None:
    """Write an SAE; a reader sees the old folder, the new one or none, never a mixture."""
    make_folder(folder.parent)
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a writer that was killed
        shutil.rmtree(leftover)
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}.tmp") for kind in ("new", "old"))
    make_folder(temporary)
    with atomic_path(temporary / WEIGHTS) as path:
        save_file(saelens_tensors(sae), path)
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


def load_sae(folder: str | Path) -> Sae:
    """Read an SAE folder; `.record` is None when sparselight.json is not there.

    Raises:
        SaeError: when files are missing or damaged, or the folder holds what this cannot represent exactly.
    """
    folder = Path(folder)
    cfg = _read_cfg(folder)
    layout = _check_cfg(folder, cfg)
    sae = sae_from(cfg, _read_tensors(folder, cfg, layout))
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


def _check_cfg(folder: Path, cfg: dict[str, Any]) -> Layout:
    architecture = cfg.get("architecture")
    if architecture not in LAYOUTS:
        raise _refuse(folder, f"its architecture is {architecture!r}", f"{nearest(str(architecture), LAYOUTS)} (export a trained SAE to its inference form)")
    layout = LAYOUTS[architecture]
    for name, kind in layout.settings.items():
        if type(cfg.get(name)) is not kind:
            raise _refuse(folder, f"{CFG} says {name} = {cfg.get(name)!r}, which is no {kind.__name__}", f"set {name} in that file")
    if "k" in layout.settings and not 1 <= cfg["k"] <= cfg["d_sae"]:
        raise _refuse(folder, f"{CFG} says k = {cfg['k']} of {cfg['d_sae']} latents", "set k in that file")
    if "d_out" in layout.settings and cfg["apply_b_dec_to_input"]:
        raise _refuse(folder, f"{CFG} asks a transcoder to subtract b_dec, which belongs to its output", "set apply_b_dec_to_input to false")
    for name in ("normalize_activations", "reshape_activations"):
        if cfg.get(name, "none") != "none":
            raise _refuse(folder, f"{CFG} asks for {name} = {cfg[name]!r}", "fold that into the weights with the library that made it, then set it to 'none'")
    return layout


def _read_tensors(folder: Path, cfg: dict[str, Any], layout: Layout) -> dict[str, Tensor]:
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise _refuse(folder, f"there is no {WEIGHTS} in it", "give a folder with cfg.json and sae_weights.safetensors") from None
    except (OSError, SafetensorError) as err:
        raise _refuse(folder, f"{WEIGHTS} is damaged ({err})", "restore that file") from None
    shapes = layout.shapes(cfg)
    if tensors.keys() != shapes.keys():
        raise _refuse(folder, f"{WEIGHTS} holds {', '.join(sorted(tensors))}", f"give one with exactly {', '.join(sorted(shapes))}")
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
