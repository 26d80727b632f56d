"""Runs that travel by the hub: pushed, pulled, refused, cut off; against a stand-in of the hub."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from melanoma.core.files import file_sha256, read_json
from support.commands import REPOSITORY, program
from support.commands import succeed as expect_success
from support.servers import StandIn

pytestmark = pytest.mark.slow

LESION = REPOSITORY / "melanoma" / "web" / "lesions" / "ISIC_0000083.jpg"
# the hub's address is read at import: each command in a process of its own
succeed = partial(expect_success, way=program)
COMMIT = "1" * 40
TOKEN = "hf_writes"


class Hub(ThreadingHTTPServer):
    "As much of the Hugging Face hub as a push and a pull ask for."

    url, stop = StandIn.url, StandIn.stop

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}  # by SHA-256
        self.asked: Counter[str] = Counter()
        self.faults: list[tuple[str, int]] = []  # a part of an address, and what is answered once
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def say(self, status: int, data: Any = b"", **headers: str) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fault(self) -> bool:
        self.server.asked[f"{self.command} {self.path}"] += 1
        for entry in self.server.faults:
            if entry[0] in f"{self.command} {self.path}":
                self.server.faults.remove(entry)
                if entry[1] == 0:  # the line goes dead in the middle
                    self.server.faults.append(("", -1))
                    return False
                self.say(entry[1], {"error": "as the test asked"})
                return True
        return False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.fault():
            return
        if match := re.match(r"/api/models/([^/]+/[^/]+)", self.path):
            files = self.server.repos.get(match[1])
            if files is None:
                self.say(404, {"error": "none"}, X_Error_Code="RepoNotFound")
                return
            siblings = [{"rfilename": name} for name in files]
            self.say(200, {"id": match[1], "sha": COMMIT, "siblings": siblings, "_id": "x"})
            return
        match = re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        data = self.server.repos.get(match[1], {}).get(match[2]) if match else None
        if data is None:
            known = match and match[1] in self.server.repos
            self.say(404, b"", X_Error_Code="EntryNotFound" if known else "RepoNotFound")
            return
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        start = int(re.findall(r"bytes=(\d+)-", self.headers.get("Range", "") or "bytes=0-")[0])
        marks = {"X_Repo_Commit": COMMIT, "ETag": etag, "X_Linked_Etag": etag}
        marks["X_Linked_Size"] = str(len(data))
        if ("", -1) in self.server.faults and self.command == "GET" and len(data) > 10_000:
            self.server.faults.remove(("", -1))
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        part = f"bytes {start}-{len(data) - 1}/{len(data)}"
        status, ranged = (206, {"Content_Range": part}) if start else (200, {})
        self.say(status, data[start:], **marks, **ranged)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.fault():
            oid = self.path.rpartition("/")[2]
            assert hashlib.sha256(data).hexdigest() == oid
            self.server.large[oid] = data
            self.say(200, ETag=f'"{oid}"')

    def do_POST(self) -> None:
        given = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.fault():
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.say(401, {"error": "who are you?"})
            return
        body = [json.loads(line) for line in given.splitlines() if line.strip()]
        if self.path == "/api/repos/create":
            repo = f"{body[0]['organization']}/{body[0]['name']}"
            self.server.repos.setdefault(repo, {})
            asked = body[0].get("private", body[0].get("visibility") == "private")
            self.server.private.setdefault(repo, bool(asked))
            self.say(200, {"url": f"{self.server.url}/{repo}", "id": repo})
        elif self.path == "/api/validate-yaml":
            self.say(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            modes = [
                {"path": f["path"], "shouldIgnore": False, "oid": None,
                 "uploadMode": "lfs" if f["path"].endswith(("onnx", "safetensors")) else "regular"}
                for f in body[0]["files"]
            ]  # fmt: skip
            self.say(200, {"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = []
            for one in body[0]["objects"]:
                upload = {"href": f"{self.server.url}/store/{one['oid']}", "header": {}}
                need = {} if one["oid"] in self.server.large else {"actions": {"upload": upload}}
                objects.append({"oid": one["oid"], "size": one["size"]} | need)
            self.say(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            repo = "/".join(self.path.split("/")[3:5])
            for line in body:
                value = line["value"]
                if line["key"] == "file":
                    self.server.repos[repo][value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    self.server.repos[repo][value["path"]] = self.server.large[value["oid"]]
            done = {"success": True, "commitOid": COMMIT}
            self.say(200, done | {"commitUrl": f"{self.server.url}/{repo}/commit/{COMMIT}"})
        else:
            self.say(404, {"error": self.path})


@pytest.fixture()
def hub(tmp_path, monkeypatch):
    running = Hub()
    for name, value in {
        "HF_ENDPOINT": running.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    yield running
    running.stop()


def test_the_shipped_model_goes_to_the_hub_and_back(hub, tmp_path):
    said = succeed(tmp_path, "push", "isic", "clinic/lesions")
    assert "private" in said and "pushed: http" in said
    held = hub.repos["clinic/lesions"]
    assert sorted(held) == [
        "LICENSE",
        "README.md",
        "ensemble.json",
        "ensemble.onnx",
        "melanoma.json",
    ]
    assert hub.private["clinic/lesions"] and "model-index" in held["README.md"].decode()
    said = succeed(tmp_path, "pull", "clinic/lesions")
    assert said.endswith("melanoma serve --run lesions\n")
    for name in ("ensemble.onnx", "ensemble.json"):
        assert file_sha256(tmp_path / "weights/lesions" / name) == file_sha256(
            REPOSITORY / "weights/isic" / name
        )
    assert "skipped" in succeed(tmp_path, "pull", "clinic/lesions")
    pulled = json.loads(succeed(tmp_path, "predict", str(LESION), "--run", "lesions", "--json"))
    shipped = json.loads(succeed(tmp_path, "predict", str(LESION), "--json"))
    assert pulled["images"][0]["probability"] == shipped["images"][0]["probability"]


def test_from_pretrained_fetches_once(hub, tmp_path):
    succeed(tmp_path, "push", "isic", "clinic/lesions", "--public")
    assert not hub.private["clinic/lesions"]
    code = (
        "from melanoma import Predictor\n"
        "p = Predictor.from_pretrained('clinic/lesions')\n"
        f"print(p.run.name, p.predict({str(LESION)!r}).probability[0])"
    )
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1] and said[0].startswith("clinic--lesions ")
    graphs = sum(n for asked, n in hub.asked.items() if asked.startswith("GET") and "onnx" in asked)
    assert graphs == 1


def test_a_run_of_ones_own_takes_its_weights_along(hub, exported, tmp_path):
    succeed(exported, "push", "tiny", "me/tiny")
    assert {"fold0.safetensors", "fold1.safetensors"} <= hub.repos["me/tiny"].keys()
    assert not [n for n in hub.repos["me/tiny"] if n.endswith((".csv", ".pt", ".ipynb"))]
    succeed(tmp_path, "pull", "me/tiny", "--run", "other")
    weights = tmp_path / "weights" / "other"
    assert file_sha256(weights / "fold1.safetensors") == file_sha256(
        exported / "weights/tiny/fold1.safetensors"
    )
    (weights / "fold1.safetensors").write_bytes(b"mine")
    refused = program(tmp_path, "pull", "me/tiny", "--run", "other")
    assert refused.returncode == 2 and "--force" in refused.stderr
    assert (weights / "fold1.safetensors").read_bytes() == b"mine"
    succeed(tmp_path, "pull", "me/tiny", "--run", "other", "--force")


def test_what_is_pushed_needs_a_card_and_a_licence_that_allows_it(hub, exported, tmp_path):
    shutil.copytree(exported / "weights", tmp_path / "weights")
    card = tmp_path / "weights" / "tiny" / "README.md"
    without = program(tmp_path, "push", "tiny", "me/tiny")
    assert without.returncode == 2 and "melanoma evaluate --run tiny" in without.stderr
    for licence, why in (("cc-by-nc-nd-4.0", "no derived works"), ("", "names no licence")):
        card.write_text(f"---\nlicense: {licence}\n---\n# Card\n" if licence else "# Card\n")
        refused = program(tmp_path, "push", "tiny", "me/tiny")
        assert refused.returncode == 2 and why in refused.stderr
    assert not hub.repos and not hub.large


@pytest.mark.parametrize(
    ("fault", "code", "why"),
    [
        (("GET /api/models", 401), 2, "hf auth login"),
        (("GET /api/models", 404), 2, "no such repository"),
        (("GET /api/models", 500), 1, "the hub answered 500"),
    ],
)
def test_a_pull_that_fails_says_why_and_leaves_nothing(hub, tmp_path, fault, code, why):
    succeed(tmp_path, "push", "isic", "clinic/lesions")
    hub.faults += [fault] * 8  # whatever is tried again
    failed = program(tmp_path, "pull", "clinic/lesions")
    assert failed.returncode == code and why in failed.stderr, failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "weights" / "lesions").exists()
    hub.faults.clear()
    succeed(tmp_path, "pull", "clinic/lesions")


def test_a_push_without_a_right_to_write_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    refused = program(tmp_path, "push", "isic", "clinic/lesions")
    assert refused.returncode == 2 and "hf auth login" in refused.stderr
    nowhere = program(tmp_path, "pull", "clinic/nothing")
    assert nowhere.returncode == 2 and "no such repository" in nowhere.stderr
    odd = program(tmp_path, "pull", "not a name")
    assert odd.returncode == 2 and "Traceback" not in odd.stderr


def test_a_transfer_that_is_cut_off_goes_on(hub, tmp_path):
    hub.faults.append(("PUT /store", 500))
    program(tmp_path, "push", "isic", "clinic/lesions")
    succeed(tmp_path, "push", "isic", "clinic/lesions")
    hub.faults.append(("resolve/" + COMMIT + "/ensemble.onnx", 0))
    program(tmp_path, "pull", "clinic/lesions")
    succeed(tmp_path, "pull", "clinic/lesions")
    header = read_json(tmp_path / "weights/lesions/ensemble.json")
    assert header["sha256"] == file_sha256(tmp_path / "weights/lesions/ensemble.onnx")


@pytest.mark.parametrize("change", ["bytes", "names", "no list"])
def test_what_was_changed_on_the_way_is_refused(hub, tmp_path, change):
    succeed(tmp_path, "push", "isic", "clinic/lesions")
    held = hub.repos["clinic/lesions"]
    if change == "bytes":
        held["ensemble.json"] = held["ensemble.json"].replace(b"isic2017", b"isic2018")
    elif change == "names":
        listed = json.loads(held["melanoma.json"])
        listed["files"]["../../evil.py"] = "0" * 64
        held["melanoma.json"] = json.dumps(listed).encode()
    else:
        del held["melanoma.json"]
    refused = program(tmp_path, "pull", "clinic/lesions")
    assert refused.returncode == 2, refused.stderr
    assert not (Path(tmp_path) / "weights" / "lesions").exists()
    assert not list(tmp_path.rglob("evil.py"))
