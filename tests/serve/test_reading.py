"""Reading a catalogue for many at once: the same answers as plain SQL, from as many threads as like, also while the file is being replaced."""

import itertools
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from worded_run import make_worded_run, plain

from sparselight.errors import SparselightError
from sparselight.interpret import Catalogue
from sparselight.interpret.catalogue import write_catalogue
from sparselight.records import Explanation
from sparselight.serve import ServeSettings
from sparselight.serve.data import explorer as explorer_module
from sparselight.serve.data import peaks as peaks_module
from sparselight.serve.data import words as words_module
from sparselight.serve.data.columns import Columns
from sparselight.serve.data.explorer import ExplorerData
from sparselight.serve.data.features import feature_list
from sparselight.serve.data.peaks import read_peaks, shown_token
from sparselight.serve.data.served import Runs, ServedRun
from sparselight.serve.models import FeatureQuery
from sparselight.serve.settings import NotFoundError

TEXTS = ("kind", "1", "w", "\n", "nowhere", "1\n", "=", "-", "Ä", "%", "\ud800", "word 1", "12")


@pytest.fixture
def data(tmp_path: Path) -> ExplorerData:
    return ExplorerData(Runs([make_worded_run(tmp_path / "run", plain)]), ServeSettings())


def keys(rows: Any) -> list[tuple[str, int]]:
    return [(row.source, row.latent) for row in rows]


def test_texts_are_found_as_sql_finds_them(plain_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue(next(plain_run.glob("explain-*")))
    columns = Columns(catalogue)
    some = catalogue.sql("SELECT lower(search_text) AS text FROM cards ORDER BY number").column("text").to_pylist()
    asked = [*TEXTS, some[0][:9], some[3][5:30], some[7], some[7] + "\n", some[5].splitlines()[2]]
    for _ in range(2):  # the second time from what was kept
        for text in asked:
            assert columns.containing(text).tolist() == [text in own for own in some], text
    monkeypatch.setattr(words_module, "KEPT", 2)
    for text in ("new", *asked):
        assert columns.containing(text).sum() == sum(text in own for own in some)
    assert len(columns._words._found) == 2


def test_rows_hold_what_the_table_holds(plain_run: Path) -> None:
    catalogue = Catalogue(next(plain_run.glob("explain-*")))
    rows = feature_list(Columns(catalogue), None, FeatureQuery(sort="latent", descending=False, limit=500)).rows
    names = [name for name in type(rows[0]).model_fields if name != "peak_tokens"]
    table = catalogue.sql(f"SELECT {', '.join(names)} FROM cards ORDER BY source, latent").to_pylist()
    for row, stored in zip(rows, table, strict=True):
        assert row.model_dump(exclude={"peak_tokens"}) == {name: "" if value is None and name in ("text", "label", "explainer") else value
                                                           for name, value in stored.items()}
        assert all(value is None or not isinstance(value, float) or math.isfinite(value) for value in row.model_dump().values())


def test_many_readers_get_the_answers_of_one(data: ExplorerData) -> None:
    catalogue = data.runs["run"].catalogue()
    every = keys(data.features("run", limit=500).rows)
    alone = {key: catalogue.card(*key) for key in every}
    listed = {text: keys(data.features("run", text=text).rows) for text in ("kind", "1", "nowhere")}

    def look(number: int) -> None:
        for key in every[number:] + every[:number]:
            assert catalogue.card(*key) == alone[key]
        for text, found in listed.items():
            assert keys(data.features("run", text=text).rows) == found
        assert catalogue.sql("SELECT count(*) AS n FROM cards").column("n").to_pylist() == [len(every)]

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(look, number) for number in range(8)]:
            done.result()


