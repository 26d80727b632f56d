"""A training step against the loop that a notebook would write, and what the loop itself costs.

The baseline is eager fp32 with every image augmented, normalised and stacked as float32, Adam, and
the loss read at every step. Ours are the library's loader, precision, memory layout and optimizer.
Both train the same start on the same drawn images and take turns in one process; ratios are medians
over the rounds, after one that warms up (and with --compile, compiles). The last line is JSON."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from melanoma.core.device import DeviceSettings
from melanoma.data.augmentation import policy
from melanoma.data.dataset import LesionDataset, make_loader
from melanoma.model.architecture import Classifier, build
from melanoma.predict.runtimes import cpu_has_bf16
from melanoma.run.config import DeviceConfig, OptimisationConfig
from melanoma.train.loop import train_epoch
from melanoma.train.loss import make_loss
from melanoma.train.objective import Learner, Objective
from melanoma.train.optimisation import make_optimizer
from melanoma.train.trial import quickest

CASES = {  # key: architecture, px, batch, target with bf16 in the CPU, target without
    "se_resnext50_ratio": ("se_resnext50_32x4d", 128, 32, 2.0, 1.2),
    "lite0_ratio_128": ("tf_efficientnet_lite0", 128, 32, 1.6, 1.6),
    "lite0_ratio_224": ("tf_efficientnet_lite0", 224, 16, 1.8, 1.8),
}


class PlainDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    "Images in RAM, each augmented, scaled and normalised when it is asked for."

    def __init__(self, images: np.ndarray, targets: np.ndarray):
        self.images, self.targets = images, targets
        transform = policy("light", images.shape[1])
        assert transform is not None
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.transform(image=self.images[i])["image"].astype(np.float32) / 255
        image = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        pixels = torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1))
        return pixels, torch.tensor(self.targets[i])


class Plain(nn.Module):
    "The backbone and its head without our normalisation."

    def __init__(self, model: Classifier):
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logit: torch.Tensor = self.head(self.backbone.pool(self.backbone(x))).squeeze(1)
        return logit


def plain_epoch(
    model: nn.Module,
    loader: DataLoader[tuple[torch.Tensor, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
) -> None:
    "Train on every batch once, as a notebook would."
    loss_function = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([4.0]))
    model.train()
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item()


@contextmanager
def counted(spent: list[float], owner: object, name: str) -> Iterator[None]:
    "Add up the seconds of a method while the block runs."
    plain: Callable[..., object] = getattr(owner, name)

    def timed(*given: object, **named: object) -> object:
        start = time.perf_counter()
        try:
            return plain(*given, **named)
        finally:
            spent.append(time.perf_counter() - start)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, plain)


def overhead(epoch: Callable[[], object], objective: Objective, optimizer: object) -> float:
    "Part of an epoch that is not forward pass, backward pass or step."
    spent: list[float] = []
    start = time.perf_counter()
    with (
        counted(spent, objective, "embed"),
        counted(spent, torch.Tensor, "backward"),
        counted(spent, optimizer, "step"),
    ):
        epoch()
    whole = time.perf_counter() - start
    return 1 - sum(spent) / whole


def measure(
    arch: str, size: int, batch: int, steps: int, rounds: int, precision: str, compiled: bool
) -> tuple[float, float, float, DeviceSettings]:  # ratio, images/s, overhead, settings
    "Let both take turns."
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch * steps, size, size, 3), dtype=np.uint8)
    targets = (rng.random(len(images)) < 0.2).astype(np.float32)
    base, model = build(arch, size), build(arch, size)
    plain = Plain(base)
    base_loader = DataLoader(PlainDataset(images, targets), batch, shuffle=True)
    base_optimizer = torch.optim.Adam(plain.parameters(), lr=1e-4)
    hardware = quickest(model, DeviceConfig(precision=precision), size, batch)
    model = hardware.to_device(model)
    data = LesionDataset(images, np.arange(len(images)), targets, policy("light", size))
    loader = make_loader(data, batch, shuffle=True, workers=hardware.workers)
    optimizer = make_optimizer(model, OptimisationConfig())
    learner = Learner(model, Objective(make_loss("bce", 4.0), compiled=compiled), hardware)

    def ours() -> None:
        train_epoch(model, loader, learner, optimizer, hardware, hardware.scaler(), 1.0)

    def theirs() -> None:
        plain_epoch(plain, base_loader, base_optimizer)

    ratios, speeds, parts = [], [], []
    for number in range(rounds + 1):
        seconds = []
        for work in (theirs, ours):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        if number:  # the first warms up
            ratios.append(seconds[0] / seconds[1])
            speeds.append(len(images) / seconds[1])
            parts.append(overhead(ours, learner.objective, optimizer))
    return *(statistics.median(v) for v in (ratios, speeds, parts)), hardware  # type: ignore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="batches of a round")
    parser.add_argument("--precision", default="auto", help="ours: auto, fp32 or bf16")
    parser.add_argument("--compile", action="store_true", help="ours by torch.compile")
    parser.add_argument("--cases", default=",".join(CASES))
    given = parser.parse_args()
    with_bf16 = cpu_has_bf16()
    print(f"{torch.get_num_threads()} threads, bf16 in the CPU: {with_bf16}")
    found: dict[str, float | str] = {}
    for key in given.cases.split(","):
        arch, size, batch, *targets = CASES[key]
        ratio, speed, part, hardware = measure(
            arch, size, batch, given.steps, given.rounds, given.precision, given.compile
        )
        target = targets[0] if with_bf16 else targets[1]
        print(
            f"{arch} {size} px, batch {batch}: {ratio:.2f} x (target {target}), "
            f"{speed:.0f} images/s, loop {100 * part:.1f} % of the time; {hardware}"
        )
        found |= {key: round(ratio, 3), f"loop_overhead_{key}": round(part, 4)}
        found["loop_overhead"] = max(float(found.get("loop_overhead", 0)), round(part, 4))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
