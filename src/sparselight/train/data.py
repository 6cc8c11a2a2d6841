"""What each step trains on: rows of the stream as the encoder reads them, and what the decoder shall give back, both scaled.

A base SAE reads and gives back the same rows; a residual SAE gives back x - base(x), a transcoder another site's rows. Input and target differ
much in size there, so each has its own scale (arXiv 2507.12990), and the input is centered. Scales are estimated on the first batches of the
stream, in float64; Sae.fold undoes them. Raw rows and targets are made once a step, however many SAEs train on them. A share of each batch may be
rows of a second store whose target is 0; scales are estimated without them.
Refuses: rows that are not finite, and rows that are all the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import TrainingError
from sparselight.protocols import Store
from sparselight.sae import Affine, Sae
from sparselight.store import RowStream
from sparselight.train.config import TrainConfig

SCALE_BATCHES = 8
ROWS_PER_DIMENSION = 10  # at least so many rows a dimension are read to estimate a covariance
SHRINKAGE = 1e-3  # of the mean eigenvalue, added to all: directions without variance are not blown up


@dataclass
class RowBatch:
    """Raw activations of one step, and targets made from them when they are asked for."""

    step: int
    x: Float[Tensor, "token d_in"]
    rows: "Rows"
    n_silent: int = 0
    """So many rows, the last ones, are of the second store."""
    _targets: dict[tuple[int, str | None], Tensor] = field(default_factory=dict)

    @property
    def own(self) -> Float[Tensor, "row d_in"]:
        """Without the rows of the second store."""
        return self.x[: len(self.x) - self.n_silent]

    def target(self, base: Sae | None, site: str | None) -> Float[Tensor, "token d_out"]:
        """What an SAE shall give back: x, or another site's activations; what a base SAE leaves of them; 0 for rows of the second store."""
        key = (id(base), site)
        if key not in self._targets:
            whole = self.own if site is None else self.rows.read(self.step, site)
            left = whole if base is None else whole - base.reconstruct(self.own)
            self._targets[key] = torch.cat([left, left.new_zeros(self.n_silent, left.shape[1])]) if self.n_silent else left
        return self._targets[key]

    @property
    def example(self) -> Int[Tensor, " token"]:
        """Number of the example that each row is of."""
        return self.rows.examples(self.step)


class Rows:
    """Raw batches of one site of a store, the last n_silent rows of each from the same site of a second one; a pure function of the step."""

    def __init__(
        self, store: Store, site: str, rows: np.ndarray | None, batch_tokens: int, seed: int, device: torch.device, target_sites: tuple[str, ...] = (),
        silent: Store | None = None, n_silent: int = 0,
    ):
        self.store, self.device, self.site, self.n_silent = store, device, site, n_silent
        make = stream_maker(store)
        self.streams = {name: make(name, rows, batch_tokens - n_silent, seed) for name in (site, *target_sites)}
        self.silent = None if silent is None or not n_silent else Rows(silent, site, None, n_silent, seed, device)
        self._example: Int[np.ndarray, " row"] | None = None

    def batch(self, step: int) -> RowBatch:
        x = self.read(step, self.site)
        return RowBatch(step, x if self.silent is None else torch.cat([x, self.silent.read(step, self.site)]), self, self.n_silent)

    def read(self, step: int, site: str) -> Float[Tensor, "token d"]:
        """Activations of a step.

        Raises:
            TrainingError: naming step, row and shard, when some are not finite.
        """
        stream = self.streams[site]
        x = stream.batch(step)
        if not x.isfinite().all():
            row = int(stream.batch_rows(step)[int((~x.isfinite()).any(1).nonzero()[0, 0])])
            raise TrainingError(asked=f"train on step {step}", why=f"row {row} of the store{self._shard(row)} holds activations that are not finite at {site}",
                                instead="harvest again (another harvest.dtype, if values overflow it); the last good checkpoint is kept")
        return x.to(self.device)

    def close(self) -> None:
        """End the reading ahead."""
        for stream in self.streams.values():
            stream.close()
        if self.silent is not None:
            self.silent.close()

    def examples(self, step: int) -> Int[Tensor, " token"]:
        if self._example is None:
            self._example = self.store.tokens().column("example").to_numpy().astype(np.int64)
        own = torch.from_numpy(self._example[self.streams[self.site].batch_rows(step)]).to(self.device)
        return own if self.silent is None else torch.cat([own, self.silent.examples(step) + int(self._example.max()) + 1])

    def _shard(self, row: int) -> str:
        first = 0
        for shard in self.store.manifest.shards:
            if row < first + shard.n_tokens:
                return f" (shard {shard.name}, its row {row - first})"
            first += shard.n_tokens
        return ""


