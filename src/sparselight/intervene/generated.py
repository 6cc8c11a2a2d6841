"""Generated text: continuations with and without an edit, and what the unedited subject and the labels of explanations say of them.

Owns: many continuations in one call, the tokens of a continuation behind its prompt, mean activations, label rules on any text. Refuses: subjects that
do not write text.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from sparselight.interpret.hypotheses import find_families
from sparselight.interpret.tokens import TokenFrame
from sparselight.intervene.generate import check_generates
from sparselight.protocols import Batch, EditFunction, Example, Image, Subject

Annotate = Callable[[Sequence[Example]], list[Example]]
"""Fills in the annotations of examples, of generated ones as well."""


class Generated(NamedTuple):
    """A continuation and what it continues."""

    prompt: str
    text: str
    images: tuple[Image, ...] = ()
    """What the subject was given besides."""


def whole_texts(texts: Sequence[Generated]) -> list[Example]:
    """Prompt and continuation as one example each."""
    return [Example(f"generated-{number}", text.prompt + text.text, f"generated-{number}", images=text.images) for number, text in enumerate(texts)]


def generated_tokens(batch: Batch, texts: Sequence[Generated]) -> Bool[np.ndarray, " token"]:
    """Which tokens of `whole_texts` begin behind the prompt."""
    lengths = np.array([len(text.prompt) for text in texts], dtype=np.int64)
    return np.asarray(batch.char_start.numpy() >= lengths[batch.example.numpy()])


def mean_activations(subject: Subject, site: str, examples: Sequence[Example], starts: Sequence[int] | None = None) -> Float[np.ndarray, "example d_site"]:
    """Mean activation of the counted tokens of each example, of those from a character on where `starts` is given; 0 where there are none."""
    result = np.zeros((len(examples), subject.d_site(site)))
    for index, example in enumerate(examples):
        batch = subject.prepare([example])
        x = subject.capture(batch, [site])[site].double().cpu()
        chosen = x if starts is None else x[batch.char_start >= starts[index]]
        if len(chosen):
            result[index] = chosen.mean(0).numpy()
    return result


def label_columns(subject: Subject, examples: Sequence[Example], name: str, value: str | None = None) -> dict[str, Bool[np.ndarray, " token"]]:
    """Which tokens carry each value, or one value, of a family of the labels that explanations use (`word`, `token_class`, ...)."""
    batch = subject.prepare(examples)
    n = batch.n_tokens
    if not n:
        return {}
    columns = {column: getattr(batch, column).numpy().astype(np.int64) for column in ("example", "position", "token_id", "char_start", "char_end")}
    frame = TokenFrame(sets=(), n_explain=n, rows=np.arange(n), group=np.zeros(n, dtype=np.int64), examples=tuple(examples), groups=("",), **columns)
    family = next((one for one in find_families(frame, subject.token_text) if one.name == name), None)
    if family is None:
        return {}
    codes = np.atleast_2d(family.codes)
    return {known: (codes == code).any(0) for code, known in enumerate(family.values) if value in (None, known)}


class Request(NamedTuple):
    """One text to be written."""

    prompt: str
    edits: Mapping[str, EditFunction] | None
    seed: int
    prefix: str = ""
    """Put before the prompt, and no part of what is given back."""
    images: tuple[Image, ...] = ()
    """Given with the prompt."""

    def example(self, number: int) -> Example:
        """What the subject is given."""
        return Example(f"prompt {number}", self.prefix + self.prompt, f"prompt {number}", images=self.images)


def continuations(subject: Any, requests: Sequence[Request], n_tokens: int, temperature: float) -> list[Generated]:
    """Continue many prompts in one batch, each with its own edits and seed.

    Raises:
        SubjectError: when the subject does not write text, or a prompt is too long.
    """
    check_generates(subject)
    if not requests:
        return []
    found = subject.generate_many([one.example(number) for number, one in enumerate(requests)], n_tokens, [one.edits for one in requests], temperature,
                                  [one.seed for one in requests])
    return [Generated(one.prompt, written.text, one.images) for one, written in zip(requests, found, strict=True)]
