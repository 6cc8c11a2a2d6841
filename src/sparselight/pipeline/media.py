"""The images of a run: how its subject divides them into patches, and the small PNG files that pages show, `RUN/media/SHA256.png`.

Owns the file: the part of the image that the patch grid covers, at most 512 pixels on its longest side, gray or color as it is, named by the first 16 digits
of the image's checksum, so that it is made once. Only images that a context shows get one. Refuses: images that cannot be opened (`open_image`).
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparselight.corpus.image_text.pixels import open_image
from sparselight.errors import StoreError
from sparselight.files import write_bytes
from sparselight.interpret.patches import Picture
from sparselight.protocols import Example, Image

FOLDER = "media"
MOST_PIXELS = 512  # of the longest side
Region = tuple[float, float, float, float]
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)


class RunPictures:
    """`interpret.patches.Pictures` of a run.

    Args:
        folder: of the run.
        subject: one of images with text.
    """

    def __init__(self, folder: Path, subject: Any):
        self.folder, self.subject = folder, subject
        self._layouts: dict[str, list[Picture]] = {}

    def layout(self, example: Example) -> Sequence[Picture]:
        """One entry an image that the subject is given."""
        if example.id not in self._layouts:
            grids, regions = self.subject.patch_grids([example])[0], self.subject.patch_regions([example])[0]
            found = [Picture(grid, region, image.boxes) for grid, region, image in zip(grids, regions, example.images, strict=False)]
            policy = self.subject.ref().token_policy.images
            all_count = policy is None or policy.image_tokens == "all"
            self._layouts[example.id] = found if all_count else [picture._replace(grid=None) for picture in found]
        return self._layouts[example.id]

    def keep(self, example: Example, number: int) -> str:
        """Make the file of one image where it is not there yet.

        Raises:
            CorpusError: when the image cannot be opened.
        """
        image, layout = example.images[number], self.layout(example)
        path = media_path(image)
        if not (self.folder / path).is_file():
            content = display_png(image, layout[number].region if number < len(layout) else WHOLE)
            try:
                write_bytes(self.folder / path, content)
            except (OSError, StoreError):  # a folder that cannot be written: pages go without
                return str(path)
        return str(path)


def media_path(image: Image) -> Path:
    """Where a run keeps its copy of an image, relative to its folder."""
    return Path(FOLDER) / f"{image.sha256[:16]}.png"


def display_png(image: Image, region: Region = WHOLE) -> bytes:
    """The part of an image within a region (fractions; black beyond its edges) as a PNG of at most 512 pixels a side.

    Raises:
        CorpusError: when it cannot be opened.
    """
    picture = open_image(image)
    width, height = picture.size
    if region != WHOLE:
        picture = picture.crop((round(region[0] * width), round(region[1] * height), round(region[2] * width), round(region[3] * height)))
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return content.getvalue()
