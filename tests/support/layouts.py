"""Small data sets in every layout; no two of their images are alike by chance."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from melanoma.data.table import Source, lesion_table, parse_sources
from support.dicom import dicom_file
from support.images import photo

SIZE = 32


def named_photo(path: Path, seed: int, like: Path | None = None) -> str:
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


def make_siim2020(root: Path, patients: int = 14) -> Path:
    "Patients of 1 to 4 images, 4 test images, and 2 published pairs of duplicates."
    rows = []
    for p in range(patients):
        for i in range(1 + p % 4):
            name = named_photo(root / "jpeg" / "train" / f"ISIC_1{p:02}{i}.jpg", 1000 + 10 * p + i)
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
    tests = [named_photo(root / "jpeg" / "test" / f"ISIC_190{i}.jpg", 1900 + i) for i in range(4)]
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
            name = named_photo(root / part / f"ISIC_2{k:02}{i}.jpg", 2000 + 10 * k + i)
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
            named_photo(folder / f"{name}.jpg", seed + i, like)
            named_photo(folder / f"{name}_superpixels.png", 9000)
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
        named_photo(folder / f"ISIC_6{i:03}{'_downsampled' if i % 4 == 0 else ''}.jpg", 6000 + i)
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
            name = named_photo(root / "train" / f"ISIC_7{p:02}{i}.jpg", 7000 + 10 * p + i)
            shard = -1 if p == patients - 1 else p % 15
            rows.append((name, f"IP_7{p:02}", "male", 45, "torso", int(i == 0), shard, 6000, 4000))
    names = ["image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge"]
    names += ["target", "tfrecord", "width", "height"]
    pd.DataFrame(rows, columns=names).to_csv(root / "train.csv", index=False)
    tests = [named_photo(root / "test" / f"ISIC_79{i}.jpg", 7900 + i) for i in range(3)]
    write_csv(root / "test.csv", {"image_name": tests, "patient_id": "IP_799"})
    return root


def make_dicom(root: Path, n: int = 12) -> Path:
    "A clinic's files: the header knows patient, sex, age and site."
    for i in range(n):
        named_photo(root / "plain.jpg", 8000 + i)
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
        named_photo(path, 4000 + i)
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
        named_photo(root / ("malignant" if i % 3 == 0 else "benign") / f"f{i}.png", 5000 + i)
    (root / "benign" / "notes.txt").write_text("not an image")
    return root


def make_every(root: Path) -> Path:
    "Every layout in a folder of its name."
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
    named_photo(
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


# one table of each kind, to be spoilt


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


def alike(n: int) -> pd.DataFrame:
    "A table of n images that look the same, each another file of another patient."
    return pd.DataFrame(
        {
            "source": "clinic", "image_name": [f"i{k}" for k in range(n)],
            "group": [f"p{k}" for k in range(n)], "sha256": [f"{k:064x}" for k in range(n)],
            "phash": "ab" * 32, "duplicate_of": None, "target": 0, "split": "train",
        }
    )  # fmt: skip
