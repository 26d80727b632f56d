"""Duplicates and folds over all sources together: groups that never leak."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma.core.errors import BadFolds
from melanoma.data.build import build_store
from melanoma.data.folds import assign_folds, fold_rows, fold_table
from melanoma.data.store import Store
from melanoma.data.table import lesion_table, parse_sources
from support.layouts import SIZE, named_photo, write_csv


def test_byte_identical_files_share_a_group_within_and_across_sources(everything):
    table = everything.table
    again = table[table["sha256"].duplicated()]
    named = dict(zip(again["image_name"], again["duplicate_of"], strict=True))
    assert named == {"ISIC_3507": "ISIC_3000", "copy": "ISIC_2010"}
    assert (table.groupby("sha256")["group"].nunique() == 1).all()
    of_copy = table.loc[table["image_name"] == "copy", "group"].iloc[0]
    assert set(table.loc[table["group"] == of_copy, "image_name"]) == {
        *("ISIC_2010", "ISIC_2011", "copy")
    }


def test_drop_leaves_exactly_one_of_each_photo(everything):
    folds = assign_folds(everything.table, 3, duplicates="drop")
    assert len(folds) == len(everything) - 4
    gone = set(everything.table["image_name"]) - set(folds["image_name"])
    assert gone == {"ISIC_1011", "ISIC_1071", "ISIC_3507", "copy"}


def test_keep_puts_duplicates_into_one_fold(everything):
    table = everything.table
    folds = assign_folds(table, 3, duplicates="keep")
    assert len(folds) == len(table)
    fold = folds.set_index("image_name")["fold"]
    assert fold["ISIC_1011"] == fold["ISIC_1010"] and fold["ISIC_1071"] == fold["ISIC_1030"]
    assert fold["copy"] == fold["ISIC_2010"] == fold["ISIC_2011"]


def pair_of(root: Path, first: str, second: str, broken: str = "") -> Store:
    "Images a and b, published as a pair in the order given, among four others."
    folder = root / "data" / "jpeg" / "train"
    for i, name in enumerate("abcdef"):
        named_photo(folder / f"{name}.jpg", i, folder / "a.jpg" if name == "b" else None)
    if broken:
        (folder / f"{broken}.jpg").write_bytes(b"")
    columns = {"image_name": [*"abcdef"], "patient_id": [*"pqrstu"], "target": [1, 1, 1, 0, 1, 0]}
    write_csv(root / "data" / "train.csv", columns)
    pairs = {"image_name_1": [first], "image_name_2": [second]}
    write_csv(root / "data" / "ISIC_2020_Training_Duplicates.csv", pairs)
    table = lesion_table(parse_sources(f"siim2020={root / 'data'}"))
    return build_store(table, root / "store", [SIZE])


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_drop_keeps_one_of_a_pair_in_whatever_order_it_was_published(tmp_path, first, second):
    folds = assign_folds(pair_of(tmp_path, first, second).table, 2)
    assert len({"a", "b"} & set(folds["image_name"])) == 1


def test_a_duplicate_stays_when_its_first_photo_was_rejected(tmp_path):
    folds = assign_folds(pair_of(tmp_path, "a", "b", broken="a").table, 2)
    assert set(folds["image_name"]) == set("bcdef")


# folds over all sources together


def group_sets(folds: pd.DataFrame, rows: dict[str, np.ndarray]) -> dict[str, set]:
    return {name: set(folds["group"].iloc[index]) for name, index in rows.items()}


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
@pytest.mark.parametrize("seed", [0, 1, 2, 17])
@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_no_group_is_in_two_folds(everything, n_folds, seed, duplicates):
    folds = assign_folds(everything.table, n_folds, seed, duplicates)
    assert list(folds) == ["source", "image_name", "group", "target", "fold"]
    held = folds[folds["fold"] >= 0]
    assert set(held["fold"]) == set(range(n_folds))
    assert (held.groupby("group")["fold"].nunique() == 1).all()
    assert (held.groupby("fold")["target"].nunique() == 2).all()
    assert not folds.duplicated(["source", "image_name"]).any()
    assert (
        list(fold_table(folds)["images"])
        == folds["fold"].replace(-1, 99).value_counts(sort=False).sort_index().to_list()
    )


@pytest.mark.parametrize("monitor", ["inner", "fold"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("n_folds", [2, 4])
def test_no_group_is_on_both_sides_of_a_fold(everything, n_folds, seed, monitor):
    folds = assign_folds(everything.table, n_folds, seed, "keep")
    seen = []
    for k in range(n_folds):
        rows = fold_rows(folds, k, monitor, 0.2, seed)
        groups = group_sets(folds, rows)
        assert (
            not groups["train"] & groups["held_out"] and not groups["train"] & groups["validation"]
        )
        if monitor == "inner":
            assert not groups["validation"] & groups["held_out"]
            assert (folds["fold"].iloc[rows["validation"]] >= 0).all()
        else:
            assert np.array_equal(rows["validation"], rows["held_out"])
        assert (folds["fold"].iloc[rows["held_out"]] == k).all()
        seen.append(rows["held_out"])
    once = np.sort(np.concatenate(seen))
    assert np.array_equal(once, np.flatnonzero(folds["fold"] >= 0))


def test_inner_monitor_leaves_nothing_out(everything):
    "Every row trains, watches or is held, but for train-only rows of groups held or watched."
    folds = assign_folds(everything.table, 3, 0, "keep")
    rows = fold_rows(folds, 0, "inner", 0.2)
    used = np.concatenate(list(rows.values()))
    assert len(used) == len(set(used))
    assert (folds["fold"].drop(index=used) == -1).all()


def test_train_only_rows_are_never_held_out(everything):
    folds = assign_folds(everything.table, 3)
    only = folds["source"] == "isic2017"
    assert (folds.loc[only, "fold"] == -1).all() and (folds.loc[~only, "fold"] >= 0).all()
    for k in range(3):
        rows = fold_rows(folds, k)
        assert only.to_numpy()[rows["train"]].sum() == only.sum()
        assert not only.to_numpy()[rows["held_out"]].any()


@pytest.mark.parametrize("monitor", ["inner", "fold"])
@pytest.mark.parametrize("seed", range(4))
def test_a_train_only_row_does_not_leak_the_group_of_a_held_out_one(seed, monitor):
    "A second source, train only, that shows the same patients."
    rng = np.random.default_rng(seed)
    own = pd.DataFrame({"source": "siim2020", "group": [f"p{i // 2}" for i in range(120)]})
    other = pd.DataFrame({"source": "folder", "group": [f"p{i}" for i in range(80)]})
    table = pd.concat([own, other], ignore_index=True)
    table["image_name"] = [f"i{k}" for k in range(len(table))]
    table["target"] = (rng.random(len(table)) < 0.4).astype(int)
    table["train_only"] = table["source"] == "folder"
    folds = assign_folds(table, 4, seed)
    assert (folds.loc[table["train_only"], "fold"] == -1).all()
    for k in range(4):
        rows = fold_rows(folds, k, monitor, seed=seed)
        groups = group_sets(folds, rows)
        assert (
            not groups["train"] & groups["held_out"] and not groups["train"] & groups["validation"]
        )
        straddling = folds["train_only"] if "train_only" in folds else folds["fold"] == -1
        assert straddling.to_numpy()[rows["train"]].any(), "the rest of the source does train"


def test_the_same_seed_gives_the_same_folds_and_another_seed_others(everything):
    table = everything.table
    assert assign_folds(table, 3, 1).equals(assign_folds(table, 3, 1))
    assert not assign_folds(table, 3, 1).equals(assign_folds(table, 3, 2))
    folds = assign_folds(table, 3, 1)
    first, second = (fold_rows(folds, 0, seed=4) for _ in range(2))
    assert all(np.array_equal(first[k], second[k]) for k in first)
    others = [fold_rows(folds, 0, seed=s)["validation"].tolist() for s in range(4)]
    assert any(o != others[0] for o in others)


def test_folds_do_not_depend_on_the_index_of_the_table(everything):
    shuffled_index = everything.table.set_index(np.arange(len(everything))[::-1] + 7)
    assert assign_folds(shuffled_index, 3).equals(assign_folds(everything.table, 3))


def test_a_source_that_is_all_train_only_cannot_be_folded(everything):
    with pytest.raises(BadFolds, match="0 groups"):
        assign_folds(everything.table.assign(train_only=True), 3)


@pytest.fixture(scope="module")
def real() -> Path:
    if not os.environ.get("MELANOMA_DATA"):
        pytest.skip("MELANOMA_DATA is not set: the real data sets are not part of the project")
    return Path(os.environ["MELANOMA_DATA"])


@pytest.mark.parametrize("seed", [0, 1])
def test_siim_folds_hold_whole_patients_and_even_melanomas(real, seed):
    raw = pd.read_csv(real / "siim2020" / "train.csv")
    assert len(raw) == 33_126
    folds = assign_folds(raw.assign(source="siim2020", group=raw["patient_id"]), 5, seed)
    assert (folds.groupby("group")["fold"].nunique() == 1).all()
    melanomas = folds.groupby("fold")["target"].sum()
    assert melanomas.sum() == 584
    assert melanomas.between(0.9 * 584 / 5, 1.1 * 584 / 5).all(), melanomas.to_dict()
