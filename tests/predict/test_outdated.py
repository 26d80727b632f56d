"""Files that were made from what is no longer there: named with the command that renews them."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma.core.errors import BadInput
from melanoma.evaluation.gallery import Gallery
from melanoma.evaluation.oof import find_calibration, oof_table
from melanoma.run.layout import Run
from melanoma.run.status import next_command, run_status
from melanoma.stats.calibration import fit_calibration, fit_platt, fold_agreement, logit
from melanoma.stats.combined import combine
from support.commands import TINY, melanoma, succeed


@pytest.fixture
def root(trained, tmp_path) -> Path:
    "A copy of the trained and evaluated project, to be changed."
    copy = tmp_path / "project"
    shutil.copytree(trained, copy, symlinks=True)
    return copy


def test_another_split_makes_folds_and_figures_outdated(root):
    run = Run.named("tiny", root)
    assert run_status(run).metrics and run_status(run).calibrated
    succeed(root, "folds", "--run", "tiny", "--n-folds", "2", "--seed", "7", "--force")
    state = run_status(run)
    assert state.outdated == (0, 1) and state.trained == () and not state.metrics
    assert next_command(run).startswith("melanoma train --run tiny --folds 0,1 ")
    assert next_command(run).endswith(" --force")
    refused = melanoma(root, "evaluate", "--run", "tiny")
    assert refused.returncode == 2
    assert "folds 0, 1 of run 'tiny' were trained before folds.csv changed" in refused.stderr
    assert "OOF AUROC" not in succeed(root, "runs")
    with pytest.raises(BadInput, match="melanoma train --run tiny --folds 0,1 --force"):
        Gallery.of_folds(run)


def test_a_fold_trained_again_makes_calibration_and_predictions_outdated(root, drawn):
    predict = ("predict", "--run", "tiny", "--source", f"siim2020={drawn}", "--split", "test")
    run = Run.named("tiny", root)
    said = succeed(root, *predict)
    before = pd.read_csv(run.folder / "predictions.csv")
    assert before["probability"].between(0, 1).all() and "scores alone" not in said
    assert Gallery.of_predictions(run).table["shown"].to_numpy() == pytest.approx(
        before["probability"].to_numpy()
    )
    succeed(root, "train", "--run", "tiny", "--folds", "1", *TINY, "-p", "epochs", "1", "--force")
    assert not run_status(run).metrics and not run_status(run).calibrated
    with pytest.raises(BadInput, match=r"predictions.json is of before .*fold1.*melanoma predict"):
        Gallery.of_predictions(run)
    said = succeed(root, *predict)
    assert "scores alone: calibration.json is of before fold1" in said
    assert "melanoma evaluate --run tiny" in said
    after = pd.read_csv(run.folder / "predictions.csv")
    assert after["probability"].isna().all() and after["score"].between(0, 1).all()
    succeed(root, "evaluate", "--run", "tiny")
    assert find_calibration(run)[1] == ""
    with pytest.raises(BadInput, match="calibration.json changed"):
        Gallery.of_predictions(run)
    succeed(root, *predict)
    assert pd.read_csv(run.folder / "predictions.csv")["probability"].notna().all()


def test_a_graph_does_not_take_a_calibration_of_other_weights(root):
    from melanoma.predict.predictor import graph_calibration

    run = Run.named("tiny", root)
    digests = json.loads(run.calibration.read_text())["made_from"]
    whole = {k: digests[f"fold{k}.safetensors"] + "0" * 48 for k in "01"}
    header = {"fold_sha256": whole, "views": 4, "calibration": None}
    assert graph_calibration(run, header).views == 4
    other = header | {"fold_sha256": whole | {"1": "f" * 64}}
    assert graph_calibration(run, other) is None, "the graph's own, which has none"


def test_probability_is_the_calibrated_mean_logit_of_the_views_predicted(root, drawn):
    run = Run.named("tiny", root)
    predict = ("predict", "--run", "tiny", "--source", f"siim2020={drawn}", "--split", "test")
    slopes = []
    for views in (1, 8):
        succeed(root, *predict, "--tta", str(views))
        said = pd.read_csv(run.folder / "predictions.csv")
        mean = logit(said[["fold0", "fold1"]].to_numpy()).mean(axis=1)
        oof = oof_table(run, views)
        line = fit_platt(oof["target"], oof["logit"])
        calibration, why = find_calibration(run, views)
        assert why == "" and calibration.views == views
        assert calibration.one.a == pytest.approx(line.a, rel=1e-9)
        expected = calibration.of_mean(2).probability(mean)
        assert said["probability"].to_numpy() == pytest.approx(expected, rel=1e-6)
        slopes.append(line.a)
    assert slopes[0] != slopes[1]


def test_views_that_were_not_trained_on_are_refused(root, drawn):
    light = ["-p", "policy", "light", "-p", "epochs", "1", "--force"]
    succeed(root, "train", "--run", "tiny", "--folds", "0-1", *TINY, *light)
    command = ("predict", "--run", "tiny", "--source", f"siim2020={drawn}", "--split", "test")
    refused = melanoma(root, *command, "--tta", "8")
    assert refused.returncode == 2
    assert "policy light trains on 4 of the 8 views" in refused.stderr
    assert "4 views of each image" in succeed(root, *command)


def leftover(target: np.ndarray, probability: np.ndarray) -> float:
    "The slope that a calibration would still have to correct; 1 = none."
    return fit_platt(target, logit(np.clip(probability, 1e-9, 1 - 1e-9))).a


def test_three_real_models_together_are_neither_too_timid_nor_too_bold():
    "SIIM-2020 scores of three models; each lesion's own fold is drawn, by patient."
    table = Path(os.environ.get("MELANOMA_DATA", "")) / "siim2020" / "predictions_dev.csv"
    if not table.is_file():
        pytest.skip("MELANOMA_DATA names no folder with siim2020/predictions_dev.csv")
    said = pd.read_csv(table)
    logits = logit(said[["resnet18", "convnext", "convnext_meta"]].to_numpy())
    target, patient = said["target"].to_numpy(), pd.factorize(said["patient_id"])[0]
    rows, slopes = np.arange(len(said)), {"score": [], "few": [], "agreement": []}
    for seed in range(40):
        own = np.random.default_rng(seed).integers(0, 3, patient.max() + 1)[patient]
        oof, other = logits[rows, own], logits[rows, (own + 1) % 3]
        assert fold_agreement(target, oof, other) is None, "56 melanomas are too few for it"
        agreement = np.corrcoef(*(x - np.where(target, x[target == 1].mean(), x[target == 0].mean())
                                  for x in (oof, other)))[0, 1]  # fmt: skip
        few = fit_calibration(target, oof, 3, 1)
        known = fit_calibration(target, oof, 3, 1, float(agreement))
        together = combine(logits.T, few)
        slopes["score"].append(leftover(target, few.one.probability(logit(together.score))))
        slopes["few"].append(leftover(target, together.probability))
        slopes["agreement"].append(leftover(target, combine(logits.T, known).probability))
    score, few_pairs, corrected = (float(np.median(x)) for x in slopes.values())
    assert score > 1.3 > few_pairs > corrected  # as it was; the mean logit; with the agreement
    assert few_pairs < 1.25 and 0.85 < corrected < 1.15
