"""Labelled images that training saw, in whatever form, are counted and left out of the figure."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melanoma.stats.summary import summary
from support.commands import copy_of, succeed

FILE = Path("output") / "tiny" / "metrics_external.json"


def predict(root: Path, source: str, *more: str) -> tuple[str, dict]:
    "What a prediction said, and the figures it left."
    said = succeed(root, "predict", "--run", "tiny", "--source", source, "--tta", "1", *more)
    return said, json.loads((root / FILE).read_text())


@pytest.fixture(scope="module")
def root(trained, tmp_path_factory) -> Path:
    "A copy of the project without predictions."
    root = tmp_path_factory.mktemp("external") / "project"
    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("predictions.csv", FILE.name))
    return root


@pytest.fixture(scope="module")
def photos(drawn, tmp_path_factory) -> dict[str, Path]:
    "Folders of benign and malignant photos, by how they came about."
    from melanoma.data.synthetic import make_dataset

    folder = tmp_path_factory.mktemp("photos")
    new = make_dataset(
        folder / "new", patients=14, test_patients=2, size=64, prevalence=0.3, seed=9
    )

    def save(to: str, data: Path, row, name: str, how) -> None:
        kind = folder / to / ("malignant" if row.target else "benign")
        kind.mkdir(parents=True, exist_ok=True)
        how(data / "jpeg" / "train" / f"{row.image_name}.jpg", kind / name)

    def png(path: Path, to: Path) -> None:
        Image.open(path).save(to)

    def turned(path: Path, to: Path) -> None:
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(to)

    old = pd.read_csv(drawn / "train.csv")
    for i, row in enumerate(old.itertuples()):
        name = f"{row.image_name}.png" if i % 2 else f"lesion_{i:03d}.png"
        save("resaved", drawn, row, name, png)
    some = old.sample(18, random_state=0).reset_index(drop=True)
    for i, row in enumerate(some.itertuples()):
        how = [shutil.copyfile, png, turned][i // 6]
        name = [f"copy_{i}.jpg", f"again_{i}.png", f"{row.image_name}_downsampled.png"][i // 6]
        save("mixed", drawn, row, name, how)
    for to in ("mixed", "unseen"):
        for i, row in enumerate(pd.read_csv(new / "train.csv").itertuples()):
            save(to, new, row, f"new_{i:03d}.jpg", shutil.copyfile)
    return {name: folder / name for name in ("resaved", "mixed", "unseen")}


@pytest.fixture(scope="module")
def resaved(root, photos) -> tuple[str, dict]:
    return predict(root, f"folder={photos['resaved']}")


def test_training_images_saved_again_are_all_left_out(resaved, drawn):
    said, external = resaved
    n = len(pd.read_csv(drawn / "train.csv"))
    entry = external["folder"]
    assert entry["seen"] == {"identical": 0, "near": n, "same_name": 0}
    assert entry["unseen"] is None and "no images left" in entry["reason"]
    assert entry["all"]["n"] == n and 0 <= entry["all"]["auroc_low"] <= entry["all"]["auroc"]
    assert f"folder: {n:,} of {n:,} images are in the training data" in said
    assert f"folder: AUROC {entry['all']['auroc']:.4f} (" in said and "no test of the model" in said


def test_a_mixture_is_counted_by_sign_and_measured_on_the_rest(resaved, root, photos):
    said, external = predict(root, f"folder={photos['mixed']}")
    assert external["folder"] == resaved[1]["folder"]  # another folder: its figures stay
    entry = external["folder-labelled"]
    new = len(list(photos["unseen"].rglob("*.jpg")))
    assert entry["seen"] == {"identical": 6, "near": 6, "same_name": 6}
    assert (entry["unseen"]["n"], entry["all"]["n"]) == (new, new + 18)
    assert "18 of" in said and f"AUROC {entry['unseen']['auroc']:.4f} (" in said

    predictions = pd.read_csv(root / "output/tiny/predictions.csv")
    mine = predictions[predictions["image_name"].str.contains("new_")]
    malignant = {p.stem for p in (photos["unseen"] / "malignant").iterdir()}
    target = mine["image_name"].map(lambda name: name.split("/")[-1] in malignant)
    folds = mine[["fold0", "fold1"]].mean(axis=1)
    assert entry["unseen"]["auroc"] == pytest.approx(summary(target, folds)["auroc"], abs=1e-9)
    assert entry["unseen"]["ap_low"] < entry["unseen"]["ap"] < entry["unseen"]["ap_high"]


def test_other_weights_and_missing_stores(root, photos, tmp_path):
    "Weights from elsewhere: nothing can be checked; trained again: earlier figures are dropped."
    said, before = predict(root, f"folder={photos['unseen']}")
    names = set(before)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(root / "weights", elsewhere / "weights")
    said, external = predict(elsewhere, f"folder={photos['unseen']}")
    entry = external["folder"]
    assert entry["seen"] is None and entry["unseen"] is None and entry["all"]["auroc"] is not None
    assert "could not be checked" in entry["reason"] and entry["reason"] in said
    assert entry["made_from"] == before["folder"]["made_from"]

    path = root / FILE
    stale = json.loads(path.read_text())
    for old in stale.values():
        old["made_from"]["tiny"]["0"] = "0" * 16
    path.write_text(json.dumps(stale))
    said, after = predict(root, f"folder={photos['unseen']}")
    assert list(after) == ["folder"] and "figures of other weights were dropped" in said
    assert all(name in said for name in names)
    assert after["folder"]["seen"] == {"identical": 0, "near": 0, "same_name": 0}
    assert after["folder"]["unseen"] == after["folder"]["all"]
    assert np.isclose(after["folder"]["all"]["auroc"], entry["all"]["auroc"])


def test_the_graph_says_the_same(exported, photos, tmp_path):
    root = copy_of(exported, tmp_path / "project")
    said, external = predict(root, f"folder={photos['mixed']}")
    entry = next(e for e in external.values() if e["given"].endswith("mixed"))
    assert "the exported graph" in said
    assert entry["seen"] == {"identical": 6, "near": 6, "same_name": 6}
    assert set(entry["made_from"]["tiny"]) == {"0", "1"}
    header = json.loads((root / "weights/tiny/ensemble.json").read_text())
    assert entry["made_from"]["tiny"]["0"] == header["fold_sha256"]["0"][:16]
