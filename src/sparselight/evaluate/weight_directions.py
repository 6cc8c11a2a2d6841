"""A dictionary as directions, all of them or the living ones, and the passes over cosines that geometry, stability and composition share.

Owns: reading weights of anything that has them, which latents are alive (fire on some token of the case, of either side), and cosines in
blocks, so that no matrix of all pairs is ever whole. Computes where a coder's weights are. Refuses: weights that are not finite. A row of
norm 0 has no direction: its cosine with every other counts as 0, as the guarded cosine of OrtSAE (arXiv 2509.22033, section 3) has it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import SaeError
from sparselight.evaluate.case import Case, SideName
from sparselight.evaluate.contender import Contender
from sparselight.kernels import kernels
from sparselight.train.objectives.orthogonal import pair_cosines

BLOCK_VALUES = {"cpu": 1 << 22, "cuda": 1 << 27}  # of the cosines held at once
NORM_FLOOR = 1e-12
SIDES: tuple[SideName, ...] = ("fit", "held_out")


class Fires(NamedTuple):
    """On how many tokens of the case each latent fires."""

    n_fires: Int[np.ndarray, " latent"]
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Directions:
    """The weights of one dictionary, or of some of its latents."""

    name: str
    W_dec: Float[Tensor, "latent d_out"]
    W_enc: Float[Tensor, "latent d_in"] | None
    latents: Int[np.ndarray, " latent"]
    """Their numbers in the dictionary."""
    fires: Fires | None
    """Of the whole dictionary; None where the case has no tokens."""

    @classmethod
    @torch.no_grad()
    def of(cls, case: Case, name: str, contender: Contender) -> "Self | str":
        """The whole dictionary, or in words why there is none.

        Raises:
            SaeError: when weights are not finite.
        """
        W_dec, W_enc = getattr(contender.coder, "W_dec", None), getattr(contender.coder, "W_enc", None)
        if not isinstance(W_dec, Tensor):
            return "this coder has no decoder directions (W_dec)"
        if len(W_dec) < 2:
            return "its dictionary has fewer than two latents"
        for what, weights in (("W_dec", W_dec), ("W_enc", W_enc)):
            if isinstance(weights, Tensor) and not bool(weights.isfinite().all()):
                raise SaeError(asked=f"measure the geometry of the coder {name!r}", why=f"its {what} holds values that are not finite",
                               instead="train or convert it again")
        encoder = W_enc.detach().T if isinstance(W_enc, Tensor) else None
        return cls(name, W_dec.detach(), encoder, np.arange(len(W_dec)), count_fires(case, name, contender))

    def __len__(self) -> int:
        return len(self.latents)

    def living(self) -> "Directions | str":
        """The latents that are alive (itself where all are), or in words why there are none to measure."""
        if self.fires is None:
            return "no tokens are given, so it is not known which latents are alive"
        alive = np.flatnonzero(self.fires.n_fires > 0)
        if len(alive) < 2:
            return f"{len(alive)} of its {len(self)} latents fire on any of the {self.fires.n_tokens} tokens"
        if len(alive) == len(self):
            return self
        index = torch.from_numpy(alive).to(self.W_dec.device)
        return replace(self, W_dec=self.W_dec[index], W_enc=None if self.W_enc is None else self.W_enc[index], latents=alive)

    def decoder(self) -> Float[Tensor, "latent d_out"]:
        """Decoder rows of unit norm."""
        return unit_rows(self.W_dec)

    def encoder(self) -> Float[Tensor, "latent d_in"] | None:
        """Encoder directions of unit norm."""
        return None if self.W_enc is None else unit_rows(self.W_enc)


def count_fires(case: Case, name: str, contender: Contender) -> Fires | None:
    """Fires over all tokens of both sides of all datasets; None where the case has none or the coder no codes."""
    if contender.sparse is None or not case.datasets:
        return None

    def count() -> Fires:
        n_fires, n_tokens = np.zeros(contender.n_latents or 0, dtype=np.int64), 0
        for dataset in case.datasets:
            for side in SIDES:
                if len(getattr(case.datasets[dataset], side)):
                    codes = case.codes(dataset, side, name, contender)
                    n_fires += torch.bincount(codes.latents[codes.values != 0], minlength=codes.n_latents).numpy()
                    n_tokens += codes.n_tokens
        return Fires(n_fires, n_tokens)

    return case.once(("fires", name), count)


def unit_rows(W: Float[Tensor, "latent d"]) -> Float[Tensor, "latent d"]:
    """Rows divided by their norms, in float32; rows of norm 0 stay 0."""
    W = W.float()
    return (W / torch.linalg.vector_norm(W, dim=1, keepdim=True).clamp(min=NORM_FLOOR)).contiguous()


def cosine_blocks(rows: Float[Tensor, "latent d"], others: Float[Tensor, "other d"]) -> Iterator[tuple[int, Float[Tensor, "row other"]]]:
    """Cosines of unit rows with all others, some rows at a time: the first row's number and the block."""
    first = 0
    for part in rows.split(block_rows(others)):
        yield first, part @ others.T
        first += len(part)