def test_readers_go_on_while_the_catalogue_is_replaced(data: ExplorerData) -> None:
    run, served = data.runs["run"], Catalogue(data.runs["run"].catalogue().path)
    rounds, ended, seen = 6, threading.Event(), list[list[int]]()

    def look() -> None:
        numbers = []
        while not ended.is_set():
            card = data.feature("run", "base", 1)
            said = [view.explanation.text for view in card.explanations if view.explanation.explainer == "teller"]
            near = [context.html for group in card.contexts for context in group.contexts]
            assert len(near) == 3
            numbers.append(int(said[0].split()[-1]) if said else 0)
            assert data.features("run", limit=500).total == 24
            assert data.overview("run").n_features == 24
        seen.append(numbers)

    with ThreadPoolExecutor(4) as pool:
        looking = [pool.submit(look) for _ in range(4)]
        for number in range(1, rounds + 1):
            served.add_explanations({("base", 1): [Explanation(text=f"round {number}", explainer="teller")]})
            assert f"round {number}" in [view.explanation.text for view in data.feature("run", "base", 1).explanations]
        ended.set()
        for done in looking:
            done.result()
    assert all(numbers == sorted(numbers) for numbers in seen), "nobody sees an older catalogue after a newer one"
    assert [row.latent for row in data.features("run", text=f"round {rounds}").rows] == [1]
    assert run.catalogue() is run.catalogue()


def test_rows_and_peak_tokens_are_of_one_catalogue(data: ExplorerData) -> None:
    path, ended = data.runs["run"].catalogue().path, threading.Event()
    cards = Catalogue(path).cards()
    peaks = {(row.source, row.latent): row.peak_tokens for row in data.features("run", limit=500).rows}

    def look() -> int:
        n_looks = 0
        while not ended.is_set() or not n_looks:
            rows = data.features("run", limit=500).rows
            assert {len(rows)} <= {24, 5}
            assert all(row.peak_tokens == peaks[row.source, row.latent] for row in rows)
            n_looks += 1
        return n_looks

    with ThreadPoolExecutor(3) as pool:
        looking = [pool.submit(look) for _ in range(3)]
        for number in range(8):
            write_catalogue(iter([cards[::-1] if number % 2 else cards[7:12]]), path.parent)
        ended.set()
        assert all(done.result() for done in looking)


@pytest.mark.parametrize(("part", "last"), [("columns", 1), ("columns", 2), ("_peaks", 1)])
def test_a_catalogue_replaced_in_the_middle_of_a_list(data: ExplorerData, monkeypatch: pytest.MonkeyPatch, part: str, last: int) -> None:
    path, read, times = data.runs["run"].catalogue().path, getattr(data, part), itertools.count(1)
    cards = Catalogue(path).cards()
    peaks = {(row.source, row.latent): row.peak_tokens for row in data.features("run", limit=500).rows}
    write_catalogue(iter([cards[7:12]]), path.parent)

    def then_replaced(run: Any) -> Any:
        found = read(run)
        if next(times) == last:
            write_catalogue(iter([cards[::-1]]), path.parent)
        return found

    monkeypatch.setattr(data, part, then_replaced)
    assert all(row.peak_tokens == peaks[row.source, row.latent] for row in data.features("run", limit=500).rows)


