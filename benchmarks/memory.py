"""What a store costs: memory of training at 512 and at 128 px, of 33,126 and of 1,000 images; time
to the first batch; speed of shuffled reads.

Peaks are of unique memory (USS: what would be free if the processes ended) over the whole process
tree, each run in a process of its own, the sides in turn. The last line is JSON. Needs 30 GB of
disk."""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil

from melanoma.data.preprocessing import Preprocessing
from melanoma.data.store import Store

N = 33_126  # images of SIIM-2020's training set


def make_store(folder: Path, pixels: np.ndarray, n: int) -> Path:
    "A store as `melanoma prepare` leaves it, its images repeated to n."
    size = pixels.shape[1]
    (folder / str(size)).mkdir(parents=True)
    with (folder / str(size) / "images.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (n, size, size, 3)}
        )
        for start in range(0, n, len(pixels)):
            file.write(pixels[: n - start].tobytes())
    table = pd.DataFrame(
        {
            "source": "siim2020",
            "image_name": [f"ISIC_{i:07d}" for i in range(n)],
            "path": [f"data/siim2020/jpeg/train/ISIC_{i:07d}.jpg" for i in range(n)],
            "patient_id": [f"IP_{i // 16:07d}" for i in range(n)],
            "group": [f"IP_{i // 16:07d}" for i in range(n)],
            "target": (np.arange(n) % 56 == 0).astype(int),
            "sha256": [f"{i:064x}" for i in range(n)],
            "phash": [f"{i:064x}" for i in range(n)],
            "width": 6000,
            "height": 4000,
        }
    )
    table.to_parquet(folder / "table.parquet", index=False)
    (folder / "rejected.csv").write_text("source,image_name,path,reason\n")
    rule = Preprocessing(size).to_dict()
    (folder / "manifest.json").write_text(json.dumps({"sizes": [size], "preprocessing": rule}))
    return folder


def train_steps(folder: str, batch: int, steps: int) -> None:
    "Train EfficientNet-Lite0 on rows drawn from the whole store, with the library's own parts."
    import torch

    from melanoma.core.device import choose_device
    from melanoma.data.augmentation import policy
    from melanoma.data.dataset import LesionDataset, make_loader
    from melanoma.model.classifier import create_model
    from melanoma.run.config import OptimisationConfig
    from melanoma.train.fold_data import STORE_COLUMNS
    from melanoma.train.loop import train_epoch
    from melanoma.train.loss import make_loss
    from melanoma.train.objective import Objective
    from melanoma.train.optimisation import make_optimizer

    store = Store.open(Path(folder), columns=STORE_COLUMNS)
    rows = np.random.default_rng(0).choice(len(store), batch * steps, replace=True)
    size = store.preprocessing.size
    targets = store.table["target"].to_numpy()
    data = LesionDataset(store.images, rows, targets, policy("strong", size))
    model, _ = create_model("tf_efficientnet_lite0", "none", 0)
    hardware = choose_device("cpu", "fp32", 0)
    model = hardware.to_device(model)
    scaler = torch.amp.GradScaler(enabled=False)
    optimizer = make_optimizer(model, OptimisationConfig())
    loader = make_loader(data, batch, shuffle=True)
    objective = Objective(make_loss("bce", 1.0, 0.0))
    train_epoch(model, loader, objective, optimizer, hardware, scaler)


