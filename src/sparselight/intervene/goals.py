"""Goals: what an edit is for, as a number. Either of predictions (probability of given tokens at every token of a text) or of generated text.

Owns: the five kinds (tokens, pattern, label rule, probe, function), and where a goal is present in text that was not generated: what the difference of
means and the search by association are fitted on. How goals are written on the command line stands in `goal_forms.py`. Refuses: labels that are
not kind=value, patterns that do not compile, probes with one class, functions that give something else than a finite number.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit
from torch import Tensor

from sparselight.errors import ConfigError, CorpusError
from sparselight.evaluate.probes import fit_logistic
from sparselight.intervene.generated import Annotate, Generated, generated_tokens, label_columns, mean_activations, whole_texts
from sparselight.protocols import Example, Subject


class Goal(Protocol):
    """What an edit is for."""

    @property
    def title(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def on(self) -> Literal["predictions", "text"]: ...
    def present(self, subject: Subject, examples: Sequence[Example]) -> Bool[np.ndarray, " token"]: ...


class TextGoal(Goal, Protocol):
    """A goal on generated text: one number a text."""

    def values(self, subject: Subject, texts: Sequence[Generated]) -> Float[np.ndarray, " text"]: ...


@dataclass(frozen=True)
class TokenGoal:
    """Probability that the subject gives to any of some tokens: sum over v in tokens of p(v), mean over the tokens of a text."""

    token_ids: tuple[int, ...]
    title: str
    unit: ClassVar[str] = "probability"
    on: ClassVar[Literal["predictions"]] = "predictions"

    def probability(self, log_probs: Float[Tensor, "token vocabulary"]) -> Float[Tensor, " token"]:
        return log_probs[:, list(self.token_ids)].exp().sum(-1)

    def present(self, subject: Subject, examples: Sequence[Example]) -> Bool[np.ndarray, " token"]:
        """Where the next token (of a masked language model: the token itself) is one of them."""
        batch = subject.prepare(examples)
        wanted = np.isin(batch.token_id.numpy(), self.token_ids)
        if not predicts_next(subject):
            return wanted
        same = batch.example.numpy()[1:] == batch.example.numpy()[:-1]
        return np.append(wanted[1:] & same, np.zeros(min(1, len(wanted)), dtype=bool))


@dataclass(frozen=True)
class PatternGoal:
    """A regular expression in generated text: share of texts in which it occurs, or occurrences a text."""

    pattern: str
    count: Literal["texts", "matches"] = "texts"
    name: str = ""
    on: ClassVar[Literal["text"]] = "text"
    compiled: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "compiled", re.compile(self.pattern))
        except re.error as err:
            raise ConfigError(asked=f"use the pattern {self.pattern!r} as a goal", why=f"it is no regular expression ({err})",
                              instead="mend it, or give words: 'words: key, cipher'") from None

    @property
    def title(self) -> str:
        return self.name or f"text that matches /{self.pattern}/"

    @property
    def unit(self) -> str:
        return "share of texts" if self.count == "texts" else "occurrences a text"

    def values(self, subject: Subject, texts: Sequence[Generated]) -> Float[np.ndarray, " text"]:  # noqa: ARG002
        found = np.array([sum(1 for _ in self.compiled.finditer(text.text)) for text in texts], dtype=np.float64)
        return (found > 0).astype(np.float64) if self.count == "texts" else found

    def present(self, subject: Subject, examples: Sequence[Example]) -> Bool[np.ndarray, " token"]:
        """Tokens that overlap a match."""
        batch = subject.prepare(examples)
        result = np.zeros(batch.n_tokens, dtype=bool)
        number, start, end = batch.example.numpy(), batch.char_start.numpy(), batch.char_end.numpy()
        order = np.argsort(number, kind="stable")
        bounds = np.searchsorted(number[order], np.arange(len(examples) + 1))
        for index, example in enumerate(examples):
            covered = np.zeros(len(example.text) + 1, dtype=np.int64)
            for match in self.compiled.finditer(example.text):
                covered[match.start() + 1:match.end() + 1] = 1
            before, own = np.cumsum(covered), order[bounds[index]:bounds[index + 1]]
            result[own] = before[end[own]] > before[start[own]]
        return result


@dataclass(frozen=True)
class LabelGoal:
    """Share of the generated tokens that carry a label of a card, `kind=value`; annotations come from `annotate`."""

    label: str
    annotate: Annotate | None = None
    unit: ClassVar[str] = "share of tokens"
    on: ClassVar[Literal["text"]] = "text"

    def __post_init__(self) -> None:
        if not all(self.label.partition("=")):
            raise ConfigError(asked=f"use the label {self.label!r} as a goal", why="it is not of the form kind=value",
                              instead="give one as cards show it, such as 'label: word=key'")

    @property
    def title(self) -> str:
        return f"tokens that carry the label {self.label}"

    def values(self, subject: Subject, texts: Sequence[Generated]) -> Float[np.ndarray, " text"]:
        examples = whole_texts(texts)
        batch, carries = subject.prepare(examples), self.present(subject, examples)
        new = generated_tokens(batch, texts)
        n = np.bincount(batch.example.numpy()[new], minlength=len(texts))
        return np.bincount(batch.example.numpy()[new & carries], minlength=len(texts)) / np.maximum(n, 1)

    def present(self, subject: Subject, examples: Sequence[Example]) -> Bool[np.ndarray, " token"]:
        family, _, value = self.label.partition("=")
        examples = self.annotate(examples) if self.annotate else list(examples)
        return label_columns(subject, examples, family, value).get(value, np.zeros(subject.prepare(examples).n_tokens, dtype=bool))


@dataclass(frozen=True)
class ProbeGoal:
    """Probability that a linear probe gives to an annotation of the whole text, on mean activations of the generated tokens in the unedited subject."""

    label: str
    site: str
    weights: Float[np.ndarray, " d_site"]
    bias: float
    unit: ClassVar[str] = "probability"
    on: ClassVar[Literal["text"]] = "text"

    @classmethod
    def fit(cls, label: str, site: str, subject: Subject, examples: Sequence[Example]) -> "ProbeGoal":
        """Logistic regression of `kind=value` (a label of whole examples) on mean activations at a site.

        Raises:
            ConfigError: when the label is not of the form kind=value.
            CorpusError: when all or none of the examples carry it.
        """
        kind, _, value = label.partition("=")
        if not kind or not value:
            raise ConfigError(asked=f"use the annotation {label!r} as a goal", why="it is not of the form kind=value",
                              instead="name a label of whole examples, such as 'annotation: package=ssl'")
        carries = np.array([example.labels.get(kind) == value for example in examples], dtype=bool)
        if not carries.any() or carries.all():
            raise CorpusError(asked=f"fit a probe for {label}", why=f"{int(carries.sum())} of {len(carries)} examples carry it",
                              instead="give a label that some examples carry and some do not")
        spread = mean_activations(subject, site, examples)
        scale = spread.std() or 1.0
        probe = fit_logistic(spread / scale, carries, balanced=True)
        return cls(label, site, probe.weights[0] / scale, float(probe.bias[0]))

    @property
    def title(self) -> str:
        return f"text that a probe takes for {self.label}"

    def values(self, subject: Subject, texts: Sequence[Generated]) -> Float[np.ndarray, " text"]:
        x = mean_activations(subject, self.site, whole_texts(texts), [len(text.prompt) for text in texts])
        return np.asarray(expit(x @ self.weights + self.bias))

    def present(self, subject: Subject, examples: Sequence[Example]) -> Bool[np.ndarray, " token"]:
        kind, _, value = self.label.partition("=")
        carries = np.array([example.labels.get(kind) == value for example in examples], dtype=bool)
        return carries[subject.prepare(examples).example.numpy()]


@dataclass(frozen=True)
class FunctionGoal:
    """A function of the user's from a generated text to a number."""

    function: Callable[[str], float]
    title: str
    unit: str = "value"
    on: ClassVar[Literal["text"]] = "text"

    def values(self, subject: Subject, texts: Sequence[Generated]) -> Float[np.ndarray, " text"]:  # noqa: ARG002
        return np.array([self._checked(text.text) for text in texts], dtype=np.float64)

    def present(self, subject: Subject, examples: Sequence[Example]) -> Bool[np.ndarray, " token"]:
        """Tokens of the examples with a value above the median."""
        found = np.array([self._checked(example.text) for example in examples], dtype=np.float64)
        return (found > np.median(found))[subject.prepare(examples).example.numpy()] if len(found) else np.zeros(0, dtype=bool)

    def _checked(self, text: str) -> float:
        value = self.function(text)
        if not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise ConfigError(asked=f"use {self.title!r} as a goal", why=f"it gave {value!r} for {text[:40]!r}",
                              instead="give back a finite number for every text")
        return float(value)


def predicts_next(subject: Subject) -> bool:
    """Whether predictions at a token are of the next one, not of the token itself."""
    return getattr(subject, "kind", "") != "masked_lm"
