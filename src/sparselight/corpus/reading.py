"""Reading a corpus: a kind's examples in a stream, annotations laid on, long ones cut, duplicates and the split settled.

Each kind of source is one row of KINDS: a function that yields (example, whether an explicit split holds it out). Owns what is the same for all
of them, and the provenance that enters the fingerprint of every kind that does not take the whole of its files as text.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from sparselight.config import canonical_json
from sparselight.corpus.annotations import Annotations
from sparselight.corpus.arrow import SpooledExamples
from sparselight.corpus.base import ListCorpus
from sparselight.corpus.brat import brat_examples
from sparselight.corpus.columns import BadValue, ColumnReader, cut_example
from sparselight.corpus.config import HUB, CorpusConfig, check_settings
from sparselight.corpus.conll import conll_examples
from sparselight.corpus.dedup import deduplicate
from sparselight.corpus.delimited import delimited_rows
from sparselight.corpus.hub import hub_rows
from sparselight.corpus.image_text.reading import image_text_examples, image_text_sources, study_files
from sparselight.corpus.interactions.histories import interaction_examples
from sparselight.corpus.plain_text import PlainText, text_examples
from sparselight.corpus.protein.clusters import group_homologs
from sparselight.corpus.protein.reading import fit_length, protein_examples
from sparselight.corpus.python_source import PythonSource, python_examples
from sparselight.corpus.sources import BadRows, Source, extra_sources, find_sources
from sparselight.corpus.tables import Row, json_rows, jsonl_rows, parquet_rows
from sparselight.errors import CorpusError
from sparselight.protocols import Example
from sparselight.records import Duplicates, SourceFile


@dataclass
class Reading:
    """What is known of how a corpus was read."""

    config: CorpusConfig
    bad: BadRows
    notes: Counter[str] = field(default_factory=Counter)
    duplicates: Duplicates | None = None


Read = Iterator[tuple[Example, bool | None]]


def _plain(examples: Iterator[Example]) -> Read:
    return ((example, None) for example in examples)


def _table(rows: Callable[[Sequence[Source], Sequence[str]], Iterator[Row]], reading: Reading) -> Read:
    return _examples_of(lambda columns: rows(find_sources(reading.config), columns), reading)


def _delimited(delimiter: str, reading: Reading) -> Read:
    return _table(partial(delimited_rows, delimiter=delimiter, quote=reading.config.quote), reading)


def _examples_of(rows: Callable[[Sequence[str]], Iterator[Row]], reading: Reading) -> Read:
    reader = ColumnReader(reading.config)
    for row in rows(reader.columns()):
        try:
            yield reader.read(row)
        except BadValue as err:
            reading.bad.add(row.where, str(err))
    for name, column in reader.unseen_labels.items():
        raise CorpusError(asked=f"read the label {name!r} (corpus.labels)", why=f"no row has the field {column!r}", instead="name fields that the rows have")


KINDS: dict[str, Callable[[Reading], Read]] = {
    "python_source": lambda r: _plain(python_examples(r.config.path(), r.config.include_tests, r.config.longest_chars or 0)),
    "text": lambda r: _plain(text_examples(r.config)),
    "jsonl": partial(_table, jsonl_rows), "json": partial(_table, json_rows), "parquet": partial(_table, parquet_rows),
    "csv": partial(_delimited, ","), "tsv": partial(_delimited, "\t"),
    "hf_dataset": lambda r: _examples_of(partial(hub_rows, r.config), r),
    "brat": lambda r: _plain(brat_examples(r.config, r.bad, r.notes)),
    "conll": lambda r: _plain(conll_examples(r.config, r.bad)), "protein": lambda r: protein_examples(r.config, r.bad, r.notes),
    "interactions": lambda r: _plain(interaction_examples(r.config, r.bad, r.notes)),
    "image_text": lambda r: image_text_examples(r.config, r.bad, r.notes),
}
CLASSES: dict[str, type[ListCorpus]] = {**dict.fromkeys(KINDS, ListCorpus), "python_source": PythonSource, "text": PlainText}


def load_corpus(config: CorpusConfig) -> ListCorpus:
    """Read a corpus; how it went stands in its `reading`.

    Raises:
        ConfigError: when a setting would be ignored.
        CorpusError: when the root is missing, a file is unreadable, a row is bad and refused, an id repeats, or there is no example.
    """
    check_root(config)
    reading = Reading(config, BadRows(config.on_bad_row == "refuse"))
    id_hashes, sides = array("q"), bytearray()
    stream = _stream(reading, id_hashes, sides)
    examples: Sequence[Example] = list(stream) if config.in_memory else SpooledExamples.write(stream)
    held_out = np.frombuffer(sides, dtype=np.bool_).copy() if sides else None
    origin = config.root if config.root.startswith(HUB) else str(config.path())
    corpus = CLASSES[config.kind](examples, origin, provenance_hash(config), held_out)
    if repeated := _repeated_ids(corpus, np.array(id_hashes), reading.bad):
        corpus = corpus.subset(index for index in range(len(corpus)) if index not in repeated)
    corpus, reading.duplicates = deduplicate(corpus, config)
    corpus = group_homologs(corpus, config.protein, reading.notes)
    if config.max_examples is not None and config.max_examples < len(corpus):
        corpus = corpus.subset(np.sort(np.random.default_rng(config.seed).choice(len(corpus), config.max_examples, replace=False)).tolist())
    corpus.reading = reading
    return corpus


def _stream(reading: Reading, id_hashes: "array[int]", sides: bytearray) -> Iterator[Example]:
    """The examples as they will stand in the corpus; notes a hash of each id, and each one's side where the split is explicit."""
    config, held_names = reading.config, _held_out_names(reading.config)
    annotations, unused = Annotations(config, reading.bad), set(held_names)
    for example, held in _limited(KINDS[config.kind](reading), config):
        if held_names:
            names = {example.id, example.group}
            unused -= names
            held = not held_names.isdisjoint(names)
        for piece in _cut(annotations.add_to(example), reading):
            id_hashes.append(hash(piece.id))
            if held is not None:
                sides.append(held)
            yield piece
    if not config.streaming:
        annotations.check_all_used()
        for name in sorted(unused):
            raise CorpusError(asked=f"hold out {name!r} (corpus.held_out_ids)", why="no example or group has that name",
                              instead="give ids or groups of this corpus")


