"""How a training is run: compiled, in the precision that a trial found, told to a tracker."""

import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from melanoma.core.errors import BadInput
from melanoma.run.config import TrainConfig
from melanoma.run.layout import Run
from melanoma.train import trial
from melanoma.train.fold import train_fold
from melanoma.train.fold_status import fold_finished
from support.commands import copy_of

SMALL = {
    "arch": "resnet10t", "pretrained": "none", "epochs": 2, "batch_size": 16, "policy": "light",
    "monitor": "none", "device": "cpu",
}  # fmt: skip


@pytest.fixture
def run(prepared, tmp_path) -> Run:
    "A run of the test's own: prepared, two folds, nothing trained."
    return Run.named("tiny", copy_of(prepared, tmp_path / "project"))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++")
def test_compiled_a_fold_learns_the_same(run, tmp_path):
    plain = Run.named("tiny", copy_of(run.root, tmp_path / "plain"))
    config = TrainConfig.from_parameters(SMALL, precision="fp32", compile=True)
    compiled = train_fold(run, config)
    eager = train_fold(plain, TrainConfig.from_parameters(SMALL, precision="fp32"))
    # 78 images: four batches of 16, and one of 14 that is not compiled
    losses = [[row["train_loss"] for row in fitted.history] for fitted in (compiled, eager)]
    assert losses[0] != losses[1]  # other code: rounded otherwise
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert compiled.best.keys() == eager.best.keys()
    # how it was computed does not make it another fold
    assert fold_finished(run, TrainConfig.from_parameters(SMALL, precision="fp32"))


def test_a_trial_is_made_once_and_the_quickest_is_taken(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def seconds(model, choices, size, batch):
        asked.extend((choice.precision, choice.channels_last, size, batch) for choice in choices)
        return [1.0 if choice.channels_last else 0.5 for choice in choices]

    monkeypatch.setattr(trial, "step_seconds", seconds)
    train_fold(run, TrainConfig.from_parameters(SMALL))
    said = capsys.readouterr().out
    assert "channels_first: 0.500 s a step, taken" in said and "cpu, fp32, channels_first" in said
    assert asked[0] == ("fp32", True, 32, 16) and asked[-1] == ("fp32", False, 32, 16)
    tried = len(asked)
    train_fold(run, TrainConfig.from_parameters(SMALL, fold=1))
    assert len(asked) == tried and "cpu, fp32, channels_first" in capsys.readouterr().out
    trial.trials_file().write_text("{")  # cut off
    train_fold(run, TrainConfig.from_parameters(SMALL, fold=1, force=True))
    assert len(asked) == 2 * tried


@pytest.mark.parametrize("faster", [0.05, 0.15])
def test_a_little_faster_is_not_enough(monkeypatch, tmp_path, faster):
    from melanoma.model.architecture import build
    from melanoma.run.config import DeviceConfig

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times = {True: 1.0, False: 1.0 - faster}
    monkeypatch.setattr(
        trial, "step_seconds", lambda m, choices, s, b: [times[c.channels_last] for c in choices]
    )
    found = trial.quickest(build("resnet10t"), DeviceConfig("cpu"), 32, 8)
    assert found.channels_last == (faster < 0.1)


@pytest.mark.slow
def test_tensorboard_is_told_what_the_history_says(run):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    train_fold(run, TrainConfig.from_parameters(SMALL, precision="fp32", tracker="tensorboard"))
    events = accumulator(str(run.folder / "tensorboard" / "fold0"))
    events.Reload()
    history = pd.read_csv(run.fold(0) / "history.csv")
    for name in ("train_loss", "valid_loss", "auroc", "lr"):
        told = [(e.step, e.value) for e in events.Scalars(name)]
        assert [step for step, _ in told] == [0, 1]
        assert [value for _, value in told] == pytest.approx(history[name].tolist(), rel=1e-5)


def test_a_tracker_that_is_unknown_or_missing_is_named(run, monkeypatch):
    with pytest.raises(BadInput, match="tracker 'wandb' is not known; known: .*tensorboard"):
        TrainConfig.from_parameters(tracker="wandb")
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as where it is not installed
    with pytest.raises(BadInput, match="pip install mlflow"):
        train_fold(run, TrainConfig.from_parameters(SMALL, precision="fp32", tracker="mlflow"))
    assert not run.fold_weights(0).exists()
