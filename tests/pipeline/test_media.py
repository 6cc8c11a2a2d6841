"""The pictures of a run: which file, which part of the image, which size; and small copies inside pages."""

import io
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from sparselight.corpus.image_text.pixels import image_file
from sparselight.errors import CorpusError
from sparselight.interpret.patches import Picture
from sparselight.pipeline.media import RunPictures, display_png, media_path
from sparselight.protocols import Box, Example
from sparselight.report.pictures import SIDE, InlinePictures

BOX = Box(0.1, 0.1, 0.4, 0.4, "disease", "nodule")


def subject_of(image_tokens="all", region=(0.0, 0.0, 1.0, 1.0)):
    policy = SimpleNamespace(images=SimpleNamespace(image_tokens=image_tokens))
    return SimpleNamespace(ref=lambda: SimpleNamespace(token_policy=policy), patch_grids=lambda examples: [[(2, 3)] * len(one.images) for one in examples],
                           patch_regions=lambda examples: [[region] * len(one.images) for one in examples])


@pytest.fixture
def example(tmp_path):
    """A study with a picture of 40 x 60 pixels, brighter to the right."""
    PIL.Image.fromarray(np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))).save(tmp_path / "a.png")
    return Example("study", "FINDINGS: clear.", "patient", images=(image_file(tmp_path / "a.png", boxes=(BOX,)),))


def test_a_run_keeps_one_small_copy_of_an_image(example, tmp_path):
    pictures = RunPictures(tmp_path / "run", subject_of())
    assert pictures.layout(example) == [Picture((2, 3), (0.0, 0.0, 1.0, 1.0), (BOX,))]
    name = pictures.keep(example, 0)
    assert name == f"media/{example.images[0].sha256[:16]}.png" == str(media_path(example.images[0]))
    with PIL.Image.open(tmp_path / "run" / name) as kept:
        assert kept.size == (60, 40) and kept.mode == "L"
    before = (tmp_path / "run" / name).stat().st_mtime_ns
    assert pictures.keep(example, 0) == name and (tmp_path / "run" / name).stat().st_mtime_ns == before


def test_the_copy_is_the_part_that_the_patches_cover(example):
    middle = PIL.Image.open(io.BytesIO(display_png(example.images[0], (1 / 6, 0.0, 5 / 6, 1.0))))
    assert middle.size == (40, 40) and 40 < np.asarray(middle)[0, 0] < 48
    padded = np.asarray(PIL.Image.open(io.BytesIO(display_png(example.images[0], (0.0, -0.25, 1.0, 1.25)))))
    assert padded.shape == (60, 60) and padded[:9].max() == 0 and padded[30].max() == 255  # what the subject pads is black


def test_large_images_are_made_smaller(tmp_path):
    PIL.Image.new("L", (1200, 600)).save(tmp_path / "big.png")
    assert PIL.Image.open(io.BytesIO(display_png(image_file(tmp_path / "big.png")))).size == (512, 256)


@pytest.mark.parametrize("image_tokens", ["none", "last"])
def test_patches_that_do_not_count_have_no_grid(example, tmp_path, image_tokens):
    assert [picture.grid for picture in RunPictures(tmp_path, subject_of(image_tokens)).layout(example)] == [None]


def test_an_image_that_has_gone_is_named(example, tmp_path):
    (tmp_path / "a.png").unlink()
    with pytest.raises(CorpusError, match=r"a\.png"):
        RunPictures(tmp_path / "run", subject_of()).keep(example, 0)


def test_pages_hold_small_copies(tmp_path):
    (tmp_path / "media").mkdir()
    PIL.Image.effect_noise((500, 400), 80).save(tmp_path / "media" / "big.png")
    PIL.Image.new("L", (28, 28)).save(tmp_path / "media" / "small.png")
    (tmp_path / "media" / "bad.png").write_bytes(b"no picture")
    inline = InlinePictures(tmp_path)
    assert inline("media/big.png").startswith("data:image/jpeg;base64,") and len(inline("media/big.png")) < 30_000
    assert inline("media/small.png").startswith("data:image/png;base64,") and SIDE == 160
    assert [inline(name) for name in ("media/bad.png", "media/none.png", "../a.png", "/etc/passwd", "http://x/a.png", "")] == [""] * 6
