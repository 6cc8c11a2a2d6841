"""Reading a catalogue: search, one card, SQL, export; and adding to it.

Cards that are read equal those that were saved, unchanged to the last bit, and all of a card is of one state of the file; several threads may read at once
(`connections`). Refuses: a file that is missing, damaged, no catalogue, or of another version; cards that are not there; SQL that DuckDB refuses.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparselight.errors import ConfigError, nearest
from sparselight.interpret.catalogue.connections import Connections
from sparselight.interpret.catalogue.export import export
from sparselight.interpret.catalogue.tables import edit_row, rows_of
from sparselight.interpret.catalogue.writing import FILE_NAME, insert, update
from sparselight.interpret.evidence import GRADES, graded
from sparselight.records import Association, Card, Context, EditResult, Explanation, Neighbour, Score

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SORTS: dict[str, str] = {
    "grade": "grade, f1 DESC NULLS LAST",
    "f1": "f1 DESC NULLS LAST",
    "domain_ratio": "domain_ratio DESC",
    "fire_rate": "fire_rate DESC",
    "domain_fire_rate": "domain_fire_rate DESC",
    "n_fires": "n_fires DESC",
    "max_activation": "max_activation DESC",
    "latent": "source, latent",
}
WANTED = "SELECT unnest(?::VARCHAR[]) AS source, unnest(?::BIGINT[]) AS latent"
PARTS = {
    "contexts": ("*", "shown"), "explanations": ("card, shown, is_best, record", "shown"),
    "neighbours": ("card, shown, relation, to_source, to_latent, cosine", "shown"), "associations": ("card, shown, record", "shown"),
    "edits": ("card, key", "key"),
}
"""Tables that a card is put together of: the columns that are read, and the order of a card's rows."""
BLOCK_CARDS = 2048
Key = tuple[str, int]


