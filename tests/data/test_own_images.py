"""What people have: trees of folders, tables from any spreadsheet, patients of two clinics."""

import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma.core.archive import walk
from melanoma.core.errors import BadInput, BadTable
from melanoma.core.files import read_json
from melanoma.data.build import build_store
from melanoma.data.folds import assign_folds, fold_table, unknown_patients
from melanoma.data.sources import image_names, patient_key
from melanoma.data.store import Store
from melanoma.data.table import Source, lesion_table, parse_sources
from melanoma.evaluation.gallery import Gallery, patient_names
from melanoma.predict.blend import blend_table
from melanoma.predict.pooling import within_patient
from melanoma.predict.predictor import Predictor
from melanoma.predict.runtimes import ModelOutput
from melanoma.predict.sources import prediction_table
from melanoma.run.layout import Run
from support.commands import succeed
from support.dicom import dicom_file
from support.images import photo


def folder_table(root: Path, split: str = "labelled", **more) -> pd.DataFrame:
    return lesion_table([Source("folder", root, "folder", **more)], split)


def csv_table(path: Path, split: str = "labelled", missing: str = "error", **more) -> pd.DataFrame:
    return lesion_table([Source("csv", path, "csv", **more)], split, missing=missing)


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture
def lesions(tmp_path) -> Path:
    "A folder with a.png, b.png, c.png."
    for i, name in enumerate("abc"):
        photo(tmp_path / f"{name}.png", i)
    return tmp_path


# identity of patients


@pytest.fixture
def clinics(tmp_path) -> list[Source]:
    "Two clinics, each with patients 1 and 2, and one patient of the ISIC Archive in both."
    for k, clinic in enumerate(("graz", "vienna")):
        lines = ["image_name,patient_id,target"]
        for i, patient in enumerate(["1", "1", "1", "2", "IP_0000007"]):
            photo(tmp_path / clinic / f"{clinic}{i}.png", 10 * k + i)
            lines.append(f"{clinic}{i},{patient},{i % 2}")
        written(tmp_path / clinic / f"{clinic}.csv", "\n".join(lines))
    return parse_sources(";".join(f"csv={tmp_path / c / f'{c}.csv'}" for c in ("graz", "vienna")))


def test_patients_of_two_sources_are_two_and_those_of_the_archive_one(clinics):
    table = lesion_table(clinics)
    assert table["patient_id"].tolist() == ["1", "1", "1", "2", "IP_0000007"] * 2
    assert table["group"].nunique() == 5
    assert patient_key(table).tolist() == table["group"].tolist()
    shared = table[table["patient_id"] == "IP_0000007"]
    assert shared["group"].nunique() == 1 and shared["source"].nunique() == 2


def test_predictions_and_blends_rank_within_each_clinics_patient(clinics, tmp_path):
    store = build_store(lesion_table(clinics), tmp_path / "store", [32])
    logits = np.array([0.0, 1, 2, 0, 0, 10, 11, 12, 0, 1])

    def table_of(logits: np.ndarray) -> pd.DataFrame:
        says = ModelOutput.named({"logits": logits[:, None]})
        rule, run = store.preprocessing, Run.named("none", tmp_path)
        predictor = Predictor(run, rule, [0], 1, lambda images: iter([says]), None, "")
        return prediction_table(store, predictor.predict(store))

    found = table_of(logits)
    assert found["patient_rank"].tolist() == [3, 2, 1, 1, 2, 3, 2, 1, 1, 1]
    alone = table_of(np.r_[logits[:5], logits[:5]])
    assert alone["outlier"].iloc[:3].tolist() == alone["outlier"].iloc[5:8].tolist()
    blend = blend_table({"one": found, "two": found})
    assert blend["patient_rank"].tolist() == found["patient_rank"].tolist()
    merged = within_patient(found["patient_id"], logits)  # what came before: six lesions of "1"
    assert merged["patient_rank"].tolist() != found["patient_rank"].tolist()


