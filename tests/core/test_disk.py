"What reaches the disk: whole, for whom the umask says, and never believed when it is damaged."

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from melanoma.core.files import atomic_path, file_sha256, read_json, write_text
from melanoma.core.locks import reading
from melanoma.data.duplicates import NEAR, join_duplicates
from melanoma.data.sources import Source, source_images
from melanoma.model.checkpoint import save_checkpoint
from melanoma.model.classifier import create_model
from melanoma.run.config import TrainConfig
from melanoma.run.layout import Run
from melanoma.run.manifest import finished, write_manifest
from melanoma.train import resuming
from support.commands import TESTS, TINY, melanoma, program
from support.layouts import alike


def test_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    did = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle):
        did.append(("fsync", str(Path(f"/proc/self/fd/{handle}").readlink())))
        fsync(handle)

    def replaced(path, target):
        did.append(("rename", str(path), str(target)))
        return replace(path, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc to ask which file a handle is")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_text(tmp_path / "metrics.json", "{}")
    temporary = did[0][1]
    assert did == [
        ("fsync", temporary),
        ("rename", temporary, str(tmp_path / "metrics.json")),
        ("fsync", str(tmp_path)),
    ]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask to speak of")
@pytest.mark.parametrize(("umask", "mode"), [(0o077, "-rw-------"), (0o022, "-rw-r--r--"),
                                             (0o002, "-rw-rw-r--")])  # fmt: skip
def test_files_have_the_mode_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_checkpoint(tmp_path / "fold0.safetensors", create_model("resnet18", "none")[0], {
            "preprocessing": {"size": 32}, "fold": 0})  # fmt: skip
        write_text(tmp_path / "predictions.csv", "image_name\n")
        with atomic_path(tmp_path / "fold0.last.pt") as temporary:
            torch.save({}, temporary)
    finally:
        os.umask(before)
    modes = {p.name: stat.filemode(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["fold0.safetensors", "predictions.csv", "fold0.last.pt"], mode)


def test_what_a_killed_writer_left_goes(tmp_path):
    code = (
        "import os, sys\nfrom melanoma.core.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n path.write_text('half')\n os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "fold0[1].csv"  # what a pattern of names would take for something else
    done = subprocess.run([sys.executable, "-c", code, path])
    assert done.returncode == -9 and len(list(tmp_path.iterdir())) == 1
    with atomic_path(path) as temporary:  # one that is being written stays
        write_text(path, "whole")
        assert {p.name for p in tmp_path.iterdir()} == {path.name, temporary.name}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("left", [b"", b"half a file", b"PK\x03\x04" + b"\0" * 100])
def test_a_state_that_cannot_be_read_starts_the_fold_anew(tmp_path, capsys, left):
    run = Run.named("tiny", tmp_path)
    run.weights.mkdir(parents=True)
    run.fold_last(0).write_bytes(left)
    assert resuming.kept_state(run, TrainConfig(), "fingerprint") is None
    assert "fold0.last.pt cannot be read" in capsys.readouterr().out
    keep = resuming.keep_state(run, TrainConfig(), "fingerprint")
    keep({"history": [{"epoch": 1}], "epoch": 1})
    assert resuming.kept_state(run, TrainConfig(), "fingerprint")["epoch"] == 1


def test_a_manifest_vouches_for_bytes(tmp_path, capsys):
    manifest, table = tmp_path / "manifest.json", tmp_path / "oof.csv"
    table.write_text("image_name,logit\n")
    write_manifest(manifest, "fold 0 of run tiny", {}, {}, ["oof.csv"])
    mark = read_json(manifest)["files"]["oof.csv"]
    assert mark == {"size": 17, "sha256": file_sha256(table)}
    assert finished(manifest, {}, {})
    table.write_text("")
    assert not finished(manifest, {}, {})
    assert "fold 0 of run tiny is done again: gone or not whole: oof.csv" in capsys.readouterr().out


@pytest.mark.slow
def test_a_hundred_thousand_equal_images_take_little_memory():
    code = """
import resource
from support.layouts import alike
from melanoma.data.duplicates import join_duplicates
table = alike(100_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
joined, pairs = join_duplicates(table)
assert joined["group"].nunique() == 1 and len(pairs) == 99_999
assert set(pairs["image_name_1"]) == {"i0"} and set(pairs["distance"]) == {0}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 500  # MB; before, 8 million pairs of 4,000 images took 1,200


def test_many_different_images_that_look_alike_stay_together(monkeypatch):
    from melanoma.data import duplicates

    rng = np.random.default_rng(0)
    bits = (rng.random((3000, 256)) < 0.02).astype(np.uint8)  # about 10 bits apart, all pairs near
    table = alike(3000).assign(phash=[np.packbits(b).tobytes().hex() for b in bits])
    monkeypatch.setattr(duplicates, "MOST", 1000)
    joined, pairs = join_duplicates(table)
    assert joined["group"].nunique() == 1
    assert 1000 <= len(pairs) < 3000 + 3000 and (pairs["distance"] <= NEAR).all()
    assert pairs.attrs["left_out"] > 4_000_000


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_suffixes_the_same_file_is_taken_in_any_order(tmp_path, monkeypatch, capsys, turned):
    for name in ("a.png", "a.jpg", "b.png", "c.jpg"):
        (tmp_path / name).write_bytes(b"...")
    listed = sorted(tmp_path.iterdir(), reverse=turned)
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(listed))
    found = source_images(Source("siim2020", tmp_path), [tmp_path])
    assert {n: Path(found[n]).name for n in "abc"} == {"a": "a.jpg", "b": "b.png", "c": "c.jpg"}
    said = capsys.readouterr().out
    assert said == (
        "siim2020: 1 images lie there with several suffixes; taken is a.jpg, not a.png\n"
    )


@pytest.fixture
def small_disk(tmp_path, trained):
    "A copy of a trained project on a disk of its own with room to spare; and what fills that."
    root = tmp_path / "disk"
    root.mkdir()
    size = sum(p.stat().st_size + 4096 for p in trained.rglob("*")) + 200_000_000
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk of its own can be mounted here")
    try:
        shutil.copytree(trained, root, dirs_exist_ok=True)
        yield root, root / "filler"
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "made", "room"),
    [
        (["folds", "--n-folds", "3", "--force"], "output/tiny/folds.csv", 8192),
        (["train", "--folds", "0", *TINY, "-p", "epochs", "2", "--force"],
         "weights/tiny/fold0.safetensors", 2_000_000),
    ],
)  # fmt: skip
def test_a_full_disk_loses_nothing(small_disk, stage, made, room):
    root, filler = small_disk
    before = (root / made).read_bytes()
    filler.write_bytes(bytes(shutil.disk_usage(root).free - room))
    call = [stage[0], "--run", "tiny", *stage[1:]]
    done = program(root, *call)
    assert done.returncode == 1, done.stderr
    assert "is full" in done.stderr or "No space left" in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 3
    assert (root / made).read_bytes() == before
    left = [p for p in root.rglob(".*") if p.suffix != ".lock"]
    assert not left
    filler.unlink()
    assert melanoma(root, *call).returncode == 0


def test_what_can_only_be_read_is_read_without_a_lock(tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk of its own can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with reading(folder / "store", "fold 0 is being trained"):
            assert not list(folder.iterdir())
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
