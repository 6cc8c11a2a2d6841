"""Which tokens the explainer looks at: named sets of stored tokens, an even sample of them (the frame), and their columns.

Owns the rule that the tokens on which an explanation is found and those on which it is scored share no example and no
group. Refuses: sets that break that rule, rows whose example text is not given, spans that lie outside the text.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from sparselight.errors import CorpusError, StoreError
from sparselight.protocols import Example, Store

TokenRows = Int[np.ndarray, " token"]
Annotate = Callable[[Sequence[Example]], list[Example]]


@dataclass(frozen=True, slots=True)
class TokenSet:
    """Tokens of one store under one name."""

    name: str
    """`general` or `domain`."""
    store: Store
    rows: TokenRows
    """Rows of the store, ascending."""
    examples: Mapping[str, Example]
    """By id; at least those that the rows belong to."""
    annotate: Annotate | None = None
    """Fills in the spans of examples, where they are not there yet: only the examples that are looked at are annotated, whatever the size of the store."""


@dataclass(frozen=True, slots=True)
class SetTokens:
    """The columns of all tokens of a set, one entry a row of it; `example` is the store's number of the example."""

    name: str
    store: Store
    rows: TokenRows
    example: TokenRows
    position: TokenRows
    token_id: TokenRows
    char_start: TokenRows
    char_end: TokenRows
    examples: Mapping[int, Example]
    """By the store's number."""
    annotate: Annotate | None = None

    @classmethod
    def of(cls, token_set: TokenSet) -> "SetTokens":
        """Read the columns.

        Raises:
            CorpusError: when the set is empty.
            StoreError: when rows belong to examples that are not given.
        """
        rows = np.sort(np.asarray(token_set.rows, dtype=np.int64))
        if not len(rows):
            raise CorpusError(asked=f"explain latents on the token set {token_set.name!r}", why="it holds no token",
                              instead="give a set with tokens, or leave that set out")
        table = token_set.store.tokens()
        at = slice(int(rows[0]), int(rows[-1]) + 1) if bool((np.diff(rows) == 1).all()) else rows  # a slice shares the memory of a table in one piece
        columns = {name: table.column(name).to_numpy()[at] for name in ("example", "position", "token_id", "char_start", "char_end")}
        listed = token_set.store.examples()
        id_of = dict(zip(listed.column("example").to_pylist(), listed.column("id").to_pylist(), strict=True))
        numbers = np.unique(columns["example"]).tolist()
        missing = next((id_of[number] for number in numbers if id_of[number] not in token_set.examples), None)
        if missing is not None:
            raise StoreError(asked=f"explain latents on the token set {token_set.name!r}", why=f"the text of the stored example {missing!r} is not given",
                             instead="give the examples that the store was harvested from")
        examples = {number: token_set.examples[id_of[number]] for number in numbers}
        return cls(token_set.name, token_set.store, rows, **columns, examples=examples, annotate=token_set.annotate)

    def annotated(self, examples: Sequence[Example]) -> list[Example]:
        """Examples with their spans."""
        return list(examples) if self.annotate is None else self.annotate(examples)

    def block_edges(self, block_tokens: int) -> Int[np.ndarray, " edge"]:
        """Where to cut the rows so that each block holds whole examples: at most `block_tokens` tokens, or one example that is longer."""
        ends = np.append(np.flatnonzero(np.diff(self.example)) + 1, len(self.rows))
        edges = [0]
        while edges[-1] < len(self.rows):
            last = int(np.searchsorted(ends, edges[-1] + block_tokens, side="right")) - 1
            first = int(np.searchsorted(ends, edges[-1], side="right"))
            edges.append(int(ends[max(first, last)]))
        return np.array(edges)


@dataclass(frozen=True, slots=True)
class SetSlice:
    """The part [start, stop) of a frame that came from one token set."""

    name: str
    role: str  # explain | score
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TokenFrame:
    """Columns of all sampled tokens: explain sets first, then score sets, each in store order, examples contiguous."""

    sets: tuple[SetSlice, ...]
    n_explain: int
    rows: TokenRows  # of the set's store
    example: TokenRows  # index into `examples`
    group: TokenRows  # index into `groups`
    position: TokenRows
    token_id: TokenRows
    char_start: TokenRows
    char_end: TokenRows
    examples: tuple[Example, ...]
    groups: tuple[str, ...]

    @property
    def n_tokens(self) -> int:
        return len(self.rows)

    def digest(self) -> str:
        """SHA-256 over which tokens it holds: equal digests, equal samples."""
        digest = hashlib.sha256(repr(self.sets).encode())
        for column in (self.rows, self.token_id, self.position):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def select(self, role: str, name: str) -> slice | None:
        """Where the set of this role and name lies, or None where there is no such set."""
        return next((slice(part.start, part.stop) for part in self.sets if (part.role, part.name) == (role, name)), None)