def test_the_board_asks_which_of_two_patients_is_meant(clinics, tmp_path):
    store = build_store(lesion_table(clinics), tmp_path / "store", [32])
    scored = store.table.assign(logit=np.arange(10.0), shown=np.linspace(0.1, 0.9, 10), fold=0)
    gallery = Gallery(store, scored.assign(patient=patient_names(scored)))
    names = ["csv-graz:1", "csv-graz:2", "csv-vienna:1", "csv-vienna:2", "IP_0000007"]
    assert sorted(gallery.patients().index) == sorted(names)
    assert gallery.patients()["lesions"].to_dict()["csv-vienna:1"] == 3
    with pytest.raises(BadInput, match="2 patients are called '1'.*csv-graz:1 or csv-vienna:1"):
        gallery.patient("1")
    mine = gallery.patient("1", source="csv-vienna")
    assert {x.source for x in mine.lesions} == {"csv-vienna"} and len(mine.lesions) == 3
    assert [x.rank for x in gallery.patient("csv-vienna:1").lesions] == [1, 2, 3]
    assert len(gallery.patient("IP_0000007").lesions) == 2
    assert gallery.lesion("graz0").rank == 3
    with pytest.raises(BadInput, match="no patient '3'"):
        gallery.patient("3")


def test_an_image_of_the_archive_keeps_one_group_in_every_source(tmp_path):
    for k, folder in enumerate(("mine", "ham")):
        photo(tmp_path / folder / "ISIC_0000001.png", k)
    written(tmp_path / "mine" / "t.csv", "image_name,target\nISIC_0000001,1\n")
    text = "image_id,lesion_id,dx\nISIC_0000001,HAM_0000009,mel\n"
    written(tmp_path / "ham" / "HAM10000_metadata.csv", text)
    both = f"csv={tmp_path / 'mine' / 't.csv'};ham10000={tmp_path / 'ham'}"
    assert lesion_table(parse_sources(both))["group"].nunique() == 1


def test_an_image_called_like_a_patient_is_not_that_patient(lesions):
    path = written(lesions / "t.csv", "image_name,patient_id,target\na,b,0\nb,,1\nc,b,1\n")
    group = csv_table(path)["group"].tolist()
    assert group[0] == group[2] != group[1]


# names


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["p0/IMG_0.jpg", "p1/IMG_0.jpg", "p1/IMG_1.jpg"], ["p0/IMG_0", "p1/IMG_0", "IMG_1"]),
        (["1.jpg", "1.png"], ["1.jpg", "1.png"]),
        (["a/1.jpg", "a/1.png", "b/1.jpg"], ["a/1.jpg", "a/1.png", "b/1"]),
        (["1.jpg", "1.png", "1.jpg.png"], ["1.jpg", "1.png", "1.jpg.png"]),
        (["p/1.2.840.7", "q/own.5.jpeg"], ["1.2.840.7", "own.5"]),
        (["La\u0308sion.jpg"], ["L\u00e4sion"]),
    ],
)
def test_an_image_is_named_by_as_much_of_its_path_as_is_needed(files, names):
    assert image_names(files) == names


def classes(root: Path, *folders: str, n: int = 2) -> Path:
    for k, folder in enumerate(folders):
        for i in range(n):
            photo(root / folder / f"{i}.jpg", 100 * k + i)
    return root


def test_the_same_name_in_two_classes_and_in_two_parts(tmp_path):
    parts = [f"{p}/{c}" for p in ("train", "test") for c in ("benign", "malignant")]
    root = classes(tmp_path, *parts, n=8)
    inner = folder_table(root / "train")
    assert len(inner) == 16 and inner["image_name"].iloc[0] == "benign/0"
    assert inner["target"].tolist() == [0] * 8 + [1] * 8
    whole = folder_table(root)
    assert len(whole) == 16 and set(whole["split"]) == {"train"}
    assert whole["image_name"].iloc[-1] == "train/malignant/7"
    assert folder_table(root, "test")["image_name"].iloc[0] == "test/benign/0"
    assert len(folder_table(root, "all")) == 32
    store = build_store(folder_table(root, "all"), tmp_path / "store", [32])
    assert store.table["image_name"].is_unique and len(store) == 32


