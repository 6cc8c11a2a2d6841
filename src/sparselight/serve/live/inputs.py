"""From what a person typed to an example for the model: text, a sequence with gaps, a history by titles or ids, an example of the corpus.

Owns: the bounds on its size, how items are found by title, the marks of annotations, where pictures lie. Refuses: inputs of another modality than the
run's, beyond the limits, without any token; items and examples that are not known.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparselight.corpus.interactions.items import ITEM, one_line
from sparselight.errors import ConfigError, CorpusError
from sparselight.interpret.contexts import marks_of
from sparselight.protocols import Batch, Example, Span
from sparselight.records import Context
from sparselight.serve.live.config import LiveConfig
from sparselight.serve.live.models import LiveInput

if TYPE_CHECKING:
    from sparselight.serve.live.corpus import RunExamples

FIELDS = {"text": "text", "residues": "sequence", "items": "history", "image": "example"}
"""Modality to the field of LiveInput that fits."""
RESIDUES = "LAGVSERTIDPKQNFYMHWC"
GAP = re.compile(r"<mask>|[_?]")
MOST_CANDIDATES = 6  # items offered where a title fits several


@dataclass(frozen=True, slots=True)
class Given:
    """An input, ready for the model."""

    example: Example
    batch: Batch
    tokens: list[str]
    marks: list[str]
    notes: list[str] = field(default_factory=list)
    media: str | None = None
    grid: tuple[int, int] | None = None

    def context(self, activations: list[float], peak: int = 0) -> Context:
        """As a context, for a renderer."""
        return Context(example=self.example.id, group=self.example.group, tokens=self.tokens, activations=activations, peak=peak, marks=self.marks,
                       media=self.media, grid=self.grid)


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
    media, grid = examples.picture(subject, example) if example.images else (None, None)
    if grid is not None and bool((batch.char_start[: grid[0] * grid[1]] >= 0).any()):  # patches do not count, or do not come first: no heat map
        grid = None
    if len(example.images) > 1:
        notes = [*notes, f"the model sees {len(example.images)} images; the first is shown"]
    return Given(example, batch, tokens, marks_of(example, start, end) if modality != "text" else [], notes, media, grid)


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
