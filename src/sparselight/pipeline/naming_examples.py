"""Examples of the latents of a finished run, and of latents of control coders, which are read anew.

Controls are coders that nobody trained (interpret/controls.py); their latents are drawn at random among those that fire, and their examples in the same way and
number as any other latent's. Refuses: as `ExampleMaker`.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import overload

import numpy as np

from sparselight.evaluate.controls import CONTROL_ROWS
from sparselight.interpret.activations import read_activations
from sparselight.interpret.cache import ActivationCache
from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.controls import ControlName, make_controls
from sparselight.interpret.directions import directions_of
from sparselight.interpret.examples import CoderMaterial, ExamplesConfig, draw_examples
from sparselight.interpret.explain import STRONGEST
from sparselight.interpret.llm.job import BATCH_LATENTS
from sparselight.interpret.patches import WholeExamples
from sparselight.interpret.renderers import renderer_for
from sparselight.interpret.strongest import load_strongest, save_strongest
from sparselight.pipeline.explaining import SOURCES, ExampleMaker
from sparselight.pipeline.stages import RunStages
from sparselight.protocols import Renderer, SparseCoder
from sparselight.sae import load_sae

Key = tuple[str, int]


class RunExamples:
    """Examples of one run.

    Args:
        config: how many; the sample of tokens stays that of the stage `explain`.
    """

    def __init__(self, stages: RunStages, config: ExamplesConfig):
        self.stages, self.config = stages, config

    @cached_property
    def maker(self) -> ExampleMaker:
        return ExampleMaker(self.stages)

    @property
    def modality(self) -> str:
        """Which prompts its examples take."""
        return self.maker.modality

    @cached_property
    def renderer(self) -> Renderer:
        return renderer_for(self.modality)

    def draw(self, keys: Sequence[Key]) -> "Drawn":
        """Examples of some latents, (source, latent), in that order; each draw is made when it is asked for.

        Raises:
            RunError: when what the stage left is missing, damaged or of other settings.
        """
        return Drawn(keys, lambda block: draw_examples(block, self.maker.material, self.maker.windows, self.config))

    def controls(self, names: Sequence[ControlName], n: int, sources: Sequence[str]) -> dict[str, list[LatentExamples]]:
        """Up to n latents of each control, over the controls of these sources together."""
        found: dict[str, list[LatentExamples]] = {name: [] for name in names}
        if not names:
            return found
        made = {f"{source}.{name}": coder for source in sources for name, coder in self._control_coders(source, names).items()}
        windows, explain = self.maker.windows, self.stages.recipe.explain
        with tempfile.TemporaryDirectory(prefix="sparselight-") as scratch:
            folders = {name: Path(scratch) / name for name in made}
            readings = read_activations(made, {}, windows.sets, windows.frame, self.stages.site, folders, self.config.n_top, explain.context_tokens, quietly)
            for number, (key, reading) in enumerate(readings.items()):
                save_strongest(reading.strongest, folders[key] / STRONGEST)
                alive = np.flatnonzero(sum(reading.n_fires.values()))
                chosen = np.sort(np.random.default_rng([self.config.seed, number]).permutation(alive)[: -(-n // len(sources))]).tolist()
                cache = ActivationCache(folders[key], windows.frame.digest())
                material = CoderMaterial(cache, partial(load_strongest, folders[key] / STRONGEST), directions_of(made[key]),
                                         WholeExamples(key, made[key], windows.sets, self.stages.site).of if windows.pictures else None)
                found[key.rpartition(".")[2]] += draw_examples([(key, latent) for latent in chosen], {key: material}, windows, self.config).values()
        return found

    def _control_coders(self, source: str, names: Sequence[ControlName]) -> Mapping[str, SparseCoder]:
        """Made as the stage `explain` makes them: sparsity is matched on explain tokens of the first set."""
        frame, tokens = self.maker.windows.frame, self.maker.windows.sets[0]
        rows = frame.rows[frame.sets[0].start : frame.sets[0].stop]
        x = tokens.store.read(rows[np.linspace(0, len(rows) - 1, min(len(rows), CONTROL_ROWS)).astype(np.int64)], self.stages.site)
        sae = load_sae(self.stages.run.path(SOURCES[source]) / "sae")
        return {str(name): coder for name, coder in make_controls(sae, x, names, self.stages.recipe.explain.seed).items()}


class Drawn(Sequence[LatentExamples]):
    """Examples of many latents, of which only some are held at once: thousands of latents would fill the memory."""

    def __init__(self, keys: Sequence[Key], draw: Callable[[Sequence[Key]], Mapping[Key, LatentExamples]]):
        self.keys, self._draw = list(keys), draw
        self._held: tuple[list[Key], list[LatentExamples]] = ([], [])

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> LatentExamples: ...
    @overload
    def __getitem__(self, index: slice) -> list[LatentExamples]: ...
    def __getitem__(self, index: int | slice) -> LatentExamples | list[LatentExamples]:
        keys = self.keys[index] if isinstance(index, slice) else [self.keys[index]]
        if keys != self._held[0]:
            drawn = self._draw(keys)
            self._held = (keys, [drawn[key] for key in keys])
        return list(self._held[1]) if isinstance(index, slice) else self._held[1][0]

    def __iter__(self) -> Iterator[LatentExamples]:
        for start in range(0, len(self), BATCH_LATENTS):
            yield from self[start : start + BATCH_LATENTS]


def quietly(_note: str) -> None:
    """The step of work that nobody watches."""