def make_frame(explain_on: Sequence[SetTokens], score_on: Sequence[SetTokens], explain_tokens: int, score_tokens: int, seed: int) -> TokenFrame:
    """Sample whole examples of every set, evenly over groups, and join their token columns.

    Args:
        explain_tokens: upper bound a set in `explain_on`.
        score_tokens: upper bound a set in `score_on`.

    Raises:
        CorpusError: when a name occurs twice in one role, or when an example or group occurs in both roles.
        StoreError: when an example's text is shorter than the stored offsets.
    """
    parts, columns = [], []
    examples: list[Example] = []
    start = 0
    for role, sets, bound in (("explain", explain_on, explain_tokens), ("score", score_on, score_tokens)):
        _check_names(role, sets)
        for number, tokens in enumerate(sets):
            column, found = _sampled(tokens, bound, [seed, number, role == "score"])
            column["example"] = column["example"] + len(examples)
            examples += found
            columns.append(column)
            parts.append(SetSlice(tokens.name, role, start, start + len(column["rows"])))
            start = parts[-1].stop
    joined = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    n_explain = max(part.stop for part in parts if part.role == "explain")
    _check_apart(explain_on, score_on)
    groups = sorted({example.group for example in examples})
    number_of = {group: number for number, group in enumerate(groups)}
    group_of_example = np.array([number_of[example.group] for example in examples])
    return TokenFrame(
        sets=tuple(parts), n_explain=n_explain, group=group_of_example[joined["example"]], examples=tuple(examples), groups=tuple(groups), **joined,
    )


def sample_examples(example: TokenRows, group_of: Callable[[int], str], max_tokens: int, rng: np.random.Generator) -> TokenRows:
    """Choose whole examples, one of every group in turn, until `max_tokens` tokens are reached.

    Args:
        example: the example that each candidate token belongs to.
        group_of: the group of an example.

    Returns:
        The chosen examples, ascending; at least one, and never a part of one.
    """
    numbers, sizes = np.unique(example, return_counts=True)
    if sizes.sum() <= max_tokens:
        return numbers
    order = rng.permutation(len(numbers))
    turns: dict[str, int] = {}
    turn = np.empty(len(numbers), dtype=np.int64)
    for index in order:
        group = group_of(int(numbers[index]))
        turn[index] = turns[group] = turns.get(group, -1) + 1
    order = order[np.argsort(turn[order], kind="stable")]
    n_chosen = max(1, int(np.searchsorted(np.cumsum(sizes[order]), max_tokens, side="right")))
    return np.sort(numbers[order[:n_chosen]])


def _sampled(tokens: SetTokens, max_tokens: int, seed: list[int]) -> tuple[dict[str, np.ndarray], list[Example]]:
    chosen = sample_examples(tokens.example, lambda number: tokens.examples[number].group, max_tokens, np.random.default_rng(seed))
    kept = np.isin(tokens.example, chosen)
    columns = {name: getattr(tokens, name)[kept].astype(np.int64) for name in ("rows", "example", "position", "token_id", "char_start", "char_end")}
    columns["example"] = np.searchsorted(chosen, columns["example"])
    examples = tokens.annotated([tokens.examples[number] for number in chosen.tolist()])
    _check_offsets(tokens.name, columns, examples)
    return columns, examples


def _check_names(role: str, sets: Sequence[SetTokens]) -> None:
    names = [token_set.name for token_set in sets]
    if not names or len(set(names)) < len(names):
        raise CorpusError(asked=f"{role} latents on the token sets {names}", why="at least one set is needed and every set needs a name of its own",
                          instead="give one `general` set and, where there is one, one `domain` set")


def _check_offsets(name: str, columns: Mapping[str, np.ndarray], examples: Sequence[Example]) -> None:
    lengths = np.array([len(example.text) for example in examples])
    outside = columns["char_end"] > lengths[columns["example"]]
    if outside.any():
        example = examples[columns["example"][int(np.argmax(outside))]]
        raise StoreError(asked=f"explain latents on the token set {name!r}", why=f"the store has tokens beyond the end of the text of example {example.id!r}",
                         instead="give the corpus that the store was harvested from, or harvest again")


def _check_apart(explain_on: Sequence[SetTokens], score_on: Sequence[SetTokens]) -> None:
    """An explanation must be proven on groups that it was not found on."""
    explain, score = ([example for tokens in sets for example in tokens.examples.values()] for sets in (explain_on, score_on))
    for kind in ("id", "group"):
        shared = {getattr(item, kind) for item in explain} & {getattr(item, kind) for item in score}
        if shared:
            word = "example" if kind == "id" else "group"
            raise CorpusError(asked="score explanations on held-out tokens", why=f"{len(shared)} {word}(s) occur in both splits, for example {min(shared)!r}",
                              instead="split the corpus by group before explaining, and explain and score on different parts")