def peak_uss(arguments: list[str]) -> float:  # MB
    "Run a call of this script, watch its process tree, return the peak of the sum."
    process = psutil.Popen([sys.executable, __file__, *arguments], stderr=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        total = 0
        with contextlib.suppress(psutil.Error):  # it ended between two looks
            for one in [process, *process.children(recursive=True)]:
                total += one.memory_full_info().uss
        peak = max(peak, total / 1e6)
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{arguments} failed")
    return peak


def first_batch(folder: Path) -> float:
    "Open a store, make the loader, take one batch."
    from melanoma.data.dataset import LesionDataset, make_loader
    from melanoma.train.fold_data import STORE_COLUMNS

    start = time.perf_counter()
    store = Store.open(folder, columns=STORE_COLUMNS)
    data = LesionDataset(store.images, np.arange(len(store)), store.table["target"].to_numpy())
    next(iter(make_loader(data, 32, shuffle=True)))
    return time.perf_counter() - start


def naive_first_batch(folder: Path) -> float:
    "The whole array into RAM, then the same batch."
    import torch

    start = time.perf_counter()
    images = np.load(folder / "128" / "images.npy")
    rows = np.random.default_rng(0).permutation(len(images))[:32]
    torch.from_numpy(images[rows]).permute(0, 3, 1, 2)
    return time.perf_counter() - start


def read_rates(folder: Path, jpegs: list[bytes]) -> tuple[float, float]:
    "Images a second: shuffled rows of the store, and cv2 decoding as many JPEGs of the same size."
    images = Store.open(folder).images
    order = np.random.default_rng(0).permutation(len(images))[:8000]
    start = time.perf_counter()
    for row in order:
        images[row]
    ours = len(order) / (time.perf_counter() - start)
    start = time.perf_counter()
    for row in order:
        data = np.frombuffer(jpegs[row % len(jpegs)], np.uint8)
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return ours, len(order) / (time.perf_counter() - start)


def real_pixels(size: int, n: int) -> np.ndarray:
    "Lesions of MELANOMA_DATA at a size."
    data = Path(os.environ.get("MELANOMA_DATA", "data"))
    files = sorted((data / "isic2017" / "images").glob("*.jpg"))[:n]
    if not files:
        sys.exit(f"{data} has no isic2017/images: set MELANOMA_DATA.")
    rule = Preprocessing(size)
    return np.stack([rule(file) for file in files])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", default=None, help="where 30 GB may be written")
    parser.add_argument("--train", nargs=3, metavar=("STORE", "BATCH", "STEPS"))
    arguments = parser.parse_args()
    if arguments.train:
        train_steps(arguments.train[0], *map(int, arguments.train[1:]))
        return
    place = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        small, large = real_pixels(128, 500), real_pixels(512, 250)
        print(f"writing {N:,} images at 128 px (1.6 GB) and at 512 px (26 GB)", flush=True)
        at_128 = make_store(place / "128", small, N)
        at_512 = make_store(place / "512", large, N)
        few = make_store(place / "few", large, 1000)
        steps = str(arguments.steps)
        runs = {
            "33,126 at 128 px, batch 32": ["--train", str(at_128), "32", steps],
            "33,126 at 512 px, batch 2": ["--train", str(at_512), "2", steps],
            "1,000 at 512 px, batch 2": ["--train", str(few), "2", steps],
        }
        peaks: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(arguments.rounds):
            for name, call in runs.items():
                peaks[name].append(peak_uss(call))
                print(f"round {number + 1}: {name}: {peaks[name][-1]:,.0f} MB", flush=True)
        a, b, c = (np.array(peaks[name]) for name in runs)

        jpegs = [cv2.imencode(".jpg", p[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
                 for p in small]  # fmt: skip
        cv2.setNumThreads(1)
        first_batch(at_128)  # modules imported, page cache warm
        naive_first_batch(at_128)
        opened = [(naive_first_batch(at_128), first_batch(at_128)) for _ in range(7)]
        rates = [read_rates(at_128, jpegs) for _ in range(7)]
    finally:
        shutil.rmtree(place)
    naive, ours = (statistics.median(x) for x in zip(*opened, strict=True))
    print(f"first batch: np.load {naive * 1e3:,.0f} ms, store {ours * 1e3:.1f} ms")
    read, decoded = (statistics.median(x) for x in zip(*rates, strict=True))
    print(f"shuffled reads {read:,.0f} images/s, cv2 decoding {decoded:,.0f} images/s")
    result = {
        "memory_ratio_512_128": float(np.median(b / a)),
        "memory_ratio_33k_1k": float(np.median(b / c)),
        "first_batch_ratio": statistics.median(n / o for n, o in opened),
        "store_read_ratio": statistics.median(r / d for r, d in rates),
    }
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
