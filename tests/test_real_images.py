"""The real data sets, where MELANOMA_DATA names their folder."""

import os
from pathlib import Path

import pandas as pd
import pytest

from melanoma.folds import make_folds
from melanoma.tables import lesion_table, parse_sources

DATA = os.environ.get("MELANOMA_DATA", "")
pytestmark = pytest.mark.skipif(not DATA, reason="MELANOMA_DATA is not set")


@pytest.mark.parametrize(
    ("kind", "images", "melanomas"), [("isic2017", 2150, 404), ("ham10000", 10015, 1113)]
)
def test_the_published_counts(kind, images, melanomas):
    table = lesion_table(parse_sources(f"{kind}={Path(DATA) / kind}"))
    assert (len(table), int(table["target"].sum())) == (images, melanomas)
    folds = make_folds(table)
    assert (folds.groupby("group")["fold"].nunique() == 1).all()


def test_siim_folds_hold_whole_patients_and_even_melanomas():
    table = pd.read_csv(Path(DATA) / "siim2020" / "train.csv")
    table = table.assign(source="siim2020", group=table["patient_id"])
    folds = make_folds(table)
    assert len(folds) == 33_126
    assert (folds.groupby("group")["fold"].nunique() == 1).all()
    positives = folds.groupby("fold")["target"].sum()
    assert positives.between(0.9 * 584 / 5, 1.1 * 584 / 5).all()
