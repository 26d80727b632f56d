"""From sources to folds without training: every layout, the store, and groups that never leak."""

import errno
import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melanoma.core.errors import BadFolds, BadTable, MelanomaError
from melanoma.data import build as build_module
from melanoma.data import decode_many
from melanoma.data.build import build_store
from melanoma.data.decoding import decode
from melanoma.data.folds import assign_folds, fold_rows, fold_table
from melanoma.data.preprocessing import Preprocessing, resize
from melanoma.data.store import Store
from melanoma.data.table import COLUMNS, Source, lesion_table, parse_sources

SIZE = 32


def photo(path: Path, seed: int, like: Path | None = None) -> str:
    "A small noisy image of its own, or the bytes of another file."
    path.parent.mkdir(parents=True, exist_ok=True)
    if like:
        shutil.copyfile(like, path)
    else:
        pixels = np.random.default_rng(seed).integers(0, 255, (36, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return path.stem


def write_csv(path: Path, columns: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, index=False)


# small data sets in every layout. seeds are ranges of their own: no two images are alike by chance


def make_siim2020(root: Path, patients: int = 14) -> Path:
    "Patients of 1 to 4 images, 4 test images, and 2 published pairs of duplicates."
    rows = []
    for p in range(patients):
        for i in range(1 + p % 4):
            name = photo(root / "jpeg" / "train" / f"ISIC_1{p:02}{i}.jpg", 1000 + 10 * p + i)
            rows.append((name, f"IP_{p:02}", "female", 45.0, "torso", "unknown", int(i == 0)))
    frame = pd.DataFrame(
        rows,
        columns=[
            *("image_name", "patient_id", "sex", "age_approx"),
            *("anatom_site_general_challenge", "diagnosis", "target"),
        ],
    )
    frame.loc[0, ["sex", "age_approx", "anatom_site_general_challenge"]] = None
    frame.to_csv(root / "train.csv", index=False)
    tests = [photo(root / "jpeg" / "test" / f"ISIC_190{i}.jpg", 1900 + i) for i in range(4)]
    write_csv(root / "test.csv", {"image_name": tests, "patient_id": "IP_99"})
    pairs = {"image_name_1": ["ISIC_1030", "ISIC_1010"], "image_name_2": ["ISIC_1071", "ISIC_1011"]}
    write_csv(root / "ISIC_2020_Training_Duplicates.csv", pairs)
    return root


def make_siim_npy(root: Path, n: int = 12) -> Path:
    "Resized arrays beside their tables, as the public data set has them."
    for part, count, seed in (("train", n, 5), ("test", 4, 6)):
        names = [f"ISIC_{part}{i}" for i in range(count)]
        columns = {"image_name": names, "patient_id": [f"IP_{i // 2}" for i in range(count)]}
        if part == "train":
            columns["target"] = [int(i % 3 == 0) for i in range(count)]
        write_csv(root / f"{part}.csv", columns)
        pixels = np.random.default_rng(seed).integers(0, 255, (count, SIZE, SIZE, 3), np.uint8)
        np.save(root / f"x_{part}_{SIZE}.npy", pixels)
    return root


SITES_OF_HAM = ("back", "face", "hand", "foot", "acral", "genital", "unknown", "trunk")


def make_ham10000(root: Path, lesions: int = 24) -> Path:
    "Lesions of 1 to 2 images, half of the images in each of the two folders."
    rows = []
    for k in range(lesions):
        for i in range(1 + k % 2):
            part = f"HAM10000_images_part_{1 + len(rows) % 2}"
            name = photo(root / part / f"ISIC_2{k:02}{i}.jpg", 2000 + 10 * k + i)
            dx = "mel" if k % 3 == 0 else ("nv", "bkl")[k % 2]
            rows.append((f"HAM_{k:03}", name, dx, 50, "male", SITES_OF_HAM[k % 8]))
    names = ["lesion_id", "image_id", "dx", "age", "sex", "localization"]
    pd.DataFrame(rows, columns=names).to_csv(root / "HAM10000_metadata.csv", index=False)
    return root


def make_isic2017(root: Path, training: int = 24, validation: int = 8) -> Path:
    "Two parts with superpixel masks; the first image of one is the last of the other."
    for part, count, seed in (("Training", training, 3000), ("Validation", validation, 3500)):
        folder = root / f"ISIC-2017_{part}_Data"
        names = [f"ISIC_{seed + i}" for i in range(count)]
        for i, name in enumerate(names):
            again = part == "Validation" and i == count - 1
            like = root / "ISIC-2017_Training_Data" / "ISIC_3000.jpg" if again else None
            photo(folder / f"{name}.jpg", seed + i, like)
            photo(folder / f"{name}_superpixels.png", 9000)
        melanoma = [float(i % 4 == 3) for i in range(count)]
        keratosis = [float(i % 4 == 1) for i in range(count)]
        label = {"image_id": names, "melanoma": melanoma, "seborrheic_keratosis": keratosis}
        write_csv(root / f"ISIC-2017_{part}_Part3_GroundTruth.csv", label)
        about = {
            "image_id": names[::-1],  # in another order than the labels
            "age_approximate": ["unknown", *range(30, 29 + count)],
            "sex": ["unknown"] + ["female"] * (count - 1),
        }
        write_csv(root / f"ISIC-2017_{part}_Data_metadata.csv", about)
    return root


DIAGNOSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")


def make_isic2019(root: Path, n: int = 27) -> Path:
    "One-hot diagnoses; every third image has no lesion_id; names may end in _downsampled."
    folder = root / "ISIC_2019_Training_Input"
    names = [
        photo(folder / f"ISIC_6{i:03}{'_downsampled' if i % 4 == 0 else ''}.jpg", 6000 + i)
        for i in range(n)
    ]
    marks = {d: [float(i % 9 == k) for i in range(n)] for k, d in enumerate(DIAGNOSES)}
    write_csv(root / "ISIC_2019_Training_GroundTruth.csv", {"image": names} | marks)
    about = {
        "image": names[::-1],
        "age_approx": [None, *range(30, 29 + n)],
        "anatom_site_general": ["anterior torso", "head/neck", None] * (n // 3),
        "lesion_id": [None if i % 3 == 0 else f"BCN_{i // 2}" for i in range(n)][::-1],
        "sex": ["male"] * n,
    }
    write_csv(root / "ISIC_2019_Training_Metadata.csv", about)
    return root


def make_deotte(root: Path, patients: int = 30) -> Path:
    "Deotte's train.csv: 15 shards by patient, the last two images marked −1; and its test set."
    rows = []
    for p in range(patients):
        for i in range(2):
            name = photo(root / "train" / f"ISIC_7{p:02}{i}.jpg", 7000 + 10 * p + i)
            shard = -1 if p == patients - 1 else p % 15
            rows.append((name, f"IP_7{p:02}", "male", 45, "torso", int(i == 0), shard, 6000, 4000))
    names = ["image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge"]
    names += ["target", "tfrecord", "width", "height"]
    pd.DataFrame(rows, columns=names).to_csv(root / "train.csv", index=False)
    tests = [photo(root / "test" / f"ISIC_79{i}.jpg", 7900 + i) for i in range(3)]
    write_csv(root / "test.csv", {"image_name": tests, "patient_id": "IP_799"})
    return root


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


def make_dicom(root: Path, n: int = 12) -> Path:
    "A clinic's files: the header knows patient, sex, age and site."
    for i in range(n):
        photo(root / "plain.jpg", 8000 + i)
        fields = {"PatientID": f"p{i // 3}", "PatientSex": "F", "PatientAge": "055Y"}
        fields |= {"BodyPartExamined": "BACK"}
        dicom_file(
            root / f"visit{i % 2}" / f"d{i}.dcm", (root / "plain.jpg").read_bytes(), **fields
        )
    (root / "plain.jpg").unlink()
    return root


def make_csv(root: Path, n: int = 20) -> Path:
    "Paths absolute, relative, relative without suffix, and bare names beside images/."
    listed = []
    for i in range(n):
        folder = ("elsewhere", "photos/deep", "photos", "images")[i % 4]
        path = root / folder / f"own.{i}.png"  # names may hold dots
        photo(path, 4000 + i)
        way = (
            str(path),
            f"{folder}/{path.name}",
            f"{folder}/own.{i}",
            f"own.{i}",
        )
        listed.append(way[i % 4])
    columns = {
        "file": listed,
        "label": ["melanoma" if i % 4 == 1 else "benign" for i in range(n)],
        "person": [i // 2 for i in range(n)],
    }
    write_csv(root / "labels.csv", columns)
    return root / "labels.csv"


def make_folder(root: Path, n: int = 16) -> Path:
    "benign/ and malignant/, with a file that is no image; one photo is a copy of another source's."
    for i in range(n):
        photo(root / ("malignant" if i % 3 == 0 else "benign") / f"f{i}.png", 5000 + i)
    (root / "benign" / "notes.txt").write_text("not an image")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    make_siim2020(root / "siim2020")
    make_siim_npy(root / "siim-npy")
    make_ham10000(root / "ham10000")
    make_isic2017(root / "isic2017")
    make_isic2019(root / "isic2019")
    make_deotte(root / "deotte")
    make_dicom(root / "dicom")
    make_csv(root / "csv")
    make_folder(root / "folder")
    # the same file in two sources, once under a group of two images
    photo(
        root / "folder" / "benign" / "copy.jpg",
        0,
        root / "ham10000" / "HAM10000_images_part_2" / "ISIC_2010.jpg",
    )
    return root


CSV_COLUMNS = {"image_col": "file", "target_col": "label", "group_col": "person"}


def sources(data: Path, *kinds: str, train_only: str = "") -> list[Source]:
    paths = [f"{k}={data / k / 'labels.csv' if k == 'csv' else data / k}" for k in kinds]
    return parse_sources(";".join(paths), train_only, **CSV_COLUMNS)


def table_of(data: Path, kind: str, split: str = "labelled") -> pd.DataFrame:
    return lesion_table(sources(data, kind), split, SIZE)


FILES = ("siim2020", "ham10000", "isic2017", "csv", "folder")
LATER = ("isic2019", "deotte", "dicom")
KINDS = (*FILES, *LATER, "siim-npy")


# lesion tables


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
        name = photo(tmp_path / "jpeg128" / f"ISIC_75{k}.jpg", 7500 + k)
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
    photo(tmp_path / "plain.jpg", 8100)
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
    photo(tmp_path / "p2" / "1.png", 8200)
    photo(tmp_path / "p2" / "2.png", 8201)
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
    photo(tmp_path / "b.jpg", 1)
    photo(tmp_path / "a.PNG", 2)
    table = lesion_table(parse_sources(f"folder={tmp_path}"))
    assert table["image_name"].tolist() == ["a", "b"] and set(table["target"]) == {-1}


@pytest.mark.parametrize("pairs", [[("a", "b"), ("b", "c")], [("a", "b"), ("c", "b")]])
def test_chained_duplicates_share_one_group(tmp_path, pairs):
    for i, name in enumerate("abc"):
        photo(tmp_path / "jpeg" / "train" / f"{name}.jpg", i)
    columns = {"image_name": [*"abc"], "patient_id": [*"pqr"], "target": [0, 1, 0]}
    write_csv(tmp_path / "train.csv", columns)
    listed = pd.DataFrame(pairs, columns=["image_name_1", "image_name_2"])
    listed.to_csv(tmp_path / "ISIC_2020_Training_Duplicates.csv", index=False)
    table = lesion_table(parse_sources(f"siim2020={tmp_path}"))
    assert table["group"].nunique() == 1


# the store


@pytest.fixture(scope="module")
def everything(data, tmp_path_factory) -> Store:
    "The store of all sources that are files."
    table = lesion_table(sources(data, *FILES, train_only="isic2017"))
    return build_store(table, tmp_path_factory.mktemp("everything"), [SIZE, 48])


def test_the_store_holds_decode_and_resize_of_every_file(everything):
    assert len(everything) == len(everything.images) and len(everything.rejected) == 0
    for pixels, path in zip(everything.images, everything.table["path"], strict=True):
        assert np.array_equal(pixels, resize(decode(path), SIZE))


def test_every_size_comes_from_the_full_image(data, tmp_path):
    table = table_of(data, "folder")
    build_store(table, tmp_path / "both", [SIZE, 48])
    build_store(table, tmp_path / "alone", [48])
    both, alone = Store.open(tmp_path / "both", 48), Store.open(tmp_path / "alone")
    assert both.preprocessing == alone.preprocessing == Preprocessing(48)
    assert np.array_equal(both.images, alone.images)


@pytest.mark.parametrize("square", ["squash", "pad", "crop"])
def test_the_square_policy_reaches_the_pixels(data, tmp_path, square):
    store = build_store(table_of(data, "folder"), tmp_path, [SIZE], square)
    assert store.preprocessing.square == square
    assert np.array_equal(store.images[3], resize(decode(store.table["path"][3]), SIZE, square))


def test_the_table_keeps_upright_sizes_and_fingerprints(everything):
    table = everything.table
    assert set(zip(table["width"], table["height"], strict=True)) == {(48, 36)}
    assert table["sha256"].str.fullmatch("[0-9a-f]{64}").all()


def test_a_ready_made_array_is_linked_not_copied(data, tmp_path):
    store = build_store(table_of(data, "siim-npy"), tmp_path, [SIZE])
    array = data / "siim-npy" / f"x_train_{SIZE}.npy"
    linked = tmp_path / str(SIZE) / "images.npy"
    assert linked.is_symlink() and linked.samefile(array)
    assert np.array_equal(store.images, np.load(array))
    assert store.preprocessing.decode == "siim-npy"


def test_forcing_a_linked_store_leaves_the_array_alone(data, tmp_path):
    array = data / "siim-npy" / f"x_train_{SIZE}.npy"
    before = array.read_bytes()
    for _ in range(2):
        build_store(table_of(data, "siim-npy"), tmp_path, [SIZE], force=True)
    half = table_of(data, "siim-npy").iloc[:5]
    store = build_store(half, tmp_path, [SIZE], force=True)
    assert array.read_bytes() == before and np.array_equal(store.images, np.load(array)[:5])


def test_two_arrays_become_one_store_in_the_order_of_the_table(data, tmp_path):
    store = build_store(table_of(data, "siim-npy", "all"), tmp_path, [SIZE])
    parts = [np.load(data / "siim-npy" / f"x_{p}_{SIZE}.npy") for p in ("train", "test")]
    assert np.array_equal(store.images, np.concatenate(parts))


def test_a_finished_store_is_not_made_again(data, tmp_path, monkeypatch):
    build_store(table_of(data, "folder"), tmp_path, [SIZE])
    monkeypatch.setattr(decode_many, "read_one", None)
    assert len(build_store(table_of(data, "folder"), tmp_path, [SIZE])) == 17


# duplicates


def test_byte_identical_files_share_a_group_within_and_across_sources(everything):
    table = everything.table
    again = table[table["sha256"].duplicated()]
    named = dict(zip(again["image_name"], again["duplicate_of"], strict=True))
    assert named == {"ISIC_3507": "ISIC_3000", "copy": "ISIC_2010"}
    assert (table.groupby("sha256")["group"].nunique() == 1).all()
    of_copy = table.loc[table["image_name"] == "copy", "group"].iloc[0]
    assert set(table.loc[table["group"] == of_copy, "image_name"]) == {
        *("ISIC_2010", "ISIC_2011", "copy")
    }


def test_drop_leaves_exactly_one_of_each_photo(everything):
    folds = assign_folds(everything.table, 3, duplicates="drop")
    assert len(folds) == len(everything) - 4
    gone = set(everything.table["image_name"]) - set(folds["image_name"])
    assert gone == {"ISIC_1011", "ISIC_1071", "ISIC_3507", "copy"}


def test_keep_puts_duplicates_into_one_fold(everything):
    table = everything.table
    folds = assign_folds(table, 3, duplicates="keep")
    assert len(folds) == len(table)
    fold = folds.set_index("image_name")["fold"]
    assert fold["ISIC_1011"] == fold["ISIC_1010"] and fold["ISIC_1071"] == fold["ISIC_1030"]
    assert fold["copy"] == fold["ISIC_2010"] == fold["ISIC_2011"]


def pair_of(root: Path, first: str, second: str, broken: str = "") -> Store:
    "Images a and b, published as a pair in the order given, among four others."
    folder = root / "data" / "jpeg" / "train"
    for i, name in enumerate("abcdef"):
        photo(folder / f"{name}.jpg", i, folder / "a.jpg" if name == "b" else None)
    if broken:
        (folder / f"{broken}.jpg").write_bytes(b"")
    columns = {"image_name": [*"abcdef"], "patient_id": [*"pqrstu"], "target": [1, 1, 1, 0, 1, 0]}
    write_csv(root / "data" / "train.csv", columns)
    pairs = {"image_name_1": [first], "image_name_2": [second]}
    write_csv(root / "data" / "ISIC_2020_Training_Duplicates.csv", pairs)
    table = lesion_table(parse_sources(f"siim2020={root / 'data'}"))
    return build_store(table, root / "store", [SIZE])


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_drop_keeps_one_of_a_pair_in_whatever_order_it_was_published(tmp_path, first, second):
    folds = assign_folds(pair_of(tmp_path, first, second).table, 2)
    assert len({"a", "b"} & set(folds["image_name"])) == 1


def test_a_duplicate_stays_when_its_first_photo_was_rejected(tmp_path):
    folds = assign_folds(pair_of(tmp_path, "a", "b", broken="a").table, 2)
    assert set(folds["image_name"]) == set("bcdef")


# folds over all sources together


def group_sets(folds: pd.DataFrame, rows: dict[str, np.ndarray]) -> dict[str, set]:
    return {name: set(folds["group"].iloc[index]) for name, index in rows.items()}


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
@pytest.mark.parametrize("seed", [0, 1, 2, 17])
@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_no_group_is_in_two_folds(everything, n_folds, seed, duplicates):
    folds = assign_folds(everything.table, n_folds, seed, duplicates)
    assert list(folds) == ["source", "image_name", "group", "target", "fold"]
    held = folds[folds["fold"] >= 0]
    assert set(held["fold"]) == set(range(n_folds))
    assert (held.groupby("group")["fold"].nunique() == 1).all()
    assert (held.groupby("fold")["target"].nunique() == 2).all()
    assert not folds.duplicated(["source", "image_name"]).any()
    assert (
        list(fold_table(folds)["images"])
        == folds["fold"].replace(-1, 99).value_counts(sort=False).sort_index().to_list()
    )


@pytest.mark.parametrize("monitor", ["inner", "fold"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("n_folds", [2, 4])
def test_no_group_is_on_both_sides_of_a_fold(everything, n_folds, seed, monitor):
    folds = assign_folds(everything.table, n_folds, seed, "keep")
    seen = []
    for k in range(n_folds):
        rows = fold_rows(folds, k, monitor, 0.2, seed)
        groups = group_sets(folds, rows)
        assert (
            not groups["train"] & groups["held_out"] and not groups["train"] & groups["validation"]
        )
        if monitor == "inner":
            assert not groups["validation"] & groups["held_out"]
            assert (folds["fold"].iloc[rows["validation"]] >= 0).all()
        else:
            assert np.array_equal(rows["validation"], rows["held_out"])
        assert (folds["fold"].iloc[rows["held_out"]] == k).all()
        seen.append(rows["held_out"])
    once = np.sort(np.concatenate(seen))
    assert np.array_equal(once, np.flatnonzero(folds["fold"] >= 0))


def test_inner_monitor_leaves_nothing_out(everything):
    "Every row trains, watches or is held, but for train-only rows of groups held or watched."
    folds = assign_folds(everything.table, 3, 0, "keep")
    rows = fold_rows(folds, 0, "inner", 0.2)
    used = np.concatenate(list(rows.values()))
    assert len(used) == len(set(used))
    assert (folds["fold"].drop(index=used) == -1).all()


def test_train_only_rows_are_never_held_out(everything):
    folds = assign_folds(everything.table, 3)
    only = folds["source"] == "isic2017"
    assert (folds.loc[only, "fold"] == -1).all() and (folds.loc[~only, "fold"] >= 0).all()
    for k in range(3):
        rows = fold_rows(folds, k)
        assert only.to_numpy()[rows["train"]].sum() == only.sum()
        assert not only.to_numpy()[rows["held_out"]].any()


@pytest.mark.parametrize("monitor", ["inner", "fold"])
@pytest.mark.parametrize("seed", range(4))
def test_a_train_only_row_does_not_leak_the_group_of_a_held_out_one(seed, monitor):
    "A second source, train only, that shows the same patients."
    rng = np.random.default_rng(seed)
    own = pd.DataFrame({"source": "siim2020", "group": [f"p{i // 2}" for i in range(120)]})
    other = pd.DataFrame({"source": "folder", "group": [f"p{i}" for i in range(80)]})
    table = pd.concat([own, other], ignore_index=True)
    table["image_name"] = [f"i{k}" for k in range(len(table))]
    table["target"] = (rng.random(len(table)) < 0.4).astype(int)
    table["train_only"] = table["source"] == "folder"
    folds = assign_folds(table, 4, seed)
    assert (folds.loc[table["train_only"], "fold"] == -1).all()
    for k in range(4):
        rows = fold_rows(folds, k, monitor, seed=seed)
        groups = group_sets(folds, rows)
        assert (
            not groups["train"] & groups["held_out"] and not groups["train"] & groups["validation"]
        )
        straddling = folds["train_only"] if "train_only" in folds else folds["fold"] == -1
        assert straddling.to_numpy()[rows["train"]].any(), "the rest of the source does train"


def test_the_same_seed_gives_the_same_folds_and_another_seed_others(everything):
    table = everything.table
    assert assign_folds(table, 3, 1).equals(assign_folds(table, 3, 1))
    assert not assign_folds(table, 3, 1).equals(assign_folds(table, 3, 2))
    folds = assign_folds(table, 3, 1)
    first, second = (fold_rows(folds, 0, seed=4) for _ in range(2))
    assert all(np.array_equal(first[k], second[k]) for k in first)
    others = [fold_rows(folds, 0, seed=s)["validation"].tolist() for s in range(4)]
    assert any(o != others[0] for o in others)


def test_folds_do_not_depend_on_the_index_of_the_table(everything):
    shuffled_index = everything.table.set_index(np.arange(len(everything))[::-1] + 7)
    assert assign_folds(shuffled_index, 3).equals(assign_folds(everything.table, 3))


def test_a_source_that_is_all_train_only_cannot_be_folded(everything):
    with pytest.raises(BadFolds, match="0 groups"):
        assign_folds(everything.table.assign(train_only=True), 3)


# killed and resumed


def contents(folder: Path) -> dict[str, bytes]:
    "Bytes of what a store is made of; nothing else may lie in it."
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert not [name for name in files if "unfinished" in name]
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.fixture
def undisturbed(data, tmp_path, monkeypatch) -> tuple[pd.DataFrame, dict[str, bytes]]:
    "A table with two broken files in it, and the store that it makes when nothing goes wrong."
    copy = shutil.copytree(data / "folder", tmp_path / "data")
    (copy / "benign" / "f1.png").write_bytes(b"")
    (copy / "benign" / "f8.png").write_text("no image")
    monkeypatch.setattr(decode_many, "CHUNK", 4)
    table = lesion_table(parse_sources(f"folder={copy}"))
    build_store(table, tmp_path / "whole", [SIZE, 48])
    return table, contents(tmp_path / "whole")


def kill_at(monkeypatch, row: int, error: BaseException) -> None:
    "Let the decoding of one row raise."
    whole = decode_many.read_one

    def dying(index, *rest):
        if index == row:
            raise error
        return whole(index, *rest)

    monkeypatch.setattr(decode_many, "read_one", dying)


@pytest.mark.parametrize("row", [0, 3, 4, 9, 16])
def test_a_killed_build_goes_on_to_the_same_bytes(undisturbed, tmp_path, row):
    table, expected = undisturbed
    folder = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, row, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_store(table, folder, [SIZE, 48])
    assert not (folder / "manifest.json").exists()
    build_store(table, folder, [SIZE, 48])
    assert contents(folder) == expected


def test_a_resumed_build_does_not_decode_again_what_is_there(undisturbed, tmp_path):
    table, expected = undisturbed
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 9, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_store(table, tmp_path / "killed", [SIZE, 48])
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 7, AssertionError("row 7 was in a chunk written whole"))
        build_store(table, tmp_path / "killed", [SIZE, 48])
    assert contents(tmp_path / "killed") == expected


def test_a_half_written_line_and_half_written_pixels_are_tolerated(undisturbed, tmp_path):
    table, expected = undisturbed
    folder = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 9, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_store(table, folder, [SIZE, 48])
    journal = next(folder.glob("unfinished-*/journal.jsonl"))
    assert len(journal.read_text().splitlines()) == 2
    with journal.open("a") as file:
        file.write('[{"index": 8, "reason": "", "sha2')
    with journal.with_name(f"{SIZE}.npy").open("ab") as file:
        file.write(b"\x55" * 1000)
    build_store(table, folder, [SIZE, 48])
    assert contents(folder) == expected


def test_a_build_of_other_images_does_not_go_on_from_the_killed_one(undisturbed, data, tmp_path):
    table, _ = undisturbed
    folder = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 9, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_store(table, folder, [SIZE])
    store = build_store(table_of(data, "csv"), folder, [SIZE])
    contents(folder)
    for pixels, path in zip(store.images, store.table["path"], strict=True):
        assert np.array_equal(pixels, resize(decode(path), SIZE))


def full_disk(*arguments, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def break_fsync(patch) -> None:
    patch.setattr(os, "fsync", full_disk)


def break_tables(patch) -> None:
    patch.setattr(build_module, "write_tables", full_disk)


def break_manifest(patch) -> None:
    patch.setattr(build_module, "write_manifest", full_disk)


def break_second_move(patch) -> None:
    "The array of the first size is in place, that of the second is not."
    whole, moves = Path.replace, []

    def replace(self, target):
        if Path(target).name == "images.npy":
            moves.append(target)
            if len(moves) == 2:
                full_disk()
        return whole(self, target)

    patch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("broken", [break_fsync, break_tables, break_manifest, break_second_move])
def test_a_full_disk_leaves_no_manifest_and_the_next_call_makes_the_same_bytes(
    undisturbed, tmp_path, broken
):
    table, expected = undisturbed
    folder = tmp_path / "full"
    with pytest.MonkeyPatch.context() as patch:
        broken(patch)
        with pytest.raises(MelanomaError, match="is full"):
            build_store(table, folder, [SIZE, 48])
    assert not (folder / "manifest.json").exists()
    build_store(table, folder, [SIZE, 48])
    found = contents(folder)
    assert set(found) == set(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_forced_build_that_fails_does_not_pass_for_the_old_one(undisturbed, tmp_path):
    table, _ = undisturbed
    folder = tmp_path / "whole"
    with pytest.MonkeyPatch.context() as patch:
        break_fsync(patch)
        with pytest.raises(MelanomaError, match="is full"):
            build_store(table, folder, [SIZE, 48], force=True)
    assert not (folder / "manifest.json").exists()


# the real data sets


@pytest.fixture(scope="module")
def real() -> Path:
    if not os.environ.get("MELANOMA_DATA"):
        pytest.skip("MELANOMA_DATA is not set: the real data sets are not part of the project")
    return Path(os.environ["MELANOMA_DATA"])


def test_isic2017_has_its_published_counts(real):
    table = lesion_table(parse_sources(f"isic2017={real / 'isic2017'}"))
    assert (len(table), int(table["target"].sum())) == (2150, 404)
    assert table["split"].value_counts().to_dict() == {"train": 2000, "validation": 150}


def test_ham10000_has_its_published_counts(real):
    table = lesion_table(parse_sources(f"ham10000={real / 'ham10000'}"))
    counts = len(table), int(table["target"].sum()), table["lesion_id"].nunique()
    assert counts == (10_015, 1_113, 7_470)
    folds = assign_folds(table)
    assert (folds.groupby("group")["fold"].nunique() == 1).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_siim_folds_hold_whole_patients_and_even_melanomas(real, seed):
    raw = pd.read_csv(real / "siim2020" / "train.csv")
    assert len(raw) == 33_126
    folds = assign_folds(raw.assign(source="siim2020", group=raw["patient_id"]), 5, seed)
    assert (folds.groupby("group")["fold"].nunique() == 1).all()
    melanomas = folds.groupby("fold")["target"].sum()
    assert melanomas.sum() == 584
    assert melanomas.between(0.9 * 584 / 5, 1.1 * 584 / 5).all(), melanomas.to_dict()
