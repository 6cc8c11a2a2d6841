"""Reading attributes by asking: the subject completes a prompt about an entity, and what it writes is compared with the entity's attribute.

Entities are marked spans of a dataset, their attributes are the labels of the example; prompts come from the settings. The activation of
the entity's last token is exchanged once, in the pass over the prompt. Only prompts that the subject completes correctly by itself are used.
Refuses, as not defined: subjects that do not write text, prompts that do not fit one row, entities that it knows too little of.
"""

from collections import Counter
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.evaluate.case import Case, SideName
from sparselight.evaluate.ravel.config import ENTITY, RavelConfig
from sparselight.evaluate.ravel.pairs import Pairs, Units
from sparselight.protocols import Batch, EditFunction, Example, Subject

SETTING = "language model readout"


class Writer(Subject, Protocol):
    """A subject that continues a text."""

    def generate(self, text: str, n_tokens: int, edits: dict[str, EditFunction] | None = None) -> str: ...


class Prompt(NamedTuple):
    """An entity in a template."""

    example: Example
    entity: str
    span: tuple[int, int]
    attribute: int
    values: tuple[str, ...]
    """Of all attributes."""
    group: int


class Task(NamedTuple):
    """Prompts of both sides that the subject completes correctly."""

    attributes: list[str]
    units: list[Units]
    readouts: list["LanguageReadout"]
    note: str


class LanguageReadout:
    """Cross entropy of the first token, as the subject itself writes it; right is what begins with the value once it has written on."""

    def __init__(self, subject: Writer, site: str, prompts: list[Prompt], at: Int[np.ndarray, " unit"], first: Int[Tensor, " unit"], names: list[list[str]],
                 n_generated_tokens: int):
        self.subject, self.site, self.prompts, self.at, self.first, self.names = subject, site, prompts, at, first, names
        self.n_generated_tokens = n_generated_tokens

    def loss(self, pairs: Pairs, x: Float[Tensor, "pair d_in"]) -> Float[Tensor, ""]:
        batch = self.subject.prepare([self.prompts[base].example for base in pairs.base])
        sizes = torch.bincount(batch.example, minlength=len(pairs.base))
        where = sizes.cumsum(0) - sizes + torch.from_numpy(self.at[pairs.base])

        def edit(tokens: Tensor) -> Tensor:
            _check_all(tokens, batch)
            torch.set_grad_enabled(True)  # the pass runs without; leaving `predict` brings the old mode back
            return tokens.index_copy(0, where.to(tokens.device), x.to(tokens))

        logits = self.subject.predict(batch, {self.site: edit})[sizes.cumsum(0).to(self.subject.device) - 1]
        wanted = self.first[torch.from_numpy(np.where(pairs.is_cause, pairs.source, pairs.base))]
        return torch.nn.functional.cross_entropy(logits, wanted.to(logits.device)).cpu()

    def right(self, pairs: Pairs, x: Float[Tensor, "pair d_in"]) -> Bool[np.ndarray, " pair"]:
        found = np.zeros(len(pairs.base), dtype=bool)
        for number, (base, attribute, value) in enumerate(zip(pairs.base, pairs.attribute, pairs.value, strict=True)):
            text = self.subject.generate(self.prompts[base].example.text, self.n_generated_tokens, {self.site: _once(int(self.at[base]), x[number])})
            found[number] = says(text, self.names[attribute][value])
        return found


def says(text: str, value: str) -> bool:
    """Whether a continuation begins with a value; of a value that is longer than the continuation, the part that has room counts."""
    written, wanted = text.strip(" \n\t\"'").casefold(), value.strip().casefold()
    return bool(written) and (written.startswith(wanted) or wanted.startswith(written))


