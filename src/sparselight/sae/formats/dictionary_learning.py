"""dictionary_learning: ae.pt (a state dict) and config.json a trainer. The names of the tensors and `trainer.dict_class` say which class it is.

With E = encoder.weight [latent, d_in] and D = decoder.weight [d_in, latent]:
    AutoEncoder                        z = relu(E (x - bias) + encoder.bias)             x_hat = D z + bias; its loader gives decoder rows unit norm
    AutoEncoderNew                     z = relu(E x + encoder.bias)                      x_hat = D z + decoder.bias
    GatedAutoEncoder                   z = 1[u + gate_bias > 0] relu(exp(r_mag) u + mag_bias), u = E (x - decoder_bias)
    JumpReluAutoEncoder                z = relu(p) 1[p > threshold], p = x W_enc + b_enc (b_dec is not subtracted)
    AutoEncoderTopK                    z = the k largest of relu(E (x - b_dec) + encoder.bias)
    BatchTopKSAE, MatryoshkaBatchTopK  z = relu(p) 1[p > threshold], one threshold, -1 while it is unset
Written by torch.save as its loader needs it: a table of tensors, nothing else. Refuses a threshold that was never set.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparselight.sae.base import Sae
from sparselight.sae.formats.format import Exported, Format, Imported, Setting, Settings, says_decoder
from sparselight.sae.formats.origin import origin
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble, check_k
from sparselight.sae.formats.writing import cannot_write, not_subtracting, subtracting
from sparselight.sae.gated import fold_gate

CONFIG = "config.json"
LINEAR = {"encoder.weight", "encoder.bias", "decoder.weight"}
# Classes by the tensors that they hold; `threshold` is missing in files of early versions of the TopK class.
CLASSES: dict[str, set[str]] = {
    "AutoEncoder": {*LINEAR, "bias"},
    "AutoEncoderNew": {*LINEAR, "decoder.bias"},
    "GatedAutoEncoder": {"encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"},
    "JumpReluAutoEncoder": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
    "AutoEncoderTopK": {*LINEAR, "b_dec", "k"},
    "BatchTopKSAE": {*LINEAR, "b_dec", "k", "threshold"},
    "MatryoshkaBatchTopKSAE": {"W_enc", "W_dec", "b_enc", "b_dec", "k", "threshold", "group_sizes"},
}
OPTIONAL = {"AutoEncoderTopK": {"threshold"}}


def recognize(place: Place) -> str | None:
    file = place.weight_file("ae.pt") or place.weight_file("ae*.pt")
    if file is None or not classes_of(place.names(file)) or (place.has("config.yaml") and not place.has(CONFIG)):  # that is InterPLM
        return None
    return f"{CONFIG} and {file}" if place.has(CONFIG) else f"the tensors of {file}"


def classes_of(names: set[str]) -> list[str]:
    """Classes that a set of tensors may be."""
    return [name for name, needed in CLASSES.items() if needed <= names <= needed | OPTIONAL.get(name, set())]


def read(place: Place, settings: Settings) -> Imported:
    file = place.weight_file("ae.pt", "*.pt", "*.pth")
    if file is None:
        raise place.refuse("there is no ae.pt in it", "give a trainer's folder or its ae.pt")
    trainer = trainer_of(place)
    tensors = Tensors(place, file)
    kind = class_of(place, tensors, trainer, settings)
    sae = READERS.get(kind, read_linear)(tensors, kind, trainer, settings)
    tensors.finish()
    conventions = {"dtype": tensors.dtype_note()}
    if kind == "AutoEncoder" and settings.get("normalize_decoder", True):
        conventions["decoder"] = normalized(sae)
    cautions = ("only the whole dictionary is read; its groups are not kept apart",) if kind == "MatryoshkaBatchTopKSAE" else ()
    return Imported(sae, conventions, facts_of(place, trainer) | {"architecture": kind}, cautions)


def trainer_of(place: Place) -> dict[str, Any]:
    config = place.json(CONFIG) if place.has(CONFIG) else {}
    trainer = config.get("trainer", {})
    return trainer if isinstance(trainer, dict) else {}


def class_of(place: Place, tensors: Tensors, trainer: dict[str, Any], settings: Settings) -> str:
    """The class that the tensors, config.json and the user agree on.

    Raises:
        SaeError: when they do not, or leave it open.
    """
    possible = classes_of(set(tensors.values))
    if not possible:
        raise place.refuse(f"{tensors.file} holds {', '.join(sorted(tensors.values))}, which is no class of dictionary_learning", "name its format")
    said = settings.get("dict_class", trainer.get("dict_class"))
    if said is None and len(possible) > 1:
        either = " or ".join(possible)
        raise place.ask("dict_class", f"its tensors may be those of {either}, which select differently, and no config.json says which", either)
    if said is not None and said not in possible:
        raise place.refuse(f"dict_class is {said!r}, its tensors are those of {' or '.join(possible)}", "restore both files from one source")
    return said or possible[0]


def read_linear(tensors: Tensors, kind: str, trainer: dict[str, Any], settings: Settings) -> Sae:
    """The classes with `encoder` and `decoder` modules."""
    n_latents, _ = tensors.matrix("encoder.weight")
    bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(kind, "b_dec")
    k = k_of(tensors, trainer, n_latents) if "k" in tensors else None
    threshold = None if kind != "BatchTopKSAE" else threshold_of(tensors, settings)
    tensors.skip("threshold")
    sae = assemble(*tensors.four(("encoder.weight", "encoder.bias", "decoder.weight", bias), "latent d_in", "d_out latent"),
                   subtract_b_dec=kind != "AutoEncoderNew", threshold=threshold, k=k if kind == "AutoEncoderTopK" else None)
    if kind == "AutoEncoder" and settings.get("normalize_decoder", True):
        sae.normalize_decoder()
    return sae


def read_matrices(tensors: Tensors, kind: str, trainer: dict[str, Any], settings: Settings) -> Sae:
    """The classes with W_enc and W_dec."""
    _, n_latents = tensors.matrix("W_enc")
    matryoshka = kind == "MatryoshkaBatchTopKSAE"
    if matryoshka:
        k_of(tensors, trainer, n_latents)
        tensors.skip("group_sizes")
    return assemble(*tensors.four(("W_enc", "b_enc", "W_dec", "b_dec"), "d_in latent", "latent d_out"), subtract_b_dec=matryoshka,
                    threshold=threshold_of(tensors, settings) if matryoshka else tensors.take("threshold", n_latents))


def read_gated(tensors: Tensors, kind: str, trainer: dict[str, Any], settings: Settings) -> Sae:  # noqa: ARG001
    n_latents, d_in = tensors.matrix("encoder.weight")
    sae = assemble(
        tensors.take("encoder.weight", n_latents, d_in).T, torch.zeros(n_latents), tensors.take("decoder.weight", d_in, n_latents).T,
        tensors.take("decoder_bias", d_in), subtract_b_dec=True)
    fold_gate(sae, *(tensors.take(name, n_latents) for name in ("gate_bias", "r_mag", "mag_bias")))
    return sae


READERS = {"GatedAutoEncoder": read_gated, "JumpReluAutoEncoder": read_matrices, "MatryoshkaBatchTopKSAE": read_matrices}


def k_of(tensors: Tensors, trainer: dict[str, Any], n_latents: int) -> int:
    k = int(tensors.number("k"))
    if trainer.get("k", k) != k:
        raise tensors.place.refuse(f"{CONFIG} says k = {trainer['k']}, {tensors.file} says {k}", "restore both files from one source")
    return check_k(tensors.place, k, n_latents)


def threshold_of(tensors: Tensors, settings: Settings) -> float:
    """The one threshold; -1 stands for one that training never set."""
    threshold = tensors.number("threshold")
    if threshold < 0:
        if "threshold" not in settings:
            why = f"its threshold is {threshold:g}: training never set it, and its library then lets every positive activation pass"
            raise tensors.place.ask("threshold", why, "the activation that a latent must exceed; 0 for what its library does")
        return float(settings["threshold"])
    return threshold


def normalized(sae: Sae) -> str:
    return f"{says_decoder(sae)}, as its own loader makes them (normalize_decoder=False leaves them as stored)"


def facts_of(place: Place, trainer: dict[str, Any]) -> dict[str, Any]:
    buffer = place.json(CONFIG).get("buffer", {}) if place.has(CONFIG) else {}
    names = {"lm_name": "model", "submodule_name": "site", "layer": "layer", "k": "k"}
    facts = {ours: trainer[theirs] for theirs, ours in names.items() if trainer.get(theirs) is not None}
    if isinstance(buffer, dict) and isinstance(buffer.get("ctx_len"), int):
        facts["context_tokens"] = buffer["ctx_len"]
    return facts


def write(sae: Sae, folder: Path) -> Exported:
    """A trainer's folder."""
    if sae.is_transcoder:
        raise cannot_write("dictionary_learning", "it is a transcoder, and none of its classes reads one site and gives back another", "write saelens")
    kind, state, changed = state_dict(sae)
    torch.save({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, folder / "ae.pt")
    facts = origin(sae)
    trainer = {
        "trainer_class": None, "dict_class": kind, "activation_dim": sae.d_in, "dict_size": sae.n_latents, "lm_name": facts.get("model"),
        "layer": facts.get("layer"), "submodule_name": facts.get("site"), **({"k": int(state["k"])} if "k" in state else {}),
    }
    (folder / CONFIG).write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": facts.get("context_tokens")}}, indent=1) + "\n", encoding="utf-8")
    return Exported(changed)


def state_dict(sae: Sae) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """The class that says the same, and its tensors. A class whose loader would rescale latents is not taken."""
    if sae.k is not None:
        sae, changed = subtracting(sae)
        assert sae.k is not None
        return "AutoEncoderTopK", {**linear(sae), "b_dec": sae.b_dec, "k": torch.tensor(sae.k, dtype=torch.int), "threshold": torch.tensor(-1.0)}, changed
    if not bool((sae.threshold > 0).any()):
        if sae.subtract_b_dec and torch.allclose(sae.W_dec.norm(dim=1), torch.ones(sae.n_latents, device=sae.W_dec.device)):
            return "AutoEncoder", {**linear(sae), "bias": sae.b_dec}, ()
        sae, changed = not_subtracting(sae)
        return "AutoEncoderNew", {**linear(sae), "decoder.bias": sae.b_dec}, changed
    k = origin(sae).get("k") or 0
    if sae.subtract_b_dec and k == int(k) and 1 <= k <= sae.n_latents and bool((sae.threshold == sae.threshold[0]).all()):
        return "BatchTopKSAE", {**linear(sae), "b_dec": sae.b_dec, "k": torch.tensor(int(k), dtype=torch.int), "threshold": sae.threshold[0].clone()}, ()
    sae, changed = not_subtracting(sae)
    return "JumpReluAutoEncoder", {name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}, changed


def linear(sae: Sae) -> dict[str, Tensor]:
    return {"encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "decoder.weight": sae.W_dec.T}


FORMAT = Format(
    name="dictionary_learning", title="dictionary_learning", layout="`trainer_N/{ae.pt, config.json}`", architectures=tuple(CLASSES),
    recognize=recognize, read=read, write=write, written=("AutoEncoder", "AutoEncoderNew", "JumpReluAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE"),
    verified="dictionary-learning 0.1.0, both ways (tests/peers/test_dictionary_learning.py)",
    settings={
        "dict_class": Setting(str, "the class, where no config.json says it"),
        "threshold": Setting(float, "of a BatchTopK SAE whose own was never set"),
        "normalize_decoder": Setting(bool, "of AutoEncoder: false leaves decoder rows as stored, where its own loader gives them unit norm"),
    },
    refuses="a BatchTopK threshold that was never set (-1)")
