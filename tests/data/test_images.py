"""What a file's bytes become: colour profiles, JPEGs that lost something, kinds of files that
phones and clinics write, and what is said of those that are not read."""

import io
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms

from melanoma.core.errors import BadImage
from melanoma.data.build import build_store
from melanoma.data.decoding import OtherKind, decode, read_image
from melanoma.data.jpeg import jpeg_marks
from melanoma.data.preprocessing import Preprocessing
from melanoma.data.sources import Source
from melanoma.data.table import lesion_table
from support.dicom import dicom, inflating_dicom
from support.images import encoded

# profiles, written by hand: no library makes others than sRGB

SRGB = {"r": (0.4360, 0.2225, 0.0139), "g": (0.3851, 0.7169, 0.0971), "b": (0.1431, 0.0606, 0.7141)}
P3 = {"r": (0.5151, 0.2412, -0.0011), "g": (0.2920, 0.6922, 0.0419), "b": (0.1571, 0.0666, 0.7841)}
ADOBE = {
    "r": (0.6097, 0.3111, 0.0195),
    "g": (0.2053, 0.6257, 0.0609),
    "b": (0.1492, 0.0632, 0.7446),
}
PROPHOTO = {"r": (0.7977, 0.2880, 0.0), "g": (0.1352, 0.7119, 0.0), "b": (0.0313, 0.0001, 0.8249)}
GAMMAS = {"Adobe RGB": 563 / 256, "ProPhoto": 461 / 256}  # as a profile can write them
SKIN = (200, 120, 90)


def exact(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    "A file that loses as little as its format can."
    lossless = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    return encoded(image, kind, **(lossless | options))


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(65536 * v) for v in values))


def profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ") -> bytes:
    "An ICC profile."
    start, table = 132 + 12 * len(tags), struct.pack(">I", len(tags))
    padded = {name: tag + bytes(-len(tag) % 4) for name, tag in tags.items()}
    for name, tag in padded.items():
        table += name + struct.pack(">II", start, len(tag))
        start += len(tag)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4x4s4s4s4s", start, b"\4\0\0\0", kind, space, pcs)
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + b"".join(padded.values())


def described(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", len(data), 28) + data


def power(gamma: float) -> bytes:
    return b"curv" + struct.pack(">4xIH", 1, round(256 * gamma))


SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def linear(code: np.ndarray) -> np.ndarray:
    "sRGB's curve."
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def coded(light: np.ndarray) -> np.ndarray:
    "And back."
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def sampled() -> bytes:
    "The same curve, as a table of 1024 values."
    values = np.round(65535 * linear(np.arange(1024) / 1023)).astype(">u2")
    return b"curv" + struct.pack(">4xI", 1024) + values.tobytes()


def rgb_profile(primaries: dict[str, tuple], curve: bytes, text: str) -> bytes:
    tags = {b"desc": described(text), b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)}
    for name, xyz in primaries.items():
        tags[name.encode() + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*xyz)
        tags[name.encode() + b"TRC"] = curve
    return profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    white = b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)
    return profile(b"GRAY", {b"desc": described("grey"), b"wtpt": white, b"kTRC": power(gamma)})


def cmyk_profile() -> bytes:
    "A press whose full cyan, magenta and yellow are Lab (60, ∓40, …); black takes the light away."
    table = b""
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        light = 100 * 0.6 ** (c + m + y) * (1 - k)
        lab = (light, (1 - k) * 40 * (m - c), (1 - k) * 40 * (y - c))
        table += bytes([round(lab[0] * 2.55), round(lab[1]) + 128, round(lab[2]) + 128])
    straight = bytes(range(256))
    lut = b"mft1\0\0\0\0\4\3\2\0" + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + straight * 4 + table
    white = b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)
    tags = {b"desc": described("press"), b"wtpt": white, b"A2B0": lut + straight * 3}
    return profile(b"CMYK", tags, b"Lab ")


PROFILES = {
    "Display P3": rgb_profile(P3, SRGB_CURVE, "Display P3"),
    "Adobe RGB": rgb_profile(ADOBE, power(GAMMAS["Adobe RGB"]), "Adobe RGB (1998)"),
    "ProPhoto": rgb_profile(PROPHOTO, power(GAMMAS["ProPhoto"]), "ProPhoto RGB"),
    # its name says sRGB, and it is not: the numbers decide
    "linear": rgb_profile(SRGB, power(1.0), "sRGB linear"),
}
SPELLINGS = {
    "no profile": b"",
    "a formula": rgb_profile(SRGB, SRGB_CURVE, "sRGB IEC61966-2.1"),
    "a table": rgb_profile(SRGB, sampled(), "c2"),
    "littleCMS": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
}


