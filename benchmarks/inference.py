"""The exported graph against torch: one image, batches with decoding, agreement, and the start.

Two folds of SE-ResNeXt50 are trained on ISIC 2017 (MELANOMA_DATA) at 128 px for two epochs, unless
the run is there already; then baseline and graph take turns in one process, and ratios are medians
over the rounds. The starts are of processes of their own. The last line is JSON."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import numpy as np
import torch
from PIL import Image
from scipy.special import expit

from melanoma.predict.ensemble import load_ensemble
from melanoma.predict.export import export_run
from melanoma.predict.graph import graph_paths, open_graph
from melanoma.predict.runtimes import OpenVino, cpu_has_bf16
from melanoma.run.layout import Run

MELANOMA = str(Path(sys.executable).with_name("melanoma"))
TORCH_START = """
import sys
from pathlib import Path
import torch
from melanoma.model.checkpoint import load_checkpoint
models = [load_checkpoint(Path(p))[0] for p in sys.argv[1:]]
print("ready", flush=True)
"""


def train(run: Run, data: Path, arch: str, folds: int, epochs: int) -> None:
    "Prepare, split, train and export; what is done is skipped."
    own = ["--run", run.name]
    source = f"isic2017={data / 'isic2017'}"
    start = ["-p", "pretrained", "none"] if arch == "se_resnext50_32x4d" else []
    recipe = ["-p", "arch", arch, "-p", "epochs", str(epochs), "-p", "lr", "3e-4", *start]
    for words in (
        ["prepare", *own, "--size", "128", "--source", source],
        ["folds", *own, "--n-folds", str(folds)],
        ["train", *own, "--folds", "all", *recipe, "-p", "policy", "light"],
        ["evaluate", *own],
    ):
        subprocess.run([MELANOMA, *words], check=True, stdout=subprocess.DEVNULL)
    export_run(run)


def seconds(work: Callable[[], object]) -> float:
    "How long a call takes."
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def turns(rounds: int, *works: Callable[[], object]) -> list[list[float]]:
    "Seconds of several ways, taking turns."
    for work in works:
        work()
    return [
        list(t) for t in zip(*([seconds(w) for w in works] for _ in range(rounds)), strict=True)
    ]


def ratio(base: list[float], ours: list[float]) -> float:
    "Median of the rounds' ratios."
    return statistics.median(b / o for b, o in zip(base, ours, strict=True))


class Eager:
    "The folds in torch, fp32, as a notebook would write it."

    def __init__(self, run: Run):
        self.models = list(load_ensemble(run).models.values())

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        "uint8 (n, size, size, 3) → (n, folds)."
        with torch.no_grad():
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
            return np.stack([model(x).numpy() for model in self.models], 1)

    def files(self, paths: list[Path]) -> np.ndarray:
        "The original loop: open, resize, stack, predict."
        squares = [
            np.asarray(Image.open(p).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS))
            for p in paths
        ]
        return self.logits(np.stack(squares))


def until_ready(run: Run) -> float:
    "Seconds from the command to the first 200 of /readyz."
    start = time.perf_counter()
    port = 8391
    words = [MELANOMA, "serve", "--run", run.name, "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                return time.perf_counter() - start
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None:
                    sys.exit("melanoma serve ended before it was ready")
                time.sleep(0.005)
    finally:
        process.terminate()
        process.wait()


def until_loaded(run: Run) -> float:
    "Seconds until a process has imported torch and loaded the folds."
    start = time.perf_counter()
    paths = [str(p) for p in sorted(run.weights.glob("fold*.safetensors"))]
    words = [sys.executable, "-c", TORCH_START, *paths]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == "ready"
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="bench-inference")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    data = Path(os.environ.get("MELANOMA_DATA", "data"))
    run = Run.named(arguments.run)
    os.environ["MELANOMA_ROOT"] = str(run.root)
    train(run, data, "se_resnext50_32x4d", 2, arguments.epochs)
    eager = Eager(run)
    fp32, path = open_graph(run, "openvino", "fp32"), graph_paths(run.weights)[0]
    bf16 = OpenVino(path, "bf16", cache=path.with_suffix(".cache"))
    cleared = "bf16" in fp32.header["cleared"]
    print(f"{run.name}: {fp32.header['arch']}, {len(fp32.folds)} folds, 128 px")
    print(f"bf16 in hardware: {cpu_has_bf16()}; passed the parity check: {cleared}")
    files = sorted((data / "isic2017").rglob("*.jpg"))[:128]
    squares = np.stack([fp32.preprocessing(p) for p in files])
    found: dict[str, float] = {}

    one = squares[:1]
    base, single, half = turns(
        arguments.rounds, lambda: eager.logits(one), lambda: fp32(one), lambda: bf16(one)
    )
    found["batch1_bf16_ratio"], found["batch1_fp32_ratio"] = ratio(base, half), ratio(base, single)
    times = [f"{1e3 * statistics.median(t):.1f}" for t in (base, single, half)]
    print(f"one image: torch {times[0]} ms, graph fp32 {times[1]} ms, bf16 {times[2]} ms")

    reference = expit(eager.logits(squares).astype(float)).mean(1)
    for name, way in (("fp32", fp32), ("bf16", bf16)):
        logits = np.concatenate([way(squares[i : i + 16]).logits for i in range(0, 128, 16)])
        dp = np.abs(expit(logits.astype(float)).mean(1) - reference).max()
        print(f"{len(squares)} real images: {name} max |dp| {dp:.1e}")
        if name == "fp32":
            found["fp32_max_dp"] = float(dp)

    batches = [files[i : i + 32] for i in range(0, 128, 32)]
    with ThreadPoolExecutor(2) as pool:

        def ours() -> None:
            "Decode the next batch while this one is scored."
            decoding = [[pool.submit(fp32.preprocessing, p) for p in batch] for batch in batches]
            for batch in decoding:
                bf16(np.stack([d.result() for d in batch]))

        base, fast = turns(
            max(3, arguments.rounds // 3), lambda: [eager.files(b) for b in batches], ours
        )
    found["batch32_ratio"] = ratio(base, fast)
    rates = [len(files) / statistics.median(t) for t in (base, fast)]
    print(f"batches of 32, decoding included: {rates[0]:.1f} and {rates[1]:.1f} images/s")

    starts = [(until_loaded(run), until_ready(run)) for _ in range(8)][1:]
    loaded, ready = ([pair[i] for pair in starts] for i in (0, 1))
    found["start_ratio"] = 1 / ratio(loaded, ready)
    times = [f"{statistics.median(t):.2f}" for t in (loaded, ready)]
    print(f"torch with the folds {times[0]} s, the command to /readyz {times[1]} s")
    print(json.dumps({k: float(f"{v:.4g}") for k, v in found.items()}))


if __name__ == "__main__":
    main()
