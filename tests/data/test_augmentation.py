"""Augmentations: what fires, how often, and whether one step's draw tells another's."""

from collections import Counter

import numpy as np
import pytest

from melanoma.data.augmentation import policy, seed_policy
from melanoma.run.config import VIEWS

SEEDS = 1500
SKIN = np.random.default_rng(0).integers(90, 200, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def applied() -> dict[str, list[dict[str, dict]]]:
    "For each policy, the steps that each seed applied, with their parameters."
    found = {}
    for name in ("light", "strong"):
        transform = policy(name, 64)
        transform.save_applied_params = True
        found[name] = []
        for seed in range(SEEDS):
            seed_policy(transform, seed)
            found[name].append(dict(transform(image=SKIN)["applied_transforms"]))
    return found


def rate(steps: list[dict], *names: str) -> float:
    "Share of seeds in which all of these steps were applied."
    return np.mean([all(n in s for n in names) for s in steps])


def near(share: float, expected: float) -> bool:
    "Within four standard errors."
    return abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / SEEDS)


def test_each_step_fires_as_often_as_it_says(applied):
    wanted = {"Transpose": 0.5, "VerticalFlip": 0.5, "HorizontalFlip": 0.5, "CLAHE": 0.7,
              "RandomBrightnessContrast": 0.75, "HueSaturationValue": 0.5, "Affine": 0.85,
              "CoarseDropout": 0.7}  # fmt: skip
    assert all(near(rate(applied["strong"], name), p) for name, p in wanted.items())
    one_of = {"MotionBlur", "MedianBlur", "GaussianBlur", "GaussNoise"}
    warps = {"OpticalDistortion", "GridDistortion", "ElasticTransform"}
    for family in (one_of, warps):
        chosen = Counter(len(family & s.keys()) for s in applied["strong"])
        assert set(chosen) == {0, 1}, "one of them, or none"
        assert near(chosen[1] / SEEDS, 0.7)
        assert all(near(rate(applied["strong"], n), 0.7 / len(family)) for n in family)


def test_steps_fire_independently_of_each_other(applied):
    for a, b, p in (
        ("Transpose", "VerticalFlip", 0.25),
        ("VerticalFlip", "HorizontalFlip", 0.25),
        ("HorizontalFlip", "HueSaturationValue", 0.25),
        ("CLAHE", "CoarseDropout", 0.49),
        ("RandomBrightnessContrast", "Affine", 0.75 * 0.85),
    ):
        assert near(rate(applied["strong"], a, b), p), (a, b)
    mirrored = [bool({"HorizontalFlip", "VerticalFlip"} & s.keys()) for s in applied["light"]]
    both = np.mean([m and "Affine" in s for m, s in zip(mirrored, applied["light"], strict=True)])
    assert near(both, 0.25)


def test_one_steps_parameters_do_not_tell_anothers(applied):
    both = [
        s
        for s in applied["strong"]
        if {"RandomBrightnessContrast", "HueSaturationValue"} <= s.keys()
    ]
    contrast = [s["RandomBrightnessContrast"]["alpha"] for s in both]
    hue = [s["HueSaturationValue"]["hue_shift"] for s in both]
    assert len(both) > 400
    assert abs(np.corrcoef(contrast, hue)[0, 1]) < 0.2


def test_shares_of_images_left_as_they_are(applied):
    untouched = {name: np.mean([not s for s in steps]) for name, steps in applied.items()}
    assert near(untouched["light"], 0.25)
    assert untouched["strong"] < 0.002


def orientations(name: str) -> Counter:
    "Which of the square's eight symmetries the mirroring steps of a policy give."
    kept = {"Transpose", "HorizontalFlip", "VerticalFlip", "OneOf"}
    transform = policy(name, 64)
    transform.transforms = [t for t in transform.transforms if type(t).__name__ in kept]
    if name == "strong":
        transform.transforms = [t for t in transform.transforms if type(t).__name__ != "OneOf"]
    corners = np.arange(4, dtype=np.uint8).reshape(2, 2).repeat(8, 0).repeat(8, 1)
    image = np.repeat(corners[..., None], 3, 2)
    seen: Counter = Counter()
    for seed in range(SEEDS):
        seed_policy(transform, seed)
        seen[transform(image=image)["image"][::15, ::15, 0].tobytes()] += 1
    return seen


def test_a_policy_trains_on_the_views_it_says():
    strong, light = orientations("strong"), orientations("light")
    assert len(strong) == VIEWS["strong"] == 8
    assert all(near(n / SEEDS, 1 / 8) for n in strong.values())
    assert len(light) == VIEWS["light"] == 4
    shares = sorted(n / SEEDS for n in light.values())
    assert near(shares[-1], 0.5) and all(near(s, 1 / 6) for s in shares[:-1])


def test_views_of_light_are_those_that_prediction_averages():
    import torch

    from melanoma.data.views import dihedral

    corners = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    averaged = {dihedral(corners, view)[0, 0].numpy().tobytes() for view in range(VIEWS["light"])}
    assert averaged == set(orientations("light"))
    averaged = {dihedral(corners, view)[0, 0].numpy().tobytes() for view in range(8)}
    assert averaged == set(orientations("strong"))


def test_strong_scales_with_the_image():
    small, large = (policy("strong", size) for size in (64, 512))
    noise = [t for c in small.transforms for t in getattr(c, "transforms", [])]
    names = {type(t).__name__: t for t in noise}
    assert names["GaussNoise"].std_range == (0.009, 0.022)  # 2 to 6 of 255, as a camera's
    big = {type(t).__name__: t for c in large.transforms for t in getattr(c, "transforms", [])}
    moved = []
    for size, found in ((64, names), (512, big)):
        elastic = found["ElasticTransform"]
        moved.append(elastic.alpha / (2 * np.sqrt(np.pi) * elastic.sigma) / size)
    assert moved == pytest.approx([0.01, 0.01])  # of the size
