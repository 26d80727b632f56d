"""Small files that claim to be large: refused before they take memory, and named."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from melanoma.core.errors import BadImage, BadTable
from melanoma.core.reading import MAX_TABLE, table_bytes
from melanoma.data.decoding import read_image
from melanoma.data.dicom import ENCRYPTED, MOST_HEADER, dicom_fields, dicom_picture
from melanoma.data.table import lesion_table, parse_sources
from support.dicom import dicom, inflating_dicom

MEGABYTE = 1_000_000


def peak(call, error) -> tuple[float, str]:
    "Megabytes that a refused call took at most, and its message."
    tracemalloc.start()
    with pytest.raises(error) as said:
        call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / MEGABYTE, str(said.value)


def test_a_table_in_a_small_archive_does_not_fill_memory(tmp_path):
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("labels.csv", "image_name,target\n" + ",\n" * 37_500_000)
    assert archive.stat().st_size < 0.2 * MEGABYTE
    table = parse_sources(f"csv={archive}/labels.csv")
    megabytes, said = peak(lambda: lesion_table(table), BadTable)
    assert megabytes < 5 and "would grow to 75,000,018" in said


def test_a_table_of_an_honest_archive_is_read(tmp_path):
    archive = tmp_path / "fine.zip"
    rows = "".join(f"ISIC_{i:07d},{i % 2}\n" for i in range(100_000))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("labels.csv", "image_name,target\n" + rows)
    assert len(table_bytes(f"{archive}/labels.csv")) == 18 + len(rows)


def test_a_table_on_disk_has_a_limit_too(tmp_path):
    with (tmp_path / "big.csv").open("wb") as file:
        file.truncate(MAX_TABLE + 1)
    megabytes, said = peak(lambda: table_bytes(tmp_path / "big.csv"), BadImage)
    assert megabytes < 1 and f"over the limit of {MAX_TABLE:,}" in said


def workbook(sheet: str, filler: int = 0) -> bytes:
    "An Excel workbook of one sheet, given as XML."
    openpyxl = pytest.importorskip("openpyxl")
    empty = io.BytesIO()
    openpyxl.Workbook().save(empty)
    made = io.BytesIO()
    with (
        zipfile.ZipFile(empty) as was,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in was.namelist():
            mine = name == "xl/worksheets/sheet1.xml"
            target.writestr(name, sheet + " " * filler if mine else was.read(name))
    return made.getvalue()


def sheet(*cells: tuple[str, str]) -> str:
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    rows = "".join(
        f'<row r="{"".join(filter(str.isdigit, at))}"><c r="{at}" t="inlineStr">'
        f"<is><t>{text}</t></is></c></row>"
        for at, text in cells
    )
    return f'<worksheet xmlns="{space}"><sheetData>{rows}</sheetData></worksheet>'


def test_a_workbook_of_two_distant_cells_does_not_fill_memory(tmp_path):
    "One cell in the last column and one in the last row: as a grid 17 thousand million cells."
    path = tmp_path / "wide.xlsx"
    path.write_bytes(workbook(sheet(("XFD1", "image_name"), ("A1048576", "x"))))
    megabytes, said = peak(lambda: lesion_table(parse_sources(f"csv={path}")), BadTable)
    assert megabytes < 200, said
    path.write_bytes(workbook(sheet(("A1", "image_name")), filler=40_000_000))
    megabytes, said = peak(lambda: lesion_table(parse_sources(f"csv={path}")), BadTable)
    assert megabytes < 5 and "are no table" in said


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"Rows": 15_000, "Columns": 15_000}, "would grow to 675,000,000"),
        ({"Rows": 15_000, "Columns": 15_000, "BitsAllocated": 64}, "is over the limit of"),
        ({"Rows": 2_000, "Columns": 2_000, "SamplesPerPixel": 60_000}, "60000 samples a pixel"),
        ({"Rows": 60_000, "Columns": 60_000}, "pixels is over the limit"),
    ],
)
def test_a_dicom_picture_is_measured_before_it_is_decoded(fields, words):
    small = b"\xff\x4f\xff\x51" + bytes(300)
    data = dicom(small, "RLELossless", **fields)
    assert len(data) < 2000
    megabytes, said = peak(lambda: dicom_picture(data), BadImage)
    assert megabytes < 20 and words in said


def test_a_grey_picture_takes_no_floats():
    "16 bits of grey were brought to float64 as a whole: eight bytes a pixel, several times over."
    pytest.importorskip("pydicom")
    grey = np.random.default_rng(0).integers(0, 4096, (2000, 2000), np.uint16)
    data = dicom(
        grey, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=16,
        BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=2000,
    )  # fmt: skip
    tracemalloc.start()
    shown, _ = dicom_picture(data)
    megabytes = tracemalloc.get_traced_memory()[1] / MEGABYTE
    tracemalloc.stop()
    assert megabytes < 60, megabytes  # 8 of the file, 8 of its array, 4 and 12 of the result
    wanted = ((grey.astype(float) - 2047.5) / 1999 + 0.5).clip(0, 1) * 255
    assert np.abs(shown[..., 0].astype(float) - wanted).max() <= 0.51
    assert (shown == shown[..., :1]).all()


def test_encrypted_dicom_is_named():
    pytest.importorskip("pydicom")
    hidden = dicom(np.zeros((8, 8, 3), np.uint8), EncryptedAttributesSequence=[])
    gone = hidden.replace(b"\xe0\x7f\x10\x00OB", b"\xe1\x7f\x10\x00OB")
    gone = gone.replace(b"\xe0\x7f\x10\x00OW", b"\xe1\x7f\x10\x00OW")
    assert gone != hidden
    with pytest.raises(BadImage, match=ENCRYPTED):
        read_image(gone)
    envelope = bytes.fromhex("3082ffff06092a864886f70d010703a0") + bytes(900)
    with pytest.raises(BadImage, match=ENCRYPTED):
        read_image(envelope)
    assert not isinstance(dicom_picture(hidden)[0], str)  # its pixels are in the clear


def test_the_fields_of_an_inflating_dicom_are_not_read():
    pytest.importorskip("pydicom")
    data = inflating_dicom(MOST_HEADER + 50 * MEGABYTE)
    tracemalloc.start()
    fields = dicom_fields(io.BytesIO(data))
    megabytes = tracemalloc.get_traced_memory()[1] / MEGABYTE
    tracemalloc.stop()
    assert set(fields.values()) == {None} and megabytes < 20