def test_images_of_the_same_name_in_each_patients_folder(tmp_path):
    for k in range(3):
        for i in range(2):
            photo(tmp_path / f"patient_{k}" / f"IMG_{i}.jpg", 10 * k + i)
    table = folder_table(tmp_path, "all")
    assert table["image_name"].iloc[0] == "patient_0/IMG_0" and len(table) == 6
    assert table["patient_id"].tolist() == [f"patient_{k}" for k in (0, 0, 1, 1, 2, 2)]
    lines = [f"patient_{k}\\IMG_{i}.JPG,{k % 2}" for k in range(3) for i in range(2)]
    path = written(tmp_path / "t.csv", "image_name,target\n" + "\n".join(lines))
    assert csv_table(path)["image_name"].tolist() == table["image_name"].tolist()


def test_a_file_listed_twice_is_refused_by_name(lesions):
    path = written(lesions / "t.csv", "image_name,target\na.png,0\na,1\nb,1\n")
    with pytest.raises(BadTable, match="1 image names come twice: a"):
        csv_table(path)


# folders


CLASS_FOLDERS = {
    "melanoma": 1, "Malignant": 1, "MEL": 1, "nevus": 0, "naevus": 0, "Seborrheic Keratosis": 0,
    "seborrheic_keratosis": 0, "bcc": 0, "Basal-Cell Carcinoma": 0, "scc": 0, "akiec": 0, "nv": 0,
    "vasc": 0, "df": 0, "pigmented benign keratosis": 0, "squamous cell carcinoma": 0, "benign": 0,
}  # fmt: skip


def test_class_folders_are_what_they_say(tmp_path, capsys):
    for k, name in enumerate(CLASS_FOLDERS):
        photo(tmp_path / name / f"x{k}.jpg", k)
    table = folder_table(tmp_path)
    found = {Path(p).parent.name: t for p, t in zip(table["path"], table["target"], strict=True)}
    assert found == CLASS_FOLDERS
    said = capsys.readouterr().out
    assert "melanoma: MEL (1), Malignant (1), melanoma (1); not melanoma: Basal" in said


def test_a_class_folder_that_is_not_known_is_asked_about(tmp_path):
    root = classes(tmp_path, "benign", "malignant", "indeterminate")
    with pytest.raises(BadTable, match="class folder indeterminate melanoma.*--positive NAME"):
        folder_table(root)
    assert folder_table(root, positive="malignant")["target"].tolist() == [0, 0, 0, 0, 1, 1]
    both = folder_table(root, positive="Malignant, indeterminate")
    assert both["target"].tolist() == [0, 0, 1, 1, 1, 1]
    with pytest.raises(BadInput, match="--positive malgnant"):
        folder_table(classes(tmp_path / "two", "benign", "malignant"), positive="malgnant")


def test_folders_that_are_no_classes_are_read_without_labels_and_said(tmp_path, capsys):
    root = classes(tmp_path, "clinic a", "clinic b")
    assert folder_table(root)["target"].tolist() == [-1] * 4
    assert "no class folder among clinic a, clinic b" in capsys.readouterr().out
    assert folder_table(root, positive="clinic b")["target"].tolist() == [0, 0, 1, 1]


def test_images_beside_the_class_folders_are_counted_and_named(tmp_path, capsys):
    root = classes(tmp_path, "benign", "malignant")
    photo(root / "loose.jpg", 77)
    assert len(folder_table(root)) == 4
    assert "1 images that lie in no class folder left out: loose" in capsys.readouterr().out
    assert folder_table(root, "all").set_index("image_name").loc["loose", "target"] == -1


