"""What a fold can be trained with beyond a plain loop: averages, mixing, diagnoses, a teacher, and
that a fold which was killed comes out as if it had not been."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from melanoma.core.device import choose_device
from melanoma.core.errors import BadInput, MelanomaError
from melanoma.core.files import file_sha256
from melanoma.data.diagnoses import DIAGNOSES, class_of, diagnosis_numbers
from melanoma.data.warp import maps, warp
from melanoma.model.checkpoint import build, load_checkpoint
from melanoma.model.classifier import create_model
from melanoma.run.config import OptimisationConfig, TrainConfig
from melanoma.run.layout import Run
from melanoma.train import fitting, frozen
from melanoma.train import fold as fold_module
from melanoma.train.averaging import weight_average
from melanoma.train.fold import score_part, train_fold
from melanoma.train.fold_data import open_fold
from melanoma.train.loss import make_loss
from melanoma.train.objective import make_objective
from melanoma.train.optimisation import make_optimizer
from support.commands import copy_of, melanoma, succeed

EVERYTHING = {
    "arch": "resnet10t", "pretrained": "none", "epochs": 3, "lr": 1e-3, "batch_size": 16,
    "policy": "warp", "mixup": 0.4, "ema": 0.2, "diagnosis": 0.3, "dropout": 0.2, "drop_path": 0.1,
    "layer_decay": 0.8, "monitor": "none", "pos_weight": "2", "device": "cpu", "precision": "fp32",
    "dropout_masks": 2, "sampling": "balanced", "accumulate": 2, "head_epochs": 1,
}  # fmt: skip


@pytest.fixture
def project(prepared, tmp_path) -> Path:
    "A project of the test's own: prepared, two folds, nothing trained."
    return copy_of(prepared, tmp_path / "project")


class Killed(Exception):
    "Stands for kill -9."


# ---- resuming


@pytest.mark.slow
@pytest.mark.parametrize("died_after", [1, 2])
def test_a_killed_fold_ends_bit_for_bit_as_one_that_was_not(project, monkeypatch, died_after):
    dies_and_resumes(project, monkeypatch, died_after, TrainConfig.from_parameters(EVERYTHING))


@pytest.mark.slow
@pytest.mark.parametrize("died_after", [3, 4])  # the end of the first network, in the second
def test_a_killed_fold_of_two_seeds_does_too(project, monkeypatch, died_after):
    config = TrainConfig.from_parameters(EVERYTHING, seeds=2)
    dies_and_resumes(project, monkeypatch, died_after, config)


@pytest.mark.slow
def test_a_killed_fold_of_last_blocks_does_too(project, monkeypatch):
    config = TrainConfig.from_parameters(EVERYTHING, backbone="last", policy="light")
    dies_and_resumes(project, monkeypatch, 2, config)


@pytest.mark.slow
def test_a_killed_fold_of_growing_images_does_too(drawn, tmp_path, monkeypatch):
    succeed(tmp_path, "prepare", "--run", "tiny", "--size", "64", "--source", f"siim2020={drawn}")
    succeed(tmp_path, "folds", "--run", "tiny", "--n-folds", "2")
    sides, resize = [], F.interpolate

    def noted(pixels, side, **how):
        sides.append(side)
        return resize(pixels, side, **how)

    monkeypatch.setattr("melanoma.train.objective.F.interpolate", noted)
    config = TrainConfig.from_parameters(EVERYTHING, first_size=32, epochs=3)
    dies_and_resumes(tmp_path, monkeypatch, 1, config)
    assert set(sides) == {32}  # in the first epoch; from the second on they are whole


def dies_and_resumes(project: Path, monkeypatch, died_after: int, config: TrainConfig) -> None:
    "Train a fold without and with a kill after an epoch: the same bytes come out."
    run, other = Run.named("tiny", project), Run.named("whole", project)
    shutil.copytree(run.folder, other.folder)
    whole = train_fold(other, config)

    keep_state, ended = fitting.keep_state, []

    def keep_then_die(*arguments):
        keep = keep_state(*arguments)

        def on_epoch(state):
            keep(state)
            ended.append(state)
            if len(ended) == died_after:
                raise Killed

        return on_epoch

    with monkeypatch.context() as patched:
        patched.setattr(fitting, "keep_state", keep_then_die)
        with pytest.raises(Killed):
            train_fold(run, config)
    train_fold(run, config)

    first, second = load_file(other.fold_weights(0)), load_file(run.fold_weights(0))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    histories = [pd.read_csv(r.fold(0) / "history.csv") for r in (other, run)]
    assert histories[0].drop(columns="seconds").equals(histories[1].drop(columns="seconds"))
    assert len(whole.history) == 3 * config.seeds
    oof = [(r.fold(0) / "oof.csv").read_bytes() for r in (other, run)]
    assert oof[0] == oof[1]


# ---- which epoch is kept


@pytest.mark.slow
def test_without_a_monitor_all_training_folds_train_and_the_last_epoch_is_kept(project):
    run = Run.named("tiny", project)
    config = TrainConfig.from_parameters(EVERYTHING, ema=0.0, patience=1, epochs=4)
    data = open_fold(run, config)
    folds = pd.read_csv(run.folds)
    assert len(data.rows["train"]) == (folds["fold"] != 0).sum()
    fitted = train_fold(run, config)
    assert len(fitted.history) == 4 and fitted.best_epoch == 3  # patience does not end it
    manifest = json.loads((run.fold(0) / "manifest.json").read_text())
    assert manifest["best_epoch"] == 3 and manifest["parameters"]["monitor"] == "none"


def test_what_an_average_keeps_is_the_mean_of_the_steps_it_spans():
    line = torch.nn.Linear(1, 1, bias=False)
    average = weight_average(line, span=0.05, steps=200)  # 10 steps
    generator, drawn = torch.Generator().manual_seed(0), []
    for step in range(1, 201):
        with torch.no_grad():
            line.weight.copy_(torch.rand(1, 1, generator=generator))
        drawn.append(line.weight.item())
        average.update(line, step)
    weights = 0.9 ** np.arange(199, -1, -1)
    expected = np.average(drawn, weights=weights)
    assert average.module.weight.item() == pytest.approx(expected, abs=1e-3)


# ---- augmentation on the device


def test_warp_gives_each_of_the_eight_views_as_often_as_the_others():
    draws = torch.rand(16000, 7, generator=torch.Generator().manual_seed(0))
    draws[:, 1] = 0.5  # not turned
    square = maps(draws)[:, :, :2]
    views = {tuple(v) for v in square.sign().round().flatten(1).int().tolist()}
    counts = [
        int((square.sign().int().flatten(1) == torch.tensor(v)).all(1).sum()) for v in sorted(views)
    ]
    assert len(counts) == 8 and min(counts) > 1850 and max(counts) < 2150  # 2000 ± 3.5 σ


def test_warp_draws_for_each_image_by_itself_and_the_same_for_a_seed():
    one = torch.randint(0, 256, (1, 3, 48, 48), dtype=torch.uint8)
    batch = one.expand(64, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    first, again, other = (warp(batch, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) == 64  # none like another
    assert not any(torch.equal(image, one[0].float()) for image in first)  # none untouched
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert float(first.min()) >= 0 and float(first.max()) <= 255


def test_every_other_image_gets_a_hole_and_brightness_does_not_go_with_it():
    noise = torch.rand(2000, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 60 + 90
    changed = warp(noise, torch.Generator().manual_seed(3))
    # noise has no two neighbours alike, a hole has nothing else
    spread = F.max_pool2d(changed, 3, 1) + F.max_pool2d(-changed, 3, 1)
    hole = (spread == 0).all(1).flatten(1)
    holed = hole.any(1).numpy()
    assert 0.44 < holed.mean() < 0.53  # some lie over the edge
    assert hole.float().mean(1).max() < 0.36**2
    brightness = changed.mean((1, 2, 3)).numpy()
    assert abs(np.corrcoef(holed, brightness)[0, 1]) < 0.08  # 3.5 standard errors


# ---- diagnoses


def test_the_words_of_the_sources_are_known():
    ham = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    archive = ("Melanoma Invasive", "Nevus, Combined", "Seborrheic keratosis", "Solar lentigo",
               "Squamous cell carcinoma, NOS", "Hemangioma", "Actinic keratosis")  # fmt: skip
    siim = ("nevus", "melanoma", "seborrheic keratosis", "lentigo NOS", "lichenoid keratosis")
    for word in (*ham, *archive, *siim):
        assert class_of(word) in DIAGNOSES, word
    assert class_of("unknown") == class_of("atypical melanocytic proliferation") == ""
    assert class_of("Lentigo maligna") == "melanoma"  # not a lentigo


def test_the_target_decides_what_is_melanoma():
    words = pd.Series(["nv", None, "mel", "unknown"])
    assert diagnosis_numbers(words, pd.Series([0, 1, 0, 1])).tolist() == [1, 0, -1, 0]


# ---- layers


def test_lower_layers_learn_more_slowly_and_nothing_is_left_out():
    model = create_model("resnet10t", "none")[0]
    optimizer = make_optimizer(model, OptimisationConfig(lr=1e-3, layer_decay=0.5))
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert len(rate) == len(list(model.parameters()))
    inner = model.backbone.model
    stem, last = inner.conv1[0].weight, inner.layer4[-1].conv2.weight
    assert rate[id(model.head.weight)] == 1e-3
    assert rate[id(stem)] < rate[id(last)] < 1e-3


def test_what_an_architecture_cannot_do_is_refused():
    model = build("se_resnext50_32x4d")
    with pytest.raises(BadInput, match="layers of se_resnext50_32x4d are not known"):
        make_optimizer(model, OptimisationConfig(layer_decay=0.5))
    with pytest.raises(BadInput, match="no stochastic depth"):
        create_model("se_resnext50_32x4d", "none", drop_path=0.1)


@pytest.mark.parametrize(
    "wrong",
    [{"mixup": -1}, {"ema": 1}, {"layer_decay": 0}, {"dropout": 1}, {"drop_path": 1},
     {"diagnosis": -1}, {"distillation": 2}, {"accumulate": 0}, {"head_epochs": 10},
     {"dropout_masks": 2}, {"sampling": "often"}, {"first_size": 8}],
)  # fmt: skip
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        TrainConfig.from_parameters(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [KeyboardInterrupt(), torch.cuda.OutOfMemoryError("CUDA")])
def test_trouble_in_the_second_epoch_says_how_to_go_on(project, monkeypatch, capsys, trouble):
    run = Run.named("tiny", project)
    plain = {"arch": "resnet10t", "pretrained": "none", "epochs": 2, "batch_size": 16,
             "policy": "none", "device": "cpu"}  # fmt: skip
    config, keep_state = TrainConfig.from_parameters(plain), fitting.keep_state

    def keep_then_stop(*given):
        keep = keep_state(*given)

        def on_epoch(state):
            keep(state)
            raise trouble

        return on_epoch

    with monkeypatch.context() as patched, pytest.raises((KeyboardInterrupt, MelanomaError)) as end:
        patched.setattr(fitting, "keep_state", keep_then_stop)
        train_fold(run, config)
    said = capsys.readouterr().out
    if isinstance(trouble, KeyboardInterrupt):
        assert "goes on after its last complete epoch" in said
    else:
        assert "Take -p batch_size 8 -p accumulate 2" in str(end.value)
    train_fold(run, config)
    assert "resuming after epoch 1 of 2" in capsys.readouterr().out


@pytest.mark.slow
def test_a_balanced_epoch_needs_no_weight_of_a_melanoma(project, monkeypatch):
    weights, batches = [], []

    def weighed(name, weight, smoothing):
        weights.append(weight)
        return make_loss(name, weight, smoothing)

    def watched(*given):
        made = make_objective(*given)
        made.register_forward_pre_hook(lambda _, batch: batches.append(batch[2].mean().item()))
        return made

    monkeypatch.setattr(fold_module, "make_loss", weighed)
    monkeypatch.setattr(fitting, "make_objective", watched)
    plain = {"arch": "resnet10t", "pretrained": "none", "epochs": 1, "batch_size": 16,
             "policy": "none", "device": "cpu"}  # fmt: skip
    run = Run.named("tiny", project)
    for sampling in ("each", "balanced"):
        train_fold(run, TrainConfig.from_parameters(plain, sampling=sampling, force=True))
    assert weights[0] > 1.5 and weights[1] == 1
    half = len(batches) // 2
    assert np.mean(batches[:half]) < 0.4 and np.mean(batches[half:]) == pytest.approx(0.5, abs=0.03)


def test_growing_images_need_a_network_that_takes_them():
    config = TrainConfig.from_parameters(first_size=32)
    with pytest.raises(BadInput, match="built for images of 64 px alone"):
        make_objective(config, make_loss(), build("vit_tiny_patch16_224", 64))
    growing = make_objective(config, make_loss(), build("resnet10t"))
    seen = []
    model = build("resnet10t").eval()
    model.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))
    pixels = torch.zeros(2, 3, 128, 128, dtype=torch.uint8)
    for part in (0, 0.34, 0.7):
        growing.start(0, part)
        growing(model, pixels, torch.zeros(2), torch.arange(2), choose_device("cpu", "fp32"))
    assert seen == [32, 96, 128]


def test_the_held_out_fold_never_sets_the_learning_rate():
    with pytest.raises(BadInput, match="schedule plateau.*monitor inner"):
        TrainConfig.from_parameters(monitor="none", schedule="plateau")


# ---- a teacher


@pytest.mark.slow
def test_a_teacher_must_have_the_same_folds(project):
    teacher, run = Run.named("tiny", project), Run.named("student", project)
    shutil.copytree(teacher.folder, run.folder)
    plain = {"arch": "resnet10t", "pretrained": "none", "epochs": 1, "batch_size": 16,
             "policy": "light", "device": "cpu"}  # fmt: skip
    taught = TrainConfig.from_parameters(plain, teacher="tiny", distillation=1.0)
    with pytest.raises(BadInput, match="melanoma train --run tiny --folds 0"):
        train_fold(run, taught)
    train_fold(teacher, TrainConfig.from_parameters(plain))
    train_fold(run, taught)
    header = json.loads((run.fold(0) / "manifest.json").read_text())
    assert header["parameters"]["teacher"] == "tiny"
    assert header["inputs"]["teacher"] == file_sha256(teacher.fold_weights(0))[:16]
    train_fold(teacher, TrainConfig.from_parameters(plain, seed=1, force=True))
    with pytest.raises(BadInput, match="teacher has changed since"):
        train_fold(run, taught)

    succeeded = melanoma(project, "folds", "--run", "student", "--n-folds", "2", "--seed", "7",
                         "--force")  # fmt: skip
    assert succeeded.returncode == 0, succeeded.stderr
    with pytest.raises(BadInput, match="other folds than run 'student'"):
        train_fold(run, TrainConfig.from_parameters(plain, teacher="tiny", force=True))


# ---- runs of older versions


@pytest.mark.slow
def test_a_fold_of_a_version_that_lacked_these_parameters_is_finished(project):
    run = Run.named("tiny", project)
    config = TrainConfig.from_parameters(
        arch="resnet10t", pretrained="none", epochs=1, batch_size=16, policy="light", device="cpu"
    )
    train_fold(run, config)
    path = run.fold(0) / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("dropout", "drop_path", "mixup", "layer_decay", "ema", "diagnosis", "teacher",
                 "distillation", "dropout_masks", "sampling", "accumulate", "head_epochs",
                 "first_size"):  # fmt: skip
        del manifest["parameters"][name]
    path.write_text(json.dumps(manifest))
    before = run.fold_weights(0).stat().st_mtime_ns
    train_fold(run, config)
    assert run.fold_weights(0).stat().st_mtime_ns == before
    with pytest.raises(BadInput, match=r"ema was 0\.0, is now 0\.1"):
        train_fold(run, TrainConfig.from_parameters(config.parameters(), ema=0.1))


# ---- frozen backbones

FROZEN = {"arch": "resnet10t", "pretrained": "none", "backbone": "frozen", "policy": "light",
          "device": "cpu", "precision": "fp32"}  # fmt: skip


def test_features_are_computed_once_and_resumed_after_a_kill(project, monkeypatch, capsys):
    run, other = Run.named("tiny", project), Run.named("whole", project)
    shutil.copytree(run.folder, other.folder)
    whole = train_fold(other, TrainConfig.from_parameters(FROZEN))

    embed, seen = frozen.embed_views, []

    def watched(model, images, views, *more):
        if views > 1:  # else one image, for the shape of its features
            seen.append(len(images))
        return embed(model, images, views, *more)

    def embed_then_die(*given):
        if len(seen) == 2:
            raise Killed
        return watched(*given)

    monkeypatch.setattr(frozen, "BATCH", 16)
    monkeypatch.setattr(frozen, "SAVED", 1)
    monkeypatch.setattr(frozen, "embed_views", embed_then_die)
    with pytest.raises(Killed):
        train_fold(run, TrainConfig.from_parameters(FROZEN))
    seen.clear()
    monkeypatch.setattr(frozen, "embed_views", watched)
    cut = train_fold(run, TrainConfig.from_parameters(FROZEN))
    images = len(open_fold(run, TrainConfig.from_parameters(FROZEN)).store.table)
    assert sum(seen) == images - 32
    assert torch.allclose(cut.best["head.weight"], whole.best["head.weight"], atol=1e-6)

    seen.clear()
    train_fold(run, TrainConfig.from_parameters(FROZEN | {"fold": 1, "monitor": "none"}))
    assert not seen and "features: resnet10t-32px-4views" in capsys.readouterr().out
    assert sorted(p.suffix for p in (run.folder / "embeddings").glob("[!.]*")) == [".npy"]


def test_a_frozen_fold_is_a_model_like_any_other(project):
    run = Run.named("tiny", project)
    config = TrainConfig.from_parameters(FROZEN | {"monitor": "none"})
    train_fold(run, config)
    data = open_fold(run, config)
    model, header = load_checkpoint(run.fold_weights(0))
    assert header["parameters"]["backbone"] == "frozen" and header["best_epoch"] >= 0
    scored = score_part(data, "held_out", model, config, choose_device("cpu", "fp32"))
    oof = pd.read_csv(run.fold(0) / "oof.csv")
    assert np.allclose(scored["logit"], oof["logit"], atol=1e-4)
    start, _ = create_model("resnet10t", "none", 0, 32)
    own = start.backbone.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in model.backbone.state_dict().items())


@pytest.mark.parametrize(
    "given",
    [{"mixup": 0.4}, {"teacher": "other"}, {"dropout": 0.2}, {"loss": "focal"},
     {"sampling": "balanced"}, {"accumulate": 2}, {"head_epochs": 1}, {"first_size": 32}],
)  # fmt: skip
def test_what_a_frozen_backbone_would_ignore_is_refused(given):
    with pytest.raises(BadInput, match="not with backbone frozen"):
        TrainConfig.from_parameters(FROZEN | given)
