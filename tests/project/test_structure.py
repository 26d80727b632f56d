"""The layout: notebooks and modules in pairs, imports downhill, parameters that papermill
finds, a command line that starts light, and no path of anybody's machine."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import papermill
import pytest

from melanoma.run.config import FoldsConfig, PredictConfig, PrepareConfig, TrainConfig
from melanoma.stages.runner import STAGES, stage_notebook, stage_parameters
from support.commands import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "nbs").glob("*/[0-9][0-9]_*.ipynb"))
NOTEBOOKS = [n for n in NOTEBOOKS if not (n.parent / ".notest").exists()]  # of the library
STAGE_NOTEBOOKS = sorted((REPOSITORY / "nbs" / "pipeline").glob("*.ipynb"))
WITH_PARAMETERS = [*STAGE_NOTEBOOKS, *sorted((REPOSITORY / "nbs" / "explore").glob("*.ipynb"))]
MODULES = sorted(
    p for p in (REPOSITORY / "melanoma").glob("*/*.py") if p.stem not in ("__init__", "__main__")
)
MACHINE_PATH = re.compile(r"/(work|root|home|Users)/\w")


def code_cells(notebook: Path) -> list[dict]:
    return [
        c
        for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "code"
    ]


def exported_to(notebook: Path) -> list[str]:
    "What the notebook's `#| default_exp` lines name."
    text = "\n".join("".join(c["source"]) for c in code_cells(notebook))
    return re.findall(r"^#\|\s*default_exp\s+(\S+)", text, re.MULTILINE)


def module_of(notebook: Path) -> str:
    "LAYER.name of nbs/LAYER/NN_name.ipynb."
    return f"{notebook.parent.name}.{notebook.stem.partition('_')[2]}"


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


# notebooks and modules


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=module_of)
def test_a_notebook_exports_to_the_module_of_its_name(notebook):
    assert exported_to(notebook) == [module_of(notebook)]


def test_no_two_notebooks_of_a_layer_share_a_number():
    numbered = [(n.parent.name, n.stem.partition("_")[0]) for n in NOTEBOOKS]
    assert len(numbered) == len(set(numbered))


def test_every_module_has_its_notebook():
    assert sorted(f"{m.parent.name}.{m.stem}" for m in MODULES) == sorted(map(module_of, NOTEBOOKS))


def test_imports_lead_down():
    "Layers as pyproject.toml lists them; within a layer, from a higher number to a lower."
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    number = {f"melanoma.{module_of(n)}": n.stem.partition("_")[0] for n in NOTEBOOKS}
    graph = grimp.build_graph("melanoma", cache_dir=None)
    within = [
        (module, other)
        for module in number
        for other in graph.find_modules_directly_imported_by(module) & number.keys()
        if module.split(".")[1] == other.split(".")[1]
    ]
    assert len(within) > 50
    assert [(m, other) for m, other in within if number[m] <= number[other]] == []


# parameters of the stages and of the notebooks to explore in


def test_every_stage_is_a_notebook_and_every_notebook_a_stage():
    assert {stage_notebook(s) for s in STAGES} == set(STAGE_NOTEBOOKS)


@pytest.mark.parametrize("notebook", WITH_PARAMETERS, ids=lambda p: p.stem)
def test_exactly_one_cell_is_tagged_parameters(notebook):
    tags = [c["metadata"].get("tags", []) for c in code_cells(notebook)]
    assert sum("parameters" in t for t in tags) == 1


@pytest.mark.parametrize("notebook", WITH_PARAMETERS, ids=lambda p: p.stem)
def test_papermill_finds_the_parameters_that_the_library_finds(notebook):
    known = stage_parameters(notebook)
    inspected = papermill.inspect_notebook(str(notebook))
    assert list(inspected) == list(known)
    for name, value in known.items():
        assert ast.literal_eval(inspected[name]["default"]) == value, name
        assert inspected[name]["inferred_type_name"] == type(value).__name__, name


@pytest.mark.parametrize("notebook", WITH_PARAMETERS, ids=lambda p: p.stem)
def test_the_parameters_cell_holds_nothing_but_typed_parameters(notebook):
    cell = next(c for c in code_cells(notebook) if "parameters" in c["metadata"].get("tags", []))
    for node in ast.parse("".join(cell["source"])).body:
        assert isinstance(node, ast.AnnAssign) and node.value, ast.unparse(node)


CONFIGS = {"prepare": PrepareConfig, "folds": FoldsConfig, "train": TrainConfig}
CONFIGS["predict"] = PredictConfig


@pytest.mark.parametrize("stage", CONFIGS)
def test_a_stages_notebook_takes_the_parameters_of_its_config(stage):
    found, config = stage_parameters(stage_notebook(stage)), CONFIGS[stage]()
    assert list(found.items()) == list(({"run": "demo"} | config.parameters()).items())
    assert CONFIGS[stage].from_parameters(found) == config


def test_nbdev_clean_keeps_the_parameters_tag(tmp_path):
    copy = tmp_path / "30_train.ipynb"
    shutil.copyfile(REPOSITORY / "nbs" / "pipeline" / "30_train.ipynb", copy)
    clean = Path(sys.executable).with_name("nbdev_clean")
    done = subprocess.run(
        [str(clean), "--fname", str(copy)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert stage_parameters(copy) == {"run": "demo"} | TrainConfig().parameters()


# what the command line costs, and what the files give away


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["prepare", "--help"]])
def test_help_loads_nothing_heavy(words):
    code = (
        "import json, sys\n"
        f"sys.argv = ['melanoma', *{words!r}]\n"
        "from melanoma.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as leaving:\n    code = leaving.code\n"
        "print('\\nloaded', json.dumps([code, sorted(sys.modules)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown, _, rest = done.stdout.rpartition("\nloaded ")
    exit_code, loaded = json.loads(rest)
    assert not exit_code and "Usage" in shown
    assert not {"torch", "timm", "papermill", "albumentations", "cv2"} & set(loaded)


@pytest.mark.parametrize("stage", ["prepare", "folds", "evaluate", "predict"])
def test_only_training_loads_torch(stage):
    "Predicting, too, where the graph is there: torch and its friends take seconds to load."
    cells = code_cells(stage_notebook(stage))
    imports = ["".join(c["source"]) for c in cells if "\nfrom melanoma." in "".join(c["source"])]
    code = f"{imports[0]}\nimport sys\nprint(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert "melanoma.run.config" in loaded or "melanoma.run.layout" in loaded
    assert not {"torch", "timm", "albumentations"} & loaded


@pytest.mark.parametrize(
    "path", [*NOTEBOOKS, *WITH_PARAMETERS, *MODULES], ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_no_file_holds_a_path_of_a_machine(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [f"{relative(path)}:{i}" for i, v in enumerate(lines, 1) if MACHINE_PATH.search(v)]
    assert not found
