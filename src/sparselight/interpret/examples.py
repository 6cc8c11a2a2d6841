"""Which contexts stand for a latent: those of its card, and those that explainers and scorers get.

Owns the choice, by seed, among the strongest examples (exact, over everything that was read) and the tokens of the frame (an even sample): top,
quantile, importance, random and near-miss contexts. Explain and score sides never share an example or a group, because the frame does not; no
example is shown twice in one list. Refuses: latents that the coder does not have.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from scipy import sparse

from sparselight.config import Config
from sparselight.errors import ConfigError
from sparselight.interpret.cache import ActivationCache
from sparselight.interpret.contexts import LatentExamples, Windows
from sparselight.interpret.directions import nearest_directions
from sparselight.interpret.patches import Whole
from sparselight.interpret.strongest import Peak
from sparselight.records import Context
from sparselight.records.cards import ContextKind

__all__ = ["CoderMaterial", "ExamplesConfig", "LatentExamples", "card_contexts", "draw_examples"]

N_NEIGHBOURS = 4  # of a latent, whose firings are looked through for near misses
TRIES = 40  # random windows looked at for each silent one that is wanted
LOOK_AHEAD = 64  # entries taken at once while a fresh example is sought


class ExamplesConfig(Config):
    """How many examples of each latent explainers and scorers get; fewer where it fires in fewer."""

    n_top: int = Field(default=10, ge=1)
    """Explain side: strongest examples."""
    n_quantile: int = Field(default=20, ge=0)
    """Explain side: examples drawn evenly over the strength of firings (delphi draws 40, over 10 quantiles)."""
    n_importance: int = Field(default=10, ge=0)
    """Explain side: examples drawn at random, weighted by activation."""
    n_positive: int = Field(default=20, ge=1)
    """Score side: examples drawn evenly over the strength of firings (delphi: 50)."""
    n_negative: int = Field(default=20, ge=0)
    """Score side: random windows on which the latent is silent (delphi: 50)."""
    n_near_miss: int = Field(default=10, ge=0)
    """Either side: windows that resemble its firings, on which it is silent."""
    n_quantiles: int = Field(default=10, ge=1)
    """Equal parts into which the firings are divided by strength."""
    seed: int = 0
    """Of the draws."""


@dataclass(frozen=True, slots=True)
class CoderMaterial:
    """What is needed to draw examples of one coder's latents."""

    cache: ActivationCache
    strongest: Callable[[Sequence[int]], Mapping[tuple[str, int], Sequence[Peak]]]
    """Of some latents, by (role, latent)."""
    directions: Float[torch.Tensor, "latent d_out"] | None
    whole: Callable[[int], Whole] | None = None
    """Of a latent: its activations on whole examples; needed where patches of images are tokens."""


def card_contexts(strongest: Sequence[Peak], fired: Int[np.ndarray, " entry"], values: Float[np.ndarray, " entry"], windows: Windows,
                  n_contexts: int, whole: Whole | None = None) -> list[Context]:
    """The contexts of a card: the strongest examples, then (3 in 8) entries at even quantiles below, no example twice.

    With n_contexts = 8 these are 5 top examples and those at the quantiles 3/4, 2/4 and 1/4 of the positive activations of the frame.

    Args:
        strongest: of all roles, the strongest first.
        fired, values: tokens of the frame on which the latent fires, ascending, and its activations there.
        whole: its activations on whole examples, where patches of images are tokens.
    """
    n_lower = n_contexts * 3 // 8
    contexts = [windows.at_row(peak.token_set, peak.row, peak.window, "top", whole=whole) for peak in strongest[: n_contexts - n_lower]]
    used = {context.example for context in contexts}
    order = np.argsort(-values, kind="stable")
    for number in range(1, n_lower + 1):
        rest = order[int(len(order) * number / (n_lower + 1)) :]
        fresh = next((entry for entry in _in_turn(rest) if windows.example_of(int(fired[entry])) not in used), None)
        if fresh is not None:
            contexts.append(windows.at_token(int(fired[fresh]), fired, values, "quantile", n_lower - number))
            used.add(contexts[-1].example)
    return contexts


def _in_turn(entries: Int[np.ndarray, " entry"]) -> Iterator[int]:
    for start in range(0, len(entries), LOOK_AHEAD):
        yield from entries[start : start + LOOK_AHEAD].tolist()


