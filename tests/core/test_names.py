"""Names that somebody else chose: they steer no terminal, set no formula, stop no source, and a
program gets them back exactly."""

import os
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from melanoma.core.errors import BadTable
from melanoma.core.names import on_disk, readable
from melanoma.core.reading import read_bytes, stamp
from melanoma.core.text import from_spreadsheet, spreadsheet, visible
from melanoma.data.build import build_store
from melanoma.data.spreadsheets import guarded, unguarded
from melanoma.data.table import lesion_table, parse_sources
from support.commands import melanoma, succeed

LATIN = os.fsdecode(b"L\xe4sion")  # a name as an old system wrote it: no UTF-8
NAMES = {  # stem on disk → image_name
    "mole_$3_left_$4": "mole_$3_left_$4",
    "=HYPERLINK(1)": "=HYPERLINK(1)",
    "a;@SUM(1)": "a;@SUM(1)",
    "clear\x1b[2J\x1b]0;title\x07": "clear\x1b[2J\x1b]0;title\x07",
    "two\nlines": "two\nlines",
    "gpj\u202eexe": "gpj\u202eexe",
    LATIN: "L\u00e4sion",
}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file systems that take any bytes")


def picture(seed: int) -> bytes:
    "A JPEG of noise around a spot."
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 48, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.circle(pixels, (24, 24), 9, (40, 60, 90), -1))[1].tobytes()


def write_hostile(folder: Path) -> Path:
    "A folder of images with such names; one of them in a folder that is no UTF-8 either."
    for seed, stem in enumerate(NAMES):
        home = folder / "benign" / (os.fsdecode(b"patient 7 \xfc") if stem == LATIN else "")
        home.mkdir(parents=True, exist_ok=True)
        (home / f"{stem}.jpg").write_bytes(picture(seed))
    (folder / "malignant").mkdir(exist_ok=True)
    (folder / "malignant" / "mole.jpg").write_bytes(picture(99))
    (folder / "malignant" / "-broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    return write_hostile(tmp_path_factory.mktemp("names") / "photos")


def test_a_store_is_made_of_any_names_and_holds_them_exactly(hostile, tmp_path):
    table = lesion_table(parse_sources(f"folder={hostile}"))
    store = build_store(table, tmp_path / "store", [32], workers=1)
    assert set(store.table["image_name"]) == {*NAMES.values(), "mole"}
    assert store.rejected["image_name"].tolist() == ["-broken"]
    written = (tmp_path / "store" / "rejected.csv").read_text(encoding="utf-8")
    assert "folder,'-broken," in written
    path = table.loc[table["image_name"] == "L\u00e4sion", "path"].item()
    assert read_bytes(path) == picture(list(NAMES).index(LATIN))
    assert stamp(path)[0] == len(read_bytes(path)) and LATIN in str(on_disk(path))


def test_a_latin_1_table_finds_latin_1_files(hostile, tmp_path):
    folder = hostile / "benign" / os.fsdecode(b"patient 7 \xfc")
    (folder / "labels.csv").write_bytes("image_name;target\nL\xe4sion.jpg;1\n".encode("cp1252"))
    raw = lesion_table(parse_sources(f"csv={folder}/labels.csv"))  # as an argument may be, too
    assert raw["image_name"].tolist() == ["L\u00e4sion"] and raw["target"].tolist() == [1]
    (folder / "labels.csv").unlink()


def test_a_missing_file_is_still_said_to_be_missing(tmp_path):
    (tmp_path / "t.csv").write_text("image_name,target\nL\u00e4sion,1\n", encoding="utf-8")
    with pytest.raises(BadTable, match="L\u00e4sion"):
        lesion_table(parse_sources(f"csv={tmp_path / 't.csv'}"))
    assert readable("/a/b") == "/a/b" and on_disk("/L\u00e4").as_posix() == "/L\u00e4"


def test_an_archive_with_a_latin_1_name_of_its_own(hostile, tmp_path):
    archive = tmp_path / f"{LATIN}.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("benign/a.jpg", picture(1))
        target.writestr("malignant/b.jpg", picture(2))
    table = lesion_table(parse_sources(f"folder={archive}"))
    assert table["image_name"].tolist() == ["a", "b"]
    assert read_bytes(table["path"][0]) == picture(1)


def test_tables_for_people_give_their_texts_back():
    names = [*NAMES.values(), "'=1", "''-1", "\t=1", "x;'=1", "-0.jpg", "\uff1dA1", "plain"]
    table = pd.DataFrame({"image_name": names, "outlier": np.linspace(-1, 1, len(names))})
    safe = guarded(table)
    pd.testing.assert_frame_equal(unguarded(safe), table)
    assert not safe["image_name"].str.contains(r"(?:^|[;\t\r\n])[=+\-@\t\r＝＋－＠]").any()
    assert spreadsheet("mole-1") == "mole-1" and from_spreadsheet("it's") == "it's"
    assert safe["outlier"].tolist() == table["outlier"].tolist()


def test_predict_prints_and_draws_any_names(project, hostile):
    words = ["--run", "tiny", "--source", f"folder={hostile}", "--split", "all"]
    done = melanoma(project, "predict", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "rejected: -broken" in said
    assert not {c for c in said if ord(c) < 32 or c == "\u202e"} - set("\n\r\t")
    path = project / "output/tiny/predictions.csv"
    text = path.read_text(encoding="utf-8")
    assert "'=HYPERLINK(1)" in text and "a;'@SUM(1)" in text and ",=HYPERLINK" not in text
    exact = unguarded(pd.read_csv(path, dtype={"image_name": str}))
    assert set(exact["image_name"]) == {*NAMES.values(), "mole", "-broken"}
    assert (exact["status"] == "ok").sum() == len(NAMES) + 1
    from melanoma.evaluation.gallery import Gallery
    from melanoma.run.layout import Run

    gallery = Gallery.of_predictions(Run.named("tiny", project))
    assert gallery.lesion("=HYPERLINK(1)").image_name == "=HYPERLINK(1)"


def test_an_error_steers_no_terminal(project, tmp_path):
    done = melanoma(project, "predict", "--run", "tiny", "--source", "folder=no\x1b[2Jsuch")
    assert done.returncode == 2 and "\x1b" not in done.stderr and r"no\x1b[2Jsuch" in done.stderr
    assert visible("a\nb", "text") == "a\nb" and visible("a\nb") == r"a\nb"


def test_a_submission_has_the_exact_names(project, hostile, tmp_path):
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("image_name,target\n=HYPERLINK(1),0\nmole_$3_left_$4,0\n", encoding="utf-8")
    words = ["--source", f"folder={hostile}", "--split", "all", "--sample-submission", str(sample)]
    succeed(project, "predict", "--run", "tiny", *words)
    made = pd.read_csv(project / "output/tiny/submission.csv")
    assert made["image_name"].tolist() == ["=HYPERLINK(1)", "mole_$3_left_$4"]
