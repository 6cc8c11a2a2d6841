"""A recommender as a subject: an interaction is a token, the vector before the scoring product its activation.

Models that read a history: the state at interaction t is what the model would compute right after it, so every prefix is a row of its own and its last
position counts. Models that read the user alone: an example is one token that covers the whole text. `predict` scores all items; those that the user has
by then are masked. Everything runs without gradients. Refuses: users and items that the model does not know, generation of text, sites without vectors.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparselight.corpus.interactions.items import ItemTable
from sparselight.errors import SubjectError
from sparselight.protocols import Batch, EditFunction, Example
from sparselight.records import SubjectRef, TokenPolicy
from sparselight.subjects.hooks import AtCounted, capturing, editing, holds_vectors, noting
from sparselight.subjects.hugging_face import weights_fingerprint
from sparselight.subjects.places import passing_batch
from sparselight.subjects.recommender.histories import History, read_history
from sparselight.subjects.recommender.module import Recommender
from sparselight.subjects.recommender.scoring import BLOCK_VALUES, SeenItems, masked
from sparselight.subjects.site import Site, SiteTable

USER_VECTOR = "user_vector"
NO_LOSS = float("nan")


class RecommenderSubject:
    """A recommender with its items, as `protocols.Subject`.

    Args:
        module: on the device where it is to run.
        items: its vocabulary: token id = place in this table + 1.
        name: how records call it.
        users: ids of the users in the order of the model's user numbers; for models that read the user.
        unknown_items: `refuse` or `drop`.
    """

    kind = "recommender"
    masking = None
    layers: Sequence[nn.Module] = ()

    def __init__(self, module: Recommender, items: ItemTable, name: str, users: Sequence[str] | None = None, unknown_items: str = "refuse"):
        if module.n_items != len(items):
            raise SubjectError(asked=f"study the recommender {name}", why=f"it scores {module.n_items} items, and {len(items)} are named",
                               instead="give the item table in the order of its item ids")
        if module.reads == "user" and users is None:
            raise SubjectError(asked=f"study the recommender {name}", why="it reads the user, and no users are named", instead="give users= in its own order")
        self.module: Recommender = module.eval().requires_grad_(False)
        self.model: Any = self.module
        self.items, self.name, self.unknown_items = items, name, unknown_items
        self.users = list(users or ())
        self._user_number = {user: number for number, user in enumerate(self.users)}
        self.device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
        reads_history = module.reads == "history"  # a user's vector stands for the whole example, as a pooled one does
        self._policy = TokenPolicy(prepend_bos=False, context_tokens=max(module.max_history, 1), pooling="none" if reads_history else "last",
                                   overlap_tokens=max(module.max_history - 1, 0) if reads_history else 0)
        self._table = SiteTable(module, {USER_VECTOR: Site(USER_VECTOR, module.user_vector, "output")}, n_layers=0)
        self._per_row: dict[str, bool] = {}
        self._widths: dict[str, int] = {}
        self.d_site(USER_VECTOR)
        known = hashlib.sha256("\0".join([*items.ids, "", *self.users, "", unknown_items, self._policy.canonical()]).encode())
        self.fingerprint = weights_fingerprint(module, known)

    def __repr__(self) -> str:
        return f"RecommenderSubject({self.name}: {len(self.items):,} items, d = {self.module.d}, reads the {self.module.reads}, on {self.device})"

    def ref(self) -> SubjectRef:
        """How records name this subject."""
        return SubjectRef(name=self.name, fingerprint=self.fingerprint, token_policy=self._policy, kind="recommender")

    @property
    def n_vocabulary(self) -> int:
        """Padding (0, never recommended) and all items."""
        return self.module.n_items + 1

    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())

    def sites(self) -> list[str]:
        """`user_vector`, the representation before the scoring product; every `PATH:input` and `PATH:output` may be used as well."""
        return self._table.names()

    def d_site(self, site: str) -> int:
        """Width of the vectors at a site.

        Raises:
            SubjectError: when there is no such site, or it holds neither one vector a row nor one a position.
        """
        if site not in self._widths:
            if site != USER_VECTOR and ":" not in site:
                raise SubjectError(asked=f"use the site {site!r}", why="a recommender has the standard site 'user_vector' alone",
                                   instead="use 'user_vector', or a module path such as blocks.0:output")
            self._per_row[site], self._widths[site] = self._look(self._table.resolve(site))
        return self._widths[site]

    def _look(self, site: Site) -> tuple[bool, int]:
        """Whether the site holds one vector a row, and their width, seen on two short rows."""
        history = torch.tensor([[1, 1, 1], [1, 1, 0]] if self.module.reads == "history" else [[1], [1]], device=self.device)
        history = history[:, :max(self.module.max_history, 1)]
        found: list[Tensor] = []
        with torch.no_grad(), noting([site], lambda _site, value: found.append(value)):
            self.module(history, (history > 0).sum(1), torch.zeros(2, dtype=torch.int64, device=self.device))
        value = found[0] if found else None
        if isinstance(value, Tensor) and holds_vectors(value, (2, 1)) and value.ndim == 2:
            return True, int(value.shape[-1])
        if value is not None and holds_vectors(value, tuple(history.shape)):
            return False, int(value.shape[-1])
        shape = "nothing" if value is None else f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise SubjectError(asked=f"use the site {site.name!r}", why=f"for 2 users with {history.shape[1]} interactions it holds {shape}, not vectors",
                           instead="use 'user_vector', or a module that gives one vector a user or an interaction")

    # Examples to rows.

    def history(self, example: Example) -> History:
        """The interactions of an example that the model knows."""
        return read_history(example, self.items, self.unknown_items)

    def user_number(self, user: str) -> int:
        """The model's number of a user; 0 for models that do not read it.

        Raises:
            SubjectError: when the model has never seen the user.
        """
        if self.module.reads == "history":
            return 0
        if user not in self._user_number:
            raise SubjectError(asked=f"represent the user {user!r}", why=f"{self.name} has vectors for {len(self.users)} users, not for this one",
                               instead="study users that it was trained on, or use a model that reads histories")
        return self._user_number[user]

    def prepare(self, examples: Sequence[Example]) -> Batch:
        """Every prefix of every history as a row (models that read the user: one row an example)."""
        histories = [self.history(example) for example in examples]
        if self.module.reads == "user":
            some = [(number, history) for number, history in enumerate(histories) if len(history)]
            return self._rows([(number, history, len(history) - 1) for number, history in some], [len(examples[number].text) for number, _ in some])
        return self._rows([(number, history, t) for number, history in enumerate(histories) for t in range(len(history))])

    def prepare_at(self, histories: Sequence[History], last: Sequence[int]) -> Batch:
        """One row a history: what the model knows of the user right after interaction `last`."""
        return self._rows([(number, history, t) for number, (history, t) in enumerate(zip(histories, last, strict=True))])

    def n_tokens(self, examples: Sequence[Example]) -> list[int]:
        """Known interactions of each example (models that read the user: 1, or 0 without any)."""
        sizes = [len(self.history(example)) for example in examples]
        return [min(size, 1) for size in sizes] if self.module.reads == "user" else sizes

    def token_text(self, token_id: int) -> str:
        """The title of an item."""
        return self.items.titles[token_id - 1] if token_id else ""

    def _rows(self, wanted: Sequence[tuple[int, History, int]], text_ends: Sequence[int] | None = None) -> Batch:
        reads_user = self.module.reads == "user"
        width = 1 if reads_user else min(self.module.max_history, max((t + 1 for _, _, t in wanted), default=1))
        n = len(wanted)
        lengths = np.array([min(t + 1, width) for _, _, t in wanted], dtype=np.int64)
        ids = np.zeros((n, width), dtype=np.int64)
        for row, (_, history, t) in enumerate(wanted):
            ids[row, :lengths[row]] = history.tokens[t + 1 - lengths[row]:t + 1]
        mask = np.arange(width) < lengths[:, None]
        counts = np.arange(width) == lengths[:, None] - 1
        columns = {
            "example": [number for number, _, _ in wanted], "token_id": [history.tokens[t] for _, history, t in wanted],
            "position": [0 if reads_user else t for _, _, t in wanted], "char_start": [0 if text_ends else history.start[t] for _, history, t in wanted],
            "char_end": list(text_ends) if text_ends else [history.end[t] for _, history, t in wanted],
        }
        users = [self.user_number(history.user) for _, history, _ in wanted]
        inputs = {"lengths": torch.from_numpy(lengths), "users": torch.tensor(users, dtype=torch.int64), "seen": _seen(wanted, reads_user),
                  "targets": _targets(wanted) if reads_user else None}
        joined: dict[str, Any] = {name: torch.tensor(np.array(column, dtype=np.int64)) for name, column in columns.items()}
        return Batch(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(counts), inputs=inputs, **joined)

    # Passes.

    @torch.no_grad()
    def capture(self, batch: Batch, sites: Sequence[str]) -> dict[str, Float[Tensor, "token d_in"]]:
        """Activations of the counted tokens; the forward pass ends after the last site where all sites are of one shape."""
        names = list(dict.fromkeys(sites))
        widths = {name: self.d_site(name) for name in names}
        if not batch.n_tokens or not names:
            return {name: torch.zeros(0, width, device=self.device) for name, width in widths.items()}
        found: dict[str, Tensor] = {}
        kinds = [[self._table.resolve(name) for name in names if self._per_row[name] == per_row] for per_row in (True, False)]
        with ExitStack() as stack:
            parts = []
            for per_row, kind in zip((True, False), kinds, strict=True):
                if kind:
                    counts = self._counts(batch, per_row)
                    shape = (counts.shape[0], counts.shape[1])
                    parts.append(stack.enter_context(capturing(kind, shape, AtCounted(counts, self.device), stop=not all(kinds))))
            self._forward(batch)
        for part in parts:
            found |= part
        return found

    @torch.no_grad()
    def user_vectors(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, "token d"]:
        """The representation that scores are made of, after edits anywhere in the model."""
        if not batch.n_tokens:
            return torch.zeros(0, self.module.d, device=self.device)
        with ExitStack() as stack:
            stack.enter_context(passing_batch(batch))
            for name, edit in (edits or {}).items():
                self.d_site(name)
                stack.enter_context(editing({self._table.resolve(name): edit}, self._counts(batch, self._per_row[name])))
            return self._forward(batch)

    @torch.no_grad()
    def predict(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, "token vocabulary"]:
        """Scores of all items after each token, in float32; items that the user has by then, and padding, at MASKED (-1e30)."""
        return masked(self.module.score(self.user_vectors(batch, edits)).float(), seen_of(batch))

    @torch.no_grad()
    def loss(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, " token"]:
        """-log softmax of the score of what the user took next, over that item and all that the user does not have, in nats; whatever the model was trained by.

        Models that read a history: the loss of interaction t is predicted from t - 1; the first has none (nan). Models that read the user: the mean
        over the interactions that were held out from its training; nan where there are none.
        """
        vectors, targets, seen = self.user_vectors(batch, edits), _target_pairs(batch), seen_of(batch)
        result = torch.full((batch.n_tokens,), NO_LOSS, device=self.device)
        token, row, target = targets
        total, count = torch.zeros(batch.n_tokens, device=self.device), torch.zeros(batch.n_tokens, device=self.device)
        size = max(1, BLOCK_VALUES // self.n_vocabulary)
        for start in range(0, len(row), size):
            part = slice(start, start + size)
            scores = self.module.score(vectors[row[part]]).float()
            own = scores.gather(1, target[part, None].to(scores.device))
            nats = masked(scores, seen[row[part]]).scatter(1, target[part, None].to(scores.device), own).logsumexp(1) - own[:, 0]
            total.index_add_(0, token[part].to(self.device), nats)
            count.index_add_(0, token[part].to(self.device), torch.ones_like(nats))
        return torch.where(count > 0, total / count.clamp(min=1), result)

    @torch.no_grad()
    def output_effects(self, directions: Float[Tensor, "latent d_in"], site: str) -> Float[Tensor, "latent vocabulary"]:
        """How directions of the user vector move the scores: their products with the item vectors, which is exact; padding at 0.

        Raises:
            SubjectError: at other sites, and for scores that are no products.
        """
        if site != USER_VECTOR:
            raise SubjectError(asked=f"read the output effects of directions at {site!r}", why="only the user vector is multiplied with the items' vectors",
                               instead=f"use the site {USER_VECTOR!r}")
        effects = directions.to(self.device, torch.float32) @ self.module.item_vectors().float().T
        effects[:, 0] = 0
        return effects

    def generate(self, *_args: Any, **_settings: Any) -> NoReturn:
        """Refused: a recommender writes no text."""
        raise SubjectError(asked=f"ask {self.name} for a continuation of a text", why="a recommender has none",
                           instead="look at its recommendations before and after an edit (sparselight.intervene.concept_tuning)")

    def with_max_norms(self, _max_norms: Mapping[str, float]) -> NoReturn:
        """Refused: every interaction counts."""
        raise SubjectError(asked=f"leave out large activations of {self.name}", why="a recommender's token policy has no limits", instead="leave it out")

    def _counts(self, batch: Batch, per_row: bool) -> Tensor:
        return (torch.ones(len(batch.counts), 1, dtype=torch.bool) if per_row else batch.counts).to(self.device)

    def _forward(self, batch: Batch) -> Tensor:
        assert batch.inputs is not None
        result: Tensor = self.module(batch.input_ids.to(self.device), batch.inputs["lengths"].to(self.device), batch.inputs["users"].to(self.device))
        return result


def seen_of(batch: Batch) -> SeenItems:
    """What each token's user has by then."""
    assert batch.inputs is not None
    seen: SeenItems = batch.inputs["seen"]
    return seen


