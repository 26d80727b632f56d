"""The store: every pixel and table, killed and resumed, on a full disk."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma.core.errors import MelanomaError
from melanoma.data import build as build_module
from melanoma.data import decode_many
from melanoma.data.build import build_store
from melanoma.data.decoding import decode
from melanoma.data.preprocessing import Preprocessing, resize
from melanoma.data.store import Store
from melanoma.data.table import lesion_table, parse_sources
from support.layouts import SIZE, table_of


def test_the_store_holds_decode_and_resize_of_every_file(everything):
    assert len(everything) == len(everything.images) and len(everything.rejected) == 0
    for pixels, path in zip(everything.images, everything.table["path"], strict=True):
        assert np.array_equal(pixels, resize(decode(path), SIZE))


def test_every_size_comes_from_the_full_image(data, tmp_path):
    table = table_of(data, "folder")
    build_store(table, tmp_path / "both", [SIZE, 48])
    build_store(table, tmp_path / "alone", [48])
    both, alone = Store.open(tmp_path / "both", 48), Store.open(tmp_path / "alone")
    assert both.preprocessing == alone.preprocessing == Preprocessing(48)
    assert np.array_equal(both.images, alone.images)


@pytest.mark.parametrize("square", ["squash", "pad", "crop"])
def test_the_square_policy_reaches_the_pixels(data, tmp_path, square):
    store = build_store(table_of(data, "folder"), tmp_path, [SIZE], square)
    assert store.preprocessing.square == square
    assert np.array_equal(store.images[3], resize(decode(store.table["path"][3]), SIZE, square))


def test_the_table_keeps_upright_sizes_and_fingerprints(everything):
    table = everything.table
    assert set(zip(table["width"], table["height"], strict=True)) == {(48, 36)}
    assert table["sha256"].str.fullmatch("[0-9a-f]{64}").all()


def test_a_ready_made_array_is_linked_not_copied(data, tmp_path):
    store = build_store(table_of(data, "siim-npy"), tmp_path, [SIZE])
    array = data / "siim-npy" / f"x_train_{SIZE}.npy"
    linked = tmp_path / str(SIZE) / "images.npy"
    assert linked.is_symlink() and linked.samefile(array)
    assert np.array_equal(store.images, np.load(array))
    assert store.preprocessing.decode == "siim-npy"


def test_forcing_a_linked_store_leaves_the_array_alone(data, tmp_path):
    array = data / "siim-npy" / f"x_train_{SIZE}.npy"
    before = array.read_bytes()
    for _ in range(2):
        build_store(table_of(data, "siim-npy"), tmp_path, [SIZE], force=True)
    half = table_of(data, "siim-npy").iloc[:5]
    store = build_store(half, tmp_path, [SIZE], force=True)
    assert array.read_bytes() == before and np.array_equal(store.images, np.load(array)[:5])


def test_two_arrays_become_one_store_in_the_order_of_the_table(data, tmp_path):
    store = build_store(table_of(data, "siim-npy", "all"), tmp_path, [SIZE])
    parts = [np.load(data / "siim-npy" / f"x_{p}_{SIZE}.npy") for p in ("train", "test")]
    assert np.array_equal(store.images, np.concatenate(parts))


def test_a_finished_store_is_not_made_again(data, tmp_path, monkeypatch):
    build_store(table_of(data, "folder"), tmp_path, [SIZE])
    monkeypatch.setattr(decode_many, "read_one", None)
    assert len(build_store(table_of(data, "folder"), tmp_path, [SIZE])) == 17


def contents(folder: Path) -> dict[str, bytes]:
    "Bytes of what a store is made of; nothing else may lie in it."
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert not [name for name in files if "unfinished" in name]
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.fixture
def undisturbed(data, tmp_path, monkeypatch) -> tuple[pd.DataFrame, dict[str, bytes]]:
    "A table with two broken files in it, and the store that it makes when nothing goes wrong."
    copy = shutil.copytree(data / "folder", tmp_path / "data")
    (copy / "benign" / "f1.png").write_bytes(b"")
    (copy / "benign" / "f8.png").write_text("no image")
    monkeypatch.setattr(decode_many, "CHUNK", 4)
    table = lesion_table(parse_sources(f"folder={copy}"))
    build_store(table, tmp_path / "whole", [SIZE, 48])
    return table, contents(tmp_path / "whole")


def kill_at(monkeypatch, row: int, error: BaseException) -> None:
    "Let the decoding of one row raise."
    whole = decode_many.read_one

    def dying(index, *rest):
        if index == row:
            raise error
        return whole(index, *rest)

    monkeypatch.setattr(decode_many, "read_one", dying)


@pytest.mark.parametrize("row", [0, 3, 4, 9, 16])
def test_a_killed_build_goes_on_to_the_same_bytes(undisturbed, tmp_path, row):
    table, expected = undisturbed
    folder = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, row, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_store(table, folder, [SIZE, 48])
    assert not (folder / "manifest.json").exists()
    build_store(table, folder, [SIZE, 48])
    assert contents(folder) == expected


def test_a_resumed_build_does_not_decode_again_what_is_there(undisturbed, tmp_path):
    table, expected = undisturbed
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 9, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_store(table, tmp_path / "killed", [SIZE, 48])
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 7, AssertionError("row 7 was in a chunk written whole"))
        build_store(table, tmp_path / "killed", [SIZE, 48])
    assert contents(tmp_path / "killed") == expected


def test_a_half_written_line_and_half_written_pixels_are_tolerated(undisturbed, tmp_path):
    table, expected = undisturbed
    folder = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 9, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_store(table, folder, [SIZE, 48])
    journal = next(folder.glob("unfinished-*/journal.jsonl"))
    assert len(journal.read_text().splitlines()) == 2
    with journal.open("a") as file:
        file.write('[{"index": 8, "reason": "", "sha2')
    with journal.with_name(f"{SIZE}.npy").open("ab") as file:
        file.write(b"\x55" * 1000)
    build_store(table, folder, [SIZE, 48])
    assert contents(folder) == expected


def test_a_build_of_other_images_does_not_go_on_from_the_killed_one(undisturbed, data, tmp_path):
    table, _ = undisturbed
    folder = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 9, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            build_store(table, folder, [SIZE])
    store = build_store(table_of(data, "csv"), folder, [SIZE])
    contents(folder)
    for pixels, path in zip(store.images, store.table["path"], strict=True):
        assert np.array_equal(pixels, resize(decode(path), SIZE))


def full_disk(*arguments, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def break_fsync(patch) -> None:
    patch.setattr(os, "fsync", full_disk)


def break_tables(patch) -> None:
    patch.setattr(build_module, "write_tables", full_disk)


def break_manifest(patch) -> None:
    patch.setattr(build_module, "write_manifest", full_disk)


def break_second_move(patch) -> None:
    "The array of the first size is in place, that of the second is not."
    whole, moves = Path.replace, []

    def replace(self, target):
        if Path(target).name == "images.npy":
            moves.append(target)
            if len(moves) == 2:
                full_disk()
        return whole(self, target)

    patch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("broken", [break_fsync, break_tables, break_manifest, break_second_move])
def test_a_full_disk_leaves_no_manifest_and_the_next_call_makes_the_same_bytes(
    undisturbed, tmp_path, broken
):
    table, expected = undisturbed
    folder = tmp_path / "full"
    with pytest.MonkeyPatch.context() as patch:
        broken(patch)
        with pytest.raises(MelanomaError, match="is full"):
            build_store(table, folder, [SIZE, 48])
    assert not (folder / "manifest.json").exists()
    build_store(table, folder, [SIZE, 48])
    found = contents(folder)
    assert set(found) == set(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_forced_build_that_fails_does_not_pass_for_the_old_one(undisturbed, tmp_path):
    table, _ = undisturbed
    folder = tmp_path / "whole"
    with pytest.MonkeyPatch.context() as patch:
        break_fsync(patch)
        with pytest.raises(MelanomaError, match="is full"):
            build_store(table, folder, [SIZE, 48], force=True)
    assert not (folder / "manifest.json").exists()
