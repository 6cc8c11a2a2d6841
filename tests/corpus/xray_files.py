"""Image files of invented studies, made here with Pillow and pydicom: no picture and no word of a real patient."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

REPORT = "FINDINGS: The heart is enlarged. No pleural effusion or pneumothorax.\nIMPRESSION: Possible left basilar atelectasis."


def gradient(height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    """A gray picture with a bright corner; another seed is another picture."""
    return (np.arange(height * width).reshape(height, width) * 5 % 256 + seed % 7).clip(0, 255).astype(np.uint8)


def png(path: Path, pixels: np.ndarray | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(gradient() if pixels is None else pixels).save(path, **options)
    return path


def dicom(path: Path, pixels: np.ndarray | None = None, *, photometric: str = "MONOCHROME2", **attributes: Any) -> Path:
    """A DICOM file without compression; `attributes` are set on its data set."""
    pixels = np.arange(48, dtype=np.uint16).reshape(6, 8) * 80 if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, "DX"
    data.Rows, data.Columns = pixels.shape[:2] if pixels.ndim == 2 or pixels.shape[-1] == 3 else pixels.shape[1:3]
    data.SamplesPerPixel = 3 if pixels.shape[-1] == 3 and pixels.ndim == 3 else 1
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored = 12 if data.BitsAllocated == 16 else 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PatientName, data.PatientID, data.PatientBirthDate = "Anonymous^Patient", "anon-001", ""
    for name, value in attributes.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path
