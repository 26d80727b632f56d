"""Backbones of every family behind one logit."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from melanoma.core.errors import BadInput
from melanoma.model.checkpoint import build, load_checkpoint, save_checkpoint
from melanoma.model.classifier import create_model
from melanoma.train.loss import make_loss

SMALL = "resnet10t"


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


def test_a_licence_that_forbids_derived_works_is_said_before_training(tmp_path):
    folder_model(tmp_path / "mine", SMALL)
    path = tmp_path / "mine" / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"]["license"] = "cc-by-nc-nd-4.0"
    path.write_text(json.dumps(config))
    said: list[str] = []
    model, _ = create_model(f"local-dir:{tmp_path / 'mine'}", "auto", 0, 64, said.append)
    assert model.licence == "cc-by-nc-nd-4.0" and "may not be shared" in said[0]
    assert create_model("tf_efficientnet_lite0")[0].licence == "apache-2.0"
    assert create_model(SMALL, "none")[0].licence == ""  # nothing that had a licence is left


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
