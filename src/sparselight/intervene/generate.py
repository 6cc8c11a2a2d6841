"""Text with and without edits: every prompt with every edit and every seed, in as few passes as there are different prompts.

Owns: the grid, and the check that an edit acts somewhere. Refuses: subjects that do not write text, edits that act at no token of a prompt and on nothing that
is generated.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sparselight.errors import ConfigError, SubjectError
from sparselight.intervene.edit import Coders, Edits, as_edits, edit_functions, words
from sparselight.intervene.where import describe, during, is_everywhere, token_mask
from sparselight.protocols import Example, Subject
from sparselight.records import Edit
from sparselight.subjects.generation import OnText
from sparselight.subjects.places import places_of

WRITE = ("causal_lm", "image_text")  # kinds of subjects that write text from left to right


class Written(NamedTuple):
    """One continuation."""

    prompt: int
    """Which of the prompts it continues."""
    edit: int
    """Which of the edits was in force; of None entries, none."""
    seed: int
    text: str
    token_ids: list[int]
    ended: bool
    """By an end-of-text token, not by the limit."""


def generate_with(
    subject: Any, prompts: Sequence[str | Example], edits: Sequence[Edits | None], coders: Coders, n_tokens: int, temperature: float = 0.0,
    seeds: Sequence[int] = (0,), on_text: OnText | None = None, max_rows: int = 256,
) -> list[Written]:
    """Continue every prompt under every edit with every seed.

    Rows that differ only in edits of generated tokens share one pass over their prompt; edits of one dictionary run as one matrix product.

    Args:
        edits: each one what acts together; None for the unedited subject.
        on_text: gets the running number of a result and each piece of its text as it is written.

    Returns:
        One entry for each, prompts first, then edits, then seeds.

    Raises:
        SubjectError: when the subject does not write text, or a prompt and its continuation are too long.
        ConfigError: when an edit does not fit its dictionary, or acts nowhere.
    """
    check_generates(subject)
    examples = [prompt if isinstance(prompt, Example) else Example(f"prompt {number}", prompt, f"prompt {number}") for number, prompt in enumerate(prompts)]
    functions = [None if own is None else edit_functions(own, coders) for own in edits]
    for own in edits:
        if own is not None:
            check_reach(own, subject, examples, generates=True)
    grid = [(prompt, edit, seed) for prompt in range(len(examples)) for edit in range(len(edits)) for seed in seeds]
    if not grid:
        return []
    found = subject.generate_many([examples[prompt] for prompt, _, _ in grid], n_tokens, [functions[edit] for _, edit, _ in grid], temperature,
                                  [seed for _, _, seed in grid], on_text=on_text, max_rows=max_rows)
    return [Written(*place, result.text, result.token_ids, result.ended) for place, result in zip(grid, found, strict=True)]


def can_generate(subject: Any) -> bool:
    """Whether a subject writes text from left to right."""
    return (subject.ref().kind in WRITE and hasattr(subject, "generate_many")) or bool(getattr(subject, "continues", False))


def check_generates(subject: Any) -> None:
    """Refuse a subject that does not write text.

    Raises:
        SubjectError: naming its kind.
    """
    kind = subject.ref().kind
    if not can_generate(subject):
        instead = "fill in masks with unmask(...)" if kind == "masked_lm" else "choose a causal language model (subject.source)"
        raise SubjectError(asked=f"generate text with {subject.name}", why=f"a subject of kind {kind} does not write text from left to right",
                           instead=f"{instead}, or compare predictions (subject.predict) with and without the edit")


def check_reach(edits: Edits, subject: Subject, examples: Sequence[Example], generates: bool = False) -> None:
    """Refuse an edit whose `where` holds at no token of any of the examples.

    Args:
        generates: whether the subject is to write on: edits of generated tokens then act there.

    Raises:
        ConfigError: naming the edit and its `where`.
    """
    for edit in as_edits(edits):
        if not is_everywhere(edit.where) and not (generates and during(edit.where, "generated") is not None) and not _reaches(edit, subject, examples):
            raise ConfigError(asked=words(edit), why=f"{describe(edit.where)}: that is no token of {_named(examples)}, so it would change nothing",
                              instead="change edit.where, or give examples that have such tokens")


def _reaches(edit: Edit, subject: Subject, examples: Sequence[Example]) -> bool:
    for example in examples:
        batch = subject.prepare([example])
        if batch.n_tokens and bool(token_mask(edit.where, places_of(batch)).any()):
            return True
    return False


def _named(examples: Sequence[Example]) -> str:
    return f"the example {examples[0].id!r}" if len(examples) == 1 else f"{len(examples)} examples"
