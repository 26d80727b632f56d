"""What a user sees who gives something wrong."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melanoma.core import BadFolds, BadImage, BadInput, BadTable, MissingWeights
from melanoma.folds import fold_rows, make_folds
from melanoma.images import decode
from melanoma.model import create_model
from melanoma.store import build_store
from melanoma.tables import check_labels, lesion_table, parse_sources


def photo(path: Path, **options) -> bytes:
    "A noisy JPEG of 60 × 40 px, written and returned."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path.read_bytes()


def table_of(tmp_path: Path, text: str, **columns) -> pd.DataFrame:
    "The lesion table of a CSV beside two photos."
    for name in ("a", "b"):
        photo(tmp_path / f"{name}.jpg")
    (tmp_path / "labels.csv").write_text(text)
    return lesion_table(parse_sources(f"csv={tmp_path / 'labels.csv'}", **columns))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,target\na,0\n", "has no column 'image_name'; it has: image, target"),
        ("image_name,label\na,0\n", "has no label column 'target'"),
        ("image_name,target\na,0\na,1\n", "1 image names come twice: a"),
        ("image_name,target\na,0\nb,maybe\n", "unknown label 'maybe'; known: 0/1"),
        ("image_name,target\na,0\nc,1\n", "1 of 2 images listed have no file: c"),
        ("image_name,target\n", "has a header but no rows"),
        ("image_name,target\n,1\na,0\n", "line 2: image_name is empty"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path, text, message):
    with pytest.raises(BadTable) as error:
        table_of(tmp_path, text)
    assert message in str(error.value)


def test_one_class_only_is_refused(tmp_path):
    table = table_of(tmp_path, "image_name,target\na,0\nb,0\n")
    with pytest.raises(BadTable, match="all 2 images are benign"):
        check_labels(table)


@pytest.mark.parametrize("kind", ["siim2020", "ham10000", "isic2017", "folder"])
def test_a_wrong_folder_is_named(tmp_path, kind):
    with pytest.raises(BadTable, match="nowhere"):
        lesion_table(parse_sources(f"{kind}={tmp_path / 'nowhere'}"))


def test_broken_images_are_rejected_and_the_good_ones_kept(tmp_path):
    whole = photo(tmp_path / "good.jpg")
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "corrupt.jpg").write_bytes(whole[:20] + b"\0" * 400 + whole[420:])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("image_name,target\n")
    Image.new("CMYK", (50, 50), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    deep = Image.fromarray(np.full((50, 50), 40_000, np.uint16))
    deep.save(tmp_path / "deep.png")
    store = build_store(lesion_table(parse_sources(f"folder={tmp_path}")), tmp_path / "s", [32])
    reasons = dict(zip(store.rejected["image_name"], store.rejected["reason"], strict=True))
    assert store.table["image_name"].tolist() == ["cmyk", "deep", "good"]
    assert set(reasons) == {"truncated", "corrupt", "empty", "text"}
    assert "truncated" in reasons["truncated"] and reasons["empty"] == "empty file (0 bytes)"
    assert reasons["text"].startswith("not an image")
    assert store.images[1].mean() == pytest.approx(40_000 / 257, abs=1)
    red = store.images[0].reshape(-1, 3).mean(axis=0)
    assert red[0] > 150 and red[1] < 80


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation):
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:4, :8] = 255  # the top left quarter is white
    turns = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(turns[orientation](upright))).save(
        buffer, "PNG", exif=exif
    )
    assert np.array_equal(decode(buffer.getvalue()), upright)


def test_an_image_bomb_is_refused_before_decoding(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(BadImage, match="limit"):
        decode(tmp_path / "bomb.png")


def test_weights_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MELANOMA_ROOT", str(tmp_path))
    with pytest.raises(MissingWeights, match="is not there"):
        create_model("resnet18", str(tmp_path / "none.pth"))

    def offline(arch):
        raise OSError("no network")

    monkeypatch.setattr("melanoma.model._download", offline)
    with pytest.raises(
        MissingWeights, match=r"\(1\) put .*\(2\) install.*\(3\) be online.*no network"
    ):
        create_model("resnet18", "auto")
    with pytest.raises(BadInput, match="arch 'resnet19' is not known"):
        create_model("resnet19")


def lesions(seed: int) -> pd.DataFrame:
    "600 lesions of two sources in groups of 1 to 20."
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(200), rng.integers(1, 21, 200))[:600]
    return pd.DataFrame(
        {
            "source": np.where(group % 3 == 0, "siim2020", "ham10000"),
            "image_name": [f"i{k}" for k in range(len(group))],
            "group": [f"g{k}" for k in group],
            "target": (rng.random(len(group)) < 0.2).astype(int),
            "train_only": group % 10 == 0,
        }
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_folds", [2, 5])
def test_no_group_is_on_two_sides(seed, n_folds):
    folds = make_folds(lesions(seed), n_folds, seed)
    for k in range(n_folds):
        rows = fold_rows(folds, k, seed=seed)
        groups = {name: set(folds["group"].iloc[index]) for name, index in rows.items()}
        assert not groups["train"] & groups["held"]
        assert not groups["train"] & groups["watch"]
        assert not groups["watch"] & groups["held"]
    with pytest.raises(BadFolds, match=f"fold {n_folds} does not exist"):
        fold_rows(folds, n_folds)
