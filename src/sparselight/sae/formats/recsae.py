"""RecSAE: sparsify's tensors under the prefix `sae_module.` inside the state dict of a recommender; its other tensors are not read.

    z = the k largest of relu(E (x - b_dec) + encoder.bias)     x_hat = z W_dec + b_dec     with E = sae_module.encoder.weight [latent, d_in]
x is the recommender's user representation before the prediction layer. The state dict does not say k: it is asked.
"""

import re

from sparselight.sae.formats.format import Format, Imported, K, Settings
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.sparsify import NAMES
from sparselight.sae.formats.tensors import Tensors, assemble, check_k

PREFIX = "sae_module."


def recognize(place: Place) -> str | None:
    file = place.weight_file("*.pt", "*.pth")
    return f"{PREFIX}* in {file}" if place.names(file) >= {f"{PREFIX}{name}" for name in NAMES} else None


def read(place: Place, settings: Settings) -> Imported:
    file = place.weight_file("*.pt", "*.pth")
    if file is None:
        raise place.refuse("there is no one .pt file in it", "give the path of the recommender's file")
    if "k" not in settings:
        hint = re.search(r"_k(\d+)(?=[_.])", file)
        raise place.ask("k", "it keeps the k largest latents, and its state dict does not say k" + (f" (its name says {hint[1]})" if hint else ""), K.meaning)
    tensors = Tensors(place, file, prefix=PREFIX)
    sae = assemble(*tensors.four(NAMES, "latent d_in", "latent d_out"), subtract_b_dec=True, k=check_k(place, settings["k"], tensors.matrix(NAMES[0])[0]))
    tensors.finish()
    return Imported(sae, {"input": "the recommender's user representation before the prediction layer", "tokens": "one vector a position of a user's history",
                          "dtype": tensors.dtype_note()}, {"k": settings["k"]})


FORMAT = Format(
    name="recsae", title="RecSAE", layout="a recommender's `.pt`", architectures=("topk",), recognize=recognize, read=read,
    verified="a real SASRec with its trained SAE (tests/sae/formats/test_real_files.py)", settings={"k": K})
