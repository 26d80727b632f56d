"""Images that are damaged, turned, deep or transparent: refused with a reason, or read right."""

import struct
import zlib

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melanoma.core.errors import BadImage, BadInput
from melanoma.data.build import build_store
from melanoma.data.decoding import MAX_PIXELS, decode
from melanoma.data.preprocessing import Preprocessing
from melanoma.data.store import Store
from melanoma.data.table import lesion_table, parse_sources
from support.checks import refusal
from support.images import encoded, noise, photo


def png_header(width: int, height: int) -> bytes:
    "A PNG that declares a size and holds one line of it."

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    line = zlib.compress(bytes(1 + 3 * 100))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", line) + chunk(b"IEND", b"")


def test_an_image_under_the_pixel_limit_is_not_refused_for_its_size():
    "The file below declares 14,500 × 14,500 pixels and lacks most of them."
    assert MAX_PIXELS > 14_500**2
    assert "limit" not in refusal(BadImage, decode, png_header(14_500, 14_500))


@pytest.mark.parametrize("side", [16_000, 60_000])
def test_an_image_over_the_pixel_limit_is_refused_by_the_limit_that_holds(side):
    said = refusal(BadImage, decode, png_header(side, side))
    assert "limit" in said
    assert f"{MAX_PIXELS:,}" in said or str(MAX_PIXELS) in said


def damaged() -> dict[str, tuple[bytes, str]]:
    "Name → bytes that are no usable image, and a word of the reason."
    whole = encoded(Image.fromarray(noise()), "JPEG", quality=90)
    start = whole.index(b"\xff\xc0")  # the frame header: sizes and components
    png = encoded(Image.fromarray(noise()))
    return {
        "header.jpg": (whole[: start + 2] + b"\0" * 17 + whole[start + 19 :], "not an image"),
        "halved.jpg": (whole[: len(whole) // 2], "truncated"),
        "zero.jpg": (b"", "empty file (0 bytes)"),
        "text.jpg": (b"Dear colleague, here is the photo.\n", "not an image"),
        "bomb.png": (png_header(60_000, 60_000), "limit"),
        "halved.png": (png[: len(png) // 2], "truncated"),
        "chunk.png": (png[:60] + b"\0\0\0\0" + png[64:], "corrupt"),
        "signature.png": (b"\0" * 8 + png[8:], "not an image"),
    }


@pytest.mark.parametrize("name", damaged())
def test_a_damaged_image_is_refused_with_its_reason(name):
    data, word = damaged()[name]
    assert word in refusal(BadImage, decode, data)


def test_damaged_images_are_rejected_and_the_good_ones_stay_in_order(tmp_path):
    names = []
    for i, (name, (data, _)) in enumerate(damaged().items()):
        stem, suffix = name.split(".")
        photo(tmp_path / "data" / f"{i}_good.jpg", seed=i)
        (tmp_path / "data" / f"{i}_{stem}_{suffix}.{suffix}").write_bytes(data)
        names += [f"{i}_good", f"{i}_{stem}_{suffix}"]
    text = "image_name,target\n" + "".join(f"{n},0\n" for n in names)
    (tmp_path / "data" / "labels.csv").write_text(text)
    table = lesion_table(parse_sources(f"csv={tmp_path / 'data' / 'labels.csv'}"))
    store = build_store(table, tmp_path / "store", [32, 48])

    assert store.table["image_name"].tolist() == names[::2]
    assert store.rejected["image_name"].tolist() == names[1::2]
    for reason, (_, word) in zip(store.rejected["reason"], damaged().values(), strict=True):
        assert word in reason
    on_disk = pd.read_csv(tmp_path / "store" / "rejected.csv")
    assert list(on_disk) == ["source", "image_name", "path", "reason"]
    assert set(on_disk["source"]) == {"csv"}
    for size in (32, 48):
        images, rule = Store.open(tmp_path / "store", size).images, Preprocessing(size)
        for i, path in enumerate(store.table["path"]):
            assert np.array_equal(images[i], rule(path))


def test_nothing_but_damaged_images_names_the_first(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    table = lesion_table(parse_sources(f"folder={tmp_path}"), split="all")
    said = refusal(BadInput, build_store, table, tmp_path / "store", [32])
    assert "none of 1 images can be used" in said
    assert str(tmp_path / "a.jpg") in said and "empty file (0 bytes)" in said


def wrong_exif_entry() -> bytes:
    "EXIF that turns the image, and a width given as text instead of a number."
    entries = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(
        ">HHI4s", 0x0100, 2, 4, b"abc"
    )
    head = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2)
    return head + entries + struct.pack(">I", 0)


def test_a_wrong_entry_in_exif_does_not_stop_the_rest(tmp_path):
    photo(tmp_path / "good.jpg")
    data = encoded(Image.fromarray(noise()), "JPEG", exif=wrong_exif_entry())
    (tmp_path / "odd.jpg").write_bytes(data)
    table = lesion_table(parse_sources(f"folder={tmp_path}"), split="all")
    store = build_store(table, tmp_path / "store", [32])
    assert "good" in store.table["image_name"].tolist()
    assert len(store) + len(store.rejected) == 2


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_undone(orientation, form):
    upright = np.kron(noise(3, 5), np.ones((16, 16, 1), np.uint8))  # blocks that JPEG keeps
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](upright)))
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    found = decode(encoded(stored, form, exif=exif, **options))
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() <= (12 if form == "JPEG" else 0)


@pytest.mark.parametrize(
    ("cmyk", "rgb"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 0, 255, 0), (0, 255, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 128), (127, 127, 127)),
    ],
)
def test_cmyk_jpeg_has_its_colours(cmyk, rgb):
    found = decode(encoded(Image.new("CMYK", (32, 32), cmyk), "JPEG", quality=95))
    assert found.shape == (32, 32, 3)
    assert np.abs(found.astype(int) - rgb).max() <= 8


