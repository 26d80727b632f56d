"""DICOM files around arrays and compressed pictures."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def dicom(pixels: np.ndarray | bytes, syntax: str = "ExplicitVRLittleEndian", **fields) -> bytes:
    "A DICOM file around an array, or around a compressed picture."
    uid = pytest.importorskip("pydicom.uid")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    meta.TransferSyntaxUID = getattr(uid, syntax)
    whole = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    whole.SamplesPerPixel, whole.PhotometricInterpretation = 3, "RGB"
    whole.PlanarConfiguration = 0
    whole.BitsAllocated = whole.BitsStored = 8
    whole.HighBit, whole.PixelRepresentation = 7, 0
    if isinstance(pixels, bytes):
        whole.PixelData = encapsulate([pixels])
        whole["PixelData"].VR = "OB"
    else:
        whole.Rows, whole.Columns = pixels.shape[:2]
        whole.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(whole, name, value)
    buffer = io.BytesIO()
    whole.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def inflating_dicom(size: int) -> bytes:
    "A small DICOM file that is deflated as a whole, and inflates to so many bytes."
    whole = dicom(np.zeros((4, 4, 3), np.uint8), "DeflatedExplicitVRLittleEndian")
    begin = 144 + int.from_bytes(whole[140:144], "little")
    deflating, block = zlib.compressobj(wbits=-zlib.MAX_WBITS), bytes(1_000_000)
    packed = b"".join(deflating.compress(block) for _ in range(size // len(block)))
    return whole[:begin] + packed + deflating.flush()


def dicom_file(path: Path, jpeg: bytes, **fields) -> None:
    "A DICOM file as SIIM-2020's: a JPEG behind a header."
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    whole = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    with Image.open(io.BytesIO(jpeg)) as image:
        whole.Columns, whole.Rows = image.size
    whole.SamplesPerPixel, whole.PhotometricInterpretation = 3, "YBR_FULL_422"
    whole.BitsAllocated, whole.BitsStored, whole.HighBit = 8, 8, 7
    whole.PixelRepresentation, whole.PlanarConfiguration = 0, 0
    whole.PixelData = encapsulate([jpeg])
    whole["PixelData"].VR = "OB"
    for name, value in fields.items():
        setattr(whole, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save_as(path, enforce_file_format=True)
