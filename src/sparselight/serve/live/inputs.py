"""From what a person typed to an example for the model: text, a sequence with gaps, a history by titles or ids, an example of the corpus.

Owns: the bounds on its size, how items are found by title, the marks of annotations, where pictures lie. Refuses: inputs of another modality than the
run's, beyond the limits, without any token; items and examples that are not known.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sparselight.corpus.interactions.items import ITEM, one_line
from sparselight.errors import ConfigError, CorpusError
from sparselight.interpret.contexts import marks_of
from sparselight.protocols import Batch, Example, Span
from sparselight.records import Context, OtherImage
from sparselight.serve.live.config import LiveConfig
from sparselight.serve.live.models import LiveInput

if TYPE_CHECKING:
    from sparselight.serve.live.corpus import RunExamples

FIELDS = {"text": "text", "residues": "sequence", "items": "history", "image": "example"}
"""Modality to the field of LiveInput that fits."""
RESIDUES = "LAGVSERTIDPKQNFYMHWC"
GAP = re.compile(r"<mask>|[_?]")
MOST_CANDIDATES = 6  # items offered where a title fits several


class Shown(NamedTuple):
    """An image of an input; its patches are the tokens [first, last), none where they do not count."""

    media: str
    """Its file relative to the run folder; empty where there is none."""
    grid: tuple[int, int] | None
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Given:
    """An input, ready for the model."""

    example: Example
    batch: Batch
    tokens: list[str]
    marks: list[str]
    notes: list[str] = field(default_factory=list)
    pictures: list[Shown] = field(default_factory=list)

    def context(self, activations: list[float], peak: int = 0) -> Context:
        """As a context, for a renderer: the image with the peak first, then the others, then the text."""
        first = next((picture for picture in self.pictures if picture.first <= peak < picture.last), next(iter(self.pictures), None))
        if first is None:
            return Context(example=self.example.id, group=self.example.group, tokens=self.tokens, activations=activations, peak=peak, marks=self.marks)
        text = max(picture.last for picture in self.pictures)
        own = [*range(first.first, first.last), *range(text, len(self.tokens))]
        others = [OtherImage(media=picture.media, grid=picture.grid, activations=activations[picture.first : picture.last]) for picture in self.pictures
                  if picture is not first and picture.media]
        return Context(
            example=self.example.id, group=self.example.group, tokens=[self.tokens[token] for token in own], activations=[activations[token] for token in own],
            peak=own.index(peak) if peak in own else 0, marks=[self.marks[token] for token in own] if self.marks else [], media=first.media or None,
            grid=first.grid, others=others,
        )


def read_input(given: LiveInput, subject: Any, modality: str, examples: "RunExamples", config: LiveConfig) -> Given:
    """An input as the model takes it.

    Raises:
        ConfigError: for an input that does not fit, or is too long.
        CorpusError: for an example that the corpus does not have, or an input without tokens.
    """
    example, notes = _example(given, subject, modality, examples, config)
    n_tokens = subject.n_tokens([example])[0]
    if not n_tokens:
        raise CorpusError(asked="run the model on this input", why="it has no token", instead="give a longer one")
    if n_tokens > config.max_tokens:
        raise ConfigError(asked=f"run the model on {n_tokens} tokens", why=f"live.max_tokens = {config.max_tokens}", instead="give a shorter input")
    batch = subject.prepare([example])
    # Patches of an image stand in no text.
    start, end = (column.numpy() for column in (batch.char_start.clamp(min=0), batch.char_end.clamp(min=0)))
    tokens = [subject.token_text(token_id) for token_id in batch.token_id.tolist()]
    if modality == "items" and getattr(subject, "module", None) is not None and subject.module.reads == "user":
        tokens = [f"user {example.group}"]
    pictures = shown_pictures(examples.pictures(subject, example), batch) if example.images else []
    return Given(example, batch, tokens, marks_of(example, start, end) if modality != "text" else [], notes, pictures)


def shown_pictures(found: Sequence[tuple[str | None, tuple[int, int] | None]], batch: Batch) -> list[Shown]:
    """The images of an input with the tokens that are their patches. Where patches do not count, or do not come first, there is no heat map."""
    ends = np.cumsum([grid[0] * grid[1] if grid else 0 for _, grid in found])
    n_patches = int(ends[-1]) if len(ends) else 0
    are_first = bool((batch.char_start[:n_patches] < 0).all()) and int((batch.char_start < 0).sum()) == n_patches
    shown = []
    for (media, grid), end in zip(found, ends.tolist(), strict=True):
        size = grid[0] * grid[1] if grid and are_first else 0
        if media or size:
            shown.append(Shown(media or "", grid if size else None, end - size if size else 0, end if size else 0))
    return shown


def _example(given: LiveInput, subject: Any, modality: str, examples: "RunExamples", config: LiveConfig) -> tuple[Example, list[str]]:
    if given.example is not None:
        if given.text is not None and modality != "image":
            raise ConfigError(asked="give both a text and an example", why=f"that is for images with text, and the run is of {modality}",
                              instead="give one of them")
        found = examples.find(given.example)
        if given.text is None:
            return found, []
        _check_length(given.text, config)
        return Example(found.id, given.text, found.group, images=found.images), []
    fits = FIELDS[modality]
    if getattr(given, fits) is None:
        asked = next(name for name in ("text", "sequence", "history") if getattr(given, name) is not None)
        raise ConfigError(asked=f"give a {asked} to {subject.name}", why=f"the run is of {modality}", instead=f"give input.{fits}, or input.example")
    if given.history is not None:
        return _history(given.history, subject, config)
    if given.sequence is not None:
        return _sequence(given.sequence, subject, config), []
    assert given.text is not None
    _check_length(given.text, config)
    return Example("input", given.text, "input"), []


def _check_length(text: str, config: LiveConfig) -> None:
    if len(text) > config.max_chars:
        raise ConfigError(asked=f"run the model on {len(text):,} characters", why=f"live.max_chars = {config.max_chars:,}", instead="give a shorter text")


def _sequence(sequence: str, subject: Any, config: LiveConfig) -> Example:
    """Residues, gaps as the model's mask; white space and a FASTA header do not count."""
    _check_length(sequence, config)
    lines = [line for line in sequence.strip().splitlines() if not line.startswith(">")]
    body, mask = "".join("".join(lines).split()), mask_text(subject)
    parts = GAP.split(body)
    strange = next((char for part in parts for char in part if not ("A" <= char.upper() <= "Z")), None)
    if strange is not None:
        raise ConfigError(asked="read a sequence of residues", why=f"{strange!r} is no residue", instead="give letters, and _ for residues to be filled in")
    if len(parts) > 1 and mask is None:
        raise ConfigError(asked="fill in residues", why=f"{subject.name} fills in no masks", instead="give a sequence without gaps")
    return Example("input", (mask or "").join(part.upper() for part in parts), "input")


