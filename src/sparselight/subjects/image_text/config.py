"""What an image-text subject is shown of an example, and which of it counts.

Owns: ImageTextConfig (`subject.image_text` in a recipe). Refuses, when read: a prompt without or with several places for the images, a form
without its image, an instruction beside a prompt of one's own, patches that do not count where nothing else is there.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from sparselight.config import Config


class ImageTextConfig(Config):
    """Images and text of an example as one row of a vision-language model."""

    part: Literal["language", "vision"] = "language"
    """Which half is studied: the language model, which reads image tokens and text, or the vision encoder, whose tokens are the patches of each image
    (no text, no loss)."""
    image_tokens: Literal["none", "last", "all"] = "all"
    """Which tokens of each image count: none, the last one, or all. `none` and `last` leave out intermediate image tokens, as the MAIRA-2 study does."""
    max_images: int = Field(4, ge=1)
    """Images of an example that the model is given, in their order; further ones are left out."""
    instruction: str | None = None
    """What the prompt asks for; by default the family's usual words. Not used beside prompt_prefix."""
    prompt_prefix: str | None = None
    """What stands before an example's text, with `{images}` where its images go; by default the processor's chat template up to the answer, or the family's
    usual form. It never counts."""
    prompt_suffix: str = ""
    """What stands after it; it never counts."""
    image_form: str | None = None
    """What stands in `{images}` for each image in turn: `{image}` is the image, `{name}` its view or role. By default what the template or family has."""
    text_alone: bool = False
    """Whether an example without images is shown as its text alone; refused otherwise."""

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        if self.prompt_prefix is not None and self.prompt_prefix.count("{images}") != 1:
            raise ValueError(f"prompt_prefix must hold {{images}} once, and holds it {self.prompt_prefix.count('{images}')} times")
        if self.image_form is not None and self.image_form.count("{image}") != 1:
            raise ValueError(f"image_form must hold {{image}} once, and holds it {self.image_form.count('{image}')} times")
        if self.prompt_prefix is not None and self.instruction is not None:
            raise ValueError("prompt_prefix takes the place of the prompt that instruction would be put into; set one of the two")
        if self.part == "vision" and self.image_tokens != "all":
            raise ValueError(f"part = 'vision' has no tokens but patches, and image_tokens = {self.image_tokens!r} leaves them out")
        return self
