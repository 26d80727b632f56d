"""From images to submission, as a user runs it: commands, papermill, kills and second calls."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest

from melanoma.core.errors import BadInput
from melanoma.core.files import HERE
from melanoma.model.checkpoint import load_checkpoint, read_header, save_checkpoint
from melanoma.predict.ensemble import load_ensemble
from melanoma.run.layout import Run
from support.commands import (
    REPOSITORY,
    TINY,
    TRAIN_NOTEBOOK,
    begin,
    copy_of,
    melanoma,
    program,
    run_papermill,
    succeed,
    wait_for,
)

pytestmark = pytest.mark.slow

RECIPE = [*TINY, "-p", "epochs", "2"]


def test_a_run_leaves_the_files_of_the_interface(trained, drawn):
    run = trained / "output" / "tiny"
    history = pd.read_csv(run / "fold0" / "history.csv")
    assert list(history) == ["epoch", "train_loss", "valid_loss", "auroc", "lr", "seconds"]
    oof = pd.read_csv(run / "fold1" / "oof.csv")
    columns = "source,image_name,patient_id,group,target,logit,score,fold"
    assert list(oof) == columns.split(",")
    assert set(oof["fold"]) == {1}
    folds = pd.read_csv(run / "folds.csv")
    assert list(folds) == ["source", "image_name", "group", "target", "fold"]
    assert set(folds[folds["fold"] == 1]["image_name"]) == set(oof["image_name"])

    metrics = json.loads((run / "metrics.json").read_text())
    wanted = {"auroc", "auroc_low", "auroc_high", "ap", "ap_low", "ap_high"}
    wanted |= {"n", "positives", "clustered"}
    assert metrics["monitor"] == "inner" and set(metrics["pooled"]) == wanted
    assert metrics["pooled"]["n"] == len(folds) and len(metrics["by_fold"]) == 2
    assert metrics["clustered"] and metrics["pooled"]["clustered"] and metrics["ungrouped"] == 0
    every = [metrics["pooled"], *metrics["by_fold"], *metrics["by_source"].values()]
    assert all(m["ap_low"] < m["ap"] < m["ap_high"] for m in every)
    for quality in metrics["calibration"].values():
        for name in ("brier", "ece"):
            assert quality[f"{name}_low"] <= quality[name] <= quality[f"{name}_high"], name
    calibration = json.loads((run / "calibration.json").read_text())
    wanted = {"method", "a", "b", "prevalence", "n", "views", "members", "made_from"}
    assert wanted < set(calibration) and calibration["views"] == 8 and calibration["members"] == 2
    digests = {"folds.csv"} | {f"fold{k}/{n}.csv" for k in (0, 1) for n in ("oof", "views")}
    digests |= {f"fold{k}.safetensors" for k in (0, 1)}
    assert set(calibration["made_from"]) == set(metrics["made_from"]) == digests
    report = (run / "report.html").read_text()
    assert "data:image/png;base64" in report and "OOF AUROC" in report

    header = read_header(trained / "weights" / "tiny" / "fold1.safetensors")
    assert header["fold"] == 1 and header["preprocessing"]["size"] == 32
    assert header["normalisation"]["mean"] and header["versions"]["torch"]
    assert not list((trained / "weights" / "tiny").glob("*.last.pt"))


def test_executed_notebooks_hold_pictures_and_no_errors(trained):
    for name in ("prepare", "folds", "train_fold0", "report"):
        notebook = nbformat.read(trained / "output" / "tiny" / f"{name}.ipynb", as_version=4)
        outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
        assert any("image/png" in o.get("data", {}) for o in outputs), name
        assert not [o for o in outputs if o.output_type == "error"], name
        streams = "".join(o.text for o in outputs if o.output_type == "stream")
        assert "\r" not in streams and "Warning" not in streams, streams


def test_what_a_command_left_that_was_killed_after_the_fold_goes(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    root = tmp_path / "project"
    shutil.copytree(trained, root)
    dead = 4_194_305  # no Linux process has this number
    running = root / "output/tiny/train_fold1.running.ipynb"
    folder = tmp_path / f"melanoma-{HERE}-{dead}-abc"
    holder = root / f"output/tiny/.{running.name}.{dead}-0000.holder"
    running.write_text("{}"), folder.mkdir(), holder.write_text("it is executed")
    said = succeed(root, "train", "--run", "tiny", "--folds", "1", *RECIPE, way=program)
    assert said.startswith("fold 1 is finished: skipped")
    assert not running.exists() and not folder.exists() and not holder.exists()


def test_a_finished_fold_is_skipped_and_other_parameters_are_refused(project):
    said = succeed(project, "train", "--run", "tiny", "--folds", "1", *RECIPE)
    assert said.startswith("fold 1 is finished: skipped\nnext: melanoma ")
    refused = melanoma(
        project, "train", "--run", "tiny", "--folds", "0-1", *RECIPE, "-p", "lr", "1"
    )
    assert refused.returncode == 2
    assert "lr was 0.0005, is now 1.0" in refused.stderr and "--force" in refused.stderr
    again = melanoma(project, "folds", "--run", "tiny", "--n-folds", "3")
    assert again.returncode == 2 and "n_folds was 2, is now 3" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--run", "tiny", "-p", "fodl", "3"],
            "no parameter 'fodl'. Did you mean 'fold'?",
        ),
        (["train", "--run", "tiny", "--folds", "0-7"], "fold 2 does not exist: the run has 0 to 1"),
        (["train", "--run", "tiny", "-p", "epochs", "many"], "epochs = 'many': a whole number"),
        (["train", "--run", "none"], "first `melanoma prepare --run none --source"),
        (["predict", "--run", "none", "--source", "folder=."], "there is no run 'none'"),
        (["prepare", "--run", "x", "--source", "jpegs=."], "source kind 'jpegs' is not known"),
        (["prepare", "--run", "../x", "--source", "folder=."], "a run's name is a folder's name"),
        (["evaluate"], "Missing option '--run'"),
    ],
)
def test_bad_calls_end_with_exit_code_2_and_a_reason(prepared, arguments, message):
    done = melanoma(prepared, *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def test_papermill_and_the_command_name_the_same_fold(prepared, tmp_path):
    "`-p fold 1` trains fold 1 with a notebook that nbdev_clean has cleaned."
    root = copy_of(prepared, tmp_path / "project")
    notebook = tmp_path / "30_train.ipynb"
    shutil.copyfile(TRAIN_NOTEBOOK, notebook)
    clean = Path(sys.executable).with_name("nbdev_clean")
    subprocess.run([str(clean), "--fname", str(notebook)], cwd=REPOSITORY, check=True)
    out = root / "output" / "tiny" / "train_fold1.ipynb"
    values = ["-p", "run", "tiny", "-p", "fold", "1", *RECIPE]
    done = run_papermill(root, notebook, str(out), *values)
    assert done.returncode == 0, done.stderr
    assert set(pd.read_csv(root / "output/tiny/fold1/oof.csv")["fold"]) == {1}
    assert not (root / "output/tiny/fold0").exists()

    said = succeed(root, "train", "--run", "tiny", "--folds", "1", *RECIPE)
    assert "fold 1 is finished: skipped" in said
    mended = run_papermill(root, notebook, str(tmp_path / "again.ipynb"), *values)
    assert mended.returncode == 0
    assert "is finished: skipped" in (tmp_path / "again.ipynb").read_text()

    predicted = succeed(
        root, "predict", "--run", "tiny", "--source", f"folder={some_photos(tmp_path)}"
    )
    assert "folds 1 of resnet10t; missing: 0" in predicted


def some_photos(tmp_path: Path) -> Path:
    "A flat folder of two photos and a broken one."
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir(exist_ok=True)
    for name in ("a", "b"):
        Image.new("RGB", (80, 60), (200, 160, 150)).save(folder / f"{name}.jpg")
    (folder / "broken.jpg").write_text("not an image at all")
    return folder


def test_predictions_and_submission(project, drawn, tmp_path):
    sample = pd.read_csv(drawn / "sample_submission.csv").iloc[::-1]
    turned = tmp_path / "sample.csv"  # another order: the sample's order counts
    sample.to_csv(turned, index=False)
    succeed(
        project, "predict", "--run", "tiny", "--source", f"siim2020={drawn}", "--split", "test",
        "--sample-submission", "sample.csv", "--tta", "4", cwd=tmp_path, way=program,
    )  # fmt: skip
    raw = (project / "output/tiny/submission.csv").read_bytes()
    submission = pd.read_csv(project / "output/tiny/submission.csv")
    assert list(submission) == ["image_name", "target"] and b"\r" not in raw
    assert submission["image_name"].tolist() == sample["image_name"].tolist()
    assert submission["target"].between(0, 1).all()

    predictions = pd.read_csv(project / "output/tiny/predictions.csv")
    columns = "source,image_name,patient_id,score,probability,fold0,fold1,patient_rank,outlier"
    assert list(predictions) == [*columns.split(","), "status"]
    assert np.allclose(predictions["score"], predictions[["fold0", "fold1"]].mean(axis=1))
    best = predictions.sort_values("probability").groupby("patient_id").tail(1)
    assert (best["patient_rank"] == 1).all()


def test_a_folder_of_photos_with_a_broken_one(project, tmp_path):
    some_photos(tmp_path)
    said = succeed(
        project, "predict", "--run", "tiny", "--source", "folder=photos", "--out", "mine.csv",
        cwd=tmp_path,
    )  # fmt: skip
    predictions = pd.read_csv(tmp_path / "mine.csv").set_index("image_name")
    assert len(predictions) == 3 and predictions.loc[["a", "b"], "probability"].notna().all()
    assert predictions.loc["broken", "status"].startswith("rejected: not an image")
    assert "2 predictions, 1 rejected" in said


def test_weights_of_another_split_are_refused(trained, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(trained, root)
    stale = root / "weights" / "tiny" / "fold1.safetensors"
    model, header = load_checkpoint(stale)
    save_checkpoint(stale, model, header | {"n_folds": 5})
    with pytest.raises(BadInput, match="belong to different splits.*train the stale folds again"):
        load_ensemble(Run.named("tiny", root))


def test_labelled_sources_are_scored(project, drawn):
    said = succeed(
        project, "predict", "--run", "tiny", "--source", f"siim2020={drawn}", "--tta", "1"
    )
    external = json.loads((project / "output/tiny/metrics_external.json").read_text())["siim2020"]
    n = external["all"]["n"]
    assert "siim2020: AUROC" in said and 0 <= external["all"]["auroc"] <= 1
    assert external["seen"] == {"identical": n, "near": 0, "same_name": 0}  # all were trained on
    assert external["unseen"] is None and "no images left" in external["reason"]


def test_a_fold_killed_half_way_goes_on_to_the_same_history(prepared, tmp_path):
    root = copy_of(prepared, tmp_path / "project")
    recipe = [*TINY, "-p", "epochs", "6", "-p", "patience", "9"]
    process = begin(root, "train", "--run", "tiny", "--folds", "0", *recipe)
    wait_for(root / "weights" / "tiny" / "fold0.last.pt", process)
    everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in everyone:  # the command and its kernel, at once
        one.kill()
    psutil.wait_procs(everyone, timeout=30)
    assert not (root / "output/tiny/fold0/manifest.json").exists()

    said = succeed(root, "train", "--run", "tiny", "--folds", "0", *recipe)
    assert "resuming after epoch" in said
    resumed = pd.read_csv(root / "output/tiny/fold0/history.csv")

    other = tmp_path / "undisturbed"
    shutil.copytree(prepared, other, ignore=shutil.ignore_patterns("fold[0-9]*", "weights"))
    succeed(other, "train", "--run", "tiny", "--folds", "0", *recipe)
    whole = pd.read_csv(other / "output/tiny/fold0/history.csv")
    assert len(whole) == 6
    pd.testing.assert_frame_equal(resumed.drop(columns="seconds"), whole.drop(columns="seconds"))
    pd.testing.assert_frame_equal(
        pd.read_csv(root / "output/tiny/fold0/oof.csv"),
        pd.read_csv(other / "output/tiny/fold0/oof.csv"),
    )


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("prepare", ["--source", "folder=nowhere"], "nowhere"),
        ("folds", ["--n-folds", "900", "--force"], "too few for 900 folds"),
        ("train", ["--folds", "0", "-p", "size", "48"], "48 px"),
        ("evaluate", [], "no trained fold"),
        ("predict", ["--source", "folder=nowhere"], "nowhere"),
    ],
)
def test_bad_input_that_a_stages_kernel_meets_is_one_line_and_exit_code_2(
    prepared, trained, tmp_path, stage, arguments, message
):
    "And the notebook of the call before it stays."
    root = copy_of(trained if stage == "predict" else prepared, tmp_path / "project")
    run = "new" if stage == "prepare" else "tiny"
    before = {p: p.read_bytes() for p in root.glob("output/*/*.ipynb")}
    done = program(root, stage, "--run", run, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("melanoma: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr and before == {
        p: p.read_bytes() for p in root.glob("output/*/*.ipynb")
    }
