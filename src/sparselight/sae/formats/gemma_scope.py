"""Gemma Scope, both generations.

v1: params.npz with W_enc [d_in, latent], W_dec [latent, d_in], b_enc, b_dec, threshold and no word about anything else. v2: params.safetensors
with the same in lower case, for transcoders affine_skip_connection [d_in, d_out], and config.json. For both
    p = x W_enc + b_enc     z = relu(p) 1[p > threshold]     x_hat = z W_dec + b_dec (+ x affine_skip_connection)
and b_dec is not subtracted. Embedding SAEs of v1 leave open whether the embedding's sqrt(d) scaling is part of their input: that is asked.
Refuses cross-layer transcoders (w_dec of three dimensions).
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from sparselight.sae.base import Sae
from sparselight.sae.formats.format import Exported, Format, Imported, Settings, tokens_note
from sparselight.sae.formats.origin import origin
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble
from sparselight.sae.formats.writing import cannot_write, not_subtracting

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
LOWER = ("w_enc", "b_enc", "w_dec", "b_dec")
NPZ, V2, CONFIG, SKIP = "params.npz", "params.safetensors", "config.json", "affine_skip_connection"
BOS = {"tokens": "not stated by the files; SAELens' catalogue lists these SAEs for texts that begin with BOS"}


def recognize(place: Place) -> str | None:
    file = place.weight_file("*.npz") or place.weight_file("*.pt")
    if file is None or file.startswith("ae") or place.names(file) != {*NAMES, "threshold"}:
        return None
    threshold = place.content(file)["threshold"]
    return f"the tensors of {file}" if getattr(threshold, "ndim", 0) == 1 else None


def read(place: Place, settings: Settings) -> Imported:
    file = place.weight_file("*.npz", "*.pt")
    if file is None:
        raise place.refuse(f"there is no {NPZ} in it", f"give a folder with {NPZ}")
    where = f"{place.shown}/{place.path.resolve()}"
    if re.search(r"(^|[/_-])embedding([/_-]|$)", where) and "input_scale" not in settings:
        raise place.ask("input_scale", "it is an SAE of embeddings, and the files do not say whether they are scaled by sqrt(d) as the model scales them",
                        "1 when you give what it was trained on; SAELens takes it to be 1 / sqrt(d) for the model's own, scaled embeddings")
    tensors = Tensors(place, file)
    sae = assemble(*tensors.four(NAMES, "d_in latent", "latent d_out"), subtract_b_dec=False, threshold=tensors.take("threshold", tensors.matrix("W_enc")[1]))
    tensors.finish()
    facts: dict[str, Any] = {}
    if layer := re.search(r"layer_(\d+)", where):
        facts["layer"] = int(layer[1])
    own = {"dtype": tensors.dtype_note(), **BOS}
    if "transcoder" in where:
        facts["transcoder"] = True
        own["input"] = "a transcoder: the MLP's input as its norm gives it out (ln2 normalized), giving back the MLP's output"
    return Imported(sae, own, facts)


def write(sae: Sae, folder: Path) -> Exported:
    if sae.k is not None or sae.W_skip is not None:
        why = "it keeps the k largest of each token, and Gemma Scope has thresholds" if sae.k is not None else "its first generation has no skip connections"
        raise cannot_write("gemma_scope", why, "write saelens or sparsify" if sae.k is not None else "write gemma_scope_2")
    sae, changed = not_subtracting(sae)
    np.savez(folder / NPZ, **{name: tensor.numpy() for name, tensor in _tensors(sae).items()})
    return Exported(changed)


def _tensors(sae: Sae) -> dict[str, Any]:
    """A threshold below 0 selects as 0 does, and some readers have no ReLU: 0 is written."""
    named = {**{name: getattr(sae, name) for name in NAMES}, "threshold": sae.threshold.clamp(min=0)}
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in named.items()}


def recognize_2(place: Place) -> str | None:
    file = place.weight_file("*.safetensors")
    if file is None or place.names(file) - {SKIP} != {*LOWER, "threshold"}:
        return None
    return f"{CONFIG} and the tensors of {file}" if place.has(CONFIG) else f"the tensors of {file}"


def read_2(place: Place, settings: Settings) -> Imported:  # noqa: ARG001
    file = place.weight_file("*.safetensors")
    if file is None:
        raise place.refuse(f"there is no {V2} in it", f"give a folder with {V2}")
    config = place.json(CONFIG) if place.has(CONFIG) else {}
    architecture = config.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        raise place.refuse(f"{CONFIG} says architecture = {architecture!r}", "give one with architecture jump_relu")
    tensors = Tensors(place, file)
    if len(tensors.shape("w_dec")) == 3:
        raise place.refuse("it is of a cross-layer transcoder, whose latents write to several layers at once", "give a transcoder or an SAE of one layer")
    d_in, n_latents = tensors.matrix("w_enc")
    skip = SKIP in tensors
    if config.get("affine_connection", skip) is not skip:
        raise place.refuse(f"{CONFIG} says affine_connection = {config['affine_connection']}, {file} has {'a' if skip else 'no'} {SKIP}", "restore both files")
    sae = assemble(*tensors.four(LOWER, "d_in latent", "latent d_out"), subtract_b_dec=False, threshold=tensors.take("threshold", n_latents),
                   W_skip=tensors.take(SKIP, d_in, tensors.matrix("w_dec")[1]) if skip else None)
    tensors.finish()
    names = {"model_name": "model", "hf_hook_point_in": "site", "hf_hook_point_out": "target_site"}
    facts = {ours: config[theirs] for theirs, ours in names.items() if isinstance(config.get(theirs), str)}
    if facts.get("target_site") == facts.get("site"):
        facts.pop("target_site", None)
    return Imported(sae, {"dtype": tensors.dtype_note(), **BOS, **tokens_note(config.get("prepend_bos"))}, facts)


def write_2(sae: Sae, folder: Path) -> Exported:
    if sae.k is not None:
        raise cannot_write("gemma_scope_2", "it keeps the k largest of each token, and Gemma Scope has thresholds", "write saelens or sparsify")
    sae, changed = not_subtracting(sae)
    tensors = {name.lower(): tensor for name, tensor in _tensors(sae).items()}
    if sae.W_skip is not None:
        tensors[SKIP] = sae.W_skip.detach().float().contiguous()
    save_file(tensors, folder / V2)
    facts = origin(sae)
    config: dict[str, Any] = {"architecture": "jump_relu", "model_name": facts.get("model"), "hf_hook_point_in": facts.get("site")}
    if sae.is_transcoder:
        config |= {"hf_hook_point_out": facts.get("target_site"), "affine_connection": sae.W_skip is not None}
    (folder / CONFIG).write_text(json.dumps({name: value for name, value in config.items() if value is not None}, indent=1) + "\n", encoding="utf-8")
    return Exported(changed)


FORMAT = Format(
    name="gemma_scope", title="Gemma Scope", layout="`layer_L/width_W/average_l0_N/params.npz`", architectures=("jumprelu", "jumprelu transcoder"),
    recognize=recognize, read=read, write=write, written=("jumprelu", "jumprelu transcoder"),
    verified="real parameters with recorded activations (tests/sae/formats/test_real_files.py); SAELens' reader (tests/peers/test_saelens_formats.py)",
    refuses="SAEs of embeddings until input_scale is given")
FORMAT_2 = Format(
    name="gemma_scope_2", title="Gemma Scope 2", layout="`{params.safetensors, config.json}`", architectures=("jump_relu", "transcoder", "affine transcoder"),
    recognize=recognize_2, read=read_2, write=write_2, written=("jump_relu", "transcoder", "affine transcoder"),
    verified="SAELens' reader (tests/peers/test_saelens_formats.py)", refuses="cross-layer transcoders")
