"""Several runs as one: each by its own rule, one table, one submission, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from support.commands import REPOSITORY, TINY, melanoma, run_papermill, succeed

FOLDER = Path("output") / "tiny+wide"


@pytest.fixture(scope="module")
def two_runs(trained, drawn, tmp_path_factory) -> Path:
    "A project with `tiny` (32 px, two folds, evaluated) and `wide` (40 px, one fold of two)."
    root = tmp_path_factory.mktemp("blend") / "project"
    shutil.copytree(trained, root)
    for old in root.glob("output/tiny/predictions.csv"):
        old.unlink()
    succeed(root, "prepare", "--run", "wide", "--size", "40", "--source", f"siim2020={drawn}")
    said = succeed(root, "folds", "--run", "wide", "--n-folds", "2")
    assert said.splitlines()[-1] == "next: melanoma train --run wide --folds all"
    said = succeed(root, "train", "--run", "wide", "--folds", "0", *TINY, "-p", "epochs", "1")
    command = said.splitlines()[-1]
    assert command.startswith("next: melanoma train --run wide --folds 1 -p arch resnet10t")
    assert "-p epochs 1" in command and "-p pretrained none" in command
    assert "-p size" not in command  # it is the store's
    return root


@pytest.fixture(scope="module")
def labelled(two_runs, drawn) -> str:
    "What the blend of labelled images said."
    runs = ("--run", "tiny", "--run", "wide")
    return succeed(two_runs, "predict", *runs, "--source", f"siim2020={drawn}", "--tta", "1")


def test_a_blend_is_the_mean_of_its_runs_each_by_its_own_rule(two_runs, labelled, drawn):
    blend = pd.read_csv(two_runs / FOLDER / "predictions.csv")
    columns = "source,image_name,patient_id,score,probability,tiny,wide,patient_rank,outlier"
    assert list(blend) == [*columns.split(","), "status"]
    assert np.allclose(blend["score"], blend[["tiny", "wide"]].mean(axis=1))
    assert not (two_runs / "output/tiny/predictions.csv").exists()  # their own are left alone
    for run, size in (("tiny", 32), ("wide", 40)):
        store = two_runs / "output" / run / "stores" / "siim2020-labelled"
        assert (store / str(size) / "images.npy").exists()
    succeed(two_runs, "predict", "--run", "wide", "--source", f"siim2020={drawn}", "--tta", "1")
    alone = pd.read_csv(two_runs / "output/wide/predictions.csv")
    assert alone["image_name"].tolist() == blend["image_name"].tolist()
    assert np.allclose(alone["score"], blend["wide"]) and "fold0" in alone


def test_where_labels_are_known_runs_and_blend_are_compared(two_runs, labelled):
    entry = json.loads((two_runs / FOLDER / "metrics_external.json").read_text())["siim2020"]
    external = entry["all"]
    figures = {f"{name}{end}" for name in ("auroc", "ap") for end in ("", "_low", "_high")}
    assert set(external) == figures | {"n", "positives", "clustered"} and external["clustered"]
    n = external["n"]  # all of them are training images
    assert entry["seen"] == {"identical": n, "near": 0, "same_name": 0} and not entry["unseen"]
    assert set(entry["made_from"]) == {"tiny", "wide"}
    assert f"siim2020: AUROC {external['auroc']:.4f}" in labelled and "by mean rank" in labelled
    assert "run tiny: AUROC" in labelled and "run wide: AUROC" in labelled
    assert "paired DeLong" in labelled
    assert "scores alone: there is no calibration.json: `melanoma evaluate --run wide`" in labelled


def test_a_submission_by_rank_called_by_papermill(two_runs, drawn):
    notebook = REPOSITORY / "nbs" / "pipeline" / "50_infer.ipynb"
    values = {
        "run": "tiny,wide",
        "sources": f"siim2020={drawn}",
        "split": "test",
        "tta": "1",
        "sample_submission": f"{drawn}/sample_submission.csv",
        "ensemble": "rank",
    }
    given = [word for name, value in values.items() for word in ("-p", name, value)]
    out = two_runs / "by_hand.ipynb"
    done = run_papermill(two_runs, notebook, out, *given)
    assert done.returncode == 0, done.stderr
    blend = pd.read_csv(two_runs / FOLDER / "predictions.csv").set_index("image_name")
    ranks = np.mean([rankdata(blend[run]) / len(blend) for run in ("tiny", "wide")], axis=0)
    submission = pd.read_csv(two_runs / FOLDER / "submission.csv").set_index("image_name")["target"]
    assert np.allclose(submission.loc[blend.index], ranks)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (("tiny", "tiny"), "'tiny' is named twice"),
        (("tiny", "wied"), "there is no run 'wied'.*Did you mean 'wide'"),
        (("tiny", "bare"), "'bare' has no trained fold.*first `melanoma train --run bare`"),
    ],
)
def test_runs_that_cannot_be_blended(two_runs, drawn, runs, message):
    if "bare" in runs:
        bare = two_runs / "output" / "bare" / "store"
        shutil.copytree(two_runs / "output/wide/store", bare, dirs_exist_ok=True)
    names = [word for run in runs for word in ("--run", run)]
    done = melanoma(two_runs, "predict", *names, "--source", f"siim2020={drawn}")
    assert done.returncode == 2
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.splitlines()[-1].startswith("melanoma: ")


def test_arrays_of_one_size_are_refused_before_any_run_predicts(two_runs, tmp_path):
    "siim-npy holds pixels of one size: a run of another size cannot use them."
    table = pd.DataFrame({"image_name": ["a", "b"], "patient_id": ["p", "q"], "target": [0, 1]})
    table.to_csv(tmp_path / "train.csv", index=False)
    np.save(tmp_path / "x_train_32.npy", np.zeros((2, 32, 32, 3), np.uint8))
    done = melanoma(
        two_runs, "predict", "--run", "tiny", "--run", "wide", "--source", f"siim-npy={tmp_path}"
    )
    assert done.returncode == 2 and "x_train_40.npy is not there" in done.stderr
    assert "x_train_32.npy" in done.stderr
    assert not list(two_runs.glob("output/tiny/stores/siim-npy*"))
