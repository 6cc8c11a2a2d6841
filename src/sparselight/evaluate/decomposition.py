"""One dictionary's latents as sparse non-negative combinations of another's.

OrtSAE (arXiv 2509.22033) writes decoder rows of one SAE as sums of few rows of another and keeps the cases whose reconstruction has a cosine
above 0.95 and whose coefficients are all 0.1 or more; its solver is not known. Ours: non-negative orthogonal matching pursuit. The row with the
largest positive product with the residual is taken in, all coefficients are fitted anew by least squares, rows that would get a negative one
are let go, until the cosine is reached or `max_parts` are. Refuses nothing; a latent that is not rebuilt is simply no case.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from sparselight.evaluate.weight_directions import block_rows

RIDGE = 1e-9  # keeps the normal equations of two equal rows solvable
LEAST_PRODUCT = 1e-6  # with the residual; below it nothing more is to be had


class Decompositions(NamedTuple):
    """Of each latent: parts in the order they were taken (a coefficient of 0 is no part), and the cosine of their sum with it."""

    parts: Int[Tensor, "latent part"]
    coefficients: Float[Tensor, "latent part"]
    cosine: Float[Tensor, " latent"]

    def cases(self, least_cosine: float, least_coefficient: float) -> Bool[Tensor, " latent"]:
        """Which latents are rebuilt well enough by parts that all count."""
        counts = (self.coefficients == 0) | (self.coefficients >= least_coefficient)
        return (self.cosine > least_cosine) & counts.all(1)

    def n_parts(self) -> Int[Tensor, " latent"]:
        return (self.coefficients > 0).sum(1)


@torch.no_grad()
def decompose(rows: Float[Tensor, "latent d"], others: Float[Tensor, "other d"], max_parts: int, least_cosine: float) -> Decompositions:
    """Write each unit row as a non-negative combination of at most `max_parts` unit rows of the other dictionary.

    Returns:
        For each row the first combination found whose cosine exceeds `least_cosine`, else the last one.
    """
    max_parts = min(max_parts, len(others))
    found = [_decompose_block(part, others, max_parts, least_cosine) for part in rows.split(block_rows(others))]
    return Decompositions(*(torch.cat(column) for column in zip(*found, strict=True)))


def _decompose_block(rows: Float[Tensor, "row d"], others: Float[Tensor, "other d"], max_parts: int, least_cosine: float) -> Decompositions:
    n = len(rows)
    parts = torch.zeros(n, max_parts, dtype=torch.long, device=rows.device)
    coefficients = torch.zeros(n, max_parts, dtype=torch.float64, device=rows.device)
    cosine = torch.zeros(n, device=rows.device)
    going, residual = torch.arange(n, device=rows.device), rows
    for size in range(1, max_parts + 1):
        products = residual @ others.T
        if size > 1:
            products.scatter_(1, parts[going, : size - 1], -torch.inf)
        best = products.max(1)
        more = best.values > LEAST_PRODUCT
        going = going[more]
        if not len(going):
            break
        parts[going, size - 1] = best.indices[more]
        basis = others[parts[going, :size]].double()
        fitted = nonnegative_least_squares(basis, rows[going].double())
        coefficients[going, :size] = fitted
        rebuilt = torch.bmm(fitted.unsqueeze(1), basis)[:, 0].to(rows.dtype)
        cosine[going] = cosine_similarity(rows[going], rebuilt)
        unfinished = cosine[going] <= least_cosine
        going, residual = going[unfinished], (rows[going] - rebuilt)[unfinished]
    return Decompositions(parts, coefficients, cosine)


def nonnegative_least_squares(basis: Float[Tensor, "row part d"], target: Float[Tensor, "row d"]) -> Float[Tensor, "row part"]:
    """Least squares of each target in its few basis rows; rows with a negative coefficient are let go and the rest fitted again."""
    gram = basis @ basis.transpose(1, 2)
    products = torch.bmm(basis, target.unsqueeze(2))[:, :, 0]
    identity = torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
    kept = torch.ones_like(products, dtype=torch.bool)
    for _ in range(basis.shape[1]):
        inside = kept.unsqueeze(1) & kept.unsqueeze(2)
        fitted = torch.linalg.solve(torch.where(inside, gram, identity) + RIDGE * identity, products.where(kept, 0))
        negative = fitted < 0
        if not bool(negative.any()):
            break
        kept &= ~negative
    return fitted.clamp(min=0)
