"""A random-looking order of n things that needs no memory: element i of the order is computed, not looked up.

A Feistel network (Luby and Rackoff 1988, "How to construct pseudorandom permutations from pseudorandom functions") over the smallest
power of two >= n, with cycle walking (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): a result outside [0, n) is
permuted again until it falls inside. Good enough to shuffle; no cipher.
"""

import hashlib

import numpy as np
from jaxtyping import Int

from sparselight.kernels.rows import available, permute

N_ROUNDS = 8  # even, so that the two halves end with the widths with which they began


class Permutation:
    """A bijection of [0, n), fixed by its seed."""

    def __init__(self, n: int, seed: int):
        assert n > 0, n
        self.n = n
        n_bits = (n - 1).bit_length()
        self._widths = (n_bits // 2, n_bits - n_bits // 2)
        self._keys = np.frombuffer(hashlib.sha512(f"permutation\0{seed}".encode()).digest(), dtype="<u8")
        assert len(self._keys) == N_ROUNDS

    def __call__(self, positions: Int[np.ndarray, " position"]) -> Int[np.ndarray, " position"]:
        """The elements at these positions, each in [0, n)."""
        if not available():
            return self.slowly(positions)
        values = np.array(positions, dtype=np.int64)  # a copy, contiguous
        permute(values, self.n, self._keys, self._widths)
        return values

    def slowly(self, positions: Int[np.ndarray, " position"]) -> Int[np.ndarray, " position"]:
        """The same without the compiled kernels."""
        values = self._encrypt(np.asarray(positions).astype(np.uint64))
        outside = np.flatnonzero(values >= self.n)
        while len(outside):  # under half of the domain lies outside, so this halves at least, in expectation
            values[outside] = self._encrypt(values[outside])
            outside = outside[values[outside] >= self.n]
        return values.astype(np.int64)

    def _encrypt(self, values: np.ndarray) -> np.ndarray:
        width_left, width_right = self._widths
        left, right = values >> np.uint64(width_right), values & _mask(width_right)
        for key in self._keys:
            mixed = _mix(right + key)
            mixed &= _mask(width_left)
            mixed ^= left
            left, right = right, mixed
            width_left, width_right = width_right, width_left
        return (left << np.uint64(width_right)) | right


def _mask(n_bits: int) -> np.uint64:
    return np.uint64((1 << n_bits) - 1)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators")."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
