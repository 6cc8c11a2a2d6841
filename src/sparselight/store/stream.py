"""An endless, globally shuffled stream of stored rows whose position is one integer.

Position p = step * batch_tokens + i belongs to epoch p // n, and is row Permutation(n, (seed, epoch))(p % n): every epoch visits every row
once, in an order of its own. A batch is a pure function of its step, so a resumed training sees what an uninterrupted one sees.
Refuses: fewer rows than one batch.
"""

import functools
import hashlib

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import StoreError
from sparselight.protocols import Store
from sparselight.store.permutation import Permutation


class RowStream:
    """Batches of activations of one site."""

    def __init__(self, store: Store, site: str, rows: Int[np.ndarray, " row"] | None, batch_tokens: int, seed: int):
        """Prepare to stream.

        Args:
            rows: the rows to draw from; None for all.
            batch_tokens: rows a batch.

        Raises:
            StoreError: when there are fewer rows than one batch takes, or the site is not stored.
        """
        self.store, self.site, self.rows, self.batch_tokens, self.seed = store, site, rows, batch_tokens, seed
        if self.n_rows < batch_tokens:
            raise StoreError(
                asked=f"draw batches of train.batch_tokens = {batch_tokens} from {site}", why=f"there are only {self.n_rows} rows to draw from",
                instead="harvest more data, or make train.batch_tokens smaller",
            )
        store.read(np.empty(0, dtype=np.int64), site)  # an unknown site comes up here, not at the first batch
        self._order = functools.lru_cache(maxsize=2)(self._make_order)

    @property
    def n_rows(self) -> int:
        """How many rows one epoch visits."""
        return self.store.n_tokens if self.rows is None else len(self.rows)

    def batch(self, step: int) -> Float[Tensor, "token d_in"]:
        """The activations of one step, float32."""
        return self.store.read(self.batch_rows(step), self.site)

    def batch_rows(self, step: int) -> Int[np.ndarray, " token"]:
        """The rows of the store that make up one step's batch."""
        epochs, offsets = np.divmod(step * self.batch_tokens + np.arange(self.batch_tokens, dtype=np.int64), self.n_rows)
        parts = [self._order(int(epoch))(offsets[epochs == epoch]) for epoch in np.unique(epochs)]
        chosen = np.concatenate(parts)
        return chosen if self.rows is None else self.rows[chosen]

    def _make_order(self, epoch: int) -> Permutation:
        digest = hashlib.sha256(f"epoch\0{self.seed}\0{epoch}".encode()).digest()
        return Permutation(self.n_rows, int.from_bytes(digest[:8], "little"))
