"""Two processes that train one fold (gloo, on the CPU) learn what one learns from twice the batch;
killed, they go on."""

import contextlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

from melanoma.core.errors import BadInput
from melanoma.run.config import TrainConfig
from melanoma.run.layout import Run
from support.commands import begin, copy_of, program

# without batch normalisation, whose statistics on a CPU are those of each process's images
SMALL = {
    "arch": "convnext_atto", "pretrained": "none", "policy": "light", "lr": 1e-3, "seed": 3,
    "device": "cpu", "precision": "fp32", "epochs": 3, "monitor": "none",
}  # fmt: skip


def told(**parameters: object) -> list[str]:
    "Parameters as a user gives them."
    return [w for name, value in (SMALL | parameters).items() for w in ("-p", name, str(value))]


@pytest.fixture(scope="module")
def project(prepared, tmp_path_factory) -> Path:
    "A project of these tests' own: prepared, two folds; fold 0 trained by two processes."
    project = copy_of(prepared, tmp_path_factory.mktemp("processes") / "project")
    words = told(processes=2, batch_size=8)
    done = program(project, "train", "--run", "tiny", "--folds", "0", *words)
    assert done.returncode == 0, done.stderr
    assert "epoch  3/3" in done.stdout + done.stderr
    return project


def history(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.fold(0) / "history.csv").drop(columns="seconds")


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_twice_the_batch(project, tmp_path):
    run, alone = Run.named("tiny", project), Run.named("tiny", copy_of(project, tmp_path / "one"))
    words = told(batch_size=16, force=True)
    done = program(alone.root, "train", "--run", "tiny", "--folds", "0", *words)
    assert done.returncode == 0, done.stderr
    both, one = history(run), history(alone)
    assert len(both) == 3 and both["train_loss"].nunique() == 3
    np.testing.assert_allclose(both, one, rtol=1e-4, atol=1e-4)
    scores = [pd.read_csv(r.fold(0) / "oof.csv")["logit"] for r in (run, alone)]
    np.testing.assert_allclose(*scores, atol=1e-3)


@pytest.mark.slow
def test_killed_in_the_middle_they_end_bit_for_bit_as_if_nothing_had_happened(project, tmp_path):
    whole, run = Run.named("tiny", project), Run.named("tiny", copy_of(project, tmp_path / "again"))
    words = told(processes=2, batch_size=8)
    for path in (run.fold(0) / "manifest.json", run.fold(0) / "history.csv", run.fold_weights(0)):
        path.unlink()
    killed = begin(run.root, "train", "--run", "tiny", "--folds", "0", *words)
    until = time.monotonic() + 300
    while not (run.fold(0) / "history.csv").exists():
        assert killed.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    family = psutil.Process(killed.pid).children(recursive=True)  # kernel, launcher, workers
    workers = 0
    for process in (psutil.Process(killed.pid), *family):
        with contextlib.suppress(psutil.NoSuchProcess):  # a helper that has just ended
            workers += "melanoma.train.worker" in " ".join(process.cmdline())
            process.kill()
    assert workers >= 3
    killed.communicate()
    psutil.wait_procs(family, timeout=30)
    assert not (run.fold(0) / "manifest.json").exists()

    done = program(run.root, "train", "--run", "tiny", "--folds", "0", *words)
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch" in done.stdout + done.stderr
    first, second = load_file(whole.fold_weights(0)), load_file(run.fold_weights(0))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert history(whole).equals(history(run))


@pytest.mark.slow
def test_what_a_worker_refuses_is_said_once_and_plainly(project):
    words = told(processes=2, teacher="nobody")
    done = program(project, "train", "--run", "tiny", "--folds", "1", *words)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "teacher 'nobody' has no trained fold 1" in said and "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.device_count() >= 64, reason="this machine has 64 GPUs")
def test_more_processes_than_gpus_are_refused_before_anything_starts(project):
    from melanoma.train.processes import launch

    with pytest.raises(BadInput, match=r"this machine has \d+ GPUs"):
        launch(Run.named("tiny", project), TrainConfig.from_parameters(processes=64, device="cuda"))
    with pytest.raises(BadInput, match="processes"):
        TrainConfig.from_parameters(processes=2, backbone="frozen")
