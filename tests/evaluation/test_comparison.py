"""Two runs side by side: what they were told differently, and what that did."""

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from melanoma.evaluation.comparison import compare_out_of_fold
from melanoma.evaluation.oof import NAMES
from melanoma.run.layout import Run
from melanoma.stats.metrics import auroc_interval, delong_test
from support.commands import copy_of, melanoma, succeed


@pytest.fixture(scope="module")
def project(trained, tmp_path_factory):
    "The runs `tiny` and `other`, whose scores are blurred: those of another training."
    root = copy_of(trained, tmp_path_factory.mktemp("comparison"))
    for folder in ("output", "weights"):
        shutil.copytree(root / folder / "tiny", root / folder / "other")
    run, rng = Run.named("other", root), np.random.default_rng(0)
    for k in (0, 1):
        oof = pd.read_csv(run.fold(k) / "oof.csv", dtype=NAMES)
        views = pd.read_csv(run.fold(k) / "views.csv", dtype=NAMES)
        columns = [c for c in views if c.startswith("logit_")]
        for column in columns:
            views[column] += rng.normal(size=len(views))
        own = views[views["part"] == "oof"]
        oof["logit"] = own[columns[-1]].to_numpy()
        oof["score"] = expit(oof["logit"])
        oof.to_csv(run.fold(k) / "oof.csv", index=False)
        views.to_csv(run.fold(k) / "views.csv", index=False)
    return root


def test_the_figures_are_those_of_the_paired_test(project):
    runs = [Run.named(name, project) for name in ("tiny", "other")]
    compared = compare_out_of_fold(*runs)
    tables = [
        pd.concat(pd.read_csv(run.fold(k) / "oof.csv", dtype=NAMES) for k in (0, 1)) for run in runs
    ]
    one, other = (t.set_index("image_name").sort_index() for t in tables)
    expected = delong_test(one["target"], other["logit"], one["logit"], group=one["group"])
    assert compared.parameters == {} and len(compared.frame) == 1
    row = compared.frame.iloc[0]
    for name in ("difference", "low", "high", "p"):
        assert row[name] == pytest.approx(expected[name], abs=1e-9)
    area = auroc_interval(one["target"], one["logit"], group=one["group"])
    assert [row[k] for k in ("one", "one_low", "one_high")] == pytest.approx(area)
    assert row["images"] == len(one) and row["melanomas"] == one["target"].sum()


def test_the_command_names_both_and_what_differs(project):
    path = Run.named("other", project).fold(1) / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"epochs": 2', '"epochs": 3'))
    shown = succeed(project, "runs", "--compare", "tiny", "other")
    path.write_text(text)
    assert "epochs: 2 → '2 and 3'" in shown
    assert "AUROC of tiny" in shown and "AUROC of other" in shown and "p = " in shown


def test_a_run_that_is_not_there_is_named(project):
    answer = melanoma(project, "runs", "--compare", "tiny", "othr")
    assert answer.returncode == 2 and "othr" in answer.stderr and "Traceback" not in answer.stderr
