"""What a coder does to recommendations: held-out interactions ranked among all items, with the user vector replaced by its reconstruction.

RecSAE's fidelity (arXiv 2411.06112): HR@k and NDCG@k of <x_hat, item vector> beside those of <x, item vector>, ReChorus' rules: all items are candidates, what
the user has (before and after the target) is left out, ties count against the target. Runs by its name (`evaluate.suite = "core,ranking"`). Refuses
nothing: for subjects that rank no items, and datasets without such interactions, values are reported as not defined.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from sparselight.config import Config
from sparselight.evaluate.case import Case
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.family import SUBJECT, Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.ranking import gains, hits, overlap
from sparselight.evaluate.statistics import ratio
from sparselight.protocols import Batch, EditFunction, Example, Progress, no_progress
from sparselight.subjects.recommender.histories import History
from sparselight.subjects.recommender.scoring import SeenItems, target_ranks, top_items
from sparselight.subjects.recommender.subject import RecommenderSubject

BLOCK_ROWS = 2048
Part = Literal["test", "dev", "last"]


class RankingConfig(Config):
    """Which interactions are ranked, and the cut-offs."""

    k: list[PositiveInt] = Field(default=[5, 10, 20, 50], min_length=1)
    """Cut-offs of hit rate and NDCG."""
    targets: Part = "test"
    """The interactions that the corpus marks as `test` or `dev`, or the last one of each user."""
    overlap_k: int = Field(10, ge=1)
    """Length of the lists that are compared with those of the unedited subject."""


class Ranked:
    """The held-out interactions of some users: what the model sees before each, what is asked for, what is left out."""

    def __init__(self, subject: RecommenderSubject, examples: "list[Example]", part: Part):
        self.subject, self.histories, self.at, self.user = subject, [], [], []
        for number, example in enumerate(examples):
            history = subject.history(example)
            for t in held_out(history, part, subject.module.reads == "history"):
                self.histories.append(history)
                self.at.append(t)
                self.user.append(number)
        self.targets = torch.tensor([int(history.tokens[t]) for history, t in zip(self.histories, self.at, strict=True)], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.at)

    def batch(self, rows: slice) -> Batch:
        """What the model sees right before each target."""
        return self.subject.prepare_at(self.histories[rows], [max(t - 1, 0) for t in self.at[rows]])

    def seen(self, rows: slice) -> SeenItems:
        """All interactions of each user: the target itself is never left out."""
        return SeenItems.of([torch.from_numpy(history.tokens) for history in self.histories[rows]])


def held_out(history: History, part: Part, needs_history: bool) -> list[int]:
    """Which interactions of a history are targets; the first of all is none for a model that reads what stands before."""
    found = [len(history) - 1] if part == "last" else [t for t, own in enumerate(history.part) if own == part]
    return [t for t in found if t > 0 or (t == 0 and not needs_history)]


def measure_ranking(
    case: Case, contenders: Mapping[str, Contender], config: RankingConfig, findings: Findings, progress: Progress = no_progress,
) -> None:
    """The unedited subject, and every contender spliced in, on the held-out side of every dataset."""
    subject = case.need_subject("rank held-out interactions")
    for dataset in case.datasets:
        tokens = case.tokens(dataset, "held_out")
        why = "is not defined: the subject ranks no items"
        if isinstance(subject, RecommenderSubject):
            ranked = Ranked(subject, tokens.examples, config.targets)
            if len(ranked):
                _measure(case, dataset, ranked, contenders, config, findings, progress)
                continue
            why = f"is not defined: no held-out user has an interaction of the part {config.targets!r}"
        for name in (SUBJECT, *contenders):
            findings.lacks(Cell(name, "ranking_hr", dataset), why)


def _measure(
    case: Case, dataset: str, ranked: Ranked, contenders: Mapping[str, Contender], config: RankingConfig, findings: Findings, progress: Progress,
) -> None:
    tokens, subject = case.tokens(dataset, "held_out"), ranked.subject
    group_of = {group: number for number, group in enumerate(tokens.groups)}
    group = np.array([group_of[tokens.examples[user].group] for user in ranked.user])
    edits: dict[str, EditFunction | None] = {SUBJECT: None} | {name: _splice(one, f"rank with the coder {name!r}") for name, one in contenders.items()}
    found: dict[str, dict[tuple[str, str], list[Tensor]]] = {name: {} for name in edits}
    for start in range(0, len(ranked), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        batch, seen, own = ranked.batch(rows), ranked.seen(rows), None
        for name, edit in edits.items():
            vectors = subject.user_vectors(batch, None if edit is None else {case.site: edit})
            values, top = _values(ranked, vectors, ranked.targets[rows], seen, config, own)
            own = top if own is None else own
            for key, value in values.items():
                found[name].setdefault(key, []).append(value)
        case.count_pass(batch.n_tokens * len(edits))
        progress(min(rows.stop, len(ranked)), len(ranked), f"{dataset}: ranking with {len(contenders)} coders")
    resamples = case.resamples(dataset)
    count = resamples.totals(np.bincount(group, minlength=len(tokens.groups)).astype(np.float64))
    for name, columns in found.items():
        for (metric, setting), parts in columns.items():
            sums = np.bincount(group, weights=torch.cat(parts).double().numpy(), minlength=len(tokens.groups))
            findings.add(Cell(name, metric, dataset, setting), ratio(resamples.totals(sums), count))
    findings.notes.append(f"{dataset}: {len(ranked)} {config.targets} interactions of {len(set(ranked.user))} users, among {subject.module.n_items} items")


def _values(
    ranked: Ranked, vectors: Float[Tensor, "row d"], targets: Tensor, seen: SeenItems, config: RankingConfig, own: Tensor | None,
) -> tuple[dict[tuple[str, str], Tensor], Tensor]:
    module = ranked.subject.module
    rank = target_ranks(module, vectors, targets, seen)
    top = top_items(module, vectors, config.overlap_k, seen).items
    values = {("ranking_hr", f"k={k}"): hits(rank, k) for k in config.k} | {("ranking_ndcg", f"k={k}"): gains(rank, k) for k in config.k}
    if own is not None:
        values["ranking_overlap", f"k={config.overlap_k}"] = overlap(own, top).cpu()
    return values, top


def _splice(contender: Contender, asked: str) -> EditFunction:
    return lambda x: contender.apply(x, asked)[0]


FAMILY = Family("ranking", "Ranking of held-out interactions", measure_ranking, RankingConfig, needs=("subject", "examples"), suites=(), ablations=True,
                plain=False, passes=1)
