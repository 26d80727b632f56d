"""What the end-to-end tests share: a small drawn data set, a way to call the command line."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# a network of 5 M parameters from a random start: these tests look at files, not at scores
TINY = ["-p", "arch", "resnet10t", "-p", "pretrained", "none", "-p", "batch_size", "16"]

# a shell starts what runs in its background deaf to Ctrl+C, and children inherit that; the commands
# under test must hear it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def melanoma(
    root: Path,  # holds output/ and weights/
    *arguments: str,
    cwd: Path | None = None,  # the caller's folder
) -> subprocess.CompletedProcess:
    "Call the command line as a user would."
    return subprocess.run(
        [str(Path(sys.executable).with_name("melanoma")), *arguments],
        env=os.environ | {"MELANOMA_ROOT": str(root), "COLUMNS": "200"},
        cwd=cwd or root,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def succeed(root: Path, *arguments: str, cwd: Path | None = None) -> str:
    "Call it, expect exit code 0, return what it printed."
    done = melanoma(root, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dicom(pixels: np.ndarray | bytes, syntax: str = "ExplicitVRLittleEndian", **fields) -> bytes:
    "A DICOM file around an array, or around a compressed picture."
    uid = pytest.importorskip("pydicom.uid")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    meta.TransferSyntaxUID = getattr(uid, syntax)
    whole = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    whole.SamplesPerPixel, whole.PhotometricInterpretation = 3, "RGB"
    whole.PlanarConfiguration = 0
    whole.BitsAllocated = whole.BitsStored = 8
    whole.HighBit, whole.PixelRepresentation = 7, 0
    if isinstance(pixels, bytes):
        whole.PixelData = encapsulate([pixels])
        whole["PixelData"].VR = "OB"
    else:
        whole.Rows, whole.Columns = pixels.shape[:2]
        whole.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(whole, name, value)
    buffer = io.BytesIO()
    whole.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def inflating_dicom(size: int) -> bytes:
    "A small DICOM file that is deflated as a whole, and inflates to so many bytes."
    whole = dicom(np.zeros((4, 4, 3), np.uint8), "DeflatedExplicitVRLittleEndian")
    begin = 144 + int.from_bytes(whole[140:144], "little")
    deflating, block = zlib.compressobj(wbits=-zlib.MAX_WBITS), bytes(1_000_000)
    packed = b"".join(deflating.compress(block) for _ in range(size // len(block)))
    return whole[:begin] + packed + deflating.flush()


class Loads(HTMLParser):
    "What a page would load from elsewhere, its scripts, and its policy."

    def __init__(self):
        super().__init__()
        self.loads, self.scripts, self.policy = [], 0, ""

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self.scripts += tag == "script"
        if tag == "meta" and (of.get("http-equiv") or "").lower() == "content-security-policy":
            self.policy = of["content"]
        for name, value in attributes:
            loading = name in ("src", "srcset", "data", "poster", "background", "xlink:href")
            loading |= name == "href" and tag != "a"
            style = name == "style" and "url(" in (value or "")
            if (loading or style) and not (value or "").startswith(("data:", "#")):
                self.loads.append(f"{tag} {name}={value!r:.80}")


def seen_in(path: Path) -> Loads:
    page = Loads()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    "A drawn data set in SIIM-2020's layout: 24 patients to train on, 5 to predict."
    from melanoma.data.synthetic import make_dataset

    folder = tmp_path_factory.mktemp("drawn") / "siim2020"
    return make_dataset(folder, patients=30, test_patients=5, size=64, prevalence=0.3)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, drawn) -> Path:
    "A project's root with the run `tiny`: prepared at 32 px, two folds, nothing trained."
    root = tmp_path_factory.mktemp("project")
    succeed(root, "prepare", "--run", "tiny", "--size", "32", "--source", f"siim2020={drawn}")
    succeed(root, "folds", "--run", "tiny", "--n-folds", "2")
    return root


def copy_of(root: Path, folder: Path) -> Path:
    "A copy to go on from: what a test is given does not depend on those that ran before it."
    return Path(shutil.copytree(root, folder, symlinks=True, dirs_exist_ok=True))


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory) -> Path:
    "A copy of it with both folds trained and evaluated."
    root = copy_of(prepared, tmp_path_factory.mktemp("trained"))
    succeed(root, "train", "--run", "tiny", "--folds", "0-1", *TINY, "-p", "epochs", "2")
    succeed(root, "evaluate", "--run", "tiny")
    return root


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory) -> Path:
    "A copy of that with the run's graph exported."
    root = copy_of(trained, tmp_path_factory.mktemp("exported"))
    succeed(root, "export", "--run", "tiny")
    return root


class Server:
    "A `melanoma serve` process, its address and its log."

    def __init__(self, root: Path, log: Path, *arguments: str, **options: Any):
        self.log = log
        program = str(Path(sys.executable).with_name("melanoma"))
        environment = os.environ | {"MELANOMA_ROOT": str(root)}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [program, "serve", "--port", "0", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                **options,
            )
        self.url = ""

    def lines(self) -> list[dict]:
        "The log's lines."
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return [json.loads(x) for x in text.splitlines() if x.startswith("{") and x.endswith("}")]

    def wait(self, path: str = "/readyz", seconds: float = 60) -> "Server":
        "Until the address answers 200."
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            if not self.url:
                ports = [x["port"] for x in self.lines() if x["event"] == "listening"]
                self.url = f"http://127.0.0.1:{ports[0]}" if ports else ""
            else:
                with (
                    contextlib.suppress(urllib.error.URLError, ConnectionError),
                    urllib.request.urlopen(self.url + path, timeout=5),
                ):
                    return self
            time.sleep(0.05)
        raise AssertionError(f"not ready after {seconds} s: {self.log.read_text()[-2000:]}")

    def stop(self) -> int:
        "SIGTERM, and its exit code."
        self.process.terminate()
        return self.process.wait(90)


@contextlib.contextmanager
def serving(root: Path, log: Path, *arguments: str, **options: Any) -> Iterator[Server]:
    "A server for a block; options are Popen's."
    server = Server(root, log, *arguments, **options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(exported, tmp_path_factory) -> Iterator[Server]:
    "A server of the run `tiny`, shared by the tests that leave it as it was."
    log = tmp_path_factory.mktemp("served") / "log"
    with serving(exported, log, "--run", "tiny", "--max-upload-mb", "5") as running:
        yield running.wait()


@pytest.fixture(scope="session")
def service(server) -> str:
    "Its address."
    return server.url
