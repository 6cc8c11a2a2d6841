"""Likeness by Okapi BM25: seed texts are the queries.

SSAE (arXiv 2411.00743, section 3.1; sparse retrieval with the seed texts as queries) does not say how long queries are or how the scores of
several seeds are combined. Our own choices, all settings of SelectConfig: each seed example is one query of its 32 most distinctive terms
(largest tf * idf); an example's score is the mean of its 3 best scores over the queries. Refuses: seeds that hold no distinctive term.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sparselight.errors import ConfigError, MissingExtraError
from sparselight.protocols import Progress, no_progress
from sparselight.select.config import SelectConfig
from sparselight.select.seeds import seed_names
from sparselight.select.terms import TermIndex

N_TERMS_SHOWN = 20


def bm25_scores(
    texts: Sequence[str], seeds: Sequence[int], outside: Sequence[str], config: SelectConfig, progress: Progress = no_progress
) -> tuple[Float[np.ndarray, " text"], list[str]]:
    """Score of every text, and the terms that weigh most over all queries.

    Args:
        seeds: which of the texts are seeds.
        outside: seed texts that are not among them.
        progress: in seed queries.

    Raises:
        ConfigError: when no seed holds a distinctive term.
        MissingExtraError: when bm25s is not installed.
    """
    index = TermIndex.build(texts, config.common_frac)
    found = [*(index.distinctive(seed, config.query_terms) for seed in seeds), *(index.distinctive_in(text, config.query_terms) for text in outside)]
    queries = [(terms, weights) for terms, weights in found if len(terms)]
    if not queries:
        raise ConfigError(asked=f"select examples like {seed_names(config)} by BM25",
                          why=f"the seeds hold no term that is in at most {config.common_frac:g} of the examples" + (" and in any of them" if outside else ""),
                          instead="give seeds with more text, a larger corpus, or a larger select.common_frac")
    scores = pooled_scores(index, [terms for terms, _ in queries], config, progress)
    weight_of = np.zeros(len(index.vocabulary))
    for terms, weights in queries:
        weight_of[terms] += weights
    top = np.argsort(-weight_of, kind="stable")[:N_TERMS_SHOWN]
    return scores, [index.vocabulary[term] for term in top if weight_of[term] > 0]


def pooled_scores(index: TermIndex, queries: Sequence[np.ndarray], config: SelectConfig, progress: Progress = no_progress) -> Float[np.ndarray, " text"]:
    """Score every text against queries and pool.

    BM25 of text d for query q (Robertson and Zaragoza 2009, section 3.2, in Lucene's form, which leaves out the constant factor k1 + 1 and
    keeps idf positive): sum over terms t of q of idf(t) * tf / (tf + k1 * (1 - b + b * |d| / mean |d|)), idf as in TermIndex.
    Pooled score of d: the mean of its `config.pool` largest scores over the queries (our own choice, see the module docstring).
    """
    try:
        import bm25s
    except ImportError:
        raise MissingExtraError(package="bm25s", extra="retrieval", asked="select examples by BM25 (select.retrieve)") from None
    scorer = bm25s.BM25(k1=config.k1, b=config.b, method="lucene")
    scorer.index((index.texts, {term: number for number, term in enumerate(index.vocabulary)}), show_progress=False)
    pool = min(config.pool, len(queries))
    best = np.zeros((pool, len(index.texts)), dtype=np.float32)
    for done, query in enumerate(queries):
        scores = scorer.get_scores_from_ids(query)
        best = np.sort(np.concatenate([best, scores[None]]), axis=0)[1:]
        progress(done + 1, len(queries), "seed queries")
    return best.mean(axis=0)
