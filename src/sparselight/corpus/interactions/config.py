"""What a recipe says of an interaction table: its layout, which interactions count, and which of them are kept for testing.

Owns: InteractionsConfig (`corpus.interactions` in a recipe). Refuses, when read: shares that leave nothing to train on.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from sparselight.config import Config

Layout = Literal["auto", "table", "movielens", "recbole", "rechorus"]


class InteractionsConfig(Config):
    """Layout of the table, cleaning, and the split in time."""

    layout: Layout = "auto"
    """`movielens` (ml-latest, ml-1m, ml-100k), `recbole` (.inter, .item, .user), `rechorus` (train.csv, dev.csv, test.csv), or one `table` with named
    columns; `auto` goes by the names of the files."""
    user: str = Field("user_id", min_length=1)
    """Column of the user (table)."""
    item: str = Field("item_id", min_length=1)
    """Column of the item (table)."""
    time: str = "timestamp"
    """Column of the time, a number or an ISO date (table); empty when there is none: then the order of the rows is the order in time."""
    value: str = ""
    """Column of a rating or count (table); empty when there is none."""
    items: str = ""
    """File of item metadata beside the one that the layout knows: CSV, TSV, Parquet or .item."""
    item_id: str = "item_id"
    """Column of the item in `items`, and in `tags`."""
    title: str = "title"
    """Column of the title in `items`; items without one are called by their id."""
    item_labels: list[str] = Field(default_factory=list)
    """Columns of `items` that become annotations; left empty, all but id and title that a layout knows."""
    separator: str = Field("|", min_length=1)
    """Between several values of one label, as in `Comedy|Drama`."""
    tags: str = ""
    """File of free tags beside the one that the layout knows, columns item and tag."""
    min_tag_users: int = Field(2, ge=1)
    """A tag counts for an item once so many rows give it."""
    users: str = ""
    """File of user attributes, first column the user; all others become labels of the example."""
    min_value: float | None = None
    """Interactions with a lower value (rating) are left out; RecSAE keeps ratings of 4 and more."""
    duplicates: Literal["first", "last", "keep", "refuse"] = "first"
    """Which of several interactions of one user with one item counts."""
    k_core: int = Field(0, ge=0)
    """Users and items with fewer interactions are left out, again and again until none is left (0: all stay)."""
    only_items: str = ""
    """A file whose first column lists the items that count, those that a model knows say; a header line is allowed."""
    split: Literal["leave_one_out", "global_time", "none"] = "leave_one_out"
    """Which interactions a recommender is never trained on: the last of each user (test) and the one before (dev), or the last ones of all by day."""
    dev_frac: float = Field(0.1, ge=0, lt=1)
    """Share of the interactions before the test part that tune (global_time)."""
    test_frac: float = Field(0.1, gt=0, lt=1)
    """Share of the interactions, the last ones, that test (global_time)."""
    day_s: int = Field(86_400, ge=1)
    """Seconds of a day: global_time never divides one."""
    min_train: int = Field(3, ge=1)
    """Users with fewer interactions before dev and test give all of theirs to training (leave_one_out)."""
    cold: Literal["drop", "keep"] = "drop"
    """Dev and test interactions with an item (or, with global_time, a user) that training never sees: left out, or kept as they are."""
    max_history: int | None = Field(None, ge=2)
    """Longest example in interactions, the last ones; left out, all."""

    @model_validator(mode="after")
    def _something_trains(self) -> Self:
        if self.dev_frac + self.test_frac >= 1:
            raise ValueError(f"dev_frac = {self.dev_frac:g} and test_frac = {self.test_frac:g} leave nothing to train on")
        if self.split != "global_time":
            fields = type(self).model_fields
            for name in ("dev_frac", "test_frac", "day_s"):
                if getattr(self, name) != fields[name].default:
                    raise ValueError(f"{name} = {getattr(self, name):g} is for split = 'global_time'")
        return self

    def paths(self) -> dict[str, Path]:
        """Files that are named beside the root, by setting."""
        named = {name: getattr(self, name) for name in ("items", "tags", "users", "only_items")}
        return {f"interactions.{name}": Path(value).expanduser() for name, value in named.items() if value}