@pytest.mark.parametrize("last", [1, 2])
def test_a_catalogue_replaced_in_the_middle_of_a_card(data: ExplorerData, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    path, read, times = data.runs["run"].catalogue().path, data.columns, itertools.count(1)
    few = Catalogue(path).cards()[7:12]

    def then_replaced(run: Any) -> Any:
        found = read(run)
        if next(times) == last:
            write_catalogue(iter([[card.model_copy(update={"neighbours": []}) for card in few]]), path.parent)
        return found

    before = data.feature("run", "base", 8)
    monkeypatch.setattr(data, "columns", then_replaced)
    shown = [data.feature("run", "base", 8) for _ in range(last)]
    monkeypatch.undo()
    after = data.feature("run", "base", 8)
    assert (before.previous, before.next, before.neighbours) != (after.previous, after.next, after.neighbours)
    assert shown == [before, after][-last:]
    with pytest.raises(SparselightError, match="feature"):
        data.feature("run", "base", 1)


def test_a_card_that_goes_while_it_is_looked_for_is_not_there(data: ExplorerData, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = data.runs["run"].catalogue().path, data.columns
    few = Catalogue(path).cards()[7:12]

    def then_replaced(run: Any) -> Any:
        found = read(run)
        monkeypatch.undo()
        write_catalogue(iter([few]), path.parent)
        return found

    monkeypatch.setattr(data, "columns", then_replaced)
    with pytest.raises(NotFoundError):
        data.feature("run", "base", 1)


def test_warming_a_run_that_is_taken_away_harms_nothing(data: ExplorerData, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(explorer_module.overviews, "overview", gone)
    monkeypatch.setattr(data, "_peaks", gone)
    data.warm()


def test_a_reader_ends_with_the_file_it_began_with(plain_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "catalogue.duckdb"
    shutil.copy(next(plain_run.glob("explain-*")) / "catalogue.duckdb", path)
    catalogue = Catalogue(path, n_threads=1)
    connections, count = catalogue._connections, "SELECT count(*) AS n FROM cards"
    with connections.one() as before:
        write_catalogue(iter([catalogue.cards()[:5]]), tmp_path)
        with connections.one() as after:
            assert [connections.rows(one, count)[0]["n"] for one in (before, after)] == [24, 5]
        catalogue.close()
        assert connections.rows(before, count)[0]["n"] == 24
    assert len(catalogue) == 5


def test_what_takes_long_holds_up_nothing_else(tmp_path: Path) -> None:
    run, may_end = ServedRun("run", make_worded_run(tmp_path / "run", plain)), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(run.kept, "slow", 1, lambda: may_end.wait(60)) for _ in range(2)]
        assert run.kept("quick", 1, lambda: "here") == "here"
        assert run.record.name
        may_end.set()
        assert [one.result() for one in slow] == [True, True]
    made = []
    for stamp in (1, 1, 2, 2, 1):
        run.kept("made", stamp, lambda: made.append(stamp))  # noqa: B023
    assert made == [1, 2, 1]


@pytest.fixture
def read_queries(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The queries for peak tokens that reach the catalogue."""
    asked: list[str] = []
    sql: Callable[..., Any] = Catalogue.sql

    def counted(self: Catalogue, query: str) -> Any:
        if query == peaks_module.QUERY:
            asked.append(query)
        return sql(self, query)

    monkeypatch.setattr(Catalogue, "sql", counted)
    yield asked


def test_peak_tokens_are_read_once_and_kept(plain_run: Path, tmp_path: Path, read_queries: list[str]) -> None:
    path = tmp_path / "catalogue.duckdb"
    shutil.copy(next(plain_run.glob("explain-*")) / "catalogue.duckdb", path)
    catalogue, folder = Catalogue(path), tmp_path / "explorer"
    cards = catalogue.cards()
    expected = []
    for card in cards:
        tokens = [context.tokens[context.peak] for context in card.contexts[:2 * peaks_module.N_PEAKS] if context.kind in ("top", "quantile", "importance")]
        expected.append(list(dict.fromkeys(shown_token(token) for token in tokens if token))[:peaks_module.N_PEAKS])
    assert any(expected)
    for n_read in (1, 1):
        peaks = read_peaks(catalogue, folder)
        assert ([peaks[row] for row in range(len(cards))], len(read_queries)) == (expected, n_read)
    kept = folder / peaks_module.FILE_NAME
    for damage in (b"", b"PAR1 no table", kept.read_bytes()[:-9]):
        kept.write_bytes(damage)
        assert read_peaks(catalogue, folder)[0] == expected[0]
    assert len(read_queries) == 4
    write_catalogue(iter([cards[::-1]]), tmp_path)
    assert read_peaks(catalogue, folder)[0] == expected[-1]
    assert len(read_queries) == 5
    assert pq.read_table(kept).column_names == ["card", "token"]


def test_peak_tokens_in_a_folder_that_cannot_be_written(plain_run: Path, tmp_path: Path, read_queries: list[str]) -> None:
    (tmp_path / "explorer").write_text("in the way")
    for n_read in (1, 2):
        assert read_peaks(Catalogue(next(plain_run.glob("explain-*"))), tmp_path / "explorer")[0]
        assert len(read_queries) == n_read
    assert (tmp_path / "explorer").read_text() == "in the way"


def test_lists_do_not_wait_for_the_peak_tokens_of_a_large_catalogue(data: ExplorerData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer_module, "FEW_CONTEXTS", 0)
    may_read = threading.Event()

    def late(*args: Any) -> Any:
        assert may_read.wait(60)
        return read_peaks(*args)

    monkeypatch.setattr(explorer_module, "read_peaks", late)
    assert all(row.peak_tokens == [] for row in data.features("run").rows)
    may_read.set()
    end = time.monotonic() + 60
    while not data.features("run", limit=1).rows[0].peak_tokens:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert all(row.peak_tokens for row in data.features("run").rows)
    assert (data.runs["run"].folder / "explorer" / peaks_module.FILE_NAME).is_file()
