"""The exported graph: made once, checked, taken by predict and by the service, and never out of
date unnoticed."""

import json
import shutil
import urllib.error
import urllib.request

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melanoma.core.errors import MelanomaError
from melanoma.run.layout import Run
from support.commands import REPOSITORY, copy_of, melanoma, program, run_papermill, succeed
from support.servers import serving

pytestmark = pytest.mark.slow


@pytest.fixture()
def copy(exported, tmp_path):
    "A copy of the exported run, to be spoilt."
    shutil.copytree(exported / "weights", tmp_path / "weights")
    shutil.copytree(
        exported / "output", tmp_path / "output", ignore=shutil.ignore_patterns("stores")
    )
    return tmp_path


def post(url: str, path, query: str = "") -> dict:
    "What the service says of a file."
    body = b'--e\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    body += path.read_bytes() + b"\r\n--e--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=e"}
    request = urllib.request.Request(f"{url}/v1/predict{query}", body, kind)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def test_a_second_export_is_skipped_and_other_views_are_refused(exported):
    assert "skipped" in succeed(exported, "export", "--run", "tiny")
    other = melanoma(exported, "export", "--run", "tiny", "--tta", "8")
    assert other.returncode == 2 and "exported with 1 views, not 8" in other.stderr


def test_a_run_that_is_not_trained_says_what_comes_first(tmp_path):
    (tmp_path / "output" / "begun").mkdir(parents=True)
    done = melanoma(tmp_path, "export", "--run", "begun")
    assert done.returncode == 2 and "melanoma train --run begun" in done.stderr


def test_weights_trained_since_make_the_graph_stale(copy):
    weights = copy / "weights" / "tiny" / "fold0.safetensors"
    shutil.copyfile(copy / "weights" / "tiny" / "fold1.safetensors", weights)
    done = program(copy, "serve", "--run", "tiny", "--port", "0")
    assert done.returncode == 2 and "exported from other weights" in done.stderr
    assert "melanoma export --run tiny --force" in done.stderr


def test_a_damaged_graph_is_not_served(copy):
    graph = copy / "weights" / "tiny" / "ensemble.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.unlink()
    graph.write_bytes(data)
    done = program(copy, "serve", "--run", "tiny", "--port", "0")
    assert done.returncode == 2 and "is not the file that ensemble.json describes" in done.stderr


def test_the_weights_folder_alone_can_be_served(copy, tmp_path):
    shutil.rmtree(copy / "output")
    for file in (copy / "weights" / "tiny").glob("fold*"):
        file.unlink()
    with serving(copy, tmp_path / "log", "--run", "tiny") as server:
        server.wait()
        assert server.stop() == 0


def test_a_graph_that_differs_from_torch_is_refused(exported):
    import torch

    from melanoma.data.store import Store
    from melanoma.predict.ensemble import load_ensemble
    from melanoma.predict.ensemble_graph import EnsembleGraph
    from melanoma.predict.export import check_parity, reference_logits
    from melanoma.predict.graph import graph_paths

    run = Run("tiny", exported)
    models = list(load_ensemble(run).models.values())
    with torch.no_grad():
        models[0].head.bias += 0.01
    images = Store.open(run.store).images[:40]
    with pytest.raises(MelanomaError, match="does not agree with torch"):
        reference = reference_logits(EnsembleGraph(models), images)
        check_parity(graph_paths(run.weights)[0], reference, images, np.full(40, -1))


def test_weights_in_eight_bits_that_change_the_ranking_replace_nothing(copy):
    "The small run's scores lie so near each other that rounding turns some of them round."
    weights = copy / "weights" / "tiny"
    before = {n: (weights / n).read_bytes() for n in ("ensemble.onnx", "ensemble.json")}
    refused = melanoma(copy, "export", "--run", "tiny", "--int8")
    assert refused.returncode == 2 and "weights fp32, not int8: add --force" in refused.stderr
    refused = melanoma(copy, "export", "--run", "tiny", "--int8", "--force")
    assert refused.returncode == 1 and "bound 0.001): nothing was exported" in refused.stderr
    assert "dauroc" in refused.stderr and "max_dp" not in refused.stderr
    assert before == {n: (weights / n).read_bytes() for n in before}
    assert "skipped" in succeed(copy, "export", "--run", "tiny")


