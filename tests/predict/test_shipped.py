"""The model that comes with the program: files in, numbers out, the same from every door."""

import csv
import io
import json
import shutil
import urllib.request
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from melanoma import Predictor
from melanoma.core.errors import BadInput
from melanoma.core.files import file_sha256, read_json
from melanoma.predict.files import as_csv, as_table, image_files
from melanoma.run.layout import Run, refuse_shipped, run_that_predicts, shipped_run
from support.commands import REPOSITORY, melanoma, succeed
from support.dicom import dicom
from support.servers import serving

pytestmark = pytest.mark.slow

LESIONS = REPOSITORY / "melanoma" / "web" / "lesions"
SHIPPED = REPOSITORY / "weights" / "isic"
PHOTOGRAPHS = [one["name"] for one in read_json(LESIONS / "lesions.json")]


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict:
    "What the command says of the six photographs and of a picture without a lesion."
    folder = tmp_path_factory.mktemp("photographs")
    for path in LESIONS.glob("*.jpg"):
        shutil.copy(path, folder)
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    cv2.imwrite(str(folder / "noise.png"), cv2.resize(noise, (800, 600)))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return json.loads(succeed(folder, "predict", str(folder), "--json", "--prevalence", "0.05"))


# what is shipped


def test_it_is_whole_small_and_licensed():
    header = read_json(SHIPPED / "ensemble.json")
    assert header["sha256"] == file_sha256(SHIPPED / "ensemble.onnx")
    assert header["weights"] == "int8" and header["calibration"] and header["gate_limit"] > 0
    for way in ("fp32", "onnxruntime"):  # as it was checked when it was made, on 1,000 images
        found = header["parity"][way]
        assert found["n"] == 1000 and found["max_dp"] <= 0.01 and abs(found["dauroc"]) <= 0.001
    names = ("ensemble.onnx", "ensemble.json", "oof.csv", "README.md", "LICENSE")
    assert sum((SHIPPED / name).stat().st_size for name in names) <= 25_000_000
    assert "BY-NC 4.0" in (SHIPPED / "LICENSE").read_text()
    assert "license: cc-by-nc-4.0" in (SHIPPED / "README.md").read_text()
    graph = (SHIPPED / "ensemble.onnx").read_bytes()
    for place in (b"/root", b"/home", b"/tmp", b"/work", b"site-packages"):
        assert place not in graph and place not in json.dumps(header).encode()


def test_its_calibration_is_of_its_predictions():
    from melanoma.stats.calibration import Calibration, fit_platt

    with (SHIPPED / "oof.csv").open() as file:
        rows = list(csv.DictReader(file))
    fit = fit_platt([int(r["target"]) for r in rows], [float(r["logit"]) for r in rows])
    held = Calibration.from_dict(read_json(SHIPPED / "ensemble.json")["calibration"]).one
    assert (fit.a, fit.b) == pytest.approx((held.a, held.b), abs=1e-3)
    assert fit.prevalence == pytest.approx(held.prevalence, abs=1e-9)


def test_no_run_is_made_where_it_lies(tmp_path):
    refuse_shipped(Run("isic", tmp_path))
    with pytest.raises(BadInput, match="take another name"):
        refuse_shipped(shipped_run())
    given = ["prepare", "--run", "isic", "--source", f"folder={LESIONS}"]
    refused = melanoma(REPOSITORY, *given)
    assert refused.returncode == 2 and "comes with the program" in refused.stderr
    assert run_that_predicts("", tmp_path).weights == SHIPPED
    with pytest.raises(BadInput, match="no run 'ics'"):
        run_that_predicts("ics", tmp_path)


# files in, numbers out


def test_photographs_get_numbers_and_others_a_reason(answers):
    rows = {row["name"]: row for row in answers["images"]}
    assert sorted(rows) == sorted([f"{n}.jpg" for n in PHOTOGRAPHS] + ["noise.png", "broken.jpg"])
    for name in PHOTOGRAPHS:
        row = rows[f"{name}.jpg"]
        assert row["status"] == "ok", row
        assert 0 < row["low"] <= row["probability"] <= row["high"] < 1
    for name in ("noise.png", "broken.jpg"):
        assert rows[name]["status"] == "refused" and rows[name]["probability"] is None
        assert rows[name]["reason"]
    assert answers["prevalence"] == 0.05 and "not a diagnosis" in answers["note"]


