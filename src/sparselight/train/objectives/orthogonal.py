"""The orthogonality penalty on decoder rows.

The nearest row is searched by a kernel, without gradient. What remains is a function of one cosine a row, and its gradient a product with a
sparse symmetric matrix (kernels.decode), added to the weight gradients in blocks of rows: nothing of size [latent latent] is made, and of
size [latent d_out] at most one copy, where rows must be normalized first.
"""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.kernels import Selection, WeightGradients, kernels
from sparselight.train.objectives.known_gradient import with_gradient
from sparselight.train.objectives.objective import TermInputs

ROWS_AT_ONCE = 1 << 11


def orthogonal(inputs: TermInputs) -> Float[Tensor, ""]:
    """(1/m) sum over latents i of (max over j != i in i's chunk of cos(w_i, w_j))^2, w the rows of W_dec.

    arXiv 2509.22033, equation 4: the maximum is signed, so an opposite row does not count where any other is nearer. The m latents are divided
    anew each time, at random, into K = ceil(m / objective.orthogonal_chunk) chunks. The paper's chunks are equal; here, where K does not divide
    m, they have ceil(m / K) latents, the last fewer, every latent weighs 1/m, and one alone in its chunk counts 0. Gradient to both rows of a pair.
    """
    W_dec, settings = inputs.sae.W_dec.detach(), inputs.config.objective
    n_latents = len(W_dec)
    rows = W_dec if inputs.config.decoder_norm == "unit" else normalize(W_dec)
    order = partition(n_latents, inputs.config.seed, inputs.step).to(W_dec.device)
    partner = kernels(rows).nearest_in_chunk(rows, order, chunk_size(n_latents, settings.orthogonal_chunk))
    cosines = pair_cosines(rows, partner)
    return with_gradient(inputs, cosines.square().mean(), partial(add_gradient, W_dec, rows, partner, cosines))


def chunk_size(n_latents: int, at_most: int) -> int:
    """Latents in each chunk but the last, which may have fewer."""
    n_chunks = -(-n_latents // at_most)
    return -(-n_latents // n_chunks)


def partition(n_latents: int, seed: int, step: int) -> Int[Tensor, " latent"]:
    """The order whose runs are a step's chunks; a function of its arguments, so that a resumed training has the same."""
    return torch.from_numpy(np.random.default_rng([seed, step]).permutation(n_latents))


def pair_cosines(rows: Float[Tensor, "latent d_out"], partner: Int[Tensor, " latent"]) -> Float[Tensor, " latent"]:
    """Cosine of each row of unit norm with its partner; 0 where that is itself."""
    n = len(rows)
    pairs = Selection(partner.int(), torch.arange(n + 1, device=rows.device), n)
    cosines = kernels(rows).decode_gradient(rows.unsqueeze(0), pairs, rows, (n,))
    return cosines.masked_fill_(partner == torch.arange(n, device=rows.device), 0)


def add_gradient(
    W_dec: Float[Tensor, "latent d_out"], rows: Float[Tensor, "latent d_out"], partner: Int[Tensor, " latent"], cosines: Float[Tensor, " latent"],
    buffers: WeightGradients, weight: float,
) -> None:
    """Add weight * dL/dW_dec.

    With r = w / |w|, c_i = r_i . r_p(i), L = (1/m) sum c_i^2: dL/dr_i gets (2/m) c_i r_p(i) and dL/dr_p(i) gets (2/m) c_i r_i, a sparse matrix
    times r; and dL/dw = (dL/dr - (dL/dr . r) r) / |w|, where the product with r is known from the cosines.
    """
    n = len(rows)
    own = torch.arange(n, device=rows.device)
    row, order = torch.cat([own, partner]).sort(stable=True)
    column = torch.cat([partner, own])[order].int()
    values = (cosines * (2 * weight / n)).repeat(2)[order]
    starts = torch.searchsorted(row, torch.arange(n + 1, device=rows.device))
    along = torch.segment_reduce(values * cosines.repeat(2)[order], "sum", offsets=starts)
    for first in range(0, n, ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        bounds = starts[first : first + ROWS_AT_ONCE + 1]
        entries = slice(int(bounds[0]), int(bounds[-1]))
        grad = kernels(rows).decode(values[entries], Selection(column[entries], bounds - bounds[0], n), rows, (n,))[0]
        grad.addcmul_(rows[part], along[part].unsqueeze(1), value=-1)
        if rows is not W_dec:
            grad /= torch.linalg.vector_norm(W_dec[part], dim=1, keepdim=True).clamp_(min=torch.finfo(rows.dtype).tiny)
        buffers.W_dec[part] += grad
