"""From examples with images to rows: the prompt with its images, then the text, one row an example.

Owns: where image tokens and text stand, which of them count, character offsets into the example's text (-1 for image tokens), tensors of the images by
row. A text that is too long is cut. Refuses: examples without images (unless text alone is allowed), images that leave no room for text, texts that hold the
image token, settings of rows that mean nothing here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from sparselight.errors import SubjectError
from sparselight.protocols import Batch, Example, Image
from sparselight.records import ImagePolicy, TokenPolicy
from sparselight.subjects.config import TokenSettings
from sparselight.subjects.image_text.config import ImageTextConfig
from sparselight.subjects.image_text.families import Grid, Llava, Row
from sparselight.subjects.image_text.prompt import Prompt
from sparselight.subjects.image_text.regions import Region, covered
from sparselight.subjects.rows import RowBuilder, Stretch
from sparselight.subjects.tokens import Frame

Ids = Int[np.ndarray, " position"]
BLANK_SIZE = (64, 48)
NO_OFFSET = -1
REFUSED = {"pack": False, "chat_template": False, "pooling": "none", "overlap_tokens": 0}


class ImageTextRows(RowBuilder):
    """Examples with images to batches, for one model, its processor and one token policy.

    Args:
        image_token: as it stands in text; its id is the family's.
    """

    def __init__(self, processor: Any, family: Llava, prompt: Prompt, settings: TokenSettings, config: ImageTextConfig, image_token: str):
        for setting, plain in REFUSED.items():
            if getattr(settings, setting) != plain:
                raise SubjectError(asked=f"set subject.{setting} to {getattr(settings, setting)!r}", why="an image-text subject shows one example a row, "
                                   "in the prompt of subject.image_text", instead=f"leave it at {plain!r}")
        self.family, self.prompt_form, self.config, self._shown = family, prompt, config, family.around(image_token)
        self._grid_of_size: dict[tuple[int, int], Grid] = {}
        self._size_of: dict[str, tuple[int, int]] = {}
        super().__init__(processor.tokenizer, settings, is_causal=True)

    def fingerprint(self) -> str:
        return self.vocabulary.fingerprint(f"{self.policy.canonical()}\0{self.family.settings()}")

    def sizes(self, examples: Sequence[Example]) -> list[int]:
        """How many tokens of each example count."""
        return [int(stretch.counts.sum()) for stretch in self._rows_of(examples, with_pixels=False)]

    def continued(self, example: Example) -> Stretch:
        """One row to be continued behind the example's text, without what stands after it."""
        return self._row(0, example, with_pixels=True, whole=False)

    def batch(self, examples: Sequence[Example]) -> Batch:
        """One row an example, in order, padded to one length; `inputs` holds a tuple with one entry a row under each name."""
        stretches = self._rows_of(examples, with_pixels=True)
        batch = self._batch_of(stretches)
        names = dict.fromkeys(name for stretch in stretches for name in stretch.inputs or ())
        return Batch(batch.input_ids, batch.attention_mask, batch.counts, batch.example, batch.position, batch.token_id, batch.char_start, batch.char_end,
                     inputs={name: tuple((stretch.inputs or {}).get(name) for stretch in stretches) for name in names})

    def images(self, example: Example) -> tuple[Image, ...]:
        """The images of an example that are shown.

        Raises:
            SubjectError: when there are none and there must be.
        """
        if not example.images and not self.config.text_alone:
            raise SubjectError(asked=f"show the example {example.id!r} to an image-text model", why="it has no image",
                               instead="leave such examples out of the corpus, or set subject.image_text.text_alone = true")
        return example.images[:self.config.max_images]

    def size(self, image: Image) -> tuple[int, int]:
        """Width and height of an image in pixels."""
        key = image.sha256 or image.path
        if key not in self._size_of:
            self._size_of[key] = open_pixels(image).size
        return self._size_of[key]

    def grid(self, image: Image) -> Grid:
        """Rows and columns of an image's tokens, without its pixels where all images become the same number."""
        return self._grid_of(BLANK_SIZE if self.family.of_any_size() else self.size(image))

    def check_room(self) -> None:
        """Refuse rows that have no room for text beside one image.

        Raises:
            SubjectError: naming how many positions it takes.
        """
        n = len(self.frame.start) + self._n_words(1) + self._n_more([self._blank_grid()])
        if n >= self.policy.context_tokens:
            raise SubjectError(asked=f"run rows of subject.context_tokens = {self.policy.context_tokens}",
                               why=f"one image and the prompt round it take {n} positions", instead=f"set subject.context_tokens to more than {n}")

    def _make_frame(self, settings: TokenSettings, is_causal: bool) -> Frame:
        frame = super()._make_frame(settings, is_causal)
        return Frame((), ()) if frame.start and self._bos() in self.prompt_form.prefix else frame  # the prompt has it already

    def _bos(self) -> str:
        token = self.vocabulary.backend.id_to_token(self.vocabulary.bos_id) if self.vocabulary.bos_id is not None else None
        return token or "\0"

    def _blank_grid(self) -> Grid:
        return self._grid_of(BLANK_SIZE)

    def _grid_of(self, size: tuple[int, int]) -> Grid:
        if size not in self._grid_of_size:
            self._grid_of_size[size] = self.family.grids(self.family.pixels([blank(size)]))[0]
        return self._grid_of_size[size]

    def _make_policy(self, settings: TokenSettings, pooling: Any, unit_pooled: bool) -> TokenPolicy:
        form, config = self.prompt_form, self.config
        images = ImagePolicy(part=config.part, image_tokens=config.image_tokens, max_images=config.max_images, prompt_prefix=form.prefix,
                             prompt_suffix=form.suffix, image_form=form.image_form, text_alone=config.text_alone)
        policy = super()._make_policy(settings, pooling, unit_pooled)
        return policy.model_copy(update={"images": images, "long_examples": "cut", "template_tokens": policy.template_tokens + self._n_uncounted()})

    def _n_words(self, n_images: int) -> int:
        """Tokens of the prompt, each image one of them."""
        return len(self._encode(self.prompt_form.before([""] * n_images, self._shown) + "a" + self.prompt_form.suffix)) - len(self._encode("a"))

    def _n_more(self, grids: Sequence[Grid]) -> int:
        """Positions that images take beside the one that stands for each in text."""
        return sum(rows * columns + self.family.n_extra - 1 for rows, columns in grids)

    def _n_uncounted(self) -> int:
        """Positions of a row with one image that belong to the prompt, or to image tokens that do not count."""
        rows, columns = self._blank_grid()
        return self._n_words(1) + self._n_more([(rows, columns)]) - {"none": 0, "last": 1, "all": rows * columns}[self.config.image_tokens]

    def _rows_of(self, examples: Sequence[Example], with_pixels: bool) -> list[Stretch]:
        return [self._row(number, example, with_pixels) for number, example in enumerate(examples)]

    def _row(self, number: int, example: Example, with_pixels: bool, whole: bool = True) -> Stretch:
        shown = self.images(example)
        pixels = self.family.pixels([open_pixels(image) for image in shown]) if with_pixels and shown else {}
        grids = self.family.grids(pixels) if pixels else [self.grid(image) for image in shown]
        before = self.prompt_form.before([image.name for image in shown], self._shown)
        ids, offsets, n_before, n_after = self._encoded(before, example, len(shown), self.prompt_form.suffix if whole else "")
        n_text = len(ids) - n_before - n_after
        if whole:
            n_text = self._fitting(example, n_text, len(self.frame.start) + n_before + n_after + self._n_more(grids))
            keep = np.r_[:n_before + n_text, len(ids) - n_after:len(ids)]
            ids, offsets = ids[keep], offsets[keep]
        counts = np.zeros(len(ids), dtype=bool)
        counts[n_before:n_before + n_text] = self._count(ids[n_before:n_before + n_text])
        counts[n_before:n_before + min(n_text, self.policy.skip_start_tokens)] = False
        ids, counts, offsets = self._framed(*self._expanded(ids, counts, offsets, grids))
        inputs: Row = {**pixels, "n_prompt": torch.tensor(len(ids) - n_text - n_after)}
        return Stretch(number, ids, counts, offsets, inputs, tuple(image.sha256 or image.path for image in shown))

    def _fitting(self, example: Example, n_text: int, n_others: int) -> int:
        """How many tokens of the text a row has room for."""
        room = self.policy.context_tokens - n_others
        if room < min(n_text, 1):
            raise SubjectError(asked=f"show the example {example.id!r} in a row of subject.context_tokens = {self.policy.context_tokens}",
                               why=f"its {min(len(example.images), self.config.max_images)} images and the prompt take {n_others} positions",
                               instead="set subject.context_tokens to more, or subject.image_text.max_images to less")
        return min(n_text, room)

    def _encoded(self, before: str, example: Example, n_images: int, after: str) -> tuple[Ids, Ids, int, int]:
        """Ids of the whole row with one token an image, offsets into the example's text, and how many tokens stand before and after it."""
        encoding = self.vocabulary.backend.encode(f"{before}{example.text}{after}", add_special_tokens=False)
        ids = np.asarray(encoding.ids, dtype=np.int64)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        own = (offsets[:, 1] > len(before)) & (offsets[:, 0] < len(before) + len(example.text))
        n_before = int(own.argmax()) if own.any() else int((offsets[:, 1] <= len(before)).sum())
        n_after = int(own[::-1].argmax()) if own.any() else len(ids) - n_before
        n_placeholders = int((ids == self.family.image_token_id).sum())
        if n_placeholders != n_images:
            in_text = bool((ids[n_before:len(ids) - n_after] == self.family.image_token_id).any())
            raise SubjectError(asked=f"show the example {example.id!r} with its {n_images} images",
                               why=f"{'its text holds the image token' if in_text else 'the prompt does not write one image token for each'} "
                                   f"({n_placeholders} in all)", instead="take it out of the text, or mend subject.image_text.image_form and prompt_prefix")
        return ids, (offsets - len(before)).clip(0, len(example.text)), n_before, n_after

    def _expanded(self, ids: Ids, counts: Ids, offsets: Ids, grids: Sequence[Grid]) -> tuple[Ids, Ids, Ids]:
        """Each image's one token as many as its grid has, those that count marked."""
        repeats = np.ones(len(ids), dtype=np.int64)
        at = (ids == self.family.image_token_id).nonzero()[0]
        repeats[at] = [rows * columns + self.family.n_extra for rows, columns in grids]
        counts, offsets = np.repeat(counts, repeats), np.repeat(offsets, repeats, axis=0)
        starts = (np.cumsum(repeats) - repeats)[at]
        for start, (rows, columns) in zip(starts.tolist(), grids, strict=True):
            end = start + self.family.n_extra + rows * columns
            first = {"none": end, "last": end - 1, "all": start + self.family.n_extra}[self.config.image_tokens]
            counts[first:end], offsets[start:end] = True, NO_OFFSET
        return np.repeat(ids, repeats), counts, offsets

    def _framed(self, ids: Ids, counts: Ids, offsets: Ids) -> tuple[Ids, Ids, Ids]:
        """With BOS in front."""
        start = np.asarray(self.frame.start, np.int64)
        own = np.full(len(start), self.policy.count_specials)
        return np.concatenate([start, ids]), np.concatenate([own, counts]), np.concatenate([np.zeros((len(start), 2), np.int64), offsets])


class PatchGrids:
    """What both parts of a vision-language model say of where its patches lie. Of subjects with a family and rows of images."""

    family: Llava
    _tokens: ImageTextRows

    def patch_grids(self, examples: Sequence[Example]) -> list[list[Grid]]:
        """Rows and columns of each image's tokens, which stand row by row from the upper left, whether they count or not."""
        return [[self._tokens.grid(image) for image in self._tokens.images(example)] for example in examples]

    def patch_regions(self, examples: Sequence[Example]) -> list[list[Region]]:
        """The part of each image, in fractions of it, that its grid covers; below 0 or above 1 where the model sees padding."""
        settings = self.family.processor.to_dict()
        return [[covered(settings, *self._tokens.size(image)) for image in self._tokens.images(example)] for example in examples]


def open_pixels(image: Image) -> Any:
    """An image in color, as image processors take it."""
    from sparselight.corpus.image_text.pixels import open_image

    return open_image(image).convert("RGB")


def blank(size: tuple[int, int]) -> Any:
    """A picture of one gray."""
    from PIL import Image as Pictures

    return Pictures.new("RGB", size, (90, 90, 90))
