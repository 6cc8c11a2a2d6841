"""Trains one of the four recommenders on the histories of a corpus: minutes for a hundred thousand interactions, the same weights for the same seed.

Targets are the interactions that the split in time leaves for training; sequence models see the interactions before each, at most max_history. Owns: batches,
negatives, the two losses, early stopping by NDCG@10 on the dev part, and the results beside recommending what is popular. Refuses: corpora without a
training target.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid

from sparselight.corpus import ListCorpus
from sparselight.corpus.interactions.items import ItemTable
from sparselight.errors import SubjectError
from sparselight.protocols import Progress, no_progress
from sparselight.records.recommender import RankingValue, RecommenderRecord
from sparselight.subjects.recommender.config import RecommenderConfig
from sparselight.subjects.recommender.folder import RECORD, load_recommender, save_recommender
from sparselight.subjects.recommender.histories import History, read_history
from sparselight.subjects.recommender.models import TiMiRec, make_model
from sparselight.subjects.recommender.module import Recommender
from sparselight.subjects.recommender.scoring import SeenItems, target_ranks
from sparselight.subjects.recommender.subject import RecommenderSubject

CUTOFFS = (5, 10, 20, 50)
MAIN_K = 10
MIN_GAIN = 1e-6


@dataclass(frozen=True, slots=True)
class Targets:
    """Training targets: row r is interaction `at[r]` of the flat histories, of user `user[r]`, whose history begins at `first[r]`."""

    flat: Int[Tensor, " interaction"]
    at: Int[Tensor, " target"]
    first: Int[Tensor, " target"]
    user: Int[Tensor, " target"]
    has: Int[Tensor, " pair"]  # user * n_vocabulary + item of all training interactions, ascending

    def rows(self, chosen: Int[Tensor, " row"], max_history: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """History, lengths, users and items of some targets."""
        at, first = self.at[chosen], self.first[chosen]
        lengths = (at - first).clamp(max=max_history)
        width = int(lengths.max()) if len(lengths) else 1
        places = (at - lengths)[:, None] + torch.arange(width)
        history = torch.where(torch.arange(width) < lengths[:, None], self.flat[places.clamp(max=len(self.flat) - 1)], 0)
        return history, lengths, self.user[chosen], self.flat[at]


def train_recommender(
    corpus: ListCorpus, folder: str | Path, config: RecommenderConfig | None = None, progress: Progress = no_progress, name: str | None = None,
) -> RecommenderSubject:
    """Train a recommender on a corpus of interactions and save it; a folder that holds the same training already is loaded.

    Args:
        corpus: of kind `interactions`: all users, those too that the SAE will be tested on.
        progress: in epochs.
        name: how records call it; the architecture when left out.

    Raises:
        SubjectError: when nothing can be trained on, or the folder holds another recommender.
    """
    config, folder, began = config or RecommenderConfig(), Path(folder), time.monotonic()
    fingerprint = corpus.fingerprint()
    if (folder / RECORD).exists():
        return _finished(folder, config, fingerprint)
    items = ItemTable.from_examples(corpus)
    histories = [read_history(example, items) for example in corpus]
    module, epochs, targets = fit(histories, len(items), config, progress)
    users = [history.user for history in histories] if module.reads == "user" else None
    subject = RecommenderSubject(module, items, name or config.architecture, users, config.unknown_items)
    popular = popularity_of(histories, len(items))
    record = RecommenderRecord(
        name=subject.name, settings=config.model_dump(mode="json"), n_users=len(histories), n_items=len(items), n_interactions=len(targets.has),
        corpus=fingerprint, epochs=epochs, wall_s=time.monotonic() - began,
        results=[value for part in ("dev", "test") if (value := ranking_of(subject, histories, part))],
        popularity=[value for part in ("dev", "test") if (value := ranking_of(subject, histories, part, popular))],
    )
    save_recommender(subject, record, folder)
    return load_recommender(folder, unknown_items=config.unknown_items)


def _finished(folder: Path, config: RecommenderConfig, fingerprint: str) -> RecommenderSubject:
    record = RecommenderRecord.load(folder / RECORD)
    same = record.corpus == fingerprint and RecommenderConfig.parse(record.settings) == config
    if not same:
        raise SubjectError(asked=f"train a recommender in {folder}", why="it holds one that was trained on another corpus or with other settings",
                           instead="give another folder, or delete that one")
    return load_recommender(folder, unknown_items=config.unknown_items)


def fit(
    histories: Sequence[History], n_items: int, config: RecommenderConfig, progress: Progress = no_progress,
) -> tuple[Recommender, int, Targets]:
    """Train a model; the state of the best epoch is kept.

    Returns:
        The model, how many epochs its state has seen, and what it was trained on.
    """
    reads_user = config.architecture in ("bpr_mf", "lightgcn")
    targets = make_targets(histories, n_items + 1, reads_user)
    if not len(targets.at):
        raise SubjectError(asked=f"train {config.architecture}", why="no user has two interactions to train on",
                           instead="give longer histories, or lower corpus.interactions.min_train")
    edges = np.stack([(targets.has // (n_items + 1)).numpy(), (targets.has % (n_items + 1)).numpy()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        module = make_model(config, len(histories), n_items, edges)
        epochs = 0
        if isinstance(module, TiMiRec) and config.extractor_epochs:
            _run(module, targets, histories, config, "extractor", config.extractor_epochs, progress)
        epochs = _run(module, targets, histories, config, "all", config.max_epochs, progress)
    return module, epochs, targets


def make_targets(histories: Sequence[History], n_vocabulary: int, with_first: bool) -> Targets:
    """Training targets; the first interaction of a history is one only for models that need nothing before it."""
    flat = np.concatenate([np.zeros(0, np.int64), *(history.tokens for history in histories)])
    sizes = np.array([len(history) for history in histories], dtype=np.int64)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    user = np.repeat(np.arange(len(histories)), sizes)
    trained = np.concatenate([np.zeros(0, dtype=bool), *(history.trained() for history in histories)])
    at = np.flatnonzero(trained & (with_first | (np.arange(len(flat)) > first)))
    has = np.unique(user[trained] * n_vocabulary + flat[trained])
    return Targets(*(torch.from_numpy(column) for column in (flat, at, first[at], user[at], has)))


def _run(module: Recommender, targets: Targets, histories: Sequence[History], config: RecommenderConfig, stage: str, n_epochs: int, progress: Progress) -> int:
    decayed = [value for name, value in module.named_parameters() if "bias" not in name]
    others = [value for name, value in module.named_parameters() if "bias" in name]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others}]
    optimizer = torch.optim.Adam(groups, lr=config.lr)
    generator = torch.Generator().manual_seed(config.seed)
    best, best_state, best_epoch = -1.0, {name: value.clone() for name, value in module.state_dict().items()}, 0
    for epoch in range(1, n_epochs + 1):
        module.train()
        for chosen in torch.randperm(len(targets.at), generator=generator).split(config.batch_rows):
            loss = _loss(module, targets, chosen, config, stage, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        module.eval()
        score = _dev_score(module, histories)
        progress(epoch, n_epochs, f"{config.architecture}, {stage}: NDCG@{MAIN_K} on dev {score:.4f}")
        if score > best + MIN_GAIN:
            best, best_epoch, best_state = score, epoch, {name: value.clone() for name, value in module.state_dict().items()}
        elif epoch - best_epoch >= config.patience:
            break
    module.load_state_dict(best_state)
    return best_epoch


def _loss(module: Recommender, targets: Targets, chosen: Tensor, config: RecommenderConfig, stage: str, generator: torch.Generator) -> Float[Tensor, ""]:
    """softmax: -log softmax over all items of the target's score. bpr: -log sigmoid(s_target - s_negative), one uniform negative a target."""
    history, lengths, users, items = targets.rows(chosen, module.max_history)
    extra: Tensor | float = 0.0
    if isinstance(module, TiMiRec) and stage == "extractor":
        vectors = module.extractor_vectors(history, lengths, items)
    elif isinstance(module, TiMiRec):
        vectors, extra = module.distillation(history, lengths, items)
    else:
        vectors = module(history, lengths, users)
    if config.loss == "softmax":
        return cross_entropy(module.score(vectors)[:, 1:], items - 1) + extra
    negatives = draw_negatives(users, targets.has, module.n_items, generator)
    table = module.item_vectors()
    gap = (vectors * (table[items] - table[negatives])).sum(1)
    return -logsigmoid(gap).mean() + extra


