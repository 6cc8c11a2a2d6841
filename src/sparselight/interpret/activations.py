"""One pass over the stores: every token through every coder once.

Over all tokens, exactly: how often each latent fires in each set, its largest activation, its strongest examples (`strongest`). Over the tokens of
the frame, the even sample on which explanations are searched and scored: all activations, on disk (`cache`). Memory depends on the number of
latents and on the longest example, not on the size of the stores. Refuses: a coder whose width is not that of the site.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse

from sparselight.errors import SaeError
from sparselight.interpret.cache import ActivationCache, CacheWriter
from sparselight.interpret.strongest import Peaks, Strongest, find_peaks
from sparselight.interpret.tokens import SetSlice, SetTokens, TokenFrame
from sparselight.protocols import SparseCoder

BLOCK_TOKENS = 8192
AFTER_FRAC = 1 / 3  # of a window lies after the peak: a causal subject has seen only what stands before it

Step = Callable[[str], None]
Latents = Int[np.ndarray, " latent"]


@dataclass(slots=True)
class Reading:
    """What the pass found of one coder."""

    name: str
    coder: SparseCoder
    cache: ActivationCache
    n_fires: dict[tuple[str, str], Latents]
    """By (role, set): tokens on which each latent is positive, of all that were read."""
    largest: Float[np.ndarray, " latent"]
    strongest: dict[str, Strongest] = field(default_factory=dict)
    """By role; none of a control."""


def window_bounds(context_tokens: int) -> tuple[int, int]:
    """Tokens of a window before and after its peak."""
    after = int(context_tokens * AFTER_FRAC)
    return context_tokens - 1 - after, after


def n_blocks(sets: Sequence[SetTokens]) -> int:
    """How many blocks `read_activations` reads."""
    return sum(len(tokens.block_edges(BLOCK_TOKENS)) - 1 for tokens in sets)


def read_activations(
    coders: Mapping[str, SparseCoder], controls: Mapping[str, SparseCoder], sets: Sequence[SetTokens], frame: TokenFrame, site: str,
    folders: Mapping[str, Path], n_strongest: int, context_tokens: int, step: Step,
) -> dict[str, Reading]:
    """Read all tokens of all sets once.

    Args:
        coders: by source.
        controls: by name; they see the tokens of the frame only, and nothing is kept of them but their activations there.
        sets: in the order of the frame.
        folders: where the activations of each name go.
        n_strongest: examples kept of each latent and role.
        step: called after each block.

    Raises:
        SaeError: when a coder does not fit the site.
        StoreError: when a store cannot be read, or the disk is full.
    """
    roles = list(dict.fromkeys(part.role for part in frame.sets))
    with ExitStack() as stack:
        readers = []
        for name, coder in {**coders, **controls}.items():
            writer = stack.enter_context(CacheWriter(folders[name], coder.n_latents, frame.n_tokens, frame.digest()))
            strongest = {} if name in controls else {role: Strongest(coder.n_latents, n_strongest, context_tokens) for role in roles}
            readers.append(_Reader(name, coder, writer, strongest, window_bounds(context_tokens)))
        for number, (part, tokens, repeated) in enumerate(zip(frame.sets, sets, _repeated(frame.sets, sets), strict=True)):
            for start, stop in _pairs(tokens.block_edges(BLOCK_TOKENS)):
                block = _Block.of(part, number, tokens, frame, start, stop, repeated)
                x = tokens.store.read(block.row, site)
                for reader in readers:
                    reader.read(block, x)
                step(f"reading {part.name} tokens")
    return {
        reader.name: Reading(reader.name, reader.coder, ActivationCache(folders[reader.name]), reader.n_fires, reader.largest, reader.strongest)
        for reader in readers
    }


def _repeated(parts: Sequence[SetSlice], sets: Sequence[SetTokens]) -> list[Int[np.ndarray, " example"]]:
    """Of each set the examples that an earlier set of the same role holds whole as well, by the set's own numbers: a card shows an example once."""
    found: list[Int[np.ndarray, " example"]] = []
    seen: dict[tuple[str, str], int] = {}
    for part, tokens in zip(parts, sets, strict=True):
        own: dict[tuple[str, str], int] = {}
        repeated = []
        for number, n_rows in zip(*(column.tolist() for column in np.unique(tokens.example, return_counts=True)), strict=True):
            key = (part.role, tokens.examples[number].id)
            own[key] = n_rows
            if seen.get(key) == n_rows:
                repeated.append(number)
        seen |= own
        found.append(np.array(repeated, dtype=np.int64))
    return found


