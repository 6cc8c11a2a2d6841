"""Rows of Hugging Face datasets through the `datasets` library: by name, from a folder that it saved, or streamed.

Owns: `hf://NAME[:CONFIG][:SPLIT]`. Without a split all of them are read, and the column `_split` says which one a row is of. Code from the
hub never runs: a dataset that needs its own script is refused by the library. Refuses: a name that cannot be reached or does not exist.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparselight.corpus.config import HUB, CorpusConfig
from sparselight.corpus.sources import Source
from sparselight.corpus.tables import Row, top_columns
from sparselight.errors import CorpusError, MissingExtraError


def hub_rows(config: CorpusConfig, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of every split that is asked for, in order; only the columns that are needed are decoded."""
    path, subset, _ = parse_root(config.root)
    name = ":".join(filter(None, [Path(path).name if Path(path).expanduser().exists() else path, subset]))
    for split, dataset in open_splits(config).items():
        names = list(dataset.features or _first_row(dataset))
        wanted = top_columns(Source(Path(config.root), name), columns, names)
        dataset = dataset.select_columns(wanted) if wanted else dataset
        classes = {column: feature.names for column, feature in (dataset.features or {}).items() if hasattr(feature, "int2str")}
        file = f"{name}:{split}" if split else name
        for number, fields in enumerate(dataset, 1):
            yield Row(file, number, {**fields, **_class_names(fields, classes), "_split": split})


def open_splits(config: CorpusConfig) -> Mapping[str, Any]:
    """The datasets of a root by split; a dataset that is not divided has the split ``.

    Raises:
        MissingExtraError: without the `datasets` library.
        CorpusError: in one line, when the dataset cannot be reached or found, or has no such config or split.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(package="datasets", extra="text", asked=f"read the corpus at corpus.root = {config.root!r}") from None
    name, subset, split = parse_root(config.root)
    try:
        found = _load(datasets, config, name, subset, split)
    except Exception as err:  # the library lets errors of the network, of the hub and of file formats through as they are
        raise CorpusError(asked=f"read the corpus at corpus.root = {config.root!r}", why=_one_line(err), instead=_advice(err)) from None
    return found if isinstance(found, dict) else {split: found}


def parse_root(root: str) -> tuple[str, str, str]:
    """`hf://NAME[:CONFIG][:SPLIT]` as (name, config, split), empty where left out; `NAME::SPLIT` leaves out the config. A plain path stays whole."""
    if not root.startswith(HUB):
        return root, "", ""
    name, _, rest = root.removeprefix(HUB).partition(":")
    subset, _, split = rest.partition(":")
    if not name or ":" in split:
        raise CorpusError(asked=f"read the corpus at corpus.root = {root!r}", why="it is not of the form hf://NAME[:CONFIG][:SPLIT]",
                          instead="write for example hf://wikitext:wikitext-2-raw-v1:train, or hf://imdb::test")
    return name, subset, split


def _load(datasets: Any, config: CorpusConfig, name: str, subset: str, split: str) -> Any:
    folder = Path(name).expanduser()
    if any((folder / marker).is_file() for marker in ("dataset_info.json", "dataset_dict.json")):  # what save_to_disk leaves
        found = datasets.load_from_disk(str(folder))
        if split and (not isinstance(found, dict) or split not in found):
            raise ValueError(f"it has no split {split!r}" + (f", only {', '.join(found)}" if isinstance(found, dict) else ""))
        return found[split] if split else found
    return datasets.load_dataset(str(folder) if folder.exists() else name, subset or None, split=split or None, streaming=config.streaming,
                                 revision=config.revision or None)


def _first_row(dataset: Any) -> Mapping[str, Any]:
    """A streamed dataset may not know its columns before its first row."""
    row: Mapping[str, Any] = next(iter(dataset), {})
    return row


def _class_names(fields: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """Class numbers by their names; -1 is the library's word for no label."""
    return {column: names[number] if (number := fields[column]) is not None and number >= 0 else None for column, names in classes.items()}


def _one_line(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return f"{type(err).__name__}: {lines[0]}" if lines else type(err).__name__


def _advice(err: Exception) -> str:
    kinds = {base.__name__ for base in type(err).__mro__}
    if "DatasetNotFoundError" in kinds or "FileNotFoundError" in kinds:
        return "check the name after hf://, log in with `hf auth login` when it is private, or give the path of a folder that datasets saved"
    if kinds & {"ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "TransportError", "TimeoutError"}:
        return "connect to the network, load the dataset once while connected (it is then cached), or give the path of a folder that datasets saved"
    return "name an existing config and split (hf://NAME:CONFIG:SPLIT), or give the path of a folder that datasets saved"
