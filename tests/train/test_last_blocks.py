"""A fold whose last blocks alone are trained, on activations that were computed once."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from melanoma.core.device import choose_device
from melanoma.core.errors import BadInput
from melanoma.core.files import file_sha256
from melanoma.model.checkpoint import load_checkpoint
from melanoma.model.classifier import create_model
from melanoma.run.config import TrainConfig
from melanoma.run.layout import Run
from melanoma.train.fold import score_part, train_fold
from melanoma.train.fold_data import open_fold
from support.commands import copy_of, succeed

PARAMETERS = {
    "arch": "resnet10t", "pretrained": "none", "backbone": "last", "epochs": 2, "lr": 1e-3,
    "batch_size": 16, "policy": "light", "monitor": "inner", "device": "cpu", "precision": "fp32",
}  # fmt: skip


@pytest.fixture
def project(prepared, tmp_path) -> Path:
    "A project of the test's own: prepared, two folds, nothing trained."
    return copy_of(prepared, tmp_path / "project")


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"last_blocks": 2, "seeds": 2}])
def test_its_network_scores_pixels_as_was_written(project, more):
    run, config = Run.named("tiny", project), TrainConfig.from_parameters(PARAMETERS, **more)
    train_fold(run, config)
    model, _ = load_checkpoint(run.fold_weights(0))
    data, hardware = open_fold(run, config), choose_device("cpu", "fp32")
    again = score_part(data, "held_out", model, config, hardware)
    written = pd.read_csv(run.fold(0) / "oof.csv")
    assert again["image_name"].tolist() == written["image_name"].tolist()
    assert np.allclose(again["logit"], written["logit"], atol=0.01)  # half precision between
    views = pd.read_csv(run.fold(0) / "views.csv")
    assert set(views["part"]) == {"oof", "inner"}
    assert {"logit_1", "logit_4"} <= set(views.columns)


@pytest.mark.slow
def test_only_the_last_block_and_the_head_have_changed(project):
    run = Run.named("tiny", project)
    train_fold(run, TrainConfig.from_parameters(PARAMETERS))
    before = create_model("resnet10t", "none", size=32)[0].state_dict()
    after = load_file(run.fold_weights(0))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("head.", "backbone.model.layer4.")) for name in changed)
    assert before.keys() == after.keys()


@pytest.mark.slow
def test_the_next_fold_reads_what_the_first_computed(project, capsys):
    run = Run.named("tiny", project)
    for fold in (0, 1):
        train_fold(run, TrainConfig.from_parameters(PARAMETERS, fold=fold, monitor="none"))
    said = capsys.readouterr().out
    assert said.count(" images in ") == 1  # computed
    assert len(list((run.folder / "embeddings").glob("*.npy"))) == 1


@pytest.mark.slow
def test_the_whole_road(project):
    words = [w for k, v in PARAMETERS.items() for w in ("-p", k, str(v))]
    succeed(project, "train", "--run", "tiny", *words)
    succeed(project, "evaluate", "--run", "tiny")
    succeed(project, "export", "--run", "tiny")
    run = Run.named("tiny", project)
    told = json.loads((run.weights / "ensemble.json").read_text())["fold_sha256"]
    assert told == {str(k): file_sha256(run.fold_weights(k)) for k in (0, 1)}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"policy": "warp"}, "policy warp: not with backbone last"),
        ({"teacher": "other", "processes": 2}, "teacher, processes: not with backbone last"),
        ({"last_blocks": 0}, "last_blocks 0"),
        ({"backbone": "trained", "last_blocks": 2}, "more with backbone last"),
    ],
)
def test_what_it_cannot_do_is_refused(wrong, said):
    with pytest.raises(BadInput, match=said):
        TrainConfig.from_parameters(PARAMETERS, **wrong)


def test_a_network_without_known_blocks_is_named(project):
    run = Run.named("tiny", project)
    with pytest.raises(BadInput, match="densenet121: its blocks are not known"):
        train_fold(run, TrainConfig.from_parameters(PARAMETERS, arch="densenet121"))


def test_a_disk_too_small_is_told_before(project, monkeypatch):
    usage = shutil.disk_usage(project)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    run = Run.named("tiny", project)
    with pytest.raises(BadInput, match="GiB left. Take a policy of fewer views"):
        train_fold(run, TrainConfig.from_parameters(PARAMETERS))
    assert not list((run.folder / "embeddings").glob("*.part"))
