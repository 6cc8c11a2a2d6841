"""The catalogue: all cards of a run in one DuckDB file, `catalogue.duckdb`, written atomically.

Tables: `cards`, one row a card, with the numbers that people filter and sort by as columns and the whole explanation as JSON;
`contexts`, one row a context, in the order shown, tokens and activations as JSON. The JSON is what `load_catalogue` reads back,
unchanged to the last bit; the columns repeat parts of it for queries, from here or from any other DuckDB client.
Refuses: a file that is missing, damaged or no catalogue.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparselight.errors import ConfigError, RunError, nearest
from sparselight.files import atomic_path
from sparselight.interpret.evidence import domain_ratio, is_supported
from sparselight.records import Card, Context, Explanation

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

FILE_NAME = "catalogue.duckdb"
FORMAT_VERSION = 1

SORTS: dict[str, str] = {
    "f1": "f1 DESC NULLS LAST",
    "domain_ratio": "domain_ratio DESC",
    "fire_rate": "fire_rate DESC",
    "domain_fire_rate": "domain_fire_rate DESC",
    "max_activation": "max_activation DESC",
    "latent": "source, latent",
}


def save_catalogue(cards: Sequence[Card], folder: Path) -> Path:
    """Write `catalogue.duckdb` into a folder; an old one is replaced whole or not at all.

    Raises:
        StoreError: when the disk is full or the folder cannot be written.
    """
    import duckdb

    path = folder / FILE_NAME
    with atomic_path(path) as temporary:
        try:
            with duckdb.connect(str(temporary)) as connection:
                _write(connection, cards)
        except duckdb.IOException as err:
            raise OSError(str(err)) from err  # for atomic_path, which names the file and what to do
        finally:
            temporary.with_name(f"{temporary.name}.wal").unlink(missing_ok=True)
    return path


def _write(connection: "duckdb.DuckDBPyConnection", cards: Sequence[Card]) -> None:
    for name, table in (("cards", _cards_table(cards)), ("contexts", _contexts_table(cards))):
        connection.register("rows", table)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM rows")
        connection.unregister("rows")
    connection.execute("CREATE TABLE catalogue AS SELECT ?::INTEGER AS version, ?::INTEGER AS n_cards", [FORMAT_VERSION, len(cards)])
    connection.execute("CHECKPOINT")


def load_catalogue(path: Path) -> list[Card]:
    """Read all cards of a catalogue, in the order in which they were saved.

    Args:
        path: the file, or the folder that holds it.

    Raises:
        RunError: when the file is missing, damaged, no catalogue, or written by a newer version.
    """
    with _open(path) as connection:
        return _cards(connection, "SELECT * FROM cards ORDER BY number", [])


def query(
    path: Path,
    text: str | None = None,
    source: str | None = None,
    min_f1: float | None = None,
    supported_only: bool = False,
    sort: str = "f1",
    limit: int | None = None,
) -> list[Card]:
    """Find cards.

    Args:
        path: the file, or the folder that holds it.
        text: must occur in the explanation, its label, or a promoted or suppressed token; case is ignored.
        source: `base` or `residual`.
        min_f1: smallest held-out F1; leaves out cards without an explanation.
        supported_only: keep cards whose explanation is supported (see `evidence.is_supported`).
        sort: a key of SORTS; ties go by source and latent.

    Raises:
        ConfigError: when there is no such sort.
        RunError: as `load_catalogue`.
    """
    if sort not in SORTS:
        raise ConfigError(asked=f"sort cards by {sort!r}", why="there is no such order", instead=nearest(sort, SORTS))
    conditions = {
        "contains(lower(search_text), lower(?))": text, "source = ?": source, "f1 >= ?": min_f1, "supported = ?": supported_only or None,
    }
    given = {condition: value for condition, value in conditions.items() if value is not None}
    sql = f"SELECT * FROM cards WHERE {' AND '.join(['TRUE', *given])} ORDER BY {SORTS[sort]}, source, latent"
    values: list[Any] = list(given.values())
    if limit is not None:
        sql, values = f"{sql} LIMIT ?", [*values, limit]
    with _open(path) as connection:
        return _cards(connection, sql, values)


def _open(path: Path) -> "duckdb.DuckDBPyConnection":
    import duckdb

    path = path / FILE_NAME if path.is_dir() else path
    asked = f"read the catalogue {path}"
    if not path.is_file():
        raise RunError(asked=asked, why="there is no such file", instead="run the stage `explain` first, or give the path of a catalogue.duckdb")
    connection = None
    try:
        connection = duckdb.connect(str(path), read_only=True)
        row = connection.execute("SELECT version FROM catalogue").fetchone()
    except duckdb.Error as err:
        if connection is not None:
            connection.close()
        why = f"it is damaged or no catalogue ({str(err).splitlines()[0]})"
        raise RunError(asked=asked, why=why, instead="delete that file and run the same command again") from None
    if row is None or row[0] > FORMAT_VERSION:
        connection.close()
        raise RunError(asked=asked, why=f"it has version {row and row[0]}, this sparselight reads up to {FORMAT_VERSION}", instead="upgrade sparselight")
    return connection


def _cards(connection: "duckdb.DuckDBPyConnection", sql: str, values: list[Any]) -> list[Card]:
    rows = _dicts(connection, sql, values)
    contexts: dict[int, list[Context]] = {}
    for item in _dicts(connection, "SELECT * FROM contexts WHERE card IN (SELECT unnest(?)) ORDER BY card, shown", [[row["number"] for row in rows]]):
        context = Context(example=item["example"], group=item["group"], tokens=json.loads(item["tokens"]),
                          activations=json.loads(item["activations"]), peak=item["peak"])
        contexts.setdefault(item["card"], []).append(context)
    return [
        Card(
            latent=row["latent"], source=row["source"], fire_rate=row["fire_rate"], domain_fire_rate=row["domain_fire_rate"],
            max_activation=row["max_activation"],
            explanation=None if row["explanation"] is None else Explanation.model_validate_json(row["explanation"]),
            contexts=contexts.get(row["number"], []), promotes=row["promotes"], suppresses=row["suppresses"],
        )
        for row in rows
    ]


def _dicts(connection: "duckdb.DuckDBPyConnection", sql: str, values: list[Any]) -> list[dict[str, Any]]:
    cursor = connection.execute(sql, values)
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _cards_table(cards: Sequence[Card]) -> "pa.Table":
    import pyarrow as pa

    schema = pa.schema([
        ("number", pa.int64()), ("source", pa.string()), ("latent", pa.int64()), ("fire_rate", pa.float64()), ("domain_fire_rate", pa.float64()),
        ("domain_ratio", pa.float64()), ("max_activation", pa.float64()), ("label", pa.string()), ("text", pa.string()), ("supported", pa.bool_()),
        ("f1", pa.float64()), ("f1_low", pa.float64()), ("f1_high", pa.float64()), ("control_f1", pa.float64()), ("control_f1_high", pa.float64()),
        ("precision", pa.float64()), ("recall", pa.float64()), ("threshold", pa.float64()), ("n_fires", pa.int64()), ("n_labelled", pa.int64()),
        ("promotes", pa.list_(pa.string())), ("suppresses", pa.list_(pa.string())), ("search_text", pa.string()), ("explanation", pa.string()),
    ])
    return pa.Table.from_pylist([_card_row(number, card) for number, card in enumerate(cards)], schema=schema)


def _card_row(number: int, card: Card) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": number, "supported": is_supported(card), "domain_ratio": domain_ratio(card),
        **card.model_dump(include={"source", "latent", "fire_rate", "domain_fire_rate", "max_activation", "promotes", "suppresses"}),
    }
    words = [*card.promotes, *card.suppresses]
    if card.explanation is not None:
        evidence = card.explanation.evidence
        words = [card.explanation.text, card.explanation.label, *words]
        row |= {
            "label": card.explanation.label, "text": card.explanation.text, "explanation": card.explanation.model_dump_json(),
            "f1": evidence.f1.value, "f1_low": evidence.f1.low, "f1_high": evidence.f1.high,
            "control_f1": evidence.control_f1.value, "control_f1_high": evidence.control_f1.high,
            "precision": evidence.precision.value, "recall": evidence.recall.value,
            "threshold": evidence.threshold, "n_fires": evidence.n_fires, "n_labelled": evidence.n_labelled,
        }
    return row | {"search_text": "\n".join(words)}


def _contexts_table(cards: Sequence[Card]) -> "pa.Table":
    import pyarrow as pa

    schema = pa.schema([
        ("card", pa.int64()), ("shown", pa.int64()), ("example", pa.string()), ("group", pa.string()),
        ("peak", pa.int64()), ("tokens", pa.string()), ("activations", pa.string()),
    ])
    rows = [
        {
            "card": number, "shown": shown, "example": context.example, "group": context.group, "peak": context.peak,
            "tokens": json.dumps(context.tokens), "activations": json.dumps(context.activations),
        }
        for number, card in enumerate(cards) for shown, context in enumerate(card.contexts)
    ]
    return pa.Table.from_pylist(rows, schema=schema)