def test_the_table_the_numbers_and_the_rank_of_one_patient(tmp_path):
    done = melanoma(tmp_path, "predict", str(LESIONS), "--patient")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["image", "melanoma", "folds", "rank"]
    ranks = sorted(int(line.split()[5]) for line in lines[1:7])
    assert ranks == [1, 2, 3, 4, 5, 6]
    assert "not a diagnosis" in done.stderr and "11." in done.stderr  # the study's prevalence
    assert "next:" not in done.stdout


def test_an_archive_a_file_and_pictures_of_where(tmp_path):
    first, second = (f"{name}.jpg" for name in PHOTOGRAPHS[:2])
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(LESIONS / first, f"a/{first}")
        archive.writestr("a/notes.txt", "no image")
        archive.writestr("b/empty.txt", "")
    maps = tmp_path / "maps"
    said = succeed(
        tmp_path, "predict", "set.zip", str(LESIONS / second), "--csv", "--heatmap", str(maps)
    )
    rows = list(csv.DictReader(io.StringIO(said)))
    assert [row["name"] for row in rows] == [f"a/{first}", str(LESIONS / second)]
    assert all(row["status"] == "ok" for row in rows)
    for path in (maps / "a" / f"{first}.heat.jpg", maps / f"{second}.heat.jpg"):
        assert cv2.imread(str(path)).shape[0] >= 400
    assert len(list(maps.rglob("*.jpg"))) == 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nowhere.jpg"], "no such file or folder"),
        (["."], "holds no images"),
        (["a.zip"], "no such file or folder"),
        ([str(LESIONS), "--prevalence", "2"], "between 0 and 1"),
        ([str(LESIONS), "--json", "--csv"], "--json or --csv"),
        ([str(LESIONS), "--source", "folder=x"], "no --source"),
        ([str(LESIONS), "--run", "nothing"], "no run 'nothing'"),
        ([str(LESIONS), "--out", "x.csv", "--tta", "4"], "--out, --tta: only for a run's sources"),
        (["--run", "r", "--source", "folder=x", "--json"], "--json: only for images by path"),
        ([], "name images, folders or zip archives"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, arguments, why):
    done = melanoma(tmp_path, "predict", *arguments)
    assert done.returncode == 2 and why in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_names_are_shown_so_that_they_do_no_harm(tmp_path):
    name = "=HYPERLINK(1)\x1b[31m.jpg"
    (tmp_path / name).touch()
    assert [file.name for file in image_files([tmp_path])] == [name]
    numbers = dict.fromkeys(("probability", "low", "high", "score", "patient_rank"), 0.5)
    row = {"name": name} | numbers | {"ugly_duckling": False, "status": "ok", "reason": ""}
    assert "\x1b" not in as_table([row])
    assert as_csv([row]).splitlines()[1].startswith("'=")


# in the forms of others


