"""The command line within this process, its notebooks too, or in a process of its own."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = REPOSITORY / "tests"
TRAIN_NOTEBOOK = REPOSITORY / "nbs" / "pipeline" / "30_train.ipynb"
PROGRAM = str(Path(sys.executable).with_name("melanoma"))
PAPERMILL = str(Path(sys.executable).with_name("papermill"))
# a network of 5 M parameters from a random start: these tests look at files, not at scores
TINY = ["-p", "arch", "resnet10t", "-p", "pretrained", "none", "-p", "batch_size", "16"]
TINY += ["-p", "precision", "fp32"]  # the same weights, whatever the CPU is quickest in


def program(
    root: Path,  # holds output/ and weights/
    *arguments: str,
    cwd: Path | None = None,  # the caller's folder
    **environment: str,
) -> subprocess.CompletedProcess:
    "Call the command line as a user does: a process, and for a stage a second one, its kernel."
    return subprocess.run(
        [PROGRAM, *arguments],
        env=os.environ | {"MELANOMA_ROOT": str(root), "COLUMNS": "200"} | environment,
        cwd=cwd or root,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def begin(root: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    "Start it, without waiting for its end."
    return subprocess.Popen(
        [PROGRAM, *arguments],
        env=os.environ | {"MELANOMA_ROOT": str(root)} | environment,
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def papermill(root: Path, *arguments: str | Path) -> subprocess.Popen:
    "Start papermill's own command."
    return subprocess.Popen(
        [PAPERMILL, *map(str, arguments)],
        env=os.environ | {"MELANOMA_ROOT": str(root)},
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    "Exit codes, and what was said where one is not 0."
    said = ["".join(p.communicate()) for p in processes]
    return [(p.returncode, p.returncode and s) for p, s in zip(processes, said, strict=True)]


def run_papermill(root: Path, *arguments: str | Path) -> subprocess.CompletedProcess:
    "Call papermill's own command within this process."
    from papermill.cli import papermill as command

    return _within(root, root, ["papermill", *map(str, arguments)], command)


def melanoma(
    root: Path,  # holds output/ and weights/
    *arguments: str,
    cwd: Path | None = None,  # the caller's folder
) -> subprocess.CompletedProcess:
    "Call the command line within this process: no start of Python, no second import of torch."
    from melanoma.cli.main import main

    return _within(root, cwd or root, [PROGRAM, *arguments], main)


def _within(
    root: Path, cwd: Path, words: list[str], main: Callable[[], object]
) -> subprocess.CompletedProcess:
    from support.notebooks import notebooks_within

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _surroundings(root, words, cwd),
        notebooks_within(),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        except Exception:
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def succeed(
    root: Path,
    *arguments: str,
    cwd: Path | None = None,
    way: Callable[..., subprocess.CompletedProcess] = melanoma,  # or program
) -> str:
    "Call it, expect exit code 0, return what it printed."
    done = way(root, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def _surroundings(root: Path, words: list[str], cwd: Path) -> Iterator[None]:
    "What a process has of its own: arguments, environment, folder, no terminal."
    before, argv, stdin = dict(os.environ), sys.argv, sys.stdin
    with contextlib.chdir(cwd), Path(os.devnull).open() as nothing:
        try:
            sys.argv, sys.stdin = words, nothing
            os.environ |= {"MELANOMA_ROOT": str(root), "COLUMNS": "200"}
            yield
        finally:
            sys.argv, sys.stdin = argv, stdin
            os.environ.clear()
            os.environ |= before


def copy_of(root: Path, folder: Path) -> Path:
    "A copy to go on from: what a test is given does not depend on those that ran before it."
    return Path(shutil.copytree(root, folder, symlinks=True, dirs_exist_ok=True))


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    "Wait until a file is there."
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "ended before the file was there"
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.05)
