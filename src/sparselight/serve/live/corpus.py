"""The examples of a run's corpus, for the trial page: found by id, searched, and one to begin with.

The held-out sides come first, the domain before the rest; each file is read when it is first needed. Pictures are shown from the run's folder `media`; a
copy that is not there yet is made as the run makes them. Refuses: ids that the corpus does not have.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sparselight.corpus.interactions.items import ITEM
from sparselight.errors import CorpusError, SparselightError
from sparselight.pipeline.media import RunPictures
from sparselight.protocols import Example
from sparselight.serve.live.models import FoundExample, LiveInput

if TYPE_CHECKING:
    from sparselight.pipeline.opened import OpenRun

BEGINNING_CHARS = 160  # of an example in a list
FIRST_CHARS = 280  # of the text that the page begins with
FIRST_ITEMS = 12
FIRST_RESIDUES = (40, 200)  # a sequence to begin with has so many residues, where there is one
LOOKED_AT = 200  # examples in search of one to begin with


class RunExamples:
    """The examples of a run."""

    def __init__(self, run: "OpenRun", modality: str):
        self._run, self._modality = run, modality
        self._found: dict[str, Example] = {}

    def find(self, identifier: str) -> Example:
        """The example of an id, annotated.

        Raises:
            CorpusError: when the corpus has none.
        """
        if identifier not in self._found:
            for side in self._sides():
                example = next((one for one in side if one.id == identifier), None)
                if example is not None:
                    self._found[identifier] = side.annotate([example])[0] if self._modality != "text" and hasattr(side, "annotate") else example
                    break
            else:
                raise CorpusError(asked=f"open the example {identifier[:120]!r}", why="the corpus of the run has none of that id",
                                  instead="choose one of the list")
        return self._found[identifier]

    def search(self, text: str, limit: int) -> tuple[list[FoundExample], int]:
        """Examples whose id or text holds a text (case ignored), and how many there are of them in what is held out."""
        wanted, n_found = text.strip().casefold(), 0
        found: list[FoundExample] = []
        for example in self._held_out():
            if not wanted or wanted in example.id.casefold() or wanted in example.text.casefold():
                n_found += 1
                if len(found) < limit:
                    found.append(FoundExample(example=example.id, group=example.group, beginning=example.text[:BEGINNING_CHARS]))
        return found, n_found

    def beginning(self) -> LiveInput | None:
        """An input to begin with; None where the corpus has gone."""
        try:
            examples = [example for _, example in zip(range(LOOKED_AT), self._held_out(), strict=False)]
        except (SparselightError, OSError):
            return None
        if not examples:
            return None
        if self._modality == "image":
            return LiveInput(example=examples[0].id)
        if self._modality == "residues":
            low, high = FIRST_RESIDUES
            best = next((one for one in examples if low <= len(one.text) <= high), min(examples, key=lambda one: len(one.text)))
            return LiveInput(sequence=best.text)
        if self._modality == "items":
            longest = max(examples[:20], key=lambda one: len(one.text))
            return LiveInput(history=[span.value for span in sorted(longest.spans, key=lambda span: span.start) if span.name == ITEM][:FIRST_ITEMS])
        return LiveInput(text=_lines(max(examples[:20], key=lambda one: len(one.text)).text, FIRST_CHARS))

    def pictures(self, subject: Any, example: Example) -> list[tuple[str | None, tuple[int, int] | None]]:
        """Of each image that the subject is given, the file in the run that shows it and its patch grid; None for what there is not."""
        if not hasattr(subject, "patch_grids"):
            return []
        kept, found = RunPictures(self._run.folder, subject), list[tuple[str | None, tuple[int, int] | None]]()
        for number, layout in enumerate(kept.layout(example)):
            try:
                path = kept.keep(example, number)
            except SparselightError:  # the image has gone
                path = ""
            found.append((path if path and (self._run.folder / path).is_file() else None, layout.grid))
        return found

    def _held_out(self) -> Iterator[Example]:
        seen: set[str] = set()
        for side in (self._domain_held_out, self._whole_held_out):
            for example in side:
                if example.id not in seen:
                    seen.add(example.id)
                    yield example

    def _sides(self) -> Iterator[Any]:
        yield self._domain_held_out
        yield self._whole_held_out
        yield self._run.stages.corpus_side("train")  # looked through, not kept

    @cached_property
    def _domain_held_out(self) -> Sequence[Example]:
        return self._run.stages.domain_side("held_out")  # type: ignore[return-value]

    @cached_property
    def _whole_held_out(self) -> Sequence[Example]:
        return self._run.stages.corpus_side("held_out")  # type: ignore[return-value]


def _lines(text: str, n_chars: int) -> str:
    """The beginning of a text, to the end of a line where there is one."""
    part = text[:n_chars]
    return part if len(text) <= n_chars or "\n" not in part else part[:part.rindex("\n") + 1]