def _seen(wanted: Sequence[tuple[int, History, int]], reads_user: bool) -> SeenItems:
    """The prefix of each row; for models that read the user, what they were trained on."""
    if reads_user:
        return SeenItems.of([torch.from_numpy(history.tokens[history.trained()]) for _, history, _ in wanted])
    firsts: dict[int, int] = {}
    parts, at = [], 0
    for _, history, _ in wanted:
        if id(history) not in firsts:
            firsts[id(history)] = at
            parts.append(torch.from_numpy(history.tokens))
            at += len(history)
    start = torch.tensor([firsts[id(history)] for _, history, _ in wanted], dtype=torch.int64)
    stop = start + torch.tensor([t + 1 for _, _, t in wanted], dtype=torch.int64)
    return SeenItems(torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64), start, stop)


def _targets(wanted: Sequence[tuple[int, History, int]]) -> tuple[Int[Tensor, " target"], Int[Tensor, " target"]]:
    """Row and item of every interaction that was held out from training."""
    held = [history.tokens[~history.trained()] for _, history, _ in wanted]
    rows = np.repeat(np.arange(len(wanted)), [len(one) for one in held])
    return torch.from_numpy(rows), torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *held]))


def _target_pairs(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """For each target: the token whose loss it belongs to, the row that predicts it, and the item."""
    assert batch.inputs is not None
    if batch.inputs["targets"] is not None:
        row, item = batch.inputs["targets"]
        return row, row, item
    follows = ((batch.example.diff() == 0) & (batch.position.diff() == 1)).nonzero()[:, 0]
    return follows + 1, follows, batch.token_id[follows + 1]


