"""circuit-tracer: one safetensors file a layer, and config.yaml for the set.

With W_enc [latent, d_in], W_dec [latent, d_out] and W_skip [d_out, d_in] where there is one:
    z = f(W_enc x + b_enc)     x_hat = z W_dec + b_dec (+ W_skip x)
f is jumprelu where activation_function.threshold is there (p 1[p > threshold], without a ReLU: thresholds below 0 are refused), topk where k is
there or config.yaml says so, relu otherwise. Its TopK keeps negative pre-activations among the k largest; an SAE here has none: asked.
A whole set is read layer by layer (layer=N). Refuses cross-layer transcoders and files outside of the folder.
"""

import re
from typing import Any

from sparselight.sae.formats.format import Format, Imported, K, Setting, Settings
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble, check_k, without_negative_gates

NAMES, THRESHOLD = ("W_enc", "b_enc", "W_dec", "b_dec"), "activation_function.threshold"
CONFIG = "config.yaml"


def recognize(place: Place) -> str | None:
    if place.has(CONFIG) and place.file is None and not place.has("ae.pt"):
        return f"{CONFIG}" if any(place.folder.glob("layer_*.safetensors")) or "transcoders" in set_of(place) else None
    file = place.weight_file("layer_*.safetensors")
    names = place.names(file)
    return f"the name and the tensors of {file}" if names >= set(NAMES) and names <= {*NAMES, THRESHOLD, "W_skip", "k"} else None


def set_of(place: Place) -> dict[str, Any]:
    return place.yaml(CONFIG) if place.has(CONFIG) else {}


def read(place: Place, settings: Settings) -> Imported:
    config = set_of(place)
    if config.get("model_kind", "transcoder_set") != "transcoder_set":
        raise place.refuse(f"{CONFIG} says model_kind = {config['model_kind']!r}, whose latents write to several layers at once", "give a set of transcoders")
    file = file_of(place, config, settings)
    tensors = Tensors(place, file)
    n_latents, d_in = tensors.matrix("W_enc")
    threshold = without_negative_gates(place, tensors.take(THRESHOLD, n_latents)) if THRESHOLD in tensors else None
    k = k_of(place, config, tensors, settings)
    skip = tensors.take("W_skip", tensors.matrix("W_dec")[1], d_in).T if "W_skip" in tensors else None
    sae = assemble(*tensors.four(NAMES, "latent d_in", "latent d_out"), subtract_b_dec=False, threshold=threshold,
                   k=None if k is None else check_k(place, k, n_latents), W_skip=skip)
    tensors.finish()
    layer = re.search(r"layer_(\d+)", file)
    hooks = {"feature_input_hook": "site", "feature_output_hook": "target_site", "model_name": "model"}
    facts = {ours: config[theirs] for theirs, ours in hooks.items() if isinstance(config.get(theirs), str)}
    return Imported(sae, {"dtype": tensors.dtype_note()}, {**facts, "transcoder": True, **({"layer": int(layer[1])} if layer else {})})


def file_of(place: Place, config: dict[str, Any], settings: Settings) -> str:
    """The file of the layer that was named, by its path or by `layer`."""
    if place.file is not None:
        return place.file
    listed = config.get("transcoders")
    there = sorted((path.name for path in place.folder.glob("layer_*.safetensors")), key=_number)
    names = [str(name) for name in listed] if isinstance(listed, list) else there
    if "layer" not in settings:
        raise place.ask("layer", f"it is a set of {len(names)} transcoders, one a layer", f"0 to {len(names) - 1}")
    if not 0 <= settings["layer"] < len(names):
        raise place.refuse(f"it has no layer {settings['layer']}, only {len(names)}", f"give layer from 0 to {len(names) - 1}")
    name = names[settings["layer"]]
    if name.startswith("hf://"):
        raise place.refuse(f"that layer lies elsewhere, at {name}", "give that address in place of this one")
    return place.inside(name).relative_to(place.folder.resolve()).as_posix()


def _number(name: str) -> int:
    digits = re.search(r"\d+", name)
    return int(digits[0]) if digits else 0


def k_of(place: Place, config: dict[str, Any], tensors: Tensors, settings: Settings) -> int | None:
    """k where it keeps the k largest, None otherwise."""
    if "k" not in tensors and config.get("activation") != "topk":
        return None
    k = int(tensors.number("k")) if "k" in tensors else settings.get("k", config.get("k"))
    if not isinstance(k, int):
        raise place.ask("k", f"{CONFIG} says activation = 'topk' and not k", K.meaning)
    if not settings.get("drop_negative", False):
        raise place.ask("drop_negative", "its TopK lets negative pre-activations among the k largest pass, and an SAE here has no negative activations",
                        "true when such tokens, which have fewer than k positive ones, do not matter")
    return k


FORMAT = Format(
    name="circuit_tracer", title="circuit-tracer transcoders", layout="`{config.yaml, layer_N.safetensors}`",
    architectures=("relu", "jumprelu", "topk", "skip"), recognize=recognize, read=read,
    verified="its source, written out in tests/sae/formats/test_written.py; SAELens' reader of relu ones (tests/peers/test_saelens_formats.py)",
    settings={"layer": Setting(int, "which transcoder of the set"), "k": K, "drop_negative": Setting(bool, "leave out negative ones among the k largest")},
    refuses="cross-layer transcoders, thresholds below 0")
