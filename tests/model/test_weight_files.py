"""Weight files as people have them: wrapped, renamed, whole models, and what does not fit."""

import argparse
from collections import OrderedDict

import pytest
import timm
import torch
from safetensors.torch import save_file

from melanoma.core.errors import MissingWeights
from melanoma.model.checkpoint import save_checkpoint
from melanoma.model.classifier import create_model
from melanoma.model.matching import match_tensors
from melanoma.model.pretrained import unwrapped

SMALL = "resnet10t"


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
    model, _origin = create_model(SMALL, str(path))
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
            (
                r"1 of \d+ tensors.*the model's 'layer1.0.conv1.weight' \(64, 64, 3, 3\), "
                r"the file's 'layer1.0.conv1.weight' \(64, 64, 1, 1\)"
            ),
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