class Catalogue:
    """The cards of a run or of some SAEs.

    Args:
        path: the file, or the folder that holds it.
        memory_bytes: most that DuckDB may take for it; None leaves that to DuckDB.
        n_threads: threads that a query runs on; None leaves that to DuckDB. 1 serves many readers at once best.

    Raises:
        RunError: when it is missing, damaged, no catalogue, or of another version.
    """

    def __init__(self, path: str | Path, memory_bytes: int | None = None, n_threads: int | None = None):
        path = Path(path)
        self.path = path / FILE_NAME if path.is_dir() else path
        self._connections = Connections(self.path, memory_bytes, n_threads)
        head = self._rows("SELECT * FROM catalogue")[0]
        self.modality = str(head["modality"])

    def __len__(self) -> int:
        return int(self._rows("SELECT n_cards FROM catalogue")[0]["n_cards"])

    def __repr__(self) -> str:
        return f"Catalogue({self.path}, {len(self):,} cards of {', '.join(self.sources())})"

    def _repr_html_(self) -> str:
        counts = self.sql("SELECT source, grade, count(*) AS cards FROM cards GROUP BY ALL ORDER BY ALL").to_pylist()
        rows = "".join(f"<tr><td>{row['source']}</td><td>{row['grade']}</td><td>{row['cards']:,}</td></tr>" for row in counts)
        return f"<table><caption>Catalogue</caption><tr><th>SAE</th><th>grade</th><th>cards</th></tr>{rows}</table>"

    def sources(self) -> list[str]:
        """Names of the SAEs, in their order."""
        return [row["source"] for row in self._rows("SELECT source FROM cards GROUP BY source ORDER BY min(number)")]

    def search(
        self, text: str | None = None, *, grade: str | None = None, source: str | None = None, explainer: str | None = None, min_f1: float | None = None,
        min_fire_rate: float | None = None, max_fire_rate: float | None = None, domain: float | bool | None = None, supported_only: bool = False,
        sort: str = "grade", limit: int | None = None,
    ) -> list[Card]:
        """Find cards.

        Args:
            text: must occur in an explanation, its label, a promoted or suppressed token, or an associated annotation; case is ignored.
            grade: this grade or a better one.
            explainer: has an explanation of this one.
            min_f1: smallest held-out F1 of the statistical explanation.
            min_fire_rate, max_fire_rate: on general held-out tokens.
            domain: fires at least so many times as often in the domain as in general; True: 3 times.
            supported_only: grade A or B.
            sort: a key of SORTS; ties go by source and latent.

        Raises:
            ConfigError: when there is no such sort or grade.
        """
        if sort not in SORTS:
            raise ConfigError(asked=f"sort cards by {sort!r}", why="there is no such order", instead=nearest(sort, SORTS))
        if grade is not None and grade not in GRADES:
            raise ConfigError(asked=f"find cards of grade {grade!r}", why="there is no such grade", instead=f"use one of {', '.join(GRADES)}")
        conditions = {
            "contains(lower(search_text), lower(?))": text, "grade <= ?": grade, "source = ?": source, "f1 >= ?": min_f1, "fire_rate >= ?": min_fire_rate,
            "fire_rate <= ?": max_fire_rate, "domain_ratio >= ?": 3.0 if domain is True else domain or None, "supported = ?": supported_only or None,
            "number IN (SELECT card FROM explanations WHERE explainer = ?)": explainer,
        }
        given = {condition: value for condition, value in conditions.items() if value is not None}
        sql = f"SELECT * FROM cards WHERE {' AND '.join(['TRUE', *given])} ORDER BY {SORTS[sort]}, source, latent"
        values: list[Any] = list(given.values())
        if limit is not None:
            sql, values = f"{sql} LIMIT ?", [*values, limit]
        return self._cards(sql, values)

    def card(self, source: str, latent: int) -> Card:
        """One card.

        Raises:
            ConfigError: when there is none.
        """
        found = self._cards("SELECT * FROM cards WHERE latent = ? AND source = ?", [int(latent), source])
        if not found:
            known = self._rows("SELECT min(latent) AS low, max(latent) AS high FROM cards WHERE source = ?", [source])[0]
            why = f"the catalogue has no cards of {source!r}" if known["high"] is None else f"{source} has the latents {known['low']} to {known['high']}"
            raise ConfigError(asked=f"show the card {source}/{latent}", why=why, instead=f"use one of the sources {', '.join(self.sources())}"
                              if known["high"] is None else "give a latent in that range")
        return found[0]

    def after(self, source: str, latent: int, n: int) -> list[Card]:
        """The next n cards of a source behind a latent: for going through all of them in bounded memory."""
        return self._cards("SELECT * FROM cards WHERE source = ? AND latent > ? ORDER BY latent LIMIT ?", [source, latent, n])

    def cards(self) -> list[Card]:
        """All cards, in the order in which they were saved."""
        return self._cards("SELECT * FROM cards ORDER BY number", [])

    def sql(self, query: str) -> "pa.Table":
        """Answer of a query, read-only: tables cards, contexts, explanations, scores, neighbours, associations, edits, controls.

        Raises:
            ConfigError: when DuckDB refuses it.
        """
        import duckdb
        import pyarrow as pa

        with self._connections.one() as connection:
            try:
                answer = connection.sql(query)
                return pa.table({}) if answer is None else answer.to_arrow_table()
            except duckdb.Error as err:
                why = str(err).splitlines()[0]
                instead = "see the tables with SHOW TABLES, their columns with DESCRIBE cards"
                raise ConfigError(asked=f"run the SQL {query!r}", why=why, instead=instead) from None

    def export(self, path: str | Path, **settings: str) -> Path:
        """Write the catalogue for other tools; the form follows the path: see `export`."""
        return export(self, Path(path), **settings)

    def add_explanations(self, explanations: Mapping[Key, Sequence[Explanation]]) -> None:
        """Add explanations by (source, latent), in the place of earlier ones of the same explainer; grades follow. All of them or none.

        Raises:
            ConfigError: when there is no such card.
            RunError, StoreError: when the file cannot be changed.
        """
        def with_these(card: Card) -> Card:
            new = {explanation.explainer: explanation for explanation in explanations[card.source, card.latent]}
            kept = [new.pop(old.explainer, old) for old in card.explanations]
            return graded(card, [*kept, *new.values()])

        self._change(list(explanations), with_these)

    def add_scores(self, scores: Mapping[Key, Mapping[str, Sequence[Score]]]) -> None:
        """Add scores by (source, latent) and explainer, in the place of earlier ones of the same scorer; grades follow. All of them or none.

        Raises:
            ConfigError: when there is no such card or explanation.
            RunError, StoreError: when the file cannot be changed.
        """
        def with_these(card: Card) -> Card:
            given = scores[card.source, card.latent]
            missing = next((name for name in given if name not in {explanation.explainer for explanation in card.explanations}), None)
            if missing is not None:
                raise ConfigError(asked=f"add scores of {missing} to {card.key}", why="it has no explanation of that explainer",
                                  instead="add the explanation first")
            return graded(card, [_scored(explanation, given.get(explanation.explainer, ())) for explanation in card.explanations])

        self._change(list(scores), with_these)

    def add_associations(self, associations: Mapping[Key, Sequence[Association]]) -> None:
        """Set the associations of cards by (source, latent)."""
        self._change(list(associations), lambda card: card.model_copy(update={"associations": list(associations[card.source, card.latent])}))

    def add_edits(self, results: Sequence[EditResult]) -> None:
        """Add edits that were tried; one that is there already is replaced.

        Raises:
            ConfigError: when the card of one is not in the catalogue.
        """
        if not results:
            return
        keys = {result.card: (result.card.partition("/")[0], int(result.card.partition("/")[2])) for result in results}
        numbered = {card.key: (number, card) for number, card in self._numbered(list(keys.values()))}
        rows = [edit_row(*numbered[result.card], edit_key(result), result) for result in results]

        def change(connection: "duckdb.DuckDBPyConnection") -> None:
            connection.execute("DELETE FROM edits WHERE key IN (SELECT unnest(?))", [[row["key"] for row in rows]])
            insert(connection, {"edits": rows})

        update(self.path, change)

    def edits(self, source: str, latent: int | None = None) -> list[EditResult]:
        """The edits tried with a latent, or with all of an SAE."""
        rows = self._rows("SELECT record FROM edits WHERE source = ? AND (latent = ?::BIGINT OR ?::BIGINT IS NULL) ORDER BY card, key",
                          [source, latent, latent])
        return [EditResult.model_validate_json(row["record"]) for row in rows]

    def control_f1(self) -> dict[tuple[str, str], list[float]]:
        """Held-out F1 of control latents, each with its own best explanation, by (source, control)."""
        found: dict[tuple[str, str], list[float]] = {}
        for row in self._rows("SELECT source, control, f1 FROM controls ORDER BY ALL"):
            found.setdefault((row["source"], row["control"]), []).append(row["f1"])
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._connections.close()

    def _change(self, keys: Sequence[Key], to: Callable[[Card], Card]) -> None:
        if not keys:
            return
        changed = [(number, to(card)) for number, card in self._numbered(keys)]
        rows = rows_of(changed)
        del rows["contexts"]

        def change(connection: "duckdb.DuckDBPyConnection") -> None:
            numbers = [number for number, _ in changed]
            for name in rows:
                connection.execute(f"DELETE FROM {name} WHERE {'number' if name == 'cards' else 'card'} IN (SELECT unnest(?))", [numbers])
            insert(connection, rows)

        update(self.path, change)

    def _numbered(self, keys: Sequence[Key]) -> list[tuple[int, Card]]:
        """Cards with their running numbers, without contexts."""
        result: list[tuple[int, Card]] = []
        for start in range(0, len(keys), BLOCK_CARDS):
            part = keys[start : start + BLOCK_CARDS]
            wanted = [[source for source, _ in part], [int(latent) for _, latent in part]]
            with self._connections.one() as connection:
                rows = self._connections.rows(connection, f"SELECT cards.* FROM cards JOIN ({WANTED}) USING (source, latent) ORDER BY number", wanted)
                result += list(zip([row["number"] for row in rows], self._built(connection, rows, with_contexts=False), strict=True))
        missing = set(keys) - {(card.source, card.latent) for _, card in result}
        if missing:
            source, latent = min(missing)
            raise ConfigError(asked=f"add to the card {source}/{latent}", why="the catalogue has none", instead="give cards of this catalogue")
        return result

    def _cards(self, sql: str, values: Sequence[Any]) -> list[Card]:
        with self._connections.one() as connection:
            rows = self._connections.rows(connection, sql, values)
            return [card for start in range(0, len(rows), BLOCK_CARDS) for card in self._built(connection, rows[start : start + BLOCK_CARDS])]

    def _built(self, connection: "duckdb.DuckDBPyConnection", rows: Sequence[dict[str, Any]], with_contexts: bool = True) -> list[Card]:
        numbers = [row["number"] for row in rows]
        # The bounds let DuckDB skip all of the table but the part that holds these cards; one card alone needs no more.
        where, values = "card BETWEEN ? AND ? AND card IN (SELECT unnest(?))", [min(numbers, default=0), max(numbers, default=-1), numbers]
        if len(numbers) == 1:
            where, values = "card = ?", numbers
        parts: dict[str, dict[int, list[dict[str, Any]]]] = {}
        for name, (columns, order) in PARTS.items():
            if name == "contexts" and not with_contexts:
                continue
            parts[name] = {}
            for row in self._connections.rows(connection, f"SELECT {columns} FROM {name} WHERE {where}", values):
                parts[name].setdefault(row["card"], []).append(row)
            for listed in parts[name].values():  # here and not in SQL, which would move whole windows about
                listed.sort(key=itemgetter(order))
        return [_card(row, {name: listed.get(row["number"], []) for name, listed in parts.items()}) for row in rows]

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        with self._connections.one() as connection:
            return self._connections.rows(connection, sql, values)


