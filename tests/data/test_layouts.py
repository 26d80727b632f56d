"""Layouts that come as one file or in the archive's own tables: ISIC 2018 and 2024, the ISIC
Archive's metadata, Deotte's TFRecords. Inputs are drawn; real ones where MELANOMA_DATA is set."""

import multiprocessing
import os
import shutil
import struct
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from melanoma.core.containers import open_container
from melanoma.core.errors import BadImage, BadInput, BadTable
from melanoma.core.reading import read_bytes, stamp
from melanoma.data.build import build_store, table_digest
from melanoma.data.folds import assign_folds
from melanoma.data.table import lesion_table, parse_sources
from melanoma.kaggle.inputs import find_inputs, fitting
from support.images import encoded, noise

DATA = os.environ.get("MELANOMA_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="MELANOMA_DATA names no folder of real images")


def jpeg(seed: int, side: int = 40) -> bytes:
    "A noisy JPEG, another one for each seed."
    return encoded(noise(side, side, seed), "JPEG", quality=95)


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def table_of(source: str, split: str = "labelled", **columns) -> pd.DataFrame:
    return lesion_table(parse_sources(source, **columns), split)


# ISIC 2018

HEAD_2018 = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n"


def truth(rows: dict[str, int]) -> str:  # image → position of its diagnosis
    "A ground truth of one-hot columns."
    marks = {n: ["1.0" if k == at else "0.0" for k in range(7)] for n, at in rows.items()}
    return HEAD_2018 + "".join(",".join([n, *m]) + "\n" for n, m in marks.items())


def make_2018(root: Path, part: str, rows: dict[str, int], first: int) -> None:
    name = f"ISIC2018_Task3_{part}_GroundTruth"
    write(root / name / f"{name}.csv", truth(rows))
    for i, image in enumerate(rows):
        write(root / f"ISIC2018_Task3_{part}_Input" / f"{image}.jpg", jpeg(first + i))


GROUPINGS = (
    "image,lesion_id,diagnosis confirm type\nISIC_0024306,HAM_0000550,follow_up\n"
    "ISIC_0024307,HAM_0000550,follow_up\nISIC_0024308,HAM_0000551,histopathology\n"
)


@pytest.fixture
def isic2018(tmp_path) -> Path:
    root = tmp_path / "isic2018"
    make_2018(root, "Training", {"ISIC_0024306": 1, "ISIC_0024307": 1, "ISIC_0024308": 0}, 0)
    write(root / "ISIC2018_Task3_Training_LesionGroupings.csv", GROUPINGS)
    return root


def test_isic2018_has_melanomas_and_lesions(isic2018):
    table = table_of(f"isic2018={isic2018}")
    assert table["target"].tolist() == [0, 0, 1]
    assert table["diagnosis"].tolist() == ["nv", "nv", "mel"]
    assert table["lesion_id"].tolist() == ["HAM_0000550", "HAM_0000550", "HAM_0000551"]
    assert table["group"].nunique() == 2


def test_isic2018_parts_are_pooled_or_taken_by_split(isic2018, capsys):
    make_2018(isic2018, "Validation", {"ISIC_0034321": 2}, 10)
    test = isic2018 / "ISIC2018_Task3_Test_Input.zip"  # as it is downloaded, without labels
    with zipfile.ZipFile(test, "w") as packed:
        packed.writestr("ISIC2018_Task3_Test_Input/ISIC_0034524.jpg", jpeg(11))
    source = f"isic2018={isic2018}"
    assert table_of(source)["split"].tolist() == ["train"] * 3 + ["validation"]
    assert "parts train, validation pooled" in capsys.readouterr().out
    assert table_of(source, "validation")["diagnosis"].tolist() == ["bcc"]
    unlabelled = table_of(source, "test")
    assert unlabelled["image_name"].tolist() == ["ISIC_0034524"]
    assert unlabelled["target"].tolist() == [-1] and read_bytes(unlabelled["path"][0]) == jpeg(11)
    assert len(table_of(source, "all")) == 5


def test_isic2018_and_ham10000_share_lesions_and_duplicates(isic2018, tmp_path):
    ham = tmp_path / "ham"
    rows = "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
    rows += "HAM_0000550,ISIC_0024306,nv,follow_up,45.0,male,back\n"
    rows += "HAM_0000551,ISIC_0024308,mel,histo,50.0,female,face\n"
    write(ham / "HAM10000_metadata.csv", rows)
    for name, seed in (("ISIC_0024306", 0), ("ISIC_0024308", 2)):
        write(ham / "images" / f"{name}.jpg", jpeg(seed))
    table = table_of(f"ham10000={ham}; isic2018={isic2018}")
    by_lesion = table.groupby("lesion_id")["group"].nunique()
    assert by_lesion.to_dict() == {"HAM_0000550": 1, "HAM_0000551": 1}
    store = build_store(table, tmp_path / "store", [32], workers=1)
    assert store.duplicates()["kind"].tolist() == ["identical", "identical"]
    assert int(store.table["duplicate_of"].notna().sum()) == 2


def test_isic2018_without_its_table_says_where_it_looked(tmp_path):
    write(tmp_path / "ISIC2018_Task3_Training_Input" / "ISIC_1.jpg", jpeg(0))
    with pytest.raises(BadTable, match="no ISIC2018_Task3_Training_GroundTruth.csv.*folder or zip"):
        table_of(f"isic2018={tmp_path}")
    make_2018(tmp_path, "Training", {"ISIC_1": 0}, 0)
    name = "ISIC2018_Task3_Training_GroundTruth"
    write(tmp_path / name / f"{name}.csv", HEAD_2018 + "ISIC_1,1,1,0,0,0,0,0\n")
    with pytest.raises(BadTable, match="1 images have not exactly one diagnosis: ISIC_1"):
        table_of(f"isic2018={tmp_path}")


# ISIC 2024

HEAD_2024 = (
    "isic_id,target,patient_id,age_approx,sex,anatom_site_general,clin_size_long_diam_mm,image_type,"
    "lesion_id,iddx_full,iddx_1,iddx_2,iddx_3\n"
)
ROWS_2024 = (
    "ISIC_0015670,0,IP_1235828,60.0,male,lower extremity,3.04,TBP tile: close-up,,Benign,Benign,,\n"
    "ISIC_0015845,1,IP_8170065,60.0,male,head/neck,1.1,TBP tile: close-up,IL_6727506,"
    "Malignant::Melanoma::Melanoma Invasive,Malignant,Melanoma group,Melanoma Invasive\n"
    "ISIC_0015864,1,IP_6724798,60.0,male,posterior torso,3.4,TBP tile: close-up,IL_1,"
    "Malignant::Epidermal::BCC,Malignant,Epidermal,Basal cell carcinoma\n"
    "ISIC_0015902,0,IP_4111386,65.0,male,anterior torso,3.22,TBP tile: close-up,,"
    "Indeterminate::AIMP,Indeterminate,AIMP,\n"
)
NAMES_2024 = ["ISIC_0015670", "ISIC_0015845", "ISIC_0015864", "ISIC_0015902"]


def write_hdf5(path: Path, names: list[str]) -> Path:
    "Images as the competition packs them: an opaque value each."
    with h5py.File(path, "w") as file:
        for i, name in enumerate(names):
            file.create_dataset(name, data=np.void(jpeg(i)))
    return path


def make_2024(root: Path, names: list[str], packed: bool) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    if packed:
        write_hdf5(root / "train-image.hdf5", names)
    else:
        for i, name in enumerate(names):
            write(root / "train-image" / "image" / f"{name}.jpg", jpeg(i))
    return root


def test_isic2024_reads_melanoma_and_keeps_patients(tmp_path, capsys):
    root = make_2024(tmp_path, NAMES_2024, packed=True)
    write(root / "train-metadata.csv", HEAD_2024 + ROWS_2024)
    table = table_of(f"isic2024={root}")
    said = capsys.readouterr().out
    assert table["image_name"].tolist() == NAMES_2024[:3] and table["target"].tolist() == [0, 1, 0]
    assert "label = melanoma" in said and "1 images with an indeterminate" in said
    assert table["patient_id"].tolist() == ["IP_1235828", "IP_8170065", "IP_6724798"]
    assert table["anatom_site"].tolist() == ["lower extremity", "head/neck", "torso"]
    assert table["lesion_id"].isna().tolist() == [True, False, False]
    assert len(table_of(f"isic2024={root}", "all")) == 4


def test_isic2024_without_finer_diagnoses_takes_the_target_and_says_so(tmp_path, capsys):
    root = make_2024(tmp_path, ["ISIC_1", "ISIC_2"], packed=False)
    head = "isic_id,target,patient_id,lesion_id,iddx_1\n"
    write(root / "train-metadata.csv", head + "ISIC_1,0,IP_1,,Benign\nISIC_2,1,IP_1,,Benign\n")
    assert table_of(f"isic2024={root}")["target"].tolist() == [0, 1]
    assert "label = malignant" in capsys.readouterr().out
    write(root / "test-metadata.csv", "isic_id,patient_id\nISIC_3,IP_3\n")
    write_hdf5(root / "test-image.hdf5", ["ISIC_3"])
    assert table_of(f"isic2024={root}", "test")["target"].tolist() == [-1]


def test_a_store_from_hdf5_is_that_from_folders(tmp_path):
    "Decoded by two processes, each with a file handle of its own."
    names = [f"ISIC_{i:07d}" for i in range(80)]
    rows = "".join(f"{n},{i % 2},IP_{i // 4},,,\n" for i, n in enumerate(names))
    stores = []
    for packed in (False, True):
        root = make_2024(tmp_path / str(packed), names, packed)
        head = "isic_id,target,patient_id,lesion_id,sex,age_approx\n"
        write(root / "train-metadata.csv", head + rows)
        table = table_of(f"isic2024={root}")
        stores.append(build_store(table, root / "store", [32], workers=2))
    assert len(stores[0]) == 80 and (stores[0].images[:] == stores[1].images[:]).all()
    assert stores[0].table["sha256"].tolist() == stores[1].table["sha256"].tolist()


def test_isic2024_names_the_folders_it_searched(tmp_path):
    write(tmp_path / "train-metadata.csv", "isic_id,target\nISIC_1,0\n")
    searched = r"train-image/image/, train-image/, images/, train-image.hdf5"
    with pytest.raises(BadTable, match=searched):
        table_of(f"isic2024={tmp_path}")


def test_hdf5_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    root = make_2024(tmp_path, ["ISIC_1"], packed=True)
    write(root / "train-metadata.csv", "isic_id,target\nISIC_1,0\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(BadInput, match=r"needs h5py: pip install 'melanoma\[hdf5\]'"):
        table_of(f"isic2024={root}")


# images in HDF5 files and TFRecords


def test_an_hdf5_file_that_is_none_is_named(tmp_path):
    path = write(tmp_path / "train-image.hdf5", b"<html>not found</html>")
    with pytest.raises(BadTable, match="train-image.hdf5 is not readable as HDF5"):
        open_container(path)
    with pytest.raises(BadImage, match="cannot be read"):
        read_bytes(tmp_path / "gone.hdf5" / "ISIC_1")


def test_a_folder_with_the_suffix_of_a_container_is_a_folder(tmp_path):
    path = write(tmp_path / "old.h5" / "mole.jpg", jpeg(1))
    assert read_bytes(path) == jpeg(1) and stamp(path)[0] == len(jpeg(1))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
def test_processes_forked_after_opening_read_the_right_images(tmp_path):
    names = [f"ISIC_{i}" for i in range(60)]
    packed = write_hdf5(tmp_path / "train-image.hdf5", names)
    shard = write(tmp_path / "train00-60.tfrec", b"".join(example(i) for i in range(60)))
    paths = [f"{file}/{name}" for file in (packed, shard) for name in names]
    right = [read_bytes(p) for p in paths]  # opened here, before the fork
    with ProcessPoolExecutor(4, multiprocessing.get_context("fork")) as pool:
        read = list(pool.map(read_bytes, paths, chunksize=3))
    assert read == right and right == 2 * [jpeg(i) for i in range(60)]


# Deotte's TFRecords


def piece(number: int, data: bytes) -> bytes:
    "A protobuf field with a length in front."
    length, out = len(data), bytes([number << 3 | 2])
    while length > 127:
        out, length = out + bytes([length & 127 | 128]), length >> 7
    return out + bytes([length]) + data


def varint(value: int) -> bytes:
    "An int64; negative ones take ten bytes."
    value, out = value & (1 << 64) - 1, b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def example(i: int, **more: int) -> bytes:
    "One record: image, name, codes."
    features = {"image": jpeg(i), "image_name": f"ISIC_{i}".encode()}
    codes = {"patient_id": i // 2, "sex": i % 2, "age_approx": 45, "target": int(i % 5 == 0)}
    entries = b""
    for name, value in (features | codes | more).items():
        kind, raw = (1, value) if isinstance(value, bytes) else (3, varint(value))
        entries += piece(1, piece(1, name.encode()) + piece(2, piece(kind, piece(1, raw))))
    data = piece(1, entries)
    return struct.pack("<QI", len(data), 0) + data + struct.pack("<I", i)


@pytest.fixture
def shards(tmp_path) -> Path:
    "Five shards of eight records."
    for k in range(5):
        records = [example(i, anatom_site_general=i % 6) for i in range(8 * k, 8 * k + 8)]
        write(tmp_path / "shards" / f"train{k:02d}-8.tfrec", b"".join(records))
    return tmp_path / "shards"


def test_tfrecords_without_a_table_are_read_by_their_codes(shards, capsys):
    table = table_of(f"deotte={shards}")
    assert "by the records' codes" in capsys.readouterr().out
    assert table["image_name"].tolist() == [f"ISIC_{i}" for i in range(40)]
    assert table["tfrecord"].tolist() == [i // 8 for i in range(40)]
    assert table["target"].sum() == 8 and table["group"].nunique() == 20
    assert table["sex"].tolist()[:2] == ["female", "male"]
    assert table["anatom_site"].tolist()[:2] == ["torso", "lower extremity"]
    folds = assign_folds(table, 5, scheme="tfrecord")
    assert (folds["fold"] == table["tfrecord"] % 5).all()


def test_patient_minus_one_is_no_patient(tmp_path):
    records = b"".join(example(i, patient_id=-1) for i in range(4))
    write(tmp_path / "train00-4.tfrec", records)
    table = table_of(f"deotte={tmp_path}")
    assert table["patient_id"].isna().all() and table["group"].nunique() == 4


def test_train_csv_beside_the_shards_has_the_words(shards, capsys):
    lines = [f"ISIC_{i},IP_{i // 4},,30,palms/soles,nevus" for i in range(39)]
    head = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis\n"
    write(shards.parent / "train.csv", head + "\n".join(lines))  # above: as the competition has it
    table = table_of(f"deotte={shards}")
    assert table["patient_id"].tolist() == [f"IP_{i // 4}" for i in range(39)] + ["deotte-19"]
    assert table["anatom_site"].tolist()[:2] == ["palms/soles"] * 2
    assert table["sex"].isna().sum() == 39 and (table["age_approx"][:39] == 30).all()
    assert "1 records are in no table: ISIC_39" in capsys.readouterr().out


def test_a_store_of_tfrecords_has_the_records_images(shards, tmp_path):
    store = build_store(table_of(f"deotte={shards}"), tmp_path / "store", [32], workers=2)
    files = tmp_path / "files"
    for i in range(40):
        write(files / f"ISIC_{i}.jpg", jpeg(i))
    plain = build_store(table_of(f"folder={files}", "all"), tmp_path / "plain", [32], workers=1)
    plain_row = {n: k for k, n in enumerate(plain.table["image_name"])}
    rows = [plain_row[n] for n in store.table["image_name"]]
    assert (store.images[:] == plain.images[rows]).all()


def test_another_record_is_another_store(shards):
    before = table_digest(table_of(f"deotte={shards}"))
    assert table_digest(table_of(f"deotte={shards}")) == before
    path = shards / "train00-8.tfrec"
    write(path, path.read_bytes()[:-4] + struct.pack("<I", 999))  # another checksum
    assert table_digest(table_of(f"deotte={shards}")) != before


def test_a_shard_that_is_cut_off_or_none_is_named(shards):
    path = shards / "train03-8.tfrec"
    whole = path.read_bytes()
    write(path, whole[:-100])
    with pytest.raises(BadTable, match="train03-8.tfrec is cut off or no TFRecord, 7 records"):
        table_of(f"deotte={shards}")
    write(path, b"".join(example(i) for i in range(7)))
    with pytest.raises(BadTable, match="holds 7 records, its name says 8"):
        table_of(f"deotte={shards}")
    write(path, struct.pack("<QI", 5, 0) + b"hello" + bytes(4))
    with pytest.raises(BadTable, match="record 1: no example with image and image_name"):
        table_of(f"deotte={shards}")


def test_a_kernel_tells_tfrecords_by_size(shards, tmp_path):
    root = tmp_path / "input"
    shutil.copytree(shards, root / "melanoma-40x40")
    for i in range(8):
        big = jpeg(i, 96)
        write(root / "melanoma-96x96" / "train" / f"ISIC_{i}.jpg", big)
    lines = [f"ISIC_{i},IP_{i},{i % 2},{i}" for i in range(8)]
    head = "image_name,patient_id,target,tfrecord\n"
    write(root / "melanoma-96x96" / "train.csv", head + "\n".join(lines))
    found = find_inputs(root)
    assert {p.name for p in found.layouts["deotte"]} == {"melanoma-40x40", "melanoma-96x96"}
    assert fitting(found.layouts["deotte"], "deotte", 32).name == "melanoma-40x40"
    assert fitting(found.layouts["deotte"], "deotte", 64).name == "melanoma-96x96"


@needs_data
def test_a_real_shard_says_what_train_csv_says(tmp_path):
    folder = Path(DATA) / "siim2020_labelled"
    if not folder.is_dir():
        pytest.skip("no siim2020_labelled")
    told = table_of(f"deotte={folder / 'tfrecords'}")
    truth = pd.read_csv(folder / "train.csv").set_index("image_name").loc[told["image_name"]]
    assert len(told) == 36 and (told["tfrecord"] == 6).all()
    assert told["target"].tolist() == truth["target"].tolist() and told["target"].sum() == 1
    assert told["patient_id"].tolist() == truth["patient_id"].tolist()
    shutil.copy(next((folder / "tfrecords").iterdir()), tmp_path)  # away from train.csv
    coded = table_of(f"deotte={tmp_path}")
    for column in ("sex", "anatom_site", "age_approx"):
        assert coded[column].equals(told[column]), column
    # the same images as the JPEGs of the same names, at another size
    store = build_store(coded, tmp_path / "store", [64], workers=1)
    jpegs = table_of(f"siim2020={folder}").set_index("image_name").loc[coded["image_name"]]
    plain = build_store(jpegs.reset_index()[coded.columns], tmp_path / "plain", [64], workers=1)
    assert np.abs(store.images[:].astype(int) - plain.images[:]).mean() < 8


# the ISIC Archive's metadata

HEAD_ARCHIVE = (
    "isic_id,attribution,copyright_license,age_approx,anatom_site_1,anatom_site_2,"
    "anatom_site_general,anatom_site_special,diagnosis_1,diagnosis_2,diagnosis_3,image_type,"
    "patient_id,sex\n"
)
DIAGNOSES = [
    ("Benign", "Benign melanocytic proliferations", "Nevus"),
    ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma in situ"),
    ("Indeterminate", "Indeterminate melanocytic proliferations", ""),
    ("", "", ""),
    ("Malignant", "Malignant epidermal proliferations", '"Squamous cell carcinoma, NOS"'),
]


@pytest.fixture
def archive(tmp_path) -> Path:
    "Ten images and the metadata as isic-cli leaves them."
    lines = []
    for i in range(10):
        write(tmp_path / "isic" / f"ISIC_2{i:06d}.jpg", jpeg(i))
        site = "Head and neck,Head,," if i % 2 else "Upper extremity,Palm,,"
        diagnosis = ",".join(DIAGNOSES[i % 5])
        more = f"{site},{diagnosis},dermoscopic,IP_{i // 5},male"
        lines.append(f"ISIC_2{i:06d},A,CC-0,{40 + i},{more}")
    return write(tmp_path / "isic" / "metadata.csv", HEAD_ARCHIVE + "\n".join(lines) + "\n")


def test_the_archives_metadata_is_read_as_it_is(archive, capsys):
    table = table_of(f"csv={archive}")
    assert table["image_name"].str[-1].tolist() == list("014569")
    assert table["target"].tolist() == [0, 1, 0, 0, 1, 0]
    assert "4 images with an indeterminate or empty diagnosis, no label: left out" in (
        capsys.readouterr().out
    )
    assert table["anatom_site"].tolist() == ["palms/soles", "head/neck"] + [
        "palms/soles", "head/neck", "palms/soles", "head/neck",
    ]  # fmt: skip
    assert table["diagnosis"].tolist()[:3] == [
        "Nevus", "Melanoma in situ", "Squamous cell carcinoma, NOS",
    ]  # fmt: skip
    assert table["group"].nunique() == 2  # patients, not images
    everything = table_of(f"csv={archive}", "all")
    assert everything["target"].tolist() == [0, 1, -1, -1, 0] * 2


def test_images_lie_in_a_folder_beside_the_metadata(archive):
    inner = archive.parent / "ISIC-images"
    inner.mkdir()
    for image in archive.parent.glob("*.jpg"):
        image.rename(inner / image.name)
    assert len(table_of(f"csv={archive}")) == 6
    shutil.rmtree(inner)
    with pytest.raises(BadTable, match="none of 6 images lies beside it or in a folder beside it"):
        table_of(f"csv={archive}")


def test_malignant_against_benign_is_read_where_it_is_asked_for(archive):
    table = table_of(f"csv={archive}", image_col="isic_id", target_col="diagnosis_1")
    assert table["target"].tolist() == [0, 1, 1, 0, 1, 1]


def test_older_metadata_is_read(archive, capsys):
    words = ["benign", "malignant", "indeterminate", "indeterminate/malignant", ""]
    of = ["nevus", "melanoma", "", "", ""]
    lines = [
        f"ISIC_2{i:06d},{words[i % 5]},{of[i % 5]},anterior torso,45,male,IP_{i}" for i in range(10)
    ]
    lines[6] = "ISIC_2000006,malignant,basal cell carcinoma,anterior torso,45,male,IP_6"
    head = "isic_id,benign_malignant,diagnosis,anatom_site_general,age_approx,sex,patient_id\n"
    old = write(archive.parent / "old.csv", head + "\n".join(lines))
    table = table_of(f"csv={old}")
    assert table["image_name"].str[-1].tolist() == list("0156")
    assert table["target"].tolist() == [0, 1, 0, 0]
    assert (table["anatom_site"] == "torso").all()
    assert "6 images with an indeterminate or empty diagnosis" in capsys.readouterr().out


def test_malignant_alone_is_taken_as_melanoma_aloud(archive, capsys):
    lines = [f"ISIC_2{i:06d},{w}" for i, w in enumerate(["Benign", "Malignant"])]
    short = write(archive.parent / "short.csv", "isic_id,diagnosis_1\n" + "\n".join(lines))
    assert table_of(f"csv={short}")["target"].tolist() == [0, 1]
    assert "1 malignant images without a finer diagnosis" in capsys.readouterr().out


def test_a_table_with_labels_of_its_own_is_not_taken_for_the_archives(archive):
    lines = [f"ISIC_2{i:06d},Benign,{i % 2}" for i in range(4)]
    own = write(archive.parent / "own.csv", "isic_id,diagnosis_1,target\n" + "\n".join(lines))
    table = table_of(f"csv={own}", image_col="isic_id")
    assert table["target"].tolist() == [0, 1, 0, 1]


@needs_data
def test_real_images_of_the_archive(tmp_path):
    folder = Path(DATA) / "isic_archive"
    if not folder.is_dir():
        pytest.skip("no isic_archive")
    labels = pd.read_csv(folder / "labels.csv").head(40)
    words = labels["target"].map({0: "Benign", 1: "Malignant"})
    finer = labels["target"].map({0: "Nevus", 1: "Melanoma Invasive"})
    metadata = pd.DataFrame({"isic_id": labels["image_name"], "diagnosis_1": words})
    metadata["diagnosis_2"] = finer
    (tmp_path / "images").symlink_to(folder / "images")
    metadata.to_csv(tmp_path / "metadata.csv", index=False)
    table = table_of(f"csv={tmp_path / 'metadata.csv'}")
    assert table["target"].tolist() == labels["target"].tolist()
    assert len(build_store(table, tmp_path / "store", [32], workers=1)) == 40


# several of one kind


def test_sets_as_they_are_downloaded_have_names_of_their_own(tmp_path):
    "The download keeps sets apart as OWNER/NAME/versions/1."
    text = []
    for i, name in enumerate(("jpeg-melanoma-32x32", "jpeg-isic2019-32x32")):
        root = tmp_path / "datasets" / "cdeotte" / name / "versions" / "1"
        write(root / "train" / f"ISIC_{i}.jpg", jpeg(i))
        write(root / "train.csv", f"image_name,target,tfrecord\nISIC_{i},{i},0\n")
        text.append(f"deotte={root}")
    sources = parse_sources("; ".join(text), "deotte-jpeg-isic2019-32x32")
    table = lesion_table(sources)
    assert table["source"].tolist() == ["deotte-jpeg-melanoma-32x32", "deotte-jpeg-isic2019-32x32"]
    assert table["train_only"].tolist() == [False, True]
