"""A tiny world of users and items, and an untrained recommender over it: made on the spot, the same on every call.

Each user likes one genre and takes three of four items from it, the popular ones more often: something for a recommender to learn and for a concept to hold.
"""

import numpy as np
import torch

from sparselight.corpus import ListCorpus
from sparselight.corpus.interactions.histories import examples_of
from sparselight.corpus.interactions.items import ItemTable, year_labels
from sparselight.corpus.interactions.split import leave_one_out
from sparselight.corpus.interactions.table import Interactions
from sparselight.subjects import RecommenderConfig, RecommenderSubject
from sparselight.subjects.recommender.histories import read_history
from sparselight.subjects.recommender.models import make_model

GENRES = {"Horror": ("Night", "Scream", "Blood"), "Comedy": ("Happy", "Laugh", "Wedding"), "War": ("Battle", "Front", "Soldier"),
          "Music": ("Dance", "Song", "Stage")}


def tiny_items(n_per_genre: int = 12) -> ItemTable:
    """Titled items of four genres."""
    ids, titles, labels = [], [], []
    for number, (genre, words) in enumerate(GENRES.items()):
        for place in range(n_per_genre):
            title = f"{words[place % 3]} {'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[place % 26]}{place // 26 or ''} ({1970 + 10 * (place % 4)})"
            ids.append(str(100 * (number + 1) + place))
            titles.append(title)
            labels.append({"genre": (genre,), **year_labels(title)})
    return ItemTable(ids, titles, labels)


def tiny_interactions(n_users: int = 40, n_per_genre: int = 12, length: int = 14, seed: int = 0) -> ListCorpus:
    """One example a user; the last two interactions are dev and test."""
    items, rng = tiny_items(n_per_genre), np.random.default_rng(seed)
    weights = 1 / np.arange(1, n_per_genre + 1)
    user, item = [], []
    for number in range(n_users):
        liked = number % len(GENRES)
        taken: list[int] = []
        while len(taken) < min(length, 2 * n_per_genre):
            genre = liked if rng.random() < 0.75 else int(rng.integers(len(GENRES)))
            place = genre * n_per_genre + int(rng.choice(n_per_genre, p=weights / weights.sum()))
            if place not in taken:
                taken.append(place)
        user += [number] * len(taken)
        item += taken
    rows = Interactions.make([f"user{number}" for number in range(n_users)], items.ids, np.array(user), np.array(item), None)
    rows = rows.with_side(leave_one_out(rows, 3))
    taste = {f"user{number}": {"taste": list(GENRES)[number % len(GENRES)]} for number in range(n_users)}
    return ListCorpus(list(examples_of(rows, items, taste, None)), "tiny_interactions")


def tiny_recommender(architecture: str = "sasrec", corpus: ListCorpus | None = None, d: int = 16, seed: int = 0) -> RecommenderSubject:
    """An untrained recommender with weights large enough that its scores differ."""
    corpus = corpus or tiny_interactions()
    items = ItemTable.from_examples(corpus)
    layers = {"sasrec": {"n_layers": 2, "n_heads": 2, "max_history": 6}, "timirec": {"max_history": 6, "n_interests": 3}, "lightgcn": {"n_layers": 2}}
    config = RecommenderConfig.parse({"architecture": architecture, "d": d, **layers.get(architecture, {})})
    histories = [read_history(example, items) for example in corpus]
    pairs = [(number, token) for number, history in enumerate(histories) for token in history.tokens[history.trained()].tolist()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make_model(config, len(corpus), len(items), np.array(pairs).T)
        with torch.no_grad():
            for name, value in module.named_parameters():
                if "norm" not in name:
                    value.normal_(std=0.4)
    return RecommenderSubject(module, items, f"tiny-{architecture}", [example.group for example in corpus])
