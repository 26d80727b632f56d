"""What is taken from elsewhere: versions that were tested, actions and images by their digests,
weights over HTTPS alone."""

import configparser
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from melanoma.core.errors import MissingWeights
from melanoma.kaggle.wheels import needs_of
from melanoma.model.classifier import LITE_PACKAGES, lite_file, over_https
from melanoma.model.pretrained import RELEASES, SHA256, check_promise, read_weights
from support.commands import REPOSITORY
from support.servers import StandIn

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
HEALTH = REPOSITORY / "docker" / "health.py"


def pinned() -> dict[str, Version]:
    "The versions of constraints.txt."
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def settings() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(REPOSITORY / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def wanted(*groups: str) -> list[Requirement]:
    "What settings.ini asks for, of the groups given or of all."
    keys = [f"{g}_requirements" for g in groups] or [k for k in settings() if k.endswith("ments")]
    listed = [Requirement(text) for key in keys for text in settings()[key].split()]
    return [r for r in listed if r.marker is None or r.marker.evaluate()]


def test_every_requirement_has_a_tested_version_within_its_bounds():
    versions = pinned()
    have = {str(r): versions.get(canonicalize_name(r.name)) for r in wanted()}
    odd = [r for r, version in have.items() if version not in Requirement(r).specifier]
    assert not odd and len(versions) > 200


def test_all_that_the_container_installs_has_a_tested_version():
    versions, left, seen = pinned(), wanted("serve", "dicom", "heic"), set()
    while left:
        name = canonicalize_name(left.pop().name)
        if name not in seen:
            seen.add(name)
            left += needs_of(name)
    assert {"starlette", "pydantic-core", "openvino"} <= seen
    assert seen <= versions.keys()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_may_read_and_takes_actions_by_their_commit(path):
    text = path.read_text(encoding="utf-8")
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    used = re.findall(r"uses:\s*(\S+)(.*)", text)
    assert used
    for action, remark in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", remark), action


def test_the_container_has_a_fixed_base_and_no_root():
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 2 and len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.12-slim-bookworm@sha256:[0-9a-f]{64}", bases[0])
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "10001"
    admitted = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split()
    for words in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in words.split()[:-1]:
            assert f"!{source}" in admitted and (REPOSITORY / source).exists(), source


def test_the_container_file_passes_its_linter():
    linter = Path(sys.executable).with_name("hadolint")
    program = str(linter) if linter.exists() else shutil.which("hadolint")
    if not program:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([program, REPOSITORY / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "words", [["--port", "{}"], ["--port={}"], ["--port", "1", "--port", "{}"]]
)
def test_the_health_check_asks_at_the_services_port(words, tmp_path):
    codes = iter((200, 503))

    server = StandIn(lambda *_: (next(codes), {}, b""))
    given = [w.format(server.server_port) for w in words]
    line = [
        "/opt/melanoma/bin/python",
        "melanoma",
        "serve",
        "--host",
        "0.0.0.0",
        *given,
        "--run",
        "r",
    ]
    (tmp_path / "cmdline").write_text("\0".join(line) + "\0")
    check = [sys.executable, str(HEALTH), str(tmp_path / "cmdline")]
    ready, unready = (subprocess.run(check, capture_output=True).returncode for _ in range(2))
    server.stop()
    asked = [path for path, _ in server.asked]
    assert (ready, unready, asked) == (0, 1, ["/readyz", "/readyz"])


def test_weights_come_over_https_and_this_machine_alone_may_do_without():
    assert over_https("http://data.lip6.fr/x-a260b3a4.pth") == "https://data.lip6.fr/x-a260b3a4.pth"
    assert over_https("http://127.0.0.1.example.org/x") == "https://127.0.0.1.example.org/x"
    assert over_https("http://127.0.0.1:80/x") == "http://127.0.0.1:80/x"
    assert all(url.startswith("https://") for url in RELEASES.values())


@pytest.mark.parametrize("arch", LITE_PACKAGES)
def test_packaged_weights_are_the_published_ones(arch):
    path = lite_file(arch)
    if path is None:
        pytest.skip("its package is not installed")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[path.name]


def test_a_file_of_a_known_name_must_be_the_known_file(tmp_path, monkeypatch):
    "Eight digits of a hash can be met by another file: of these files all 64 are compared."
    data = b"another file"
    name = f"efficientnet-lite0-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    (tmp_path / name).write_bytes(data)
    check_promise(tmp_path / name)  # what the name promises is kept
    monkeypatch.setitem(SHA256, name, SHA256["efficientnet-lite0-57934424.pth"])
    with pytest.raises(MissingWeights, match="not that of the published file"):
        read_weights(tmp_path / name)
