"""The notebooks to explore in, executed on a small run; what a notebook shows of runs, lesions and
patients; progress for a person and for a record."""

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from jupyter_client.manager import start_new_kernel

from melanoma.core.errors import BadInput
from melanoma.evaluation.fold_table import fold_table
from melanoma.evaluation.gallery import Gallery
from melanoma.evaluation.lesion_card import Lesion, Patient
from melanoma.run.layout import Run
from melanoma.run.status import status_html
from melanoma.stages.runner import export_html
from support.commands import REPOSITORY, run_papermill, succeed
from support.pages import seen_in

EXPLORE = REPOSITORY / "nbs" / "explore"
RUN = ("-p", "run", "tiny")
CALLS = {  # name → notebook, parameters; the last one must fail
    "first_look": ("01_first_look", *RUN),
    "augmentations": ("02_augmentations", *RUN, "-p", "lesions", "2", "-p", "sizes", "32,48"),
    "diary": ("03_training_diary", "-p", "runs", "tiny,twin"),
    "errors": ("04_errors", *RUN, "-p", "mistakes", "4"),
    "patient": ("05_patient", *RUN),
    "submission": ("06_submission", *RUN, "-p", "draws", "50"),
    "no_predictions": ("06_submission", "-p", "run", "twin"),
}


@pytest.fixture(scope="module")
def explored(trained, drawn, tmp_path_factory) -> Path:
    "A copy of the project with predictions, a twin of the run with other scores, and no folds."
    root = tmp_path_factory.mktemp("explored") / "project"
    shutil.copytree(trained, root)
    tiny, twin = root / "output" / "tiny", root / "output" / "twin"
    shutil.copytree(tiny, twin)
    (twin / "predictions.csv").unlink(missing_ok=True)
    shutil.copytree(tiny / "store", root / "output" / "untrained" / "store")
    rng = np.random.default_rng(0)
    for path in twin.glob("fold*/oof.csv"):
        oof = pd.read_csv(path)
        oof["logit"] += rng.normal(0, oof["logit"].std(), len(oof))
        oof.to_csv(path, index=False)
    sample = ("--sample-submission", str(drawn / "sample_submission.csv"))
    succeed(
        root,
        "predict",
        "--run",
        "tiny",
        "--source",
        f"siim2020={drawn}",
        "--split",
        "test",
        *sample,
    )
    return root


@pytest.fixture(scope="module")
def executed(explored, drawn) -> dict[str, tuple[int, str, Path]]:
    "Exit code, errors and executed notebook of every call."

    def execute(name: str) -> tuple[int, str, Path]:
        notebook, *parameters = CALLS[name]
        if name == "submission":
            parameters += ["-p", "sample_submission", str(drawn / "sample_submission.csv")]
        out = explored / f"{name}.ipynb"
        done = run_papermill(explored, EXPLORE / f"{notebook}.ipynb", out, *parameters)
        return done.returncode, done.stderr, out

    return {name: execute(name) for name in CALLS}


def outputs(path: Path) -> tuple[int, str]:
    "How many pictures, and all text and HTML."
    found = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
    data = [o.get("data", {}) for o in found]
    text = [o.get("text", "") for o in found]
    text += [d.get(kind, "") for d in data for kind in ("text/plain", "text/html")]
    return sum("image/png" in d for d in data), "\n".join(text)


@pytest.mark.parametrize("name", [n for n in CALLS if n != "no_predictions"])
def test_as_a_page_it_loads_nothing_and_names_no_folder(executed, explored, name, tmp_path):
    export_html(executed[name][2], tmp_path / "page.html")
    page, text = seen_in(tmp_path / "page.html"), (tmp_path / "page.html").read_text()
    assert page.loads == [] and page.scripts == 0 and "default-src 'none'" in page.policy
    assert "http://" not in text and "https://" not in text
    assert text.count("data:image/") >= 2 and str(REPOSITORY) not in text


@pytest.mark.parametrize(
    ("name", "pictures", "words"),
    [
        ("first_look", 5, ["run tiny", "width and height", "images of the patient"]),
        ("augmentations", 6, ["strong"]),
        ("diary", 2, ["tiny against twin", "pooled"]),
        ("errors", 5, ["melanomas missed", "Benign lesions scored highest"]),
        ("patient", 2, ["patient IP_", "data:image/jpeg", "patients in oof"]),
        ("submission", 4, ["the mean of the folds", "in the sample's order", "one time in twenty"]),
    ],
)
def test_a_notebook_runs_on_a_small_run(executed, name, pictures, words):
    code, errors, path = executed[name]
    assert code == 0, errors[-3000:]
    found, text = outputs(path)
    assert found >= pictures
    for word in words:
        assert word in text, word
    assert "Warning" not in text and "NO" not in text.split()


