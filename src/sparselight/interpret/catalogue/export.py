"""A catalogue for other tools: Parquet, CSV, Neuronpedia's JSON lines.

Owns the three forms. A path that ends in `.csv` gets the table `cards` (lists joined by ` | `), one in `.parquet` the table `cards`, one in `.jsonl` a
feature a line, under the names of Neuronpedia's public API (docs.neuronpedia.org: modelId, layer, index, explanations, activations, ...); any other
path becomes a folder with every table as Parquet. Refuses nothing else.
"""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparselight.files import atomic_path, make_folder
from sparselight.interpret.catalogue.tables import SCHEMAS
from sparselight.records import Card

if TYPE_CHECKING:
    import pyarrow as pa

    from sparselight.interpret.catalogue.reading import Catalogue

JOINT = " | "
BLOCK_CARDS = 512


def export(catalogue: "Catalogue", path: Path, model: str = "model", layer: str = "layer") -> Path:
    """Write the catalogue in the form that the path's ending says.

    Args:
        model, layer: Neuronpedia's ids of the model and, before the name of each SAE, of the layer (JSON lines only).
    """
    import pyarrow.parquet as pq

    if path.suffix == ".csv":
        with atomic_path(path) as temporary:
            temporary.write_text(_csv(catalogue.sql("SELECT * EXCLUDE (search_text, number) FROM cards ORDER BY number")), encoding="utf-8", newline="")
    elif path.suffix == ".jsonl":
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
            for card in _all(catalogue):
                handle.write(json.dumps(neuronpedia(card, model, layer), ensure_ascii=False) + "\n")
    elif path.suffix == ".parquet":
        with atomic_path(path) as temporary:
            pq.write_table(catalogue.sql("SELECT * FROM cards ORDER BY number"), temporary, compression="zstd")
    else:
        make_folder(path)
        for name in SCHEMAS:
            with atomic_path(path / f"{name}.parquet") as temporary:
                pq.write_table(catalogue.sql(f"SELECT * FROM {name}"), temporary, compression="zstd")
    return path


def neuronpedia(card: Card, model: str, layer: str) -> dict[str, Any]:
    """A card as a feature of Neuronpedia's API."""
    place = f"{layer}-{card.source}"
    return {
        "modelId": model, "layer": place, "index": str(card.latent), "maxActApprox": card.max_activation, "frac_nonzero": card.fire_rate,
        "pos_str": card.promotes, "neg_str": card.suppresses,
        "explanations": [
            {"modelId": model, "layer": place, "index": str(card.latent), "description": explanation.text, "typeName": explanation.explainer,
             "explanationModelName": explanation.made_with.get("model", ""), "scores": [score.model_dump(mode="json") for score in explanation.scores]}
            for explanation in card.explanations
        ],
        "activations": [
            {"tokens": context.tokens, "values": context.activations, "maxValue": max(context.activations, default=0.0), "maxValueTokenIndex": context.peak,
             "kind": context.kind, "example": context.example}
            for context in card.contexts
        ],
    }


def _all(catalogue: "Catalogue") -> Iterator[Card]:
    for source in catalogue.sources():
        last = -1
        while block := catalogue.after(source, last, BLOCK_CARDS):
            yield from block
            last = block[-1].latent


def _csv(table: "pa.Table") -> str:
    out = StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(table.column_names)
    for row in table.to_pylist():
        writer.writerow([JOINT.join(map(str, value)) if isinstance(value, list) else value for value in row.values()])
    return out.getvalue()