def test_a_dicom_image_gets_a_structured_report(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    from highdicom.sr import ComprehensiveSR

    pixels = cv2.cvtColor(cv2.imread(str(LESIONS / f"{PHOTOGRAPHS[3]}.jpg")), cv2.COLOR_BGR2RGB)
    about = {"PatientID": "P7", "PatientName": "Doe^Jane", "PatientSex": "F", "StudyID": "1"}
    empty = ("PatientBirthDate", "StudyDate", "StudyTime", "AccessionNumber")
    about |= dict.fromkeys((*empty, "ReferringPhysicianName"), "")
    about |= {n: pydicom.uid.generate_uid() for n in ("StudyInstanceUID", "SeriesInstanceUID")}
    about |= {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.7", "Modality": "DMS"}
    about |= {"SOPInstanceUID": pydicom.uid.generate_uid()}
    (tmp_path / "a.dcm").write_bytes(dicom(pixels, **about))
    shutil.copy(LESIONS / f"{PHOTOGRAPHS[0]}.jpg", tmp_path / "b.jpg")
    out = tmp_path / "reports"
    given = ["predict", "a.dcm", "b.jpg", "--json", "--prevalence", "0.1", "--dicom-sr", str(out)]
    rows = json.loads(succeed(tmp_path, *given))["images"]
    assert [path.name for path in out.iterdir()] == ["a.dcm.sr.dcm"]
    report = pydicom.dcmread(out / "a.dcm.sr.dcm")
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.33"  # Comprehensive SR
    assert report.PatientID == "P7" and report.StudyInstanceUID == about["StudyInstanceUID"]
    assert (report.VerificationFlag, report.CompletionFlag) == ("UNVERIFIED", "PARTIAL")
    text = str(ComprehensiveSR.from_dataset(report))
    assert f"'{100 * rows[0]['probability']:.2f}'".rstrip("0'") in text
    assert about["SOPInstanceUID"] in text and "prevalence 0.1" in text
    values = [i.TextValue for i in report.ContentSequence if i.ValueType == "TEXT"]
    assert any("not a diagnosis" in value for value in values)
    none = melanoma(tmp_path, "predict", "b.jpg", "--dicom-sr", str(tmp_path / "none"))
    assert none.returncode == 2 and "none of the images is DICOM" in none.stderr


def test_a_bundle_opens_in_monai_and_says_nearly_the_same(answers, tmp_path):
    bundle = pytest.importorskip("monai.bundle")
    succeed(tmp_path, "export", "--run", "isic", "--bundle", str(tmp_path / "bundle"))
    parser = bundle.ConfigParser()
    parser.read_config(str(tmp_path / "bundle" / "configs" / "inference.json"))
    parser.read_meta(str(tmp_path / "bundle" / "configs" / "metadata.json"))
    parser["bundle_root"] = str(tmp_path / "bundle")
    said = Predictor.from_run()
    probability = parser.get_parsed_content("probability")
    for name in PHOTOGRAPHS:
        ours = said.predict(LESIONS / f"{name}.jpg").probability[0]
        assert probability(str(LESIONS / f"{name}.jpg")) == pytest.approx(ours, abs=0.06)
    assert parser["_meta_#network_data_format#inputs#image#spatial_shape"] == [224, 224]
    assert (tmp_path / "bundle" / "LICENSE").exists()


# the same from every door


def test_command_library_and_service_say_the_same(answers, tmp_path):
    photo = LESIONS / f"{PHOTOGRAPHS[1]}.jpg"
    said = next(row for row in answers["images"] if row["name"] == photo.name)
    for given in (str(photo), photo.read_bytes()):
        found = Predictor.from_run().predict(given, prevalence=0.05)
        assert found.probability[0] == pytest.approx(said["probability"], abs=2e-6)
    body = b'--e\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    body += photo.read_bytes() + b"\r\n--e--\r\n"
    with serving(tmp_path, tmp_path / "log") as server:
        url = f"{server.wait().url}/v1/predict?prevalence=0.05"
        kind = {"Content-Type": "multipart/form-data; boundary=e"}
        with urllib.request.urlopen(urllib.request.Request(url, body, kind), timeout=30) as reply:
            answer = json.load(reply)
        with urllib.request.urlopen(f"{server.url}/examples", timeout=30) as reply:
            examples = json.load(reply)["photographs"]
        for example in examples:
            with urllib.request.urlopen(f"{server.url}/{example['url']}", timeout=30) as reply:
                assert reply.read().startswith(b"\xff\xd8")
    assert answer["model"]["run"] == "isic"
    assert answer["probability"] == pytest.approx(said["probability"], abs=2e-6)
    assert len(examples) == 6 and sum("learned" in one["note"] for one in examples) == 1


def test_no_photograph_is_large():
    sizes = [path.stat().st_size for path in LESIONS.glob("*.jpg")]
    assert len(sizes) == 6 and max(sizes) <= 60_000
    assert "CC0" in (LESIONS / "LICENSE.txt").read_text()


def test_it_is_found_in_an_installed_wheel(tmp_path, monkeypatch):
    site = tmp_path / "site" / "melanoma"
    shutil.copytree(REPOSITORY / "melanoma", site)
    shutil.copytree(SHIPPED, site / "shipped" / "weights" / "isic")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(site.parent))
    before = sorted(p.name for p in (site / "shipped").rglob("*"))
    said = succeed(tmp_path / "empty", "predict", str(LESIONS / f"{PHOTOGRAPHS[0]}.jpg"))
    assert "%" in said and list((tmp_path / "empty").iterdir()) == []
    assert sorted(p.name for p in (site / "shipped").rglob("*")) == before
    assert Path(site).exists()