def draw_examples(
    latents: Sequence[tuple[str, int]], material: Mapping[str, CoderMaterial], windows: Windows, config: ExamplesConfig,
) -> dict[tuple[str, int], LatentExamples]:
    """Draw the examples of some latents.

    Args:
        latents: (source, latent); each latent's draw depends on nothing but itself and the seed.

    Raises:
        ConfigError: when there is no such source or latent.
        RunError: when activations that the explain stage left are missing or damaged.
    """
    result: dict[tuple[str, int], LatentExamples] = {}
    for source in dict.fromkeys(source for source, _ in latents):
        if source not in material:
            raise ConfigError(asked=f"draw examples of {source}", why="there is no such source", instead=f"use one of {', '.join(material)}")
        own, wanted = material[source], [latent for name, latent in latents if name == source]
        outside = next((latent for latent in wanted if not 0 <= latent < own.cache.n_latents), None)
        if outside is not None:
            raise ConfigError(asked=f"draw examples of {source}/{outside}", why=f"it has the latents 0 to {own.cache.n_latents - 1}",
                              instead="give a latent in that range")
        neighbours = _neighbours(own, source, wanted)
        needed = sorted({*wanted, *(other for others in neighbours.values() for other in others)})
        activations = own.cache.read(np.array(needed))
        column_of = {latent: number for number, latent in enumerate(needed)}
        strongest = own.strongest(wanted)
        for latent in wanted:
            columns = [_column(activations, column_of[other]) for other in (latent, *neighbours[latent])]
            draw = _Draw(windows, config, columns[0], columns[1:], np.random.default_rng([config.seed, zlib.crc32(source.encode()), latent]),
                         own.whole(latent) if own.whole else None)
            result[source, latent] = draw.examples(source, latent, {role: strongest.get((role, latent), ()) for role in ("explain", "score")})
    return result


def _neighbours(own: CoderMaterial, source: str, latents: Sequence[int]) -> dict[int, list[int]]:
    if own.directions is None:
        return {latent: [] for latent in latents}
    found = nearest_directions(own.directions[torch.tensor(latents)], own.directions, source, N_NEIGHBOURS + 1)
    return {latent: [near.latent for near in nearest if near.latent != latent][:N_NEIGHBOURS] for latent, nearest in zip(latents, found, strict=True)}


def _column(activations: sparse.csc_matrix, number: int) -> tuple[np.ndarray, np.ndarray]:
    part = slice(activations.indptr[number], activations.indptr[number + 1])
    return activations.indices[part], activations.data[part]


