"""A vision-language model as a subject: images and text of an example are one row of its language model.

Owns: loss, predictions, capture, edits and generation over such rows, as for a causal language model; grids of patch tokens. Refuses: processors that do not
fit the model, models whose predictions depend on text that comes later, sites of the vision encoder (its own part, `vision.py`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparselight.errors import SubjectError, first_line
from sparselight.protocols import Batch, Example
from sparselight.subjects.causal_lm import CausalLM
from sparselight.subjects.config import TokenSettings
from sparselight.subjects.families import Layout, lay_out
from sparselight.subjects.hugging_face import output_layer
from sparselight.subjects.image_text.config import ImageTextConfig
from sparselight.subjects.image_text.families import Llava, Row, family_of
from sparselight.subjects.image_text.prompt import make_prompt
from sparselight.subjects.image_text.rows import BLANK_SIZE, ImageTextRows, PatchGrids, blank
from sparselight.subjects.probe import SAME_FRAC
from sparselight.subjects.rows import Stretch

NO_PROMPT: Row = {"n_prompt": torch.tensor(0)}


class ImageText(PatchGrids, CausalLM):
    """The language part of a vision-language model with its processor, as `protocols.Subject`.

    Args:
        processor: its processor: tokenizer and image processor.
        image_text: what it is shown of images, and which of it counts.
    """

    kind = "image_text"
    _tokens: ImageTextRows

    def __init__(self, model: Any, processor: Any, name: str, context_tokens: int | None = None, settings: TokenSettings | None = None,
                 image_text: ImageTextConfig | None = None):
        self.config = image_text or ImageTextConfig()
        self.name = name
        self.family = make_family(model.eval(), processor, name)
        super().__init__(model, processor, name, context_tokens, settings)
        self._check_images()

    def n_tokens(self, examples: Sequence[Example]) -> list[int]:
        """Counted tokens of each example, without a forward pass; images are opened only where their size decides."""
        return self._tokens.sizes(examples)

    def scored(self, batch: Batch) -> Bool[Tensor, " token"]:
        """Which counted tokens have a loss: those of the text. Nothing predicts image tokens."""
        return super().scored(batch) & (batch.token_id != self.family.image_token_id)

    def d_site(self, site: str) -> int:
        """Width of the vectors at a site.

        Raises:
            SubjectError: when there is no such site, it holds no vector a position, or it is one of the vision encoder.
        """
        path = site.rpartition(":")[0]
        if site.startswith("vision.") or path == self.family.tower_path or path.startswith(f"{self.family.tower_path}."):
            raise SubjectError(asked=f"use the site {site!r}", why="it is one of the vision encoder, and the language model is studied",
                               instead="set subject.image_text.part = 'vision'")
        return super().d_site(site)

    # What this kind says of itself.

    def _make_rows(self, tokenizer: Any, settings: TokenSettings) -> ImageTextRows:
        token = image_token(tokenizer, self.family, self.name)
        prompt = make_prompt(tokenizer, self.family, self.config, token, self.name)
        return ImageTextRows(tokenizer, self.family, prompt, settings, self.config, token)

    def _prepare_model(self) -> None:
        self._head: Any = output_layer(self.model, self.name, "image-text model", "AutoModelForImageTextToText")

    def _layout(self) -> Layout:
        return lay_out(self.family.language_model)

    def _check_images(self) -> None:
        """Run two rows with a blank image that differ in their last token: the image must fit, and what stands before must not change."""
        image = self.family.pixels([blank(BLANK_SIZE)])
        rows, columns = self.family.grids(image)[0]
        n = rows * columns + self.family.n_extra
        words = [token for token in range(4, 16) if token != self.family.image_token_id][:3]
        ids = torch.tensor([[self.family.image_token_id] * n + words, [self.family.image_token_id] * n + [*words[:2], words[0]]], device=self.device)
        given: Row = {**image, "n_prompt": torch.tensor(n)}
        mask = torch.ones_like(ids)
        try:
            with torch.no_grad():
                logits = self._call(ids, attention_mask=mask, **self.family.arguments([given, given], ids, mask)).logits.float()
        except Exception as err:  # the first pass with an image through foreign code
            raise SubjectError(asked=f"show {self.name} an image", why=f"the model and its processor do not fit together ({first_line(err)})",
                               instead="give the processor files that come with this model") from err
        difference = (logits[0, :-1] - logits[1, :-1]).abs().max()
        if difference > SAME_FRAC * (logits[0].std() + 1e-6):
            raise SubjectError(asked=f"study {self.name} as an image-text model", why="its predictions depend on text that comes later",
                               instead="use a release of transformers that knows which part of such a row is prompt")

    # Passes.

    def _run_batch(self, batch: Batch) -> Any:
        ids, mask = batch.input_ids.to(self.device), batch.attention_mask.to(self.device, torch.int64)
        positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if self._needs_positions else {}
        return self._call(ids, attention_mask=mask, **{**positions, **self.family.arguments(_rows(batch), ids, mask)})

    def _call(self, input_ids: Tensor, **arguments: Any) -> Any:
        """Rows of which nothing is said are text alone, without a prompt."""
        mask = arguments.get("attention_mask")
        plain = self.family.arguments([NO_PROMPT] * len(input_ids), input_ids, torch.ones_like(input_ids) if mask is None else mask)
        return super()._call(input_ids, **{**plain, **arguments})

    def _prompt(self, example: Example) -> Stretch:
        return self._tokens.continued(example)

    def _row_arguments(self, prompts: Sequence[Stretch], ids: Tensor, mask: Tensor) -> dict[str, Any]:
        return self.family.arguments([prompt.inputs or {} for prompt in prompts], ids, mask)

    def _step_arguments(self, prompts: Sequence[Stretch], mask: Tensor) -> dict[str, Any]:
        return self.family.step_arguments([prompt.inputs or {} for prompt in prompts], mask)

    def _candidates(self, logits: Float[Tensor, "row vocabulary"]) -> Float[Tensor, "row vocabulary"]:
        """An image token that the model writes would stand for no image."""
        if self.family.image_token_id < logits.shape[-1]:
            logits[:, self.family.image_token_id] = float("-inf")
        return logits


def make_family(model: Any, processor: Any, name: str) -> Llava:
    """How the model takes images, measured on a blank one.

    Raises:
        SubjectError: when the processor has no part for images, or the model cannot be studied.
    """
    asked = f"study {name} as an image-text model"
    kind = family_of(model.config, asked)
    image_processor = getattr(processor, "image_processor", None)
    if image_processor is None:
        raise SubjectError(asked=asked, why=f"its processor ({type(processor).__name__}) has no image processor",
                           instead="give the processor files that come with this model (processor_config.json or preprocessor_config.json)")
    family = kind(model, image_processor, name)
    try:
        found = [family.pixels([blank(size)]) for size in (BLANK_SIZE, (48, 96))]
        family.measure(found[0])
    except SubjectError:
        raise
    except Exception as err:  # the first pass through foreign code
        raise SubjectError(asked=f"show {name} an image", why=f"the model and its processor do not fit together ({first_line(err)})",
                           instead="give the processor files that come with this model") from err
    if family.of_any_size() and found[0]["pixel_values"].shape != found[1]["pixel_values"].shape:
        raise SubjectError(asked=asked, why="its image processor gives images of different shapes different sizes, and the model takes one",
                           instead="set a crop_size or a fixed size in its preprocessor_config.json")
    return family


def image_token(processor: Any, family: Llava, name: str) -> str:
    """The token that stands for an image in text, the same for processor and model.

    Raises:
        SubjectError: when the tokenizer has none, or the model expects another one.
    """
    asked, instead = f"study {name} as an image-text model", "give the tokenizer and processor files that come with this model"
    token = getattr(processor, "image_token", None) or getattr(processor.tokenizer, "image_token", None) or family.image_token
    token = str(getattr(token, "content", token))
    token_id = processor.tokenizer.get_vocab().get(token)
    if token_id is None:
        raise SubjectError(asked=asked, why=f"its tokenizer has no image token {token}", instead=instead)
    if token_id != family.image_token_id:
        raise SubjectError(asked=asked, why=f"the image token {token} is {token_id} in its tokenizer, and {family.image_token_id} in its config",
                           instead=instead)
    return token


def _rows(batch: Batch) -> list[Row]:
    """What the model is given of each row, from the tuples of the batch."""
    inputs = batch.inputs or {}
    return [{name: values[number] for name, values in inputs.items() if values[number] is not None} for number in range(len(batch.input_ids))]
