"""How long until the original recipe's best validation AUROC is reached, by it and by ours.

Both train fold 0 of one split of ISIC 2017 (MELANOMA_DATA) at 128 px from the same ImageNet
weights of EfficientNet-Lite0: preset `original`, with its decay on plateaus and its patience, and
the recipe of short runs. Both watch the same validation images (the held-out fold, as the original
did), so the AUROC here is no estimate of anything: it is the finishing line. What is trained
already is read. The last line is JSON."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from melanoma.run.layout import Run

MELANOMA = str(Path(sys.executable).with_name("melanoma"))
SAME = {"arch": "tf_efficientnet_lite0", "monitor": "fold"}
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
    if reached.empty:
        print(f"ours: at most {after['auroc'].max():.4f}, in {after['elapsed'].max():.0f} s")
    else:
        row = reached.iloc[0]
        print(f"ours: {row['auroc']:.4f} after {row['epoch'] + 1:.0f} of {len(after)} epochs, "
              f"{row['elapsed']:.0f} s")  # fmt: skip
    ratio = None if reached.empty else round(float(reached.iloc[0]["elapsed"] / best["elapsed"]), 3)
    print(json.dumps({"time_ratio": ratio, "original_auroc": round(float(best["auroc"]), 4),
                      "ours_auroc": round(float(after["auroc"].max()), 4)}))  # fmt: skip


if __name__ == "__main__":
    main()
