"""From seeds to a selection: retrieve by one or two strategies, interleave, order anew by influence if asked, and fill a budget of tokens.

SSAE (arXiv 2411.00743, section 3.1) retrieves text like the seeds and, in its TracIn variants, re-ranks what was retrieved; how much is kept and how
strategies combine it does not say. Our own choices: examples are taken best first up to a budget of tokens, seeds before all others; two strategies take
turns. Vectors and influence are functions that the caller hands in: models stand to the right of this stage. Refuses: seeds beyond the budget.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from jaxtyping import Bool, Float

from sparselight.errors import ConfigError
from sparselight.protocols import Corpus, Example, Progress, no_progress
from sparselight.select.bm25 import bm25_scores
from sparselight.select.config import SelectConfig
from sparselight.select.copies import Copies
from sparselight.select.dense import Vectors, dense_scores
from sparselight.select.seeds import Seeds, find_seeds
from sparselight.select.selection import Selection

COUNT_AT_ONCE = 64  # candidates whose tokens are counted in one call
CountTokens = Callable[[Sequence[Example]], list[int]]
Influence = Callable[[Sequence[Example]], Float[np.ndarray, " example"]]
"""How much a training step on each example would lower the loss on the seeds; larger is better. It knows the seeds."""


def select_examples(
    corpus: Corpus, config: SelectConfig, n_tokens: CountTokens, progress: Progress = no_progress, *, held_out: Bool[np.ndarray, " example"] | None = None,
    vectors: Vectors | None = None, influence: Influence | None = None,
) -> Selection:
    """Choose the examples most like the seeds. Of examples with one text, the seed or else the first is considered, the others are not.

    Args:
        n_tokens: tokens of each of the given examples, as the subject counts them.
        progress: in seed queries.
        held_out: which examples are held out from training: they are no seeds, and the guard keeps copies of them out of the rest.
        vectors: one vector for each of the given examples; needed for dense retrieval.
        influence: needed for select.rerank = "tracin".

    Raises:
        ConfigError: when a seed matches nothing or is of no use, select.max_tokens is too small for the seeds, or a needed function is not given.
        MissingExtraError: when a package of the extra `retrieval` is not installed.
    """
    check_given(config, vectors, influence)
    examples = list(corpus)
    seeds = find_seeds(examples, config, held_out)
    candidates = _without_duplicates(examples, set(seeds.inside))
    scores, terms = strategy_scores(examples, candidates, seeds, config, vectors, progress)
    inside = set(seeds.inside)
    order = ranking(scores, np.array([candidate in inside for candidate in candidates]))
    ranked = [candidates[number] for number in order.numbers]
    score_of = dict(zip(ranked, order.scores, strict=True))
    budget = _Budget(examples, inside, n_tokens, config)
    copies = Copies(examples, seeds.outside, seeds.inside, config, held_out)
    kept = copies.guarded(ranked, inside)
    pool = kept.examples
    if config.rerank == "tracin":
        assert influence is not None
        pool, _ = budget.fill(kept.examples, config.pool_factor)
        score_of = influence_scores(examples, pool, influence)
        pool = sorted(pool, key=lambda index: (index not in inside, -score_of[index]))
    unique = copies.without_near_duplicates(pool, inside)
    chosen, total = budget.fill(unique.examples)
    reached = len(pool) if config.rerank == "tracin" else pool.index(chosen[-1]) + 1 if chosen else 0
    left_out = {"exact_copies": len(examples) - len(candidates), **kept.counts(reached), **unique.counts(len(chosen)), "not_compared": copies.n_unchecked}
    numbers = {candidate: number for number, candidate in enumerate(candidates)}
    return Selection(
        examples=chosen, scores=[float(score_of[index]) for index in chosen], is_seed=[index in inside for index in chosen], n_tokens=total, terms=terms,
        scores_by={name: [float(found[numbers[index]]) for index in chosen] for name, found in scores.items()}, seed_counts=seeds.counts,
        left_out={name: count for name, count in left_out.items() if count},
    )


def check_given(config: SelectConfig, vectors: Vectors | None, influence: Influence | None) -> None:
    """Refuse a strategy whose function is missing."""
    if "dense" in config.retrieve and vectors is None:
        raise ConfigError(asked="select with select.retrieve = 'dense'", why="no function from examples to vectors is given",
                          instead="hand in `vectors`, run it from a recipe, or use select.retrieve = ['bm25']")
    if config.rerank == "tracin" and influence is None:
        raise ConfigError(asked="select with select.rerank = 'tracin'", why="influence is measured on a trained SAE, and none is given",
                          instead="hand in `influence`, or use select.rerank = 'none'")


def strategy_scores(
    examples: Sequence[Example], candidates: Sequence[int], seeds: Seeds, config: SelectConfig, vectors: Vectors | None, progress: Progress
) -> tuple[dict[str, Float[np.ndarray, " candidate"]], list[str]]:
    """Scores of the candidates by each strategy, and BM25's terms."""
    inside = set(seeds.inside)
    at = [number for number, candidate in enumerate(candidates) if candidate in inside]
    scores: dict[str, Float[np.ndarray, " candidate"]] = {}
    terms: list[str] = []
    for strategy in config.retrieve:
        if strategy == "bm25":
            texts, outside = [examples[candidate].text for candidate in candidates], [example.text for example in seeds.outside]
            scores[strategy], terms = bm25_scores(texts, at, outside, config, progress)
        else:
            assert vectors is not None
            own = vectors(examples)
            beside = vectors(seeds.outside) if seeds.outside else own[:0]
            scores[strategy] = dense_scores(own[list(candidates)], at, beside, config)
    return scores, terms


