"""Which part of a picture a model's patches cover, in fractions of the picture, from what its image processor does.

Image processors scale, cut out the middle, or pad to a square; whoever lays a grid of patches over a picture must do the same. Refuses nothing: a processor
that does none of it shows the whole picture.
"""

from collections.abc import Mapping
from typing import Any

Region = tuple[float, float, float, float]
"""x0, y0, x1, y1 from the upper left; below 0 or above 1 where the model sees padding."""


def covered(settings: Mapping[str, Any], width: int, height: int) -> Region:
    """The part of a picture of this size that the model sees.

    Args:
        settings: of the image processor, as its `to_dict` gives them.
    """
    if settings.get("do_pad") and not settings.get("do_image_splitting") and "image_grid_thw" not in settings and settings.get("do_center_crop") is not None:
        side = max(width, height)  # LLaVA's: padded to a square before anything else
        left, top = (side - width) / 2, (side - height) / 2
        return -left / width, -top / height, (side - left) / width, (side - top) / height
    if not settings.get("do_center_crop"):
        return 0.0, 0.0, 1.0, 1.0
    scaled_width, scaled_height = _scaled(settings, width, height)
    crop = settings.get("crop_size") or {}
    crop_width, crop_height = crop.get("width", scaled_width), crop.get("height", scaled_height)
    x, y = crop_width / scaled_width / 2, crop_height / scaled_height / 2
    return 0.5 - x, 0.5 - y, 0.5 + x, 0.5 + y


def _scaled(settings: Mapping[str, Any], width: int, height: int) -> tuple[float, float]:
    size = settings.get("size") or {}
    if settings.get("do_resize") and size.get("shortest_edge"):
        factor = size["shortest_edge"] / min(width, height)
        return width * factor, height * factor
    if settings.get("do_resize") and size.get("height") and size.get("width"):
        return size["width"], size["height"]
    return width, height