def load_catalogue(path: Path) -> list[Card]:
    """Read all cards of a catalogue, in the order in which they were saved.

    Args:
        path: the file, or the folder that holds it.

    Raises:
        RunError: when the file is missing, damaged, no catalogue, or of another version.
    """
    return Catalogue(path).cards()


def edit_key(result: EditResult) -> str:
    """The key of an edit: equal edits at equal places have equal keys."""
    content = json.dumps([result.card, result.edit, result.context.example, result.context.peak + result.context.start], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _scored(explanation: Explanation, scores: Sequence[Score]) -> Explanation:
    new = {score.scorer: score for score in scores}
    kept = [new.pop(old.scorer, old) for old in explanation.scores]
    return explanation.model_copy(update={"scores": [*kept, *new.values()]})


def _card(row: Mapping[str, Any], parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> Card:
    listed = [Explanation.model_validate_json(found["record"]) for found in parts["explanations"]]
    best = next((explanation for explanation, found in zip(listed, parts["explanations"], strict=True) if found["is_best"]), None)
    near = {relation: [Neighbour(source=found["to_source"], latent=found["to_latent"], cosine=found["cosine"])
                       for found in parts["neighbours"] if found["relation"] == relation] for relation in ("neighbour", "parent")}
    fields = ("latent", "source", "grade", "grade_why", "fire_rate", "domain_fire_rate", "max_activation", "promotes", "suppresses", "n_fires", "n_tokens",
              "quantiles")
    return Card(
        **{name: row[name] for name in fields}, explanation=best, explanations=listed, neighbours=near["neighbour"], parents=near["parent"],
        contexts=[Context(**{name: found[name] for name in Context.model_fields if found.get(name) is not None}) for found in parts.get("contexts", ())],
        associations=[Association.model_validate_json(found["record"]) for found in parts["associations"]], edits=[found["key"] for found in parts["edits"]],
    )
