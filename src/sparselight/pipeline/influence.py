"""Influence of examples on an SAE's loss on the seeds, from texts: what select.rerank = "tracin" orders by.

Owns: the SAE of select.sae, and its site's activations of candidates and seeds, example by example; the arithmetic is train/influence.py. Refuses: no SAE,
one of another site.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError
from sparselight.protocols import Example, Progress, no_progress
from sparselight.sae.formats import load_sae
from sparselight.select import SelectConfig
from sparselight.subjects import HuggingFaceSubject
from sparselight.train.influence import influence

BATCH_TOKENS = 8192


class SaeInfluence:
    """Scores of examples, as `select.Influence`.

    Args:
        seeds: examples whose loss is to go down.
        site: of the SAE, where its record does not say.

    Raises:
        ConfigError: when select.sae is not given, or is of another site.
        SaeError: when it cannot be loaded.
    """

    def __init__(self, config: SelectConfig, subject: HuggingFaceSubject, site: str, seeds: Sequence[Example], progress: Progress = no_progress):
        if config.sae is None:
            raise ConfigError(asked="select with select.rerank = 'tracin'", why="influence is measured on a trained SAE, and none is given",
                              instead="set select.sae to the folder of a general SAE of the same site, or use select.rerank = 'none'")
        self.sae = load_sae(config.sae)
        if self.sae.record is not None and self.sae.record.site != site:
            raise ConfigError(asked=f"measure influence on select.sae = {config.sae!r} at {site}", why=f"it was trained at {self.sae.record.site}",
                              instead="set harvest.site to that, or give an SAE of this site")
        self.config, self.subject, self.site, self.seeds, self.progress = config, subject, site, seeds, progress

    def __call__(self, examples: Sequence[Example]) -> Float[np.ndarray, " example"]:
        """Scores; 0 for an example without tokens, on which no step can be made."""
        present = [index for index, n_tokens in enumerate(self.subject.n_tokens(examples)) if n_tokens]
        scores = np.zeros(len(examples), dtype=np.float32)
        if present:
            found = influence(self.sae, self._watched([examples[index] for index in present]), self._activations(self.seeds), kind=self.config.influence)
            scores[present] = found.cpu().numpy()
        return scores

    def _watched(self, examples: Sequence[Example]) -> Iterator[Float[Tensor, "token d_in"]]:
        for number, x in enumerate(self._activations(examples)):
            yield x
            self.progress(number + 1, len(examples), "influence")

    @torch.no_grad()
    def _activations(self, examples: Sequence[Example]) -> Iterator[Float[Tensor, "token d_in"]]:
        """Each example's activations in order; those without tokens are left out."""
        for group in _groups(self.subject.n_tokens(examples)):
            batch = self.subject.prepare([examples[index] for index in group])
            x = self.subject.capture(batch, [self.site])[self.site].to(self.sae.W_dec)
            sizes = torch.bincount(batch.example, minlength=len(group)).tolist()
            yield from (part for part in x.split(sizes) if len(part))


def _groups(n_tokens: Sequence[int]) -> Iterator[list[int]]:
    """Examples one after the other, up to BATCH_TOKENS tokens or one example."""
    group: list[int] = []
    total = 0
    for index, size in enumerate(n_tokens):
        if group and total + size > BATCH_TOKENS:
            yield group
            group, total = [], 0
        group.append(index)
        total += size
    if group:
        yield group
