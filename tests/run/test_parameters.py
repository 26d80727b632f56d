"""Parameters, folds and names that cannot be meant: refused, and what was meant is named."""

import numpy as np
import pandas as pd
import pytest

from melanoma.core.errors import BadFolds, BadInput
from melanoma.core.parameters import check_names
from melanoma.data.build import build_store
from melanoma.data.folds import assign_folds, fold_rows
from melanoma.data.table import Source, lesion_table, parse_sources
from melanoma.run.config import TrainConfig
from melanoma.run.layout import Run
from melanoma.run.presets import preset
from melanoma.stages.runner import parse_folds
from support.checks import refusal
from support.layouts import good, write_kind


def lesions(n: int = 40) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "source": "csv",
            "image_name": [f"i{k}" for k in range(n)],
            "group": [f"g{k}" for k in range(n)],
            "target": [int(k % 4 == 0) for k in range(n)],
        }
    )


@pytest.mark.parametrize("fold", [5, 99, -1])
def test_a_fold_that_does_not_exist_is_refused(fold):
    said = refusal(BadFolds, fold_rows, assign_folds(lesions(), 5), fold)
    assert f"fold {fold} does not exist" in said and "0, 1, 2, 3, 4" in said


def test_too_few_groups_say_which_class_lacks_them():
    said = refusal(BadFolds, assign_folds, lesions(16), 5)
    assert "4 groups" in said and "melanoma" in said and "5 folds" in said and "fewer" in said


def test_one_fold_is_none():
    assert "n_folds 1: at least 2" in refusal(BadFolds, assign_folds, lesions(), 1)


def test_an_unknown_way_with_duplicates_is_refused():
    said = refusal(BadFolds, assign_folds, lesions(), 5, duplicates="forget")
    assert "drop, drop-near, keep" in said


def test_an_unknown_monitor_is_refused():
    said = refusal(BadFolds, fold_rows, assign_folds(lesions(), 5), 0, "outer")
    assert "'outer'" in said and "inner, fold" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "fold 5 does not exist: the run has 0 to 4"),
        ("0-7", "fold 5 does not exist"),
        ("3-1", "3-1"),
        ("a", "write 0-4, or 0,2, or all"),
        ("", "write 0-4"),
        ("-1", "write 0-4"),
        ("0-", "write 0-4"),
        ("0;2", "write 0-4"),
        ("1.5", "write 0-4"),
    ],
)
def test_folds_that_cannot_be_read_are_refused(text, said):
    assert said in refusal(BadInput, parse_folds, text, 5)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [("all", [0, 1, 2, 3, 4]), ("0-4", [0, 1, 2, 3, 4]), ("3, 0-1,3", [3, 0, 1]), ("2", [2])],
)
def test_folds_that_can_be_read(text, chosen):
    assert parse_folds(text, 5) == chosen


@pytest.mark.parametrize(
    ("typed", "meant"), [("epoch", "epochs"), ("batchsize", "batch_size"), ("Seed", "seed")]
)
def test_a_misspelt_parameter_names_the_one_that_was_meant(typed, meant):
    known = {"epochs": 1, "batch_size": 2, "seed": 0}
    said = refusal(BadInput, check_names, {typed: 1}, known, "train")
    assert f"stage train has no parameter {typed!r}" in said and f"Did you mean {meant!r}?" in said


def test_a_parameter_like_nothing_known_lists_them_all():
    said = refusal(BadInput, check_names, {"zzz": 1}, {"epochs": 1, "seed": 0}, "train")
    assert "'zzz'" in said and "It has: epochs, seed" in said and "mean" not in said


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("epochs", "ten", "a whole number"),
        ("epochs", 2.5, "a whole number"),
        ("epochs", "", "a whole number"),
        ("epochs", None, "a whole number"),
        ("epochs", float("inf"), "a whole number"),
        ("fold", "nan", "a whole number"),
        ("lr", "fast", "a number"),
        ("lr", None, "a number"),
        ("lr", [1], "a number"),
        ("force", "perhaps", "true or false"),
        ("force", 2, "true or false"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(name, value, needed):
    said = refusal(BadInput, TrainConfig.from_parameters, {name: value})
    assert f"parameter {name} = {value!r}: {needed}" in said


def test_values_typed_as_text_are_read():
    config = TrainConfig.from_parameters(epochs="3", lr="1e-3", force="true", pos_weight=2)
    optimisation = config.optimisation
    assert (optimisation.epochs, optimisation.lr, config.force) == (3, 1e-3, True)
    assert optimisation.pos_weight == "2"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("batch_size", 1, "at least 2"),
        ("inner_fraction", 0, "above 0"),
        ("inner_fraction", 0.6, "at most 0.5"),
    ],
)
def test_a_value_out_of_range_is_refused(name, value, said):
    message = refusal(BadInput, TrainConfig.from_parameters, {name: value})
    assert name in message and said in message


def test_an_unknown_preset_is_refused():
    said = refusal(BadInput, preset, "orignal")
    assert "'orignal'" in said and "original" in said


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "a\\b", ".hidden", "-p", "two words", "naïve", "a\n"]
)
def test_a_run_name_that_is_no_folder_name_is_refused(name, tmp_path):
    said = refusal(BadInput, Run.named, name, tmp_path)
    assert f"run {name!r}" in said and "letters, digits" in said


def test_a_missing_file_of_a_run_names_the_command_that_makes_it(tmp_path):
    run = Run.named("r", tmp_path)
    said = refusal(BadInput, run.need, run.folds, "melanoma folds --run r")
    assert "'r' has no r/folds.csv" in said and "first `melanoma folds --run r`" in said


def test_siim_arrays_and_files_do_not_mix(tmp_path):
    _, files = write_kind(tmp_path / "own", "csv", good("csv"))
    _, arrays = write_kind(tmp_path / "npy", "siim-npy", good("siim-npy"))
    np.save(tmp_path / "npy" / "x_train_32.npy", np.zeros((2, 32, 32, 3), np.uint8))
    table = lesion_table(parse_sources(f"{arrays};{files}"), size=32)
    said = refusal(BadInput, build_store, table, tmp_path / "store", [32])
    assert "siim-npy" in said and "runs of their own" in said


def test_a_source_made_by_hand_reads_as_one_from_the_command_line(tmp_path):
    _, text = write_kind(tmp_path, "csv", good("csv"))
    by_hand = lesion_table([Source("csv", tmp_path / "labels.csv")])
    assert by_hand.equals(lesion_table(parse_sources(text)))
