"""What the end-to-end tests share: a small drawn data set, a way to call the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# a network of 5 M parameters from a random start: these tests look at files, not at scores
TINY = ["-p", "arch", "resnet10t", "-p", "pretrained", "none", "-p", "batch_size", "16"]


def melanoma(
    root: Path,  # holds output/ and weights/
    *arguments: str,
    cwd: Path | None = None,  # the caller's folder
) -> subprocess.CompletedProcess:
    "Call the command line as a user would."
    return subprocess.run(
        [str(Path(sys.executable).with_name("melanoma")), *arguments],
        env=os.environ | {"MELANOMA_ROOT": str(root), "COLUMNS": "200"},
        cwd=cwd or root,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def succeed(root: Path, *arguments: str, cwd: Path | None = None) -> str:
    "Call it, expect exit code 0, return what it printed."
    done = melanoma(root, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    "A drawn data set in SIIM-2020's layout: 24 patients to train on, 5 to predict."
    from melanoma.synthetic import make_dataset

    folder = tmp_path_factory.mktemp("drawn") / "siim2020"
    return make_dataset(folder, patients=30, test_patients=5, size=64, prevalence=0.3)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, drawn) -> Path:
    "A project's root with the run `tiny`: prepared at 32 px, two folds, nothing trained."
    root = tmp_path_factory.mktemp("project")
    succeed(root, "prepare", "--run", "tiny", "--size", "32", "--source", f"siim2020={drawn}")
    succeed(root, "folds", "--run", "tiny", "--n-folds", "2")
    return root


@pytest.fixture(scope="session")
def trained(prepared) -> Path:
    "The same root with both folds trained and evaluated."
    succeed(prepared, "train", "--run", "tiny", "--folds", "0-1", *TINY, "-p", "epochs", "2")
    succeed(prepared, "evaluate", "--run", "tiny")
    return prepared
