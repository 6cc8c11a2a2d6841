"""Qwen Scope: layer{n}.sae.pt with W_enc [latent, d_in], W_dec [d_in, latent], b_enc, b_dec; width and k stand in the repository's name alone.

    z = the k largest of relu(W_enc x + b_enc)     x_hat = W_dec z + b_dec     (b_dec is not subtracted)
k is taken from a name of the form ...-W32K-L0_50 where the source has one, and asked otherwise.
"""

import re

from sparselight.sae.formats.format import Format, Imported, K, Settings
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble, check_k

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
FILE = "*.sae.pt"


def recognize(place: Place) -> str | None:
    file = place.weight_file(FILE)
    return f"the name and the tensors of {file}" if place.names(file) == set(NAMES) else None


def read(place: Place, settings: Settings) -> Imported:
    file = place.weight_file(FILE, "*.pt")
    if file is None:
        raise place.refuse("there is no one layer*.sae.pt in it", "give the path of one layer's file")
    named = re.search(r"-W\d+K-L0_(\d+)", f"{place.shown}/{place.path.resolve()}")
    if named is None and "k" not in settings:
        raise place.ask("k", "it keeps the k largest latents, and only the repository's name (...-L0_K) says k", K.meaning)
    k = settings.get("k", int(named[1]) if named else 0)
    tensors = Tensors(place, file)
    n_latents, d_in = tensors.matrix("W_enc")
    if tensors.shape("b_enc") != (n_latents,) and tensors.shape("b_enc") == (d_in,):
        raise place.refuse(f"W_enc in {file} is [d_in, latent], in this format it is [latent, d_in]", "name the format that it is of")
    sae = assemble(*tensors.four(NAMES, "latent d_in", "d_out latent"), subtract_b_dec=False, k=check_k(place, k, n_latents))
    tensors.finish()
    selection = f"the {k} largest positive pre-activations of each token (k {'from the name of the source' if 'k' not in settings else 'as you say'})"
    layer = re.search(r"layer_?(\d+)", file)
    return Imported(sae, {"selection": selection, "dtype": tensors.dtype_note()}, {"k": k, **({"layer": int(layer[1])} if layer else {})})


FORMAT = Format(
    name="qwen_scope", title="Qwen Scope", layout="`layerN.sae.pt`", architectures=("topk",), recognize=recognize, read=read,
    verified="SAELens' reader (tests/peers/test_saelens_formats.py)", settings={"k": K})
