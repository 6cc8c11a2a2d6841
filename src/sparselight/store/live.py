"""Activations without a disk: computed when they are asked for, with the interface of a store and its stream.

`LiveStream` shuffles in two steps instead of one. Each epoch orders the examples by a permutation of all of them, cuts that order into
windows of about `window_tokens` tokens, and orders the rows of each window by a permutation of their own. So a batch mixes rows of the
examples of one window, not of the whole corpus; the larger the window, the nearer it comes to a store's global shuffle. Every epoch still
visits every row once, and a batch is a pure function of (seed, step). Refuses: activations that are not finite, by example.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparselight.errors import StoreError, nearest
from sparselight.protocols import Example, Subject
from sparselight.records import StoreManifest
from sparselight.store.capture import row_sizes
from sparselight.store.permutation import Permutation
from sparselight.store.plan import check_examples
from sparselight.store.stream import epoch_seed
from sparselight.subjects.batching import batches_by_length

WINDOW_TOKENS = 65536
BATCH_TOKENS = 8192
MAX_WINDOWS = 2  # in memory: a batch can lie on an edge


class LiveStore:
    """A `protocols.Store` that runs the subject whenever it is read."""

    def __init__(
        self, subject: Subject, examples: Sequence[Example], sites: Sequence[str], corpus_fingerprint: str, batch_tokens: int = BATCH_TOKENS,
    ):
        """Count the tokens of all examples; nothing else is computed yet.

        Args:
            batch_tokens: positions in one forward pass, padding included.

        Raises:
            StoreError: when there is no token or two examples have one id.
            SubjectError: when the subject lacks a site.
        """
        self.subject, self._list, self.batch_tokens = subject, examples, batch_tokens
        counts = subject.n_tokens(examples)
        check_examples(examples, counts)
        self.first_row = np.cumsum([0, *counts])
        self.n_tokens = int(self.first_row[-1])
        self.manifest = StoreManifest(
            subject=subject.ref(), corpus_fingerprint=corpus_fingerprint, sites={site: subject.d_site(site) for site in sites}, dtype="float32", shards=[],
            n_tokens=self.n_tokens, n_examples=len(examples), harvest_s=0.0,
        )
        policy = self.manifest.subject.token_policy
        if policy.max_norms:
            raise StoreError(asked="stream activations with subject.max_norms", why="which tokens those leave out is known only once all have been computed",
                             instead="harvest into a store, or leave subject.max_norms empty")
        self._sizes = row_sizes(examples, counts, policy)

    def __repr__(self) -> str:
        sites = ", ".join(f"{site} [{width}]" for site, width in self.manifest.sites.items())
        return f"LiveStore({self.n_tokens} tokens of {len(self._list)} examples, {sites}, computed when read)"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what the activations depend on."""
        content = ["live", self.manifest.subject.fingerprint, self.manifest.corpus_fingerprint, *self.manifest.sites]
        return hashlib.sha256("\0".join(content).encode()).hexdigest()

    def stream(self, site: str, rows: Int[np.ndarray, " row"] | None, batch_tokens: int, seed: int) -> "LiveStream":
        """Batches to train on. Raises StoreError for a choice of rows, which only a store on disk offers."""
        if rows is not None:
            raise StoreError(asked=f"stream {len(rows)} chosen rows without a store", why="whole examples are computed at a time",
                             instead="give only the examples that are wanted, or harvest them into a store")
        return LiveStream(self, site, batch_tokens, seed)

    def read(self, rows: Int[np.ndarray, " row"], site: str) -> Float[Tensor, "row d_in"]:
        """Compute rows, in the order asked for; every example that one of them belongs to is run whole.

        Raises:
            StoreError: when the site is not among the sites, or activations are not finite.
        """
        if site not in self.manifest.sites:
            raise StoreError(asked=f"stream {site}", why="that site was not asked for", instead=nearest(site, self.manifest.sites))
        rows = np.asarray(rows, dtype=np.int64)
        if not len(rows):
            return torch.empty(0, self.manifest.sites[site])
        owners = np.unique(np.searchsorted(self.first_row, rows, side="right") - 1)
        found, starts = self.capture(owners, site), np.zeros(len(self._list), dtype=np.int64)
        starts[owners] = np.cumsum([0, *np.diff(self.first_row)[owners][:-1]])
        owner = np.searchsorted(self.first_row, rows, side="right") - 1
        return found[torch.from_numpy(starts[owner] + rows - self.first_row[owner])]

    def capture(self, examples: Int[np.ndarray, " example"], site: str) -> Float[Tensor, "row d_in"]:
        """Activations of whole examples, given by number, one after the other, on the CPU."""
        counts = np.diff(self.first_row)[examples]
        starts = torch.from_numpy(np.cumsum([0, *counts[:-1]]))
        out = torch.empty(int(counts.sum()), self.manifest.sites[site])
        sizes = [self._sizes[number] for number in examples.tolist()]
        for group in batches_by_length(sizes, self.batch_tokens, self.manifest.subject.token_policy):
            chunk = [self._list[int(examples[index])] for index in group]
            batch = self.subject.prepare(chunk)
            with torch.no_grad():
                x = self.subject.capture(batch, [site])[site].float().cpu()
            if not torch.isfinite(x).all():
                broken = chunk[int(batch.example.cpu()[~torch.isfinite(x).all(1)][0])]
                raise StoreError(asked=f"stream {site} of the example {broken.id!r}", why="the subject gives activations that are not finite",
                                 instead="harvest into a store, which skips such examples, or leave it out of the corpus")
            out[starts[torch.tensor(group)[batch.example.cpu()]] + batch.position.cpu()] = x
        return out

    def tokens(self) -> pa.Table:
        """One line a row: example, position, token_id, char_start, char_end."""
        names = ("position", "token_id", "char_start", "char_end")
        parts = []
        for start in range(0, len(self._list), 256):
            batch = self.subject.prepare(self._list[start:start + 256])
            parts.append({"example": batch.example.cpu().numpy() + start, **{name: getattr(batch, name).cpu().numpy() for name in names}})
        return pa.table({name: pa.array(np.concatenate([part[name] for part in parts]), pa.int32()) for name in ("example", *names)})

    def examples(self) -> pa.Table:
        """One line an example: example, id, group."""
        return pa.table({"example": pa.array(range(len(self._list)), pa.int32()), "id": [example.id for example in self._list],
                         "group": [example.group for example in self._list]})

    def rows_of(self, examples: Sequence[str]) -> Int[np.ndarray, " row"]:
        """The rows of the examples with these ids, ascending.

        Raises:
            StoreError: when there is no such example.
        """
        number_of = {example.id: number for number, example in enumerate(self._list)}
        missing = next((name for name in examples if name not in number_of), None)
        if missing is not None:
            raise StoreError(asked=f"find the example {missing!r}", why="it is not streamed", instead="use ids from examples()")
        numbers = np.unique([number_of[name] for name in examples]).astype(np.int64)
        return np.concatenate([np.arange(self.first_row[number], self.first_row[number + 1]) for number in numbers] or [np.arange(0)])


