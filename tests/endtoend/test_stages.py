"""Stages at once, and kernels that fail or are stopped."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import psutil
import pytest

from melanoma.core.files import read_json
from melanoma.core.locks import alone, reading
from melanoma.run.layout import Run
from melanoma.stages import kernel
from melanoma.stages.runner import stage_notebook
from support.commands import (
    TINY,
    TRAIN_NOTEBOOK,
    begin,
    copy_of,
    ended,
    melanoma,
    papermill,
    run_papermill,
    succeed,
    wait_for,
)

pytestmark = pytest.mark.slow
RECIPE = [*TINY, "-p", "epochs", "1"]


# several at once


def test_six_stages_of_six_runs_at_once(prepared, tmp_path):
    root = copy_of(prepared, tmp_path / "project")
    names = [f"r{i}" for i in range(6)]
    for name in names:
        shutil.copytree(root / "output" / "tiny", root / "output" / name)
        (root / "output" / name / "folds.csv").unlink()
    calls = [begin(root, "folds", "--run", name, "--n-folds", "2") for name in names]
    assert ended(calls) == [(0, 0)] * 6
    split = (root / "output" / "tiny" / "folds.csv").read_bytes()
    assert [(root / "output" / n / "folds.csv").read_bytes() for n in names] == [split] * 6
    assert [p.name for p in root.iterdir()] == ["output"]  # no sockets in the working folder


def test_two_folds_side_by_side(prepared, tmp_path):
    root = copy_of(prepared, tmp_path / "project")
    calls = [begin(root, "train", "--run", "tiny", "--folds", k, *RECIPE) for k in "01"]
    assert ended(calls) == [(0, 0)] * 2
    for k in (0, 1):
        assert set(pd.read_csv(root / f"output/tiny/fold{k}/oof.csv")["fold"]) == {k}


def test_two_of_papermills_own_side_by_side(prepared, tmp_path):
    root = copy_of(prepared, tmp_path / "project")
    words = [*RECIPE, "-p", "run", "tiny"]
    calls = [papermill(root, TRAIN_NOTEBOOK, f"{k}.ipynb", *words, "-p", "fold", k) for k in "01"]
    assert ended(calls) == [(0, 0)] * 2
    for k in (0, 1):
        assert set(pd.read_csv(root / f"output/tiny/fold{k}/oof.csv")["fold"]) == {k}


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (["train", "--folds", "0", *RECIPE], "fold0"),
        (["folds", "--n-folds", "3", "--force"], "folds.csv"),
    ],
)
def test_the_same_output_is_made_by_one_at_a_time(prepared, tmp_path, arguments, made):
    root = copy_of(prepared, tmp_path / "project")
    run = Run.named("tiny", root)
    before = run.folds.read_bytes()
    with alone(run.folder / made, "this test"):
        done = melanoma(root, arguments[0], "--run", "tiny", *arguments[1:])
    assert done.returncode == 2, done.stderr
    words = (
        rf"{made} is in use: this test \(process {os.getpid()}, since [0-9:]+\). Wait for it.\n$"
    )
    assert re.search(words, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert run.folds.read_bytes() == before and not run.fold(0).exists()


@pytest.mark.parametrize("stage", ["prepare", "folds"])
def test_what_a_training_reads_is_not_made_anew(prepared, tmp_path, stage):
    root = copy_of(prepared, tmp_path / "project")
    run = Run.named("tiny", root)
    before = {p: p.read_bytes() for p in [run.folds, *run.store.rglob("*.*")] if p.is_file()}
    sources = read_json(run.store / "manifest.json")["parameters"]["sources"]
    call = ["prepare", *(w for source in sources for w in ("--source", source)), "--size", "40"]
    call = call if stage == "prepare" else ["folds", "--n-folds", "3"]
    path = run.store if stage == "prepare" else run.folds
    with reading(path, "fold 0 is being trained"), reading(path, "fold 1 is being trained"):
        done = melanoma(root, call[0], "--run", "tiny", *call[1:], "--force")
    assert done.returncode == 2, done.stderr
    found = re.findall(r"fold \d is being trained \(process \d+, since [0-9:]+\)", done.stderr)
    assert len(found) == 2 and done.stderr.count("\n") == 1
    assert before == {p: p.read_bytes() for p in before}
    assert melanoma(root, call[0], "--run", "tiny", *call[1:], "--force").returncode == 0


def test_two_trainings_of_one_fold_leave_one_whole_fold(prepared, tmp_path):
    root = copy_of(prepared, tmp_path / "project")
    calls = [begin(root, "train", "--run", "tiny", "--folds", "0", *RECIPE) for _ in range(2)]
    codes = sorted(code for code, _ in ended(calls))
    assert codes in ([0, 0], [0, 2])  # the second came while the first trained, or after it
    said = succeed(root, "train", "--run", "tiny", "--folds", "0", *RECIPE)
    assert "fold 0 is finished: skipped" in said
    assert not list(root.glob("output/tiny/*.running.ipynb"))


# sockets


@contextlib.contextmanager
def short_folder():
    "A folder for temporary files with a path short enough for sockets."
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


def test_without_sockets_a_kernel_gets_ports(monkeypatch):
    monkeypatch.setattr(kernel, "LONGEST", 10)
    with kernel.kernel_folder() as (folder, settings):
        assert settings["transport"] == "tcp" and folder.stat().st_mode & 0o777 == 0o700
    kernel.try_kernel()


def test_a_stage_runs_where_sockets_cannot_be_made(prepared, tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler or sys.platform != "linux":
        pytest.skip("no C compiler to forbid sockets with")
    (tmp_path / "forbid.c").write_text(
        "#include <errno.h>\n#include <sys/socket.h>\n#include <sys/syscall.h>\n"
        "#include <unistd.h>\n"
        "int bind(int fd, const struct sockaddr *a, socklen_t n) {\n"
        "  if (a->sa_family == AF_UNIX) { errno = EOPNOTSUPP; return -1; }\n"
        "  return syscall(SYS_bind, fd, a, n);\n}\n"
    )
    library = tmp_path / "forbid.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "forbid.c"], check=True)
    root = copy_of(prepared, tmp_path / "project")
    words = ["folds", "--run", "tiny", "--n-folds", "2", "--force"]
    assert ended([begin(root, *words, LD_PRELOAD=str(library))]) == [(0, 0)]


# kernels that fail


@pytest.mark.parametrize(
    ("specification", "reason"),
    [
        ('{"argv": ["/nowhere/python", "-f", "{connection_file}"]', "'/nowhere/python'"),
        ('{"argv": ["python", "-c", "import no_such_thing"]', "No module named 'no_such_thing'"),
        ('{"argv": [', "JSONDecodeError"),
    ],
)
def test_a_kernel_that_cannot_start_is_one_line(prepared, tmp_path, specification, reason):
    root = copy_of(prepared, tmp_path / "project")
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    rest = ', "display_name": "x", "language": "python"}'
    spec.write_text(specification + (rest if specification.endswith("]") else ""))
    before = (root / "output/tiny/folds.ipynb").read_bytes()
    with short_folder() as temporary:
        places = {"JUPYTER_PATH": str(tmp_path / "jupyter"), "TMPDIR": str(temporary)}
        words = ["folds", "--run", "tiny", "--n-folds", "2", "--force"]
        [(code, said)] = ended([begin(root, *words, **places)])
        assert list(temporary.iterdir()) == []
    assert code == 1 and said.count("\n") == 1 and reason in said, said
    assert said.startswith("melanoma: stage folds failed: the Jupyter kernel does not start (")
    assert "`melanoma doctor`" in said
    assert (root / "output/tiny/folds.ipynb").read_bytes() == before
    assert not list(root.glob("output/tiny/*.running.ipynb"))


def training(root: Path, temporary: Path) -> subprocess.Popen:
    "A training in its second epoch."
    recipe = [*TINY, "-p", "epochs", "500", "-p", "patience", "500"]
    process = begin(root, "train", "--run", "tiny", "--folds", "0", *recipe, TMPDIR=str(temporary))
    wait_for(root / "weights/tiny/fold0.last.pt", process)
    assert [p.stat().st_mode & 0o777 for p in temporary.glob("melanoma-*")] == [0o700]
    return process


def test_a_kernel_that_dies_is_one_line(prepared, tmp_path):
    root = copy_of(prepared, tmp_path / "project")
    with short_folder() as temporary:
        process = training(root, temporary)
        for child in psutil.Process(process.pid).children():
            child.kill()
        _, said = process.communicate(timeout=120)
        assert list(temporary.iterdir()) == []
    assert process.returncode == 1
    assert said == (
        "melanoma: stage train failed: the Jupyter kernel died (SIGKILL, the machine may have run "
        "out of memory): `melanoma doctor` looks for what is wrong.\n"
    )
    assert (root / "output/tiny/train_fold0.running.ipynb").exists()


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "melanoma: interrupted; the same command goes on where it was\n"),
        (signal.SIGTERM, 143, ""),
    ],
)
def test_a_stopped_stage_leaves_nothing_but_its_notebook(prepared, tmp_path, number, code, message):
    root = copy_of(prepared, tmp_path / "project")
    with short_folder() as temporary:
        process = training(root, temporary)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        assert list(temporary.iterdir()) == []
    assert (process.returncode, said) == (code, message)
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    notebook = json.loads((root / "output/tiny/train_fold0.running.ipynb").read_text())
    assert any("epoch  1/500" in json.dumps(c.get("outputs", [])) for c in notebook["cells"])
    assert (root / "weights/tiny/fold0.last.pt").exists()


def test_runs_with_numbers_for_names(prepared, tmp_path):
    "-p run 2020 as it is; -p run 007 arrives as 7, and the error says how to give it."
    root = copy_of(prepared, tmp_path / "project")
    for name in ("2020", "007"):
        shutil.copytree(root / "output" / "tiny", root / "output" / name)
    notebook = stage_notebook("folds")
    words = ["-p", "n_folds", "2", "-p", "force", "True"]
    done = run_papermill(root, notebook, "o.ipynb", "-p", "run", "2020", *words)
    assert done.returncode == 0, done.stderr
    done = run_papermill(root, notebook, "o.ipynb", "-p", "run", "007", *words)
    assert done.returncode == 1 and "run '7' has no 7/store/manifest.json" in done.stderr
    assert "give it as `-r run 007`" in done.stderr
    done = run_papermill(root, notebook, "o.ipynb", "-r", "run", "007", *words)
    assert done.returncode == 0, done.stderr
    assert not (root / "output" / "7").exists()
    assert "has no 007/" not in succeed(root, "folds", "--run", "007", "--n-folds", "2")


def test_papermills_own_command_refuses_an_unknown_parameter(prepared, tmp_path):
    done = run_papermill(prepared, TRAIN_NOTEBOOK, str(tmp_path / "o.ipynb"), "-p", "folds", "0")
    assert done.returncode == 1
    assert "this notebook has no parameter 'folds'. Did you mean 'fold'?" in done.stderr


# the sample of a submission


def test_a_sample_is_refused_before_any_image_is_decoded(trained, drawn, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("stores"))
    source = ("--run", "tiny", "--source", f"siim2020={drawn}", "--sample-submission")
    page = tmp_path / "page.csv"
    page.write_text("<!DOCTYPE html>\n<html><title>Kaggle: log in</title></html>")
    done = melanoma(root, "predict", *source, str(page), "--split", "test")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is a web page" in done.stderr
    sample = drawn / "sample_submission.csv"
    done = melanoma(root, "predict", *source, str(sample), "--split", "train")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    n = len(pd.read_csv(sample))
    assert f"asks for {n} of {n} images that split 'train' of the source lacks" in done.stderr
    assert not (root / "output" / "tiny" / "stores").exists()