def test_what_is_no_image_is_counted_and_what_cannot_be_decoded_is_rejected(tmp_path, capsys):
    photo(tmp_path / "a.jfif", 1)
    photo(tmp_path / "b.GIF", 2)
    photo(tmp_path / "c.jpg", 3).rename(tmp_path / "IM0001")  # told by its first bytes
    for name in ("d.cr2", "clip.mp4", "notes.txt", "._c.jpg", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"not an image at all")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    table = folder_table(tmp_path, "all")
    assert table["image_name"].tolist() == ["IM0001", "a", "b", "d.cr2", "gone"]
    said = capsys.readouterr().out
    assert "2 files that are no images passed over: clip.mp4, notes.txt" in said
    store = build_store(table, tmp_path / "store", [32])
    assert store.table["image_name"].tolist() == ["IM0001", "a", "b"]
    reasons = store.rejected.set_index("image_name")["reason"]
    assert "not an image" in reasons["d.cr2"] and "cannot be read" in reasons["gone"]


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    real = classes(tmp_path / "real", "study")
    root = tmp_path / "here"
    root.mkdir()
    (root / "linked").symlink_to(real / "study")
    (real / "study" / "back").symlink_to(root)
    assert [p.relative_to(root).as_posix() for p in walk(root)] == ["linked/0.jpg", "linked/1.jpg"]
    assert len(folder_table(root, "all")) == 2


def test_linked_dicom_studies_are_read(tmp_path):
    pytest.importorskip("pydicom")
    jpeg = photo(tmp_path / "plain.jpg", 5).read_bytes()
    dicom_file(tmp_path / "archive" / "IM1", jpeg, PatientID="p1")
    dicom_file(tmp_path / "cd" / "p2" / "IM1.dcm", jpeg, PatientID="p2")
    (tmp_path / "cd" / "p1").symlink_to(tmp_path / "archive")
    (tmp_path / "cd" / "README.txt").write_text("read me")
    table = lesion_table(parse_sources(f"dicom={tmp_path / 'cd'}"))
    assert table["image_name"].tolist() == ["p1/IM1", "p2/IM1"]
    assert table["patient_id"].tolist() == ["p1", "p2"]
    same = folder_table(tmp_path / "cd", "all")  # another kind, the same headers
    assert same["patient_id"].tolist() == ["p1", "p2"]


def test_an_archive_with_backslashes_reads_as_its_folder(tmp_path):
    root = classes(tmp_path / "plain", "benign", "malignant")
    archive = tmp_path / "windows.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted(root.rglob("*.jpg")):
            name = path.relative_to(root.parent).as_posix().replace("/", "\\")
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name
            target.writestr(info, path.read_bytes())
    packed, plain = folder_table(archive), folder_table(root)
    assert packed.drop(columns="path").equals(plain.drop(columns="path"))
    ours = build_store(packed, tmp_path / "a", [32])
    assert np.array_equal(ours.images, build_store(plain, tmp_path / "b", [32]).images)


# leaks


@pytest.mark.parametrize(
    "header", ["Patient_ID", " patient_id", "PatientID", "patient", "Subject", "case_id"]
)
def test_a_column_of_patients_is_used_and_said(lesions, capsys, header):
    path = written(lesions / "t.csv", f"image_name,target,{header}\na,0,007\nb,1,7\nc,1,7\n")
    table = csv_table(path)
    assert table["patient_id"].tolist() == ["007", "7", "7"] and table["group"].nunique() == 2
    said = capsys.readouterr().out
    assert "taken for the patient (--group-col NAME: another)" in said and header.strip() in said


def test_two_columns_that_may_be_the_patient_are_a_question(lesions):
    text = "image_name,target,PatientID,subject\na,0,1,x\nb,1,1,y\nc,1,2,y\n"
    path = written(lesions / "t.csv", text)
    with pytest.raises(
        BadTable, match="'PatientID', 'subject' may each be the patient.*--group-col"
    ):
        csv_table(path)
    assert csv_table(path, group_col="subject")["patient_id"].tolist() == ["x", "y", "y"]
    alike = written(lesions / "t.csv", text.replace("b,1,1,y", "b,1,1,x"))
    assert csv_table(alike)["patient_id"].tolist() == ["1", "1", "2"]


def test_a_lesion_column_groups_where_no_patient_is_known(lesions):
    path = written(lesions / "t.csv", "image_name,target,Lesion ID\na,0,5\nb,1,6\nc,1,6\n")
    table = csv_table(path)
    assert table["lesion_id"].tolist() == ["5", "6", "6"] and table["group"].nunique() == 2


