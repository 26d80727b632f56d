"""Parameters of notebooks as papermill leaves them: typed as they are meant, or refused."""

import ast
import json
from pathlib import Path

import pytest
from papermill.cli import _resolve_type  # what `-p` makes of text

from melanoma.core.errors import BadInput
from melanoma.core.parameters import lost_text, type_parameters
from melanoma.stages.runner import stage_notebook, stage_parameters
from support.commands import REPOSITORY, TRAIN_NOTEBOOK

FOLDERS = ("pipeline", "explore", "kaggle/kernels")
WITH_PARAMETERS = sorted(p for f in FOLDERS for p in (REPOSITORY / "nbs" / f).glob("*.ipynb"))


def cells_of(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [c | {"source": "".join(c["source"])} for c in cells if c["cell_type"] == "code"]


def parameters_cell(notebook: Path) -> str:
    cells = cells_of(notebook)
    return next(c["source"] for c in cells if "parameters" in c["metadata"].get("tags", []))


@pytest.mark.parametrize("notebook", WITH_PARAMETERS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_notebook_types_its_parameters_first(notebook):
    "Before anything of melanoma runs; a kernel of Kaggle installs melanoma first."
    assert len(WITH_PARAMETERS) == 13
    cells = cells_of(notebook)
    at = next(i for i, c in enumerate(cells) if "parameters" in c["metadata"].get("tags", []))
    after = cells[at + 2 if notebook.parent.name == "kernels" else at + 1]["source"]
    lines = [n for n in ast.parse(after).body if not isinstance(n, ast.Import | ast.ImportFrom)]
    assert ast.unparse(lines[0]) == "type_parameters(globals())"


@pytest.mark.parametrize("notebook", WITH_PARAMETERS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_defaults_given_through_papermill_stay_what_they_are(notebook):
    defaults = stage_parameters(notebook)
    arrived = {name: _resolve_type(str(value)) for name, value in defaults.items()}
    injected = "# Parameters\n" + "\n".join(f"{k} = {v!r}" for k, v in arrived.items())
    names = arrived | {"In": [parameters_cell(notebook), injected]}
    type_parameters(names)
    del names["In"]
    assert names == defaults
    assert {k: type(v) for k, v in names.items()} == {k: type(v) for k, v in defaults.items()}


@pytest.mark.parametrize(
    ("stage", "name", "text", "value"),
    [
        ("folds", "run", "2020", "2020"),
        ("folds", "run", "true", "true"),
        ("folds", "run", "null", "null"),
        ("folds", "n_folds", "3.0", 3),
        ("folds", "force", "True", True),
        ("folds", "force", "false", False),
        ("prepare", "sizes", "128", "128"),
        ("prepare", "sizes", "128,256", "128,256"),
        ("prepare", "group_col", "None", ""),
        ("prepare", "sources", "csv=a.csv", "csv=a.csv"),
        ("train", "lr", "1", 1.0),
        ("train", "lr", "3e-4", 3e-4),
        ("train", "pos_weight", "1", "1"),
        ("train", "pos_weight", "2.5", "2.5"),
        ("train", "pretrained", "none", "none"),
        ("train", "seed", "12345678901234567891", 12345678901234567891),
        ("predict", "out", "2020", "2020"),
    ],
)
def test_a_value_arrives_as_it_is_meant(stage, name, text, value):
    cell = parameters_cell(stage_notebook(stage))
    arrived = _resolve_type(text)
    for given in (arrived, text):  # through papermill's -p, and as text through our own or -r
        if given == "None":
            continue  # as text it is a name
        names = {"In": [cell, f"# Parameters\n{name} = {given!r}"], name: given}
        type_parameters(names)
        assert names[name] == value and type(names[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("fold", True, "a whole number"),
        ("fold", "first", "a whole number"),
        ("lr", float("nan"), "a number"),
        ("lr", True, "a number"),
        ("force", "perhaps", "true or false"),
        ("run", ["a", "b"], "text"),
        ("run", {"a": 1}, "text"),
    ],
)
def test_a_value_that_cannot_be_meant_names_its_parameter(name, value, needed):
    names = {"In": [parameters_cell(TRAIN_NOTEBOOK)], name: value}
    with pytest.raises(BadInput) as caught:
        type_parameters(names)
    assert str(caught.value) == f"parameter {name} = {value!r}: {needed} is needed."


@pytest.mark.parametrize(
    ("name", "found"), [("7", "007"), ("100000.0", "1e5"), ("isic", ""), ("2020", "")]
)
def test_a_name_that_papermill_took_for_a_number_is_recognised(name, found):
    hint = lost_text(name, ["007", "1e5", "isic", "2020"])
    assert (f"`-r run {found}`" in hint) if found else hint == ""