class LiveStream:
    """What `RowStream` is to a store on disk. Holds at most MAX_WINDOWS windows in memory."""

    def __init__(self, store: LiveStore, site: str, batch_tokens: int, seed: int, window_tokens: int = WINDOW_TOKENS):
        """Prepare to stream.

        Args:
            window_tokens: rows that are shuffled among one another, at least; a window ends with an example.

        Raises:
            StoreError: when there are fewer rows than one batch takes, or the site is not streamed.
        """
        self.store, self.site, self.rows, self.batch_tokens, self.seed = store, site, None, batch_tokens, seed
        self.window_tokens = window_tokens
        if store.n_tokens < batch_tokens:
            raise StoreError(asked=f"draw batches of train.batch_tokens = {batch_tokens} from {site}", why=f"there are only {store.n_tokens} rows to draw from",
                             instead="give more examples, or make train.batch_tokens smaller")
        store.read(np.empty(0, dtype=np.int64), site)
        self._epochs: dict[int, _Epoch] = {}
        self._windows: dict[tuple[int, int], Tensor] = {}

    def close(self) -> None:
        """Free the windows."""
        self._windows.clear()

    @property
    def n_rows(self) -> int:
        """How many rows one epoch visits."""
        return self.store.n_tokens

    def batch(self, step: int) -> Float[Tensor, "token d_in"]:
        """The activations of one step, float32."""
        return torch.cat([self._window(epoch, window)[torch.from_numpy(places)] for epoch, window, places in self._pieces(step)])

    def batch_rows(self, step: int) -> Int[np.ndarray, " token"]:
        """The rows, counted in corpus order, that make up one step's batch."""
        return np.concatenate([self._epoch(epoch).rows_of_window(window)[places] for epoch, window, places in self._pieces(step)])

    def _pieces(self, step: int) -> list[tuple[int, int, Int[np.ndarray, " row"]]]:
        """(epoch, window, places in the window) of the batch, in its order."""
        pieces, position, end = [], step * self.batch_tokens, (step + 1) * self.batch_tokens
        while position < end:
            number, offset = divmod(position, self.n_rows)
            epoch = self._epoch(number)
            window = int(np.searchsorted(epoch.window_start, offset, side="right")) - 1
            start, stop = epoch.window_start[window:window + 2].tolist()
            n_rows = min(stop - offset, end - position)
            pieces.append((number, window, epoch.order_in(window)(np.arange(offset - start, offset - start + n_rows))))
            position += n_rows
        return pieces

    def _epoch(self, number: int) -> "_Epoch":
        if number not in self._epochs:
            self._epochs = {**dict(list(self._epochs.items())[-1:]), number: _Epoch(self.store, epoch_seed(self.seed, number), self.window_tokens)}
        return self._epochs[number]

    def _window(self, epoch: int, window: int) -> Float[Tensor, "row d_in"]:
        key = (epoch, window)
        if key not in self._windows:
            kept = list(self._windows.items())[-(MAX_WINDOWS - 1):]
            self._windows = {**dict(kept), key: self.store.capture(self._epoch(epoch).examples_of(window), self.site)}
        return self._windows[key]


