"""What each choice of a recipe is worth alone: one fold trained with it, one without.

    python benchmarks/ablation.py --folds 0

Prepares ISIC 2017 and HAM10000 (MELANOMA_DATA) at 64 and 128 px, splits them, and trains the
plain recipe and then each choice on the same folds from the same ImageNet weights. Prints the AUROC
of the held-out images and its paired difference from the plain recipe's, clustered by patient or
lesion, and what it cost in time. Folds that are trained are read, so a killed call goes on. One
fold tells effects of .02 from nothing, not smaller ones. The last line is JSON."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from quality import minutes

from melanoma.evaluation.comparison import compare_out_of_fold
from melanoma.run.layout import Run

MELANOMA = str(Path(sys.executable).with_name("melanoma"))
PLAIN = {
    "arch": "tf_efficientnet_lite0", "size": 64, "policy": "light", "epochs": 3, "lr": 3e-4,
    "monitor": "none", "pos_weight": 1,
}  # fmt: skip
CHOICES: dict[str, dict[str, object]] = {
    "epoch chosen on an inner part": {"monitor": "inner"},
    "pos_weight auto": {"pos_weight": "auto"},
    "balanced sampling": {"sampling": "balanced"},
    "focal loss": {"loss": "focal"},
    "label smoothing .05": {"smoothing": 0.05},
    "EMA .2": {"ema": 0.2},
    "mixup .4": {"mixup": 0.4},
    "diagnosis head .3": {"diagnosis": 0.3},
    "dropout .3": {"dropout": 0.3},
    "dropout .3, 4 masks": {"dropout": 0.3, "dropout_masks": 4},
    "drop_path .1": {"drop_path": 0.1},
    "layer decay .8": {"layer_decay": 0.8},
    "head alone for an epoch": {"head_epochs": 1},
    "growing from 32 px": {"first_size": 32},
    "accumulate 2": {"accumulate": 2},
    "no augmentation": {"policy": "none"},
    "policy strong": {"policy": "strong"},
    "lr 6e-4": {"lr": 6e-4},
    "6 epochs": {"epochs": 6},
    "128 px": {"size": 128},
    "3 seeds": {"seeds": 3},
    "the last block alone": {"backbone": "last"},
}


def call(*words: str) -> None:
    "A stage; what it says goes to stderr."
    subprocess.run([MELANOMA, *words], check=True, stdout=sys.stderr)


def trained(base: Run, name: str, parameters: dict[str, object], folds: str) -> Run:
    "Train a run on the store and the split of another."
    run = Run.named(name, base.root)
    if not run.store.exists():
        run.folder.mkdir(parents=True, exist_ok=True)
        run.store.symlink_to(os.path.relpath(base.store, run.folder))
        for kind in ("csv", "json"):
            shutil.copy(base.folder / f"folds.{kind}", run.folder)
    told = [w for key, value in parameters.items() for w in ("-p", key, str(value))]
    call("train", "--run", name, "--folds", folds, *told)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folds", default="0")
    parser.add_argument("--name", default="ablation")
    parser.add_argument("--only", default="", help="choices whose names hold this")
    given = parser.parse_args()
    data = Path(os.environ.get("MELANOMA_DATA", "data"))
    base = Run.named(given.name)
    os.environ["MELANOMA_ROOT"] = str(base.root)
    sources = [w for k in ("isic2017", "ham10000") for w in ("--source", f"{k}={data / k}")]
    call("prepare", "--run", base.name, "--size", "64", "--size", "128", *sources)
    call("folds", "--run", base.name)
    plain = trained(base, f"{base.name}-plain", PLAIN, given.folds)
    found = {}
    print(f"plain: {minutes(plain):.1f} min")
    for number, (choice, changed) in enumerate(CHOICES.items()):
        if given.only not in choice:
            continue
        run = trained(base, f"{base.name}-{number:02}", PLAIN | changed, given.folds)
        row = compare_out_of_fold(plain, run).frame.loc["pooled"]
        print(
            f"{choice:30} {row['other']:.4f} against {row['one']:.4f}  {row['difference']:+.4f} "
            f"({row['low']:+.4f} to {row['high']:+.4f}), p = {row['p']:.2g}; "
            f"{minutes(run) / minutes(plain):.2f} x the time",
            flush=True,
        )
        found[choice] = [round(float(row[k]), 4) for k in ("difference", "low", "high")]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