def test_what_is_missing_is_named_with_its_command(executed, explored):
    code, errors, _ = executed["no_predictions"]
    assert code != 0 and "first `melanoma predict --run twin --source KIND=PATH" in errors
    with pytest.raises(BadInput, match="first `melanoma train --run untrained`"):
        Gallery.of_folds(Run.named("untrained", explored))


def test_every_notebook_is_executed_here_and_kept_without_outputs():
    notebooks = {p.stem for p in EXPLORE.glob("*.ipynb")}
    assert notebooks == {call[0] for call in CALLS.values()} and (EXPLORE / ".notest").exists()
    for name in notebooks:
        cells = nbformat.read(EXPLORE / f"{name}.ipynb", 4).cells
        assert not any(c.get("outputs") for c in cells), name


# what shows itself


class Tags(HTMLParser):
    "All tags and attributes of a page, and its text."

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_a_run_shows_how_far_it_is(explored):
    page = Tags(status_html(Run.named("tiny", explored)))
    for words in ("run tiny", "2 of 2", "OOF AUROC", "32 px", "monitor inner"):
        assert words in page.text
    assert "melanoma export --run tiny" in page.text
    assert "melanoma folds --run untrained" in status_html(Run.named("untrained", explored))
    assert "melanoma prepare --run none" in status_html(Run.named("none", explored))
    folds = Tags(fold_table(Run.named("tiny", explored))._repr_html_())
    assert folds.tags.count("svg") == 3 and "pooled" in folds.text


def test_a_patient_shows_every_lesion_highest_first(explored):
    gallery = Gallery.of_folds(Run.named("tiny", explored))
    name = gallery.patients().sort_values("lesions").index[-1]
    patient = gallery.patient(name)
    page = Tags(patient._repr_html_())
    assert page.tags.count("img") == len(patient.lesions) == gallery.patients()["lesions"].max()
    places = [page.text.index(x.image_name) for x in patient.lesions]
    assert places == sorted(places) and patient.lesions[0].rank == 1
    one = gallery.lesion(patient.lesions[1].image_name)
    assert (one.rank, one.patient_id) == (patient.lesions[1].rank, name)
    predicted = Gallery.of_predictions(Run.named("tiny", explored))
    assert len(predicted.table) and set(predicted.table["target"]) == {-1}


HOSTILE = "<script>alert(1)</script>\"' onerror='alert(2)' <img src=http://x.invalid/a.png>"


def test_names_are_shown_and_never_obeyed():
    pixels = np.zeros((8, 8, 3), np.uint8)
    lesion = Lesion(HOSTILE, HOSTILE, pixels, 1, 0.5, HOSTILE, HOSTILE, 1, 4.0, 4.0, True)
    for page in map(Tags, (lesion._repr_html_(), Patient(HOSTILE, [lesion])._repr_html_())):
        assert set(page.tags) <= {"div", "img", "b"} and page.tags.count("img") == 1
        assert {name for name, _ in page.attributes} <= {"style", "title", "src", "alt"}
        (source,) = (value for name, value in page.attributes if name == "src")
        assert source.startswith("data:image/jpeg;base64,")
        assert HOSTILE in page.text
    hostile_root = Run("r", Path("/<script>"))
    assert "<script" not in status_html(hostile_root)


# progress


CELL = """
from melanoma.core.progress_bar import audience, progress_bar
import time
print(audience())
for _ in progress_bar(range(3000), delay=.01, desc='images'):
    time.sleep(.0003)
"""


def test_a_person_gets_a_bar_and_a_record_few_lines():
    manager, client = start_new_kernel()
    try:
        found = {}
        for person in (True, False):
            messages: list[dict] = []
            reply = client.execute_interactive(
                CELL, allow_stdin=person, output_hook=messages.append, timeout=60
            )
            assert reply["content"]["status"] == "ok", reply["content"]
            kinds = ("stream", "display_data")
            found[person] = [m["content"] for m in messages if m["msg_type"] in kinds]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    widget = "application/vnd.jupyter.widget-view+json"
    assert [c["text"] for c in found[True] if "text" in c] == ["notebook\n"]
    assert any(widget in c.get("data", {}) for c in found[True])
    assert [c.get("text") for c in found[False]] == ["record\n"]  # over within half a minute


def test_a_log_holds_whole_lines_and_few(tmp_path):
    code = CELL.replace("delay=.01", "delay=.01, mininterval=.001")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "record" and 8 <= len(lines) <= 12, done
    assert "\r" not in done.stdout and done.stderr == "" and "images: " in lines[1]
