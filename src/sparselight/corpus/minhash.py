"""Near-duplicate texts: MinHash signatures over character 5-grams, locality-sensitive hashing, and an exact check of every candidate.

Resemblance of two texts is the Jaccard index of their sets of shingles, J(A, B) = |A & B| / |A | B|; one minimum of a random hash over each set
agrees with probability J (Broder, "On the resemblance and containment of documents", 1997). Bands of such minima find candidates (Leskovec,
Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4). Signatures only propose: a pair counts when its exact J reaches the threshold.
Memory: about 0.5 KB a text.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int, UInt32, UInt64

SHINGLE_CHARS = 5
N_HASHES = 120  # divisible into bands of 1 to 6, 8, 10, 12, ... rows
MIN_RECALL = 0.995  # share of the pairs at the threshold that the bands must propose
ESTIMATE_MARGIN = 0.12  # over 3 standard deviations of the signature's estimate, sqrt(J (1 - J) / N_HASHES), at J = 0.8
# Bounds for one bucket, a member: beyond them thousands of texts are alike without being near duplicates, and all pairs would take hours.
MAX_FAILED = 16  # exact checks that fail
MAX_COMPARED = 1024  # comparisons of signatures
N_CACHED = 512  # texts whose shingles are kept for the exact check
CHUNK_CHARS = 1 << 15  # hashed together: the arrays of one chunk stay in the cache
SEED = 0x5EED  # of the hash functions: the same texts give the same clusters everywhere

U64 = np.uint64


def normalized(text: str) -> str:
    """A text without what makes no difference to a reader: case, runs of white space, Unicode form (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def near_pairs(texts: Iterable[str], text_at: Callable[[int], str], threshold: float) -> tuple[set[tuple[int, int]], int]:
    """Pairs of texts with J >= threshold: not all of them, but as many as join every text to its near duplicates, directly or by way of others.

    Args:
        texts: all normalized texts in order.
        text_at: one normalized text again, for the exact check.

    Returns:
        The pairs, and how many texts were not compared with all others of a crowded bucket (see MAX_FAILED).
    """
    finder = _Finder(minhash_signatures(texts), text_at, threshold)
    rows = rows_per_band(threshold)
    for begin in range(0, N_HASHES - rows + 1, rows):
        for bucket in _buckets(finder.signatures[:, begin:begin + rows]):
            finder.search(bucket)
    return finder.pairs, len(finder.unchecked)


class _Finder:
    """Compares the texts of one bucket after the other."""

    def __init__(self, signatures: UInt32[np.ndarray, "text hash"], text_at: Callable[[int], str], threshold: float):
        self.signatures, self.threshold = signatures, threshold
        self.shingles = lru_cache(maxsize=N_CACHED)(lambda index: np.unique(shingle_hashes([text_at(index)])[0]))
        self.pairs: set[tuple[int, int]] = set()
        self.unchecked: set[int] = set()

    def search(self, bucket: Int[np.ndarray, " member"]) -> None:
        """Follow near duplicates from text to text: what a text takes is compared with the rest in its turn, so no link inside the bucket is lost."""
        rest, n_failed, n_compared = bucket, 0, 0
        while len(rest) > 1:
            queue, rest = [int(rest[0])], rest[1:]
            while queue and len(rest):
                if n_failed > MAX_FAILED * len(bucket) or n_compared > MAX_COMPARED * len(bucket):
                    self.unchecked.update(rest.tolist())
                    return
                near, failed = self.near(queue.pop(), rest)
                n_failed, n_compared = n_failed + failed, n_compared + len(rest)
                queue += rest[near].tolist()
                rest = rest[~near]

    def near(self, index: int, others: Int[np.ndarray, " other"]) -> tuple[Bool[np.ndarray, " other"], int]:
        """Which of the others are near duplicates of a text, and how many looked like it and are not."""
        found = np.count_nonzero(self.signatures[others] == self.signatures[index], axis=1) >= N_HASHES * (self.threshold - ESTIMATE_MARGIN)
        n_failed = 0
        for at in np.flatnonzero(found):
            other = int(others[at])
            pair = (min(index, other), max(index, other))
            if pair in self.pairs or jaccard(self.shingles(index), self.shingles(other)) >= self.threshold:
                self.pairs.add(pair)
            else:
                found[at], n_failed = False, n_failed + 1
        return found, n_failed


def rows_per_band(threshold: float) -> int:
    """The most rows a band may have so that a pair at the threshold is still proposed with MIN_RECALL: fewest useless candidates.

    P(candidate | J) = 1 - (1 - J^rows)^bands.
    """
    divisors = [rows for rows in range(1, N_HASHES + 1) if N_HASHES % rows == 0]
    return max(rows for rows in divisors if rows == 1 or 1 - (1 - threshold**rows) ** (N_HASHES // rows) >= MIN_RECALL)


def jaccard(a: UInt64[np.ndarray, " shingle_a"], b: UInt64[np.ndarray, " shingle_b"]) -> float:
    """|A & B| / |A | B| of two sets, given as sorted arrays without repeats."""
    n_both = len(np.intersect1d(a, b, assume_unique=True))
    return n_both / (len(a) + len(b) - n_both)


def minhash_signatures(texts: Iterable[str]) -> UInt32[np.ndarray, "text hash"]:
    """For each text and each of N_HASHES random hash functions the smallest hash of its shingles, upper 32 bits."""
    rng = np.random.default_rng(SEED)
    factors = rng.integers(1 << 62, size=N_HASHES, dtype=U64) * U64(2) + U64(1)
    offsets = rng.integers(1 << 63, size=N_HASHES, dtype=U64)
    blocks = []
    for chunk in _chunks(texts):
        hashes, starts = shingle_hashes(chunk)
        block = np.empty((len(chunk), N_HASHES), dtype=np.uint32)
        buffer = np.empty_like(hashes)
        for column in range(N_HASHES):
            np.multiply(hashes, factors[column], out=buffer)
            np.add(buffer, offsets[column], out=buffer)
            block[:, column] = np.minimum.reduceat(buffer, starts) >> U64(32)
        blocks.append(block)
    return np.concatenate(blocks) if blocks else np.empty((0, N_HASHES), dtype=np.uint32)


def shingle_hashes(texts: Sequence[str]) -> tuple[UInt64[np.ndarray, " shingle"], Int[np.ndarray, " text"]]:
    """64-bit hashes of the character 5-grams of all texts, and where each text's begin. A shorter text is one shingle, filled with zeros."""
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    padding = np.maximum(SHINGLE_CHARS - lengths, 0)
    joined = "".join(text if not pad else text + "\0" * int(pad) for text, pad in zip(texts, padding, strict=True))
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(U64)
    n = len(codes) - SHINGLE_CHARS + 1
    hashes = codes[:n].copy()
    for offset in range(1, SHINGLE_CHARS):
        hashes *= U64(0x100000001B3)
        hashes ^= codes[offset:offset + n]
    _mix(hashes)
    n_shingles = lengths + padding - SHINGLE_CHARS + 1
    ends = np.cumsum(lengths + padding)
    inside = np.ones(n, dtype=bool)  # windows that do not reach into the next text
    for offset in range(1, SHINGLE_CHARS):
        inside[ends[:-1] - offset] = False
    return hashes[inside], np.cumsum(n_shingles) - n_shingles


def _mix(x: UInt64[np.ndarray, " shingle"]) -> None:
    """Spread every input bit over the word, in place (the finalizer of SplitMix64, Steele et al. 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> U64(shift)
        x *= U64(factor)
    x ^= x >> U64(31)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    n_chars = 0
    for text in texts:
        chunk.append(text)
        n_chars += len(text)
        if n_chars >= CHUNK_CHARS:
            yield chunk
            chunk, n_chars = [], 0
    if chunk:
        yield chunk


def _buckets(band: UInt32[np.ndarray, "text row"]) -> Iterator[Int[np.ndarray, " member"]]:
    """Texts that agree in every row of a band, each bucket in ascending order."""
    keys = np.zeros(len(band), dtype=U64)
    for row in band.T:
        keys = keys * U64(0x9E3779B97F4A7C15) + row
    _mix(keys)
    order = np.argsort(keys, kind="stable")
    edges = np.concatenate([[0], np.flatnonzero(np.diff(keys[order])) + 1, [len(order)]])
    for number in np.flatnonzero(np.diff(edges) > 1):
        yield order[edges[number]:edges[number + 1]]
