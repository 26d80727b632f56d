"""Train the model that comes with the program again, and say how far the result is from it.

    MELANOMA_DATA=data make model

The folder holds isic2017, ham10000, isic_archive (labels.csv), siim2020_labelled and, where it is
there, ham10000_224, whose images go before ham10000's smaller ones of the same names. A teacher
is trained (preset dinov2), and by it the folds that are shipped (preset lite2, seed 0): wants a GPU
(the README has the times on one). Each step goes on where it was, finished ones are skipped.
The last line is JSON: AUROC of the shipped model and of the new one on the images that both held
out."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from melanoma.core.errors import BadInput
from melanoma.evaluation.comparison import compare_scores
from melanoma.evaluation.oof import KEYS, oof_table
from melanoma.run.layout import Run, find_run, shipped_run

MELANOMA = str(Path(sys.executable).with_name("melanoma"))
FOLDS = "0-2"  # of five: those that are shipped


def merged_ham(data: Path, into: Path) -> Path:
    "HAM10000 with the larger of two images of one name, as links."
    images = into / "images"
    images.mkdir(parents=True, exist_ok=True)
    for folder in ("ham10000_224", "ham10000"):
        for path in sorted((data / folder).glob("images/*.jpg")):
            link = images / path.name
            if not link.is_symlink():
                link.symlink_to(path.resolve())
    table = into / "HAM10000_metadata.csv"
    if not table.is_symlink():
        table.symlink_to((data / "ham10000" / table.name).resolve())
    return into


def stages(data: Path, root: Path) -> list[list[str]]:
    "The commands, in order."
    ham = data / "ham10000"
    if (data / "ham10000_224").is_dir():
        ham = merged_ham(data, root / "output" / "ham10000_merged")
    sources = {
        "isic2017": data / "isic2017",
        "ham10000": ham,
        "csv": data / "isic_archive" / "labels.csv",
        "siim2020": data / "siim2020_labelled",
    }
    given = [word for kind, path in sources.items() for word in ("--source", f"{kind}={path}")]
    prepare = ["--size", "224", "--square", "crop", "--train-only", "csv", *given]
    commands = []
    for run in ("dinov2", "lite2"):
        commands += [["prepare", "--run", run, *prepare], ["folds", "--run", run]]
    taught = ["-p", "teacher", "dinov2", "-p", "distillation", "0.7"]
    commands += [["train", "--run", "dinov2", "--folds", FOLDS, "--preset", "dinov2"]]
    commands += [["train", "--run", "lite2", "--folds", FOLDS, "--preset", "lite2", *taught]]
    return [*commands, ["evaluate", "--run", "lite2"], ["export", "--run", "lite2", "--int8"]]


def distance(run: Run) -> dict[str, dict[str, float | None]]:  # by source
    "The shipped model's and a run's AUROC on the images that both held out."
    own = shipped_run()
    if own is None:
        raise BadInput("weights/isic holds no model to compare with.")
    shipped = pd.read_csv(own.weights / "oof.csv", dtype={"image_name": str, "source": str})
    new = oof_table(run, views=1)[[*KEYS, "target", "group", "logit"]]
    both = new.rename(columns={"logit": "other"}).merge(
        shipped[[*KEYS, "logit"]].rename(columns={"logit": "one"}), on=KEYS
    )
    found = compare_scores(both)
    columns = ["images", "melanomas", "one", "other", "difference", "p"]
    rows = {str(k): row[columns].astype(float).round(4) for k, row in found.iterrows()}
    return {k: row.astype(object).where(row.notna(), None).to_dict() for k, row in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compare", metavar="RUN", help="train nothing: compare a finished run")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    given = parser.parse_args()
    if not given.compare:
        data = os.environ.get("MELANOMA_DATA")
        if not data:
            raise SystemExit("name the folder of images: MELANOMA_DATA=data make model")
        for command in stages(Path(data), Run.named("lite2").root):
            print("$ melanoma", " ".join(command), flush=True)
            if not given.dry_run and subprocess.run([MELANOMA, *command], check=False).returncode:
                sys.exit(
                    f"model: `melanoma {command[0]}` failed, see above; called again, it goes on"
                )
        if given.dry_run:
            return
    found = distance(find_run(given.compare or "lite2"))
    for source, row in found.items():
        p = "not known" if row["p"] is None else f"{row['p']:.2g}"
        print(
            f"{source:10} {row['images']:6,.0f} images {row['melanomas']:5,.0f} melanomas: shipped "
            f"{row['one']:.4f}, new {row['other']:.4f}, {row['difference']:+.4f}, p {p}"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
