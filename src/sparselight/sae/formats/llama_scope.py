"""OpenMOSS: Llama Scope as published in 2024, its distilled variant, and what Llamascopium (lm-saes) saves now.

All compute, with u = x * sqrt(d) / norm_in where inputs were scaled dataset-wise:
    p = u W_E + b_E     z = p where p * |W_D row| > threshold (or among the k largest), else 0     x_hat = (z W_D + b_D) * norm_out / sqrt(d)
the decoder norm only where sparsity_include_decoder_norm is on. The scaling is folded; activations stay those of the scaled input, as SAELens
reads them. Old files keep one threshold for x itself (hyperparams.json), newer ones log thresholds for u. Refuses distributed checkpoints
(.dcp), gated linear encoders, scaling by token or by batch, and attention or cross-layer dictionaries.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from sparselight.sae.affine import Affine
from sparselight.sae.base import Sae
from sparselight.sae.formats.format import Format, Imported, Settings
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble, check_k, without_negative_gates

OLD_CONFIG, OLD_WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
NORM = "dataset_average_activation_norm"
NEW_NAMES, LINEAR_NAMES = ("W_E", "b_E", "W_D", "b_D"), ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
ACCEPTED: dict[str, tuple[Any, ...]] = {
    "sae_type": ("sae", "transcoder"), "act_fn": ("relu", "jumprelu", "topk"), "use_glu_encoder": (False,), "apply_decoder_bias_to_pre_encoder": (False,),
}
LOG_THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")


def recognize_old(place: Place) -> str | None:
    return f"{OLD_CONFIG} and {OLD_WEIGHTS}" if place.has(OLD_CONFIG) and place.has(OLD_WEIGHTS) else None


def recognize(place: Place) -> str | None:
    file = place.weight_file(WEIGHTS)
    names = place.names(file)
    fits = set(NEW_NAMES[:3]) <= names or (set(LINEAR_NAMES[:3]) <= names and LOG_THRESHOLDS[1] in names)
    return f"{CONFIG} and the tensors of {file}" if fits and place.has(CONFIG) else None


def read_old(place: Place, settings: Settings) -> Imported:  # noqa: ARG001
    config, tensors = place.json(OLD_CONFIG), Tensors(place, OLD_WEIGHTS)
    check_kind(place, config, OLD_CONFIG)
    norms = config.get(NORM)
    sae, own = build(place, config, tensors, LINEAR_NAMES)
    factors = scale_factors(place, config, norms if isinstance(norms, dict) else {}, ("in", "out"), OLD_CONFIG)
    if config.get("act_fn") == "jumprelu":
        threshold = config.get("jump_relu_threshold")
        if not isinstance(threshold, int | float) or threshold < 0:
            raise place.refuse(f"{OLD_CONFIG} says jump_relu_threshold = {threshold!r}", "set it in that file")
        set_threshold(sae, config, torch.full((sae.n_latents,), threshold * factors[0]))
    tensors.finish()
    return finished(place, config, sae, tensors, own, factors)


def read(place: Place, settings: Settings) -> Imported:  # noqa: ARG001
    config, tensors = place.json(CONFIG), Tensors(place, WEIGHTS)
    check_kind(place, config, CONFIG)
    sae, own = build(place, config, tensors, NEW_NAMES if "W_E" in tensors else LINEAR_NAMES)
    hooks = (f"{NORM}.{config.get('hook_point_in')}", f"{NORM}.{config.get('hook_point_out')}")
    scaled = config.get("norm_activation", "dataset-wise") == "dataset-wise"
    norms = {name: tensors.number(name) for name in hooks if scaled and name in tensors}
    tensors.skip(*(name for name in tensors.values if name.startswith(f"{NORM}.")))  # of a folded SAE they are leftovers
    factors = scale_factors(place, config, norms or config.get(NORM) or {}, hooks if norms else ("in", "out"), CONFIG)
    name = next((name for name in LOG_THRESHOLDS if name in tensors), None)
    if config.get("act_fn", "jumprelu" if name else "relu") == "jumprelu":
        if name is None:
            raise place.refuse(f"{CONFIG} says act_fn = 'jumprelu', {WEIGHTS} has no thresholds", "restore both files")
        set_threshold(sae, config, tensors.take(name, sae.n_latents).exp())
    tensors.finish()
    return finished(place, config, sae, tensors, own, factors)


def check_kind(place: Place, config: Mapping[str, Any], file: str) -> None:
    """Refuse what is no selection from one product."""
    for name, accepted in ACCEPTED.items():
        if name in config and config[name] not in accepted:
            raise place.refuse(f"{file} says {name} = {config[name]!r}", f"use an SAE with {name} = {' or '.join(str(value) for value in accepted)}")


def build(place: Place, config: Mapping[str, Any], tensors: Tensors, names: tuple[str, ...]) -> tuple[Sae, dict[str, str]]:
    """The SAE as it reads scaled inputs, thresholds not set yet."""
    linear = names == LINEAR_NAMES
    first, second = tensors.matrix(names[0])
    d_in, n_latents = (second, first) if linear else (first, second)
    W_enc, b_enc = tensors.take(names[0], first, second), tensors.take(names[1], n_latents)
    W_dec = tensors.take(names[2], *((d_in, n_latents) if linear else (n_latents, d_in)))
    b_dec = tensors.take(names[3], d_in) if config.get("use_decoder_bias", True) else torch.zeros(d_in)
    k = None
    if config.get("act_fn") == "topk":
        if type(config.get("top_k")) is not int:
            raise place.refuse(f"its settings say top_k = {config.get('top_k')!r}, which is no whole number", "set top_k in that file")
        k = check_k(place, config["top_k"], n_latents)
    sae = assemble(W_enc.T if linear else W_enc, b_enc, W_dec.T if linear else W_dec, b_dec, subtract_b_dec=False, k=k)
    if k is not None and includes_norm(place, config, sae):
        sae.k = None
        sae.normalize_decoder().k = k
        return sae, {"decoder": "rows of unit norm: selection is by activation times decoder norm, so activations here are its library's times that norm"}
    return sae, {}


def includes_norm(place: Place, config: Mapping[str, Any], sae: Sae) -> bool:
    """Whether decoder norms take part in selection; where all are 1 it makes no difference.

    Raises:
        SaeError: when it does and the settings do not say so.
    """
    said = config.get("sparsity_include_decoder_norm")
    norms = sae.W_dec.norm(dim=1)
    if torch.allclose(norms, torch.ones_like(norms), atol=1e-4):
        return False
    if not isinstance(said, bool):
        raise place.refuse("its decoder rows are not of unit norm, and its settings do not say whether the norms take part in selection",
                           "set sparsity_include_decoder_norm in its settings file to true or false")
    return said


@torch.no_grad()
def set_threshold(sae: Sae, config: Mapping[str, Any], threshold: torch.Tensor) -> None:
    place_norms = config.get("sparsity_include_decoder_norm") is True
    sae.threshold.copy_(threshold / sae.W_dec.norm(dim=1) if place_norms else threshold)


def scale_factors(place: Place, config: Mapping[str, Any], norms: Mapping[str, Any], names: tuple[str, str], file: str) -> tuple[float, float]:
    """sqrt(d) / norm of input and output; 1 where nothing is scaled, or it is folded already."""
    mode = config.get("norm_activation", "dataset-wise")
    if mode == "inference":
        return 1.0, 1.0
    if mode != "dataset-wise":
        raise place.refuse(f"{file} says norm_activation = {mode!r}, which differs from token to token", "use an SAE with dataset-wise scaling")
    values = [norms.get(name) for name in names]
    if not all(isinstance(value, int | float) and 0 < value < float("inf") for value in values):
        raise place.refuse(f"inputs were scaled by their mean norm, and {NORM} says {values}", f"set {NORM} in {file}")
    root = math.sqrt(config["d_model"])
    return root / float(values[0] or 1), root / float(values[1] or 1)


def finished(place: Place, config: Mapping[str, Any], sae: Sae, tensors: Tensors, own: dict[str, str], factors: tuple[float, float]) -> Imported:
    if config.get("d_model") != sae.d_in:
        raise place.refuse(f"its settings say d_model = {config.get('d_model')!r}, the weights have {sae.d_in}", "restore both files from one source")
    if config.get("act_fn") == "jumprelu":
        includes_norm(place, config, sae)
        without_negative_gates(place, sae.threshold)
    if factors != (1.0, 1.0):
        sae.absorb(Affine(factors[0]), Affine(factors[1]))
        own = {**own, "scaling": f"inputs times {factors[0]:.6g}, outputs divided by {factors[1]:.6g} (dataset-wise), folded into the weights"}
    facts = {ours: config[theirs] for theirs, ours in {"hook_point_in": "site", "hook_point_out": "target_site"}.items() if isinstance(config.get(theirs), str)}
    if facts.get("site") == facts.get("target_site"):
        facts.pop("target_site", None)
    return Imported(sae, {**own, "dtype": tensors.dtype_note()}, facts)


OLD = Format(
    name="llama_scope", title="Llama Scope", layout="`{hyperparams.json, checkpoints/final.safetensors}`", architectures=("jumprelu", "relu", "topk"),
    recognize=recognize_old, read=read_old, verified="SAELens' reader (tests/peers/test_saelens_formats.py)", refuses="scaling by token or batch")
FORMAT = Format(
    name="llamascopium", title="Llamascopium (lm-saes), Llama Scope R1", layout="`{config.json, sae_weights.safetensors}`",
    architectures=("jumprelu", "relu", "topk", "transcoder"), recognize=recognize, read=read,
    verified="its source, written out in tests/sae/formats/test_written.py; SAELens' reader of the R1 variant (tests/peers/test_saelens_formats.py)",
    refuses=".dcp checkpoints, gated linear encoders, attention and cross-layer dictionaries, scaling by token or batch")
