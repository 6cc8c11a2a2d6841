"""The pixels of an image: PNG, JPEG and DICOM as 8-bit gray or color, upright, the way a person would look at them.

Owns: `open_image`, which subjects and reports call, `image_file`, and the gray scale. Values of more than 8 bits go through the file's own window (DICOM VOI,
PS3.3 C.11.2.1.2); where it has none, the 0.5th to the 99.5th percentile becomes black to white. MONOCHROME1 is inverted, EXIF turns are applied, an alpha
channel is dropped, color channels that are all equal become gray. Refuses, by file: what is damaged, of another format, too large, or of several frames.
"""

import hashlib
import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from sparselight.corpus.image_text.config import HARD_MAX_PIXELS
from sparselight.errors import CorpusError, MissingExtraError
from sparselight.protocols import Box, Image

if TYPE_CHECKING:
    import PIL.Image
    from pydicom import Dataset

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")
DICOM_MARK, DICOM_MARK_AT = b"DICM", 128
PERCENTILES = (0.5, 99.5)
EXIF_ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # the orientations that exchange width and height
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, KeyError, AttributeError, TypeError, IndexError, NotImplementedError, struct.error, zlib.error)


def image_file(path: Path | str, name: str = "", boxes: tuple[Box, ...] = ()) -> Image:
    """An image of a file, with its checksum.

    Raises:
        CorpusError: when it cannot be read.
    """
    place = Path(path).expanduser().absolute()
    return Image(str(place), hashlib.sha256(_content(place)).hexdigest(), name, boxes)


def open_image(image: Image, max_pixels: int = HARD_MAX_PIXELS) -> "PIL.Image.Image":
    """The picture, mode "L" or "RGB", 8 bits a channel.

    Raises:
        CorpusError: naming the file, when it is missing, damaged, too large, not what its checksum says, or of several frames.
        MissingExtraError: when Pillow or, for DICOM, pydicom is not installed.
    """
    path = Path(image.path)
    content = _content(path)
    if image.sha256 and hashlib.sha256(content).hexdigest() != image.sha256:
        raise CorpusError(asked=f"open the image {path}", why="it is another file than the one that the corpus was read with (its checksum differs)",
                          instead="put the old file back, or read the corpus again in a new run folder")
    return decode(content, path, max_pixels)


def is_dicom(content: bytes) -> bool:
    return content[DICOM_MARK_AT:DICOM_MARK_AT + len(DICOM_MARK)] == DICOM_MARK


def decode(content: bytes, path: Path, max_pixels: int = HARD_MAX_PIXELS) -> "PIL.Image.Image":
    """The picture in the bytes of a file; `path` is for messages."""
    return _dicom(content, path, max_pixels) if is_dicom(content) else _plain(content, path, max_pixels)


def size_of(content: bytes, path: Path, max_pixels: int = HARD_MAX_PIXELS) -> tuple[int, int]:
    """(width, height) as `decode` gives it, from the header alone."""
    if is_dicom(content):
        dataset = read_dicom(content, path, pixels=False)
        return _dicom_size(dataset, path, max_pixels)
    picture = _opened(content, path, max_pixels)
    try:  # a PNG without EXIF before its pixels would be decoded to look for one behind them
        turned = (picture.format == "JPEG" or "exif" in picture.info) and picture.getexif().get(EXIF_ORIENTATION, 1) in TURNED
    except DAMAGED as err:
        raise _damaged(path, err) from None
    return (picture.height, picture.width) if turned else (picture.width, picture.height)


