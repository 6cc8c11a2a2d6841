"""The slow truth: every kernel as plain dense autograd, in the fewest words.

Tests compare the fast paths with these, forward and every gradient. They materialize [token latent] as often as they like.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparselight.kernels.selection import Selected, Selection


def select_batch_topk(pre: Float[Tensor, "token latent"], n_keep: int, hint: float | None = None) -> Selected:  # noqa: ARG001
    """The n_keep largest positive entries of the whole matrix; among equal ones those at the lowest flat position."""
    order = pre.flatten().sort(descending=True, stable=True).indices[:n_keep]
    keep = torch.zeros_like(pre, dtype=torch.bool)
    keep.view(-1)[order] = True
    return _selected(pre, keep & (pre > 0))


def select_above(pre: Float[Tensor, "token latent"], threshold: Float[Tensor, " latent"]) -> Selected:
    """All positive entries above their latent's threshold."""
    return _selected(pre, (pre > threshold) & (pre > 0))


def sparse_encode(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], selected: Selected,
) -> Float[Tensor, " entry"]:
    """z = x @ W_enc + b_enc at the selected entries."""
    selection = selected.selection
    return (x @ W_enc + b_enc)[selection.tokens, selection.latents]


def sparse_decode(values: Float[Tensor, " entry"], selection: Selection, W_dec: Float[Tensor, "latent d_in"]) -> Float[Tensor, "token d_in"]:
    """x_hat = z @ W_dec."""
    z = values.new_zeros(selection.n_tokens, selection.n_latents)
    return z.index_put((selection.tokens, selection.latents), values) @ W_dec


def dead_latent_loss(
    x: Float[Tensor, "token d_in"], W_enc: Float[Tensor, "d_in latent"], b_enc: Float[Tensor, " latent"], W_dec: Float[Tensor, "latent d_in"],
    pre: Float[Tensor, "token latent"], error: Float[Tensor, "token d_in"], dead: Int[Tensor, " dead"], k: int,  # noqa: ARG001
) -> Float[Tensor, ""]:
    """sum ||e - e_hat||^2 / sum ||e||^2 with e_hat decoded, without bias, from each token's k largest positive dead latents."""
    dead_pre = x.detach() @ W_enc[:, dead] + b_enc[dead]
    if k < len(dead):
        dead_pre = dead_pre * (dead_pre >= dead_pre.topk(k, dim=1).values[:, -1:])
    return (error - dead_pre.relu() @ W_dec[dead]).square().sum() / error.square().sum()


def _selected(pre: Float[Tensor, "token latent"], keep: Bool[Tensor, "token latent"]) -> Selected:
    positions = keep.flatten().nonzero()[:, 0]
    return Selected(Selection.from_flat(positions, *pre.shape), pre.flatten()[positions])