def test_predict_takes_the_graph_and_agrees_with_torch(exported, drawn, tmp_path):
    root = copy_of(exported, tmp_path / "project")
    source = ["predict", "--run", "tiny", "--source", f"siim2020={drawn}", "--split", "test"]
    tables = {}
    for way in ("graph", "torch"):
        out = tmp_path / f"{way}.csv"
        more = ["--tta", "1", "-p", "precision", "fp32", "-p", "runtime", way]
        said = succeed(root, *source, "--out", str(out), *more)
        assert ("the exported graph" in said) == (way == "graph")
        tables[way] = pd.read_csv(out)
    difference = tables["graph"]["score"] - tables["torch"]["score"]
    assert difference.abs().max() < 1e-5
    out = tmp_path / "auto.csv"
    assert "the exported graph" in succeed(root, *source, "--out", str(out))
    eight = succeed(root, *source, "--out", str(out), "--tta", "8")
    assert "8 views" in eight and "the exported graph" not in eight
    refused = melanoma(root, *source, "--tta", "8", "-p", "runtime", "graph")
    assert refused.returncode == 2 and "exported with 1 views" in refused.stderr


def test_the_service_answers_what_predict_answers(exported, drawn, tmp_path, server):
    "Turned by EXIF, in CMYK, with a palette, with alpha, in other formats: the same number."
    folder = tmp_path / "images"
    folder.mkdir()
    for i, file in enumerate(sorted((drawn / "jpeg" / "test").glob("*.jpg"))[:14]):
        image = Image.open(file).resize((150, 110))
        exif = image.getexif()
        exif[0x0112] = 1 + i % 8
        kinds = {8: "CMYK", 9: "P", 10: "RGBA", 11: "L"}
        suffix = {9: "png", 10: "png", 12: "webp", 13: "tiff"}.get(i, "jpg")
        exif_too = {"exif": exif} if i < 8 else {}
        image.convert(kinds.get(i, "RGB")).save(folder / f"{i}.{suffix}", **exif_too)
    out = tmp_path / "out.csv"
    words = ["predict", "--run", "tiny", "--source", f"folder={folder}", "--split", "all"]
    root = copy_of(exported, tmp_path / "project")
    succeed(root, *words, "--out", str(out))  # with the graph, in the precision of the service
    table = pd.read_csv(out, dtype={"image_name": str}).set_index("image_name")
    header = json.loads((exported / "weights" / "tiny" / "ensemble.json").read_text())
    allowed = 0.02 if "bf16" in header["cleared"] else 1e-5
    compared = 0
    for path in sorted(folder.iterdir()):
        said = post(server.url, path)
        if said["status"] == "ok":
            assert abs(said["score"] - table.loc[path.stem, "score"]) < allowed, path
            folds = table.loc[path.stem, ["fold0", "fold1"]].to_numpy(dtype=float)
            assert np.allclose(said["folds"], folds, atol=allowed)
            compared += 1
    assert compared >= 10


def test_the_demo_trains_says_where_it_is_and_answers(tmp_path):
    with serving(tmp_path, tmp_path / "log", "--demo") as server:
        server.wait("/healthz")
        with pytest.raises(urllib.error.HTTPError) as not_ready:
            urllib.request.urlopen(server.url + "/readyz", timeout=5)
        assert not_ready.value.code == 503 and not_ready.value.headers["Retry-After"]
        assert json.load(not_ready.value)["type"].endswith("not-ready")
        server.wait(seconds=400)
        with urllib.request.urlopen(server.url + "/examples/lesion-2.jpg", timeout=30) as reply:
            (tmp_path / "lesion.jpg").write_bytes(reply.read())
        said = post(server.url, tmp_path / "lesion.jpg", "?heatmap=true&prevalence=0.02")
        assert said["status"] == "ok" and said["heatmap"] and 0 < said["probability"] < 1
        assert server.stop() == 0
    with serving(tmp_path, tmp_path / "again", "--demo") as server:
        server.wait(seconds=30)  # kept from the first start


