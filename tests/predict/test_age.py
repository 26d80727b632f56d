"""The patient's age: fitted where it pays, used by files, sources and service."""

import csv
import json
import shutil
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from melanoma import PredictConfig, Predictor
from melanoma.core.errors import BadInput
from melanoma.core.files import read_json, write_json
from melanoma.evaluation.oof import calibrate_run, find_calibration
from melanoma.predict.sources import predict_sources
from melanoma.run.layout import Run
from melanoma.stats.age import AgeLine, age_line_that_pays
from melanoma.stats.calibration import Calibration, sigmoid
from support.commands import REPOSITORY, copy_of, melanoma
from support.servers import serving

LESIONS = REPOSITORY / "melanoma" / "web" / "lesions"
SHIPPED = REPOSITORY / "weights" / "isic"
LINE = AgeLine(slope=1.0, per_decade=0.3, centre=50.0, offset=0.0, n=1000)


def test_the_shipped_line_is_of_its_predictions():
    with (SHIPPED / "oof.csv").open() as file:
        rows = list(csv.DictReader(file))
    held = Calibration.from_dict(read_json(SHIPPED / "ensemble.json")["calibration"])
    log_odds = held.log_odds([float(r["logit"]) for r in rows], 1)
    age = [float(r["age_approx"] or "nan") for r in rows]
    told = ([r[name] for r in rows] for name in ("source", "fold", "group"))
    line = age_line_that_pays([int(r["target"]) for r in rows], log_odds, age, *told)
    assert line is not None and line.n == held.age.n == 7906
    assert line.per_decade == pytest.approx(held.age.per_decade, abs=1e-6) and line.per_decade > 0.1


def test_ten_years_move_a_probability_by_the_line():
    predictor = Predictor.from_run()
    files = sorted(LESIONS.glob("*.jpg"))[:2]
    bare = predictor.predict(files)
    ages = [predictor.predict(files, age=age) for age in (40, 50, [40, np.nan])]
    odds = [np.log(p.probability / (1 - p.probability)) for p in (bare, *ages)]
    assert odds[2] - odds[1] == pytest.approx(predictor.age_line.per_decade, abs=1e-9)
    assert odds[3] == pytest.approx([odds[1][0], odds[0][1]], abs=1e-9)  # not known: as without
    assert ages[0].score == pytest.approx(bare.score)  # as trained, whatever the age
    for age, words in (([40, 50, 60], "3 ages for 2 images"), (150, "not 150")):
        with pytest.raises(BadInput, match=words):
            predictor.predict(files, age=age)
    assert list(ages[2].to_frame()["age"].fillna(-1)) == [40, -1]


def test_the_command_says_what_the_age_does(tmp_path):
    file = str(LESIONS / "ISIC_0000295.jpg")
    done = melanoma(tmp_path, "predict", file, "--age", "80", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    expected = Predictor.from_run().predict(file, age=80).probability[0]
    assert said["age"] == 80 and said["images"][0]["probability"] == pytest.approx(expected)
    assert said["images"][0]["low"] < expected < said["images"][0]["high"]
    assert "80 years: ten years more make the odds 1.16 times" in done.stderr
    refused = melanoma(tmp_path, "predict", file, "--age", "1968")
    assert refused.returncode == 2 and "between 0 and 120 years, not 1968" in refused.stderr
    assert not refused.stdout


def test_the_service_takes_an_age_where_the_model_uses_it(tmp_path):
    def post(url: str) -> dict:
        data = (LESIONS / "ISIC_0000295.jpg").read_bytes()
        head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
        request = urllib.request.Request(url, head + data + b"\r\n--b--\r\n")
        request.add_header("Content-Type", "multipart/form-data; boundary=b")
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            return json.load(error)

    with serving(tmp_path, tmp_path / "log") as server:
        url = server.wait().url
        with urllib.request.urlopen(url + "/v1/model", timeout=60) as response:
            assert AgeLine.from_dict(json.load(response)["age"]).per_decade > 0.1
        bare, old = (post(f"{url}/v1/predict{more}") for more in ("", "?age=80"))
        assert (bare["age"], old["age"]) == (None, 80)
        assert old["study_probability"] > bare["study_probability"]
        assert old["score"] == bare["score"]
        for value in ("200", "-1", "old"):
            assert post(f"{url}/v1/predict?age={value}")["status"] == 422
    bare_run = Path(shutil.copytree(SHIPPED, tmp_path / "weights" / "bare")) / "ensemble.json"
    header = read_json(bare_run)
    write_json(bare_run, header | {"calibration": header["calibration"] | {"age": None}})
    with serving(tmp_path, tmp_path / "other", "--run", "bare") as server:
        said = post(server.wait().url + "/v1/predict?age=80")
        assert said["status"] == 409 and "does not use the patient's age" in said["detail"]
        assert said["type"].endswith("age-not-used")


def _with_line(fit: dict) -> dict:
    return replace(Calibration.from_dict(fit), age=LINE).to_dict()


@pytest.fixture
def aged(trained, tmp_path) -> Run:
    "A trained run whose calibration knows what an age says."
    run = Run.named("tiny", copy_of(trained, tmp_path / "project"))
    record = read_json(run.calibration)
    fits = {v: _with_line(fit) for v, fit in record["by_views"].items()}
    write_json(run.calibration, record | _with_line(record) | {"by_views": fits})
    return run


def test_whole_sources_are_scored_with_their_patients_ages(aged, drawn, tmp_path):
    config = PredictConfig.from_parameters(
        sources=f"siim2020={drawn}", split="test", with_age=True, tta=1, device="cpu",
        sample_submission=str(drawn / "sample_submission.csv"), runtime="torch",
    )  # fmt: skip
    with_age, plain = (
        predict_sources([aged], replace(config, with_age=told)) for told in (True, False)
    )
    table, bare = with_age.table, plain.table
    calibration, _ = find_calibration(aged, 1)
    age = table["age"].to_numpy(float)
    assert np.isfinite(age).any()
    folds = [c for c in bare if c.startswith("fold")]
    logits = {c: np.log(bare[c] / (1 - bare[c])) for c in folds}
    for c in folds:
        expected = sigmoid(calibration.log_odds(logits[c], 1, age))
        assert table[c].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert table["score"].to_numpy() == pytest.approx(table[folds].mean(axis=1), abs=1e-9)
    moved = calibration.probability(np.mean(list(logits.values()), axis=0), len(folds), None, age)
    assert table["probability"].to_numpy() == pytest.approx(moved, abs=1e-5)


def test_an_age_is_refused_where_it_says_nothing(trained, drawn, tmp_path):
    run = Run.named("tiny", copy_of(trained, tmp_path / "project"))
    assert calibrate_run(run).age is None  # drawn ages say nothing, and are too few
    done = melanoma(
        run.root, "predict", "--run", "tiny", "--source", f"siim2020={drawn}", "--split", "test",
        "--with-age",
    )  # fmt: skip
    assert done.returncode != 0 and "does not use the patient's age" in done.stdout + done.stderr
    assert not (run.folder / "predictions.csv").exists()
    refused = melanoma(run.root, "predict", str(LESIONS), "--with-age")
    assert refused.returncode == 2 and "--with-age: only for a run's sources" in refused.stderr
