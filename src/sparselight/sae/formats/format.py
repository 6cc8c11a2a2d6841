"""The contract of a format: how it is recognized, read and written, and what must be said by the user because its files do not.

Owns: `Format`, the words in which readers state conventions, and checking of settings. A setting that a format does not have is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sparselight.errors import SaeError, nearest
from sparselight.sae.base import Sae
from sparselight.sae.formats.place import Place

OUTSIDE = "outside"


class Setting(NamedTuple):
    """What a user may or must say."""

    kind: type
    meaning: str


K = Setting(int, "latents that a token keeps")
NORMALIZATION = Setting(str, f"'{OUTSIDE}': you normalize each activation vector yourself, as the format demands, before giving it to the SAE")
COMMON = {"input_scale": Setting(float, "activations are multiplied by it before the SAE, and what comes out divided by it; folded into the weights")}
Settings = Mapping[str, Any]


class Imported(NamedTuple):
    """What a reader returns."""

    sae: Sae
    conventions: dict[str, str]
    facts: dict[str, Any]
    cautions: tuple[str, ...] = ()


class Exported(NamedTuple):
    """What a writer returns: the files' content is on disk, these are sentences for the user."""

    changed: tuple[str, ...] = ()
    """What was rewritten so that the format can say it, outputs unchanged."""


Writer = Callable[[Sae, Path], Exported]


@dataclass(frozen=True)
class Format:
    """One way of others to keep SAEs on disk."""

    name: str
    title: str
    layout: str
    """Files, for the page of formats."""
    architectures: tuple[str, ...]
    """In the format's own words."""
    recognize: Callable[[Place], str | None]
    """What it was recognized by, None where it was not. Cheap: names of files and tensors only."""
    read: Callable[[Place, Settings], Imported]
    verified: str
    """Against what reading (and writing) was compared."""
    write: Writer | None = None
    written: tuple[str, ...] = ()
    """Of `architectures`, those that an SAE here is written as."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    refuses: str = ""
    """What it can hold that cannot be read, for the page of formats."""


def check_settings(form: Format, settings: Settings, asked: str) -> dict[str, Any]:
    """Settings with their types made sure.

    Raises:
        SaeError: for one that the format does not have, or a value of another type.
    """
    known, checked = {**form.settings, **COMMON}, {}
    for name, value in settings.items():
        if name not in known:
            raise SaeError(asked=asked, why=f"the format {form.name} has no setting {name}", instead=nearest(name, known))
        kind = known[name].kind
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise SaeError(asked=asked, why=f"{name} = {value!r} is no {kind.__name__}", instead=f"give {name} as {known[name].meaning}")
        checked[name] = float(value) if kind is float else value
    return checked


def must_be_outside(place: Place, settings: Settings, what: str, formula: str) -> str:
    """The note on an input that its library normalizes token by token, which cannot be folded into weights.

    Raises:
        SaeError: unless the user has taken it on.
    """
    if settings.get("normalization") != OUTSIDE:
        raise place.refuse(
            f"{what}: {formula}. That differs from token to token, so it cannot be folded into weights",
            f"give normalization='{OUTSIDE}' and feed vectors that you normalized so, or wrap its library's functions with sparselight.wrap_coder")
    return f"each vector must be given normalized: {formula}; what comes back is normalized too"


def says_b_dec(sae: Sae) -> str:
    return "subtracted from the input before encoding, added after decoding" if sae.subtract_b_dec else "not subtracted from the input; added after decoding"


def says_selection(sae: Sae) -> str:
    if sae.k is not None:
        return f"the {sae.k} largest positive pre-activations of each token"
    low, high = float(sae.threshold.min()), float(sae.threshold.max())
    if high <= 0:
        return "ReLU: every positive pre-activation"
    return f"pre-activations strictly above {low:.6g}" if low == high else f"pre-activations strictly above their latent's threshold ({low:.4g} to {high:.4g})"


def says_decoder(sae: Sae) -> str:
    norms = torch.linalg.vector_norm(sae.W_dec, dim=1)
    low, high = float(norms.min()), float(norms.max())
    if abs(low - 1) < 1e-4 and abs(high - 1) < 1e-4:
        return "rows of unit norm"
    return f"rows as stored, norms {low:.4g} to {high:.4g}; activations are in the source's units"


def stated(sae: Sae, own: Mapping[str, str]) -> dict[str, str]:
    """Every convention: a reader's own words, or what the SAE itself shows."""
    shown = {"b_dec": says_b_dec(sae), "selection": says_selection(sae), "scaling": "none", "input": "activations as the model computes them",
             "decoder": says_decoder(sae), "dtype": "stored and computed in float32",
             "tokens": "not stated by the files: on which tokens it was trained, BOS among them"}
    return shown | dict(own)


def tokens_note(prepend_bos: Any) -> dict[str, str]:
    """The token policy where the files state it."""
    return {"tokens": f"texts {'begin' if prepend_bos else 'do not begin'} with BOS"} if isinstance(prepend_bos, bool) else {}
