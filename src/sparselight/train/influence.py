"""TracIn: how much a training step on an example would lower an SAE's loss on seed examples. Re-ranks what retrieval found (arXiv 2411.00743).

Pruthi et al. 2020, "Estimating training data influence by tracing gradient descent", at one checkpoint, the SAE itself, without its learning rate:
    score(z) = <grad L(z), (1/S) sum over seeds s of grad L(s)>      in W_enc, b_enc, W_dec and b_dec
L of an example is the mean over its tokens of ||x - x_hat||^2 / d + l1 * sum z in the inference form, its selection held constant. Nothing the
size of a weight matrix is made for a candidate: with the seeds' mean gradient G, d = dL/dx_hat and p = dL/dpre of a token its share is
    <d, sum_j z_j G_dec[j] + g_b_dec> + sum_j p_j (<x, G_enc[:, j]> + g_b_enc[j] - <W_enc[:, j], g_b_dec>)      over its active latents j,
the last product where b_dec is subtracted. Refuses: transcoders, whose target is not in what they read.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import TrainingError
from sparselight.kernels import Selection, WeightGradients, kernels
from sparselight.sae import Sae

CHUNK_TOKENS = 4096

Rows = Float[Tensor, "token d_in"]


@dataclass(frozen=True)
class TokenGradients:
    """What the gradients of some tokens' losses are made of."""

    x: Float[Tensor, "token d_in"]
    """As the encoder reads it."""
    selection: Selection
    z: Float[Tensor, " entry"]
    d_x_hat: Float[Tensor, "token d_in"]
    d_pre: Float[Tensor, " entry"]


@dataclass(frozen=True)
class MeanGradient:
    """Mean gradient of the seeds' losses; weight matrices latent by latent."""

    W_enc: Float[Tensor, "latent d_in"]
    b_enc: Float[Tensor, " latent"]
    W_dec: Float[Tensor, "latent d_in"]
    b_dec: Float[Tensor, " d_in"]


@torch.no_grad()
def influence(
    sae: Sae, activations: Iterable[Rows], seed_activations: Iterable[Rows], *, l1: float = 0.0, kind: Literal["dot", "cosine"] = "dot",
    base: Sae | None = None,
) -> Float[Tensor, " example"]:
    """TracIn scores of examples for seed examples; the larger, the more a step on the example helps the seeds.

    Args:
        activations: raw activations of each candidate example, read once, some thousand tokens at a time.
        seed_activations: the same of each seed.
        l1: weight of the L1 norm in the loss, relative to the squared error's mean over dimensions.
        kind: the inner product, or that divided by both gradients' norms, so that examples with large errors do not come first for that alone.
        base: for a residual SAE, the SAE on whose errors it is trained.

    Raises:
        TrainingError: for a transcoder, without seeds, or for an example without tokens.
        SaeError: when activations have another width than the dictionary.
    """
    if sae.is_transcoder:
        raise TrainingError(asked="score examples by their influence on a transcoder", why="its loss needs another site's activations too",
                            instead="score them by an SAE of the same site")
    seeds = mean_gradient(sae, seed_activations, l1, base)
    through_b_dec = sae.W_enc.T @ seeds.b_dec if sae.subtract_b_dec else torch.zeros_like(seeds.b_enc)
    scores = [example_scores(sae, seeds, through_b_dec, x, sizes, l1, kind, base) for x, sizes in chunks(activations)]
    return torch.cat(scores) if scores else seeds.b_enc.new_zeros(0)


def example_scores(
    sae: Sae, seeds: MeanGradient, through_b_dec: Float[Tensor, " latent"], x: Rows, sizes: Sequence[int], l1: float, kind: str, base: Sae | None,
) -> Float[Tensor, " example"]:
    """Scores of a chunk of examples, whose tokens stand one after the other."""
    found, ops = token_gradients(sae, x, l1, base), kernels(x)
    from_decoder = ops.decode(found.z, found.selection, seeds.W_dec, (sae.n_latents,))[0] + seeds.b_dec
    per_entry = ops.decode_gradient(found.x.unsqueeze(0), found.selection, seeds.W_enc, (sae.n_latents,))
    per_entry += found.selection.per_entry(seeds.b_enc - through_b_dec)
    per_token = (found.d_x_hat * from_decoder).sum(1) + found.selection.sum_per_token(found.d_pre * per_entry)
    lengths = torch.tensor(sizes, device=x.device)
    scores = torch.segment_reduce(per_token, "mean", lengths=lengths)
    if kind == "dot":
        return scores
    whole = sum(float(part.square().sum()) for part in (seeds.W_enc, seeds.b_enc, seeds.W_dec, seeds.b_dec)) ** 0.5
    norms = torch.stack([gradient_norm(sae, found, end - size, end) for size, end in zip(sizes, lengths.cumsum(0).tolist(), strict=True)])
    return scores / (norms * whole).clamp(min=torch.finfo(scores.dtype).tiny)