def as_png16(pixels: np.ndarray) -> bytes:
    done, buffer = cv2.imencode(".png", pixels)
    assert done
    return buffer.tobytes()


@pytest.mark.parametrize("top", [65535, 40_000, 200])
def test_16_bit_grey_is_scaled_by_its_depth_not_by_its_brightness(top):
    grey = np.linspace(0, top, 32 * 32).astype(np.uint16).reshape(32, 32)
    found = decode(as_png16(grey))
    assert np.abs(found[..., 0] - grey / 257).max() <= 1
    assert (found == found[..., :1]).all()


def test_16_bit_rgb_is_scaled_to_8_bit():
    rgb = np.random.default_rng(0).integers(0, 65536, (16, 24, 3)).astype(np.uint16)
    found = decode(as_png16(rgb[..., ::-1]))
    assert np.abs(found - rgb / 257).max() <= 1


def test_16_bit_rgba_lies_over_white():
    rgba = np.random.default_rng(0).integers(0, 65536, (16, 24, 4)).astype(np.uint16)
    alpha = rgba[..., 3:] / 65535
    found = decode(as_png16(rgba[..., [2, 1, 0, 3]]))
    assert np.abs(found - (rgba[..., :3] / 257 * alpha + 255 * (1 - alpha))).max() <= 2


def test_palette_with_transparency_lies_over_white():
    image = Image.new("P", (4, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2, 0])
    found = decode(encoded(image, transparency=1))
    assert found.tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255], [255, 0, 0]]]


def test_palette_without_transparency_has_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([1, 0])
    assert decode(encoded(image)).tolist() == [[[40, 50, 60], [10, 20, 30]]]


def test_grey_with_alpha_lies_over_white():
    pixels = np.array([[[100, 255], [100, 0], [0, 128]]], np.uint8)
    found = decode(encoded(Image.fromarray(pixels, "LA")))
    assert found[0, 0].tolist() == [100] * 3 and found[0, 1].tolist() == [255] * 3
    assert np.abs(found[0, 2].astype(int) - 127).max() <= 1


def test_rgba_and_colour_key_lie_over_white():
    pixels = np.array([[[9, 8, 7, 255], [9, 8, 7, 0]]], np.uint8)
    assert decode(encoded(Image.fromarray(pixels))).tolist() == [[[9, 8, 7], [255] * 3]]
    keyed = encoded(Image.fromarray(pixels[..., :3]), transparency=(9, 8, 7))
    assert decode(keyed).tolist() == [[[255] * 3, [255] * 3]]


def test_one_bit_and_grey_become_rgb():
    bits = np.array([[0, 1, 1, 0]], bool)
    assert decode(encoded(Image.fromarray(bits))).tolist() == [
        [[0] * 3, [255] * 3, [255] * 3, [0] * 3]
    ]
    grey = np.array([[0, 77, 255]], np.uint8)
    assert decode(encoded(Image.fromarray(grey)))[..., 2].tolist() == [[0, 77, 255]]
