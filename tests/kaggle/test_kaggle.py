"""A Kaggle kernel, simulated: its packages alone, read-only inputs, no network, 16 GB of memory.

The environment is a virtual environment that links those installed packages that Kaggle's image
holds; what the kernel installs comes from the data set that `melanoma kaggle build` wrote."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import cv2
import httpx
import nbformat
import numpy as np
import pandas as pd
import papermill
import psutil
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from melanoma import PredictConfig, Predictor
from melanoma.core.device import choose_device
from melanoma.core.errors import BadInput
from melanoma.core.files import read_json, write_json
from melanoma.data.table import lesion_table, parse_sources
from melanoma.evaluation.gallery import Gallery
from melanoma.kaggle.builder import build_kaggle
from melanoma.kaggle.bundle import BUNDLE
from melanoma.kaggle.inputs import find_inputs
from melanoma.kaggle.kernels import COMPETITION
from melanoma.kaggle.recipe import recipe_of, slug_of
from melanoma.kaggle.sources import find_sources, read_wanted, source_text
from melanoma.kaggle.weights import find_weights
from melanoma.kaggle.wheels import kaggle_image, needs_of, satisfies
from melanoma.model.header import read_header
from melanoma.predict.submission import check_submission
from melanoma.run.layout import Run
from melanoma.run.presets import preset
from melanoma.stages.runner import stage_parameters
from support.commands import REPOSITORY, TINY, copy_of, melanoma, succeed
from support.servers import serving

GIGABYTES = 16
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="links and namespaces of Linux"),
]


# the image


def on_kaggle() -> set[str]:
    "Installed distributions that Kaggle's image holds: those listed, and what they need."
    image, _ = kaggle_image()
    found: set[str] = set()
    left = list(image)
    while left:
        name = canonicalize_name(left.pop())
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            left += [need.name for need in needs_of(name)]
    return found


@pytest.fixture(scope="session")
def kaggle_python(tmp_path_factory) -> Path:
    "A Python that sees what is installed here minus what Kaggle lacks."
    home = tmp_path_factory.mktemp("image") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    packages = next((home / "lib").glob("python3*")) / "site-packages"
    for name in on_kaggle():
        dist = distribution(name)
        for top in {file.parts[0] for file in dist.files or []} - {"..", "__pycache__"}:
            source, link = Path(str(dist.locate_file(top))), packages / top
            if source.exists() and not link.exists():
                link.symlink_to(source)
    return home / "bin" / "python"


def test_the_simulated_image_lacks_what_kaggle_lacks(kaggle_python):
    code = "import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    lacking = ["melanoma", "simplejpeg", "pretrainedmodels", "munch", "openvino", "onnxscript"]
    said = subprocess.run(
        [kaggle_python, "-c", code.format(names=[*lacking, "torch", "timm", "papermill", "pip"])],
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    assert said.stdout.strip() == "['torch', 'timm', 'papermill', 'pip']"


def test_no_lower_bound_is_above_kaggles_image():
    image, pythons = kaggle_image()
    above = [
        str(need)
        for need in needs_of("melanoma")
        if canonicalize_name(need.name) in image and not satisfies(need, image)
    ]
    assert not above and pythons
    assert not satisfies(Requirement("numpy>=99"), image)  # the comparison can fail


# what is attached: the competition's images in three layouts


def competition(folder: Path, drawn: Path) -> None:
    "The competition's own files."
    shutil.copytree(drawn, folder, ignore=shutil.ignore_patterns("test_labels.csv"))


def deotte(folder: Path, drawn: Path) -> None:
    "Deotte's resized JPEGs."
    for part in ("train", "test"):
        shutil.copytree(drawn / "jpeg" / part, folder / part)
        table = pd.read_csv(drawn / f"{part}.csv")
        if part == "train":
            table["tfrecord"] = table["patient_id"].rank(method="dense").astype(int) % 15
        table.to_csv(folder / f"{part}.csv", index=False)
    shutil.copy(drawn / "sample_submission.csv", folder)


def arrays(folder: Path, drawn: Path) -> None:
    "The resized arrays, squashed by Lanczos, without tables."
    folder.mkdir()
    for part in ("train", "test"):
        names = pd.read_csv(drawn / f"{part}.csv")["image_name"]
        files = [str(drawn / "jpeg" / part / f"{name}.jpg") for name in names]
        squares = [
            cv2.resize(cv2.imread(f)[..., ::-1], (32, 32), interpolation=cv2.INTER_LANCZOS4)
            for f in files
        ]
        np.save(folder / f"x_{part}_32.npy", np.stack(squares))


LAYOUTS = {
    "siim2020": {"competitions/" + COMPETITION: competition},
    "deotte": {"datasets/somebody/copy-of-jpegs": deotte},
    "siim-npy": {"siimisic-melanoma-resized-images": arrays, COMPETITION: competition},
}


Places = dict[str, Callable[[Path, Path], None]]  # below /kaggle/input → what draws it


def attach(root: Path, places: Places, drawn: Path, bundle: Path) -> Path:
    "A look-alike of /kaggle/input; a data set's folders travel as archives and are unpacked there."
    for part in bundle.iterdir():
        if part.is_dir():
            archive = shutil.make_archive(str(root.parent / f"{part.name}-upload"), "zip", part)
            shutil.unpack_archive(archive, root / "any-name-at-all" / part.name)
        elif part.name != "dataset-metadata.json":  # which the client reads and does not upload
            (root / "any-name-at-all").mkdir(parents=True, exist_ok=True)
            shutil.copy(part, root / "any-name-at-all")
    for place, make in places.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        make(root / place, drawn)
    return root


# the machine


@functools.cache
def isolation() -> tuple[str, ...]:
    "How to start a program without network, in a namespace whose mounts are its own."
    for words in (("unshare", "--net", "--mount"), ("unshare", "-r", "--net", "--mount")):
        if shutil.which("unshare") and subprocess.run([*words, "true"]).returncode == 0:
            return words
    refuse = pytest.fail if os.environ.get("CI") else pytest.skip
    return refuse("no namespaces can be made here: the kernel would have network")


RUNNER = textwrap.dedent(
    """
    import json, os, resource, socket, subprocess, sys
    notebook, done, inputs, values = sys.argv[1:]
    subprocess.run(["mount", "--bind", inputs, inputs], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", inputs], check=True)
    try:
        open(os.path.join(inputs, "written"), "w")
    except OSError as error:
        print("input:", error.strerror)
    try:
        socket.create_connection(("1.1.1.1", 443), 5)
    except OSError as error:
        print("network:", error.strerror)
    limit = GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    import papermill
    from traitlets.config import Config
    papermill.execute_notebook(
        notebook, done, json.loads(values), progress_bar=False, kernel_name="python3",
        stdout_file=sys.stdout, config=Config({"KernelManager": {"transport": "ipc"}}),
    )
    """
).replace("GIGABYTES", str(GIGABYTES))


def start_kernel(
    python: Path,  # of a fresh copy of the image
    kernel: Path,  # a folder with kernel-metadata.json
    inputs: Path,
    working: Path,  # the kernel's output
) -> subprocess.Popen:
    "Start a kernel's notebook as Kaggle does."
    working.mkdir(parents=True)
    metadata = read_json(kernel / "kernel-metadata.json")
    values = {"input_folder": str(inputs), "working_folder": str(working)}
    values["scratch_folder"] = str(working.parent / "scratch")
    runner = working.parent / "runner.py"
    runner.write_text(RUNNER)
    notebook, done = kernel / metadata["code_file"], working.parent / "done.ipynb"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MELANOMA"))}
    environment |= {"PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": str(working.parent)}
    return subprocess.Popen(
        [*isolation(), python, runner, notebook, done, inputs, json.dumps(values)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=working,
    )  # fmt: skip


def run_kernel(python: Path, kernel: Path, inputs: Path, working: Path) -> str:
    "Run a kernel's notebook from top to bottom; what it printed."
    process = start_kernel(python, kernel, inputs, working)
    said, error = process.communicate()
    assert process.returncode == 0, said[-3000:] + error[-3000:]
    assert "input: Read-only file system" in said
    assert "network: Network is unreachable" in said
    return said


def image_copy(python: Path, folder: Path) -> Path:
    "Every kernel starts from the untouched image."
    shutil.copytree(python.parents[1], folder, symlinks=True)
    return folder / "bin" / "python"


# kernels


def test_a_fold_is_trained_and_submitted_from_every_layout(kaggle_python, drawn, tmp_path):
    isolation()

    def work(layout: str) -> pd.DataFrame:
        home, root = Run.named(f"on.{layout}", tmp_path / "home"), tmp_path / layout
        given = {"arch": "resnet10t", "batch_size": 16}
        if layout == "siim2020":  # the recipe of large runs, for a few steps
            given = preset("siim")
        given |= {"pretrained": "none", "size": 32, "epochs": 1}
        build_kaggle(home, "Somebody", [1], given=given, images=layout)
        built = home.folder / "kaggle"
        inputs = attach(root / "input", LAYOUTS[layout], drawn, built / "dataset")
        python = image_copy(kaggle_python, root / "train-image")
        run_kernel(python, built / "train-fold1", inputs, root / "train" / "working")
        # the training kernel's output is a source of the inference kernel
        trained = root / "train" / "working"
        assert (trained / f"output/{home.name}/fold1/oof.csv").is_file()
        assert (trained / f"output/{home.name}/train_fold1.ipynb").is_file()
        shutil.copytree(trained, inputs / "melanoma-training-output")
        python = image_copy(kaggle_python, root / "infer-image")
        weights = trained / f"weights/{home.name}/fold1.safetensors"
        assert read_header(weights)["arch"] == given["arch"]
        said = run_kernel(python, built / "inference", inputs, root / "infer" / "working")
        assert f"{layout} in " in said and "OOF AUROC" in said
        sample = drawn / "sample_submission.csv"
        return check_submission(root / "infer" / "working" / "submission.csv", sample)

    with ThreadPoolExecutor(2) as pool:
        submissions = dict(zip(LAYOUTS, pool.map(work, LAYOUTS), strict=True))
    assert all(len(s) == len(submissions["siim2020"]) for s in submissions.values())
    metadata = read_json(tmp_path / "home/output/on.deotte/kaggle/inference/kernel-metadata.json")
    assert metadata["id"] == f"somebody/{slug_of('on.deotte', 'inference')}"
    assert metadata["kernel_sources"] == [f"somebody/{slug_of('on.deotte', 'fold 1')}"]
    assert metadata["competition_sources"] == [COMPETITION]
    assert metadata["enable_internet"] is False and metadata["enable_gpu"] is False
    training = read_json(tmp_path / "home/output/on.deotte/kaggle/train-fold1/kernel-metadata.json")
    assert training["enable_gpu"] is True
    assert training["machine_shape"] == "NvidiaTeslaT4"
    assert "cdeotte/jpeg-melanoma-128x128" in training["dataset_sources"]  # the smallest there is


def test_library_command_notebook_gallery_service_and_kernel_say_the_same(
    kaggle_python, exported, drawn, tmp_path
):
    isolation()
    root = copy_of(exported, tmp_path / "home")
    run, sample = Run.named("tiny", root), drawn / "sample_submission.csv"
    words = ("--run", "tiny", "--username", "somebody", "--tta", "1")
    said = succeed(root, "kaggle", "build", *words)
    assert "kaggle datasets create -p output/tiny/kaggle/dataset --dir-mode zip" in said
    assert "10,982 test images take the model about" in said
    built = run.folder / "kaggle"
    inputs = attach(tmp_path / "input", LAYOUTS["siim2020"], drawn, built / "dataset")
    run_kernel(kaggle_python, built / "inference", inputs, tmp_path / "kernel" / "working")
    submission = check_submission(tmp_path / "kernel/working/submission.csv", sample)
    assert submission["image_name"].tolist() == pd.read_csv(sample)["image_name"].tolist()
    kernel = pd.read_csv(tmp_path / "kernel/working/predictions.csv").set_index("image_name")

    files = [drawn / "jpeg" / "test" / f"{name}.jpg" for name in kernel.index]
    fp32 = {"runtime": "torch", "tta": 1, "precision": "fp32"}
    library = Predictor.from_run(run, PredictConfig.from_parameters(fp32))
    expected = pd.Series(library.predict(files).probability, kernel.index)
    known = expected.notna()  # the others the library refuses, as the service does
    assert known.sum() >= 4
    # the kernel takes the precision that the machine is quickest in
    quick = Predictor.from_run(run, PredictConfig.from_parameters(fp32, precision="auto"))
    quickly = pd.Series(quick.predict(files).probability, kernel.index)
    assert np.abs(kernel["probability"] - quickly)[known].max() < 1e-6
    succeed(
        root, "predict", "--run", "tiny", "--source", f"siim2020={drawn}", "--split", "test",
        "--sample-submission", str(sample), "--tta", "1", "-p", "precision", "fp32",
    )  # fmt: skip
    command = pd.read_csv(run.folder / "predictions.csv").set_index("image_name")
    gallery = Gallery.of_predictions(run).table.set_index("image_name")
    said_by = {
        "command": command["probability"],
        "gallery": gallery["shown"],
        "service": pd.Series(served(root, files, tmp_path / "log"), kernel.index),
    }
    for who, probability in said_by.items():
        assert np.abs(probability - expected)[known].max() < 1e-6, who
    difference = np.abs(kernel["probability"] - command["probability"])  # of all
    assert difference.max() < (1e-6 if choose_device().precision == "fp32" else 0.01)
    notebook = nbformat.read(run.folder / "predict.ipynb", as_version=4)
    shown = json.dumps([c.get("outputs", []) for c in notebook.cells if c.cell_type == "code"])
    first = command["probability"].iloc[0]
    assert f"{first:.4f}" in shown or str(round(first, 4)) in shown


def served(root: Path, files: list[Path], log: Path) -> list[float]:
    "The probabilities of the service; NaN where it refuses."
    found = []
    with serving(root, log, "--run", "tiny", "--precision", "fp32") as server:
        server.wait()
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for path in files:
                sent = {"image": (path.name, path.read_bytes(), "image/jpeg")}
                answer = client.post("/v1/predict", files=sent).json()
                found.append(answer["study_probability"] if answer["status"] == "ok" else np.nan)
    return found


def half_of_deotte(folder: Path, drawn: Path, half: int) -> None:
    "Every other patient as one of Deotte's sets."
    deotte(folder, drawn)
    table = pd.read_csv(folder / "train.csv")
    mine = table["patient_id"].rank(method="dense").astype(int) % 2 == half
    for name in table.loc[~mine, "image_name"]:
        (folder / "train" / f"{name}.jpg").unlink()
    table[mine].to_csv(folder / "train.csv", index=False)
    if half:  # images of elsewhere: nothing to predict
        shutil.rmtree(folder / "test")
        (folder / "test.csv").unlink()
        (folder / "sample_submission.csv").unlink()


@pytest.fixture(scope="module")
def two_sets(drawn, tmp_path_factory) -> Path:
    "A project whose run `both` has two of Deotte's sets, one of them for training only."
    root = tmp_path_factory.mktemp("two-sets")
    for half, name in enumerate(("jpeg-melanoma-64x64", "jpeg-isic2019-64x64")):
        half_of_deotte(root / "data" / name, drawn, half)
    sources = [f"deotte=data/{p.name}" for p in sorted((root / "data").iterdir())]
    given = [word for source in sources for word in ("--source", source)]
    extra = ["--train-only", "deotte-jpeg-isic2019-64x64"]
    succeed(root, "prepare", "--run", "both", "--size", "32", *given, *extra)
    succeed(root, "folds", "--run", "both", "--n-folds", "2")
    training = [*TINY, "-p", "batch_size", "4", "-p", "epochs", "4", "-p", "device", "cpu"]
    words = ["--username", "me", "--fold", "1", *training]
    succeed(root, "kaggle", "build", "--run", "both", *words)
    return root


def kill_all(process: subprocess.Popen) -> None:
    "As a session's end does: the runner, the kernel and the stage's kernel at once."
    parent = psutil.Process(process.pid)
    for one in [*parent.children(recursive=True), parent]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()


def test_a_session_that_ends_in_epoch_2_goes_on_in_the_next(
    kaggle_python, two_sets, drawn, tmp_path
):
    isolation()
    built = two_sets / "output" / "both" / "kaggle"
    places = {  # the second under a name of somebody else's: told by its images
        "jpeg-melanoma-64x64": functools.partial(half_of_deotte, half=0),
        "datasets/somebody/external": functools.partial(half_of_deotte, half=1),
    }
    inputs = attach(tmp_path / "input", places, drawn, built / "dataset")
    first = tmp_path / "first" / "working"
    python = image_copy(kaggle_python, tmp_path / "first-image")
    process = start_kernel(python, built / "train-fold1", inputs, first)
    state_file = first / "weights" / "both" / "fold1.last.pt"
    while not state_file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    kill_all(process)
    state = torch.load(state_file, weights_only=True)
    done = len(state["history"])
    assert 1 <= done < 4
    history = first / "output/both/fold1/history.csv"  # written after the state
    assert (len(pd.read_csv(history)) if history.exists() else 0) in (done - 1, done)
    assert [p.name for p in state_file.parent.glob("[!.]*")] == ["fold1.last.pt"]
    split = (two_sets / "output/both/folds.csv").read_bytes()
    assert (first / "output/both/folds.csv").read_bytes() == split

    # the next session: what the first one left is attached, all inputs lie elsewhere
    again = tmp_path / "elsewhere" / "input"
    shutil.copytree(inputs, again)
    output = again / "notebooks" / "me" / slug_of("both", "fold 1")
    shutil.copytree(first, output, ignore=shutil.ignore_patterns("kernel-ipc-*"))  # sockets
    second = tmp_path / "second" / "working"
    python = image_copy(kaggle_python, tmp_path / "second-image")
    said = run_kernel(python, built / "train-fold1", again, second)
    assert f"fold 1: {done} epochs of an earlier session" in said
    assert f"resuming after epoch {done} of 4" in said
    history = pd.read_csv(second / "output/both/fold1/history.csv")
    assert history["epoch"].tolist() == [0, 1, 2, 3]
    before = pd.DataFrame(state["history"])
    assert np.allclose(history["train_loss"][:done], before["train_loss"], atol=1e-12)
    assert [p.name for p in (second / "weights/both").iterdir()] == ["fold1.safetensors"]
    oof = pd.read_csv(second / "output/both/fold1/oof.csv")
    folds = pd.read_csv(two_sets / "output/both/folds.csv")
    assert set(oof["source"]) == {"deotte-jpeg-melanoma-64x64"}
    assert set(oof["image_name"]) == set(folds.loc[folds["fold"] == 1, "image_name"])
    extra = folds[folds["source"] == "deotte-jpeg-isic2019-64x64"]
    assert len(extra) and (extra["fold"] == -1).all()


# building


def test_the_recipe_names_each_source(two_sets):
    training = kernel_parameters(two_sets / "output/both/kaggle", "train-fold1")
    melanoma, external = sorted(json.loads(training["sources"]), key=lambda s: s["train_only"])
    assert melanoma["name"] == "deotte-jpeg-melanoma-64x64" and not melanoma["train_only"]
    assert external["place"] == "jpeg-isic2019-64x64" and external["train_only"]
    assert str(two_sets) not in training["sources"]  # no path of this machine
    metadata = read_json(two_sets / "output/both/kaggle/train-fold1/kernel-metadata.json")
    assert {"cdeotte/jpeg-isic2019-64x64", "cdeotte/jpeg-melanoma-128x128"} <= set(
        metadata["dataset_sources"]
    )


def test_a_source_that_is_not_attached_is_refused_by_name(two_sets, drawn, tmp_path):
    recipe = recipe_of(Run.named("both", two_sets), {})
    half_of_deotte(tmp_path / "input" / "jpeg-melanoma-64x64", drawn, 0)
    wanted = read_wanted(recipe["sources"])
    with pytest.raises(BadInput, match="deotte-jpeg-isic2019-64x64 .* is not attached"):
        find_sources(wanted, find_inputs(tmp_path / "input"), tmp_path / "input", 32)
    # a set of another's images beside it is not taken for it
    half_of_deotte(tmp_path / "input" / "other", drawn, 0)
    with pytest.raises(BadInput, match="cannot be told"):
        find_sources(wanted, find_inputs(tmp_path / "input"), tmp_path / "input", 32)


def test_two_tables_and_two_folders_keep_their_names_in_a_kernel(drawn, tmp_path):
    names = pd.read_csv(drawn / "train.csv")["image_name"]
    for folder, part in (("north", names[:4]), ("south", names[4:8])):
        place = tmp_path / "home" / folder
        place.mkdir(parents=True)
        for name in part:
            shutil.copy(drawn / "jpeg" / "train" / f"{name}.jpg", place)
        pd.DataFrame({"image_name": part, "target": [0, 1, 0, 1]}).to_csv(
            place / "labels.csv", index=False
        )
    for clinic in ("a.b", "c"):
        for label, name in (("benign", names[8]), ("malignant", names[9])):
            place = tmp_path / "home" / clinic / label
            place.mkdir(parents=True)
            shutil.copy(drawn / "jpeg" / "train" / f"{name}.jpg", place / f"{clinic}{name}.jpg")
    at_home = tmp_path / "home"
    text = (
        f"csv={at_home / 'north/labels.csv'}; csv={at_home / 'south/labels.csv'}; "
        f"folder={at_home / 'a.b'}; folder={at_home / 'c'}"
    )
    sources = parse_sources(text, "folder,csv-south-labels")
    table = lesion_table(sources)
    run = Run.named("mixed", tmp_path / "project")
    write_json(
        run.store / "manifest.json",
        {
            "parameters": {
                "sources": text.split("; "), "sizes": [32], "square": "squash",
                "decode": "reduced", "train_only": "folder,csv-south-labels",
            }
        },
    )  # fmt: skip
    table.to_parquet(run.store / "table.parquet")
    wanted = read_wanted(recipe_of(run, {})["sources"])
    shutil.copytree(at_home, tmp_path / "input" / "my-own-set")
    found = find_inputs(tmp_path / "input")
    paths = find_sources(wanted, found, tmp_path / "input", 32)
    given, extra = source_text(wanted, paths, tmp_path / "scratch")
    there = lesion_table(parse_sources(given, extra))
    columns = ["source", "image_name", "target", "train_only"]
    assert there[columns].equals(table[columns])
    assert there.groupby("source")["train_only"].first().to_dict() == {
        "csv-north-labels": False, "csv-south-labels": True, "folder-a": True, "folder-c": True,
    }  # fmt: skip


def test_a_training_kernel_takes_the_recipe_of_home(trained):
    recipe = recipe_of(Run.named("tiny", trained), {"lr": "1e-3"})
    (source,) = read_wanted(recipe["sources"])
    assert (source.kind, source.name, source.train_only) == ("siim2020", "siim2020", False)
    assert recipe["sizes"] == "32" and recipe["n_folds"] == 2
    training = json.loads(recipe["training"])
    assert training["arch"] == "resnet10t" and training["lr"] == 1e-3 and training["epochs"] == 2
    assert recipe["pretrained"] == "none"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "tiny", "--username", "a b"], "https://www.kaggle.com/NAME"),
        (["--run", "other", "--username", "me"], "there is no run"),
        (["--run", "tiny", "--username", "me", "--fold", "7"], "fold 7 does not exist"),
        (["--run", "tiny", "--username", "me", "--dataset", "x"], "write OWNER/NAME"),
        (["--run", "tiny", "--username", "me", "-p", "lr", "1"], "give --fold K"),
        (
            ["--run", "t", "--username", "me", "--fold", "0", "-p", "arch", "resnet18"],
            "-p pretrained FILE",
        ),
    ],
)
def test_bad_calls_leave_nothing_behind(trained, arguments, message, tmp_path):
    root = tmp_path / "home"
    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("stores", "store"))
    done = melanoma(root, "kaggle", "build", *arguments)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not list(root.glob("output/*/kaggle")) and not list(root.glob("output/*/.kaggle"))


def kernel_parameters(built: Path, name: str) -> dict:
    "What a built kernel's notebook is run with."
    code = read_json(built / name / "kernel-metadata.json")["code_file"]
    return stage_parameters(built / name / code)


@pytest.fixture(scope="module")
def built_twice(trained, tmp_path_factory) -> Path:
    "Fold 1 by a kernel of other parameters, then a second build that names no parameters."
    root = tmp_path_factory.mktemp("twice") / "home"
    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("stores"))
    words = ["kaggle", "build", "--run", "tiny", "--username"]
    lite = ["-p", "arch", "tf_efficientnet_lite0", "-p", "pretrained", "auto", "-p", "lr", "1e-4"]
    succeed(root, *words, "me", "--fold", "1", *lite)
    said = succeed(root, *words, "somebody-else", "--gpu", "--tta", "1")
    assert "folds 0 come from home, 1 from their kernels" in said
    return root / "output" / "tiny" / "kaggle"


def test_a_second_build_keeps_the_recipe_of_the_first(built_twice):
    training = kernel_parameters(built_twice, "train-fold1")
    recipe = json.loads(training["training"])
    assert recipe["arch"] == "tf_efficientnet_lite0" and recipe["lr"] == 1e-4
    assert training["pretrained"] == "auto" and training["fold"] == 1 and training["n_folds"] == 2
    wheels = [p.name for p in (built_twice / "dataset" / "wheels").iterdir()]
    assert any(name.startswith("efficientnet_lite0") for name in wheels)
    assert not any(name.startswith("efficientnet_lite1") for name in wheels)
    metadata = read_json(built_twice / "train-fold1" / "kernel-metadata.json")
    assert metadata["id"] == "somebody-else/melanoma-tiny-fold-1"
    inference = read_json(built_twice / "inference" / "kernel-metadata.json")
    assert inference["kernel_sources"] == [metadata["id"]] and inference["enable_gpu"] is True
    assert kernel_parameters(built_twice, "inference")["tta"] == 1


def test_every_fold_has_one_source(built_twice, tmp_path):
    "Fold 1 is trained at home, too; it comes from the kernel that was asked for."
    shutil.copytree(built_twice / "dataset", tmp_path / "bundle")
    assert list(find_weights(tmp_path, "tiny")) == [0]
    output = tmp_path / "kernel-output" / "weights" / "tiny"
    output.mkdir(parents=True)
    shutil.copy(tmp_path / "bundle/weights/tiny/fold0.safetensors", output / "fold1.safetensors")
    shutil.copy(output / "fold1.safetensors", output / "fold1 (1).safetensors")
    assert list(find_weights(tmp_path, "tiny")) == [0, 1]


def test_kernel_notebooks_take_typed_parameters():
    for name in ("inference", "train"):
        notebook = REPOSITORY / "nbs" / "kaggle" / "kernels" / f"{name}.ipynb"
        known = stage_parameters(notebook)
        assert {"run", "input_folder", "working_folder", "scratch_folder"} <= set(known)
        for parameter, found in papermill.inspect_notebook(str(notebook)).items():
            assert found["inferred_type_name"] == type(known[parameter]).__name__ and found["help"]


def test_a_kernel_without_its_data_set_says_so(tmp_path):
    "The first cell that looks for it needs nothing but Python."
    cells = read_json(REPOSITORY / "nbs" / "kaggle" / "kernels" / "inference.ipynb")["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    install = next(text for text in code if BUNDLE in text)
    done = subprocess.run(
        [sys.executable, "-c", f"run, input_folder = 'x', {str(tmp_path)!r}\n{install}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "0 data sets of run x" in done.stderr


def test_a_submission_of_logits_is_refused(drawn, tmp_path):
    sample = pd.read_csv(drawn / "sample_submission.csv")
    sample.assign(target=np.linspace(-3, 3, len(sample))).to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(BadInput, match="every target from 0 to 1"):
        check_submission(tmp_path / "s.csv", drawn / "sample_submission.csv")
