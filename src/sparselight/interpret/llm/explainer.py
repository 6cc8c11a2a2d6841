"""Explanations by a language model: what a latent responds to, in words, from examples in which it fires.

Two styles. `default` shows firing examples with marks and strengths (after Bills et al. 2023 and Paulo et al. 2024, arXiv 2410.13928). `contrastive` also shows
silent examples, near misses first, so that the description has to say what tells them apart. The explainer sees the explain side only; scores are measured on
the other. Its record keeps model, prompt hash, style and seed.
"""

from collections.abc import Sequence
from typing import Any

from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm.chat import ChatRequest, Sampling
from sparselight.interpret.llm.config import LlmConfig
from sparselight.interpret.llm.pictures import PromptPictures
from sparselight.interpret.llm.prompts import Prompts, form_of
from sparselight.interpret.llm.reading import Reading
from sparselight.interpret.llm.show import marked_examples, numbered_examples, peak_value, unmarked
from sparselight.interpret.renderers import visible
from sparselight.protocols import Renderer
from sparselight.records import Context, Explanation

SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["explanation"],
    "properties": {"explanation": {"type": "string", "description": '"the description"'}},
}
MOST_TIMES_LONGER = 4  # than asked for: what is longer still is cut, because every scorer pays for it again
NAMES = {"default": "llm", "contrastive": "llm_contrastive"}


class LlmExplainer:
    """Makes requests of examples and explanations of answers."""

    def __init__(self, config: LlmConfig, prompts: Prompts, renderer: Renderer, sampling: Sampling, pictures: PromptPictures | None = None):
        self.config, self.prompts, self.renderer, self.sampling, self.pictures = config, prompts, renderer, sampling, pictures
        self.name = NAMES[config.style]

    @property
    def task(self) -> str:
        return "explain" if self.config.style == "default" else "explain_contrastive"

    def why_not(self, item: LatentExamples) -> str:
        """Why this latent cannot be explained; empty when it can."""
        if not item.explain:
            return "it fires in no example that an explainer may see"
        if self.config.style == "contrastive" and not item.explain_near_miss:
            return "there is no silent example to contrast it with"
        return ""

    def request(self, item: LatentExamples) -> ChatRequest:
        """The question for one latent."""
        shown = spread(item.explain, self.config.n_examples)
        slots = {"examples": marked_examples(shown, self.renderer), "max_words": str(self.config.max_words), "form": form_of(SCHEMA)}
        if self.task == "explain_contrastive":
            silent = [unmarked(context) for context in item.explain_near_miss[: self.config.n_examples]]
            slots["silent_examples"] = numbered_examples(silent, self.renderer)
        messages = self.prompts[self.task].fill(**slots)
        if self.pictures is not None:
            messages = self.pictures.attach(messages, shown, marked=True)
        return ChatRequest(messages, SCHEMA, self.sampling)

    def explanation(self, reading: Reading) -> Explanation | None:
        """The explanation that an answer holds."""
        if reading.data is None:
            return None
        words = visible(" ".join(str(reading.data["explanation"]).split())).split()  # a terminal must not obey what a model writes
        most = MOST_TIMES_LONGER * self.config.max_words
        text = " ".join(words[:most]) + (" ..." if len(words) > most else "")
        made_with = {"model": self.config.model, "prompt": self.prompts[self.task].hash, "style": self.config.style, "seed": str(self.config.seed)}
        made_with |= {"images": "shown"} if self.pictures is not None else {}
        return Explanation(text=text.strip("\"' ") or text, explainer=self.name, made_with=made_with)


def spread(contexts: Sequence[Context], n: int) -> list[Context]:
    """At most n contexts, taken in turn from each kind (top, quantile, importance), the strongest first."""
    kinds: dict[str, list[Context]] = {}
    for context in contexts:
        kinds.setdefault(context.kind, []).append(context)
    chosen: list[Context] = []
    rows = list(kinds.values())
    while len(chosen) < n and any(rows):
        for row in rows:
            if row and len(chosen) < n:
                chosen.append(row.pop(0))
    return sorted(chosen, key=lambda context: -peak_value(context))

