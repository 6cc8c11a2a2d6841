"""Reference values of latents: what an amount is a multiple of, what a latent is ablated to, and what another example gives it.

All are measured once and written into the edit, so that it replays without the data. Owns: firings of a few latents over activations, their mean, largest
value and quantiles, and the values of a swap. Refuses: latents that never fire in what they are measured on, donors without tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError, CorpusError
from sparselight.intervene.edit import words
from sparselight.intervene.operations import QUANTILE, check_unit, unit_of
from sparselight.intervene.reading import Dictionary, activation_reader
from sparselight.protocols import Example, Subject
from sparselight.records import Card, Edit


@dataclass(frozen=True, slots=True)
class Firings:
    """Activations above 0 of a few latents, and over how many tokens."""

    values: dict[int, Float[np.ndarray, " firing"]]
    n_tokens: int

    def scale(self, latent: int, unit: str) -> float:
        """max: the largest activation; mean: over all tokens; active_mean: over those at which it fires; qNN: that quantile of them.

        Raises:
            ConfigError: when the latent never fires here.
        """
        values = self.values[latent]
        check_unit(unit, f"measure latent {latent}")
        if unit == "mean":
            return float(values.sum() / max(self.n_tokens, 1))
        if not len(values):
            raise ConfigError(asked=f"measure the {unit} of latent {latent}", why=f"it fires at none of {self.n_tokens} tokens",
                              instead="measure it on tokens at which it fires, or give an amount with unit = 'absolute'")
        if unit == "max":
            return float(values.max())
        if unit == "active_mean":
            return float(values.mean())
        quantile = QUANTILE.fullmatch(unit)
        return float(np.quantile(values, float(quantile[1]) / 100)) if quantile else 1.0


@torch.no_grad()
def find_firings(coder: Dictionary, rows: Iterable[Float[Tensor, "token d_in"]], latents: Sequence[int]) -> Firings:
    """What latents do over activations, which may come in parts."""
    chosen = torch.tensor(sorted(set(latents)), dtype=torch.int64)
    read, n_tokens = activation_reader(coder, chosen), 0
    parts: dict[int, list[np.ndarray]] = {latent: [np.zeros(0, np.float64)] for latent in chosen.tolist()}
    for x in rows:
        z = read(x.to(coder.W_dec.device)).cpu()
        n_tokens += len(z)
        for column, own in enumerate(parts.values()):
            own.append(z[:, column][z[:, column] > 0].double().numpy())
    return Firings({latent: np.concatenate(own) for latent, own in parts.items()}, n_tokens)


def measure_scales(edit: Edit, coder: Dictionary, rows: Iterable[Float[Tensor, "token d_in"]] | Float[Tensor, "token d_in"]) -> Edit:
    """The edit with its reference values filled in; itself where it needs none.

    Args:
        rows: activations at the edit's site, in one tensor or in parts.
    """
    if unit_of(edit) == "absolute":
        return edit
    return with_scales(edit, find_firings(coder, [rows] if isinstance(rows, Tensor) else rows, edit.latents))


def with_scales(edit: Edit, firings: Firings) -> Edit:
    """The edit with the reference values of firings that are known; itself where it needs none."""
    unit = unit_of(edit)
    if unit == "absolute":
        return edit
    return edit.model_copy(update={"scales": [firings.scale(latent, unit) for latent in edit.latents]})


def scales_from_cards(edit: Edit, cards: Iterable[Card]) -> Edit:
    """The edit with the largest activation that each latent's card knows; for unit `max` only, the one that all cards have.

    Raises:
        ConfigError: for another unit, or a latent without a card.
    """
    unit = unit_of(edit)
    if unit == "absolute":
        return edit
    if unit != "max":
        raise ConfigError(asked=words(edit), why=f"cards do not know the {unit} of a latent", instead="use unit = 'max', or measure_scales on activations")
    largest = {card.latent: card.max_activation for card in cards if not edit.source or card.source == edit.source}
    missing = [latent for latent in edit.latents if latent not in largest]
    if missing:
        raise ConfigError(asked=words(edit), why=f"there is no card of latent {missing[0]}", instead="use measure_scales on activations")
    return edit.model_copy(update={"scales": [largest[latent] for latent in edit.latents]})


@torch.no_grad()
def swap_edit(edit: Edit, subject: Subject, coder: Dictionary, donor: Example, take: Literal["positions", "last", "max", "mean"] = "positions") -> Edit:
    """The edit as a swap: its latents get the activations that they have in another example.

    Interchange intervention (Geiger et al. 2021, "Causal Abstractions of Neural Networks") on latents.

    Args:
        take: positions: token by token in order, tokens beyond the donor's length keep theirs; last: everywhere that of the donor's last token;
            max, mean: everywhere the largest one, or the mean over the donor's tokens.

    Raises:
        CorpusError: when the donor has no tokens.
    """
    batch = subject.prepare([donor])
    if not batch.n_tokens:
        raise CorpusError(asked=f"take activations from the example {donor.id!r}", why="it has no tokens", instead="give an example with text")
    latents = torch.tensor(sorted(set(edit.latents)), dtype=torch.int64)
    z = activation_reader(coder, latents)(subject.capture(batch, [edit.site])[edit.site].to(coder.W_dec.device)).cpu()
    rows = {"positions": lambda: z, "last": lambda: z[-1:], "max": lambda: z.amax(0, keepdim=True), "mean": lambda: z.mean(0, keepdim=True)}[take]()
    return edit.model_copy(update={"operation": "swap", "amount": 0.0, "unit": "absolute", "scales": [], "latents": latents.tolist(),
                                   "values": rows.tolist(), "donor": donor.id})