class _Draw:
    """The draw of one latent."""

    def __init__(self, windows: Windows, config: ExamplesConfig, own: tuple[np.ndarray, np.ndarray], others: Sequence[tuple[np.ndarray, np.ndarray]],
                 rng: np.random.Generator, whole: Whole | None = None):
        self.whole = whole
        self.windows, self.frame, self.config, self.others, self.rng = windows, windows.frame, config, others, rng
        self.fired, self.values = own

    def examples(self, source: str, latent: int, strongest: Mapping[str, Sequence[Peak]]) -> LatentExamples:
        config = self.config
        top = self._top(strongest["explain"], config.n_top)
        shown = {context.example for context in top}
        quantile = self._evenly("explain", config.n_quantile, shown)
        importance = self._by_importance(config.n_importance, shown)
        tested: set[str] = set()
        positive = self._evenly("score", config.n_positive, tested)
        rest = [peak for peak in strongest["score"] if self.windows.example_at(peak.token_set, peak.row) not in tested]
        positive += self._top(rest, config.n_positive - len(positive))  # where the sample holds few firings, those that were seen outside of it
        tested |= {context.example for context in positive}
        like = {int(self.windows.token_id_at(peak.token_set, peak.row)) for peak in strongest["explain"][: config.n_top]}
        return LatentExamples(
            latent=latent, source=source, explain=[*top, *quantile, *importance], score_positive=positive,
            score_negative=self._random("score", config.n_negative), near_miss=self._near("score", like), explain_near_miss=self._near("explain", like),
        )

    def _side(self, role: str) -> slice:
        return slice(0, self.frame.n_explain) if role == "explain" else slice(self.frame.n_explain, self.frame.n_tokens)

    def _top(self, peaks: Sequence[Peak], n: int) -> list[Context]:
        return [self.windows.at_row(peak.token_set, peak.row, peak.window, "top", whole=self.whole) for peak in peaks[: max(0, n)]]

    def _peaks(self, role: str) -> tuple[np.ndarray, np.ndarray]:
        """The strongest token of each example of a side on which the latent fires, the weakest first, and its activation."""
        side = self._side(role)
        low, high = np.searchsorted(self.fired, [side.start, side.stop])
        tokens, values = self.fired[low:high], self.values[low:high]
        order = np.lexsort((tokens, -values, self.frame.example[tokens]))
        first = order[np.unique(self.frame.example[tokens][order], return_index=True)[1]]
        first = first[np.lexsort((tokens[first], values[first]))]
        return tokens[first], values[first]

    def _evenly(self, role: str, n: int, used: set[str]) -> list[Context]:
        """Examples from equal parts of the firings by strength, one of each part in turn; `used` grows by them."""
        tokens, _ = self._peaks(role)
        parts = [self.rng.permutation(part).tolist() for part in np.array_split(tokens, self.config.n_quantiles)]
        chosen: list[Context] = []
        while len(chosen) < n and any(parts):
            for number, part in reversed(list(enumerate(parts))):  # the strongest part first
                token = self._fresh(part, used)
                if token is not None and len(chosen) < n:
                    chosen.append(self.windows.at_token(token, self.fired, self.values, "quantile", number))
                    used.add(chosen[-1].example)
        return chosen

    def _fresh(self, tokens: list[int], used: set[str]) -> int | None:
        """Take tokens off the end of a list up to one of an example that is not used; None where there is none."""
        while tokens:
            token = tokens.pop()
            if self.windows.example_of(token) not in used:
                return token
        return None

    def _by_importance(self, n: int, used: set[str]) -> list[Context]:
        """Explain examples at random, weighted by activation."""
        tokens, values = self._peaks("explain")
        names = [self.windows.example_of(int(token)) for token in tokens]
        number_of = {name: number for number, name in enumerate(names)}  # two sets may hold one example
        free = np.array([name not in used and number_of[name] == number for number, name in enumerate(names)], dtype=bool)
        tokens, values = tokens[free], values[free].astype(np.float64)
        if not len(tokens) or not n:
            return []
        chosen = self.rng.choice(tokens, size=min(n, len(tokens)), replace=False, p=values / values.sum())
        return [self.windows.at_token(token, self.fired, self.values, "importance") for token in chosen.tolist()]

    def _random(self, role: str, n: int) -> list[Context]:
        side = self._side(role)
        return self._silent(self.rng.integers(side.start, side.stop, size=TRIES * n), n, "random", set())

    def _near(self, role: str, like: set[int]) -> list[Context]:
        """Half where the peak tokens of its firings stand, half where latents of similar direction fire; each fills up for the other."""
        side, n = self._side(role), self.config.n_near_miss
        same = side.start + np.flatnonzero(np.isin(self.frame.token_id[side], list(like)))
        around = [tokens[slice(*np.searchsorted(tokens, [side.start, side.stop]))] for tokens, _ in self.others]
        same, around_all = (self.rng.permutation(tokens)[: TRIES * n] for tokens in (same, np.concatenate([*around, np.zeros(0, dtype=np.int64)])))
        used: set[str] = set()
        found = self._silent(same, n - n // 2, "near_miss", used)
        found += self._silent(around_all, n // 2, "neighbour", used)
        found += self._silent(same, n - len(found), "near_miss", used)
        return found + self._silent(around_all, n - len(found), "neighbour", used)

    def _silent(self, tokens: Int[np.ndarray, " token"], n: int, kind: ContextKind, used: set[str]) -> list[Context]:
        """The first n of these tokens around which the latent is silent, one an example; `used` grows by them."""
        chosen: list[Context] = []
        for token in tokens[self.windows.is_silent(tokens, self.fired)].tolist():
            if len(chosen) >= n:
                break
            if self.windows.example_of(token) not in used:
                chosen.append(self.windows.at_row(self.windows.set_of(token), int(self.frame.rows[token]), None, kind))
                used.add(chosen[-1].example)
        return chosen