def mask_text(subject: Any) -> str | None:
    """The mask token of a masked language model as it stands in a text; None for other subjects."""
    if getattr(subject, "kind", "") != "masked_lm":
        return None
    vocabulary = subject._tokens.vocabulary
    return str(vocabulary.backend.id_to_token(vocabulary.mask_id))


def _history(items: list[str], subject: Any, config: LiveConfig) -> tuple[Example, list[str]]:
    """Items in order as an example of the form that corpora of interactions have: one title a line, each with its spans."""
    if len(items) > config.max_history:
        raise ConfigError(asked=f"run the model on a history of {len(items)} items", why=f"live.max_history = {config.max_history}",
                          instead="give the latest ones")
    if getattr(subject, "module", None) is not None and subject.module.reads == "user":
        raise ConfigError(asked="give a history to " + subject.name, why="it reads the user alone and has vectors for the users that it was trained on",
                          instead="give input.example, the id of a user of the corpus")
    lines, spans, notes, at, seen = [], [], [], 0, set()
    for given in items:
        place, note = find_item(given, subject.items)
        notes += [note] if note else []
        if place in seen:
            notes.append(f"{subject.items.titles[place]!r} is given twice; the model sees both")
        seen.add(place)
        title = one_line(subject.items.titles[place], subject.items.ids[place])
        spans.append(Span(at, at + len(title), ITEM, subject.items.ids[place]))
        spans += [Span(at, at + len(title), kind, value) for kind, values in subject.items.labels[place].items() for value in values]
        lines.append(title)
        at += len(title) + 1
    return Example("input", "\n".join(lines), "input", spans=tuple(spans)), notes


def find_item(given: str, items: Any) -> tuple[int, str]:
    """The place of an item that is named by id, title, or a part of its title, and what a reader must know of the choice.

    Raises:
        ConfigError: where none or several fit.
    """
    place = items.index(given.strip())
    if place is not None:
        return place, ""
    wanted = given.strip().casefold()
    titles = [title.casefold() for title in items.titles]
    found = [number for number, title in enumerate(titles) if title == wanted] or [number for number, title in enumerate(titles) if wanted and wanted in title]
    if len(found) == 1:
        whole = titles[found[0]] == wanted
        return found[0], "" if whole else f"{given!r} was read as {items.titles[found[0]]!r}"
    if found:
        some = ", ".join(f"{items.ids[number]} ({items.titles[number]})" for number in found[:MOST_CANDIDATES])
        raise ConfigError(asked=f"find the item {given[:80]!r}", why=f"{len(found)} items have that in their title", instead=f"give an id: {some}")
    raise ConfigError(asked=f"find the item {given[:80]!r}", why="no item has that id or title", instead="search by a part of its title")