@pytest.mark.parametrize(
    ("header", "test", "train"),
    [("split", "test", "train"), ("Partition", "Testing", "TRAIN"), ("set", "holdout", "training")],
)
def test_the_tables_own_test_rows_stay_out(tmp_path, capsys, header, test, train):
    lines = [f"image_name,target,{header}"]
    for i in range(20):
        photo(tmp_path / "images" / f"les_{i}.jpg", i)
        lines.append(f"les_{i},{i % 2},{test if i >= 12 else 'Valid' if i == 11 else train}")
    path = written(tmp_path / "table.csv", "\n".join(lines))
    table = csv_table(path)
    assert table["image_name"].tolist() == [f"les_{i}" for i in range(12)]
    assert table["split"].tolist() == ["train"] * 11 + ["validation"]
    assert "8 images of its split test left out" in capsys.readouterr().out
    assert csv_table(path, "test")["image_name"].tolist() == [f"les_{i}" for i in range(12, 20)]
    assert len(csv_table(path, "all")) == 20 and len(csv_table(path, "validation")) == 1


def test_a_split_that_is_half_known_is_asked_about(lesions):
    path = written(lesions / "t.csv", "image_name,target,split\na,0,train\nb,1,spare\nc,1,test\n")
    with pytest.raises(BadTable, match="column 'split': spare beside test, train"):
        csv_table(path)


def test_folds_without_ids_say_so_in_so_many_words(tmp_path):
    names = [f"n{i}" for i in range(20)]
    table = pd.DataFrame({"source": "csv", "image_name": names, "target": [0, 1] * 10})
    folds = assign_folds(table.assign(group="csv:" + table["image_name"]), 2)
    (sentence,) = unknown_patients(folds)
    assert sentence.startswith("csv: no patient or lesion id is known for 20 of 20 images")
    assert fold_table(folds)["no patient or lesion id"].sum() == 20
    known = assign_folds(table.assign(group=[f"csv:{i // 2}" for i in range(20)]), 2)
    assert unknown_patients(known) == []
    assert "no patient or lesion id" not in fold_table(known)


# tables


TEXT = "Image_Name;Target;Age_Approx;Anatom_Site;Läsion\na.png;1,0;45,5;Rücken;ä\nb;0;61;back;ö\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (TEXT, "utf-8"),
        (TEXT, "cp1252"),
        (TEXT, "utf-8-sig"),
        (TEXT, "utf-16"),
        (TEXT, "utf-16-le"),
        (TEXT.replace(";", "\t"), "utf-16"),
        (TEXT.replace(";", "|"), "utf-8"),
        (TEXT.replace("\n", ";;\n"), "utf-8"),
        (TEXT.replace("\n", "\r\n").replace("Target", " target "), "cp1252"),
        ("\n;;;;\n" + TEXT + "\n;;\n\n", "utf-8"),
        ("sep=;\n" + TEXT, "cp1252"),
        (TEXT.replace(",", ".").replace(";", ","), "utf-8"),
        ('"' + TEXT.replace("\n", '"\n"', 2).replace(";", '";"').rstrip('\n"') + '"\n', "utf-8"),
    ],
)
def test_a_table_says_the_same_however_a_spreadsheet_saved_it(lesions, capsys, text, encoding):
    table = csv_table(written(lesions / "t.csv", text, encoding))
    assert table["image_name"].tolist() == ["a", "b"] and table["target"].tolist() == [1, 0]
    assert table["age_approx"].tolist() == [45.5, 61.0]
    assert table["anatom_site"].fillna("missing").tolist() == ["missing", "torso"]
    assert "body site Rücken taken as not known (1 images)" in capsys.readouterr().out


