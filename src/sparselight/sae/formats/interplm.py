"""InterPLM's SAEs of protein language models: dictionary_learning's names, with activation_rescale_factor [latent] beside them.

The factor divides activations only where a caller asks for that (normalize_features); `ae_normalized.pt` on the hub has it in its weights.
Where normalize_to_sqrt_d is on, every vector is scaled to length sqrt(d) first, which cannot be folded: that is asked.
"""

from typing import Any

import torch
from torch import Tensor

from sparselight.sae.base import Sae
from sparselight.sae.formats.dictionary_learning import LINEAR, k_of, threshold_of
from sparselight.sae.formats.format import NORMALIZATION, Format, Imported, Setting, Settings, must_be_outside
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble

FACTOR, SQRT_D = "activation_rescale_factor", "normalize_to_sqrt_d"
CLASSES = {
    "ReLUSAE": {*LINEAR, "bias"}, "ReLUSAE_Tied": {*LINEAR, "decoder.bias"}, "JumpReLUSAE": {*LINEAR, "decoder.bias", "threshold"},
    "TopKSAE or BatchTopKSAE": {*LINEAR, "b_dec", "k", "threshold"},
}
PER_TOKEN = ("TopKSAE", "BatchTopKSAE")


def recognize(place: Place) -> str | None:
    file = place.weight_file("ae*.pt", "*.pt")
    names = place.names(file)
    fits = set(names) - {FACTOR, SQRT_D} in CLASSES.values() and (names & {FACTOR, SQRT_D} or place.has("config.yaml"))
    return f"the tensors of {file}" if fits and not place.has("config.json") else None


def read(place: Place, settings: Settings) -> Imported:
    file = place.weight_file("ae*.pt", "*.pt")
    if file is None:
        raise place.refuse("there is no ae.pt in it", "give the path of the file")
    tensors = Tensors(place, file)
    kinds = [kind for kind, names in CLASSES.items() if set(tensors.values) - {FACTOR, SQRT_D} == names]
    if not kinds:
        raise place.refuse(f"{file} holds {', '.join(sorted(tensors.values))}, which is no class of InterPLM", "name its format")
    own: dict[str, str] = {}
    if bool(tensors.values.get(SQRT_D, torch.tensor(False))):
        own["input"] = must_be_outside(place, settings, f"{SQRT_D} is on", "x * sqrt(d) / |x|")
    tensors.skip(SQRT_D)
    sae, kind = build(place, tensors, kinds[0], settings)
    divide(tensors, sae, settings, own)
    tensors.finish()
    return Imported(sae, {**own, "dtype": tensors.dtype_note()}, {"architecture": kind})


def build(place: Place, tensors: Tensors, kind: str, settings: Settings) -> tuple[Sae, str]:
    n_latents, _ = tensors.matrix("encoder.weight")
    bias = {"ReLUSAE": "bias", "ReLUSAE_Tied": "decoder.bias", "JumpReLUSAE": "decoder.bias"}.get(kind, "b_dec")
    k: int | None = None
    threshold: Tensor | float | None = None
    if kind == "JumpReLUSAE":
        threshold = tensors.take("threshold", n_latents)
    elif bias == "b_dec":
        kind, k = settings.get("dict_class", ""), k_of(tensors, {}, n_latents)
        if kind not in PER_TOKEN:
            raise place.ask("dict_class", f"its tensors may be those of {' or '.join(PER_TOKEN)}, which select differently", " or ".join(PER_TOKEN))
        threshold, k = (threshold_of(tensors, settings), None) if kind == "BatchTopKSAE" else (None, k)
        tensors.skip("threshold")
    sae = assemble(*tensors.four(("encoder.weight", "encoder.bias", "decoder.weight", bias), "latent d_in", "d_out latent"),
                   subtract_b_dec=bias != "decoder.bias", threshold=threshold, k=k)
    return sae, kind


@torch.no_grad()
def divide(tensors: Tensors, sae: Sae, settings: Settings, own: dict[str, Any]) -> None:
    """Divide activations by their factors where that is asked for."""
    if FACTOR not in tensors:
        return
    factor = tensors.take(FACTOR, sae.n_latents)
    if not settings.get("normalize_features", False):
        if not torch.allclose(factor, torch.ones_like(factor)):
            own["scaling"] = f"{FACTOR} is left aside, as its library does unless normalize_features is asked for"
        return
    if sae.k is not None or bool((factor <= 0).any()):
        why = "it keeps the k largest, and dividing them would make others the largest" if sae.k is not None else "a factor is not above 0"
        raise tensors.place.refuse(f"normalize_features cannot be folded: {why}", "leave normalize_features out")
    sae.W_enc.div_(factor)
    sae.b_enc.div_(factor)
    sae.threshold.div_(factor)
    sae.W_dec.mul_(factor.unsqueeze(1))
    own["scaling"] = f"activations divided by {FACTOR} (normalize_features), folded into the weights"


FORMAT = Format(
    name="interplm", title="InterPLM", layout="`{ae.pt, config.yaml}`, `layer_N/ae_normalized.pt`",
    architectures=("ReLUSAE", "ReLUSAE_Tied", "JumpReLUSAE", "TopKSAE", "BatchTopKSAE"),
    recognize=recognize, read=read, verified="its source, written out in tests/sae/formats/test_written.py",
    settings={
        "dict_class": Setting(str, "TopKSAE or BatchTopKSAE"), "threshold": Setting(float, "of a BatchTopK SAE whose own was never set"),
        "normalize_features": Setting(bool, "divide activations by activation_rescale_factor"), "normalization": NORMALIZATION,
    })
