"""How contexts stand in a prompt: through the renderer of the modality, with or without marks, so that no task depends on what a token is.

Owns: contexts without their activations (nothing is marked), with others (marks in wrong places), and the strengths 1 to 10 that an explainer sees.
"""

from collections.abc import Sequence

import numpy as np

from sparselight.interpret.llm.prompts import fenced
from sparselight.protocols import Renderer
from sparselight.records import Context

MOST_STRENGTHS = 12  # single tokens whose strength is listed, the strongest first


def unmarked(context: Context) -> Context:
    """The same tokens, none of them active: what a judge may see. Of a picture with text it is the text: where nothing is marked, patches say nothing."""
    first = n_patches(context)
    tokens, marks = context.tokens[first:], context.marks[first:]
    return context.model_copy(update={"tokens": tokens, "marks": marks, "activations": [0.0] * len(tokens), "peak": max(0, context.peak - first), "grid": None})


def n_patches(context: Context) -> int:
    """How many tokens of the context are patches of a picture; they come first."""
    return 0 if context.grid is None else context.grid[0] * context.grid[1]


def until_peak(context: Context) -> Context:
    """The context up to its peak: what a causal subject had seen when the latent fired."""
    stop = context.peak + 1
    return context.model_copy(update={"tokens": context.tokens[:stop], "activations": context.activations[:stop], "marks": context.marks[:stop]})


def wrongly_marked(context: Context, n_marks: int, rng: np.random.Generator) -> Context | None:
    """The same tokens with marks on silent ones, drawn at random; None where there are not enough silent tokens to draw from."""
    silent = [index for index, value in enumerate(context.activations) if value <= 0]
    if not silent:
        return None
    chosen = rng.choice(silent, size=min(max(n_marks, 1), len(silent)), replace=False)
    activations = [0.0] * len(context.activations)
    for index in chosen.tolist():
        activations[index] = 1.0
    return context.model_copy(update={"activations": activations, "peak": int(chosen[0])})


def n_active(context: Context) -> int:
    return sum(value > 0 for value in context.activations)


def peak_value(context: Context) -> float:
    return max(context.activations, default=0.0)


def strengths(context: Context, largest: float) -> str:
    """The strongest tokens with their strength: ceil(10 a / largest), so that anything above 0 is at least 1. Patches are left to the renderer."""
    active = [(value, index) for index, value in enumerate(context.activations) if value > 0 and index >= n_patches(context)]
    chosen = sorted(index for _, index in sorted(active, key=lambda pair: (-pair[0], pair[1]))[:MOST_STRENGTHS])
    return ", ".join(f"{context.tokens[index].strip() or repr(context.tokens[index])} {level(context.activations[index], largest)}" for index in chosen)


def level(value: float, largest: float) -> int:
    """Strength from 0 to 10 relative to the largest."""
    return 0 if value <= 0 or largest <= 0 else int(min(10, max(1, np.ceil(10 * value / largest))))


def marked_examples(contexts: Sequence[Context], renderer: Renderer) -> str:
    """Contexts with marks and strengths, for an explainer."""
    largest = max((peak_value(context) for context in contexts), default=0.0)
    texts = [f"{renderer.prompt(context)}\nstrengths: {strengths(context, largest)}" for context in contexts]
    return fenced(texts, [f"example {number}" for number in range(1, len(texts) + 1)])


def numbered_examples(contexts: Sequence[Context], renderer: Renderer) -> str:
    """Contexts as their activations say, without strengths, for a judge."""
    return fenced([renderer.prompt(context) for context in contexts], [f"example {number}" for number in range(1, len(contexts) + 1)])


def fenced_explanation(text: str) -> str:
    return fenced([text], ["description"])
