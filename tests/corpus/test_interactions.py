"""Interaction tables: layouts, cleaning, splits in time, guards, and what each bad input comes to."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparselight.corpus import CorpusConfig, ListCorpus, corpus_record, load_corpus
from sparselight.corpus.interactions.config import InteractionsConfig
from sparselight.corpus.interactions.items import ItemTable
from sparselight.corpus.interactions.split import global_time, leave_one_out
from sparselight.corpus.interactions.table import DEV, TEST, TRAIN, Interactions, in_core
from sparselight.errors import ConfigError, CorpusError
from sparselight.protocols import Example

ROWS = [("anna", "a", 5.0, 3), ("anna", "b", 4.0, 1), ("bert", "a", 2.0, 2), ("anna", "c", 4.5, 2), ("bert", "c", 4.0, 5), ("anna", "a", 1.0, 9)]


def config(root: Path, on_bad_row: str = "refuse", **settings: Any) -> CorpusConfig:
    return CorpusConfig.parse({"kind": "interactions", "root": str(root), "on_bad_row": on_bad_row, "interactions": settings}, "corpus")


def read(root: Path, **settings: Any) -> ListCorpus:
    return load_corpus(config(root, **{"split": "none", **settings}))


def spans(example: Example, name: str) -> list[str]:
    return [span.value for span in example.spans if span.name == name]


@pytest.fixture
def csv_table(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,rating,timestamp\n" + "".join(f"{user},{item},{value},{time}\n" for user, item, value, time in ROWS))
    return path


def test_an_example_is_a_user_in_the_order_of_time(csv_table: Path) -> None:
    corpus = read(csv_table)
    assert [example.id for example in corpus] == ["anna", "bert"]
    assert spans(corpus[0], "item") == ["b", "c", "a"]  # the later, lower rating of the same item is left out
    assert corpus[0].text == "item b\nitem c\nitem a"
    assert [corpus[0].text[span.start:span.end] for span in corpus[0].spans] == ["item b", "item c", "item a"]
    assert corpus.reading is not None
    assert corpus.reading.notes["repeated interactions of a user with an item left out"] == 1
    assert corpus[0].group == "anna"


@pytest.mark.parametrize(("duplicates", "anna"), [("first", ["b", "c", "a"]), ("last", ["b", "c", "a"]), ("keep", ["b", "c", "a", "a"])])
def test_duplicates(csv_table: Path, duplicates: str, anna: list[str]) -> None:
    assert spans(read(csv_table, duplicates=duplicates)[0], "item") == anna


def test_duplicates_can_be_refused(csv_table: Path) -> None:
    with pytest.raises(CorpusError, match=r"'anna' has the item 'a' more than once.*duplicates"):
        read(csv_table, duplicates="refuse")


@pytest.mark.parametrize("kind", ["tsv", "parquet", "csv.gz"])
def test_the_same_table_in_other_files(csv_table: Path, tmp_path: Path, kind: str) -> None:
    import gzip

    path = tmp_path / f"other.{kind}"
    if kind == "tsv":
        path.write_text(csv_table.read_text().replace(",", "\t"))
    elif kind == "csv.gz":
        path.write_bytes(gzip.compress(csv_table.read_bytes()))
    else:
        names = ("user_id", "item_id", "rating", "timestamp")
        pq.write_table(pa.table({name: [row[column] for row in ROWS] for column, name in enumerate(names)}), path)
    assert [example.spans for example in read(path)] == [example.spans for example in read(csv_table)]


def test_ratings_below_the_least_are_left_out(csv_table: Path) -> None:
    corpus = read(csv_table, value="rating", min_value=4.0)
    assert [spans(example, "item") for example in corpus] == [["b", "c", "a"], ["c"]]
    with pytest.raises(CorpusError, match=r"no column of values.*corpus\.interactions\.value"):
        read(csv_table, min_value=4.0)


def test_without_times_the_rows_are_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id\nu,x\nu,y\nv,y\nu,w\n")
    with pytest.raises(CorpusError, match=r"corpus\.interactions\.time"):
        read(path)
    corpus = read(path, time="")
    assert spans(corpus[0], "item") == ["x", "y", "w"]
    assert corpus.reading is not None
    assert corpus.reading.notes["rows without a time: the order of the rows counts as their order in time"] == 4
    with pytest.raises(CorpusError, match=r"no times.*leave_one_out"):
        read(path, time="", split="global_time")


def test_iso_dates_are_times(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\nu,x,2024-03-02\nu,y,2024-03-01T23:59:59\n")
    assert spans(read(path)[0], "item") == ["y", "x"]


@pytest.mark.parametrize(("row", "why"), [("u,,5\n", "its item_id is empty"), ("u,z,soon\n", "its timestamp is 'soon', not a number or an ISO date"),
                                          ("u,z,3,4\n", "it has 4 fields, not 3")])
def test_bad_rows_are_refused_with_their_line_or_counted(tmp_path: Path, row: str, why: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"user_id,item_id,timestamp\nu,x,1\n{row}u,y,2\n")
    with pytest.raises(CorpusError, match=f"log.csv, line 3: {why}"):
        read(path)
    corpus = load_corpus(config(path, "skip", split="none"))
    assert corpus.reading is not None
    assert corpus.reading.bad.n == 1
    assert spans(corpus[0], "item") == ["x", "y"]


def test_faults_of_files(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,thing\nu,x\n")
    with pytest.raises(CorpusError, match=r"'item_id'.*its columns are user_id, thing"):
        read(path, time="")
    path.write_bytes(b"user_id,item_id\nu,\xff\xfe\n")
    with pytest.raises(CorpusError, match="UTF-8"):
        read(path, time="")
    with pytest.raises(CorpusError, match="fits no layout"):
        (tmp_path / "empty").mkdir()
        read(tmp_path / "empty")
    with pytest.raises(CorpusError, match=r"corpus\.interactions\.items.*no such file"):
        read(path, items=str(tmp_path / "no.csv"))
    path.write_text("user_id,item_id,timestamp\nu,x,1\n")
    with pytest.raises(CorpusError, match="none is left"):
        read(path, k_core=5)
    with pytest.raises(ConfigError, match=r"corpus\.interactions"):
        load_corpus(CorpusConfig.parse({"root": str(path), "kind": "csv", "text": "item_id", "interactions": {"k_core": 2}}, "corpus"))


def movielens(folder: Path, old: bool = False) -> Path:
    folder.mkdir()
    if old:
        (folder / "ratings.dat").write_text("1::10::5::100\n1::20::4::50\n2::10::3::10\n")
        (folder / "movies.dat").write_bytes("10::Am\u00e9lie (2001)::Comedy|Romance\n20::Heat (1995)::Crime\n".encode("latin-1"))
        (folder / "users.dat").write_text("1::F::25::4::00000\n2::M::35::7::00000\n")
        return folder
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,10,5.0,100\n1,20,4.0,50\n2,10,3.0,10\n2,30,3.0,11\n")
    (folder / "movies.csv").write_text('movieId,title,genres\n10,"Am\u00e9lie, A (2001)",Comedy|Romance\n20,Heat (1995),(no genres listed)\n')
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,10,Paris,1\n2,10,paris ,1\n2,10,once,1\n")
    return folder


def test_movielens(tmp_path: Path) -> None:
    corpus = read(movielens(tmp_path / "ml"))
    assert [example.text for example in corpus] == ["Heat (1995)\nAm\u00e9lie, A (2001)", "Am\u00e9lie, A (2001)\nitem 30"]  # an item without a title
    items = ItemTable.from_examples(corpus)
    assert items.ids == ["10", "20", "30"]
    assert items.labels[0] == {"year": ("2001",), "decade": ("2000s",), "genre": ("Comedy", "Romance"), "tag": ("paris",)}
    assert items.labels[2] == {}
    assert "genre" not in items.labels[1]


def test_movielens_1m(tmp_path: Path) -> None:
    corpus = read(movielens(tmp_path / "ml", old=True))
    assert corpus[0].text == "Heat (1995)\nAm\u00e9lie (2001)"
    assert corpus[0].labels == {"gender": "F", "age": "25", "occupation": "4"}


def test_movielens_100k(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1\t10\t5\t100\n1\t20\t4\t50\n")
    (tmp_path / "u.item").write_bytes(("10|Heat (1995)|01-Jan-1995||url|" + "|".join(["0"] * 6 + ["1"] + ["0"] * 12) + "\n").encode("latin-1"))
    corpus = read(tmp_path)
    assert corpus[0].text == "item 20\nHeat (1995)"
    assert spans(corpus[0], "genre") == ["Crime"]


def test_recbole(tmp_path: Path) -> None:
    (tmp_path / "toy.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\tx\t2\nu\ty\t1\n")
    (tmp_path / "toy.item").write_text("item_id:token\tmovie_title:token_seq\tclass:token_seq\nx\tThe End\tDrama War\ny\tNew\tComedy\n")
    corpus = read(tmp_path)
    assert corpus[0].text == "New\nThe End"
    assert spans(corpus[0], "class") == ["Comedy", "Drama", "War"]


def test_rechorus_comes_split(tmp_path: Path) -> None:
    for name, rows in (("train", "u\ta\t1\nu\tb\t2\n"), ("dev", "u\tc\t3\n"), ("test", "u\td\t4\n")):
        (tmp_path / f"{name}.csv").write_text("user_id\titem_id\ttime\n" + rows)
    corpus = load_corpus(config(tmp_path))
    assert spans(corpus[0], "item") == ["a", "b", "c", "d"]
    assert [(corpus[0].text[span.start:span.end], span.value) for span in corpus[0].spans if span.name == "split"] == [("item c", "dev"), ("item d", "test")]
    (tmp_path / "test.csv").write_text("user_id\titem_id\ttime\nu\td\t0\n")
    with pytest.raises(CorpusError, match=r"user 'u' has a train interaction after one of a later part"):
        load_corpus(config(tmp_path))


def test_only_items_that_a_model_knows(csv_table: Path, tmp_path: Path) -> None:
    (tmp_path / "known.tsv").write_text("movieId\titem_id\na\t1\nb\t2\n")
    corpus = read(csv_table, only_items=str(tmp_path / "known.tsv"))
    assert [spans(example, "item") for example in corpus] == [["b", "a"], ["a"]]


def table(n_users: int = 4, n: int = 8, seed: int = 0) -> Interactions:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), n)
    time = rng.integers(0, 40, n_users * n).astype(float)
    return Interactions.make([str(i) for i in range(n_users)], [str(i) for i in range(20)], user, rng.integers(0, 20, n_users * n), time)


def test_leave_one_out_takes_the_last_two_of_each_user() -> None:
    rows = table()
    side = leave_one_out(rows, 3)
    for user in range(4):
        assert side[rows.user == user].tolist() == [TRAIN] * 6 + [DEV, TEST]
    assert (leave_one_out(rows, 7) == TRAIN).all()  # too few would be left to train on


def test_global_time_never_divides_a_day_and_never_trains_on_the_future() -> None:
    rows = table(10, 30)
    side = global_time(rows, InteractionsConfig(split="global_time", dev_frac=0.2, test_frac=0.2, day_s=3))
    assert rows.time is not None
    day = rows.time // 3
    for one in np.unique(day):
        assert len(set(side[day == one].tolist())) == 1
    assert day[side == TRAIN].max() < day[side == DEV].min()
    assert day[side == DEV].max() < day[side == TEST].min()
    assert (side == TEST).mean() <= 0.2


def test_cold_interactions_test_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = [("u", item, at) for at, item in enumerate("abcde")] + [("v", item, at) for at, item in enumerate("dabcz")]
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{user},{item},{at}\n" for user, item, at in rows))
    corpus = load_corpus(config(path))
    assert [spans(example, "split") for example in corpus] == [["dev"], ["dev"]]
    kept = load_corpus(config(path, cold="keep"))
    assert [spans(example, "split") for example in kept] == [["dev", "test"], ["dev", "test"]]


@pytest.mark.parametrize("k", [2, 3, 4])
def test_k_core_is_the_largest_part_with_k_each(k: int) -> None:
    rng = np.random.default_rng(k)
    user, item = rng.integers(0, 30, 120), rng.integers(0, 25, 120)
    inside = in_core(user, item, k)
    for column in (user, item):
        assert all(count >= k for count in Counter(column[inside].tolist()).values())
    again = inside.copy()
    while True:  # slow and plain: take away one at a time
        counts = [Counter(column[again].tolist()) for column in (user, item)]
        bad = [row for row in np.flatnonzero(again) if counts[0][user[row]] < k or counts[1][item[row]] < k]
        if not bad:
            break
        again[bad[0]] = False
    full = np.ones(120, dtype=bool)
    while True:
        counts = [Counter(column[full].tolist()) for column in (user, item)]
        bad = [row for row in np.flatnonzero(full) if counts[0][user[row]] < k or counts[1][item[row]] < k]
        if not bad:
            break
        full[bad[0]] = False
    assert np.array_equal(inside, full)


def test_saved_and_described(csv_table: Path, tmp_path: Path) -> None:
    corpus = load_corpus(config(csv_table, min_train=1))
    corpus.save(tmp_path / "saved.parquet")
    again = ListCorpus.load(tmp_path / "saved.parquet", "again")
    assert list(again) == list(corpus)
    record = corpus_record(config(csv_table, min_train=1))
    assert {row.name for row in record.spans} == {"item", "split"}
    json.dumps(record.model_dump(mode="json"))


def test_the_item_table_on_disk(tmp_path: Path) -> None:
    items = ItemTable(["1", "x"], ["One", "\u00c9x"], [{"genre": ("A", "B")}, {}])
    items.save(tmp_path / "items.parquet")
    again = ItemTable.load(tmp_path / "items.parquet")
    assert (again.ids, again.titles, again.labels) == (items.ids, items.titles, items.labels)
    assert again.index("x") == 1
    assert again.index("y") is None
    with pytest.raises(CorpusError, match="occurs twice"):
        ItemTable(["1", "1"], ["a", "b"], [{}, {}])


def test_longest_history(csv_table: Path) -> None:
    assert spans(read(csv_table, max_history=2)[0], "item") == ["c", "a"]


@pytest.mark.parametrize("settings", [{"split": "none", "test_frac": 0.2}, {"dev_frac": 0.5, "test_frac": 0.6, "split": "global_time"}])
def test_settings_that_do_not_fit(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="frac"):
        InteractionsConfig.parse(settings, "corpus.interactions")
