"""What is meant to leave the machine names no patient, no image of one's own, and nothing of the
machine: no folder, no user, no host."""

import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from melanoma.core.files import impersonal, read_json
from melanoma.evaluation.oof import NAMES, fit_run, pairs_of_folds
from melanoma.kaggle.sources import anonymous, same_names, use_split
from melanoma.model.header import read_header
from melanoma.run.layout import Run
from melanoma.stages.runner import export_html
from support.commands import REPOSITORY, TINY, program
from support.pages import seen_in

pytestmark = pytest.mark.slow

USER = "zqjdoe7"  # whose machine it is, in these tests
PEOPLE = ("Annegret Quitzow", "Bodo Xylander")  # among the patients


def call(root: Path, *words: str) -> subprocess.CompletedProcess:
    "The command line as that user calls it, in a home folder of a telling name."
    home = next(p for p in root.parents if p.name == USER)
    before = {k: os.environ.get(k) for k in ("HOME", "USER", "LOGNAME", "USERNAME")}
    os.environ |= {"HOME": str(home), "USER": USER, "LOGNAME": USER, "USERNAME": USER}
    try:
        return program(root, *words)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def succeed(root: Path, *words: str) -> str:
    done = call(root, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def own(tmp_path_factory, drawn) -> Path:
    "The project of a user whose run `clinic` is of own patients: trained, evaluated, exported."
    root = tmp_path_factory.mktemp("machine") / "home" / USER / "project"
    images = root / "wards" / "quarz"
    images.mkdir(parents=True)
    table = pd.read_csv(drawn / "train.csv")
    patients = {p: f"Patient Zuname{i}" for i, p in enumerate(table["patient_id"].unique())}
    patients |= dict(zip(patients, PEOPLE, strict=False))
    rows = []
    for i, row in enumerate(table.itertuples()):
        name = f"wardphoto_{i:04d}"
        (images / f"{name}.jpg").symlink_to(drawn / "jpeg" / "train" / f"{row.image_name}.jpg")
        rows.append((f"{name}.jpg", row.target, patients[row.patient_id]))
    pd.DataFrame(rows, columns=["image_name", "target", "patient"]).to_csv(
        images / "labels.csv", index=False
    )
    source = ["--source", f"csv={images / 'labels.csv'}"]
    start = root / "wards" / "start.safetensors"  # weights of a telling place to start from
    succeed(root, "prepare", "--run", "clinic", "--size", "32", *source)
    succeed(root, "folds", "--run", "clinic", "--n-folds", "2")
    training = [*TINY, "-p", "epochs", "1"]
    succeed(root, "train", "--run", "clinic", "--folds", "0", *training)
    from safetensors.torch import load_file, save_file

    state = load_file(root / "weights" / "clinic" / "fold0.safetensors")
    save_file({k: v for k, v in state.items() if k.startswith("backbone.")}, start)
    training += ["-p", "pretrained", str(start)]
    succeed(root, "train", "--run", "clinic", "--folds", "1", *training)
    succeed(root, "evaluate", "--run", "clinic")
    succeed(root, "export", "--run", "clinic")
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    "Every file, those inside archives, too."
    found = {}
    paths = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    for path in filter(Path.is_file, paths):
        found[path.name] = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as inside:
                found |= {f"{path.name}/{n}": inside.read(n) for n in inside.namelist()}
    return found


def machine_words(root: Path) -> list[str]:
    "What tells of this machine."
    words = [USER, str(root), str(REPOSITORY), sys.prefix, str(Path.home()) + "/"]
    return [w for w in (*words, socket.gethostname()) if len(w) > 5]


def telling(folder: Path, words: list[str]) -> list[str]:
    "Which files hold which words, in UTF-8 or UTF-16, whatever their case."
    return [
        f"{name}: {word}"
        for name, data in files_of(folder).items()
        for word in words
        if any(word.lower().encode(code) in data.lower() for code in ("utf-8", "utf-16-le"))
    ]


def names_of(root: Path) -> list[str]:
    "Patients and images of the user's own."
    table = pd.read_csv(root / "wards/quarz/labels.csv")
    return [*table["patient"].unique(), *table["image_name"].str.removesuffix(".jpg")]


# the machine


def test_what_is_given_away_tells_nothing_of_the_machine(own, tmp_path):
    succeed(own, "kaggle", "build", "--run", "clinic", "--username", "me", "--share-predictions")
    folder, weights = own / "output" / "clinic", own / "weights" / "clinic"
    words = machine_words(own)
    assert telling(folder / "store" / "manifest.json", words)  # the scan finds what is there
    leaves = [folder / "kaggle", weights, folder / "README.md", folder / "report.html"]
    leaves += [folder / n for n in ("report.ipynb", "metrics.json", "calibration.json")]
    leaves += sorted(folder.glob("train_fold*.ipynb")) + [folder / "folds.ipynb"]
    found = [hit for path in leaves for hit in telling(path, words)]
    assert not found, "\n".join(found)
    header = read_header(weights / "fold1.safetensors")
    assert header["parameters"]["pretrained"] == header["pretrained_from"] == "start.safetensors"
    assert "start.safetensors" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_graph_has_no_notes_and_still_runs(own):
    onnx = pytest.importorskip("onnx")
    path = own / "weights" / "clinic" / "ensemble.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model)
    notes = [n for node in model.graph.node for n in node.metadata_props]
    assert not notes and not model.metadata_props and not model.graph.metadata_props
    assert b"stack_trace" not in path.read_bytes() and b"site-packages" not in path.read_bytes()


def test_a_graph_of_an_earlier_version_is_exported_again(own, tmp_path):
    onnx = pytest.importorskip("onnx")
    root = tmp_path / "home" / USER / "project"
    shutil.copytree(own, root, symlinks=True)
    path = root / "weights" / "clinic" / "ensemble.onnx"
    assert "skipped" in succeed(root, "export", "--run", "clinic")
    model = onnx.load(path)
    note = model.graph.node[0].metadata_props.add()
    note.key, note.value = "pkg.torch.onnx.stack_trace", f'File "{root}/x.py", line 1'
    onnx.save(model, path)
    assert "skipped" not in succeed(root, "export", "--run", "clinic")
    assert not telling(path, [USER])


def test_folders_are_left_out_of_texts():
    home = str(Path.home())
    assert impersonal(f"csv={home}/a/b.csv") == "csv=~/a/b.csv"
    assert impersonal(f"{home}2/a, /x{home}/b") == f"{home}2/a, /x{home}/b"
    assert impersonal("/data/run/output/x, /data/run", "/data/run") == "output/x, ."
    assert sys.prefix not in impersonal(f"{sys.prefix}/lib/python3/site-packages/a.py:1: Warning")


# outside


def test_the_report_loads_nothing_and_runs_nothing(own):
    path = own / "output" / "clinic" / "report.html"
    page, text = seen_in(path), path.read_text(encoding="utf-8")
    assert page.loads == [] and page.scripts == 0
    assert "default-src 'none'" in page.policy and "script-src" not in page.policy
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert text.count("data:image/png;base64,") >= 5  # the curves are in it


def test_an_exported_notebook_loads_nothing_whatever_is_in_it(tmp_path):
    html = (
        '<script src="https://x.example/a.js"></script><SCRIPT>alert(1)</SCRIPT ><p>kept</p>'
        '<link rel="stylesheet" href="https://x.example/a.css">'
    )
    cell = nbformat.v4.new_code_cell("show()", outputs=[
        nbformat.v4.new_output("display_data", {"text/html": html}),
        nbformat.v4.new_output("stream", name="stderr", text=f"{Path.home()}/a.py: a warning"),
        nbformat.v4.new_output("stream", text="<script>only text</script>"),
    ])  # fmt: skip
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "n.ipynb")
    export_html(tmp_path / "n.ipynb", tmp_path / "n.html")
    page, text = seen_in(tmp_path / "n.html"), (tmp_path / "n.html").read_text(encoding="utf-8")
    assert page.loads == [] and page.scripts == 0 and page.policy
    assert "<p>kept</p>" in text and "&lt;script&gt;only text" in text
    assert "x.example" not in text and f"{Path.home()}/a.py" not in text


