"""Which tokens the explainer looks at: named sets of stored tokens, an even sample of them, and their columns.

Owns the rule that the tokens on which an explanation is found and those on which it is scored share no example and no
group. Refuses: sets that break that rule, rows whose example text is not given, spans that lie outside the text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from sparselight.errors import CorpusError, StoreError
from sparselight.protocols import Example, Store

TokenRows = Int[np.ndarray, " token"]


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
    stores: tuple[Store, ...]  # one a set
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

    def select(self, role: str, name: str) -> slice | None:
        """Where the set of this role and name lies, or None where there is no such set."""
        return next((slice(part.start, part.stop) for part in self.sets if (part.role, part.name) == (role, name)), None)


def make_frame(explain_on: Sequence[TokenSet], score_on: Sequence[TokenSet], explain_tokens: int, score_tokens: int, seed: int) -> TokenFrame:
    """Sample whole examples of every set, evenly over groups, and join their token columns.

    Args:
        explain_tokens: upper bound a set in `explain_on`.
        score_tokens: upper bound a set in `score_on`.

    Raises:
        CorpusError: when a set is empty, when a name occurs twice in one role, or when an example or group occurs in both roles.
        StoreError: when rows belong to examples that are not given, or whose text is shorter than the stored offsets.
    """
    parts, columns = [], []
    examples: list[Example] = []
    start = 0
    for role, sets, bound in (("explain", explain_on, explain_tokens), ("score", score_on, score_tokens)):
        _check_names(role, sets)
        for number, token_set in enumerate(sets):
            column, found = _set_columns(token_set, bound, [seed, number, role == "score"])
            column["example"] = column["example"] + len(examples)
            examples += found
            columns.append(column)
            parts.append(SetSlice(token_set.name, role, start, start + len(column["rows"])))
            start = parts[-1].stop
    joined = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    n_explain = max(part.stop for part in parts if part.role == "explain")
    _check_apart(examples, joined["example"], n_explain)
    groups = sorted({example.group for example in examples})
    number_of = {group: number for number, group in enumerate(groups)}
    group_of_example = np.array([number_of[example.group] for example in examples])
    return TokenFrame(
        sets=tuple(parts), stores=tuple(token_set.store for token_set in (*explain_on, *score_on)), n_explain=n_explain,
        group=group_of_example[joined["example"]], examples=tuple(examples), groups=tuple(groups), **joined,
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


def _set_columns(token_set: TokenSet, max_tokens: int, seed: list[int]) -> tuple[dict[str, np.ndarray], list[Example]]:
    rows = np.sort(np.asarray(token_set.rows, dtype=np.int64))
    if not len(rows):
        raise CorpusError(asked=f"explain latents on the token set {token_set.name!r}", why="it holds no token",
                          instead="give a set with tokens, or leave that set out")
    table = token_set.store.tokens()
    stored = {name: table.column(name).to_numpy() for name in ("example", "position", "token_id", "char_start", "char_end")}
    listed = token_set.store.examples()
    id_of = dict(zip(listed.column("example").to_pylist(), listed.column("id").to_pylist(), strict=True))
    group_of = dict(zip(listed.column("example").to_pylist(), listed.column("group").to_pylist(), strict=True))
    chosen = sample_examples(stored["example"][rows], group_of.__getitem__, max_tokens, np.random.default_rng(seed))
    rows = rows[np.isin(stored["example"][rows], chosen)]
    columns = {name: column[rows].astype(np.int64) for name, column in stored.items()}
    columns["example"] = np.searchsorted(chosen, columns["example"])
    columns["rows"] = rows
    missing = next((id_of[number] for number in chosen.tolist() if id_of[number] not in token_set.examples), None)
    if missing is not None:
        raise StoreError(asked=f"explain latents on the token set {token_set.name!r}", why=f"the text of the stored example {missing!r} is not given",
                         instead="give the examples that the store was harvested from")
    examples = [token_set.examples[id_of[number]] for number in chosen.tolist()]
    _check_offsets(token_set.name, columns, examples)
    return columns, examples


def _check_names(role: str, sets: Sequence[TokenSet]) -> None:
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


def _check_apart(examples: Sequence[Example], example: TokenRows, n_explain: int) -> None:
    """An explanation must be proven on groups that it was not found on."""
    explain = [examples[number] for number in np.unique(example[:n_explain])]
    score = [examples[number] for number in np.unique(example[n_explain:])]
    for kind in ("id", "group"):
        shared = {getattr(item, kind) for item in explain} & {getattr(item, kind) for item in score}
        if shared:
            word = "example" if kind == "id" else "group"
            raise CorpusError(asked="score explanations on held-out tokens", why=f"{len(shared)} {word}(s) occur in both splits, for example {min(shared)!r}",
                              instead="split the corpus by group before explaining, and explain and score on different parts")
