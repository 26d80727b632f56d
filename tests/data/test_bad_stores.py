"""Stores that were damaged, or are asked for what they do not hold."""

from pathlib import Path

import numpy as np
import pytest

from melanoma.core.errors import BadInput
from melanoma.data.build import build_store
from melanoma.data.preprocessing import Preprocessing
from melanoma.data.store import Store
from melanoma.data.table import lesion_table, parse_sources
from support.checks import refusal
from support.images import photo


@pytest.fixture
def store_folder(tmp_path) -> Path:
    "A finished store of three images at 32 px."
    for i in range(3):
        photo(tmp_path / "data" / f"{i}.jpg", seed=i)
    table = lesion_table(parse_sources(f"folder={tmp_path / 'data'}"), split="all")
    build_store(table, tmp_path / "store", [32])
    return tmp_path / "store"


def fewer_images(folder: Path) -> None:
    np.save(folder / "32" / "images.npy", np.zeros((2, 32, 32, 3), np.uint8))


def shortened_file(folder: Path) -> None:
    path = folder / "32" / "images.npy"
    path.write_bytes(path.read_bytes()[:-1000])


def no_array(folder: Path) -> None:
    (folder / "32" / "images.npy").unlink()


@pytest.mark.parametrize("damage", [fewer_images, shortened_file, no_array])
def test_an_unreadable_store_says_to_prepare_again(store_folder, damage):
    damage(store_folder)
    said = refusal(BadInput, Store.open, store_folder)
    assert str(store_folder) in said and "prepare it again with --force" in said


def test_a_store_and_its_table_that_differ_are_counted(store_folder):
    fewer_images(store_folder)
    assert "2 images but 3 table rows" in refusal(BadInput, Store.open, store_folder)


def test_a_size_that_was_not_prepared_names_those_that_were(store_folder):
    said = refusal(BadInput, Store.open, store_folder, 64)
    assert "has sizes 32, not 64 px" in said and "--size 64" in said


def test_no_store_names_the_command_that_makes_it(tmp_path):
    said = refusal(BadInput, Store.open, tmp_path / "store")
    assert str(tmp_path / "store") in said and "melanoma prepare" in said


def test_a_manifest_that_is_no_json_is_named(store_folder):
    (store_folder / "manifest.json").write_text("{")
    said = refusal(BadInput, Store.open, store_folder)
    assert "manifest.json" in said and "remove it" in said


def test_ways_of_making_arrays_do_not_mix():
    here, there = Preprocessing(64), Preprocessing(128, "pad")
    said = refusal(BadInput, here.check_same, there, "the weights", "the store")
    assert "the weights and the store differ in preprocessing" in said
    assert "size 64 against 128" in said and "square 'squash' against 'pad'" in said
    here.check_same(Preprocessing(64), "a", "b")


@pytest.mark.parametrize("size", [0, 31, 4097, -64])
def test_an_impossible_size_is_refused(size):
    said = refusal(BadInput, Preprocessing, size)
    assert f"size {size} px" in said and "32 to 4096" in said


def test_an_unknown_square_policy_is_refused():
    said = refusal(BadInput, Preprocessing, 64, "stretch")
    assert "'stretch'" in said and "squash, pad, crop" in said
