"""What one user is recommended before and after an edit, item by item."""

from typing import ClassVar

from sparselight.records.base import Part, Record
from sparselight.records.edits import Edit


class ListedItem(Part):
    """One place of a list of recommendations."""

    item: str
    """Its id."""
    title: str
    rank_before: int
    """Its place without the edit, from 1, among the items that the user does not have."""
    in_concept: bool


class EditedList(Part):
    """The first k under one edit."""

    name: str
    """What the edit is in words; `unedited` for the first."""
    edits: list[Edit]
    """Empty for the first."""
    items: list[ListedItem]
    activation: float
    """Largest activation among the edited latents for this user, before the edit."""


class RecommendationLists(Record):
    """One user's recommendations, unedited and under edits of a concept."""

    KIND: ClassVar[str] = "recommendation_lists"
    user: str
    concept: str
    latents: list[int]
    history: list[str]
    """Titles of what the model sees of the user, the oldest first, at most the last ten."""
    history_in_concept: list[bool]
    n_history: int
    """Interactions in all that the model is given."""
    chosen: str
    """How this user was chosen, in words."""
    lists: list[EditedList]