def test_a_workbook_is_read_or_said_to_be_one(lesions, monkeypatch):
    path = lesions / "t.xlsx"
    with pd.ExcelWriter(path) as book:
        pd.DataFrame({"about": ["these are lesions"]}).to_excel(
            book, sheet_name="notes", index=False
        )
        columns = {
            "Image_Name": ["a", "b"],
            "Target": [1, 0],
            "Patient_ID": [7, 7],
            "Age": [45.5, 60],
        }
        pd.DataFrame(columns).to_excel(book, sheet_name="data", index=False)
    table = csv_table(path)
    assert table["target"].tolist() == [1, 0] and table["patient_id"].tolist() == ["7", "7"]
    assert table["age_approx"].tolist() == [45.5, 60.0]
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(BadTable, match=r"is an Excel workbook: pip install 'melanoma\[excel\]'"):
        csv_table(path)
    old = lesions / "old.xls"
    old.write_bytes(bytes.fromhex("D0CF11E0A1B11AE1") + bytes(600))
    with pytest.raises(BadTable, match="old Excel workbook: save it as .xlsx or CSV"):
        csv_table(old)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image_name,target\na,0\n\nb,1,x\n", "line 4: 3 fields, but the header has 2"),
        (
            "image_name,target\na,0\nb\nc\n",
            "line 3: 1 fields, but the header has 2, as have lines 4",
        ),
        ('image_name,target\n"a\n",0\nb,1,2\n', "line 4: 3 fields"),
        ("<!DOCTYPE html><title>Sign in</title>", "is a web page, no table"),
        ("image_name,target\n\n,1\n", "line 3: image_name is empty"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_by_line(lesions, text, said):
    with pytest.raises(BadTable, match=said):
        csv_table(written(lesions / "t.csv", text))


@pytest.mark.parametrize("named", ["NFC", "NFD"])
def test_names_are_found_in_either_unicode_form(tmp_path, named):
    other = {"NFC": "NFD", "NFD": "NFC"}[named]
    lines = ["image_name,target"]
    for i in range(12):
        name = f"Läsion_é{i}"
        photo(tmp_path / "images" / f"{unicodedata.normalize(other, name)}.jpg", i)
        lines.append(f"{unicodedata.normalize(named, name)}.jpg,{i % 2}")
    table = csv_table(written(tmp_path / "table.csv", "\n".join(lines)))
    assert table["image_name"].tolist() == [f"L\u00e4sion_\u00e9{i}" for i in range(12)]
    assert all(Path(p).is_file() for p in table["path"])


def test_files_are_found_whatever_the_case_and_the_slashes(tmp_path):
    photo(tmp_path / "Photos" / "Left Arm" / "IMG_1.JPG", 1)
    photo(tmp_path / "Photos" / "x.png", 2)
    photo(tmp_path / "Photos" / "X.png", 3)
    text = "image_name,target\nphotos\\left arm\\img_1.jpg,0\n.\\Photos\\x.png,1\nPhotos/X,1\n"
    table = csv_table(written(tmp_path / "t.csv", text))
    found = [Path(p).relative_to(tmp_path).as_posix() for p in table["path"]]
    assert found == ["Photos/Left Arm/IMG_1.JPG", "Photos/x.png", "Photos/X.png"]


def test_a_name_that_two_files_have_is_refused_with_a_way_out(lesions):
    photo(lesions / "a.jpg", 9)
    path = written(lesions / "t.csv", "image_name,target\na,0\nb,1\n")
    with pytest.raises(BadTable, match=r"image 'a' may be .*a.jpg or .*a.png: write its suffix"):
        csv_table(path)
    written(path, "image_name,target\na.jpg,0\na.png,1\n")
    assert csv_table(path)["image_name"].tolist() == ["a.jpg", "a.png"]


def test_images_that_lie_elsewhere(tmp_path):
    photo(tmp_path / "disk" / "part_1" / "a.jpg", 1)
    photo(tmp_path / "disk" / "part_2" / "b.jpg", 2)
    path = written(
        tmp_path / "tables" / "t.csv", "image_name,target\na,0\nD:\\photos\\part_2\\b.jpg,1\n"
    )
    with pytest.raises(BadTable, match=r"2 of 2 images.*Looked in .*tables.*--image-dir"):
        csv_table(path)
    table = csv_table(path, image_dir=str(tmp_path / "disk"))
    assert [Path(p).name for p in table["path"]] == ["a.jpg", "b.jpg"]
    with pytest.raises(BadTable, match="2 of 2 images listed have no file"):
        written(path, "image_name,target\np1/a,0\np1/b,1\n")  # of another folder
        csv_table(path, image_dir=str(tmp_path / "disk"))
    with pytest.raises(BadInput, match="is no folder"):
        csv_table(path, image_dir=str(tmp_path / "nowhere"))


def test_the_images_of_a_known_layout_may_lie_elsewhere(tmp_path):
    photo(tmp_path / "disk" / "deep" / "ISIC_1.jpg", 1)
    text = "lesion_id\timage_id\tdx\tage\tsex\tlocalization\tdataset\n"
    text += '"HAM_1"\t"ISIC_1.jpg"\t"mel"\t80.0\t"male"\t"back"\t"vidir_modern"\n'
    written(tmp_path / "ham" / "HAM10000_metadata.tab", text)
    ham = Source("ham10000", tmp_path / "ham", image_dir=str(tmp_path / "disk"))
    table = lesion_table([ham])
    assert table["image_name"].tolist() == ["ISIC_1"] and table["split"].tolist() == ["train"]
    assert table["age_approx"].tolist() == [80.0] and table["anatom_site"].tolist() == ["torso"]
    photo(tmp_path / "disk" / "other" / "ISIC_1.jpg", 2)
    with pytest.raises(BadTable, match="'ISIC_1' may be .*deep.* or .*other"):
        lesion_table([ham])


def test_labels_that_are_not_known_ask_for_positive(lesions):
    path = written(lesions / "t.csv", "image_name,target\na,suspicious\nb,fine\nc,\n")
    with pytest.raises(BadTable, match="unknown label 'fine', 'suspicious'.*--positive NAME"):
        csv_table(path)
    assert csv_table(path, positive="Suspicious")["target"].tolist() == [1, 0, -1]
    written(path, "image_name,target\na,2\nb,0\nc,1\n")
    assert csv_table(path, positive="1,2")["target"].tolist() == [1, 0, 1]
    with pytest.raises(BadInput, match="--positive melonoma: no label"):
        csv_table(written(path, "image_name,target\na,0\nb,1\nc,1\n"), positive="melonoma")


def test_columns_are_read_under_other_names_and_odd_values_are_named(lesions, capsys):
    text = "image_name,target,Gender,Age,Localization,dx\n"
    text += "a,1,M,about 50,Scalp,mel\nb,0,female,61,,nv\n"
    table = csv_table(written(lesions / "t.csv", text))
    assert table["sex"].tolist() == ["male", "female"] and table["diagnosis"].tolist() == [
        "mel",
        "nv",
    ]
    assert table["anatom_site"].iloc[0] == "head/neck" and pd.isna(table["age_approx"].iloc[0])
    assert "age about 50 taken as not known (1 images)" in capsys.readouterr().out


# the command line


def test_prepare_takes_image_dir_and_positive_and_keeps_them_in_its_manifest(tmp_path):
    for i in range(8):
        photo(tmp_path / "disk" / f"n{i}.jpg", i)
    (tmp_path / "disk" / "broken.jpg").write_bytes(b"no image")
    lines = [f"n{i};{'cancer' if i % 2 else 'fine'}" for i in range(8)] + ["broken;fine"]
    written(tmp_path / "tables" / "t.csv", "image;label\n" + "\n".join(lines))
    said = succeed(
        tmp_path, "prepare", "--run", "own", "--size", "32", "--source", "csv=tables/t.csv",
        "--image-col", "image", "--target-col", "label", "--image-dir", "disk",
        "--positive", "cancer",
    )  # fmt: skip
    assert "8 images in" in said and "1 rejected" in said
    table = Store.open(tmp_path / "output" / "own" / "store").table
    assert table["target"].tolist() == [0, 1] * 4
    kept = read_json(tmp_path / "output" / "own" / "store" / "manifest.json")["parameters"]
    assert kept["positive"] == "cancer" and kept["image_dir"] == str(tmp_path / "disk")
    said = succeed(tmp_path, "folds", "--run", "own", "--n-folds", "2")
    assert "no patient or lesion id is known for 8 of 8 images" in said
