"""Pictures in prompts: what a multimodal language model is shown beside the text, as parts of the last message of the user.

An explainer sees each example's picture under the heat map of its patches (as pages show it: orange, the more the latent fires the less see-through); a judge
sees it as it is. Owns the size (small pictures are enlarged, none is above 512 pixels), how many a request carries, and the words that say whose they are.
Refuses nothing: an example without a file is asked about by its text.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparselight.interpret.llm.chat import Message
from sparselight.interpret.renderers.image import PATCH_OPACITY, plain_path
from sparselight.interpret.renderers.marks import COLOR
from sparselight.records import Context

if TYPE_CHECKING:
    import PIL.Image

HEAT = " Orange patches: where the unit fires, the denser the stronger."
LEAST_PIXELS, MOST_PIXELS = 224, 512  # of the longest side


@dataclass(frozen=True)
class PromptPictures:
    """Pictures of contexts, for messages.

    Args:
        folder: the run's, that paths of pictures start from.
        most: pictures of one request.
    """

    folder: Path
    most: int

    def attach(self, messages: Sequence[Message], contexts: Sequence[Context], marked: bool) -> tuple[Message, ...]:
        """The messages, with the pictures of examples 1, 2, ... on the last one of the user."""
        found = [(number, url) for number, context in enumerate(contexts, 1) if (url := self.url(context, marked))][: self.most]
        at = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
        if not found or at < 0:
            return tuple(messages)
        numbers = ", ".join(str(number) for number, _ in found)
        said = f"Attached, in this order: the picture of example {numbers}." + (HEAT if marked else "")
        changed = replace(messages[at], text=f"{messages[at].text}\n\n{said}", images=tuple(url for _, url in found))
        return (*messages[:at], changed, *messages[at + 1 :])

    def url(self, context: Context, marked: bool) -> str:
        """The picture of a context as a data: URL; empty where it has none."""
        import PIL.Image

        media = plain_path(context.media or "")
        if not media or not (self.folder / media).is_file():
            return ""
        with PIL.Image.open(self.folder / media, formats=("PNG",)) as opened:
            picture = opened.convert("RGB")
        scale = LEAST_PIXELS / max(picture.size) if max(picture.size) < LEAST_PIXELS else min(1.0, MOST_PIXELS / max(picture.size))
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), PIL.Image.Resampling.BILINEAR)
        content = io.BytesIO()
        (heat_map(picture, context) if marked and context.grid else picture).save(content, "PNG")
        return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def heat_map(picture: "PIL.Image.Image", context: Context) -> "PIL.Image.Image":
    """The picture under its patches' activations."""
    import PIL.Image

    assert context.grid is not None
    rows, columns = context.grid
    largest = max(context.activations, default=0.0) or 1.0
    values = np.clip(np.array(context.activations[: rows * columns]).reshape(rows, columns) / largest, 0, 1)
    opacity = PIL.Image.fromarray(np.rint(255 * PATCH_OPACITY * values).astype(np.uint8)).resize(picture.size, PIL.Image.Resampling.NEAREST)
    color = PIL.Image.new("RGB", picture.size, tuple(int(part) for part in COLOR.split(",")))
    return PIL.Image.composite(color, picture, opacity)
