"""Does the shipped model say the same everywhere it can be asked?

    MELANOMA_DATA=data python benchmarks/parity.py [--kernel PYTHON]

A sample of the images whose out-of-fold logits are kept with the model (weights/isic/oof.csv; they
are of the weights before these were rounded, in the precision of the machine that trained them) is
scored by the same fold's 8-bit weights, in OpenVINO and in ONNX Runtime.
Then the ensemble's probability of the first of these images, as files: by the library, the command
line, the service, and another Python, such as a Kaggle kernel's with melanoma's wheel in it. Where
the prepared images are already there (run `parity`), they are read. The last line is JSON."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import spearmanr

from melanoma import Predictor
from melanoma.data.store import Store
from melanoma.predict.graph import open_graph
from melanoma.run.layout import Run, shipped_run
from melanoma.stats.metrics import METRICS
from model import MELANOMA, stages

KEYS = ["source", "image_name"]
PREVALENCE = 0.05


def prepared(data: Path) -> Run:
    "Prepare the images as `make model` does."
    run = Run.named("parity")
    os.environ["MELANOMA_ROOT"] = str(run.root)
    command = stages(data, run.root)[0]
    words = [run.name if word == "dinov2" else word for word in command]
    subprocess.run([MELANOMA, *words], check=True, stdout=sys.stderr)
    return run


def sampled(run: Run, n: int) -> tuple[pd.DataFrame, np.ndarray]:  # rows of oof.csv; pixels
    "Draw images of oof.csv, the same each time."
    shipped = shipped_run()
    assert shipped is not None
    names = {"image_name": str, "source": str}
    oof = pd.read_csv(shipped.weights / "oof.csv", dtype=names)
    store = Store.open(run.store)
    rows = store.table[[*KEYS, "path"]].astype(str).reset_index(names="row")
    chosen = oof.merge(rows, on=KEYS).sample(n, random_state=0).reset_index(drop=True)
    pixels = np.stack([store.images[int(row)] for row in chosen["row"]])
    # SIIM's copies have red and blue exchanged; oof.csv is of images that were put right
    swapped = (chosen["source"] == "siim2020").to_numpy()
    pixels[swapped] = pixels[swapped][..., ::-1]
    return chosen, pixels


def of_own_fold(pixels: np.ndarray, fold: pd.Series, runtime: str) -> np.ndarray:  # logits (n,)
    "Score each image by the fold that held it out."
    run = shipped_run()
    assert run is not None
    graph = open_graph(run, runtime, "fp32")
    logits = [graph(pixels[i : i + 32]).logits for i in range(0, len(pixels), 32)]
    places = [graph.folds.index(int(k)) for k in fold]
    return np.concatenate(logits)[np.arange(len(pixels)), places]


def as_json(said: str) -> dict[str, float]:  # probability by name
    "Read what `melanoma predict --json` prints."
    return {Path(one["name"]).name: one["probability"] for one in json.loads(said)["images"]}


def served(files: list[Path]) -> dict[str, float]:
    "Ask the service, one image after another."
    with tempfile.TemporaryDirectory() as folder:
        words = ["serve", "--port", "8765", "--precision", "fp32"]
        log = (Path(folder) / "log").open("w")
        server = subprocess.Popen([MELANOMA, *words], cwd=folder, stdout=log, stderr=log)
        transport = httpx.HTTPTransport(retries=20)
        try:
            with httpx.Client(
                base_url="http://127.0.0.1:8765", transport=transport, timeout=60
            ) as client:
                found = {}
                for path in files:
                    sent = {"image": (path.name, path.read_bytes(), "image/jpeg")}
                    url = f"/v1/predict?prevalence={PREVALENCE}"
                    answer = client.post(url, files=sent).raise_for_status().json()
                    found[path.name] = answer.get("probability") or float("nan")
                return found
        finally:
            server.terminate()
            server.wait()
            log.close()


def compared(
    one: np.ndarray, other: np.ndarray, target: np.ndarray | None = None
) -> dict[str, Any]:
    "Compare two lists of probabilities, of what both know."
    known = np.isfinite(one) & np.isfinite(other)
    found = {
        "n": int(known.sum()),
        "max_dp": float(np.abs(one - other)[known].max()),
        "spearman": float(spearmanr(one[known], other[known]).statistic),
        "unlike": int((np.isfinite(one) != np.isfinite(other)).sum()),  # refused by one of them
    }
    if target is not None:
        auroc = METRICS["auroc"].function
        found["dauroc"] = float(
            auroc(target[known], other[known]) - auroc(target[known], one[known])
        )
    return {k: float(f"{v:.3g}") if k != "spearman" else round(v, 6) for k, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--files", type=int, default=200, help="of them, scored as files")
    parser.add_argument("--kernel", help="another Python in which melanoma is installed")
    given = parser.parse_args()
    run = prepared(Path(os.environ.get("MELANOMA_DATA", "data")))
    chosen, pixels = sampled(run, given.images)
    target, weights = chosen["target"].to_numpy(), expit(chosen["logit"].to_numpy())
    found = {}
    for runtime in ("openvino", "onnxruntime"):
        own = expit(of_own_fold(pixels, chosen["fold"], runtime))
        found[f"kept logits / 8-bit graph, {runtime}"] = compared(weights, own, target)

    # which the reader of a single file cannot know
    files = [Path(p) for p in chosen.loc[chosen["source"] != "siim2020", "path"]][: given.files]
    names = [path.name for path in files]
    library = Predictor.from_run().predict(files, prevalence=PREVALENCE).probability
    words = ["predict", *map(str, files), "--json", "--prevalence", str(PREVALENCE)]
    answers = {
        "command": as_json(subprocess.check_output([MELANOMA, *words], text=True)),
        "service": served(files),
    }
    if given.kernel:
        call = [given.kernel, "-c", "from melanoma.cli.main import main; main()", *words]
        answers["kernel"] = as_json(subprocess.check_output(call, text=True))
    for who, said in answers.items():
        other = np.array([said.get(name) or np.nan for name in names], dtype=float)
        found[f"library / {who}"] = compared(library, other)
    for pair, row in found.items():
        print(f"{pair:40}", "  ".join(f"{k} {v}" for k, v in row.items()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
