"""The pictures of a run inside a page that stands alone: small copies as data: URLs.

Owns the size: at most 160 pixels on the longest side, larger ones as JPEG, so that a page of a hundred contexts keeps below its limit. What is not there
or cannot be read is left out of the page. Refuses nothing.
"""

import base64
import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sparselight.interpret.renderers.image import plain_path

if TYPE_CHECKING:
    import PIL.Image

SIDE = 160
QUALITY = 80


class InlinePictures:
    """Addresses of pictures for `ImageRenderer`.

    Args:
        folder: the run's, that paths of pictures start from.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._made = cache(self._make)

    def __call__(self, media: str) -> str:
        """The picture as a data: URL; empty where there is none to show."""
        return self._made(plain_path(media))

    def _make(self, media: str) -> str:
        import PIL.Image

        path = self.folder / media
        if not media or not path.is_file():
            return ""
        try:
            with PIL.Image.open(path, formats=("PNG",)) as picture:
                return data_url(picture)
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
            return ""


def data_url(picture: "PIL.Image.Image") -> str:
    """A small copy as a data: URL."""
    content, kind = io.BytesIO(), "PNG" if max(picture.size) <= SIDE else "JPEG"
    copy = picture.convert("L" if picture.mode == "L" else "RGB")
    copy.thumbnail((SIDE, SIDE))
    copy.save(content, kind, **({"quality": QUALITY} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
