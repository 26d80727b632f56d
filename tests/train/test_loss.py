"""The loss, and going on in another precision."""

import numpy as np
import pytest
import torch

from melanoma.core.device import DeviceSettings, choose_device
from melanoma.core.errors import MelanomaError
from melanoma.data.dataset import LesionDataset, make_loader
from melanoma.model.classifier import create_model
from melanoma.run.config import OptimisationConfig
from melanoma.train.loop import fit
from melanoma.train.loss import make_loss
from melanoma.train.objective import Objective

SMALL = "resnet10t"


@pytest.mark.parametrize("weight", [1.0, 56.0])
@pytest.mark.parametrize(("target", "best"), [(0.0, 0.025), (1.0, 0.975)])
def test_smoothing_is_not_weighed(weight, target, best):
    p = torch.linspace(0.001, 0.999, 999)
    loss = make_loss("bce", weight, 0.05)
    values = [loss(torch.logit(v)[None], torch.tensor([target])).item() for v in p]
    assert float(p[int(np.argmin(values))]) == pytest.approx(best, abs=1.1e-3)


def test_a_melanoma_weighs_what_it_did_without_smoothing():
    logit, target = torch.tensor([-1.0, 0.3, 2.0]), torch.tensor([0.0, 1.0, 1.0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logit, target, pos_weight=torch.tensor(7.0)
    )
    assert torch.isclose(make_loss("bce", 7.0)(logit, target), expected)
    hard = make_loss("bce", 7.0, 0.1)
    ratio = hard(torch.tensor([0.5]), torch.tensor([1.0])) / hard(
        torch.tensor([-0.5]), torch.tensor([0.0])
    )
    assert float(ratio) == pytest.approx(7.0)


def tiny_data() -> tuple:
    rng = np.random.default_rng(0)
    target = np.arange(32) % 2
    pixels = rng.integers(0, 200, (32, 32, 32, 3), dtype=np.uint8)
    pixels[target == 1, 8:20, 8:20] += 50
    data = LesionDataset(pixels, range(32), target.astype(np.float32))
    return make_loader(data, 8, shuffle=True), make_loader(data, 32)


class Enabled(torch.amp.GradScaler):
    "Gradient scaling switched on where no GPU is: torch's own, for the CPU."

    def __init__(self, *_, **__):
        super().__init__("cpu", enabled=True)


def begun(monkeypatch, scaling: bool) -> dict:
    "The state behind the first of two epochs."
    kept: dict = {}

    def keep(state):
        if not kept:
            kept.update(state)

    if scaling:
        monkeypatch.setattr(DeviceSettings, "scaler", lambda self: Enabled())
    one = OptimisationConfig(epochs=1)
    fit(create_model(SMALL, "none")[0], *tiny_data(), Objective(make_loss()), one,
        choose_device("cpu", "fp32"), on_epoch=keep, say=lambda s: None)  # fmt: skip
    monkeypatch.undo()
    return kept


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("then", [False, True])
def test_a_state_goes_on_with_and_without_gradient_scaling(monkeypatch, first, then):
    state = begun(monkeypatch, first)
    assert bool(state["scaler"]) == first
    scaler = Enabled() if then else DeviceSettings("cpu", "fp32", True, 0, 1).scaler()
    monkeypatch.setattr(DeviceSettings, "scaler", lambda self: scaler)
    if first:
        state["scaler"] = state["scaler"] | {"scale": 1024.0}
    two = OptimisationConfig(epochs=2)
    fitted = fit(create_model(SMALL, "none")[0], *tiny_data(), Objective(make_loss()), two,
                 choose_device("cpu", "fp32"), state=state, say=lambda s: None)  # fmt: skip
    assert [row["epoch"] for row in fitted.history] == [0, 1]
    if then:  # kept where there was one, else torch's start
        assert scaler.get_scale() == (1024.0 if first else 65536.0)


@pytest.mark.parametrize("chooses", [True, False])
def test_a_loss_that_is_no_number_ends_the_training_and_keeps_what_was_good(chooses):
    calls, kept, said = [0], [], []

    def breaks_in_epoch_2(logit, target):
        calls[0] += 1
        return make_loss()(logit, target) * (float("nan") if calls[0] > steps + 1 else 1)

    model, (train, validation) = create_model(SMALL, "none")[0], tiny_data()
    steps = len(train)  # and one for the validation images
    given = (model, train, validation, Objective(breaks_in_epoch_2), OptimisationConfig(epochs=4),
             choose_device("cpu", "fp32"))  # fmt: skip
    how = {"chooses": chooses, "on_epoch": lambda s: kept.append(len(s["history"]))}
    if chooses:
        fitted = fit(*given, say=said.append, **how)
        assert fitted.best_epoch == 0 and len(fitted.history) == 2
        assert all(v.isfinite().all() for v in fitted.best.values())
        assert "diverged in epoch 2" in said[-1]
    else:
        with pytest.raises(MelanomaError, match=r"last epoch of 2 .* Take a lower lr"):
            fit(*given, say=said.append, **how)
    assert kept == [1]  # the state to resume from is the good one


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "mps"])
def test_the_scaler_is_of_the_devices_kind(device):
    scaler = DeviceSettings(device, "fp32", True, 0, 1).scaler()
    assert scaler._device == device.split(":")[0] and not scaler.is_enabled()
