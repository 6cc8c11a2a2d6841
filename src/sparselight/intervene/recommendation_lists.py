"""One user's recommendations before and after edits, item by item: the picture that goes with the curves of `concept_tuning`.

The lists are those the user would get now, behind all interactions. Owns the choice of a user who shows the edit, by a stated rule. Refuses: users
without a known interaction, concepts without items.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparselight.errors import ConfigError, CorpusError
from sparselight.evaluate.ranking import overlap
from sparselight.intervene.edit import Dictionary
from sparselight.intervene.edited_recommender import EditedRecommender
from sparselight.protocols import Example
from sparselight.records import Edit
from sparselight.records.recommendations import EditedList, ListedItem, RecommendationLists
from sparselight.subjects.recommender.histories import History
from sparselight.subjects.recommender.scoring import masked, top_items
from sparselight.subjects.recommender.subject import RecommenderSubject, seen_of

N_SHOWN = 10  # last interactions
BLOCK_ROWS = 1024
UNEDITED = "unedited"


def recommendation_lists(
    subject: RecommenderSubject, coder: Dictionary, variants: Mapping[str, Sequence[Edit]], members: Bool[np.ndarray, " vocabulary"], users: Sequence[Example],
    concept: str = "", user: str = "", k: int = 10,
) -> RecommendationLists:
    """The first k of one user without and with each set of edits.

    Args:
        variants: edits of the user vector by name.
        members: the concept's items, by token id.
        user: who; when empty, of `users` the one whose list the first variant changes most, the most active latents first among equals.

    Raises:
        ConfigError: for edits elsewhere, without variants, for a user who is not there.
        CorpusError: when no user has an interaction that the model knows.
    """
    if not variants:
        raise ConfigError(asked="show recommendations before and after an edit", why="there is no edit", instead="give one edit or more")
    served = {name: EditedRecommender(subject.module, coder, edits) for name, edits in variants.items()}
    latents = list(dict.fromkeys(latent for edits in variants.values() for edit in edits for latent in edit.latents))
    histories = [history for example in users if len(history := subject.history(example))]
    if not histories:
        raise CorpusError(asked=f"show recommendations of {len(users)} users", why="none of them has an interaction that the model knows",
                          instead="give users with a history")
    if user:
        chosen, how = next((history for history in histories if history.user == user), None), "asked for by id"
        if chosen is None:
            raise ConfigError(asked=f"show the recommendations of user {user!r}", why="the user is not among these users, or has no known interaction",
                              instead=f"give one of them, for example {histories[0].user!r}")
    else:
        chosen = most_changed(subject, coder, next(iter(served.values())), histories, latents, k)
        how = f"of {len(histories)} users, the one whose first {k} change most when the concept is {next(iter(variants))}"
    return _lists(subject, coder, served, chosen, members, concept, latents, k, how)


@torch.no_grad()
def most_changed(
    subject: RecommenderSubject, coder: Dictionary, served: EditedRecommender, histories: Sequence[History], latents: Sequence[int], k: int,
) -> History:
    """The user with the smallest overlap@k between the lists, the largest activation among equals."""
    best: tuple[float, float, int] | None = None
    for start in range(0, len(histories), BLOCK_ROWS):
        batch = subject.prepare_at(histories[start:start + BLOCK_ROWS], [len(one) - 1 for one in histories[start:start + BLOCK_ROWS]])
        vectors, seen = subject.user_vectors(batch), seen_of(batch)
        lists = [top_items(subject.module, x, k, seen).items for x in (vectors, served.edit(vectors))]
        active = coder.encode(vectors).to_dense()[:, list(latents)].amax(1)
        for number, (same, z) in enumerate(zip(overlap(*lists).tolist(), active.tolist(), strict=True)):
            best = min(best or (2.0, 0.0, 0), (same, -z, start + number))
    assert best is not None
    return histories[best[2]]


@torch.no_grad()
def _lists(
    subject: RecommenderSubject, coder: Dictionary, served: Mapping[str, EditedRecommender], history: History, members: Bool[np.ndarray, " vocabulary"],
    concept: str, latents: list[int], k: int, how: str,
) -> RecommendationLists:
    module, items = subject.module, subject.items
    batch = subject.prepare_at([history], [len(history) - 1])
    vector, seen = subject.user_vectors(batch), seen_of(batch)
    order = masked(module.score(vector).float(), seen)[0].argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(1, len(order) + 1)
    activation = float(coder.encode(vector).to_dense()[0, latents].max())
    vectors: dict[str, Float[Tensor, "row d"]] = {UNEDITED: vector} | {name: one.edit(vector) for name, one in served.items()}
    lists = []
    for name, x in vectors.items():
        top = top_items(module, x, k, seen).items[0].tolist()
        listed = [ListedItem(item=items.ids[token - 1], title=items.titles[token - 1], rank_before=int(rank[token]), in_concept=bool(members[token]))
                  for token in top]
        lists.append(EditedList(name=name, edits=served[name].edits if name in served else [], items=listed, activation=activation))
    shown = history.tokens[-(min(N_SHOWN, module.max_history) if module.reads == "history" else N_SHOWN):].tolist()
    return RecommendationLists(
        user=history.user, concept=concept, latents=latents, history=[items.titles[token - 1] for token in shown],
        history_in_concept=[bool(members[token]) for token in shown], n_history=len(history), chosen=how, lists=lists)

