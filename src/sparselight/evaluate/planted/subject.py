"""A planted world as a subject: examples by number, activations that are a pure function of config and number.

A token's text is the name of its strongest feature, so that contexts can be read. Owns the sampling: tokens are made in blocks of examples, each
with a random stream of its own, so that any example can be made again, with its truth, without those before it. Refuses: loss and predictions,
because nothing is predicted, and examples that it did not make.
"""

import functools
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from sparselight.config import canonical_json
from sparselight.errors import SubjectError, nearest
from sparselight.evaluate.planted.config import PlantedConfig
from sparselight.evaluate.planted.world import World, feature_name
from sparselight.protocols import Batch, EditFunction, Example, Span
from sparselight.records import SubjectRef, TokenPolicy

SITE = "planted"
SIDES = ("fit", "held_out")
BLOCK_EXAMPLES = 64
KEPT_BLOCKS = 8
NOTHING = "------"  # text of a token at which no feature is on
STEP_CHARS = len(NOTHING) + 1
ID = re.compile(r"(fit|held_out)-(\d+)")


@dataclass(frozen=True, slots=True)
class Block:
    """The tokens of BLOCK_EXAMPLES examples."""

    magnitudes: sparse.csr_matrix
    """[token, feature], the truth."""
    strongest: Int[np.ndarray, " token"]
    """1 + the number of the feature with the largest magnitude; 0 where none is on."""
    x: Float[Tensor, "token d_in"]


