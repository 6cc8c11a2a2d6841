"""Seeds: the examples and texts that say what the domain is.

Five kinds, each a setting of SelectConfig. Groups and labels name examples of the corpus, which become part of the selection; files, texts and the
query stand outside it and only say what is looked for. An example that is held out is never a seed: it is set aside and counted. Refuses: a seed that
matches nothing, a file that cannot be read or is empty, seeds that are all held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from sparselight.corpus.columns import cut_example
from sparselight.corpus.config import FILE_SECTION_CHARS
from sparselight.errors import ConfigError, nearest
from sparselight.protocols import Example
from sparselight.select.config import SEED_KINDS, SelectConfig


@dataclass(frozen=True, slots=True)
class Seeds:
    """What a selection begins with."""

    inside: list[int]
    """Indices of examples of the corpus, ascending."""
    outside: list[Example]
    """Texts from elsewhere, long files cut into sections."""
    counts: dict[str, int]
    """Examples and texts by setting; `held_out`: examples that match and were set aside."""


def find_seeds(examples: Sequence[Example], config: SelectConfig, held_out: Bool[np.ndarray, " example"] | None = None) -> Seeds:
    """All seeds of a config.

    Args:
        held_out: which examples are held out and so cannot be seeds.

    Raises:
        ConfigError: naming the seed that matches nothing, or the file that cannot be read.
    """
    outside = {"seed_files": [section for path in config.seed_files for section in read_seed_file(path)],
               "seed_texts": [_outside(f"select.seed_texts[{number}]", text) for number, text in enumerate(config.seed_texts)],
               "query": [_outside("select.query", config.query)] if config.query else []}
    by_group = set(seeds_by_group([example.group for example in examples], config.seeds))
    by_label = set(seeds_by_label(examples, config.seed_labels))
    found = by_group | by_label
    free = found if held_out is None else {index for index in found if not held_out[index]}
    texts = [text for kind in outside.values() for text in kind]
    if not free and not texts:
        raise ConfigError(asked=f"select examples like {'select.seeds' if by_group else 'select.seed_labels'}",
                          why=f"all {len(found)} examples that match are held out for evaluation", instead="give seeds of the training side")
    counts = {"seeds": len(by_group & free), "seed_labels": len(by_label & free), **{kind: len(given) for kind, given in outside.items()},
              "held_out": len(found) - len(free)}
    return Seeds(sorted(free), texts, {name: n for name, n in counts.items() if n})


def seed_names(config: SelectConfig) -> list[str]:
    """All seeds of a config as a person would list them."""
    names = [[config.query] if kind == "query" and config.query else list(getattr(config, kind)) for kind in SEED_KINDS]
    return [name for kind in names for name in kind]


def seeds_by_group(groups: Sequence[str], seeds: Sequence[str]) -> list[int]:
    """Indices of the examples whose group is one of `seeds` or, where no group has that very name, matches it as a pattern.

    Raises:
        ConfigError: naming the first seed that matches nothing, and the nearest group.
    """
    known, found = set(groups), set()
    for seed in seeds:
        matched = {seed} if seed in known else {group for group in known if fnmatchcase(group, seed)}
        if not matched:
            raise ConfigError(asked=f"select examples like {seed!r} (select.seeds)", why=f"none of the {len(known)} groups (files) of the corpus matches it",
                              instead=_nearest_group(seed, known))
        found |= matched
    return [index for index, group in enumerate(groups) if group in found]


def seeds_by_label(examples: Sequence[Example], labels: Sequence[str]) -> list[int]:
    """Indices of the examples with one of the labels `kind=value`, as a label of the whole or on a span.

    Raises:
        ConfigError: naming the first label that no example has, and the nearest one.
    """
    if not labels:
        return []
    having: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        for label in labels_of(example):
            having.setdefault(label, []).append(index)
    for label in labels:
        if label not in having:
            raise ConfigError(asked=f"select examples like {label!r} (select.seed_labels)", why=f"none of the {len(examples)} examples has that label",
                              instead=_nearest_label(label, having))
    return sorted({index for label in labels for index in having[label]})


def labels_of(example: Example) -> set[str]:
    """All labels of an example and of its spans, as `kind=value`."""
    return {f"{name}={value}" for name, value in example.labels.items()} | {f"{span.name}={span.value}" for span in example.spans}


def read_seed_file(path: str) -> list[Example]:
    """The sections of a text file.

    Raises:
        ConfigError: when it is missing, no UTF-8 text, or empty.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        why = "it is not UTF-8 text" if isinstance(err, UnicodeDecodeError) else err.strerror or str(err)
        raise ConfigError(asked=f"read the seed file {path!r} (select.seed_files)", why=why, instead="give the path of a readable text file") from None
    if not text.strip():
        raise ConfigError(asked=f"use the seed file {path!r} (select.seed_files)", why="it is empty", instead="give a file with text of the domain")
    return [section for section in cut_example(_outside(path, text), FILE_SECTION_CHARS) if section.text.strip()]


def _outside(name: str, text: str) -> Example:
    return Example(name, text, name)


def _nearest_group(seed: str, groups: set[str]) -> str:
    """A hint, by file name where the whole path is like none: a corpus may have too many groups to list."""
    by_name = {group.rpartition("/")[2]: group for group in sorted(groups, reverse=True)}
    same_name = by_name.get(seed.rpartition("/")[2])
    if same_name:
        return f"use {same_name!r}"
    hint = nearest(seed, groups)
    if len(groups) <= 10 or not hint.startswith("use one of"):
        return hint
    return f"use the path of a file as it stands in the corpus, for example {min(groups)!r}, or a pattern such as '*{seed.rpartition('/')[2]}*'"


def _nearest_label(label: str, having: dict[str, list[int]]) -> str:
    """A hint among the values of the same kind where there are any, else among the kinds."""
    if not having:
        return "read labels with the corpus (corpus.labels, corpus.spans), or give seeds of another kind"
    kind = label.partition("=")[0]
    same_kind = [known for known in having if known.partition("=")[0] == kind]
    if same_kind:
        hint = nearest(label, same_kind)
        return hint if not hint.startswith("use one of") or len(same_kind) <= 10 else f"use a value of {kind}, for example {min(same_kind)!r}"
    return f"use a label of another kind: {', '.join(sorted({known.partition('=')[0] for known in having})[:10])}"
