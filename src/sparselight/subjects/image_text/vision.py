"""The vision encoder of a vision-language model as a subject: each image is a row, its patches are the tokens.

Owns: rows of patches, sites `vision.*`, capture in the order in which a grid is read, row by row. Class tokens do not count. Refuses: loss, predictions and
edits (an encoder predicts nothing), sites of the language model, encoders whose layers see patches in an order of their own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.protocols import Batch, Example
from sparselight.records import TokenPolicy
from sparselight.subjects.config import TokenSettings
from sparselight.subjects.families import Layer, Layout, lay_out
from sparselight.subjects.hooks import AtCounted, capturing
from sparselight.subjects.hugging_face import HuggingFaceSubject
from sparselight.subjects.image_text.config import ImageTextConfig
from sparselight.subjects.image_text.families import Grid
from sparselight.subjects.image_text.prompt import Prompt
from sparselight.subjects.image_text.rows import BLANK_SIZE, NO_OFFSET, ImageTextRows, PatchGrids, blank, open_pixels
from sparselight.subjects.image_text.subject import image_token, make_family
from sparselight.subjects.places import passing_batch
from sparselight.subjects.probe import Probe
from sparselight.subjects.rows import Stretch
from sparselight.subjects.site import Site
from sparselight.subjects.tokens import Frame

PREFIX = "vision."
OWN_ORDER = {"qwen2_5_vl": "its layers see patches in windows, in an order that changes from layer to layer"}


class PatchRows(ImageTextRows):
    """Examples to rows of patches, one row an image."""

    def check_room(self) -> None:
        """An encoder has no prompt and no text to make room for."""

    def _grid_of(self, size: tuple[int, int]) -> Grid:
        if size not in self._grid_of_size:
            self._grid_of_size[size] = self.family.tower_grids(self.family.pixels([blank(size)]))[0]
        return self._grid_of_size[size]

    def sizes(self, examples: Sequence[Example]) -> list[int]:
        """How many patches each example has."""
        return [sum(rows * columns for rows, columns in map(self.grid, self.images(example))) for example in examples]

    def _make_frame(self, settings: TokenSettings, is_causal: bool) -> Frame:  # noqa: ARG002
        return Frame((), ())

    def _make_policy(self, settings: TokenSettings, pooling: Any, unit_pooled: bool) -> TokenPolicy:
        policy = super()._make_policy(settings, pooling, unit_pooled)
        rows, columns = self._blank_grid()
        return policy.model_copy(update={"context_tokens": self.family.n_leading + rows * columns}) if self.family.of_any_size() else policy

    def _n_uncounted(self) -> int:
        return self.family.n_leading

    def _rows_of(self, examples: Sequence[Example], with_pixels: bool) -> list[Stretch]:  # noqa: ARG002
        return [self._patches(number, image) for number, example in enumerate(examples) for image in self.images(example)]

    def _patches(self, number: int, image: Any) -> Stretch:
        pixels = self.family.pixels([open_pixels(image)])
        rows, columns = self.family.tower_grids(pixels)[0]
        n = self.family.n_leading + rows * columns
        counts = np.arange(n) >= self.family.n_leading
        return Stretch(number, np.full(n, self.family.image_token_id), counts, np.full((n, 2), NO_OFFSET), pixels, (image.sha256 or image.path,))


class VisionEncoder(PatchGrids, HuggingFaceSubject):
    """The vision encoder of a vision-language model, as `protocols.Subject` without predictions.

    Args:
        model: the whole vision-language model.
        processor: its processor.
    """

    kind = "image_text"
    _tokens: PatchRows

    def __init__(self, model: Any, processor: Any, name: str, context_tokens: int | None = None, settings: TokenSettings | None = None,
                 image_text: ImageTextConfig | None = None):
        self.config = image_text or ImageTextConfig(part="vision")
        if model.config.model_type in OWN_ORDER:
            raise SubjectError(asked=f"study the vision encoder of {name}", why=OWN_ORDER[model.config.model_type],
                               instead="set subject.image_text.part = 'language', where image tokens stand row by row")
        self.family = make_family(model.eval().requires_grad_(False), processor, name)
        self._probe_pixels = self.family.pixels([blank(BLANK_SIZE)])
        super().__init__(self.family.tower, processor, name, context_tokens, settings)

    def n_tokens(self, examples: Sequence[Example]) -> list[int]:
        """Patches of each example's images."""
        return self._tokens.sizes(examples)

    def d_site(self, site: str) -> int:
        """Width of the vectors at a site.

        Raises:
            SubjectError: when there is no such site, it holds no vector a patch, or it is one of the language model.
        """
        if not site.startswith(PREFIX) and f"{PREFIX}{site}" in self._table.names():
            raise SubjectError(asked=f"use the site {site!r}", why="it is one of the language model, and the vision encoder is studied",
                               instead=f"use '{PREFIX}{site}', or set subject.image_text.part = 'language'")
        return super().d_site(site)

    @torch.no_grad()
    def capture(self, batch: Batch, sites: Sequence[str]) -> dict[str, Float[Tensor, "token d_in"]]:
        """Activations of the patches, row by row of each image; the pass ends after the last site. Images of one size run together."""
        resolved = [self._site(site) for site in dict.fromkeys(sites)]
        found = {site.name: torch.zeros(batch.n_tokens, self.d_site(site.name), device=self.device) for site in resolved}
        if not batch.n_tokens or not resolved:
            return found
        row_of_token, lengths = batch.counts.nonzero()[:, 0], batch.attention_mask.sum(1)
        for length in lengths.unique().tolist():
            alike = lengths == length
            tokens = alike[row_of_token].nonzero()[:, 0].to(self.device)
            for name, x in self._capture_alike(batch, alike.nonzero()[:, 0].tolist(), int(length), resolved).items():
                found[name][tokens] = x
        return found

    def _capture_alike(self, batch: Batch, rows: Sequence[int], length: int, resolved: Sequence[Site]) -> dict[str, Float[Tensor, "token d_in"]]:
        assert batch.inputs is not None
        pixels = {name: torch.cat([values[row] for row in rows]) for name, values in batch.inputs.items()}
        counts = (torch.arange(length) >= self.family.n_leading).expand(len(rows), -1)
        with capturing(resolved, (len(rows), length), AtCounted(counts.to(self.device), self.device)) as found, passing_batch(batch):
            self.family.run_tower(pixels)
        orders = [self.family.tower_order(grid) for grid in self.family.tower_grids(pixels)]
        if orders[0] is None:
            return found
        n = length - self.family.n_leading
        places = torch.cat([order + n * number for number, order in enumerate(orders) if order is not None])
        return {name: x[places.to(x.device)] for name, x in found.items()}

    # What this kind says of itself.

    def _make_rows(self, tokenizer: Any, settings: TokenSettings) -> PatchRows:
        token = image_token(tokenizer, self.family, self.name)
        return PatchRows(tokenizer, self.family, Prompt("", "", ""), settings, self.config, token)

    def _make_probe(self) -> Probe:
        rows, columns = self.family.tower_grids(self._probe_pixels)[0]
        return Probe(lambda: self.family.run_tower(self._probe_pixels), (1, self.family.n_leading + rows * columns))

    def _layout(self) -> Layout:
        return named_vision(lay_out(self.model))


def named_vision(layout: Layout) -> Layout:
    """The layout with the names of its sites begun by `vision.`."""
    def named(sites: Sequence[Site]) -> list[Site]:
        return [Site(f"{PREFIX}{site.name}", site.module, site.side) for site in sites]

    layers = [Layer(named([layer.before])[0], named([layer.after])[0], named(layer.attention), named(layer.feed_forward), named(layer.middle),
                    named(layer.act), layer.added_norms) for layer in layout.layers]
    return Layout(named([layout.embed])[0] if layout.embed else None, layers, layout.final_norm)
