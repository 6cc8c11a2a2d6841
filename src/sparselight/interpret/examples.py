"""Examples of firing: one pass over the sampled tokens through every coder, and the contexts that a card shows.

Owns the sparse activation matrix [token, latent] of each coder over a frame, and the choice of contexts: the strongest
firings, at most one an example, and a few from lower quantiles of the positive activations, because the top alone makes any
latent look cleaner than it is. Refuses: a coder whose width is not that of the site.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse

from sparselight.errors import SaeError
from sparselight.interpret.tokens import TokenFrame
from sparselight.protocols import SparseCoder
from sparselight.records import Context

BLOCK_TOKENS = 8192
AFTER_FRAC = 1 / 3  # of a window lies after the peak: a causal subject has seen only what stands before it


def n_blocks(frame: TokenFrame) -> int:
    """How many blocks `encode_frame` reads."""
    return sum(-(-(part.stop - part.start) // BLOCK_TOKENS) for part in frame.sets)


def encode_frame(coders: Mapping[str, SparseCoder], frame: TokenFrame, site: str, step: Callable[[str], None]) -> dict[str, sparse.csr_matrix]:
    """Encode all tokens of a frame once with every coder.

    Args:
        step: called after each block.

    Returns:
        Positive activations [token, latent] in float32, one matrix a coder.
    """
    values: dict[str, list[np.ndarray]] = {name: [] for name in coders}
    latents: dict[str, list[np.ndarray]] = {name: [] for name in coders}
    counts: dict[str, list[np.ndarray]] = {name: [] for name in coders}
    for part, store in zip(frame.sets, frame.stores, strict=True):
        for start in range(part.start, part.stop, BLOCK_TOKENS):
            x = store.read(frame.rows[start : min(start + BLOCK_TOKENS, part.stop)], site)
            for name, coder in coders.items():
                found = _encode(name, coder, x)
                for kept, column in zip((values, latents, counts), found, strict=True):
                    kept[name].append(column)
            step(f"encoding {part.name} tokens")
    return {
        name: sparse.csr_matrix(
            (np.concatenate(values[name]), np.concatenate(latents[name]), np.concatenate([[0], np.cumsum(np.concatenate(counts[name]))])),
            shape=(frame.n_tokens, coder.n_latents),
        )
        for name, coder in coders.items()
    }




def _encode(name: str, coder: SparseCoder, x: Float[torch.Tensor, "token d_in"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and latents of the positive activations, and how many of them each token has."""
    if x.shape[1] != coder.d_in:
        raise SaeError(asked=f"explain the latents of {name}", why=f"it reads vectors of width {coder.d_in}, the site has {x.shape[1]}",
                       instead="give an SAE that was trained at this site")
    parameter = next(iter(coder.parameters()), None) if isinstance(coder, torch.nn.Module) else None
    with torch.inference_mode():
        codes = coder.encode(x if parameter is None else x.to(parameter.device))
    positive = codes.values > 0
    n_positive = torch.bincount(codes.tokens()[positive], minlength=codes.n_tokens)
    return (codes.values[positive].float().cpu().numpy(), codes.latents[positive].to(torch.int32).cpu().numpy(), n_positive.cpu().numpy())


def make_contexts(
    activations: sparse.csc_matrix,
    latent: int,
    frame: TokenFrame,
    token_text: Callable[[int], str],
    n_contexts: int,
    context_tokens: int,
) -> list[Context]:
    """The contexts of one latent: its strongest examples, then (3 in 8 of them) lower quantiles of its positive activations.

    Args:
        activations: over all tokens of the frame.
        context_tokens: length of a window; a third of it after the peak.
    """
    part = slice(activations.indptr[latent], activations.indptr[latent + 1])
    tokens, values = activations.indices[part], activations.data[part]
    peaks = choose_peaks(values, frame.example[tokens], n_contexts)
    return [_window(tokens, values, int(tokens[peak]), frame, token_text, context_tokens) for peak in peaks]


def choose_peaks(values: Float[np.ndarray, " entry"], example: Int[np.ndarray, " entry"], n_contexts: int) -> list[int]:
    """Entries to show: the largest of each of the top examples, then the entries at even quantiles below, no example twice.

    With n_contexts = 8 these are 5 top entries and those at the quantiles 3/4, 2/4 and 1/4 of the positive activations.
    """
    if not len(values):
        return []
    order = np.argsort(-values, kind="stable")
    first_of_example = np.sort(np.unique(example[order], return_index=True)[1])
    n_lower = n_contexts * 3 // 8
    chosen = order[first_of_example[: n_contexts - n_lower]].tolist()
    used = set(example[chosen].tolist())
    for number in range(1, n_lower + 1):
        begin = int(len(order) * number / (n_lower + 1))
        rest: Sequence[int] = order[begin:].tolist()
        peak = next((entry for entry in rest if int(example[entry]) not in used), None)
        if peak is not None:
            chosen.append(peak)
            used.add(int(example[peak]))
    return chosen


def _window(tokens: np.ndarray, values: np.ndarray, peak: int, frame: TokenFrame, token_text: Callable[[int], str], context_tokens: int) -> Context:
    number = frame.example[peak]
    n_after = int(context_tokens * AFTER_FRAC)
    start, stop = max(0, peak - (context_tokens - 1 - n_after)), min(frame.n_tokens, peak + n_after + 1)
    same = np.flatnonzero(frame.example[start:stop] == number)  # an example's tokens are contiguous, and `peak` is one of them
    start, stop = start + int(same[0]), start + int(same[-1]) + 1
    activations = np.zeros(stop - start)
    low, high = np.searchsorted(tokens, [start, stop])
    activations[tokens[low:high] - start] = values[low:high]
    example = frame.examples[number]
    return Context(
        example=example.id, group=example.group, tokens=[token_text(token) for token in frame.token_id[start:stop].tolist()],
        activations=activations.tolist(), peak=peak - start,
    )