def _cut(example: Example, reading: Reading) -> Iterator[Example]:
    config = reading.config
    if config.kind == "protein":
        return fit_length(example, config.protein, reading.notes)
    return cut_example(example, config.longest_chars, always=config.kind == "text")


def _limited(examples: Read, config: CorpusConfig) -> Read:
    return islice(examples, config.max_examples) if config.streaming else examples


def _held_out_names(config: CorpusConfig) -> frozenset[str]:
    if not config.held_out_ids:
        return frozenset()
    path = Path(config.held_out_ids).expanduser()
    names = frozenset(line.strip() for line in Source(path, path.name).text().split("\n") if line.strip())
    if not names:
        raise CorpusError(asked=f"read corpus.held_out_ids = {config.held_out_ids!r}", why="it names nothing", instead="write one id or group a line")
    return names


def _repeated_ids(corpus: ListCorpus, hashes: np.ndarray, bad: BadRows) -> set[int]:
    """Indices of examples whose id an earlier one has; the hashes say where to look."""
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(np.diff(hashes[order]) == 0)
    seen: dict[str, int] = {}
    repeated = set()
    for index in np.unique(np.concatenate([order[same], order[same + 1]])).tolist():
        identifier = corpus[index].id
        if seen.setdefault(identifier, index) != index:
            bad.add(f"the example {identifier!r} of {corpus.origin}", "an earlier example has that id (corpus.id)")
            repeated.add(index)
    return repeated


# Where it comes from.

def check_root(config: CorpusConfig) -> None:
    """Refuse a root or a file beside it that is not there, and settings that the kind would ignore."""
    check_settings(config)
    extra_sources(config)
    if not config.root.startswith(HUB) and not config.path().exists():
        raise CorpusError(asked=f"read the corpus at corpus.root = {config.root!r}", why=f"{config.path()} does not exist",
                          instead="give an existing folder, or `stdlib` for the standard library of this Python")
    if config.root.startswith(HUB) and config.kind != "hf_dataset":
        raise CorpusError(asked=f"read the corpus at corpus.root = {config.root!r}", why=f"a corpus of kind {config.kind} is a file or a folder",
                          instead='set corpus.kind = "hf_dataset", or leave it out')


def all_sources(config: CorpusConfig) -> list[Source]:
    """Every file that the corpus is read from; none for a dataset of the Hugging Face hub; of studies the tables (images and reports are in the examples)."""
    if config.kind == "image_text":
        return [*image_text_sources(config), *extra_sources(config)]
    if config.kind != "hf_dataset":
        return [*find_sources(config), *extra_sources(config)]
    root = config.path()
    local = [] if config.root.startswith(HUB) else sorted(path for path in ([root] if root.is_file() else root.rglob("*")) if path.is_file())
    return [*(Source(path, path.name if path == root else path.relative_to(root).as_posix()) for path in local), *extra_sources(config)]


def source_fingerprint(config: CorpusConfig) -> str:
    """Cheap hash of the files as they stand (paths, sizes, times), to notice a change without reading them."""
    check_root(config)
    digest = hashlib.sha256(f"{config.root}\0{config.revision}\n".encode() if config.root.startswith(HUB) else b"")
    studies = study_files(config) if config.kind == "image_text" else ()
    for path in chain((source.path for source in all_sources(config)), studies):
        try:
            stat = path.stat()
        except OSError:
            continue
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def source_files(config: CorpusConfig) -> list[SourceFile]:
    """The files with their checksums."""
    return [source.record() for source in all_sources(config)]


def reader_settings(config: CorpusConfig) -> dict[str, Any]:
    """Settings that are not at their default, less those that say where files lie or how the result is kept and split."""
    places = {"root", "spans", "example_labels", "held_out_ids", "in_memory", "held_out_frac"} | ({"seed"} if config.max_examples is None else set())
    nested = {table: {name.partition(".")[2] for name in getattr(config, table).paths()} for table in ("interactions", "protein", "image_text")}
    nested["image_text"] |= {name.partition(".")[2] for name in config.image_text.folders()}
    settings = config.model_dump(mode="json", exclude_defaults=True, exclude={**dict.fromkeys(places, True), **nested})
    return {**settings, "kind": config.kind, **({"root": config.root} if config.root.startswith(HUB) else {})}


def provenance_hash(config: CorpusConfig) -> str:
    """Hash of source files and reader settings. Empty where the examples are all of the files' text: their content then says it all."""
    if config.kind in ("python_source", "text"):
        return ""
    files = [file.model_dump() for file in source_files(config)]
    return hashlib.sha256(canonical_json([files, reader_settings(config)]).encode()).hexdigest()
