"""A catalogue for other tools: Parquet, CSV, Neuronpedia's JSON lines.

Owns the three forms. A path that ends in `.csv` gets the table `cards` (lists joined by ` | `), one in `.parquet` the table `cards`, one in `.jsonl`
a feature a line, under the names of Neuronpedia's public API (docs.neuronpedia.org: modelId, layer, index, explanations, activations, ...); any other
path becomes a folder with every table as Parquet. Labels and notes that people gave features come along: as columns `user_label` and `notes`, as an
explanation of type `user` and as `notes`, as the file `notes.parquet`. Refuses nothing else.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparselight.files import atomic_path, make_folder
from sparselight.interpret.catalogue.notes import by_feature, label_of, read_notes
from sparselight.interpret.catalogue.tables import SCHEMAS
from sparselight.records import Card, Note

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
        listed = _with_notes(catalogue, "SELECT * EXCLUDE (search_text, number) FROM cards ORDER BY number")
        with atomic_path(path) as temporary:
            temporary.write_text(_csv(listed), encoding="utf-8", newline="")
    elif path.suffix == ".jsonl":
        notes = _notes(catalogue)
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
            for card in _all(catalogue):
                feature = neuronpedia(card, model, layer, notes.get((card.source, card.latent), ()))
                handle.write(json.dumps(feature, ensure_ascii=False) + "\n")
    elif path.suffix == ".parquet":
        with atomic_path(path) as temporary:
            pq.write_table(_with_notes(catalogue, "SELECT * FROM cards ORDER BY number"), temporary, compression="zstd")
    else:
        make_folder(path)
        for name in SCHEMAS:
            with atomic_path(path / f"{name}.parquet") as temporary:
                pq.write_table(catalogue.sql(f"SELECT * FROM {name}"), temporary, compression="zstd")
        with atomic_path(path / "notes.parquet") as temporary:
            pq.write_table(notes_table([note for notes in _notes(catalogue).values() for note in notes]), temporary, compression="zstd")
    return path


def notes_table(notes: Sequence[Note]) -> "pa.Table":
    """Notes as a table."""
    import pyarrow as pa

    text = ("id", "when", "who", "source", "label", "text")
    schema = pa.schema([(name, pa.int64() if name == "latent" else pa.string()) for name in (*text[:4], "latent", *text[4:])])
    return pa.Table.from_pylist([note.model_dump(include=set(schema.names)) for note in notes], schema=schema)


def neuronpedia(card: Card, model: str, layer: str, notes: Sequence[Note] = ()) -> dict[str, Any]:
    """A card as a feature of Neuronpedia's API, with what people said of it."""
    place, label = f"{layer}-{card.source}", label_of(notes)
    said = {"notes": [{"who": note.who, "when": note.when, "label": note.label, "text": note.text} for note in notes]} if notes else {}
    own = [{"modelId": model, "layer": place, "index": str(card.latent), "description": label, "typeName": "user", "explanationModelName": "", "scores": []}]
    return {
        **said,
        "modelId": model, "layer": place, "index": str(card.latent), "maxActApprox": card.max_activation, "frac_nonzero": card.fire_rate,
        "pos_str": card.promotes, "neg_str": card.suppresses,
        "explanations": [
            *(own if label else ()),
            *({"modelId": model, "layer": place, "index": str(card.latent), "description": explanation.text, "typeName": explanation.explainer,
             "explanationModelName": explanation.made_with.get("model", ""), "scores": [score.model_dump(mode="json") for score in explanation.scores]}
              for explanation in card.explanations),
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


def _notes(catalogue: "Catalogue") -> dict[tuple[str, int], list[Note]]:
    return by_feature(read_notes(catalogue.path.parent))


def _with_notes(catalogue: "Catalogue", query: str) -> "pa.Table":
    """A table of cards with what people said of each."""
    table, notes = catalogue.sql(query), _notes(catalogue)
    found = [notes.get(key, []) for key in zip(table.column("source").to_pylist(), table.column("latent").to_pylist(), strict=True)]
    words = [JOINT.join(note.text for note in own if note.text) for own in found]
    return table.append_column("user_label", [[label_of(own) for own in found]]).append_column("notes", [words])


def _csv(table: "pa.Table") -> str:
    out = StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(table.column_names)
    for row in table.to_pylist():
        writer.writerow([JOINT.join(map(str, value)) if isinstance(value, list) else value for value in row.values()])
    return out.getvalue()
