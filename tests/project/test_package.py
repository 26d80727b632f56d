"""What an installation holds: source distribution and wheel, the wheel packed again from it."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from melanoma.stages.runner import STAGES
from support.commands import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    "Both distributions, the wheel made from the unpacked source distribution."
    out = tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    if tracked.returncode:
        pytest.skip("not a git checkout: what belongs to it is not known")
    source = out / "source"
    for name in tracked.stdout.split("\0"):
        if name and (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def test_the_wheel_holds_modules_notebooks_page_and_lists(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        requires = wheel.read(next(n for n in names if n.endswith("METADATA"))).decode()
    modules = {p.relative_to(REPOSITORY).as_posix() for p in REPOSITORY.glob("melanoma/**/*.py")}
    stages = {f"melanoma/notebooks/pipeline/{name}.ipynb" for name in STAGES.values()}
    kernels = {f"melanoma/notebooks/kaggle/kernels/{name}.ipynb" for name in ("inference", "train")}
    others = {"melanoma/web/index.html", "melanoma/kaggle_image.txt", "melanoma/py.typed"}
    others |= {f"melanoma/templates/{name}" for name in ("card.md", "lesion.html", "run.html")}
    shipped = {f"melanoma/shipped/weights/isic/{n}" for n in ("ensemble.onnx", "ensemble.json")}
    shipped |= {"melanoma/shipped/weights/isic/LICENSE", "melanoma/web/lesions/lesions.json"}
    assert modules | stages | kernels | others | shipped <= names
    top = {n.split("/")[0] for n in names}
    assert len(top) == 2 and "melanoma" in top  # the package and its metadata, no tests
    assert "Requires-Dist: torch>=" in requires and "Provides-Extra: serve" in requires


def test_the_source_distribution_is_whole(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    notebooks = {p.relative_to(REPOSITORY).as_posix() for p in REPOSITORY.glob("nbs/**/*.ipynb")}
    notebooks = {n for n in notebooks if ".ipynb_checkpoints" not in n}
    assert notebooks | {"settings.ini", "tests/conftest.py", "LICENSE"} <= names
    held = {n for n in names if n.startswith(("output/", "weights/")) and "." in n}
    assert held == {
        f"weights/isic/{n}" for n in ("ensemble.onnx", "ensemble.json", "oof.csv", "README.md")
    }
