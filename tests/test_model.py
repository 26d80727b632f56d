"""Backbones of every family behind one logit, weight files as people have them, the loss, and
going on in another precision."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save, save_file

from melanoma.core.device import DeviceSettings, choose_device
from melanoma.core.errors import BadInput, MissingWeights
from melanoma.data.dataset import LesionDataset, make_loader
from melanoma.model.checkpoint import build, load_checkpoint, save_checkpoint
from melanoma.model.classifier import create_model
from melanoma.model.matching import match_tensors
from melanoma.model.pretrained import local_weights, unwrapped
from melanoma.run.config import OptimisationConfig
from melanoma.train.loop import fit
from melanoma.train.loss import make_loss
from melanoma.train.objective import Objective

SMALL = "resnet10t"

# ---- heads

FAMILIES = {  # the smallest of each family → layout of the map that its features average
    "swin_tiny_patch4_window7_224": "nhwc",
    "swinv2_tiny_window8_256": "nhwc",
    "vit_tiny_patch16_224": "",
    "eva02_tiny_patch14_224": "",
    "vit_small_patch14_dinov2": "",
    "convnext_atto": "",
    "mobilenetv3_small_050": "",
    "maxvit_rmlp_pico_rw_256": "nchw",
    "caformer_s18": "",
    "edgenext_xx_small": "",
    "tf_efficientnet_lite0": "nchw",
    SMALL: "nchw",
    "mixer_s32_224": "tokens",
}


def width_in_timm(arch: str) -> int:
    "What timm's own classifier takes in."
    model = timm.create_model(arch, num_classes=1)
    classifier = model.get_classifier()
    layers = [m for m in classifier.modules() if isinstance(m, torch.nn.Linear)]
    return layers[0].in_features


@pytest.mark.parametrize(("arch", "layout"), FAMILIES.items())
def test_every_family_has_timms_head_and_trains(arch, layout):
    size = 64
    model, _ = create_model(arch, "none", 0, size)
    assert model.head.in_features == width_in_timm(arch)
    assert model.layout == layout and bool(model.no_heatmap) == (layout == "")
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    make_loss()(model.train()(pixels), torch.tensor([0.0, 1.0])).backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    assert gradients["head.weight"].abs().sum() > 0
    optimizer.step()
    changed = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert any(k.startswith("backbone.") for k in changed)
    with torch.inference_mode():
        features = model.eval().features(pixels)
        logit = model(pixels)
        embedded = model.embed(pixels)
        assert torch.allclose(model.head(embedded)[:, 0], logit, atol=1e-5)
        if layout:
            mean = model.activation(features).mean((1, 2)) + model.head.bias
            assert torch.allclose(mean, logit, atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "behind"),
    [("convnext_atto", "head.norm.weight"), ("mobilenetv3_small_050", "conv_head.weight")],
)
def test_what_lies_behind_the_pooling_keeps_its_pretrained_tensors(arch, behind, tmp_path):
    state = timm.create_model(arch).state_dict()
    state[behind] = torch.rand(state[behind].shape)
    torch.save(state, tmp_path / "a.pth")
    model, _ = create_model(arch, str(tmp_path / "a.pth"), 0, 64)
    assert torch.equal(model.backbone.model.state_dict()[behind], state[behind])
    reference = timm.create_model(arch)
    reference.load_state_dict(state)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        scaled = (pixels.float() - model.mean) / model.std
        features = reference.eval().forward_features(scaled)
        expected = reference.forward_head(features, pre_logits=True)
        assert torch.equal(model.eval().embed(pixels), expected)


def test_position_grids_of_a_file_are_resized_to_the_runs_size(tmp_path, capsys):
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    save_file(state, tmp_path / "vit.safetensors")
    model, _ = create_model("vit_tiny_patch16_224", str(tmp_path / "vit.safetensors"), 0, 96)
    grid = model.backbone.model.pos_embed.detach()
    assert grid.shape == (1, 1 + 36, 192)
    assert torch.allclose(grid[:, 0], state["pos_embed"][:, 0])
    assert abs(float(grid[:, 1:].mean() - state["pos_embed"][:, 1:].mean())) < 1e-3
    assert "resized to 96 px: pos_embed" in capsys.readouterr().out


def test_a_patch_that_does_not_divide_the_size_sees_the_whole_image(capsys):
    model, _ = create_model("vit_small_patch14_dinov2", "none", 0, 64)
    assert model.side == 70 and "sees images at 70 px" in capsys.readouterr().out
    pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    corner = pixels.clone()
    corner[..., 60:, 60:] = 255
    with torch.inference_mode():
        assert not torch.equal(model.eval()(pixels), model(corner))


def test_a_checkpoint_of_a_token_model_is_built_for_its_size(tmp_path):
    model, _ = create_model("vit_tiny_patch16_224", "none", 0, 96)
    path = tmp_path / "fold0.safetensors"
    save_checkpoint(path, model, {"preprocessing": {"size": 96}})
    pixels = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    again, _ = load_checkpoint(path)
    with torch.inference_mode():
        assert torch.equal(again(pixels), model.eval()(pixels))


def test_a_checkpoint_whose_head_sits_elsewhere_says_so(tmp_path):
    model, _ = create_model("convnext_atto", "none", 0, 64)
    path = tmp_path / "fold0.safetensors"
    save_checkpoint(path, model, {"preprocessing": {"size": 64}})
    from safetensors.torch import load_file

    from melanoma.model.header import read_header

    state = {k: v for k, v in load_file(path).items() if "head.norm" not in k}
    save_file(state, path, {"melanoma": json.dumps(read_header(path))})
    with pytest.raises(BadInput, match="on other features.*head.norm.*Train it again"):
        load_checkpoint(path)


def folder_model(folder: Path, arch: str) -> dict[str, torch.Tensor]:
    "A model as timm saves one to a folder: config.json and model.safetensors."
    folder.mkdir(parents=True)
    model = timm.create_model(arch, num_classes=5)
    timm.models.save_for_hf(model, folder)
    return model.state_dict()


def test_a_local_folder_is_a_backbone_and_its_checkpoint_needs_it_no_more(tmp_path):
    state = folder_model(tmp_path / "mine", SMALL)
    arch = f"local-dir:{tmp_path / 'mine'}"
    model, origin = create_model(arch, "auto", 0, 64)
    assert origin == "downloaded from timm"
    own = model.backbone.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in own.items()) and model.head.in_features == 512
    path = tmp_path / "fold0.safetensors"
    save_checkpoint(path, model, {"preprocessing": {"size": 64}})
    for file in (tmp_path / "mine").iterdir():
        file.unlink()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(load_checkpoint(path)[0](pixels), model.eval()(pixels))
    with pytest.raises(BadInput, match="local-dir:.*config.json cannot be read"):
        build(arch)


# ---- weight files


@pytest.fixture(scope="module")
def whole() -> "OrderedDict[str, torch.Tensor]":
    "A classifier of 1,000 classes as timm gives its state."
    torch.manual_seed(5)
    return timm.create_model(SMALL, num_classes=1000).state_dict()


def prefixed(state, prefix: str) -> dict:
    return {prefix + k: v for k, v in state.items()}


def renamed_head(state, to: str) -> dict:
    return {k.replace("fc.", f"{to}.") if k.startswith("fc.") else k: v for k, v in state.items()}


WRAPPED = {
    "plain": lambda s: s,
    "dataparallel": lambda s: prefixed(s, "module."),
    "state_dict": lambda s: {"state_dict": prefixed(s, "module."), "epoch": 3, "arch": SMALL},
    "model": lambda s: {
        "model": s,
        "epoch": 3,
        "optimizer": {"state": {0: {"step": s["fc.bias"]}}},
    },
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {}, "loss": 0.1},
    "lightning": lambda s: {"state_dict": prefixed(s, "model."), "pytorch-lightning_version": "2"},
    "backbone": lambda s: prefixed(s, "backbone."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "all at once": lambda s: {"model": prefixed(s, "module._orig_mod.model.backbone.")},
    "nested": lambda s: {"model": {"state_dict": prefixed(s, "module.")}},
    "ema": lambda s: {"state_dict": {k: v * 0 for k, v in s.items()}, "state_dict_ema": s},
    "model_ema": lambda s: {"model": {k: v * 0 for k, v in s.items()}, "model_ema": s},
    "nested ema": lambda s: {"ema": {"module": s, "decay": 0.99}},
    "namespace": lambda s: {"state_dict": s, "args": argparse.Namespace(lr=1)},
    "own name": lambda s: {"melanoma_net": s, "config": {"mean": s["fc.bias"]}},
    "without counters": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "classifier": lambda s: renamed_head(s, "classifier"),
    "head of any name": lambda s: renamed_head(s, "my_lesions"),
    "sequential head": lambda s: (
        {k: v for k, v in s.items() if not k.startswith("fc.")}
        | {"top.0.weight": torch.zeros(64, 512), "top.0.bias": torch.zeros(64)}
        | {"top.1.weight": torch.ones(64), "top.3.weight": torch.zeros(1, 64)}
    ),
    "without a head": lambda s: {k: v for k, v in s.items() if not k.startswith("fc.")},
}


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [*((kind, ".pth") for kind in WRAPPED), *(("model", s) for s in (".pt", ".bin", ".ckpt"))],
)
def test_a_wrapped_weight_file_gives_its_own_tensors(whole, tmp_path, kind, suffix, capsys):
    path = tmp_path / f"best{suffix}"
    torch.save(WRAPPED[kind](whole), path)
    model, origin = create_model(SMALL, str(path))
    own = model.backbone.model.state_dict()
    wanted = {k: v.half().float() if kind == "half" else v for k, v in whole.items()}
    compared = [k for k in own if "num_batches" not in k]
    assert len(compared) > 50
    assert all(torch.equal(own[k], wanted[k]) for k in compared)
    said = capsys.readouterr().out
    assert ("left out" in said) == (kind != "without a head")
    if kind == "head of any name":
        assert "'my_lesions.weight' (1000, 512)" in said and "'my_lesions.bias' (1000,)" in said


def test_safetensors_come_sorted_and_their_head_is_still_told(whole, tmp_path, capsys):
    path = tmp_path / "best.safetensors"
    save_file(renamed_head(whole, "a_lesion_head"), path)
    model, _ = create_model(SMALL, str(path))
    assert torch.equal(model.backbone.model.state_dict()["conv1.0.weight"], whole["conv1.0.weight"])
    assert "'a_lesion_head.weight' (1000, 512)" in capsys.readouterr().out


def test_one_of_our_own_checkpoints_is_a_start(tmp_path, capsys):
    first, _ = create_model(SMALL, "none", 3)
    path = tmp_path / "fold0.safetensors"
    save_checkpoint(path, first, {"preprocessing": {"size": 64}})
    second, _ = create_model(SMALL, str(path), 4)
    theirs = first.backbone.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in second.backbone.state_dict().items())
    assert "'head.weight' (1, 512)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        # a tensor of another shape: both are named
        (
            lambda s: s | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)},
            r"1 of \d+ tensors.*the model's 'layer1.0.conv1.weight' \(64, 64, 3, 3\), "
            r"the file's 'layer1.0.conv1.weight' \(64, 64, 1, 1\)",
        ),
        # a tensor under a misspelt name, at another place: no match in order either
        (
            lambda s: (
                {k: v for k, v in s.items() if k != "layer1.0.bn1.weight"}
                | {"layer1.0.norm1.scale": torch.zeros(3)}
            ),
            r"1 of \d+ tensors are missing.*'layer1.0.bn1.weight' \(64,\), the file's ",
        ),
        # a deeper network: no head
        (
            lambda s: s | {"layer1.1.conv1.weight": torch.zeros(64, 64, 3, 3)},
            r"1 of its tensors have no place.*'layer1.1.conv1.weight' \(64, 64, 3, 3\).*nearest",
        ),
        # one more norm at the end of the file is no head either
        (lambda s: s | {"layer4.1.bn1.weight": torch.zeros(512)}, "no place in the model"),
        (lambda s: s | {"layer4.0.se.fc.weight": torch.zeros(32, 512, 1, 1)}, "no place in the"),
        (lambda s: s | {"module.layer1.0.conv1.weight": torch.zeros(1)}, "more than once"),
    ],
)
def test_what_does_not_fit_is_refused_under_both_names(whole, tmp_path, spoil, said):
    torch.save(spoil(dict(whole)), tmp_path / "a.pth")
    with pytest.raises(MissingWeights, match=said) as refused:
        create_model(SMALL, str(tmp_path / "a.pth"))
    assert "a.pth" in str(refused.value)


def test_a_whole_model_is_not_loaded_and_the_error_says_what_to_keep(tmp_path):
    torch.save(timm.create_model(SMALL), tmp_path / "whole.pth")
    with pytest.raises(MissingWeights, match=r"timm\.models\.resnet\.ResNet.*state_dict\(\)"):
        create_model(SMALL, str(tmp_path / "whole.pth"))


def test_a_date_in_a_name_is_no_hash(whole, tmp_path):
    torch.save(whole, tmp_path / "best-20240115.pth")
    assert create_model(SMALL, str(tmp_path / "best-20240115.pth"))[1] == "best-20240115.pth"


def test_no_wrapper_is_taken_for_weights():
    state = {"a.weight": torch.zeros(2)}
    assert unwrapped({"optimizer": {"state": state}, "epoch": 1}) is None
    assert unwrapped({"encoder": state, "decoder": {"b": torch.ones(1)}}) is None


def test_tensors_in_order_without_counters():
    own = {"a.w": torch.zeros(4, 3), "a.num_batches_tracked": torch.tensor(0), "b.w": torch.ones(4)}
    file = {"x": torch.rand(4, 3), "y": torch.rand(4), "_fc.w": torch.zeros(9, 4)}
    match = match_tensors(file, own, 4, "f", "m")
    assert match.in_order and match.tensors == {"a.w": file["x"], "b.w": file["y"]}
    with pytest.raises(MissingWeights):
        match_tensors(file | {"z.w": torch.zeros(4, 3, 3, 3)}, own, 4, "f", "m")


# ---- the default's own weights

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


class Hub(ThreadingHTTPServer):
    "Answers as the Hugging Face hub does for large files; remembers what was asked."

    def __init__(self, files: dict[str, bytes], promised: str = ""):
        super().__init__(("127.0.0.1", 0), Answers)
        self.files, self.promised, self.asked = files, promised, []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self):
        self.server.asked.append(self.path)
        data = self.server.files.get(self.path)
        self.send_response(404 if data is None else 200)
        if data is None:
            self.send_header("X-Error-Code", "RepoNotFound")
        else:
            promised = self.server.promised or hashlib.sha256(data).hexdigest()
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("X-Linked-Etag", f'"{promised}"')
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("ETag", f'"{promised}"')
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        if self.command == "GET" and data:
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


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


def start_default(alone: Path, hub: Hub, name: str = "layer0.conv1.weight") -> str:
    "The default model in a process of its own: the hub's address is read at import."
    address = f"http://127.0.0.1:{hub.server_address[1]}"
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


def test_the_hub_is_asked_before_the_old_server(alone, of_2018):
    hub = Hub({HUB_FILE: save(of_2018)})
    try:
        said = start_default(alone, hub)
        assert "FROM downloaded from timm/legacy_seresnext50_32x4d.in1k" in said
        total = float(said.split()[-1])
        assert total == pytest.approx(float(of_2018["layer0.conv1.weight"].sum()), abs=1e-4)
    finally:
        hub.shutdown()
        hub.server_close()
    assert "FROM" in start_default(alone, hub)  # kept from the first time, the hub is gone


def test_a_file_that_the_hub_does_not_describe_is_refused_and_the_error_names_the_ways(
    alone, of_2018
):
    hub = Hub({HUB_FILE: save(of_2018)}, promised="0" * 64)
    try:
        said = start_default(alone, hub)
    finally:
        hub.shutdown()
        hub.server_close()
    assert "REFUSED" in said and "not the one that the hub describes" in said
    assert "(1) put se_resnext50_32x4d-a260b3a4.pth into weights/" in said
    assert "(2) take an architecture" in said and "(3) be online" in said
    pinned = "/smp-hub/se_resnext50_32x4d.imagenet/resolve/73246406d879a2b0e3fdfe6fddd56347d38f38ae"
    assert any(path.startswith(pinned) for path in hub.asked)
    assert "legacy_se_resnext50_32x4d-f3651bad.pth" in said  # timm's release
    assert "a260b3a4.pth: " in said  # the old server comes last
    assert said.index("f3651bad") < said.rindex("a260b3a4.pth: ")


def default_line(monkeypatch, endpoint: str) -> tuple[str, list]:
    "What the doctor says of the default's weights, and its findings."
    from melanoma.cli.doctor import look_at_weights
    from melanoma.cli.findings import Report

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
    hub = Hub({})
    try:
        line, findings = default_line(monkeypatch, f"http://127.0.0.1:{hub.server_address[1]}")
    finally:
        hub.shutdown()
        hub.server_close()
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


# ---- the loss


@pytest.mark.parametrize("weight", [1.0, 56.0])
@pytest.mark.parametrize(("target", "best"), [(0.0, 0.025), (1.0, 0.975)])
def test_smoothing_is_not_weighed(weight, target, best):
    p = torch.linspace(0.001, 0.999, 999)
    loss = make_loss("bce", weight, 0.05)
    values = [loss(torch.logit(v)[None], torch.tensor([target])).item() for v in p]
    assert float(p[int(np.argmin(values))]) == pytest.approx(best, abs=1.1e-3)


def test_a_melanoma_weighs_what_it_did_without_smoothing():
    logit, target = torch.tensor([-1.0, 0.3, 2.0]), torch.tensor([0.0, 1.0, 1.0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logit, target, pos_weight=torch.tensor(7.0)
    )
    assert torch.isclose(make_loss("bce", 7.0)(logit, target), expected)
    hard = make_loss("bce", 7.0, 0.1)
    ratio = hard(torch.tensor([0.5]), torch.tensor([1.0])) / hard(
        torch.tensor([-0.5]), torch.tensor([0.0])
    )
    assert float(ratio) == pytest.approx(7.0)


# ---- going on in another precision


def tiny_data() -> tuple:
    rng = np.random.default_rng(0)
    target = np.arange(32) % 2
    pixels = rng.integers(0, 200, (32, 32, 32, 3), dtype=np.uint8)
    pixels[target == 1, 8:20, 8:20] += 50
    data = LesionDataset(pixels, range(32), target.astype(np.float32))
    return make_loader(data, 8, shuffle=True), make_loader(data, 32)


class Enabled(torch.amp.GradScaler):
    "Gradient scaling switched on where no GPU is: torch's own, for the CPU."

    def __init__(self, *_, **__):
        super().__init__("cpu", enabled=True)


def begun(monkeypatch, scaling: bool) -> dict:
    "The state behind the first of two epochs."
    kept: dict = {}

    def keep(state):
        if not kept:
            kept.update(state)

    if scaling:
        monkeypatch.setattr(DeviceSettings, "scaler", lambda self: Enabled())
    one = OptimisationConfig(epochs=1)
    fit(create_model(SMALL, "none")[0], *tiny_data(), Objective(make_loss()), one,
        choose_device("cpu", "fp32"), on_epoch=keep, say=lambda s: None)  # fmt: skip
    monkeypatch.undo()
    return kept


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("then", [False, True])
def test_a_state_goes_on_with_and_without_gradient_scaling(monkeypatch, first, then):
    state = begun(monkeypatch, first)
    assert bool(state["scaler"]) == first
    scaler = Enabled() if then else DeviceSettings("cpu", "fp32", True, 0, 1).scaler()
    monkeypatch.setattr(DeviceSettings, "scaler", lambda self: scaler)
    if first:
        state["scaler"] = state["scaler"] | {"scale": 1024.0}
    two = OptimisationConfig(epochs=2)
    fitted = fit(create_model(SMALL, "none")[0], *tiny_data(), Objective(make_loss()), two,
                 choose_device("cpu", "fp32"), state=state, say=lambda s: None)  # fmt: skip
    assert [row["epoch"] for row in fitted.history] == [0, 1]
    if then:  # kept where there was one, else torch's start
        assert scaler.get_scale() == (1024.0 if first else 65536.0)


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "mps"])
def test_the_scaler_is_of_the_devices_kind(device):
    scaler = DeviceSettings(device, "fp32", True, 0, 1).scaler()
    assert scaler._device == device.split(":")[0] and not scaler.is_enabled()
