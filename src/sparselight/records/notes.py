"""Notes: what people say of a feature, beside what was measured of it."""

from typing import Literal

from sparselight.records.base import Part


class Note(Part):
    """A note or a label that somebody gave a feature, or the withdrawal of one. Notes are only ever added."""

    id: str
    when: str
    """UTC, ISO 8601."""
    who: str
    source: str
    latent: int
    kind: Literal["note", "withdraw"] = "note"
    label: str = ""
    """A short name for the feature; the latest one of a feature counts."""
    text: str = ""
    withdraws: str = ""
    """Of a withdrawal: the id of the note that is taken back."""

    @property
    def feature(self) -> str:
        return f"{self.source}/{self.latent}"