@dataclass(frozen=True, slots=True)
class _Block:
    """Neighbouring tokens of one set, whole examples."""

    part: SetSlice
    number: int
    row: Int[np.ndarray, " token"]
    example: Int[np.ndarray, " token"]
    in_frame: Int[np.ndarray, " sampled"]
    """Tokens of the block that the frame holds."""
    frame_token: Int[np.ndarray, " sampled"]
    """Where in the frame they stand."""
    is_new: Bool[np.ndarray, " token"]
    """Whether no earlier set holds the token's example."""

    @classmethod
    def of(cls, part: SetSlice, number: int, tokens: SetTokens, frame: TokenFrame, start: int, stop: int, repeated: Int[np.ndarray, " example"]) -> "_Block":
        row = tokens.rows[start:stop]
        sampled = frame.rows[part.start : part.stop]
        at = np.minimum(np.searchsorted(sampled, row), len(sampled) - 1)
        in_frame = np.flatnonzero(sampled[at] == row)
        example = tokens.example[start:stop]
        return cls(part, number, row, example, in_frame, part.start + at[in_frame], ~np.isin(example, repeated))


@dataclass(slots=True)
class _Reader:
    """One coder during the pass."""

    name: str
    coder: SparseCoder
    writer: CacheWriter
    strongest: dict[str, Strongest]
    bounds: tuple[int, int]
    n_fires: dict[tuple[str, str], Latents] = field(default_factory=dict)
    largest: Float[np.ndarray, " latent"] = field(init=False)

    def __post_init__(self) -> None:
        self.largest = np.zeros(self.coder.n_latents, dtype=np.float32)

    def read(self, block: _Block, x: Float[torch.Tensor, "token d_in"]) -> None:
        if not self.strongest:
            if len(block.in_frame):
                self._cache(encode(self.name, self.coder, x[torch.from_numpy(block.in_frame)]), block.frame_token)
            return
        codes = encode(self.name, self.coder, x)
        key = (block.part.role, block.part.name)
        fires = np.diff(codes.indptr)
        self.n_fires[key] = self.n_fires.get(key, 0) + fires
        some = fires > 0
        if some.any():
            self.largest[some] = np.maximum(self.largest[some], np.maximum.reduceat(codes.data, codes.indptr[:-1][some]))
        latent = np.repeat(np.arange(codes.shape[1]), fires)
        peaks = find_peaks(latent, codes.data, codes.indices, block.example, block.row, block.number)
        peaks = peaks.pick(np.flatnonzero(block.is_new[np.searchsorted(block.row, peaks.row)]))
        self.strongest[block.part.role].add(peaks, lambda chosen: self._windows(chosen, block, codes, latent))
        if len(block.in_frame) == len(block.row):
            self._cache(codes, block.frame_token)
        elif len(block.in_frame):
            self._cache(codes.tocsr()[block.in_frame].tocsc(), block.frame_token)

    def _cache(self, codes: sparse.csc_matrix, frame_token: Int[np.ndarray, " token"]) -> None:
        self.writer.add(np.repeat(np.arange(codes.shape[1]), np.diff(codes.indptr)), frame_token[codes.indices], codes.data)

    def _windows(self, peaks: Peaks, block: _Block, codes: sparse.csc_matrix, latent: Int[np.ndarray, " entry"]) -> Float[np.ndarray, "entry window"]:
        n_tokens = len(block.row)
        keys = latent * n_tokens + codes.indices  # ascending
        peak = np.searchsorted(block.row, peaks.row)
        token = peak[:, None] + np.arange(-self.bounds[0], self.bounds[1] + 1)
        inside = (token >= 0) & (token < n_tokens)
        token = np.clip(token, 0, n_tokens - 1)
        inside &= block.example[token] == block.example[peak][:, None]
        wanted = peaks.latent[:, None] * n_tokens + token
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(inside & (keys[at] == wanted), codes.data[at], 0).astype(np.float32)


def encode(name: str, coder: SparseCoder, x: Float[torch.Tensor, "token d_in"]) -> sparse.csc_matrix:
    """Positive activations [token, latent] in float32, tokens ascending within each latent.

    Raises:
        SaeError: when the coder reads another width.
    """
    if x.shape[1] != coder.d_in:
        raise SaeError(asked=f"explain the latents of {name}", why=f"it reads vectors of width {coder.d_in}, the site has {x.shape[1]}",
                       instead="give an SAE that was trained at this site")
    parameter = next(iter(coder.parameters()), None) if isinstance(coder, torch.nn.Module) else None
    parts = []
    with torch.inference_mode():
        for chunk in x.split(BLOCK_TOKENS):
            codes = coder.encode(chunk if parameter is None else chunk.to(parameter.device))
            positive = codes.values > 0
            n_positive = torch.bincount(codes.tokens()[positive], minlength=codes.n_tokens).cpu().numpy()
            entries = (codes.values[positive].float().cpu().numpy(), codes.latents[positive].to(torch.int32).cpu().numpy(),
                       np.concatenate([[0], np.cumsum(n_positive)]))
            parts.append(sparse.csr_matrix(entries, shape=(codes.n_tokens, coder.n_latents)))
    return (parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")).tocsc()


def _pairs(edges: Int[np.ndarray, " edge"]) -> Iterator[tuple[int, int]]:
    return zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