@dataclass(frozen=True)
class Ranking:
    """Candidates in order, seeds first, with the score that is shown."""

    numbers: list[int]
    scores: list[float]


def ranking(scores: dict[str, Float[np.ndarray, " candidate"]], is_seed: Bool[np.ndarray, " candidate"]) -> Ranking:
    """Candidates with a score above 0, best first, and all seeds before them.

    Of several strategies the rankings are interleaved (1st of each in their order, 2nd of each, ...; an example counts where it comes first), and the score
    is 1 / its best rank: scores of different strategies have no common scale.
    """
    parts = []
    for strategy_score in scores.values():
        order = np.lexsort((np.arange(len(is_seed)), -strategy_score, ~is_seed))
        kept = is_seed[order] | (strategy_score[order] > 0)
        parts.append((order[kept & is_seed[order]].tolist(), order[kept & ~is_seed[order]].tolist()))
    if len(parts) == 1:
        numbers = parts[0][0] + parts[0][1]
        only = next(iter(scores.values()))
        return Ranking(numbers, [float(only[number]) for number in numbers])
    merged = [dict(_interleave([part[side] for part in parts])) for side in (0, 1)]
    both = {**merged[0], **merged[1]}
    return Ranking(list(both), [1 / (rank + 1) for rank in both.values()])


def influence_scores(examples: Sequence[Example], pool: Sequence[int], influence: Influence) -> dict[int, float]:
    """Influence of each example of the pool.

    Raises:
        ConfigError: when it is not one finite number an example.
    """
    scores = np.asarray(influence([examples[index] for index in pool]))
    if scores.shape != (len(pool),) or not np.isfinite(scores).all():
        raise ConfigError(asked="order a selection by influence (select.rerank)", why=f"the scores are not {len(pool)} finite numbers",
                          instead="use another SAE, or select.rerank = 'none'")
    return dict(zip(pool, scores.tolist(), strict=True))


def _interleave(rankings: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """(number, rank from 0) of rankings in turns, each number once."""
    seen: set[int] = set()
    for rank, numbers in enumerate(zip_longest(*rankings)):
        for number in numbers:
            if number is not None and number not in seen:
                seen.add(number)
                yield number, rank


def _without_duplicates(examples: Sequence[Example], seeds: set[int]) -> list[int]:
    first: dict[str, int] = {}
    for number in [*sorted(seeds), *range(len(examples))]:
        first.setdefault(examples[number].text, number)
    return sorted(first.values())


class _Budget:
    """Counts tokens, each example once."""

    def __init__(self, examples: Sequence[Example], seeds: set[int], n_tokens: CountTokens, config: SelectConfig):
        self.examples, self.seeds, self.n_tokens, self.config = examples, seeds, n_tokens, config
        self.sizes: dict[int, int] = {}

    def fill(self, ranked: Sequence[int], factor: float = 1.0) -> tuple[list[int], int]:
        """The longest beginning of a ranking within `factor` times the budget, and its tokens; seeds stand first and must fit."""
        n_seeds = sum(index in self.seeds for index in ranked)
        total, limit = sum(self._sizes(ranked[:n_seeds])), factor * self.config.max_tokens
        if total > self.config.max_tokens:
            raise ConfigError(asked=f"select at most select.max_tokens = {self.config.max_tokens} tokens", why=f"the seeds alone hold {total}",
                              instead=f"set select.max_tokens above {total}, or give fewer seeds (select.seeds, select.seed_labels)")
        last = n_seeds
        for start in range(n_seeds, len(ranked), COUNT_AT_ONCE):
            for size in self._sizes(ranked[start:start + COUNT_AT_ONCE]):
                if total + size > limit:
                    return list(ranked[:last]), total
                total += size
                last += 1
        return list(ranked[:last]), total

    def _sizes(self, indices: Sequence[int]) -> list[int]:
        missing = [index for index in indices if index not in self.sizes]
        self.sizes.update(zip(missing, self.n_tokens([self.examples[index] for index in missing]), strict=True))
        return [self.sizes[index] for index in indices]
