"""Which features fire where on an input: one pass of the subject to the site, sparse codes of each SAE, the strongest features with their activations.

Features are ranked by their largest activation relative to the largest that their card knows, so that latents of different scale compare. Owns that
ranking. Refuses: SAEs and features that the run does not have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from sparselight.errors import ConfigError, nearest
from sparselight.records import Context
from sparselight.serve.live.inputs import Given
from sparselight.serve.live.models import ActivationsRequest, FiredFeature, LiveToken, TokenFeature
from sparselight.serve.live.names import Named, Names

if TYPE_CHECKING:
    from sparselight.pipeline.opened import OpenRun


@dataclass(frozen=True, slots=True)
class Fired:
    """The firings of one SAE on an input, entry by entry, and what they are measured against."""

    source: str
    token: Int[np.ndarray, " entry"]
    latent: Int[np.ndarray, " entry"]
    value: Float[np.ndarray, " entry"]
    largest: Float[np.ndarray, " latent"]
    """Largest activation that each latent's card knows; nan without."""
    named: Named

    def relative(self) -> Float[np.ndarray, " entry"]:
        return np.asarray(self.value / self.largest[self.latent])

    def activations(self, latent: int, n_tokens: int) -> Float[np.ndarray, " token"]:
        """Of one latent, at every token."""
        result, own = np.zeros(n_tokens), self.latent == latent
        result[self.token[own]] = self.value[own]
        return result


@dataclass(frozen=True, slots=True)
class Ranked:
    """A latent and its place in the ranking."""

    key: float
    source: str
    latent: int


@torch.no_grad()
def find_fired(run: "OpenRun", names: Names, given: Given, sources: Sequence[str]) -> dict[str, Fired]:
    """The firings of SAEs on an input.

    Raises:
        RunError: when the run has no such SAE.
    """
    saes = {source: run.sae(source) for source in sources}
    x = run.subject.capture(given.batch, [run.site])[run.site]
    result = {}
    for source, sae in saes.items():
        codes, named = sae.encode(x.to(sae.W_dec)), names.of(source)
        fires = (codes.values > 0).cpu().numpy()
        token, latent, value = (column.cpu().numpy()[fires] for column in (codes.tokens(), codes.latents, codes.values))
        result[source] = Fired(source, token, latent, value.astype(np.float64), named.largest_of(sae.n_latents), named)
    return result


def check_features(run: "OpenRun", features: Sequence[str], sources: Sequence[str]) -> list[tuple[str, int]]:
    """Features by name, of the SAEs that are asked.

    Raises:
        ConfigError: for a name that means nothing here.
    """
    found = [run.latent(feature) for feature in features]
    for name, latent in found:
        if name not in sources:
            raise ConfigError(asked=f"show the feature {name}/{latent}", why=f"{name} is not among the SAEs that are asked", instead=nearest(name, sources))
    return found


def rank(fired: dict[str, Fired], by: str, top: int) -> list[tuple[str, int]]:
    """The features that fire, strongest first; without a card a latent stands behind all that have one where ranks are relative."""
    listed: list[Ranked] = []
    for source, own in fired.items():
        latents, place = np.unique(own.latent, return_inverse=True)
        key = np.zeros(len(latents))
        if by == "sum":
            np.add.at(key, place, own.value)
        else:
            np.maximum.at(key, place, np.nan_to_num(own.relative(), nan=0.0) if by == "relative" else own.value)
        order = np.argsort(-key, kind="stable")[:top]
        listed += [Ranked(float(key[index]), source, int(latents[index])) for index in order]
    listed.sort(key=lambda one: -one.key)
    return [(one.source, one.latent) for one in listed[:top]]


def token_list(given: Given, fired: dict[str, Fired], per_token: int) -> list[LiveToken]:
    """The tokens with the features that fire most at each, relative to their scale."""
    tops: list[list[tuple[float, TokenFeature]]] = [[] for _ in given.tokens]
    for own in fired.values() if per_token else ():
        relative = own.relative()
        order = np.lexsort((-np.nan_to_num(relative, nan=0.0), own.token))
        tokens = own.token[order]
        starts = np.searchsorted(tokens, np.arange(len(given.tokens) + 1))
        for token in range(len(given.tokens)):
            for entry in order[starts[token]:min(starts[token + 1], starts[token] + per_token)].tolist():
                share = None if np.isnan(relative[entry]) else float(relative[entry])
                tops[token].append((share or 0.0, TokenFeature(feature=f"{own.source}/{own.latent[entry]}", activation=float(own.value[entry]),
                                                               relative=share)))
    starts_of, ends_of = given.batch.char_start.tolist(), given.batch.char_end.tolist()
    return [
        LiveToken(text=text, start=start, end=end, top=[feature for _, feature in sorted(top, key=lambda one: -one[0])[:per_token]])
        for text, start, end, top in zip(given.tokens, starts_of, ends_of, tops, strict=True)
    ]


def describe(given: Given, fired: dict[str, Fired], wanted: Sequence[tuple[str, int]], render: Callable[[Context], str]) -> list[FiredFeature]:
    """The wanted features with what they do on the input, rendered."""
    result = []
    for source, latent in wanted:
        own = fired[source]
        values = own.activations(latent, len(given.tokens))
        peak, largest = int(values.argmax()), float(own.largest[latent])
        result.append(FiredFeature(
            feature=f"{source}/{latent}", source=source, latent=latent, text=own.named.text.get(latent, ""), label=own.named.label.get(latent, ""),
            grade=own.named.grade.get(latent, ""), max_activation=float(values.max()), sum_activation=float(values.sum()),
            relative=None if np.isnan(largest) else float(values.max()) / largest, n_tokens=int((values > 0).sum()), peak=peak, activations=values.tolist(),
            html=render(given.context(values.tolist(), peak)),
        ))
    return result


def wanted_features(request: ActivationsRequest, asked: Sequence[tuple[str, int]], fired: dict[str, Fired]) -> list[tuple[str, int]]:
    """Those that were asked for by name, then the strongest."""
    return list(dict.fromkeys([*asked, *rank(fired, request.rank_by, request.top)]))