class _Epoch:
    """The order of one epoch: examples permuted, cut into windows."""

    def __init__(self, store: LiveStore, seed: int, window_tokens: int):
        self.store, self.seed = store, seed
        counts = np.diff(store.first_row)
        self.order = Permutation(len(counts), seed)(np.arange(len(counts)))
        ends = np.cumsum(counts[self.order])  # rows up to and with each example of the order
        edges = [0]
        while edges[-1] < len(ends):  # each window is the shortest run of examples with enough rows
            before = ends[edges[-1] - 1] if edges[-1] else 0
            edges.append(min(int(np.searchsorted(ends, before + window_tokens)) + 1, len(ends)))
        self.edges = edges
        self.window_start = np.array([0, *(int(ends[edge - 1]) for edge in edges[1:])])

    def examples_of(self, window: int) -> Int[np.ndarray, " example"]:
        return self.order[self.edges[window]:self.edges[window + 1]]

    def order_in(self, window: int) -> Permutation:
        return Permutation(int(self.window_start[window + 1] - self.window_start[window]), epoch_seed(self.seed, window))

    def rows_of_window(self, window: int) -> Int[np.ndarray, " row"]:
        """Rows of the corpus, in the order in which the window is captured."""
        first = self.store.first_row
        return np.concatenate([np.arange(first[number], first[number + 1]) for number in self.examples_of(window)])
