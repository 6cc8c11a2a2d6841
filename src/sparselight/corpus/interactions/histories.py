"""From files to examples: one a user, whose text is the titles of the items in the order of time, one a line, with spans that say what stands where.

Spans of an interaction cover its title: `item` (the id), one for every label of the item (genre, tag, year, decade, ...), and `split` = dev or test on
those that a recommender is never trained on. Group and id are the user. Owns: reading the tables into `Interactions` and `ItemTable`. Refuses
what the parts refuse, and tables in which nothing is left.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparselight.corpus.interactions.frames import Frame, numbers, read_frame
from sparselight.corpus.interactions.items import ITEM, SPLIT, ItemTable, one_line, split_values, year_labels
from sparselight.corpus.interactions.layouts import Files, find_files, untyped
from sparselight.corpus.interactions.split import check_no_leak, split_in_time
from sparselight.corpus.interactions.table import SIDES, TRAIN, Interactions, clean
from sparselight.corpus.sources import BadRows, Source
from sparselight.errors import CorpusError
from sparselight.protocols import Example, Span

if TYPE_CHECKING:
    from sparselight.corpus.config import CorpusConfig


def interaction_examples(config: "CorpusConfig", bad: BadRows, notes: "Counter[str]") -> Iterator[Example]:
    """The users of a table as examples."""
    files = find_files(config.path(), config.interactions)
    rows = read_interactions(config, files, bad, notes)
    items = read_items(config, files, rows, bad)
    yield from examples_of(rows, items, read_users(files, bad), config.interactions.max_history)


def read_interactions(config: "CorpusConfig", files: Files, bad: BadRows, notes: "Counter[str]") -> Interactions:
    """Read, clean and split the table.

    Raises:
        CorpusError: when columns are missing, rows are bad and refused, or nothing is left.
    """
    settings = config.interactions
    parts = [_columns(files, source, side, config, bad, notes) for source, side in files.interactions]
    users, user = _encoded(pa.chunked_array([part[0] for part in parts]))
    items, item = _encoded(pa.chunked_array([part[1] for part in parts]))
    times = [part[2] for part in parts]
    time = None if any(one is None for one in times) else np.concatenate([one for one in times if one is not None])
    if time is None:
        notes["rows without a time: the order of the rows counts as their order in time"] += len(user)
    rows = Interactions.make(users, items, user, item, time, np.concatenate([part[3] for part in parts]))
    if settings.only_items:
        wanted = set(_listed(settings.only_items, bad))
        known = np.array([one in wanted for one in items], dtype=bool)[rows.item]
        notes["interactions with items that corpus.interactions.only_items does not list left out"] += int((~known).sum())
        rows = rows.keep(known)
    rows = clean(rows, settings.duplicates, settings.k_core, notes)
    if not len(rows):
        raise CorpusError(asked=f"read interactions from {config.path()}", why="none is left (see corpus.interactions.min_value, k_core and only_items)",
                          instead="lower corpus.interactions.min_value or k_core")
    if any(side is not None for _, side in files.interactions):
        check_no_leak(rows)
        return rows
    return split_in_time(rows, settings, notes)


def _columns(
    files: Files, source: Source, side: int | None, config: "CorpusConfig", bad: BadRows, notes: "Counter[str]",
) -> tuple[pa.StringArray, pa.StringArray, np.ndarray | None, np.ndarray]:
    """User, item, time and side of the good rows of a file."""
    frame, columns = _renamed(read_frame(source, bad, files.columns.header), files.typed), files.columns
    user, item = (frame.text(name, f"corpus.interactions.{what}") for what, name in (("user", columns.user), ("item", columns.item)))
    faults: dict[int, str] = {}
    for name, column in ((columns.user, user), (columns.item, item)):
        faults |= {int(row): f"its {name} is empty" for row in np.flatnonzero(pc.equal(column, "").to_numpy(zero_copy_only=False))}
    time = _time(frame, files, faults)
    keep = np.ones(len(frame), dtype=bool)
    if config.interactions.min_value is not None:
        if not columns.value:
            raise CorpusError(asked=f"keep interactions of corpus.interactions.min_value = {config.interactions.min_value:g} or more",
                              why="the table has no column of values", instead="name it in corpus.interactions.value, or leave min_value out")
        values, wrong = numbers(frame, columns.value, "corpus.interactions.value")
        faults |= dict(wrong)
        keep = ~(values < config.interactions.min_value)
        notes[f"interactions with a value below {config.interactions.min_value:g} left out"] += int((~keep).sum())
    for row in sorted(faults):
        bad.add(frame.where(row), faults[row])
        keep[row] = False
    mask = pa.array(keep)
    return user.filter(mask), item.filter(mask), None if time is None else time[keep], np.full(int(keep.sum()), TRAIN if side is None else side)


def _time(frame: Frame, files: Files, faults: dict[int, str]) -> np.ndarray | None:
    """Times, or None where there are none; a column that the settings name must be there."""
    name = files.columns.time
    if not name or (name not in frame.names and not files.named):
        return None
    if name not in frame.names:
        raise CorpusError(asked=f"read the column {name!r} of {frame.source.path} (corpus.interactions.time)", why=f"its columns are {', '.join(frame.names)}",
                          instead='name the column of the time, or set corpus.interactions.time = "": the rows then count as being in order')
    values, wrong = numbers(frame, name, "corpus.interactions.time", dates=True)
    faults |= dict(wrong)
    return values


def read_items(config: "CorpusConfig", files: Files, rows: Interactions, bad: BadRows) -> ItemTable:
    """Titles and labels of the items that interactions have, in the order of the table's items."""
    settings = config.interactions
    titles: dict[str, str] = {}
    labels: dict[str, dict[str, tuple[str, ...]]] = {}
    if files.items:
        source, columns = files.items
        raw = read_frame(source, bad, columns.header)
        types, frame = untyped(raw.names), _renamed(raw, files.typed)
        title = columns.title if columns.title in frame.names else next((name for name in frame.names if "title" in name or "name" in name), "")
        kept = columns.labels if columns.labels is not None else tuple(
            name for name in frame.names if name not in (columns.item, title) and name not in columns.flags)
        ids = frame.text(columns.item, "corpus.interactions.item_id").to_pylist()
        texts = frame.text(title, "corpus.interactions.title").to_pylist() if title else [""] * len(ids)
        titles = {one: one_line(text, one) for one, text in zip(ids, texts, strict=True)}
        labels = {one: dict(year_labels(titles[one])) for one in ids}
        for name in kept:
            separator = " " if types.get(name) == "token_seq" else settings.separator
            for one, text in zip(ids, frame.text(name, "corpus.interactions.item_labels").to_pylist(), strict=True):
                if values := split_values(text, separator):
                    labels[one]["genre" if name == "genres" else name] = values
        if columns.flags:
            flags = [frame.text(name, "genre").to_pylist() for name in columns.flags]
            for row, one in enumerate(ids):
                labels[one]["genre"] = tuple(name for name, column in zip(columns.flags, flags, strict=True) if column[row] == "1")
    for one, tags in _tags(files, settings.min_tag_users, bad).items():
        labels.setdefault(one, {})["tag"] = tags
    return ItemTable(rows.items, [titles.get(one, f"item {one}") for one in rows.items], [labels.get(one, {}) for one in rows.items])


