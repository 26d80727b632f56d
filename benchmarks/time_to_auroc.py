"""How long until the original recipe's best validation AUROC is reached, by it and by ours.

All train fold 0 of one split of ISIC 2017 (MELANOMA_DATA) at 128 px from the same ImageNet weights
of EfficientNet-Lite0: preset `original`, with its decay on plateaus and its patience; the recipe of
short runs; and the frozen backbone, whose features are computed here once more. All watch the same
images, the held-out fold, as the original did: its best epoch is chosen on them, so the AUROC here
is no estimate of anything; it is the finishing line. Of the original and the short recipe the
epochs are timed, of the frozen backbone all from opening the images to the scores. What is trained
already is read. The last line is JSON."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from melanoma.core.device import choose_device
from melanoma.data.views import views_of
from melanoma.model.classifier import create_model
from melanoma.run.config import TrainConfig
from melanoma.run.layout import Run
from melanoma.stats.metrics import METRICS
from melanoma.train.fold_data import open_fold
from melanoma.train.frozen import fit_frozen, store_embeddings
from melanoma.train.loss import positive_weight

MELANOMA = str(Path(sys.executable).with_name("melanoma"))
SAME = {"arch": "tf_efficientnet_lite0", "monitor": "fold"}
FROZEN = {"policy": "light", "backbone": "frozen", "monitor": "none"}
OURS = {"policy": "light", "epochs": "4", "lr": "4e-4", "first_size": "64", "pos_weight": "1"}


def train(run: Run, source: str, words: list[str], parameters: dict[str, str]) -> pd.DataFrame:
    "Prepare, split and train fold 0; return its history with the seconds since the start."
    told = [w for name, value in parameters.items() for w in ("-p", name, value)]
    for command in (
        ["prepare", "--size", "128", "--source", source],
        ["folds", "--n-folds", "5"],
        ["train", "--folds", "0", *words, *told],
    ):
        name, *rest = command
        subprocess.run([MELANOMA, name, "--run", run.name, *rest], check=True, stdout=sys.stderr)
    history = pd.read_csv(run.fold(0) / "history.csv")
    return history.assign(elapsed=history["seconds"].cumsum())


def frozen(run: Run) -> tuple[float, float]:  # AUROC of the held-out fold, seconds
    "Compute all features and fit a head; neither is taken from before."
    shutil.rmtree(run.folder / "embeddings", ignore_errors=True)
    start = time.perf_counter()
    config = TrainConfig.from_parameters(SAME | FROZEN)
    data, hardware = open_fold(run, config), choose_device()
    model, _ = create_model(config.model.arch, size=data.store.preprocessing.size)
    views = views_of([config.augmentation.policy])
    features = store_embeddings(run, data.store, data.inputs["store"], model, views, hardware)
    weight = positive_weight("auto", data.targets[data.rows["train"]])
    group = data.store.table["group"].to_numpy()
    _, w, b = fit_frozen(features, data.targets, data.rows, group, weight, chooses=False)
    rows = data.rows["held_out"]
    logit = (features[rows] @ w + b).mean(axis=1)
    seconds = time.perf_counter() - start
    return float(METRICS["auroc"].function(data.targets[rows], logit)), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--name", default="time", help="the runs are called NAME_original, NAME_ours"
    )
    given = parser.parse_args()
    data = Path(os.environ.get("MELANOMA_DATA", "data"))
    source = f"isic2017={data / 'isic2017'}"
    original, ours = (Run.named(f"{given.name}_{kind}") for kind in ("original", "ours"))
    os.environ["MELANOMA_ROOT"] = str(original.root)
    before = train(original, source, ["--preset", "original"], SAME)
    after = train(ours, source, [], SAME | OURS)
    best = before.loc[before["auroc"].idxmax()]
    print(f"original: best AUROC {best['auroc']:.4f} after {best['epoch'] + 1:.0f} of "
          f"{len(before)} epochs, {best['elapsed']:.0f} s")  # fmt: skip
    reached = after[after["auroc"] >= best["auroc"]]
    row = after.iloc[-1] if reached.empty else reached.iloc[0]
    print(f"short recipe: {after['auroc'].max():.4f} at best; {row['auroc']:.4f} after "
          f"{row['epoch'] + 1:.0f} of {len(after)} epochs, {row['elapsed']:.0f} s")  # fmt: skip
    auroc, seconds = frozen(ours)
    print(f"frozen backbone: {auroc:.4f}, {seconds:.0f} s")
    times = [] if reached.empty else [float(row["elapsed"])]
    times += [seconds] if auroc >= best["auroc"] else []
    ratio = round(min(times) / float(best["elapsed"]), 3) if times else None
    print(json.dumps({"time_ratio": ratio, "original_auroc": round(float(best["auroc"]), 4),
                      "short_auroc": round(float(after["auroc"].max()), 4),
                      "frozen_auroc": round(auroc, 4)}))  # fmt: skip


if __name__ == "__main__":
    main()
