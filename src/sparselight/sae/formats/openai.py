"""OpenAI's sparse_autoencoder: one torch file, a state dict with the activation's name and settings in it.

With E = encoder.weight [latent, d_in] and D = decoder.weight [d_in, latent] (tied: the transpose of E):
    z = activation(E (x - pre_bias) + latent_bias)     x_hat = D z + pre_bias
TopK autoencoders normalize every vector first, (x - mean(x)) / (std(x) + 1e-5), and undo it on what comes out: that cannot be folded, so it
is asked. Refuses the activation Identity, alone or after TopK: negative latents.
"""

from typing import Any

from torch import Tensor

from sparselight.sae.formats.format import NORMALIZATION, Format, Imported, K, Settings, must_be_outside
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble, check_k

NEEDED = {"pre_bias", "encoder.weight", "latent_bias"}
STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
LAYER_NORM = "(x - mean(x)) / (std(x) + 1e-5) over its dimensions, std with n - 1"


def recognize(place: Place) -> str | None:
    file = place.weight_file("*.pt", "*.pth")
    return f"the tensors of {file}" if place.names(file) >= NEEDED else None


def read(place: Place, settings: Settings) -> Imported:
    file = place.weight_file("*.pt", "*.pth")
    if file is None:
        raise place.refuse("there is no one .pt file in it", "give the path of the file")
    tensors = Tensors(place, file)
    activation, details = tensors.values.get("activation", "ReLU"), tensors.values.get("activation_state_dict") or {}
    tensors.skip("activation", "activation_state_dict", *STATISTICS)
    own: dict[str, str] = {}
    k = None
    if activation == "TopK":
        if details.get("postact_fn", "ReLU") != "ReLU":
            raise place.refuse(f"after its TopK stands {details['postact_fn']!r}, which lets negative activations pass", "use one with ReLU")
        own["input"] = must_be_outside(place, settings, "it is a TopK autoencoder, and its library normalizes the input of those", LAYER_NORM)
        k = check_k(place, k_of(place, details, settings), tensors.matrix("encoder.weight")[0])
    elif activation != "ReLU":
        raise place.refuse(f"its activation is {activation!r}", "use one with ReLU or TopK")
    tied = "decoder.linear.weight" in tensors  # the same tensor as the encoder's
    tensors.skip("decoder.linear.weight")
    decoder, lies = ("encoder.weight", "latent d_out") if tied else ("decoder.weight", "d_out latent")
    sae = assemble(*tensors.four(("encoder.weight", "latent_bias", decoder, "pre_bias"), "latent d_in", lies), subtract_b_dec=True, k=k)
    tensors.finish()
    return Imported(sae, {**own, "dtype": tensors.dtype_note()}, {})


def k_of(place: Place, details: dict[str, Any], settings: Settings) -> int:
    k = details.get("k", settings.get("k"))
    k = int(k.item()) if isinstance(k, Tensor) and k.numel() == 1 else k
    if not isinstance(k, int):
        raise place.ask("k", "it keeps the k largest latents and does not say k", K.meaning)
    return k


FORMAT = Format(
    name="openai", title="OpenAI sparse_autoencoder", layout="one `.pt`", architectures=("ReLU", "TopK", "tied"), recognize=recognize, read=read,
    verified="its source, written out in tests/sae/formats/test_written.py", settings={"k": K, "normalization": NORMALIZATION},
    refuses="the Identity activation; TopK unless the user normalizes")