def _tags(files: Files, least: int, bad: BadRows) -> dict[str, tuple[str, ...]]:
    """Free tags of each item that enough rows give, in lower case."""
    if not files.tags:
        return {}
    source, columns = files.tags
    frame = _renamed(read_frame(source, bad, columns.header), files.typed)
    ids, tags = (frame.text(name, "corpus.interactions.tags").to_pylist() for name in (columns.item, columns.title))
    found: dict[str, list[str]] = {}
    for (one, tag), n in Counter((one, " ".join(tag.lower().split())) for one, tag in zip(ids, tags, strict=True)).items():
        if n >= least and tag:
            found.setdefault(one, []).append(tag)
    return {one: tuple(sorted(tags)) for one, tags in found.items()}


def read_users(files: Files, bad: BadRows) -> dict[str, dict[str, str]]:
    """Attributes of users, which become labels of the examples."""
    if not files.users:
        return {}
    source, columns = files.users
    frame = _renamed(read_frame(source, bad, columns.header), files.typed)
    first, *others = frame.names
    kept = others if columns.labels is None else list(columns.labels)
    users = frame.text(first, "corpus.interactions.users").to_pylist()
    values = {name: frame.text(name, "corpus.interactions.users").to_pylist() for name in kept}
    return {user: {name: values[name][row] for name in kept if values[name][row]} for row, user in enumerate(users)}


def examples_of(rows: Interactions, items: ItemTable, users: dict[str, dict[str, str]], max_history: int | None) -> Iterator[Example]:
    """One example a user, in the order in which the users first appear."""
    bounds = rows.bounds()
    spans_of = [[(ITEM, identifier), *((kind, value) for kind, values in labels.items() for value in values)]
                for identifier, labels in zip(items.ids, items.labels, strict=True)]
    for number, user in enumerate(rows.users):
        start, stop = int(bounds[number]), int(bounds[number + 1])
        start = max(start, stop - max_history) if max_history else start
        if start == stop:
            continue
        places, spans, at = rows.item[start:stop].tolist(), [], 0
        for row, place in enumerate(places, start):
            end = at + len(items.titles[place])
            spans += [Span(at, end, kind, value) for kind, value in spans_of[place]]
            if rows.side[row] != TRAIN:
                spans.append(Span(at, end, SPLIT, SIDES[rows.side[row]]))
            at = end + 1
        yield Example(user, "\n".join(items.titles[place] for place in places), user, dict(users.get(user, {})), tuple(spans))


def _renamed(frame: Frame, typed: bool) -> Frame:
    return Frame(frame.source, frame.table.rename_columns(list(untyped(frame.names))), frame.first_line) if typed else frame


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Texts numbered in order of first appearance."""
    coded = pc.dictionary_encode(column).combine_chunks()
    coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
    return coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _listed(path: str, bad: BadRows) -> list[str]:
    place = Path(path).expanduser()
    frame = read_frame(Source(place, place.name), bad)
    return [*frame.names[:1], *frame.text(frame.names[0], "corpus.interactions.only_items").to_pylist()]
