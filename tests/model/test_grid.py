"""Every family at every size: a step of training moves the weights, and the images have logits."""

import pytest
import torch

from melanoma.core.device import choose_device
from melanoma.model.classifier import create_model
from melanoma.run.config import OptimisationConfig
from melanoma.train.loss import make_loss
from melanoma.train.objective import Objective
from melanoma.train.optimisation import make_optimizer

FAMILIES = (
    "se_resnext50_32x4d", "resnet18", "resnet50",
    "tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2",
    "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128, 224])
@pytest.mark.parametrize("arch", FAMILIES)
def test_a_step_of_training(arch, size):
    torch.manual_seed(0)
    model, _ = create_model(arch, "none", 0, size)
    hardware = choose_device("cpu", "fp32")
    model = hardware.to_device(model).train()
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    target, rows = torch.tensor([0.0, 1.0]), torch.arange(2)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = make_optimizer(model, OptimisationConfig(lr=1e-3))
    Objective(make_loss())(model, pixels, target, rows, hardware).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(moved) / len(moved) > 0.5  # residual branches that start at zero have no gradient
    with torch.inference_mode():
        logits = model.eval()(pixels)
    assert logits.shape == (2,) and logits.isfinite().all()