def block_rows(others: Float[Tensor, "other d"]) -> int:
    """How many rows' cosines with all others are held at once."""
    return max(1, BLOCK_VALUES.get(others.device.type, 1 << 22) // len(others))


class Nearest(NamedTuple):
    """Of each latent: its largest cosine, with which other latent, and the largest absolute cosine."""

    cosine: Float[Tensor, " latent"]
    latent: Int[Tensor, " latent"]
    absolute: Float[Tensor, " latent"]


class Partner(NamedTuple):
    """Of each latent its largest cosine, and with which other latent."""

    cosine: Float[Tensor, " latent"]
    latent: Int[Tensor, " latent"]


def partners(rows: Float[Tensor, "latent d"]) -> Partner:
    """As nearest_within, the signed maximum alone: by the kernel that training uses, several times faster."""
    partner = kernels(rows).nearest_in_chunk(rows, torch.arange(len(rows), device=rows.device), len(rows))
    return Partner(pair_cosines(rows, partner).clamp_(-1, 1), partner)


def nearest_within(rows: Float[Tensor, "latent d"], also: Callable[[int, Tensor], None] | None = None) -> Nearest:
    """Every latent's nearest other latent of the same dictionary, over all pairs.

    Args:
        rows: of unit norm, two or more.
        also: called with each block of cosines, what lies on the diagonal set to -2.
    """
    parts = []
    for first, cosines in cosine_blocks(rows, rows):
        own = cosines.diagonal(first)
        own.fill_(2)
        lowest = cosines.amin(1)
        own.fill_(-2)
        best = cosines.max(1)
        if also is not None:
            also(first, cosines)
        parts.append((best.values, best.indices, torch.maximum(best.values, -lowest)))
    cosine, latent, absolute = (torch.cat(column) for column in zip(*parts, strict=True))
    return Nearest(cosine.clamp_(-1, 1), latent, absolute.clamp_(max=1))


def nearest_across(rows: Float[Tensor, "latent d"], others: Float[Tensor, "other d"]) -> tuple[Float[Tensor, " latent"], Float[Tensor, " other"]]:
    """The largest cosine of each latent with any of the other dictionary, and of each of those with any latent: one pass for both."""
    own, theirs = [], rows.new_full((len(others),), -2)
    for _, cosines in cosine_blocks(rows, others):
        own.append(cosines.amax(1))
        torch.maximum(theirs, cosines.amax(0), out=theirs)
    return torch.cat(own).clamp_(-1, 1), theirs.clamp_(-1, 1)


def row_cosines(a: Float[Tensor, "latent d"], b: Float[Tensor, "latent d"]) -> Float[Tensor, " latent"]:
    """Cosine of each unit row with the row of the same number."""
    return torch.linalg.vecdot(a, b).clamp_(-1, 1)
