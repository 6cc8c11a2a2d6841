"""Selects domain examples by Okapi BM25 from seed examples.

SSAE (arXiv 2411.00743, section 3.1; sparse retrieval with the seed texts as queries) does not say how long queries are, how the scores of
several seeds are combined, or how much is kept. Our own choices, all settings of SelectConfig: each seed example is one query of its 32
most distinctive terms (largest tf * idf); an example's score is the mean of its 3 best scores over the queries; examples are taken best
first up to a budget of tokens. Refuses: seeds that match no group, hold no distinctive term, or exceed the budget.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import numpy as np
from jaxtyping import Float

from sparselight.errors import ConfigError, MissingExtraError, nearest
from sparselight.protocols import Corpus, Example, Progress, no_progress
from sparselight.select.config import SelectConfig
from sparselight.select.selection import Selection
from sparselight.select.terms import TermIndex

N_TERMS_SHOWN = 20
COUNT_AT_ONCE = 64  # candidates whose tokens are counted in one call


def select_examples(
    corpus: Corpus, config: SelectConfig, n_tokens: Callable[[Sequence[Example]], list[int]], progress: Progress = no_progress
) -> Selection:
    """Choose the examples most like the seeds. Of examples with one text, the seed or else the first is considered, the others are not.

    Args:
        n_tokens: tokens of each of the given examples, as the subject counts them.
        progress: in seed queries.

    Raises:
        ConfigError: when select.seeds matches nothing or is of no use, or select.max_tokens is too small for the seeds.
        MissingExtraError: when bm25s is not installed.
    """
    examples = list(corpus)
    seed_set = set(find_seeds([example.group for example in examples], config.seeds))
    candidates = _without_duplicates(examples, seed_set)
    index = TermIndex.build([examples[candidate].text for candidate in candidates], config.common_frac)
    queries = [(terms, weights) for number, candidate in enumerate(candidates) if candidate in seed_set
               for terms, weights in [index.distinctive(number, config.query_terms)] if len(terms)]
    if not queries:
        raise ConfigError(asked=f"select examples like select.seeds = {list(config.seeds)}",
                          why=f"the seeds hold no term that is in at most {config.common_frac:g} of the examples",
                          instead="give seeds with more text, a larger corpus, or a larger select.common_frac")
    scores = pooled_scores(index, [terms for terms, _ in queries], config, progress)
    is_seed = np.array([candidate in seed_set for candidate in candidates])
    order = np.lexsort((np.arange(len(candidates)), -scores, ~is_seed))
    ranked = [number for number in order.tolist() if is_seed[number] or scores[number] > 0]
    chosen, total = _within_budget(ranked, [examples[candidates[number]] for number in ranked], int(is_seed.sum()), config, n_tokens)
    weight_of = np.zeros(len(index.vocabulary))
    for terms, weights in queries:
        weight_of[terms] += weights
    top = np.argsort(-weight_of, kind="stable")[:N_TERMS_SHOWN]
    return Selection(
        examples=[candidates[number] for number in chosen], scores=[float(scores[number]) for number in chosen],
        is_seed=[bool(is_seed[number]) for number in chosen], n_tokens=total, terms=[index.vocabulary[term] for term in top if weight_of[term] > 0],
    )


def find_seeds(groups: Sequence[str], seeds: Sequence[str]) -> list[int]:
    """Indices of the examples whose group is one of `seeds` or, where no group has that very name, matches it as a pattern.

    Raises:
        ConfigError: naming the first seed that matches nothing, and the nearest group.
    """
    known, found = set(groups), set()
    for seed in seeds:
        matched = {seed} if seed in known else {group for group in known if fnmatchcase(group, seed)}
        if not matched:
            raise ConfigError(asked=f"select examples like {seed!r} (select.seeds)", why=f"none of the {len(known)} groups (files) of the corpus matches it",
                              instead=_nearest_group(seed, known))
        found |= matched
    return [index for index, group in enumerate(groups) if group in found]


def pooled_scores(index: TermIndex, queries: Sequence[np.ndarray], config: SelectConfig, progress: Progress = no_progress) -> Float[np.ndarray, " text"]:
    """Score every text against queries and pool.

    BM25 of text d for query q (Robertson and Zaragoza 2009, section 3.2, in Lucene's form, which leaves out the constant factor k1 + 1 and
    keeps idf positive): sum over terms t of q of idf(t) * tf / (tf + k1 * (1 - b + b * |d| / mean |d|)), idf as in TermIndex.
    Pooled score of d: the mean of its `config.pool` largest scores over the queries (our own choice, see the module docstring).
    """
    try:
        import bm25s
    except ImportError:
        raise MissingExtraError(package="bm25s", extra="retrieval", asked="select examples by BM25 (select.method)") from None
    scorer = bm25s.BM25(k1=config.k1, b=config.b, method="lucene")
    scorer.index((index.texts, {term: number for number, term in enumerate(index.vocabulary)}), show_progress=False)
    pool = min(config.pool, len(queries))
    best = np.zeros((pool, len(index.texts)), dtype=np.float32)
    for done, query in enumerate(queries):
        scores = scorer.get_scores_from_ids(query)
        best = np.sort(np.concatenate([best, scores[None]]), axis=0)[1:]
        progress(done + 1, len(queries), "seed queries")
    return best.mean(axis=0)


def _without_duplicates(examples: Sequence[Example], seeds: set[int]) -> list[int]:
    first: dict[str, int] = {}
    for number in [*sorted(seeds), *range(len(examples))]:
        first.setdefault(examples[number].text, number)
    return sorted(first.values())


def _within_budget(
    ranked: Sequence[int], examples: Sequence[Example], n_seeds: int, config: SelectConfig, n_tokens: Callable[[Sequence[Example]], list[int]]
) -> tuple[list[int], int]:
    """The longest beginning of the ranking within the budget, and its tokens."""
    total = sum(n_tokens(examples[:n_seeds]))
    if total > config.max_tokens:
        raise ConfigError(asked=f"select at most select.max_tokens = {config.max_tokens} tokens", why=f"the seeds alone hold {total}",
                          instead=f"set select.max_tokens above {total}, or give fewer select.seeds")
    last = n_seeds
    for start in range(n_seeds, len(ranked), COUNT_AT_ONCE):
        for size in n_tokens(examples[start:start + COUNT_AT_ONCE]):
            if total + size > config.max_tokens:
                return list(ranked[:last]), total
            total += size
            last += 1
    return list(ranked[:last]), total


def _nearest_group(seed: str, groups: set[str]) -> str:
    """A hint, by file name where the whole path is like none: a corpus may have too many groups to list."""
    by_name = {group.rpartition("/")[2]: group for group in sorted(groups, reverse=True)}
    same_name = by_name.get(seed.rpartition("/")[2])
    if same_name:
        return f"use {same_name!r}"
    hint = nearest(seed, groups)
    if len(groups) <= 10 or not hint.startswith("use one of"):
        return hint
    return f"use the path of a file as it stands in the corpus, for example {min(groups)!r}, or a pattern such as '*{seed.rpartition('/')[2]}*'"