def draw_negatives(users: Int[Tensor, " row"], has: Int[Tensor, " pair"], n_items: int, generator: torch.Generator, rounds: int = 20) -> Int[Tensor, " row"]:
    """An item for each user that it did not train on, uniformly; after `rounds` draws a user that has nearly all items keeps what came."""
    result = torch.randint(1, n_items + 1, (len(users),), generator=generator)
    for _ in range(rounds):
        key = users * (n_items + 1) + result
        place = torch.searchsorted(has, key).clamp(max=len(has) - 1)
        taken = (has[place] == key).nonzero()[:, 0]
        if not len(taken):
            break
        result[taken] = torch.randint(1, n_items + 1, (len(taken),), generator=generator)
    return result


def _dev_score(module: Recommender, histories: Sequence[History]) -> float:
    """NDCG@10 on the dev part, or 0 without one: then training goes on to max_epochs only while patience lasts."""
    found = held_out_ranks(module, histories, "dev")
    return float(_ndcg(found, MAIN_K)) if len(found) else 0.0


def ranking_of(
    subject: RecommenderSubject, histories: Sequence[History], part: str, scores: Float[Tensor, " vocabulary"] | None = None,
) -> RankingValue | None:
    """HR@k = mean 1[rank <= k] and NDCG@k = mean 1[rank <= k] / log2(rank + 1) of the held-out interactions, all items ranked (ReChorus' rules).

    Args:
        scores: one score an item for everybody (popularity), in place of the model's.

    Returns:
        None where no user has such an interaction.
    """
    if scores is None:
        rank = held_out_ranks(subject.module, histories, part, [subject.user_number(history.user) for history in histories])
    else:
        rank = held_out_ranks(_Constant(scores), histories, part)
    if not len(rank):
        return None
    return RankingValue(part=part, n=len(rank), hr={str(k): float((rank <= k).float().mean()) for k in CUTOFFS},
                        ndcg={str(k): float(_ndcg(rank, k)) for k in CUTOFFS})


