"""What the features of a run are called: explanation, grade and largest activation of every latent, held in memory.

Read from the catalogue in one query, and again when its file was replaced (somebody named latents meanwhile). A run without a catalogue has none:
live answers then name latents by number alone. Refuses nothing.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from sparselight.errors import SparselightError

if TYPE_CHECKING:
    from sparselight.pipeline.opened import OpenRun

QUERY = "SELECT source, latent, grade, coalesce(text, '') AS text, coalesce(label, '') AS label, max_activation FROM cards ORDER BY number"


@dataclass(frozen=True, slots=True)
class Named:
    """What is known of one SAE's latents, by latent."""

    text: dict[int, str] = field(default_factory=dict)
    label: dict[int, str] = field(default_factory=dict)
    grade: dict[int, str] = field(default_factory=dict)
    largest: dict[int, float] = field(default_factory=dict)
    """Largest activation that the card knows."""

    def largest_of(self, n_latents: int) -> Float[np.ndarray, " latent"]:
        """Of every latent; nan where there is no card, or one that never fired."""
        result = np.full(n_latents, np.nan)
        for latent, value in self.largest.items():
            if value > 0 and latent < n_latents:
                result[latent] = value
        return result


class Names:
    """The names of all features of a run."""

    def __init__(self, run: "OpenRun"):
        self._run, self._read, self._stamp = run, dict[str, Named](), 0

    def sources(self) -> list[str]:
        """SAEs whose latents have cards."""
        return list(self._fresh())

    def of(self, source: str) -> Named:
        """Of one SAE; nothing where it has no cards."""
        return self._fresh().get(source, Named())

    def _fresh(self) -> dict[str, Named]:
        try:
            catalogue = self._run.catalogue
            stamp = catalogue.path.stat().st_mtime_ns
            if stamp != self._stamp:
                found: dict[str, Named] = {}
                for row in catalogue.sql(QUERY).to_pylist():
                    own, latent = found.setdefault(row["source"], Named()), int(row["latent"])
                    own.text[latent], own.label[latent], own.grade[latent] = row["text"], row["label"], row["grade"]
                    own.largest[latent] = float(row["max_activation"])
                self._read, self._stamp = found, stamp
        except (SparselightError, OSError):  # not explained yet, or the file is being replaced: what was known stays
            pass
        return self._read
