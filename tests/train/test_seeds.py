"""A fold of several seeds: its network is the mean of those that each seed gives alone."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma import Predictor
from melanoma.core.errors import BadInput
from melanoma.model.checkpoint import load_checkpoint
from melanoma.run.config import PredictConfig, TrainConfig
from melanoma.run.layout import Run
from melanoma.train.fold import train_fold
from support.commands import copy_of, succeed

PARAMETERS = {
    "arch": "resnet10t", "pretrained": "none", "epochs": 2, "lr": 1e-3, "batch_size": 16,
    "policy": "light", "monitor": "none", "device": "cpu", "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def two(prepared, tmp_path_factory) -> Path:
    "A project whose run `tiny` was trained from seeds 3 and 4, and evaluated."
    root = copy_of(prepared, tmp_path_factory.mktemp("seeds") / "project")
    words = [w for k, v in PARAMETERS.items() for w in ("-p", k, str(v))]
    succeed(root, "train", "--run", "tiny", *words, "-p", "seed", "3", "-p", "seeds", "2")
    succeed(root, "evaluate", "--run", "tiny")
    return root


def held_out(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.fold(0) / "oof.csv").set_index("image_name")


def beside(run: Run, name: str) -> Run:
    "Another run of the same images and folds, not trained."
    other = Run.named(name, run.root)
    other.folder.mkdir(parents=True)
    other.store.symlink_to(run.store)
    for kind in ("csv", "json"):
        shutil.copy(run.folder / f"folds.{kind}", other.folder)
    return other


@pytest.mark.slow
def test_its_logits_are_the_mean_of_both(two):
    run, alone = Run.named("tiny", two), []
    for seed in (3, 4):
        other = beside(run, f"seed{seed}")
        train_fold(other, TrainConfig.from_parameters(PARAMETERS, seed=seed))
        alone.append(held_out(other))
    logit = held_out(run)["logit"]
    assert not np.allclose(alone[0]["logit"], alone[1]["logit"], atol=0.01)
    assert np.allclose(logit, (alone[0]["logit"] + alone[1]["logit"]) / 2, atol=1e-5)
    history = pd.read_csv(run.fold(0) / "history.csv")
    assert history["seed"].tolist() == [3, 3, 4, 4]
    assert history["epoch"].tolist() == [0, 1, 2, 3]


@pytest.mark.slow
def test_the_exported_graph_is_of_both(two, drawn):
    succeed(two, "export", "--run", "tiny")
    run, images = Run.named("tiny", two), sorted((drawn / "jpeg" / "test").glob("*.jpg"))
    assert load_checkpoint(run.fold_weights(0))[1]["members"] == 2
    asked = [
        PredictConfig.from_parameters(runtime=runtime, tta=1, device="cpu", precision="fp32")
        for runtime in ("torch", "graph")
    ]
    torch_scores, graph_scores = [
        Predictor.from_run(run, config).predict(images).score for config in asked
    ]
    taken = np.isfinite(graph_scores)  # the graph also refuses what is no lesion
    assert taken.any()
    assert np.allclose(torch_scores[taken], graph_scores[taken], atol=1e-5)


@pytest.mark.slow
def test_a_student_learns_from_them(two, tmp_path):
    root = copy_of(two, tmp_path / "project")
    student = beside(Run.named("tiny", root), "student")
    config = TrainConfig.from_parameters(PARAMETERS, teacher="tiny", epochs=1)
    assert np.isfinite(train_fold(student, config).history[0]["train_loss"])


def test_none_and_those_of_a_frozen_backbone_are_refused():
    with pytest.raises(BadInput, match="seeds 0"):
        TrainConfig.from_parameters(seeds=0)
    with pytest.raises(BadInput, match="seeds: not with backbone frozen"):
        TrainConfig.from_parameters(backbone="frozen", seeds=2)