def held_out_ranks(
    module: Recommender, histories: Sequence[History], part: str, users: Sequence[int] | None = None, max_rows: int = 8192,
) -> Float[Tensor, " target"]:
    """Rank of every interaction of a part, its history all that stands before it; all other interactions of the user are masked.

    Args:
        users: the model's number of each history's user; when left out, their order, as in training.
    """
    numbers = torch.arange(len(histories)) if users is None else torch.tensor(users, dtype=torch.int64)
    ranks = [target_ranks(module, module(history, lengths, numbers[rows]), items, seen)
             for history, lengths, rows, items, seen in _held_out_rows(module, histories, part, max_rows)]
    return torch.cat(ranks) if ranks else torch.zeros(0)


@torch.no_grad()
def _held_out_rows(module: Recommender, histories: Sequence[History], part: str, max_rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, SeenItems]]:
    pairs = [(user, t) for user, history in enumerate(histories) for t, own in enumerate(history.part) if own == part and (t or module.reads == "user")]
    for start in range(0, len(pairs), max_rows):
        some = pairs[start:start + max_rows]
        lengths = np.array([max(1, min(t, module.max_history)) for _, t in some])
        ids = np.zeros((len(some), int(lengths.max())), dtype=np.int64)
        for row, (user, t) in enumerate(some):
            ids[row, :lengths[row]] = histories[user].tokens[max(0, t - lengths[row]):max(t, 1)]
        seen = SeenItems.of([torch.from_numpy(histories[user].tokens) for user, _ in some])
        items = torch.tensor([int(histories[user].tokens[t]) for user, t in some])
        yield torch.from_numpy(ids), torch.from_numpy(lengths), torch.tensor([user for user, _ in some]), items, seen


def popularity_of(histories: Sequence[History], n_items: int) -> Float[Tensor, " vocabulary"]:
    """Training interactions of each item."""
    tokens = np.concatenate([np.zeros(0, np.int64), *(history.tokens[history.trained()] for history in histories)])
    return torch.from_numpy(np.bincount(tokens, minlength=n_items + 1)).float()


def _ndcg(rank: Float[Tensor, " target"], k: int) -> Float[Tensor, ""]:
    return ((rank <= k) / (rank + 1).log2()).mean()


class _Constant(Recommender):
    """The same scores for everybody."""

    def __init__(self, scores: Float[Tensor, " vocabulary"]):
        super().__init__(len(scores) - 1, 1, "user")
        self.table = nn.Parameter(scores[:, None], requires_grad=False)

    def represent(self, history: Tensor, lengths: Tensor, users: Tensor) -> Tensor:  # noqa: ARG002
        return torch.ones(len(users), 1)

    def item_vectors(self) -> Tensor:
        return self.table
