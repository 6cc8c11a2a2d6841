"""Goals by name: how they are written on the command line, and the goal that a latent has where none is given.

Owns: `parse_goal`, tokens found by their text, and what follows a latent's firings in text. Refuses: other forms, empty lists, tokens that the
vocabulary does not have, latents that fire nowhere.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from sparselight.errors import ConfigError, CorpusError
from sparselight.intervene.generated import Annotate
from sparselight.intervene.goals import Goal, LabelGoal, PatternGoal, ProbeGoal, TokenGoal
from sparselight.intervene.reports import FORM, FindingGoal
from sparselight.protocols import Example, Subject

N_FOLLOWING = 5
MAX_TITLE_TOKENS = 8
FORMS: Mapping[str, str] = {
    "tokens": "tokens: key, cipher", "words": "words: key, cipher", "regex": r"regex: \bdef \w+", "label": "label: word=key",
    "annotation": "annotation: package=ssl", "finding": FORM,
}


def parse_goal(text: str, subject: Any, site: str, fit: Sequence[Example] = (), annotate: Annotate | None = None) -> Goal:
    """A goal from its form on the command line: `tokens: a, b`, `words: a, b`, `regex: ...`, `label: kind=value`, `annotation: kind=value` or `finding: name`.

    Args:
        fit: examples with labels, on which the probe of `annotation` is fitted.
        annotate: for labels of annotated spans.

    Raises:
        ConfigError: for another form, an empty list, or tokens that the vocabulary does not have.
    """
    kind, colon, rest = text.partition(":")
    kind, rest = kind.strip(), rest.strip()
    if not colon or kind not in FORMS:
        raise ConfigError(asked=f"use {text!r} as a goal", why="it does not say what kind of goal it is",
                          instead=f"begin with one of {', '.join(f'{name}:' for name in FORMS)}, such as 'words: key, cipher'")
    if not rest:
        raise ConfigError(asked=f"use {text!r} as a goal", why="it names nothing", instead=f"write for example {FORMS[kind]!r}")
    if kind == "tokens":
        return token_goal(subject, listed(rest))
    if kind == "words":
        words = listed(rest)
        return PatternGoal(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", name=f"text with {' or '.join(f'`{word}`' for word in words)}")
    if kind == "finding":
        return FindingGoal.parse(rest)
    if kind == "regex":
        return PatternGoal(rest)
    return LabelGoal(rest, annotate) if kind == "label" else ProbeGoal.fit(rest, site, subject, fit)


def needs_examples(text: str) -> bool:
    """Whether a goal of this form is fitted on examples."""
    return text.partition(":")[0].strip() == "annotation"


def listed(text: str) -> list[str]:
    """Parts between commas; a part in double quotes keeps its blanks and may hold commas and escapes."""
    parts = re.findall(r'\s*("(?:[^"\\]|\\.)*"|[^,]+)\s*(?:,|$)', text)
    return [json.loads(part) if part.startswith('"') and part.endswith('"') and len(part) > 1 else part.strip() for part in parts if part.strip()]


def token_goal(subject: Any, words: Sequence[str], title: str = "") -> TokenGoal:
    """The tokens whose text is one of the words, with or without a blank before it; a word that begins with a blank only with it.

    Raises:
        ConfigError: when the vocabulary has none of a word's forms, or the subject has no vocabulary.
    """
    n = getattr(subject, "n_vocabulary", 0)
    if not n:
        raise ConfigError(asked=f"use tokens as a goal for {subject.name}", why="it has no vocabulary", instead="give a goal that its predictions have")
    by_text: dict[str, list[int]] = {}
    for token_id in range(n):
        by_text.setdefault(subject.token_text(token_id), []).append(token_id)
    found: list[int] = []
    for word in words:
        ids = [token_id for form in (word, f" {word}") for token_id in by_text.get(form, [])]
        if not ids:
            raise ConfigError(asked=f"use the token {word!r} as a goal", why=f"no token of {subject.name} reads so: it is written in several",
                              instead="give its first piece, or a goal on text: 'words: " + word.strip() + "'")
        found += ids
    return TokenGoal(tuple(dict.fromkeys(found)), title or f"next token {named(subject, found)}")


def named(subject: Subject, token_ids: Sequence[int]) -> str:
    """Tokens for a title."""
    shown = [f"`{subject.token_text(token_id)}`".replace("\n", "\\n").replace("\t", "\\t") for token_id in token_ids[:MAX_TITLE_TOKENS]]
    more = f" or {len(token_ids) - MAX_TITLE_TOKENS} more" if len(token_ids) > MAX_TITLE_TOKENS else ""
    return " or ".join(dict.fromkeys(shown)) + more


def following_tokens(token_id: Int[np.ndarray, " token"], example: Int[np.ndarray, " token"], fires: Bool[np.ndarray, " token"],
                     n: int = N_FOLLOWING) -> tuple[int, ...]:
    """The tokens that follow firings most tellingly: largest p(v | fires) log(p(v | fires) / p(v)), their part of the KL divergence.

    Raises:
        CorpusError: when no firing has a token after it.
    """
    follows = example[1:] == example[:-1]
    after, marked = token_id[1:][follows], fires[:-1][follows]
    if not marked.any():
        raise CorpusError(asked="find what follows where the latent fires", why=f"it fires nowhere on these {len(token_id)} tokens",
                          instead="give a goal by name, such as 'tokens: key'")
    size = int(token_id.max()) + 1
    here, all_of = (np.bincount(part, minlength=size) / len(part) for part in (after[marked], after))
    gain = np.where(here > 0, here * np.log(np.where(here > 0, here, 1) / np.where(all_of > 0, all_of, 1)), 0)
    order = np.argsort(-gain, kind="stable")[:n]
    return tuple(int(token) for token in order if gain[token] > 0) or (int(np.argmax(here)),)
