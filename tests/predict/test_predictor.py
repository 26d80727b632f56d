"""One probability, whoever asks: the library, the command line, the executed notebook, the service
and the gallery. (A Kaggle kernel's is compared with them in test_kaggle.)"""

import json
import shutil

import httpx
import nbformat
import numpy as np
import pandas as pd
import pytest

from melanoma import PredictConfig, Predictor, Run
from melanoma.core.errors import BadInput
from melanoma.evaluation.gallery import Gallery
from support.commands import TINY, copy_of, succeed
from support.servers import serving


@pytest.fixture
def photos(exported, drawn, tmp_path):
    "Four drawn lesions that the model takes for lesions, as files, and one file that is no image."
    files = sorted((drawn / "jpeg" / "test").glob("*.jpg"))
    status = Predictor.from_run(Run.named("tiny", exported)).predict(files).status
    taken = [path for path, said in zip(files, status, strict=True) if said == "ok"][:4]
    assert len(taken) == 4
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, path in enumerate(taken):
        shutil.copy(path, folder / f"lesion{i}.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("runtime", ["graph", "torch"])
def test_everybody_says_the_same(exported, photos, tmp_path, runtime):
    run = Run.named("tiny", copy_of(exported, tmp_path / "project"))
    config = PredictConfig.from_parameters(runtime=runtime, tta=1)
    predictor = Predictor.from_run(run, config)
    files = sorted(photos.glob("lesion*.jpg"))
    predictions = predictor.predict([*files, photos / "broken.jpg"])
    assert predictions.status == ["ok"] * 4 + ["refused"]
    assert predictions.probability.shape == (5,) and np.isnan(predictions.probability[4])
    expected = predictions.probability[:4]
    data = predictor.predict([path.read_bytes() for path in files])
    assert np.array_equal(data.probability, expected)
    one = predictor.predict(files[2])
    assert one.probability[0] == pytest.approx(expected[2], abs=1e-6)

    out = run.folder / "predictions.csv"
    words = ("predict", "--run", "tiny", "--source", f"folder={photos}", "--split", "all")
    succeed(run.root, *words, "--tta", "1", "-p", "runtime", runtime)
    said = pd.read_csv(out).set_index("image_name")
    stems = [path.stem for path in files]
    assert said.loc[stems, "probability"].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert said.loc["broken", "status"].startswith("rejected: ")
    gallery = Gallery.of_predictions(run).table.set_index("image_name")
    assert gallery.loc[stems, "shown"].to_numpy() == pytest.approx(expected, abs=1e-6)
    notebook = nbformat.read(run.folder / "predict.ipynb", as_version=4)
    shown = json.dumps([c.get("outputs", []) for c in notebook.cells if c.cell_type == "code"])
    assert f"{expected[0]:.4f}" in shown or str(round(expected[0], 4)) in shown


def test_the_service_says_what_the_library_says(exported, photos, tmp_path):
    run, files = Run.named("tiny", exported), sorted(photos.glob("lesion*.jpg"))
    predictor = Predictor.from_run(run, PredictConfig.from_parameters(precision="fp32"))
    with serving(exported, tmp_path / "log", "--run", "tiny", "--precision", "fp32") as server:
        server.wait()
        for path in files:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                files_sent = {"image": (path.name, path.read_bytes(), "image/jpeg")}
                said = client.post("/v1/predict?prevalence=0.02", files=files_sent).json()
            alone = predictor.predict(path, prevalence=0.02)
            assert said["status"] == alone.status[0]
            if said["status"] == "ok":
                assert said["study_probability"] == pytest.approx(
                    alone.study_probability[0], abs=1e-6
                )
                assert said["score"] == pytest.approx(alone.score[0], abs=1e-6)
                assert said["probability"] == pytest.approx(alone.probability[0], abs=1e-6)


def test_the_patients_lesions_are_compared_with_each_other(exported, photos):
    predictor = Predictor.from_run(Run.named("tiny", exported))
    files = sorted(photos.glob("lesion*.jpg"))
    together = predictor.predict(files, patients="ann").context
    assert sorted(together.rank) == [1, 2, 3, 4] and np.isfinite(together.outlier).all()
    apart = predictor.predict(files, patients=["ann", "bob", "cy", None]).context
    assert apart.rank[:3].tolist() == [1, 1, 1] and np.isnan(apart.rank[3])
    with pytest.raises(BadInput, match="2 patients for 4 images"):
        predictor.predict(files, patients=["ann", "bob"])


def test_a_run_that_does_not_exist_is_asked_about(exported, monkeypatch):
    monkeypatch.setenv("MELANOMA_ROOT", str(exported))
    with pytest.raises(BadInput, match="Did you mean 'tiny'"):
        Predictor.from_run("tiny2")


def test_the_verbs_make_a_run(drawn, tmp_path):
    "As the README's lines of Python do."
    from melanoma import (
        FoldsConfig,
        PrepareConfig,
        TrainConfig,
        evaluate,
        make_folds,
        prepare,
        train_fold,
    )

    run = Run.named("tiny", tmp_path)
    sources = f"siim2020={drawn}"
    store = prepare(run, PrepareConfig.from_parameters(sources=sources, sizes=32))
    folds = make_folds(run, FoldsConfig(n_folds=2))
    assert set(folds["fold"]) == {0, 1} and len(folds) <= len(store)
    recipe = dict(zip(TINY[1::3], TINY[2::3], strict=True)) | {"epochs": 1, "device": "cpu"}
    for fold in (0, 1):
        fitted = train_fold(run, TrainConfig.from_parameters(recipe, fold=fold))
        assert len(fitted.history) == 1
    evaluation = evaluate(run)
    assert evaluation.pooled["n"] == len(folds) and not evaluation.missing
    again = train_fold(run, TrainConfig.from_parameters(recipe, fold=1))
    assert again.best_epoch == fitted.best_epoch and again.history[0]["epoch"] == 0
    assert len(Predictor.from_run(run).predict(store)) == len(store)