def token_gradients(sae: Sae, x: Rows, l1: float, base: Sae | None) -> TokenGradients:
    """Of each token's own loss."""
    codes, ops = sae.encode(x), kernels(x)
    selection = Selection(codes.latents.int(), codes.indptr, sae.n_latents)
    target = x if base is None else x - base.reconstruct(x)
    d_x_hat = (sae.decode(codes) - target) * (2 / sae.d_out)
    d_pre = ops.decode_gradient(d_x_hat.unsqueeze(0), selection, sae.W_dec.detach(), (sae.n_latents,)) + l1
    return TokenGradients(sae.encoder_input(x), selection, codes.values, d_x_hat, d_pre)


def mean_gradient(sae: Sae, examples: Iterable[Rows], l1: float, base: Sae | None) -> MeanGradient:
    """Mean over examples of the gradients of their losses: once, dense."""
    sums = WeightGradients(torch.zeros_like(sae.W_enc.T), torch.zeros_like(sae.b_enc), torch.zeros_like(sae.W_dec))
    part = WeightGradients(torch.zeros_like(sums.W_enc), torch.zeros_like(sums.b_enc), torch.zeros_like(sums.W_dec))
    b_dec, n_examples = torch.zeros_like(sae.b_dec), 0
    for x, sizes in chunks(examples):
        found = token_gradients(sae, x, l1, base)
        weights = torch.cat([torch.full((size,), 1 / size, device=x.device) for size in sizes])
        d_x_hat, d_pre, part.fresh = found.d_x_hat * weights.unsqueeze(1), found.d_pre * weights[found.selection.tokens], True
        kernels(x).weight_gradients(found.x, d_x_hat.unsqueeze(0), found.z, d_pre, found.selection, (sae.n_latents,), part)
        for total, new in ((sums.W_enc, part.W_enc), (sums.b_enc, part.b_enc), (sums.W_dec, part.W_dec), (b_dec, d_x_hat.sum(0))):
            total += new
        n_examples += len(sizes)
    if not n_examples:
        raise TrainingError(asked="score examples by their influence on seeds", why="there are no seeds", instead="give the activations of one at least")
    if sae.subtract_b_dec:
        b_dec -= sae.W_enc @ sums.b_enc
    return MeanGradient(*(total / n_examples for total in (sums.W_enc, sums.b_enc, sums.W_dec, b_dec)))


def gradient_norm(sae: Sae, found: TokenGradients, start: int, end: int) -> Float[Tensor, ""]:
    """Norm of one example's gradient. A sum of outer products u_t v_t^T has the squared norm sum over s, t of <u_s, u_t> <v_s, v_t>."""
    first, last = int(found.selection.indptr[start]), int(found.selection.indptr[end])
    active, place = found.selection.latents[first:last].unique(return_inverse=True)
    token, n = found.selection.tokens[first:last] - start, end - start
    z, d_pre = (torch.zeros(n, len(active), dtype=values.dtype, device=values.device).index_put((token, place), values[first:last])
                for values in (found.z, found.d_pre))
    x, d_x_hat = found.x[start:end], found.d_x_hat[start:end]
    decoder = ((z @ z.T) * (d_x_hat @ d_x_hat.T)).sum()
    encoder = ((d_pre @ d_pre.T) * (x @ x.T + 1)).sum()
    b_dec = d_x_hat.sum(0)
    if sae.subtract_b_dec:
        b_dec = b_dec - sae.W_enc[:, active.long()] @ d_pre.sum(0)
    return (decoder + encoder + b_dec.square().sum()).clamp(min=0).sqrt() / n


def chunks(examples: Iterable[Rows]) -> Iterator[tuple[Rows, list[int]]]:
    """Whole examples together, up to CHUNK_TOKENS tokens or one example, and how many tokens each has."""
    held: list[Tensor] = []
    for number, x in enumerate(examples):
        if not len(x):
            raise TrainingError(asked="score examples by their influence", why=f"example {number} has no tokens", instead="leave it out")
        if held and sum(map(len, held)) + len(x) > CHUNK_TOKENS:
            yield torch.cat(held), [len(part) for part in held]
            held = []
        held.append(x)
    if held:
        yield torch.cat(held), [len(part) for part in held]
