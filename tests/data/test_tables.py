"""From sources to lesion tables: every layout, archives, groups, published counts."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma.core.errors import BadTable
from melanoma.data.build import build_store
from melanoma.data.folds import assign_folds
from melanoma.data.table import COLUMNS, Source, lesion_table, parse_sources
from support.dicom import dicom_file
from support.layouts import (
    CSV_COLUMNS,
    FILES,
    KINDS,
    LATER,
    SIZE,
    make_deotte,
    named_photo,
    sources,
    table_of,
    write_csv,
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_columns_and_types(data, kind):
    table = table_of(data, kind)
    assert tuple(table.columns) == COLUMNS
    assert set(table["source"]) == {kind}
    assert set(table["target"]) == ({-1} if kind == "dicom" else {0, 1})
    assert table["image_name"].is_unique and table["group"].notna().all()
    assert table["age_approx"].dtype == float and table["train_only"].dtype == bool
    assert table["row"].notna().all() == (kind == "siim-npy")
    assert all(Path(p).is_file() for p in table["path"])


def test_all_sources_together_keep_their_order(data):
    table = lesion_table(sources(data, *FILES))
    assert list(dict.fromkeys(table["source"])) == list(FILES)
    single = [table_of(data, kind) for kind in FILES]
    assert len(table) == sum(map(len, single))
    assert table["target"].tolist() == pd.concat(single)["target"].tolist()


def test_siim_keeps_patients_targets_and_published_duplicates(data):
    table = table_of(data, "siim2020").set_index("image_name")
    raw = pd.read_csv(data / "siim2020" / "train.csv").set_index("image_name")
    assert table["target"].tolist() == raw["target"].tolist()
    assert table["patient_id"].tolist() == raw["patient_id"].tolist()
    assert table["duplicate_of"].dropna().to_dict() == {
        "ISIC_1071": "ISIC_1030",
        "ISIC_1011": "ISIC_1010",
    }
    first = table.iloc[0]
    assert pd.isna(first["sex"]) and pd.isna(first["age_approx"]) and pd.isna(first["anatom_site"])
    assert set(table["anatom_site"].dropna()) == {"torso"}
    joined = table[table["patient_id"].isin(["IP_03", "IP_07"])]["group"]
    assert joined.nunique() == 1, "a pair of duplicates joins the two patients"
    others = table[~table["patient_id"].isin(["IP_03", "IP_07"])]
    assert (others["group"] == others["patient_id"]).all()


def test_siim_test_images_have_no_label(data):
    table = table_of(data, "siim2020", "test")
    assert set(table["target"]) == {-1} and set(table["split"]) == {"test"}
    both = table_of(data, "siim2020", "all")
    assert (both["target"] < 0).sum() == len(table)
    assert both.loc[both["split"] == "train", "target"].isin([0, 1]).all()


def test_ham_is_read_from_both_folders_and_grouped_by_lesion(data):
    table = table_of(data, "ham10000")
    assert {Path(p).parent.name for p in table["path"]} == {
        "HAM10000_images_part_1",
        "HAM10000_images_part_2",
    }
    assert (table["group"] == table["lesion_id"]).all() and table["group"].nunique() == 24
    assert ((table["diagnosis"] == "mel") == (table["target"] == 1)).all()
    raw = pd.read_csv(data / "ham10000" / "HAM10000_metadata.csv")
    expected = {
        "back": "torso",
        "trunk": "torso",
        "face": "head/neck",
        "hand": "upper extremity",
        "foot": "lower extremity",
        "acral": "palms/soles",
        "genital": "oral/genital",
    }
    for localization, site in zip(raw["localization"], table["anatom_site"], strict=True):
        assert pd.isna(site) if localization == "unknown" else site == expected[localization]


def test_isic2017_pools_its_parts_and_ignores_superpixels(data):
    table = table_of(data, "isic2017")
    assert table["split"].value_counts().to_dict() == {"train": 24, "validation": 8}
    assert not table["image_name"].str.contains("superpixels").any()
    assert not table["path"].str.contains("superpixels").any()
    assert table["target"].tolist()[:8] == [0, 0, 0, 1] * 2
    assert table["diagnosis"].tolist()[:4] == ["nevus", "seborrheic keratosis", "nevus", "melanoma"]
    assert (table["group"] == table["image_name"]).all()


def test_isic2017_joins_its_metadata_by_name(data):
    table = table_of(data, "isic2017", "train").set_index("image_name")
    assert len(table) == 24
    unknown = table.loc["ISIC_3023"]  # first in the metadata, last in the labels
    assert pd.isna(unknown["sex"]) and pd.isna(unknown["age_approx"])
    assert table.loc["ISIC_3022", "age_approx"] == 30 and table.loc["ISIC_3000", "age_approx"] == 52


def test_isic2017_may_keep_its_images_in_one_folder(data, tmp_path):
    copy = shutil.copytree(data / "isic2017", tmp_path / "isic2017")
    (copy / "images").mkdir()
    for path in [*copy.glob("ISIC-2017_*_Data/*")]:
        path.rename(copy / "images" / path.name)
    moved = lesion_table(parse_sources(f"isic2017={copy}"))
    assert moved.drop(columns="path").equals(table_of(data, "isic2017").drop(columns="path"))
    assert {Path(p).parent.name for p in moved["path"]} == {"images"}


def test_isic2019_knows_melanoma_lesion_and_site(data):
    table = table_of(data, "isic2019").set_index("image_name")
    assert len(table) == 27 and int(table["target"].sum()) == 3
    assert table.loc["ISIC_6001", "diagnosis"] == "nv"
    assert set(table["anatom_site"].dropna()) == {"torso", "head/neck"}
    known = table["lesion_id"].notna()
    assert (table.loc[known, "group"] == table.loc[known, "lesion_id"]).all()
    assert (table.loc[~known, "group"] == table.index[~known]).all()
    assert "ISIC_6000_downsampled" in table.index


def test_isic2019_refuses_an_image_of_two_diagnoses(data, tmp_path):
    copy = shutil.copytree(data / "isic2019", tmp_path / "isic2019")
    label = copy / "ISIC_2019_Training_GroundTruth.csv"
    frame = pd.read_csv(label)
    frame.loc[3, "MEL"] = 1.0
    frame.to_csv(label, index=False)
    with pytest.raises(BadTable, match="not exactly one diagnosis: ISIC_6003"):
        lesion_table(parse_sources(f"isic2019={copy}"))


def test_deotte_leaves_out_what_is_marked_and_keeps_the_shards(data, capsys):
    table = table_of(data, "deotte")
    assert len(table) == 58 and "2 images of tfrecord −1 left out" in capsys.readouterr().out
    assert table["tfrecord"].between(0, 14).all()
    folds = assign_folds(table, 5, scheme="tfrecord")
    assert (folds["fold"] == table["tfrecord"] % 5).all()
    assert (folds.groupby("group")["fold"].nunique() == 1).all()
    tests = table_of(data, "deotte", "test")
    assert len(tests) == 3 and (tests["target"] == -1).all()


def test_deottes_extra_malignant_images_are_read_from_their_three_tables(tmp_path):
    for k in (1, 2, 3):
        name = named_photo(tmp_path / "jpeg128" / f"ISIC_75{k}.jpg", 7500 + k)
        columns = {"image_name": [name], "patient_id": [-1], "target": [1], "tfrecord": [k]}
        write_csv(tmp_path / f"train_malig_{k}.csv", columns)
    table = lesion_table(parse_sources(f"deotte={tmp_path}"))
    assert table["target"].tolist() == [1, 1, 1] and table["tfrecord"].tolist() == [1, 2, 3]
    assert table["patient_id"].isna().all() and table["group"].nunique() == 3


def test_two_sets_of_one_kind_are_told_apart_by_their_folders(data, tmp_path):
    extra = make_deotte(tmp_path / "jpeg-isic2019-32x32", 15)
    both = parse_sources(f"deotte={data / 'deotte'};deotte={extra}", "deotte-jpeg-isic2019-32x32")
    table = lesion_table(both)
    assert set(table["source"]) == {"deotte-deotte", "deotte-jpeg-isic2019-32x32"}
    assert table.groupby("source")["train_only"].first().tolist() == [False, True]


def test_a_set_without_shards_says_what_to_take(data, tmp_path):
    shutil.copytree(data / "siim2020" / "jpeg" / "train", tmp_path / "train")
    shutil.copyfile(data / "siim2020" / "train.csv", tmp_path / "train.csv")
    with pytest.raises(BadTable, match="no column tfrecord"):
        lesion_table(parse_sources(f"deotte={tmp_path}"))


def test_dicom_headers_fill_the_table(data):
    table = table_of(data, "dicom")
    assert len(table) == 12 and (table["target"] == -1).all()
    assert table["group"].nunique() == 4 and table["group"].iloc[0].startswith("dicom:p")
    assert set(table["anatom_site"]) == {"torso"} and set(table["sex"]) == {"female"}
    assert set(table["age_approx"]) == {55.0}


def test_a_clinics_dicom_folder_has_its_oddities(data, tmp_path, capsys):
    named_photo(tmp_path / "plain.jpg", 8100)
    jpeg = (tmp_path / "plain.jpg").read_bytes()
    for patient in ("p1", "p2"):  # the same file names for each patient, and no suffix
        folder = tmp_path / "cd" / patient
        dicom_file(folder / "IM0001", jpeg, PatientID=patient, BodyPartExamined="SKIN")
        dicom_file(folder / "IM0002", jpeg, PatientID=patient, BodyPartExamined="ARM")
    dicom_file(tmp_path / "cd" / "p3" / "1.2.840.7", jpeg, PatientID="p3")
    (tmp_path / "cd" / "README").write_text("no picture")
    cut = tmp_path / "cd" / "p2" / "IM0002"
    cut.write_bytes(cut.read_bytes()[:300])
    table = lesion_table(parse_sources(f"dicom={tmp_path / 'cd'}"))
    names = ["p1/IM0001", "p1/IM0002", "p2/IM0001", "p2/IM0002", "1.2.840.7"]
    assert table["image_name"].tolist() == names
    assert "body site skin taken as not known" in capsys.readouterr().out
    assert table["anatom_site"].dropna().tolist() == ["upper extremity"]
    store = build_store(table, tmp_path / "store", [SIZE])
    assert len(store) == 4 and store.rejected["image_name"].tolist() == ["p2/IM0002"]


def test_a_csv_never_takes_a_picture_from_another_folder(tmp_path):
    named_photo(tmp_path / "p2" / "1.png", 8200)
    named_photo(tmp_path / "p2" / "2.png", 8201)
    columns = {"image_name": ["p1/1.png", "p2/2.png"], "target": [0, 1]}
    write_csv(tmp_path / "labels.csv", columns)
    with pytest.raises(BadTable, match="1 of 2 images listed have no file: 1"):
        lesion_table(parse_sources(f"csv={tmp_path / 'labels.csv'}"))


def test_what_a_mac_adds_to_an_archive_is_passed_over(data, tmp_path):
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted((data / "folder").rglob("*.png")):
            name = path.relative_to(data / "folder").as_posix()
            target.write(path, f"photos/{name}")
            target.writestr(f"__MACOSX/photos/{path.parent.name}/._{path.name}", b"fork")
            target.writestr(f"photos/{path.parent.name}/._{path.name}", b"fork")
    assert len(lesion_table(parse_sources(f"folder={archive}"))) == 16


def test_dicom_in_siims_layout_is_labelled_by_its_table(data, tmp_path):
    for path in (data / "siim2020" / "jpeg" / "train").glob("*.jpg"):
        dicom_file(tmp_path / "train" / f"{path.stem}.dcm", path.read_bytes())
    shutil.copyfile(data / "siim2020" / "train.csv", tmp_path / "train.csv")
    ours = build_store(lesion_table(parse_sources(f"dicom={tmp_path}")), tmp_path / "a", [SIZE])
    same = build_store(table_of(data, "siim2020"), tmp_path / "b", [SIZE])
    assert (ours.table["target"] == same.table["target"]).all()
    assert np.array_equal(ours.images, same.images)  # the JPEG inside, by the same rule


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FILES, *LATER])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_archive_reads_as_the_folder_that_was_packed(data, tmp_path, kind, wrapped):
    archive, root = tmp_path / "data set.zip", data / kind
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                name = path.relative_to(root).as_posix()
                target.write(path, f"{root.name}/{name}" if wrapped else name)
    inside = archive if kind != "csv" else archive / ("csv/labels.csv" if wrapped else "labels.csv")
    packed = lesion_table(parse_sources(f"{kind}={inside}", **CSV_COLUMNS))
    plain = table_of(data, kind)
    pd.testing.assert_frame_equal(packed.drop(columns="path"), plain.drop(columns="path"))
    ours = build_store(packed, tmp_path / "packed", [SIZE])
    assert np.array_equal(ours.images, build_store(plain, tmp_path / "plain", [SIZE]).images)


def test_a_damaged_archive_and_a_damaged_member_are_named(data, tmp_path):
    archive = tmp_path / "folder.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted((data / "folder").rglob("*.png")):
            target.write(path, path.relative_to(data / "folder").as_posix())
    whole = archive.read_bytes()
    png = whole.index(b"\x89PNG") + 200
    archive.write_bytes(whole[:png] + bytes(16) + whole[png + 16 :])
    store = build_store(lesion_table(parse_sources(f"folder={archive}")), tmp_path / "s", [SIZE])
    assert len(store.rejected) == 1 and "CRC" in store.rejected["reason"].iloc[0]
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadTable, match="no readable zip archive"):
        lesion_table(parse_sources(f"folder={archive}"))
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("labels.csv", "image_name,target\nmole,0\n")
    archive.write_bytes(archive.read_bytes().replace(b"mole,0", b"mole,1"))
    with pytest.raises(BadTable, match="labels.csv is not readable as CSV.*CRC"):
        lesion_table(parse_sources(f"csv={archive}/labels.csv"))


def test_arrays_in_an_archive_must_be_unpacked(data, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "npy"), "zip", data / "siim-npy")
    with pytest.raises(BadTable, match="unpack it"):
        lesion_table(parse_sources(f"siim-npy={archive}"), "labelled", SIZE)


def test_a_csv_lists_files_in_any_of_four_ways(data):
    table = table_of(data, "csv")
    assert table["image_name"].tolist() == [f"own.{i}" for i in range(20)]
    for i, path in enumerate(table["path"]):
        assert Path(path).samefile(next((data / "csv").rglob(f"own.{i}.png")))
    assert table["target"].tolist() == [int(i % 4 == 1) for i in range(20)]
    assert table["group"].tolist() == [f"csv:{i // 2}" for i in range(20)]


def test_patients_of_two_clinics_are_two_although_both_are_number_1(data):
    path = data / "csv" / "labels.csv"
    table = lesion_table(
        [Source("csv", path, name=n, **CSV_COLUMNS) for n in ("clinic_a", "clinic_b")]
    )
    assert table.groupby("group")["source"].nunique().max() == 1
    assert table["group"].nunique() == 20


def test_a_folder_is_labelled_by_its_subfolders(data):
    table = table_of(data, "folder")
    assert "notes" not in set(table["image_name"])
    for path, target in zip(table["path"], table["target"], strict=True):
        assert Path(path).parent.name == ("malignant" if target else "benign")


def test_a_flat_folder_has_no_labels(tmp_path):
    named_photo(tmp_path / "b.jpg", 1)
    named_photo(tmp_path / "a.PNG", 2)
    table = lesion_table(parse_sources(f"folder={tmp_path}"))
    assert table["image_name"].tolist() == ["a", "b"] and set(table["target"]) == {-1}


@pytest.mark.parametrize("pairs", [[("a", "b"), ("b", "c")], [("a", "b"), ("c", "b")]])
def test_chained_duplicates_share_one_group(tmp_path, pairs):
    for i, name in enumerate("abc"):
        named_photo(tmp_path / "jpeg" / "train" / f"{name}.jpg", i)
    columns = {"image_name": [*"abc"], "patient_id": [*"pqr"], "target": [0, 1, 0]}
    write_csv(tmp_path / "train.csv", columns)
    listed = pd.DataFrame(pairs, columns=["image_name_1", "image_name_2"])
    listed.to_csv(tmp_path / "ISIC_2020_Training_Duplicates.csv", index=False)
    table = lesion_table(parse_sources(f"siim2020={tmp_path}"))
    assert table["group"].nunique() == 1


@pytest.fixture(scope="module")
def real() -> Path:
    if not os.environ.get("MELANOMA_DATA"):
        pytest.skip("MELANOMA_DATA is not set: the real data sets are not part of the project")
    return Path(os.environ["MELANOMA_DATA"])


def test_isic2017_has_its_published_counts(real):
    table = lesion_table(parse_sources(f"isic2017={real / 'isic2017'}"))
    assert (len(table), int(table["target"].sum())) == (2150, 404)
    assert table["split"].value_counts().to_dict() == {"train": 2000, "validation": 150}


@pytest.mark.slow
def test_ham10000_has_its_published_counts(real):
    table = lesion_table(parse_sources(f"ham10000={real / 'ham10000'}"))
    counts = len(table), int(table["target"].sum()), table["lesion_id"].nunique()
    assert counts == (10_015, 1_113, 7_470)
    folds = assign_folds(table)
    assert (folds.groupby("group")["fold"].nunique() == 1).all()