class PlantedSubject:
    """`protocols.Subject` over a planted world; its only site is `planted`."""

    device = torch.device("cpu")

    def __init__(self, config: PlantedConfig):
        self.config = config
        self.world = World.build(config)
        self.name = f"planted features, seed {config.seed}"
        self.block = functools.lru_cache(maxsize=KEPT_BLOCKS)(self._sample)
        digest = hashlib.sha256(canonical_json(config.model_dump(mode="json")).encode())
        # Random numbers that are drawn otherwise make another subject; rounded, because the last bit may differ between processors.
        digest.update(self.block(0, 0).magnitudes.indices.tobytes() + str(self.world.directions[0, :16].mul(1000).int().tolist()).encode())
        self.fingerprint = digest.hexdigest()

    def ref(self) -> SubjectRef:
        policy = TokenPolicy(prepend_bos=False, context_tokens=self.config.example_tokens)
        return SubjectRef(name=self.name, fingerprint=self.fingerprint, token_policy=policy, kind="module")

    def sites(self) -> list[str]:
        return [SITE]

    def d_site(self, site: str) -> int:
        """Width of the activations.

        Raises:
            SubjectError: for another site than `planted`.
        """
        if site != SITE:
            raise SubjectError(asked=f"use the site {site!r} of planted features", why="there is no such site", instead=nearest(site, [SITE]))
        return self.config.d_in

    def examples(self, side: str, kinds: Collection[str] = (), n_tokens: int | None = None) -> list[Example]:
        """The examples of one side, `fit` or `held_out`, all or up to a number of tokens; each is a group of its own.

        Args:
            kinds: kinds of features (`parent`, `child`, ...) that the examples carry as spans: the kind is the name, the feature the value.
        """
        found = []
        stream, size = SIDES.index(side), self.config.example_tokens
        kind_of = np.array(self.world.roles.kind)
        wanted = np.isin(kind_of, list(kinds))
        n_examples = self.config.n_examples(side)
        for number in range(n_examples if n_tokens is None else min(n_examples, -(-n_tokens // size))):
            block, first = self._place(stream, number)
            words = [feature_name(strongest - 1) if strongest else NOTHING for strongest in block.strongest[first:first + size].tolist()]
            identifier = f"{side}-{number:07d}"
            spans: tuple[Span, ...] = ()
            if kinds:
                own = block.magnitudes[first:first + size].tocoo()
                keep = wanted[own.col]
                spans = tuple(Span(start, start + len(NOTHING), kind, feature_name(feature)) for start, kind, feature in zip(
                    (own.row[keep] * STEP_CHARS).tolist(), kind_of[own.col[keep]].tolist(), own.col[keep].tolist(), strict=True))
            found.append(Example(identifier, " ".join(words), identifier, {}, spans))
        return found

    def truth(self, examples: Sequence[Example]) -> sparse.csr_matrix:
        """Magnitude of every feature at every token of the examples, in their order: [token, feature].

        Raises:
            SubjectError: when one is not an example of this subject.
        """
        size, places = self.config.example_tokens, [self._number(example) for example in examples]
        rows: list[sparse.csr_matrix | None] = [None] * len(places)
        for index in sorted(range(len(places)), key=places.__getitem__):  # block by block
            block, first = self._place(*places[index])
            rows[index] = block.magnitudes[first:first + size]
        return sparse.vstack(rows, format="csr") if rows else sparse.csr_matrix((0, self.config.n_features), dtype=np.float32)

    def n_tokens(self, examples: Sequence[Example]) -> list[int]:
        return [self.config.example_tokens] * len(examples)

    def token_text(self, token_id: int) -> str:
        return feature_name(token_id - 1) if token_id else NOTHING

    def prepare(self, examples: Sequence[Example]) -> Batch:
        """Examples as a batch. `inputs` holds the stream and the number of each.

        Raises:
            SubjectError: when one is not an example of this subject.
        """
        size, places = self.config.example_tokens, [self._number(example) for example in examples]
        rows = []
        for stream, number in places:
            block, first = self._place(stream, number)
            rows.append(block.strongest[first:first + size])
        ids = torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, size, dtype=torch.int64)
        everywhere = torch.ones(ids.shape, dtype=torch.bool)
        example, position = (column.flatten() for column in torch.meshgrid(torch.arange(len(rows)), torch.arange(size), indexing="ij"))
        start = position * STEP_CHARS
        inputs = {"stream": [stream for stream, _ in places], "number": [number for _, number in places]}
        return Batch(ids, everywhere, everywhere, example, position, ids.flatten(), start, start + len(NOTHING), inputs=inputs)

    def capture(self, batch: Batch, sites: Sequence[str]) -> dict[str, Float[Tensor, "token d_in"]]:
        for site in sites:
            self.d_site(site)
        size, parts = self.config.example_tokens, [torch.zeros(0, self.config.d_in)]
        assert batch.inputs is not None
        for stream, number in zip(batch.inputs["stream"], batch.inputs["number"], strict=True):
            block, first = self._place(stream, number)
            parts.append(block.x[first:first + size])
        return dict.fromkeys(sites, torch.cat(parts))

    def loss(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, " token"]:  # noqa: ARG002
        raise SubjectError(asked=f"measure the loss of {self.name}", why="planted features predict nothing", instead="leave metrics of behaviour out")

    def predict(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, "token vocabulary"]:  # noqa: ARG002
        raise SubjectError(asked=f"predict with {self.name}", why="planted features predict nothing", instead="leave metrics of behaviour out")

    def _number(self, example: Example) -> tuple[int, int]:
        match = ID.fullmatch(example.id)
        if match is None:
            raise SubjectError(asked=f"use the example {example.id!r} with {self.name}", why="it did not make it",
                               instead="use examples that PlantedSubject.examples gives")
        return SIDES.index(match[1]), int(match[2])

    def _place(self, stream: int, number: int) -> tuple[Block, int]:
        """The block of an example, and the first of its tokens there."""
        return self.block(stream, number // BLOCK_EXAMPLES), number % BLOCK_EXAMPLES * self.config.example_tokens

    def _sample(self, stream: int, number: int) -> Block:
        """x_t = bias + sum over features f that are on of magnitude_tf d_f + noise. Events are drawn by number, then each its token."""
        config, world, events = self.config, self.world, self.world.events
        rng = np.random.default_rng([config.seed, 1 + stream, number])
        n_tokens = BLOCK_EXAMPLES * config.example_tokens
        edges = np.cumsum(events.rate)
        n = rng.poisson(n_tokens * edges[-1])
        event = np.minimum(np.searchsorted(edges, rng.random(n) * edges[-1], side="right"), len(edges) - 1)
        token, sizes = rng.integers(n_tokens, size=n), np.diff(events.starts)[event]
        owner = np.repeat(np.arange(n), sizes)
        member = events.members[events.starts[event][owner] + np.arange(len(owner)) - (np.cumsum(sizes) - sizes)[owner]]
        keep = rng.random(len(owner)) < events.keep[event][owner]
        pairs = np.unique(token[owner][keep] * config.n_features + member[keep])
        row, feature = np.divmod(pairs, config.n_features)
        spread = config.magnitude_spread
        value = world.scale[feature] * np.exp(spread * rng.standard_normal(len(feature)) - spread**2 / 2)
        starts = np.searchsorted(row, np.arange(n_tokens + 1))
        magnitudes = sparse.csr_matrix((value.astype(np.float32), feature.astype(np.int32), starts), shape=(n_tokens, config.n_features))
        noise = rng.standard_normal((n_tokens, config.d_in), dtype=np.float32)
        x = torch.from_numpy(magnitudes @ world.directions.numpy() + np.float32(world.noise_std) * noise) + world.bias
        return Block(magnitudes, strongest(magnitudes), x)


def strongest(magnitudes: sparse.csr_matrix) -> Int[np.ndarray, " token"]:
    """1 + the feature with the largest magnitude at each token, 0 where none is on."""
    row = np.repeat(np.arange(magnitudes.shape[0]), np.diff(magnitudes.indptr))
    order = np.lexsort((magnitudes.data, row))
    result = np.zeros(magnitudes.shape[0], dtype=np.int64)
    result[row[order]] = 1 + magnitudes.indices[order]  # the last assignment to a token, that of its largest magnitude, stays
    return result