def stream_maker(store: Store) -> Callable[..., RowStream]:
    """A store's own stream, such as a live one's; any other is read row by row."""
    own: Callable[..., RowStream] | None = getattr(store, "stream", None)
    return partial(RowStream, store) if own is None else own


@dataclass(frozen=True)
class Scaling:
    """From raw rows to what training sees."""

    into: Affine
    out_of: Affine
    b_dec: Float[Tensor, " d_out"] | None
    """The decoder bias to begin with, already scaled; None for an SAE without one."""

    def __str__(self) -> str:
        return f"input {self.into}" + ("" if self.out_of is self.into else f", target {self.out_of}") + ": folded into the weights"


class TrainingData:
    """Scaled batches for one SAE."""

    def __init__(self, rows: Rows, config: TrainConfig, base: Sae | None):
        self.rows, self.config, self.base = rows, config, base
        self.scaling = self._estimate()

    @property
    def is_plain(self) -> bool:
        """Whether what is read is what is given back."""
        return self.base is None and self.config.target_site is None

    def scaled(self, batch: RowBatch) -> tuple[Float[Tensor, "token d_in"], Float[Tensor, "token d_out"]]:
        """Encoder input and target."""
        x = self.scaling.into(batch.x)
        return x, x if self.is_plain else self.scaling.out_of(batch.target(self.base, self.config.target_site))

    def inputs(self, first_step: int, n: int) -> Iterator[Float[Tensor, "token d_in"]]:
        """The scaled encoder inputs of n steps."""
        return (self.scaling.into(self.rows.batch(step).x) for step in range(first_step, first_step + n))

    def _estimate(self) -> Scaling:
        d_in = self.rows.store.manifest.sites[self.rows.site]
        n = SCALE_BATCHES
        if self.config.normalize == "whiten":
            n = max(n, -(-ROWS_PER_DIMENSION * d_in // self.config.batch_tokens))
        batches = [self.rows.batch(step) for step in range(n)]
        mean, into = self._map([batch.own for batch in batches], f"the activations of {self.rows.site}")
        if self.is_plain:
            return Scaling(into, into, into.linear(mean.unsqueeze(0))[0] if into.mean is None else torch.zeros_like(mean))
        centered = Affine(into.A, mean, into.inverse) if self.config.normalize != "none" else into
        targets = [batch.target(self.base, self.config.target_site)[: len(batch.own)] for batch in batches]
        about, out_of = self._map(targets, "what the base SAE leaves" if self.base is not None else f"the activations of {self.config.target_site}")
        if self.base is not None:
            return Scaling(centered, Affine(out_of.A, None, out_of.inverse), None)
        return Scaling(centered, Affine(out_of.A, about, out_of.inverse), torch.zeros_like(about))

    def _map(self, batches: list[Float[Tensor, "token d"]], name: str) -> tuple[Float[Tensor, " d"], Affine]:
        """Mean, and the map that config.normalize asks for; it leaves the mean where it is, but for per_dimension and whiten."""
        n, d = sum(len(x) for x in batches), batches[0].shape[1]
        mean = torch.stack([x.sum(0, dtype=torch.float64) for x in batches]).sum(0) / n
        variance = torch.stack([(x - mean).square().sum(0) for x in batches]).sum(0) / n
        if not variance.sum() > 0:
            raise TrainingError(asked=f"scale {name}", why="all rows are the same", instead="harvest another site or corpus, or use the base SAE alone")
        kind = self.config.normalize
        if kind in ("none", "scalar"):
            return mean.float(), Affine(1.0 if kind == "none" else float((d / variance.sum()) ** 0.5))
        if kind == "per_dimension":
            return mean.float(), Affine((variance + SHRINKAGE * variance.mean()).rsqrt().float(), mean.float())
        covariance = torch.stack([(x - mean).T @ (x - mean) for x in (batch.double() for batch in batches)]).sum(0) / n
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp(min=0) + SHRINKAGE * values.mean()
        return mean.float(), Affine(((vectors * values.rsqrt()) @ vectors.T).float(), mean.float(), ((vectors * values.sqrt()) @ vectors.T).float())
