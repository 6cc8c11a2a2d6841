"""Which file of a folder holds the interactions, the items, the tags and the users, and which columns those have, layout by layout.

Owns: LAYOUTS and the guess of `layout = "auto"`. Refuses: folders that fit no layout, and layouts whose files are not there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparselight.corpus.interactions.config import InteractionsConfig
from sparselight.corpus.interactions.table import DEV, TEST, TRAIN
from sparselight.corpus.sources import Source
from sparselight.errors import CorpusError

TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".inter", ".csv.gz", ".tsv.gz")
ML_100K_GENRES = ("unknown", "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir", "Horror",
                  "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a file; `header` names all of them where the file has no header line."""

    user: str = ""
    item: str = ""
    time: str = ""
    value: str = ""
    title: str = ""
    labels: tuple[str, ...] | None = None  # None: all that are nothing else
    flags: tuple[str, ...] = ()  # columns of 0 and 1 that together are the label `genre`
    header: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """What is read, with the columns of each."""

    interactions: list[tuple[Source, int | None]]  # a file, and the side that all of it is on where the files are the split
    columns: Columns
    items: tuple[Source, Columns] | None = None
    tags: tuple[Source, Columns] | None = None
    users: tuple[Source, Columns] | None = None
    typed: bool = False  # whether column names carry types, as RecBole's do
    named: bool = False  # whether the settings name the columns: then each of them must be there


def find_files(root: Path, config: InteractionsConfig) -> Files:
    """The files of a root by the layout that the settings name, or that it looks like; files that are named in the settings take precedence.

    Raises:
        CorpusError: when nothing fits.
    """
    layout = guess_layout(root) if config.layout == "auto" else config.layout
    files, paths = LAYOUTS[layout](root, config), config.paths()
    if root.is_file():  # what lies beside it is not part of the corpus: a folder as root says that it is
        files = replace(files, items=None, tags=None, users=None)

    def named(setting: str) -> Source | None:
        path = paths.get(f"interactions.{setting}")
        return None if path is None else Source(path, path.name)

    if items := named("items"):
        files = replace(files, items=(items, Columns(item=config.item_id, title=config.title, labels=tuple(config.item_labels) or None)))
    if tags := named("tags"):
        files = replace(files, tags=(tags, Columns(item=config.item_id, title="tag")))
    if users := named("users"):
        files = replace(files, users=(users, Columns()))
    return files


def guess_layout(root: Path) -> str:
    """The layout that names of files imply.

    Raises:
        CorpusError: when a folder implies none.
    """
    if root.is_file():
        return "recbole" if root.name.endswith(".inter") else "movielens" if root.name in ("ratings.csv", "ratings.dat", "u.data") else "table"
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if {"ratings.dat", "u.data"} & names or {"ratings.csv", "movies.csv"} <= names:
        return "movielens"
    if any(name.endswith(".inter") for name in names):
        return "recbole"
    if {"train.csv", "test.csv"} <= names:
        return "rechorus"
    tables = sorted(name for name in names if name.endswith(TABLE_ENDINGS))
    if len(tables) == 1:
        return "table"
    raise CorpusError(asked=f"read interactions from corpus.root = {str(root)!r}", why=f"it fits no layout (tables in it: {', '.join(tables[:6]) or 'none'})",
                      instead="set corpus.root to the file of the interactions, or corpus.interactions.layout to what the folder is")


def _movielens(root: Path, _config: InteractionsConfig) -> Files:
    folder = root if root.is_dir() else root.parent
    rated = ("user", "item", "rating", "time")
    if (folder / "ratings.csv").is_file():
        return Files(
            [(_source(folder, "ratings.csv"), None)], Columns("userId", "movieId", "timestamp", "rating"),
            _beside(folder, "movies.csv", Columns(item="movieId", title="title", labels=("genres",))),
            _beside(folder, "tags.csv", Columns(item="movieId", title="tag")))
    if (folder / "ratings.dat").is_file():
        return Files(
            [(_source(folder, "ratings.dat"), None)], Columns("user", "item", "time", "rating", header=rated),
            _beside(folder, "movies.dat", Columns(item="item", title="title", labels=("genres",), header=("item", "title", "genres"))),
            users=_beside(folder, "users.dat", Columns(labels=("gender", "age", "occupation"), header=("user", "gender", "age", "occupation", "zip"))))
    return Files(
        [(_source(folder, "u.data"), None)], Columns("user", "item", "time", "rating", header=rated),
        _beside(folder, "u.item", Columns(item="item", title="title", labels=(), flags=ML_100K_GENRES,
                                          header=("item", "title", "release", "video", "url", *ML_100K_GENRES))),
        users=_beside(folder, "u.user", Columns(labels=("age", "gender", "occupation"), header=("user", "age", "gender", "occupation", "zip"))))


def _recbole(root: Path, _config: InteractionsConfig) -> Files:
    path = root if root.is_file() else next(iter(sorted(root.glob("*.inter"))), root / "NAME.inter")
    columns = Columns("user_id", "item_id", "timestamp", "rating")
    return Files([(_source(path.parent, path.name), None)], columns, _beside(path.parent, f"{path.stem}.item", Columns(item="item_id")),
                 users=_beside(path.parent, f"{path.stem}.user", Columns()), typed=True)


def _rechorus(root: Path, _config: InteractionsConfig) -> Files:
    sides = [(_source(root, f"{name}.csv"), side) for name, side in (("train", TRAIN), ("dev", DEV), ("test", TEST)) if (root / f"{name}.csv").is_file()]
    if not sides:
        _source(root, "train.csv")
    return Files([(source, side) for source, side in sides], Columns("user_id", "item_id", "time"),
                 _beside(root, "item_meta.csv", Columns(item="item_id", title="title")))


def _table(root: Path, config: InteractionsConfig) -> Files:
    found = [root] if root.is_file() else sorted(path for path in root.iterdir() if path.name.endswith(TABLE_ENDINGS)) if root.is_dir() else []
    others = set(config.paths().values())
    found = [path for path in found if path not in others]
    if len(found) != 1:
        raise CorpusError(asked=f"read the table of interactions at corpus.root = {str(root)!r}", why=f"there are {len(found)} tables in it",
                          instead="set corpus.root to the file itself")
    return Files([(Source(found[0], found[0].name), None)], Columns(config.user, config.item, config.time, config.value), named=True)


LAYOUTS: dict[str, Callable[[Path, InteractionsConfig], Files]] = {
    "movielens": _movielens, "recbole": _recbole, "rechorus": _rechorus, "table": _table}


def _source(folder: Path, name: str) -> Source:
    if not (folder / name).is_file():
        raise CorpusError(asked=f"read interactions from {folder}", why=f"it holds no {name}", instead="set corpus.interactions.layout to what the folder is")
    return Source(folder / name, name)


def _beside(folder: Path, name: str, columns: Columns) -> tuple[Source, Columns] | None:
    return (Source(folder / name, name), columns) if (folder / name).is_file() else None


def untyped(names: Sequence[str]) -> dict[str, str]:
    """RecBole's column names without their type -> the type (`token`, `token_seq`, `float`)."""
    return {name.partition(":")[0]: name.partition(":")[2] for name in names}
