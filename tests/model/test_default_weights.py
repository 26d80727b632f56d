"""Where the default backbone starts from: a file, an input, the hub."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from melanoma.core.errors import BadInput
from melanoma.model.classifier import create_model
from melanoma.model.pretrained import local_weights
from support.servers import Answer, StandIn

DEFAULT = "se_resnext50_32x4d"


@pytest.fixture(scope="module")
def of_2018() -> dict[str, torch.Tensor]:
    "Tensors as the file of 2018 has them: 1,000 classes, no counters."
    import pretrainedmodels

    torch.manual_seed(1)
    state = pretrainedmodels.se_resnext50_32x4d(num_classes=1000, pretrained=None).state_dict()
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def named_by_hash(folder: Path, data: bytes, stem: str = DEFAULT) -> Path:
    "The file under a name that begins its SHA-256, as the original's does."
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    path.write_bytes(data)
    return path


def dumped(state) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.fixture
def alone(tmp_path, monkeypatch) -> Path:
    "A project without weights, no cache, and a hub that nobody answers for."
    for name, value in {
        "MELANOMA_ROOT": tmp_path / "project",
        "TORCH_HOME": tmp_path / "torch",
        "HF_HOME": tmp_path / "hf",
    }.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / "project").mkdir()
    return tmp_path


def test_the_default_starts_from_the_file_of_2018(alone, of_2018, capsys):
    path = named_by_hash(alone / "project" / "weights", dumped(of_2018))
    model, origin = create_model()
    assert origin == path.name
    own = model.backbone.model.state_dict()
    compared = [k for k in own if "num_batches" not in k]
    assert len(compared) == len(of_2018) - 2 == 329
    assert all(torch.equal(own[k], of_2018[k]) for k in compared)
    assert "'last_linear.weight' (1000, 2048)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_seed_alone_decides_the_defaults_head():
    code = "from melanoma.model.classifier import create_model as c; "
    code += "m = lambda: c('se_resnext50_32x4d', 'none', 1)[0].head.weight.sum().item(); "
    code += "print(m() == m())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True"]


@pytest.mark.parametrize("depth", ["backbones", "datasets/somebody/backbones/torch"])
def test_the_default_is_found_among_a_kernels_inputs(alone, monkeypatch, depth):
    (alone / "input" / depth).mkdir(parents=True)
    path = alone / "input" / depth / "se_resnext50_32x4d-a260b3a4.pth"
    path.touch()
    assert local_weights(DEFAULT, alone / "input") == [path]
    assert local_weights("resnet18", alone / "input") == []


HUB_FILE = "/timm/legacy_seresnext50_32x4d.in1k/resolve/main/model.safetensors"


def hub_of(files: dict[str, bytes], promised: str = "") -> StandIn:
    "Answers as the Hugging Face hub does for large files."

    def answer(method: str, path: str, body: bytes) -> Answer:
        data = files.get(path)
        if data is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        digest = promised or hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": "1" * 40, "X-Linked-Etag": f'"{digest}"'}
        return 200, headers | {"X-Linked-Size": str(len(data)), "ETag": f'"{digest}"'}, data

    return StandIn(answer)


START = """
import sys, json
from melanoma.model.classifier import create_model
from melanoma.core.errors import MissingWeights
try:
    model, origin = create_model()
except MissingWeights as error:
    print("REFUSED", error)
else:
    print("FROM", origin, float(model.backbone.model.state_dict()[sys.argv[1]].sum()))
"""


def start_default(alone: Path, hub: StandIn, name: str = "layer0.conv1.weight") -> str:
    "The default model in a process of its own: the hub's address is read at import."
    address = hub.url
    dead = "http://127.0.0.1:9"  # timm's release and the old server are out of reach
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HUB_DISABLE_XET": "1",
        "HTTPS_PROXY": dead,
        "HTTP_PROXY": dead,
        "https_proxy": dead,
        "http_proxy": dead,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START, name],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_hub_is_asked_before_the_old_server(alone, of_2018):
    hub = hub_of({HUB_FILE: save(of_2018)})
    try:
        said = start_default(alone, hub)
        assert "FROM downloaded from timm/legacy_seresnext50_32x4d.in1k" in said
        total = float(said.split()[-1])
        assert total == pytest.approx(float(of_2018["layer0.conv1.weight"].sum()), abs=1e-4)
    finally:
        hub.stop()
    assert "FROM" in start_default(alone, hub)  # kept from the first time, the hub is gone


@pytest.mark.slow
def test_a_file_that_the_hub_does_not_describe_is_refused_and_the_error_names_the_ways(
    alone, of_2018
):
    hub = hub_of({HUB_FILE: save(of_2018)}, promised="0" * 64)
    try:
        said = start_default(alone, hub)
    finally:
        hub.stop()
    assert "REFUSED" in said and "not the one that the hub describes" in said
    assert "(1) put se_resnext50_32x4d-a260b3a4.pth into weights/" in said
    assert "(2) take an architecture" in said and "(3) be online" in said
    pinned = "/smp-hub/se_resnext50_32x4d.imagenet/resolve/73246406d879a2b0e3fdfe6fddd56347d38f38ae"
    assert any(path.startswith(pinned) for path, _ in hub.asked)
    assert "legacy_se_resnext50_32x4d-f3651bad.pth" in said  # timm's release
    assert "a260b3a4.pth: " in said  # the old server comes last
    assert said.index("f3651bad") < said.rindex("a260b3a4.pth: ")


def default_line(monkeypatch, endpoint: str) -> tuple[str, list]:
    "What the doctor says of the default's weights, and its findings."
    from melanoma.cli.doctor import Report, look_at_weights

    for name in ("HF_HUB_OFFLINE", "https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    report = Report()
    look_at_weights(report, Path(os.environ["MELANOMA_ROOT"]))
    line = report.facts["weights"].splitlines()[-1]
    assert line.startswith(f"{DEFAULT}, the default: ")
    return line, report.findings


def test_the_doctor_says_whether_the_defaults_weights_are_to_be_had(alone, of_2018, monkeypatch):
    line, findings = default_line(monkeypatch, "http://127.0.0.1:9")
    assert "not here" in line and "neither here nor to be had" in findings[-1].what
    assert "tf_efficientnet_lite0" in findings[-1].fix and "a260b3a4.pth" in findings[-1].fix
    hub = hub_of({})
    try:
        line, findings = default_line(monkeypatch, hub.url)
    finally:
        hub.stop()
    assert line.endswith("not here; to be downloaded at the first use") and not findings
    path = named_by_hash(alone / "project" / "weights", dumped(of_2018))
    line, findings = default_line(monkeypatch, "http://127.0.0.1:9")
    assert line.endswith(path.name) and not findings
    path.write_bytes(b"half a file")
    line, findings = default_line(monkeypatch, "http://127.0.0.1:9")
    assert "damaged" in line and findings[-1].essential and str(path) in findings[-1].fix


def test_a_kernel_without_internet_cannot_look_a_hubs_name_up(tmp_path):
    from melanoma.kaggle.recipe import check_start

    (tmp_path / "a.pth").touch()
    assert check_start(DEFAULT, "auto") is None
    assert check_start("vit_tiny_patch16_224", str(tmp_path / "a.pth")) == tmp_path / "a.pth"
    with pytest.raises(BadInput, match="hf-hub:timm/resnet18.*timm's own name"):
        check_start("hf-hub:timm/resnet18", str(tmp_path / "a.pth"))
