"""A run folder as steering sees it: its cards, the text that directions are taken on, other text for side effects, prompts.

Owns which text that is: training text for directions, half of it of the domain; held-out text, in short pieces so that it comes from many groups, for
everything that is measured. Refuses: runs that are not trained, latents and SAEs that the run does not have.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from sparselight.corpus.python_source import token_class_spans
from sparselight.errors import ConfigError, CorpusError
from sparselight.intervene.generated import Annotate
from sparselight.intervene.reports import annotate_reports
from sparselight.pipeline.opened import open_run
from sparselight.protocols import Example
from sparselight.records import Card
from sparselight.subjects import HuggingFaceSubject

PROMPT_TOKENS = 16
FINDINGS = "FINDINGS:"
PIECE_TOKENS = 100  # of one held-out example


class Place:
    """A run as steering sees it.

    Raises:
        RunError: when it is no run, or not trained.
    """

    def __init__(self, folder: Path):
        self.folder, self.run = folder, open_run(folder)

    @property
    def subject(self) -> HuggingFaceSubject:
        return self.run.subject

    @property
    def cards(self) -> list[Card]:
        return self.run.cards

    @property
    def site(self) -> str:
        return self.run.site

    @property
    def sources(self) -> list[str]:
        """SAEs whose latents have cards."""
        return [name for name in self.run.sources if name in ("base", "residual")]

    def card(self, source: str, latent: int) -> Card:
        """Of a latent that never fired, an empty one."""
        n = self.run.sae(source).n_latents
        if not 0 <= latent < n:
            raise ConfigError(asked=f"steer with feature {latent} of {source}", why=f"that SAE has {n:,} latents",
                              instead=f"give one from 0 to {n - 1}, or search for one with --find")
        found = next((card for card in self.cards if (card.source, card.latent) == (source, latent)), None)
        return found or Card(latent=latent, source=source, fire_rate=0.0, domain_fire_rate=0.0, max_activation=0.0, explanation=None, contexts=[],
                             promotes=[], suppresses=[])

    def fit_sample(self, n_tokens: int, seed: int) -> list[Example]:
        """Training text, half of it of the domain, where rare features fire; annotated."""
        whole, domain = self.run.stages.corpus_side("train"), list(self.run.stages.domain_side("train"))
        known = {example.id for example in domain}
        chosen = take_tokens(self.subject, domain, n_tokens // 2, seed)
        rest = take_tokens(self.subject, [example for example in whole if example.id not in known], n_tokens - n_tokens // 2, seed)
        return whole.annotate([*chosen, *rest])

    @cached_property
    def held_out(self) -> list[Example]:
        return list(self.run.stages.corpus_side("held_out"))

    def general_sample(self, n_tokens: int, seed: int) -> list[Example]:
        """Held-out text, not that of the domain in particular."""
        return take_tokens(self.subject, self.held_out, n_tokens, seed, most=PIECE_TOKENS)

    @property
    def annotate(self) -> Annotate | None:
        """For text that nobody wrote: of Python source its token classes, of reports their findings."""
        return {"python_source": annotate_python, "image_text": annotate_reports}.get(self.run.stages.recipe.corpus.kind)

    def prompts(self, n: int, seed: int) -> list[str | Example]:
        """Beginnings of held-out examples; of reports with images what stands before the findings, with the images."""
        if self.has_images:
            return list(self.with_images([""], n, seed))
        beginnings = take_tokens(self.subject, self.held_out, n * PROMPT_TOKENS, seed + 1, most=PROMPT_TOKENS)
        return list([example.text for example in beginnings][:n])

    @property
    def has_images(self) -> bool:
        return self.run.stages.recipe.corpus.kind == "image_text"

    def with_images(self, texts: Sequence[str], n: int, seed: int) -> list[Example]:
        """Each text with the images of held-out examples in turn; in place of an empty one, the example's own text up to its findings.

        Raises:
            CorpusError: when no held-out example has an image.
        """
        shown = [example for example in self.held_out if example.images]
        if not shown:
            raise CorpusError(asked=f"continue reports of {self.folder}", why="no held-out example has an image", instead="give a corpus with images")
        order = np.random.default_rng(seed + 1).permutation(len(shown))[: max(1, n // len(texts))].tolist()
        return [replace(shown[index], text=text or before_findings(shown[index].text), spans=()) for text in texts for index in order]


def before_findings(text: str) -> str:
    """A report up to the heading of its findings, that heading included; the heading alone where it has none."""
    before, heading, _ = text.partition(FINDINGS)
    return before + heading if heading else FINDINGS


def annotate_python(examples: Sequence[Example]) -> list[Example]:
    return [replace(example, spans=tuple(token_class_spans(example.text))) for example in examples]


def take_tokens(subject: HuggingFaceSubject, examples: Sequence[Example], n_tokens: int, seed: int, most: int | None = None) -> list[Example]:
    """Examples in a random order until there are that many tokens.

    Args:
        most: tokens that are taken of one example at most, from its beginning; without it examples are whole.
    """
    found: list[Example] = []
    left = n_tokens
    for index in np.random.default_rng(seed).permutation(len(examples)).tolist():
        if left <= 0:
            break
        example, batch = examples[index], subject.prepare([examples[index]])
        ends = batch.char_end[batch.char_start >= 0] if example.images else batch.char_end  # patches of an image stand in no text
        if most is not None and len(ends) > most:
            example = replace(example, text=example.text[:int(ends[most - 1])], spans=())
        found.append(example)
        left -= min(batch.n_tokens, most or batch.n_tokens)
    return found
