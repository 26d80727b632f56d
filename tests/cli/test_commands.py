"""What the command line does for people: names the next command, asks what was meant, completes
words as shells ask for them, and examines an installation that is broken in real ways."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from melanoma.cli.doctor import writable
from melanoma.core.files import write_json
from support.commands import melanoma, succeed

PROGRAM = Path(sys.executable).with_name("melanoma")


@pytest.fixture
def project(tmp_path) -> Path:
    "A project's root with the stores of two runs and nothing else."
    for name in ("isic", "ham"):
        store = {"n": 1200, "sizes": [96], "parameters": {}}
        write_json(tmp_path / "output" / name / "store" / "manifest.json", store)
    return tmp_path


# errors that name what helps


@pytest.mark.parametrize("command", ["folds", "train", "evaluate", "predict", "export", "serve"])
def test_a_misspelt_run_is_asked_about(project, command):
    source = ["--source", "folder=."] if command == "predict" else []
    done = melanoma(project, command, "--run", "isci", *source)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "there is no run 'isci'" in done.stderr and "Did you mean 'isic'?" in done.stderr
    assert "There are: ham, isic" in done.stderr
    assert "first `melanoma prepare --run isci" in done.stderr


@pytest.mark.parametrize(
    ("words", "helps"),
    [
        (["train", "--run", "isic"], "melanoma folds --run isic"),
        (["export", "--run", "isic"], "melanoma train --run isic"),
        (["serve", "--run", "isic"], "melanoma export --run isic"),
        (["trian", "--run", "isic"], "Did you mean 'train'?"),
    ],
)
def test_a_command_that_comes_too_early_names_the_one_before(project, words, helps):
    done = melanoma(project, *words)
    assert done.returncode == 2 and helps in done.stderr, done.stderr


def test_runs_names_the_next_command_of_each(project):
    said = succeed(project, "runs").splitlines()
    assert said[0].split() == ["ham", "1,200", "images", "at", "96", "px,", "no", "folds"]
    assert said[1].strip() == "next: melanoma folds --run ham"


# completion, as the shells ask


def asked(root: Path, shell: str, **question: str) -> list[str]:
    "What the program answers a shell."
    done = subprocess.run(
        [str(PROGRAM)],
        env=os.environ | {"MELANOMA_ROOT": str(root), "_MELANOMA_COMPLETE": shell} | question,
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("train --run ", ["ham", "isic"]),
        ("train --run i", ["isic"]),
        ("prepare --source sii", ["siim2020=", "siim-npy="]),
        ("prepare --source folder=out", ["folder=output/"]),
        ("train -p we", ["weight_decay"]),
        ("predict -p ru", ["runtime"]),
        ("train -p lr 1e-3 -p arch tf_efficientnet_lite0 -p ep", ["epochs"]),
        ("train -p arch resnet10", ["resnet101", "resnet10t"]),
        ("eval", ["evaluate"]),
    ],
)
def test_zsh_is_answered(project, line, found):
    words = asked(project, "complete_zsh", _TYPER_COMPLETE_ARGS=f"melanoma {line}")
    said = "".join(words)
    assert all(f'"{value}"' in said for value in found), said


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["train", "--run", ""], ["ham", "isic"]),
        (["train", "--run", "=", "ha"], ["ham"]),
        (["prepare", "--source", "folder", "="], ["output/"]),
        (["prepare", "--source", "folder", "=", "output/i"], ["output/isic/"]),
        (["train", "-p", "arch", "seresnext26ts"], ["seresnext26ts"]),
        (["train", "-p", "lr", "=", "1e-3", "--run", "is"], ["isic"]),
    ],
)
def test_bash_itself_completes(project, words, found):
    "bash cuts words at the equals sign; the script is the one that the program prints for it."
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        f"source <(_MELANOMA_COMPLETE=source_bash {PROGRAM})\n"
        f"COMP_WORDS=(melanoma {quoted}) COMP_CWORD={len(words)}\n"
        f'_melanoma_completion {PROGRAM}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    environment = os.environ | {"MELANOMA_ROOT": str(project)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == found, done.stderr


@pytest.mark.parametrize("line", ["train --run ", "train -p arch res", "predict -p "])
def test_completing_loads_nothing_heavy(project, line):
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('loaded', *sys.modules, file=sys.stderr))\n"
        "sys.argv = ['melanoma']\nfrom melanoma.cli.main import main\nmain()\n"
    )
    question = {"_MELANOMA_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"melanoma {line}"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MELANOMA_ROOT": str(project)} | question,
        capture_output=True,
        text=True,
    )
    loaded = set(done.stderr.partition("loaded ")[2].split())
    assert "_arguments" in done.stdout and "melanoma.cli.main" in loaded
    assert not {"torch", "timm", "papermill", "pandas", "numpy", "cv2"} & loaded


def test_completion_can_be_installed(tmp_path):
    "The options are there; a shell that was not asked about is not touched."
    shown = succeed(tmp_path, "--help")
    assert "--install-completion" in shown and "--show-completion" in shown


# the doctor


def wrong_kernel(folder: Path, program: str) -> Path:
    "A kernel specification of the name python3 that starts something else."
    spec = {"argv": [program, "-m", "ipykernel_launcher"], "display_name": "other"}
    write_json(folder / "kernels" / "python3" / "kernel.json", spec | {"language": "python"})
    return folder


def test_the_doctor_finds_faults_and_names_commands(tmp_path):
    "torchvision of another torch, a package that kills its process, a kernel of another Python."
    shadow = tmp_path / "shadow"
    (shadow / "torchvision").mkdir(parents=True)
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    (shadow / "torchvision" / "__init__.py").write_text(broken)
    (shadow / "simplejpeg.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    root = tmp_path / "project"
    faults = {
        "PYTHONPATH": os.pathsep.join([str(shadow), os.environ.get("PYTHONPATH", "")]),
        "JUPYTER_PATH": str(wrong_kernel(tmp_path / "jupyter", "/opt/other/bin/python")),
        "MELANOMA_ROOT": str(root),
    }
    done = subprocess.run(
        [str(PROGRAM), "doctor", "--json"],
        env=os.environ | faults,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    report = json.loads(done.stdout)
    essential = {f["what"]: f["fix"] for f in report["findings"] if f["essential"]}
    assert not report["ok"] and all(f["fix"] for f in report["findings"])

    def fix_of(*words: str) -> str:
        return next(fix for what, fix in essential.items() if all(w in what for w in words))

    pair = fix_of("torchvision", "RuntimeError: operator torchvision::nms")
    assert pair.endswith("-m pip install --force-reinstall torch torchvision")
    assert "simplejpeg" in fix_of("simplejpeg", "the process ended", "SIGSEGV")
    assert "ipykernel install" in fix_of("kernel python3", "/opt/other/bin/python")
    assert report["facts"]["packages"].startswith("torch ")
    assert not root.exists()  # looking leaves nothing behind


def test_a_root_that_cannot_be_written(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir(mode=0o555)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom melanoma.cli.doctor import writable\n"
        "os.geteuid() or os.seteuid(65534)\nprint(writable(Path(sys.argv[1]) / 'output'))"
    )
    for path in (tmp_path, *tmp_path.parents):
        if path.is_relative_to(tempfile.gettempdir()) and path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o055)  # pytest's own are private
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"PermissionError: Permission denied in {folder}")
    assert writable(tmp_path / "output") == ""
