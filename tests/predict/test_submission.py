"""Samples of a submission as people have them, and what is no sample."""

import numpy as np
import pandas as pd
import pytest

from melanoma.core.errors import BadInput
from melanoma.predict.submission import (
    check_sample,
    check_submission,
    read_sample,
    write_submission,
)
from support.checks import refusal


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
