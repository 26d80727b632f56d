"""Rules of the house: numbers, names, parameters, what --help imports."""

import ast
import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import papermill
import pytest
from conftest import REPOSITORY

from melanoma.config import TrainConfig
from melanoma.pipeline import STAGES, stage_notebook, stage_parameters

LIBRARY = sorted((REPOSITORY / "nbs").glob("[0-9]*.ipynb"))


def numbers() -> dict[str, int]:
    "Module → number of its notebook."
    found = {}
    for path in LIBRARY:
        text = "\n".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"])
        module = re.search(r"#\|\s*default_exp\s+(\w+)", text)[1]
        assert module not in found and path.stem.endswith(f"_{module}")
        found[module] = int(path.stem.split("_")[0])
    return found


def test_one_notebook_one_module():
    modules = {p.stem for p in (REPOSITORY / "melanoma").glob("*.py")} - {"__init__", "_modidx"}
    assert modules == set(numbers())


@pytest.mark.parametrize("module", sorted(numbers()))
def test_imports_go_to_lower_numbers(module):
    number = numbers()
    tree = ast.parse((REPOSITORY / "melanoma" / f"{module}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            other = node.module.removeprefix("melanoma.")
            if node.level or node.module.startswith("melanoma."):
                assert number[other] < number[module], f"{module} imports {other}"


@pytest.mark.parametrize("stage", STAGES)
def test_papermill_reads_every_parameter(stage):
    known = stage_parameters(stage_notebook(stage))
    inspected = papermill.inspect_notebook(str(stage_notebook(stage)))
    assert set(inspected) == set(known)
    assert all(p["inferred_type_name"] != "None" for p in inspected.values())


def test_the_training_notebook_has_the_parameters_of_the_library():
    assert stage_parameters(stage_notebook("train")) == asdict(TrainConfig())


def test_nbdev_clean_keeps_the_parameters_tag(tmp_path):
    copy = tmp_path / "30_train.ipynb"
    shutil.copyfile(stage_notebook("train"), copy)
    clean = Path(sys.executable).with_name("nbdev_clean")
    subprocess.run([str(clean), "--fname", str(copy)], cwd=REPOSITORY, check=True)
    assert stage_parameters(copy) == asdict(TrainConfig())


def test_help_imports_no_torch():
    code = (
        "import sys; from melanoma.cli import main; sys.argv = ['melanoma', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'papermill', 'albumentations', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
