"""Where edits act: from a `Where` to a mask over the tokens of a pass.

Owns: the masks, what is left of them where all tokens are given or all are generated, and their words. Refuses: spans and lists that select nothing
by themselves, annotations and characters where no example says which they are.
"""

from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from sparselight.errors import ConfigError
from sparselight.protocols import Example, Places
from sparselight.records import Where

Phase = Literal["prompt", "generated"]
EVERYWHERE = Where()


def token_mask(where: Where, places: Places) -> Bool[Tensor, " token"]:
    """Which tokens an edit acts on.

    Raises:
        ConfigError: when an annotation or characters are named and nothing says which the tokens have.
    """
    mask = torch.ones_like(places.generated)
    if where.tokens in ("prompt", "last"):
        mask &= ~places.generated
    if where.tokens == "generated":
        mask &= places.generated
    if where.tokens == "last":
        mask &= places.position == places.n_given - 1
    if where.positions is not None:
        mask &= _at_positions(where.positions, places)
    if (where.token_ids is not None or where.except_token_ids) and bool((places.token_id < 0).any()):
        raise ConfigError(asked="edit at tokens of the vocabulary (where.token_ids)", why="this pass is given as embeddings, not as tokens",
                          instead="call the model with input_ids, or name positions (where.positions)")
    if where.token_ids is not None:
        mask &= torch.isin(places.token_id, torch.tensor(where.token_ids, dtype=places.token_id.dtype))
    if where.except_token_ids:
        mask &= ~torch.isin(places.token_id, torch.tensor(where.except_token_ids, dtype=places.token_id.dtype))
    if where.chars is not None:
        _check_text(places)
        mask &= _sharing(where.chars, places)
    if where.annotation is not None:
        mask &= _annotated(where.annotation, places)
    return mask


def is_everywhere(where: Where) -> bool:
    """Whether it is every counted token, so that no pass needs to be asked."""
    return where == EVERYWHERE


def during(where: Where, phase: Phase) -> Where | None:
    """What is left of it in a pass whose tokens are all given, or all generated; None where that is none of them."""
    given_only = where.chars is not None or where.annotation is not None or where.tokens in ("prompt", "last")
    from_end_only = where.positions is not None and all(position < 0 for position in where.positions)
    if phase == "generated":
        if given_only or from_end_only:
            return None
        return where.model_copy(update={"tokens": "counted"})
    if where.tokens == "generated":
        return None
    return where.model_copy(update={"tokens": "counted"}) if where.tokens == "prompt" else where


def check_where(where: Where, asked: str) -> None:
    """Refuse what selects no token of any text.

    Raises:
        ConfigError: naming the setting.
    """
    for name in ("positions", "chars", "token_ids"):
        if getattr(where, name) == []:
            raise ConfigError(asked=asked, why=f"where.{name} is an empty list, so it would act nowhere", instead=f"leave where.{name} out, or name some")
    for start, end in where.chars or []:
        if not 0 <= start < end:
            raise ConfigError(asked=asked, why=f"the span of characters [{start}, {end}) (where.chars) holds none", instead="give 0 <= start < end")
    if where.annotation is not None and not where.annotation.partition("=")[0]:
        raise ConfigError(asked=asked, why=f"where.annotation = {where.annotation!r} names none", instead="write name or name=value")
    if where.tokens == "generated" and during(where, "generated") is None:
        raise ConfigError(asked=asked, why=f"{describe(where)}: generated tokens have no characters or annotations, so it would act nowhere",
                          instead="leave where.tokens = 'generated' out")
    both = set(where.token_ids or []) and not set(where.token_ids or []) - set(where.except_token_ids)
    if both:
        raise ConfigError(asked=asked, why="where.except_token_ids takes away all of where.token_ids", instead="leave one of them out")


def describe(where: Where) -> str:
    """In words, as errors and pictures show it."""
    words = {"counted": "every token", "prompt": "the prompt", "generated": "generated tokens", "last": "the last token of the prompt"}[where.tokens]
    parts = [
        "" if where.positions is None else f"positions {_listed(where.positions)}",
        "" if where.chars is None else "characters " + ", ".join(f"{start} to {end}" for start, end in where.chars),
        "" if where.annotation is None else f"annotation {where.annotation}",
        "" if where.token_ids is None else f"tokens {_listed(where.token_ids)} of the vocabulary",
        "" if not where.except_token_ids else f"not tokens {_listed(where.except_token_ids)} of the vocabulary",
    ]
    return ", ".join([words, *filter(None, parts)])


def matches(example: Example, annotation: str) -> tuple[bool, list[tuple[int, int]]]:
    """Whether a label of a whole example is `name` or `name=value`, and the spans that are."""
    name, equals, value = annotation.partition("=")
    whole = name in example.labels and (not equals or example.labels[name] == value)
    return whole, [(span.start, span.end) for span in example.spans if span.name == name and (not equals or span.value == value)]


def _at_positions(positions: list[int], places: Places) -> Bool[Tensor, " token"]:
    from_start = torch.tensor([position for position in positions if position >= 0], dtype=places.position.dtype)
    from_end = torch.tensor([position for position in positions if position < 0], dtype=places.position.dtype)
    return torch.isin(places.position, from_start) | torch.isin(places.position - places.n_given, from_end)


def _sharing(spans: list[tuple[int, int]], places: Places) -> Bool[Tensor, " token"]:
    mask = torch.zeros_like(places.generated)
    for start, end in spans:
        mask |= (places.char_start < end) & (places.char_end > start)
    return mask


def _annotated(annotation: str, places: Places) -> Bool[Tensor, " token"]:
    if places.examples is None:
        raise ConfigError(asked=f"edit at tokens with the annotation {annotation} (where.annotation)", why="this pass does not say which examples it holds",
                          instead="run examples through subject.prepare, or give Examples with spans as prompts")
    mask = torch.zeros_like(places.generated)
    for number in places.example.unique().tolist():
        whole, spans = matches(places.examples[number], annotation)
        if whole or spans:
            own = (places.example == number) & ~places.generated
            mask |= own if whole else own & _sharing(spans, places)
    return mask


def _check_text(places: Places) -> None:
    if len(places.char_start) and bool((places.char_start < 0).all()) and not bool(places.generated.all()):
        raise ConfigError(asked="edit at characters of a text (where.chars)", why="this pass does not say which characters its tokens cover",
                          instead="use subject.generate, predict or loss, or name positions (where.positions)")


def _listed(numbers: list[int], longest: int = 6) -> str:
    return ", ".join(map(str, numbers[:longest])) + (f" and {len(numbers) - longest} more" if len(numbers) > longest else "")
