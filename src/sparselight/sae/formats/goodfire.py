"""Goodfire's published SAEs: one torch file with encoder_linear and decoder_linear.

    z = relu(E x + encoder_linear.bias)     x_hat = D z + decoder_linear.bias     with E [latent, d_in] and D [d_in, latent]
"""

from sparselight.sae.formats.format import Format, Imported, Settings
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble

NAMES = ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias")


def recognize(place: Place) -> str | None:
    file = place.weight_file("*.pt", "*.pth")
    return f"the tensors of {file}" if place.names(file) == set(NAMES) else None


def read(place: Place, settings: Settings) -> Imported:  # noqa: ARG001
    file = place.weight_file("*.pt", "*.pth")
    if file is None:
        raise place.refuse("there is no one .pt file in it", "give the path of the file")
    tensors = Tensors(place, file)
    sae = assemble(*tensors.four(NAMES, "latent d_in", "d_out latent"), subtract_b_dec=False)
    tensors.finish()
    return Imported(sae, {"dtype": tensors.dtype_note()}, {})


FORMAT = Format(
    name="goodfire", title="Goodfire", layout="one `.pt` or `.pth`", architectures=("relu",), recognize=recognize, read=read,
    verified="SAELens' reader (tests/peers/test_saelens_formats.py)")