def test_a_demo_that_cannot_be_trained_ends_with_a_reason(tmp_path):
    (tmp_path / "output").write_text("in the way")
    done = program(tmp_path, "serve", "--demo", "--port", "0")
    assert done.returncode == 1
    assert "the demo model could not be made" in done.stderr


SHALLOW = {  # a family's layers, few of them
    "vit_tiny_patch16_224": {"depth": 2},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1), "embed_dim": 32, "num_heads": (1, 2)},
}


@pytest.mark.parametrize("arch", SHALLOW)
def test_token_and_channels_last_models_run_as_graphs(arch, tmp_path):
    import torch

    from melanoma.model.architecture import build
    from melanoma.predict.ensemble_graph import EnsembleGraph
    from melanoma.predict.onnx import write_onnx
    from melanoma.predict.runtimes import RUNTIMES

    config = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    origin = {"name": arch, "arguments": SHALLOW[arch], "config": config}
    models = [build("shallow", 64, origin).eval() for _ in range(2)]
    with torch.no_grad():
        for model in models:
            model.head.weight.mul_(10)
        module = EnsembleGraph(models)
        x = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
        expected = dict(zip(module.outputs, module.eval()(x), strict=True))
    assert ("activation" in expected) == arch.startswith("swin")
    write_onnx(module, 64, tmp_path / "ensemble.onnx")
    for name, kind in RUNTIMES.items():
        scored = kind(tmp_path / "ensemble.onnx")(x.numpy())
        for output, value in expected.items():
            found = getattr(scored, output)
            assert np.allclose(found, value, atol=1e-4, equal_nan=True), (name, output)
        assert (scored.activation is None) == arch.startswith("vit")


def test_a_model_without_an_exact_heat_map_says_so_everywhere(prepared, drawn, tmp_path):
    shutil.copytree(prepared, tmp_path / "project", ignore=shutil.ignore_patterns("weights"))
    root = tmp_path / "project"
    own = ["-p", "arch", "mobilenetv3_small_050", "-p", "pretrained", "none", "-p", "epochs", "1"]
    succeed(root, "train", "--run", "tiny", "--folds", "0-1", *own, "--force")
    succeed(root, "evaluate", "--run", "tiny")
    succeed(root, "export", "--run", "tiny")
    header = json.loads((root / "weights" / "tiny" / "ensemble.json").read_text())
    assert header["heat_scale"] is None and "mobilenetv3_small_050" in header["heatmap_reason"]
    with serving(root, tmp_path / "log", "--run", "tiny") as server:
        server.wait()
        with urllib.request.urlopen(server.url + "/v1/model", timeout=30) as reply:
            card = json.load(reply)
        images = sorted((drawn / "jpeg" / "test").glob("*.jpg"))[:8]
        answers = [post(server.url, image, "?heatmap=true") for image in images]
        assert server.stop() == 0
    assert card["heatmap"] is False and card["heatmap_reason"] == header["heatmap_reason"]
    scored = [said for said in answers if said["status"] == "ok"]
    assert scored and all(said["heatmap"] is None for said in answers)
    assert {said["heatmap_reason"] for said in scored} == {header["heatmap_reason"]}
    out = tmp_path / "errors.ipynb"
    notebook = REPOSITORY / "nbs/explore/04_errors.ipynb"
    done = run_papermill(root, notebook, out, "-p", "run", "tiny", "-p", "mistakes", "4")
    assert done.returncode == 0, done.stderr
    assert "no heat map: mobilenetv3_small_050" in out.read_text()
