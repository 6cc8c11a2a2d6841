"""Pixels: what a file holds comes out as 8-bit gray or color the right way up and the right way round, and what cannot be read names itself."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless
from xray_files import dicom, gradient, png

from sparselight.corpus.image_text import image_file, open_image
from sparselight.corpus.image_text.identity import identity_faults
from sparselight.corpus.image_text.pixels import decode, read_dicom, size_of
from sparselight.errors import CorpusError


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(open_image(image_file(path)))


def test_gray_png_comes_out_as_it_is(tmp_path: Path) -> None:
    assert np.array_equal(pixels_of(png(tmp_path / "a.png")), gradient())


def test_jpeg(tmp_path: Path) -> None:
    shown = pixels_of(png(tmp_path / "a.jpg", np.full((8, 8), 90, np.uint8), quality=95))
    assert shown.shape == (8, 8) and abs(int(shown.mean()) - 90) <= 2


def test_color_stays_color_and_equal_channels_become_gray(tmp_path: Path) -> None:
    color = np.zeros((4, 4, 3), np.uint8)
    color[0, 0] = (200, 10, 10)
    assert np.array_equal(pixels_of(png(tmp_path / "color.png", color)), color)
    assert np.array_equal(pixels_of(png(tmp_path / "gray.png", np.repeat(gradient()[..., None], 3, axis=2))), gradient())


def test_alpha_and_palette(tmp_path: Path) -> None:
    rgba = np.dstack([gradient()] * 3 + [np.full_like(gradient(), 7)])
    assert np.array_equal(pixels_of(png(tmp_path / "a.png", rgba)), gradient())
    path = tmp_path / "p.png"
    PIL.Image.fromarray(gradient()).convert("P").save(path)
    assert np.array_equal(pixels_of(path), gradient())


def test_sixteen_bits_are_stretched_between_percentiles(tmp_path: Path) -> None:
    deep = np.linspace(1000, 3000, 10_000).reshape(100, 100).astype(np.uint16)
    deep[0, 0] = 65535  # a hot pixel must not darken all others
    shown = pixels_of(png(tmp_path / "a.png", deep))
    assert shown.dtype == np.uint8 and shown[0, 0] == 255 and shown[0, 1] == 0 and abs(int(shown[50, 0]) - 127) <= 2


def test_flat_picture_of_sixteen_bits(tmp_path: Path) -> None:
    assert np.array_equal(pixels_of(png(tmp_path / "a.png", np.full((4, 4), 900, np.uint16))), np.zeros((4, 4)))


def test_exif_turn_is_applied_and_known_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    PIL.Image.fromarray(np.tile(np.array([[0] * 8 + [255] * 8], np.uint8), (8, 1))).save(path, exif=exif, quality=95)
    shown = pixels_of(path)
    assert shown.shape == (16, 8) and shown[0].mean() < 30 and shown[-1].mean() > 220
    assert size_of(path.read_bytes(), path) == (8, 16)


def test_dicom_window_of_the_header(tmp_path: Path) -> None:
    values = np.array([[0, 100, 150, 200, 300]], np.uint16)
    shown = pixels_of(dicom(tmp_path / "a.dcm", values, WindowCenter=150.5, WindowWidth=101))  # PS3.3 C.11.2.1.2: 100 is black, 200 white
    assert shown.tolist() == [[0, 0, 128, 255, 255]]
    exact = pixels_of(dicom(tmp_path / "b.dcm", values, WindowCenter=150, WindowWidth=100, VOILUTFunction="LINEAR_EXACT"))
    assert exact.tolist() == [[0, 0, 128, 255, 255]]
    curve = pixels_of(dicom(tmp_path / "c.dcm", values, WindowCenter=150, WindowWidth=100, VOILUTFunction="SIGMOID"))
    assert curve.tolist() == [[1, 30, 128, 225, 254]]


def test_dicom_rescale_comes_before_the_window(tmp_path: Path) -> None:
    values = np.array([[0, 50, 100]], np.uint16)
    shown = pixels_of(dicom(tmp_path / "a.dcm", values, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=[-900, 40], WindowWidth=[200, 80],
                            VOILUTFunction="LINEAR_EXACT"))
    assert shown.tolist() == [[0, 128, 255]]


def test_dicom_without_window_uses_percentiles_and_signed_values(tmp_path: Path) -> None:
    values = np.linspace(-500, 500, 10_000).reshape(100, 100).astype(np.int16)
    shown = pixels_of(dicom(tmp_path / "a.dcm", values, BitsStored=16, HighBit=15))
    assert shown[0, 0] == 0 and shown[-1, -1] == 255 and abs(int(shown[50, 0]) - 128) <= 2
    assert np.array_equal(pixels_of(dicom(tmp_path / "b.dcm", values, BitsStored=16, HighBit=15, WindowCenter=0, WindowWidth=0)), shown)


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    plain, inverted = (pixels_of(dicom(tmp_path / f"{name}.dcm", photometric=name, WindowCenter=1900, WindowWidth=3000))
                       for name in ("MONOCHROME2", "MONOCHROME1"))
    assert np.array_equal(inverted, 255 - plain)


def test_dicom_in_color(tmp_path: Path) -> None:
    color = np.zeros((4, 4, 3), np.uint8)
    color[1, 2] = (250, 20, 20)
    assert np.array_equal(pixels_of(dicom(tmp_path / "a.dcm", color, photometric="RGB")), color)


def test_what_the_name_says_does_not_count(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm").rename(tmp_path / "a.png")
    assert pixels_of(path).shape == (6, 8)


@pytest.mark.parametrize(("name", "content", "why"), [
    ("empty.png", b"", "it is empty"), ("text.png", b"no picture", "no PNG, JPEG or DICOM"), ("gif.png", b"GIF89a" + b"\0" * 20, "no PNG, JPEG or DICOM"),
    ("cut.dcm", b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL", "no pixels"),
])
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=why) as err:
        pixels_of(tmp_path / name)
    assert name in str(err.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".dcm"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    big = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    path = dicom(tmp_path / "a.dcm", big.astype(np.uint16)) if suffix == ".dcm" else png(tmp_path / f"a{suffix}", big)
    content = path.read_bytes()
    with pytest.raises(CorpusError, match="damaged"):
        decode(content[:len(content) * 2 // 3], path)


def test_several_frames_and_no_pixels(tmp_path: Path) -> None:
    frames = np.zeros((3, 4, 5), np.uint16)
    with pytest.raises(CorpusError, match="3 frames"):
        pixels_of(dicom(tmp_path / "a.dcm", frames, NumberOfFrames=3))
    with pytest.raises(CorpusError, match="no pixels"):
        pixels_of(dicom(tmp_path / "b.dcm", Rows=0))


def compressed(path: Path, uid: str, content: bytes) -> Path:
    """A DICOM file with its pixels packed."""
    data = pydicom.dcmread(dicom(path, gradient(64, 64)))
    data.PixelData = encapsulate([content])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = uid
    data.save_as(path)
    return path


def test_compressed_dicom(tmp_path: Path) -> None:
    packed = io.BytesIO()
    PIL.Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))).save(packed, "JPEG", quality=95)
    shown = pixels_of(compressed(tmp_path / "a.dcm", JPEGBaseline8Bit, packed.getvalue()))
    assert shown.shape == (64, 64) and shown[:, 0].max() <= 3 and shown[:, -1].min() >= 252
    with pytest.raises(CorpusError, match="no installed decoder reads its compression .*pylibjpeg|damaged"):
        pixels_of(compressed(tmp_path / "b.dcm", JPEGLSLossless, packed.getvalue()))


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    for path in (png(tmp_path / "a.png"), dicom(tmp_path / "a.dcm")):
        with pytest.raises(CorpusError, match="8 x 6 pixels, and at most 47"):
            decode(path.read_bytes(), path, max_pixels=47)


def test_a_file_that_changed_or_went_is_refused(tmp_path: Path) -> None:
    image = image_file(png(tmp_path / "a.png"))
    png(tmp_path / "a.png", gradient(seed=3))
    with pytest.raises(CorpusError, match="another file"):
        open_image(image)
    (tmp_path / "a.png").unlink()
    with pytest.raises(CorpusError, match="No such file"):
        open_image(image)


PASSES = [
    {"PatientName": "", "PatientID": ""}, {"PatientName": "Anonymous", "PatientID": "0000000"}, {"PatientName": "ANON^ANON", "PatientID": "XXXX"},
    {"PatientName": "0004cfab-14fd-4e49-80ba-63a80b6bddd6", "PatientID": "0004cfab-14fd-4e49-80ba-63a80b6bddd6"},
    {"PatientName": "12345", "PatientID": "Patient 17"},
    {"PatientBirthDate": "19500101"}, {"PatientID": "84112233", "PatientIdentityRemoved": "YES"}, {"PatientID": "1.2.826.0.1.3680043.8.498"},
    {"BurnedInAnnotation": "NO"}, {"AccessionNumber": "00000"}, {"OperatorsName": "test"},
]
FAILS = [
    ({"PatientName": "Roe^Richard"}, "PatientName"), ({"PatientName": "Muster^Erika", "PatientIdentityRemoved": "YES"}, "PatientName"),
    ({"PatientID": "84112233"}, "PatientID"),
    ({"PatientBirthDate": "19570314"}, "PatientBirthDate"), ({"ReferringPhysicianName": "Quill^Ada"}, "ReferringPhysicianName"),
    ({"AccessionNumber": "A48812"}, "AccessionNumber"),
    ({"PatientAddress": "4 Mill Lane"}, "PatientAddress"), ({"BurnedInAnnotation": "YES"}, "burned into the picture"),
    ({"OtherPatientNames": ["anon", "Roe^R"]}, "OtherPatientNames"),
]


@pytest.mark.parametrize("attributes", PASSES, ids=str)
def test_pseudonyms_pass(tmp_path: Path, attributes: dict[str, str]) -> None:
    path = dicom(tmp_path / "a.dcm", **attributes)
    assert identity_faults(read_dicom(path.read_bytes(), path), path) == []


@pytest.mark.parametrize(("attributes", "named"), FAILS, ids=str)
def test_what_seems_to_name_a_person_is_found_and_not_repeated(tmp_path: Path, attributes: dict[str, str], named: str) -> None:
    path = dicom(tmp_path / "a.dcm", **attributes)
    faults = identity_faults(read_dicom(path.read_bytes(), path), path)
    assert len(faults) == 1 and named in faults[0]
    assert not any(str(value) in faults[0] for value in attributes.values() if value != "YES")


def test_a_patient_number_that_names_the_folder_is_a_pseudonym(tmp_path: Path) -> None:
    path = dicom(tmp_path / "p10" / "p10000032" / "a.dcm", PatientID="10000032")
    assert identity_faults(read_dicom(path.read_bytes(), path), path) == []
