"""BioNeMo's SAE recipes: a training checkpoint with OpenAI's names under model_state_dict and constructor settings under model_config.

Where normalize_input is on (its default), TopK autoencoders standardize every vector, (x - mean(x)) / (std(x) + 1e-8), and undo it on what
comes out: asked, as it cannot be folded. ReLU ones then scale x - pre_bias to length 1: refused, since they add pre_bias without undoing it.
Refuses tensor-parallel shards: they are to be joined by the library that made them.
"""

from typing import Any

from sparselight.sae.formats.format import NORMALIZATION, Format, Imported, K, Settings, must_be_outside
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble, check_k

STATE = "model_state_dict"
NAMES = ("encoder.weight", "latent_bias", "decoder.weight", "pre_bias")
STANDARDIZE = "(x - mean(x)) / (std(x) + 1e-8) over its dimensions, std with n - 1"


def recognize(place: Place) -> str | None:
    file = place.weight_file("*.pt", "*.pth")
    names = place.names(file)
    if file is None or STATE not in names or not names & {"model_config", "input_dim", "hidden_dim"}:
        return None
    return f"{STATE} in {file}"


def read(place: Place, settings: Settings) -> Imported:
    file = place.weight_file("*.pt", "*.pth")
    if file is None:
        raise place.refuse("there is no one .pt file in it", "give the path of a checkpoint (shards: join them first)")
    content = place.content(file)
    state = content.get(STATE)
    if not isinstance(state, dict):
        raise place.refuse(f"{file} has no {STATE}", "give a checkpoint of its trainer")
    config = content.get("model_config") if isinstance(content.get("model_config"), dict) else {}
    assert isinstance(config, dict)
    tensors = Tensors(place, file, {str(name).removeprefix("module."): value for name, value in state.items()})
    tensors.skip("stats_last_nonzero")
    k, own = selection(place, config, settings)
    sae = assemble(*tensors.four(NAMES, "latent d_in", "d_out latent"), subtract_b_dec=True,
                   k=None if k is None else check_k(place, k, tensors.matrix(NAMES[0])[0]))
    tensors.finish()
    return Imported(sae, {**own, "dtype": tensors.dtype_note()}, {})


def selection(place: Place, config: dict[str, Any], settings: Settings) -> tuple[int | None, dict[str, str]]:
    """k (None for ReLU) and what is to be said of the input."""
    is_relu = "l1_coeff" in config
    normalize = config.get("normalize_input", settings.get("normalize_input"))
    if not isinstance(normalize, bool):
        raise place.ask("normalize_input", "its checkpoint does not say whether inputs were normalized", "true or false, as it was trained")
    if is_relu:
        if normalize:
            raise place.refuse("it is a ReLU autoencoder that scales x - pre_bias to length 1, which is undone nowhere",
                               "wrap its functions with sparselight.wrap_coder")
        return None, {}
    k = config.get("top_k", settings.get("k"))
    if not isinstance(k, int):
        raise place.ask("k", "its checkpoint does not say k", K.meaning)
    return k, {"input": must_be_outside(place, settings, "normalize_input is on", STANDARDIZE)} if normalize else {}


FORMAT = Format(
    name="bionemo", title="BioNeMo SAE recipes", layout="`checkpoint_*.pt`", architectures=("TopK", "ReLU"), recognize=recognize, read=read,
    verified="its source, written out in tests/sae/formats/test_written.py",
    settings={"k": K, "normalization": NORMALIZATION, "normalize_input": K._replace(kind=bool, meaning="whether inputs were normalized while training")},
    refuses="tensor-parallel shards; mixtures of experts; ReLU with normalized inputs")
