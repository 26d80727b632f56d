"""Tables and folders that are wrong: the message names what, where, and what to do."""

import shutil

import numpy as np
import pandas as pd
import pytest

from melanoma.core.errors import BadInput, BadTable
from melanoma.data.build import build_store
from melanoma.data.table import check_labels, lesion_table, parse_sources
from support.checks import refusal
from support.images import photo
from support.layouts import GOOD, good, write_kind

# the tables


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