def language_task(case: Case, dataset: str, config: RavelConfig) -> tuple[Task | None, str]:
    """Prompts about the entities of a dataset, and what the subject knows of them.

    Returns:
        The task, None where it cannot be made, and why.
    """
    if case.subject is None:
        return None, "it runs the subject, and none is given (--subject)"
    if case.subject.ref().kind != "causal_lm" or not hasattr(case.subject, "generate"):
        return None, f"the subject is a {case.subject.ref().kind}, and only causal language models complete prompts"
    subject, attributes = cast("Writer", case.subject), list(config.templates)
    sides: list[tuple[SideName, list[Prompt]]] = [(side, _prompts(case, dataset, side, attributes, config)) for side in ("fit", "held_out")]
    for side, prompts in sides:
        if not prompts:
            return None, (f"no example of the {side.replace('_', '-')} side has a span {config.entity!r} (ravel.entity) and the labels {', '.join(attributes)} "
                          "(ravel.templates)")
        longest = max(subject.n_tokens([prompt.example for prompt in prompts])) + config.n_generated_tokens
        if longest > subject.ref().token_policy.body_tokens:
            return None, f"a prompt and its continuation take up to {longest} tokens, more than a row holds (subject.context_tokens)"
    names = [sorted({prompt.values[index] for _, prompts in sides for prompt in prompts}) for index in range(len(attributes))]
    known, units, readouts = [], [], []
    for _, prompts in sides:
        right = [prompt for prompt in prompts if _knows(case, subject, prompt, config)]
        known.append(f"{len(right)} of {len(prompts)}")
        best = {entity for entity, _ in Counter(prompt.entity for prompt in right).most_common(config.max_entities)}
        right = [prompt for prompt in right if prompt.entity in best]
        if not right:
            return None, f"the subject completes none of {len(prompts)} prompts correctly"
        at, x, first = _read(case, subject, right, config)
        values = np.array([[names[index].index(value) for index, value in enumerate(prompt.values)] for prompt in right])
        units.append(Units(x, values, np.array([prompt.attribute for prompt in right]), np.array([prompt.group for prompt in right])))
        readouts.append(LanguageReadout(subject, case.site, right, at, first, names, config.n_generated_tokens))
    note = (f"ravel on {dataset}, {SETTING}: the subject completes {known[0]} prompts of the fit side and {known[1]} of the held-out side correctly, and only "
            "those are used")
    return Task(attributes, units, readouts, note), ""


def _prompts(case: Case, dataset: str, side: SideName, attributes: list[str], config: RavelConfig) -> list[Prompt]:
    """Every entity in every template; an entity that occurs again counts once."""
    tokens, seen, prompts = case.tokens(dataset, side), set[str](), list[Prompt]()
    groups = dict(zip(tokens.example.tolist(), tokens.group.tolist(), strict=True))
    for number, example in enumerate(tokens.examples):
        for span in example.spans:
            entity = example.text[span.start:span.end]
            if span.name != config.entity or entity in seen or not all(example.labels.get(attribute) for attribute in attributes):
                continue
            seen.add(entity)
            values = tuple(example.labels[attribute] for attribute in attributes)
            for index, attribute in enumerate(attributes):
                for template in config.templates[attribute]:
                    start, text = template.index(ENTITY), template.replace(ENTITY, entity)
                    prompts.append(Prompt(Example(f"{entity}/{text}", text, entity), entity, (start, start + len(entity)), index, values, groups[number]))
    return prompts


def _knows(case: Case, subject: Writer, prompt: Prompt, config: RavelConfig) -> bool:
    case.count_pass(sum(subject.n_tokens([prompt.example])) + config.n_generated_tokens)
    return says(subject.generate(prompt.example.text, config.n_generated_tokens), prompt.values[prompt.attribute])


def _read(
    case: Case, subject: Writer, prompts: list[Prompt], config: RavelConfig,
) -> tuple[Int[np.ndarray, " unit"], Float[Tensor, "unit d_in"], Int[Tensor, " unit"]]:
    """For every prompt: which token of it is the entity's last, its activation, and the token that the subject writes first."""
    at, x, first = [], [], []
    for start in range(0, len(prompts), config.batch_pairs):
        part = prompts[start : start + config.batch_pairs]
        batch = subject.prepare([prompt.example for prompt in part])
        sizes = torch.bincount(batch.example, minlength=len(part))
        begins = sizes.cumsum(0) - sizes
        spans = torch.tensor([prompt.span for prompt in part])[batch.example]
        inside = (batch.char_start < spans[:, 1]) & (batch.char_end > spans[:, 0])
        last = np.zeros(len(part), dtype=np.int64)
        np.maximum.at(last, batch.example[inside].numpy(), inside.nonzero()[:, 0].numpy())
        at.append(torch.from_numpy(last) - begins)
        x.append(subject.capture(batch, [case.site])[case.site][torch.from_numpy(last).to(subject.device)].float().cpu())
        first.append(subject.predict(batch)[(begins + sizes - 1).to(subject.device)].argmax(1).cpu())
        case.count_pass(2 * batch.n_tokens)
    return torch.cat(at).numpy(), torch.cat(x), torch.cat(first)


def _once(at: int, vector: Float[Tensor, " d_in"]) -> EditFunction:
    """Replace one token in the first pass; later passes continue the text with what that pass left."""
    done = False

    def edit(tokens: Tensor) -> Tensor:
        nonlocal done
        if done:
            return tokens
        done = True
        return tokens.index_copy(0, torch.tensor([at], device=tokens.device), vector[None].to(tokens))

    return edit


def _check_all(tokens: Tensor, batch: Batch) -> None:
    if len(tokens) != batch.n_tokens:
        raise SubjectError(asked="exchange activations of entities", why="the token policy leaves some tokens out of edits (subject.max_norms)",
                           instead="leave subject.max_norms out")