def expected(name: str, colour: tuple[int, int, int]) -> np.ndarray:
    "What sRGB shows for a colour of a profile, by the textbook."
    primaries = {"Display P3": P3, "Adobe RGB": ADOBE, "ProPhoto": PROPHOTO, "linear": SRGB}[name]
    code = np.array(colour) / 255
    light = linear(code) if name == "Display P3" else code ** GAMMAS.get(name, 1.0)
    xyz = np.array([primaries[c] for c in "rgb"]).T @ light
    shown = np.linalg.solve(np.array([SRGB[c] for c in "rgb"]).T, xyz).clip(0, 1)
    return np.round(255 * coded(shown))


def flat(colour=SKIN, size=(64, 48), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def noise(size=(200, 160)) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


# colour


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_profile_is_converted_to_srgb(name, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    for colour in (SKIN, (60, 45, 40), (230, 200, 190)):
        data = exact(flat(colour), kind, icc_profile=PROFILES[name], **options)
        seen, wanted = decode(data)[20, 20].astype(int), expected(name, colour)
        assert np.abs(seen - wanted).max() <= 2, (seen, wanted)
        assert np.abs(seen - colour).max() > 2  # it did make a difference


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_srgb_stays_as_it_is_byte_for_byte(name, kind):
    plain = exact(noise(), kind)
    told = exact(noise(), kind, icc_profile=SPELLINGS[name]) if SPELLINGS[name] else plain
    for at_least in (0, 64):
        assert np.array_equal(decode(told, at_least), decode(plain, at_least))
    for size in (32, 64):
        assert np.array_equal(Preprocessing(size)(told), Preprocessing(size)(plain))
    assert Preprocessing(64).version == 1  # so ordinary stores and weights go on


def test_the_reduced_pixels_are_converted():
    large = noise((1600, 1200))
    told = exact(large, "JPEG", icc_profile=PROFILES["Display P3"])
    whole, reduced = read_image(told), read_image(told, at_least=256)
    assert reduced.pixels.shape == (300, 400, 3)
    assert (reduced.width, reduced.height) == (whole.width, whole.height) == (1600, 1200)
    small = Image.fromarray(whole.pixels).resize((400, 300), Image.Resampling.BOX)
    plain = np.asarray(large.resize((400, 300), Image.Resampling.BOX)).astype(int)
    to_converted = np.abs(reduced.pixels - np.asarray(small).astype(int)).mean()
    assert to_converted < 2.5
    assert np.abs(reduced.pixels - plain).mean() > 5


def test_a_turned_photograph_with_a_profile():
    turned = Image.Exif()
    turned[0x0112] = 6
    data = exact(flat(), "JPEG", icc_profile=PROFILES["Display P3"], exif=turned)
    image = read_image(data)
    assert image.pixels.shape == (64, 48, 3)
    assert np.abs(image.pixels[5, 5] - expected("Display P3", SKIN)).max() <= 2


def test_transparency_and_palettes_have_profiles_too():
    for image in (flat().convert("RGBA"), flat().quantize(4)):
        data = exact(image, "PNG", icc_profile=PROFILES["Adobe RGB"])
        assert np.abs(decode(data)[5, 5] - expected("Adobe RGB", SKIN)).max() <= 2


def test_a_grey_profile():
    grey = flat(120, mode="L")
    wanted = 255 * (1.055 * (120 / 255) ** (1.0 / 2.4) - 0.055)  # light 120/255 in sRGB's code
    for kind in ("JPEG", "PNG"):
        seen = decode(exact(grey, kind, icc_profile=grey_profile(1.0)))[5, 5]
        assert len(set(seen.tolist())) == 1 and abs(int(seen[0]) - wanted) <= 2
        assert decode(exact(grey, kind))[5, 5].tolist() == [120, 120, 120]


def test_a_cmyk_profile():
    inks = Image.new("CMYK", (40, 30), (0, 255, 0, 0))
    plain = decode(exact(inks, "JPEG"))[5, 5]
    assert np.abs(plain.astype(int) - (255, 0, 255)).max() <= 3
    press = decode(exact(inks, "JPEG", icc_profile=cmyk_profile()))[5, 5].astype(int)
    y = (60 + 16) / 116  # Lab (60, 40, 0)
    xyz = np.array([0.9642, 1, 0.8249]) * np.array([y + 40 / 500, y, y]) ** 3
    wanted = 255 * coded(np.linalg.solve(np.array([SRGB[c] for c in "rgb"]).T, xyz))
    assert np.abs(press - wanted).max() <= 6, (press, wanted)


@pytest.mark.parametrize(
    "broken",
    [
        PROFILES["Display P3"][:200],
        PROFILES["Display P3"][:131],
        bytes(3000),
        b"no profile at all" * 20,
        grey_profile(1.8),
        cmyk_profile(),
    ],
    ids=["cut", "cut in the head", "zeros", "text", "for grey", "for CMYK"],
)
def test_a_profile_that_is_broken_or_of_another_kind_says_nothing(broken):
    for kind in ("JPEG", "PNG"):
        data = exact(noise(), kind, icc_profile=broken)
        assert np.array_equal(decode(data), decode(exact(noise(), kind)))


def test_a_profile_for_colour_says_nothing_of_grey():
    grey = flat(120, mode="L")
    data = exact(grey, "PNG", icc_profile=PROFILES["linear"])
    assert decode(data)[5, 5].tolist() == [120, 120, 120]


# DICOM


def test_dicom_pictures_obey_profiles():
    wanted = expected("Display P3", SKIN)
    pixels, told = np.asarray(flat()), PROFILES["Display P3"]
    assert decode(dicom(pixels))[5, 5].tolist() == list(SKIN)
    assert np.abs(decode(dicom(pixels, ICCProfile=told))[5, 5] - wanted).max() <= 2
    jpeg = {"syntax": "JPEGBaseline8Bit", "PhotometricInterpretation": "YBR_FULL_422"}
    jpeg |= {"Rows": 48, "Columns": 64}
    inside = dicom(exact(flat(), "JPEG", icc_profile=told), **jpeg)  # the picture's own
    beside = dicom(exact(flat(), "JPEG"), **jpeg, ICCProfile=told)  # the file's
    for data in (inside, beside):
        assert np.abs(decode(data)[5, 5] - wanted).max() <= 2
    assert np.array_equal(
        decode(dicom(exact(flat(), "JPEG"), **jpeg)), decode(exact(flat(), "JPEG"))
    )


def test_a_dicom_picture_is_measured_before_it_is_decoded():
    j2k = exact(Image.effect_noise((64, 48), 50).convert("RGB"), "JPEG2000", no_jp2=True)
    good = {"syntax": "JPEG2000", "Rows": 48, "Columns": 64}
    assert decode(dicom(j2k, **good)).shape == (48, 64, 3)
    huge = bytearray(j2k)
    huge[8:16] = struct.pack(">II", 60_000, 60_000)  # the codestream's own size
    for data, words in (
        (dicom(np.zeros((4, 4, 3), np.uint8), Rows=60_000, Columns=60_000), "limit of"),
        (dicom(bytes(huge), **good), "its picture (60000, 60000, 3)"),
        (dicom(j2k, **good | {"Rows": 4000}), "its picture (64, 48, 3)"),
        (dicom(np.zeros((48, 64, 3), np.uint8), NumberOfFrames=2), "2 frames"),
    ):
        with pytest.raises(BadImage) as error:
            read_image(data, max_pixels=30_000_000)
        assert words in str(error.value)
    unfolding = inflating_dicom(30_000_000)
    assert len(unfolding) < 100_000
    with pytest.raises(BadImage, match="inflates to more"):
        read_image(unfolding, max_pixels=1_000_000)


# JPEGs that lost something


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_mark_is_read_where_all_pixels_are_there(progressive, mode):
    whole = exact(noise().convert(mode), "JPEG", quality=80, progressive=progressive)
    assert whole.endswith(b"\xff\xd9")
    for data in (whole[:-2], whole[:-1], whole[:-2] + bytes(700)):
        assert np.array_equal(decode(data), decode(whole))
        assert np.array_equal(decode(data, 32), decode(whole, 32))
    last_scan = whole.rindex(b"\xff\xda")
    for cut in (len(whole) - 40, len(whole) // 2, last_scan):
        with pytest.raises(BadImage):
            decode(whole[:cut])
    # an end mark put behind half of an image does not make it whole
    with pytest.raises(BadImage, match="truncated"):
        decode(whole[: len(whole) // 2] + b"\xff\xd9")


def twelve_bit() -> bytes:
    "A JPEG that says 12 bits a channel; no program at hand writes a real one."
    data = bytearray(exact(noise(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    return bytes(data)


def test_what_is_not_read_is_called_by_its_name():
    lossless = exact(noise(), "JPEG").replace(b"\xff\xc0", b"\xff\xc3", 1)
    for data, words in (
        (twelve_bit(), "12-bit JPEG"),
        (lossless, "lossless JPEG"),
        (exact(noise(), "JPEG").replace(b"\xff\xc0", b"\xff\xf7", 1), "JPEG-LS"),
        (b"\0\0\0\x20ftypavif" + bytes(200), "AVIF"),
        (b"\0\0\0\x20ftypqt  " + bytes(200), "video"),
        (b"\xff\x0a" + bytes(200), "JPEG XL"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"no image at all", "not an image"),
    ):
        with pytest.raises(OtherKind, match=words):
            decode(data)


def test_the_reason_stands_in_rejected_csv(tmp_path):
    for folder in ("benign", "malignant"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for i in range(4):
        folder = tmp_path / "in" / ("malignant" if i % 2 else "benign")
        (folder / f"good{i}.jpg").write_bytes(exact(noise(), "JPEG", quality=80 + i))
    (tmp_path / "in" / "benign" / "deep.jpg").write_bytes(twelve_bit())
    (tmp_path / "in" / "benign" / "phone.jpg").write_bytes(exact(noise(), "JPEG", quality=70)[:-2])
    table = lesion_table([Source.parse(f"folder={tmp_path / 'in'}")])
    build_store(table, tmp_path / "store", [32], workers=1)
    rejected = pd.read_csv(tmp_path / "store" / "rejected.csv")
    assert rejected["image_name"].tolist() == ["deep"]
    assert "12-bit JPEG" in rejected.iloc[0].to_json()


def test_the_markers_of_a_jpeg():
    plain = exact(noise(), "JPEG")
    marks = jpeg_marks(plain)
    assert (marks.frame, marks.bits, marks.width, marks.height) == (0xC0, 8, 200, 160)
    assert (marks.channels, marks.scans, marks.ended, marks.complete) == (3, 1, True, True)
    progressive = exact(noise(), "JPEG", progressive=True)
    assert jpeg_marks(progressive).scans == progressive.count(b"\xff\xda") == 10
    # behind the end mark, in a segment: not its own
    film = progressive + b"MotionPhoto_Data" + b"\xff\xda\0\x08" * 500
    assert jpeg_marks(film) == jpeg_marks(progressive)
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(progressive) + 2) + progressive
    assert jpeg_marks(plain[:2] + thumbnail + plain[2:]) == marks
    assert jpeg_marks(exact(noise(), "JPEG", restart_marker_blocks=1)).scans == 1


def test_hostile_markers_take_no_time():
    for data in (
        b"\xff\xd8" + b"\xff" * 20_000_000,
        b"\xff\xd8" + b"\xff\xd0" * 10_000_000,
        b"\xff\xd8" + b"\xff\0" * 10_000_000,
        b"\xff\xd8" + b"\xff\xfe\0\2" * 5_000_000,
        b"\xff\xd8" + b"\xff" * 20_000_000 + exact(noise(), "JPEG")[2:],
    ):
        begun = time.perf_counter()
        try:
            jpeg_marks(data)
        except BadImage as error:
            assert "segments" in str(error)
        assert time.perf_counter() - begun < 5


# what phones, scanners and clinics write


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".dcm", ""])
@pytest.mark.parametrize("kind", ["GIF", "JPEG2000", "JPEG", "BMP"])
def test_the_bytes_say_what_a_file_is_whatever_its_suffix(tmp_path, kind, suffix):
    path = tmp_path / f"lesion{suffix}"
    path.write_bytes(exact(flat(), kind))
    image = read_image(path)
    assert (image.width, image.height) == (64, 48)
    assert np.abs(image.pixels[5, 5].astype(int) - SKIN).max() <= 4


def test_the_first_picture_of_a_gif():
    frames = [flat(c).convert("P", palette=Image.Palette.ADAPTIVE) for c in (SKIN, (0, 0, 255))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert np.abs(decode(buffer.getvalue())[5, 5].astype(int) - SKIN).max() <= 4


def heic(**options) -> bytes:
    pytest.importorskip("pillow_heif").register_heif_opener()
    return exact(flat(), "HEIF", quality=100, **options)


def test_heic_is_read():
    image = read_image(heic())
    assert (image.width, image.height) == (64, 48)
    assert np.abs(image.pixels[5, 5].astype(int) - SKIN).max() <= 3
    told = decode(heic(icc_profile=PROFILES["Display P3"]))
    assert np.abs(told[5, 5] - expected("Display P3", SKIN)).max() <= 4
    with pytest.raises(BadImage, match="limit of"):
        read_image(heic(), max_pixels=1000)
    with pytest.raises(BadImage, match="HEIC|corrupt"):
        read_image(heic()[:-100])


def test_heic_without_pillow_heif_is_refused_by_name(monkeypatch):
    data = heic() if "pillow_heif" in sys.modules else b"\0\0\0\x18ftypheic" + bytes(100)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # importing it fails
    with pytest.raises(OtherKind, match=r"HEIC image.*melanoma\[heic\]"):
        read_image(data)


def test_preprocessing_reads_files_of_every_kind(tmp_path: Path):
    rule = Preprocessing(32)
    for kind in ("JPEG", "PNG", "GIF", "JPEG2000", "TIFF", "WEBP", "BMP"):
        square = rule(exact(flat(), kind))
        assert square.shape == (32, 32, 3)
        assert np.abs(square.astype(int) - SKIN).max() <= 4