# patients


def test_a_run_of_own_patients_is_not_built_without_leave(own, tmp_path):
    root = tmp_path / "home" / USER / "project"
    shutil.copytree(own, root, symlinks=True)
    shutil.rmtree(root / "output" / "clinic" / "kaggle", ignore_errors=True)
    done = call(root, "kaggle", "build", "--run", "clinic", "--username", "me")
    assert done.returncode == 2 and "--share-predictions" in done.stderr
    assert "what leaves this machine" in done.stderr and "fold0.safetensors" in done.stderr
    assert not list(root.glob("output/clinic/*kaggle"))


def test_for_inference_nothing_of_single_images_leaves(own):
    words = ["kaggle", "build", "--run", "clinic", "--username", "me", "--share-predictions"]
    said = succeed(own, *words)
    listed, _, rest = said.partition("is written")
    assert "what leaves this machine" in listed and rest  # before it is written
    built = own / "output" / "clinic" / "kaggle"
    assert not telling(built, names_of(own))
    assert [p.name for p in built.rglob("*.csv")] == []
    bundle = read_json(built / "dataset" / "melanoma-bundle.json")
    metrics = read_json(own / "output" / "clinic" / "metrics.json")
    assert bundle["held_out"]["auroc"] == metrics["pooled"]["auroc"]
    calibration = read_json(built / "dataset/output/clinic/calibration.json")
    assert calibration == read_json(own / "output/clinic/calibration.json")


