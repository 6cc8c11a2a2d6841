"""What an evaluation found of annotations that go with latents, as cards show it.

Owns the reading of the family's table of latents and the split of a stitched SAE's latents into those of its parts. Refuses nothing: without that
table there are no associations.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sparselight.records import Association, Card, MetricValue

TABLE = Path("tables") / "association.association_latents.parquet"
N_SHOWN = 3  # annotations a card
COLUMNS = ["coder", "dataset", "level", "latent", "kind", "label", "f1", "f1_low", "f1_high", "null_f1_max", "n_labelled", "q_screen", "associated"]


def read_associations(evaluation: Path, n_latents: dict[str, int]) -> dict[tuple[str, int], list[Association]]:
    """The annotations with the highest held-out F1 of each latent, by (source, latent).

    Args:
        evaluation: folder of an evaluation.
        n_latents: of each source, in the order in which they are stitched.
    """
    if not (evaluation / TABLE).is_file():
        return {}
    first = np.cumsum([0, *n_latents.values()])
    found: dict[tuple[str, int], list[Association]] = {}
    for row in pq.read_table(evaluation / TABLE, columns=COLUMNS).to_pylist():
        parts = row["coder"].split("+")
        if not set(parts) <= set(n_latents) or row["f1"] is None:
            continue  # a control, or an SAE that has no cards
        number = int(np.searchsorted(first, row["latent"], side="right")) - 1
        source = parts[0] if len(parts) == 1 else list(n_latents)[number]
        if len(parts) > 1 and source == parts[0]:
            continue  # stands under its own name
        latent = row["latent"] - (int(first[number]) if len(parts) > 1 else 0)
        f1 = MetricValue(value=row["f1"], low=row["f1_low"], high=row["f1_high"], n=row["n_labelled"], unit="labelled tokens")
        found.setdefault((source, latent), []).append(Association(
            kind=row["kind"], label=row["label"], dataset=row["dataset"], level=row["level"], f1=f1, null_f1=row["null_f1_max"] or 0.0, q=row["q_screen"],
            supported=bool(row["associated"])))
    return {key: sorted(listed, key=lambda association: -association.f1.value)[:N_SHOWN] for key, listed in found.items()}


def with_associations(cards: Sequence[Card], evaluation: Path) -> list[Card]:
    """Cards of all latents, source by source in the order in which they are stitched, with what the evaluation found."""
    found = read_associations(evaluation, dict(Counter(card.source for card in cards)))
    return [card.model_copy(update={"associations": found.get((card.source, card.latent), [])}) for card in cards]
