"""What decoder directions say of latents without any data: the next tokens that they promote, and which directions are nearest.

Owns both, in blocks, so that no latent x vocabulary or latent x latent matrix is ever whole. Refuses nothing: a coder without directions, or a
subject that cannot tell effects on the logits, leaves them empty.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import SubjectError
from sparselight.protocols import SparseCoder, Subject
from sparselight.records import Neighbour

N_NEXT_TOKENS = 6
EFFECT_ENTRIES = 16_000_000  # of a latent x vocabulary block held at once: 64 MB
COSINE_ENTRIES = 8_000_000  # of a latent x latent block
MIN_COSINE = 0.1  # below it two directions of some hundred dimensions have nothing in common

Effects = list[tuple[list[str], list[str]]]


def directions_of(coder: SparseCoder) -> Float[Tensor, "latent d_out"] | None:
    """Decoder rows, where the coder has them."""
    rows = getattr(coder, "W_dec", None)
    return rows.detach() if isinstance(rows, Tensor) else None


def output_effects(coder: SparseCoder, subject: Subject, site: str, token_text: Callable[[int], str]) -> Effects:
    """The next tokens (residues, items) that each latent's decoder direction promotes and suppresses most; empty where the subject cannot tell."""
    directions, effects_of = directions_of(coder), getattr(subject, "output_effects", None)
    nothing: Effects = [([], [])] * coder.n_latents
    if directions is None or effects_of is None:
        return nothing
    result: Effects = []
    block, start = 64, 0  # the first block is small: only its answer tells how wide the vocabulary is
    with torch.inference_mode():
        while start < coder.n_latents:
            try:
                effects = effects_of(directions[start : start + block], site)
            except SubjectError:
                return nothing
            result += [([token_text(token) for token in top], [token_text(token) for token in bottom]) for top, bottom in _extremes(effects)]
            start += block
            block = max(1, EFFECT_ENTRIES // effects.shape[1])
    return result


def _extremes(effects: Float[Tensor, "latent vocabulary"]) -> Iterator[tuple[list[int], list[int]]]:
    n_tokens = min(N_NEXT_TOKENS, effects.shape[1])
    top, bottom = (effects.topk(n_tokens, dim=1, largest=largest).indices.tolist() for largest in (True, False))
    return zip(top, bottom, strict=True)


@torch.inference_mode()
def nearest_directions(rows: Float[Tensor, "latent d_out"], others: Float[Tensor, "other d_out"], source: str, n: int,
                       same: bool = False) -> list[list[Neighbour]]:
    """The n directions of another dictionary, or of the same, with the largest cosine to each row, the nearest first.

    Args:
        source: of `others`.
        same: both are one dictionary; no latent is its own neighbour.
    """
    units, directions = normalize(others.float()), normalize(rows.float())
    n = min(n, len(units) - same)
    if n < 1:
        return [[] for _ in range(len(rows))]
    result: list[list[Neighbour]] = []
    step = max(1, COSINE_ENTRIES // len(units))
    for start in range(0, len(rows), step):
        cosines = directions[start : start + step] @ units.T
        if same:
            own = torch.arange(len(cosines), device=cosines.device)
            cosines[own, own + start] = -torch.inf
        values, indices = cosines.topk(n, dim=1)
        result += [[Neighbour(source=source, latent=other, cosine=round(cosine, 6)) for cosine, other in zip(*pair, strict=True) if cosine >= MIN_COSINE]
                   for pair in zip(values.tolist(), indices.tolist(), strict=True)]
    return result