def test_for_training_names_are_hashes_and_the_split_is_the_same(own, tmp_path):
    root = tmp_path / "home" / USER / "project"
    shutil.copytree(own, root, symlinks=True)
    words = ["kaggle", "build", "--run", "clinic", "--username", "me", "--share-predictions"]
    said = succeed(root, *words, "--fold", "1", "--dataset", "me/wards", "-p", "pretrained", "none")
    assert "images by hashes of their names: group, target, logit, fold" in said
    home, built = Run.named("clinic", root), root / "output" / "clinic" / "kaggle"
    assert not telling(built, names_of(own))
    dataset = built / "dataset" / "output" / "clinic"
    tables = {p.relative_to(dataset).as_posix(): pd.read_csv(p) for p in dataset.rglob("*.csv")}
    assert {name: list(table) for name, table in tables.items()} == {
        "split.csv": ["image", "group", "fold"],
        "fold0/oof.csv": ["source", "image_name", "group", "target", "logit", "fold"],
        "fold0/views.csv": [
            *("source", "image_name", "target", "part", "fold"),
            *("logit_1", "logit_4", "logit_8"),
        ],
    }  # fmt: skip
    for table in tables.values():  # nor does their order tell who is who
        assert table.iloc[:, 0 if "image" in table else 1].is_monotonic_increasing
    split = home.folds.read_bytes()
    home.folds.unlink()
    assert use_split(home, dataset / "split.csv") == split.count(b"\n") - 1
    assert home.folds.read_bytes() == split


def test_pooled_under_hashes_the_calibration_is_the_same(own, tmp_path):
    root = tmp_path / "home" / USER / "project"
    shutil.copytree(own, root, symlinks=True)
    home = Run.named("clinic", root)

    def told() -> tuple[dict, list]:
        "The calibration's numbers, and what two folds say of one lesion, whatever its name."
        found = fit_run(home).to_dict()
        numbers = {**found, **found["one_fold"]}
        pairs = pairs_of_folds(home).sort_values(["target", "one", "other"])
        return {k: v for k, v in numbers.items() if isinstance(v, float)}, pairs.to_numpy().tolist()

    before, pairs = told()
    for name in ("oof.csv", "views.csv"):  # fold 0 as from home, fold 1 as from a kernel
        path = home.fold(0) / name
        anonymous(pd.read_csv(path, dtype=NAMES)).to_csv(path, index=False)
    same_names(home)
    after, pairs_after = told()
    assert after == pytest.approx(before, rel=1e-9) and len(after) >= 4
    assert pairs_after == pairs and len(pairs) > 10
    assert not telling(home.fold(1) / "oof.csv", names_of(own))
