"""Likeness by vectors: inner products of an example's vector with those of the seeds.

SSAE (arXiv 2411.00743) retrieves with Contriever; which checkpoint and how the scores of several seeds are combined it does not say. Ours: the mean of
an example's `pool` largest inner products over the seeds, as for BM25. Owns the arithmetic; models stand to the right of this stage and are handed in
as a function from examples to vectors. Refuses: vectors that are not finite.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sparselight.errors import ConfigError, MissingExtraError
from sparselight.files import write_bytes
from sparselight.protocols import Example
from sparselight.select.config import SelectConfig

BLOCK = 4096  # examples at once
Vectors = Callable[[Sequence[Example]], Float[np.ndarray, "example d"]]


def dense_scores(
    examples: Float[np.ndarray, "example d"], seeds: Sequence[int], outside: Float[np.ndarray, "seed d"], config: SelectConfig,
) -> Float[np.ndarray, " example"]:
    """Score of every example by its vector.

    Args:
        seeds: which of the examples are seeds.
        outside: vectors of seeds that are not among them.

    Raises:
        ConfigError: when a vector is not finite.
        MissingExtraError: when select.search = "faiss" and faiss is not installed.
    """
    for vectors in (examples, outside):
        if not np.isfinite(vectors).all():
            raise ConfigError(asked=f"select by vectors of select.encoder = {config.encoder!r}", why="some of them are not finite",
                              instead="use subject.dtype = 'float32', or another select.encoder")
    examples, outside = comparable(examples, outside, config)
    return mean_of_best(examples, np.concatenate([examples[list(seeds)], outside]), config.pool, config.search)


def comparable(
    examples: Float[np.ndarray, "example d"], outside: Float[np.ndarray, "seed d"], config: SelectConfig,
) -> tuple[Float[np.ndarray, "example d"], Float[np.ndarray, "seed d"]]:
    """Vectors whose inner products are the likeness: the subject's are centered on the mean of the examples and scaled to length 1."""
    if config.encoder != "subject":
        return examples, outside
    present = (examples != 0).any(axis=1)  # a text without tokens has no vector
    center = examples[present].mean(axis=0, dtype=np.float64).astype(np.float32)
    return unit(np.where(present[:, None], examples - center, 0)), unit(outside - center)


def unit(vectors: Float[np.ndarray, "example d"]) -> Float[np.ndarray, "example d"]:
    """Each vector divided by its length; zero stays zero.

    With the mean over the corpus taken off first, the inner product is the cosine about that mean. Activations of a language model need both: they share
    one large component, beside which all texts look alike, and their lengths follow how a text begins and ends rather than what it is about.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def mean_of_best(
    examples: Float[np.ndarray, "example d"], seeds: Float[np.ndarray, "seed d"], pool: int, search: str = "numpy"
) -> Float[np.ndarray, " example"]:
    """Mean of the `pool` largest inner products of each example with the seeds (of all, where there are fewer)."""
    pool = min(pool, len(seeds))
    best = _faiss_best if search == "faiss" else _numpy_best
    return best(np.ascontiguousarray(examples, dtype=np.float32), np.ascontiguousarray(seeds, dtype=np.float32), pool).mean(axis=1)


def _numpy_best(examples: np.ndarray, seeds: np.ndarray, pool: int) -> Float[np.ndarray, "example pool"]:
    best = np.empty((len(examples), pool), dtype=np.float32)
    for start in range(0, len(examples), BLOCK):
        products = examples[start:start + BLOCK] @ seeds.T
        best[start:start + BLOCK] = np.sort(np.partition(products, products.shape[1] - pool, axis=1)[:, -pool:], axis=1)[:, ::-1]
    return best


def _faiss_best(examples: np.ndarray, seeds: np.ndarray, pool: int) -> Float[np.ndarray, "example pool"]:
    """The same by faiss's exact index over the seeds."""
    best: Float[np.ndarray, "example pool"] = _faiss_index(seeds).search(examples, pool)[0]
    return best


def save_index(examples: Float[np.ndarray, "example d"], config: SelectConfig, path: Path) -> None:
    """Write a faiss index of all examples, row by row, whose inner products with comparable vectors are the scores of dense retrieval.

    Raises:
        MissingExtraError: when faiss is not installed.
    """
    vectors, _ = comparable(examples, examples[:0], config)
    index = _faiss_index(np.ascontiguousarray(vectors, dtype=np.float32))
    import faiss

    write_bytes(path, faiss.serialize_index(index).tobytes())


def _faiss_index(vectors: np.ndarray) -> Any:
    """The exact index of inner products with these vectors."""
    try:
        import faiss
    except ImportError:
        raise MissingExtraError(package="faiss-cpu", extra="retrieval", asked="search with select.search = 'faiss'") from None
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index