def read_dicom(content: bytes, path: Path, pixels: bool = True) -> "Dataset":
    """The data set of a DICOM file.

    Raises:
        CorpusError: when it is damaged.
        MissingExtraError: when pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise MissingExtraError(package="pydicom", extra="image", asked=f"read the DICOM file {path}") from None
    try:
        return pydicom.dcmread(io.BytesIO(content), stop_before_pixels=not pixels)
    except DAMAGED as err:
        raise _damaged(path, err) from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise CorpusError(asked=f"open the image {path}", why=err.strerror or str(err),
                          instead="put the file there, or read the corpus again in a new run folder") from None


def _damaged(path: Path, err: Exception) -> CorpusError:
    return CorpusError(asked=f"open the image {path}", why=f"it is damaged or of a form that is not read ({err or type(err).__name__})",
                       instead="fetch the file again, or leave it out of the corpus")


def _too_large(path: Path, width: int, height: int, limit: int) -> CorpusError:
    return CorpusError(asked=f"open the image {path}", why=f"it has {width:,} x {height:,} pixels, and at most {limit:,} are read",
                       instead="make it smaller, or raise corpus.image_text.max_pixels")


# PNG and JPEG.

def _opened(content: bytes, path: Path, max_pixels: int) -> "PIL.Image.Image":
    try:
        import PIL.Image
    except ImportError:
        raise MissingExtraError(package="pillow", extra="image", asked=f"open the image {path}") from None
    try:
        picture = PIL.Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    except PIL.UnidentifiedImageError:
        raise CorpusError(asked=f"open the image {path}", why="its content is no PNG, JPEG or DICOM" if content else "it is empty",
                          instead="convert it, or leave it out of the corpus") from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise CorpusError(asked=f"open the image {path}", why=f"it has more than {max_pixels:,} pixels", instead="make it smaller") from None
    except DAMAGED as err:
        raise _damaged(path, err) from None
    if picture.width * picture.height > max_pixels:
        raise _too_large(path, picture.width, picture.height, max_pixels)
    return picture


def _plain(content: bytes, path: Path, max_pixels: int) -> "PIL.Image.Image":
    import PIL.Image
    import PIL.ImageOps

    picture = _opened(content, path, max_pixels)
    try:
        picture.load()
        picture = PIL.ImageOps.exif_transpose(picture)
    except DAMAGED as err:
        raise _damaged(path, err) from None
    if picture.mode == "F" or picture.mode.startswith("I"):
        return PIL.Image.fromarray(to_bytes(np.asarray(picture, dtype=np.float64)))
    if picture.mode in ("L", "1", "LA", "La"):
        return picture.convert("L")
    return _gray_if_equal(np.asarray(picture.convert("RGB")))


def _gray_if_equal(pixels: UInt8[np.ndarray, "y x channel"]) -> "PIL.Image.Image":
    import PIL.Image

    equal = np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 1], pixels[..., 2])
    return PIL.Image.fromarray(np.ascontiguousarray(pixels[..., 0] if equal else pixels))


def to_bytes(values: Float[np.ndarray, "y x"], low: float | None = None, high: float | None = None) -> UInt8[np.ndarray, "y x"]:
    """Values as gray levels: `low` and below is 0, `high` and above 255; left out, the percentiles of the picture."""
    if low is None or high is None:
        low, high = (float(value) for value in np.percentile(values, PERCENTILES))
        if low == high:
            low, high = float(values.min()), float(values.max())
    scaled = (values - low) / ((high - low) or 1.0)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


# DICOM.

def _dicom_size(dataset: "Dataset", path: Path, max_pixels: int) -> tuple[int, int]:
    rows, columns, frames = (int(dataset.get(name) or default) for name, default in (("Rows", 0), ("Columns", 0), ("NumberOfFrames", 1)))
    if frames != 1:
        raise CorpusError(asked=f"open the image {path}", why=f"it has {frames} frames", instead="write the frame that counts as a file of its own")
    if not rows or not columns:
        raise CorpusError(asked=f"open the image {path}", why="it holds no pixels", instead="leave it out of the corpus")
    if rows * columns > max_pixels:
        raise _too_large(path, columns, rows, max_pixels)
    return columns, rows


def _dicom(content: bytes, path: Path, max_pixels: int) -> "PIL.Image.Image":
    import PIL.Image

    dataset = read_dicom(content, path)
    _dicom_size(dataset, path, max_pixels)
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    try:
        pixels = dataset.pixel_array
        if photometric == "PALETTE COLOR":
            from pydicom.pixels.processing import apply_color_lut

            wide = apply_color_lut(pixels, dataset)
            return _gray_if_equal((wide >> 8 if wide.dtype.itemsize > 1 else wide).astype(np.uint8))
        if pixels.ndim == 3:
            bits = int(dataset.BitsStored)
            return _gray_if_equal((pixels >> (bits - 8) if bits > 8 else pixels).astype(np.uint8))
        gray = _windowed(pixels, dataset)
    except RuntimeError as err:  # pydicom's word for a compression without a decoder; the rest of its message lists packages over many lines
        raise CorpusError(asked=f"open the image {path}", why=f"no installed decoder reads its compression ({str(err).partition(' because ')[0]})",
                          instead="run `pip install 'pylibjpeg[all]'`, or write the file without compression") from None
    except DAMAGED as err:
        raise _damaged(path, err) from None
    return PIL.Image.fromarray(255 - gray if photometric == "MONOCHROME1" else gray)


def _windowed(pixels: np.ndarray, dataset: "Dataset") -> UInt8[np.ndarray, "y x"]:
    """Stored values to gray: modality transform (rescale slope and intercept, or table), then the first VOI window or table, else percentiles."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    values = apply_modality_lut(pixels, dataset)
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        return to_bytes(apply_voi(values, dataset).astype(np.float64), 0.0, float(2 ** int(table.LUTDescriptor[2]) - 1))
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    values = np.asarray(values, dtype=np.float64)
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width <= 1):
        return to_bytes(values)
    if function == "SIGMOID":
        return to_bytes(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))), 0.0, 1.0)
    if function == "LINEAR_EXACT":
        return to_bytes(values, center - width / 2, center + width / 2)
    return to_bytes(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
