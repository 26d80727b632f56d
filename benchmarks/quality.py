"""How good finished runs are, against a baseline, on lesions that they held out.

    python benchmarks/quality.py --baseline lite0 --run lite2 --run dinov2 --age

Reads the out-of-fold predictions of each run and prints AUROC with intervals clustered by patient
or lesion, by source, the paired difference from the baseline, and the same for the runs' blends
(mean of scores, mean of ranks, and a mean whose weights were fitted on the other folds); with --age
also for each together with the patient's age, whose part is fitted on the other folds. Nothing is
trained: a run that lacks folds is named with its next command. The last line is one JSON object:
`auroc` on ISIC 2017 and `ham_auroc` on HAM10000, each with its interval, the baseline and p, of the
run or blend that is best on ISIC 2017 (being chosen there flatters it a little).
"""

import argparse
import json
import sys

import numpy as np
import pandas as pd
from scipy.special import logit as log_odds

from melanoma.core.errors import BadInput
from melanoma.evaluation.comparison import compare_scores
from melanoma.evaluation.oof import KEYS, ages_of, oof_table
from melanoma.predict.pooling import mean_rank, mean_score
from melanoma.run.layout import Run, find_run
from melanoma.run.manifest import read_manifest
from melanoma.run.status import next_command
from melanoma.stats.age import cross_fitted
from melanoma.stats.blend_weights import cross_fitted_blend
from melanoma.stats.calibration import fit_platt
from melanoma.stats.summary import spelled

MEASURED = {"auroc": "isic2017", "ham_auroc": "ham10000"}  # key → source


def scores_of(names: list[str]) -> pd.DataFrame:  # KEYS, target, group, fold, a column for each run
    "The logits of the lesions that all runs held out."
    table = None
    for name in names:
        run = find_run(name)
        oof = oof_table(run)
        folds = pd.read_csv(run.folds)["fold"]
        if missing := sorted(set(folds[folds >= 0]) - set(oof["fold"])):
            print(f"{name}: folds {missing} are not trained; next: {next_command(run)}")
        own = oof[[*KEYS, "target", "group", "fold", "logit"]].rename(columns={"logit": name})
        keep = own if table is None else own.drop(columns=["target", "group", "fold"])
        table = keep if table is None else table.merge(keep, on=KEYS)
    if table is None or table.empty:
        raise BadInput(f"runs {', '.join(names)} have no held-out image in common.")
    return table


def minutes(run: Run) -> float:
    "What the epochs of all folds took; the folds may have run side by side."
    seconds = 0.0
    for path in run.folder.glob("fold[0-9]*/history.csv"):
        seconds += pd.read_csv(path)["seconds"].sum()
    return seconds / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--baseline", required=True, help="a trained run")
    parser.add_argument("--run", action="append", required=True, help="a trained run; repeatable")
    parser.add_argument("--age", action="store_true", help="also with the patient's age")
    chosen = parser.parse_args()
    table = scores_of([chosen.baseline, *chosen.run])
    candidates = {name: table[name] for name in chosen.run}
    if len(chosen.run) > 1:
        logits = {name: table[name].to_numpy() for name in chosen.run}
        blends = {"mean of scores": mean_score(logits), "mean of ranks": mean_rank(logits)}
        candidates |= {
            name: pd.Series(log_odds(np.clip(score, 1e-7, 1 - 1e-7)), table.index)
            for name, score in blends.items()
        }
        weighted = cross_fitted_blend(table["target"], np.stack([*logits.values()]), table["fold"])
        candidates["mean weighted by the other folds"] = pd.Series(weighted, table.index)
    if chosen.age:
        ages = ages_of(find_run(chosen.run[0]), table)
        for name, score in list(candidates.items()):
            if name == "mean of ranks":  # no log odds
                continue
            line = fit_platt(table["target"], score)  # who has no age keeps these log odds
            odds = line.a * score + line.b
            aged = cross_fitted(table["target"], odds, ages, table["source"], table["fold"])
            candidates[f"{name}, with the age"] = pd.Series(aged, table.index)

    found = {}
    for name, score in candidates.items():
        both = table[["source", "target", "group"]].assign(one=table[chosen.baseline], other=score)
        found[name] = compare_scores(both)
        print(f"\n{name} against {chosen.baseline}")
        for source, row in found[name].iterrows():
            figures = [
                spelled([row[f"{kind}{end}"] for end in ("", "_low", "_high")])
                for kind in ("other", "one")
            ]
            print(
                f"  {source:10} {row['images']:6,.0f} images {row['melanomas']:5,.0f} melanomas   "
                f"{figures[0]} against {figures[1]}   {row['difference']:+.4f} "
                f"({row['low']:+.4f} to {row['high']:+.4f}), p = {row['p']:.2g}"
            )

    best = max(found, key=lambda name: found[name].loc[MEASURED["auroc"], "other"])
    result = {"best": best, "baseline": chosen.baseline}
    for key, source in MEASURED.items():
        row = found[best].loc[source]
        result |= {
            key: round(row["other"], 4),
            f"{key}_interval": [round(row["other_low"], 4), round(row["other_high"], 4)],
            f"{key}_baseline": round(row["one"], 4),
            f"{key}_p": float(f"{row['p']:.2g}"),
        }
    alone = best.removesuffix(", with the age")
    members = [find_run(name) for name in ([alone] if alone in chosen.run else chosen.run)]
    result["minutes"] = round(sum(map(minutes, members)), 1)
    first = next(iter(members[0].folder.glob("fold[0-9]*/manifest.json")))
    result["monitor"] = read_manifest(first)["parameters"]["monitor"]
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        sys.exit(f"quality: {error}")
