"""InterProt's SAEs of protein language models: safetensors with w_enc [d_in, latent], w_dec [latent, d_in], b_enc, b_pre and no settings.

    u = LN(x) - b_pre     z = the k largest of relu(u w_enc + b_enc)     x_hat = z w_dec + b_pre, in the units of LN(x)
LN(x) = (x - mean(x)) / (std(x) + 1e-5) is undone on what comes out; it cannot be folded, so it is asked, and so is k.
"""

from sparselight.sae.formats.format import NORMALIZATION, Format, Imported, K, Settings, must_be_outside
from sparselight.sae.formats.openai import LAYER_NORM
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble, check_k

NAMES = ("w_enc", "b_enc", "w_dec", "b_pre")


def recognize(place: Place) -> str | None:
    file = place.weight_file("*.safetensors", "*.pt")
    return f"the tensors of {file}" if place.names(file) >= set(NAMES) else None


def read(place: Place, settings: Settings) -> Imported:
    file = place.weight_file("*.safetensors", "*.pt")
    if file is None:
        raise place.refuse("there is no one safetensors file in it", "give the path of the file")
    if "k" not in settings:
        raise place.ask("k", "it keeps the k largest latents and its file does not say k", K.meaning)
    note = must_be_outside(place, settings, "its library normalizes the input", LAYER_NORM)
    tensors = Tensors(place, file)
    tensors.skip("stats_last_nonzero")
    sae = assemble(*tensors.four(NAMES, "d_in latent", "latent d_out"), subtract_b_dec=True, k=check_k(place, settings["k"], tensors.matrix("w_enc")[1]))
    tensors.finish()
    return Imported(sae, {"input": note, "dtype": tensors.dtype_note()}, {"k": settings["k"]})


FORMAT = Format(
    name="interprot", title="InterProt", layout="one `.safetensors`", architectures=("topk",), recognize=recognize, read=read,
    verified="its source, written out in tests/sae/formats/test_written.py", settings={"k": K, "normalization": NORMALIZATION})
