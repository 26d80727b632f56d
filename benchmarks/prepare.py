"""How fast JPEGs become squares: Pillow as a notebook would write it, against the library.

Photos of MELANOMA_DATA/originals are enlarged to 12 and 24 megapixels. Baseline and library take
turns over the same files in one process tree; ratios are medians over the rounds. The last line is
JSON."""

import argparse
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported

import cv2
import numpy as np
from PIL import Image, ImageCms

from melanoma.core.parallel import ordered_map
from melanoma.data.build import build_store
from melanoma.data.decoding import decode
from melanoma.data.preprocessing import Preprocessing, resize
from melanoma.data.sources import Source
from melanoma.data.table import lesion_table

SIZES = ((4000, 3000), (6000, 4000))


def baseline(path: str) -> np.ndarray:
    "All pixels, then Lanczos: what a notebook does."
    return np.asarray(Image.open(path).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS))


def enlarged(folder: Path, originals: Path) -> list[str]:
    "20 large photos, JPEG quality 90, 4:2:0."
    files = sorted(originals.glob("*.jpg"))[:10]
    if len(files) < 10:
        sys.exit(f"{originals} has {len(files)} JPEGs; 10 are needed: set MELANOMA_DATA.")
    paths = []
    for size in SIZES:
        for file in files:
            path = folder / f"{file.stem}_{size[0]}.jpg"
            photo = Image.open(file).convert("RGB").resize(size, Image.Resampling.LANCZOS)
            photo.save(path, quality=90, subsampling="4:2:0")
            paths.append(str(path))
    return paths


def profiled(paths: list[str], folder: Path) -> list[str]:
    "The same photos with an sRGB profile: the pixels stay, and the time should."
    folder.mkdir()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    head = b"ICC_PROFILE\0\1\1" + profile
    for path in paths:
        data = Path(path).read_bytes()
        segment = b"\xff\xe2" + (len(head) + 2).to_bytes(2, "big") + head
        (folder / Path(path).name).write_bytes(data[:2] + segment + data[2:])
    return [str(folder / Path(path).name) for path in paths]


def seconds(work: Callable[[], object]) -> float:
    "How long a call takes."
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def prepare(paths: list[str], folder: Path, sizes: list[int], workers: int = 0) -> None:
    "A whole store, from the table to the manifest."
    table = lesion_table([Source.parse(f"folder={Path(paths[0]).parent}")])
    build_store(table, folder, sizes, workers=workers)
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=15, help="times the files, on two processes")
    arguments = parser.parse_args()
    originals = Path(os.environ.get("MELANOMA_DATA", "data")) / "originals"
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        paths = enlarged(photos, originals)
        megabytes = sum(Path(p).stat().st_size for p in paths) / 1e6
        told = profiled(paths, Path(folder) / "profiled")
        rule = Preprocessing(128)
        assert all(np.array_equal(rule(a), rule(b)) for a, b in zip(paths, told, strict=True))
        ours = [rule(p).astype(int) for p in paths]
        full = [resize(decode(p), 128).astype(int) for p in paths]
        errors = [float(np.abs(a - b).mean()) for a, b in zip(ours, full, strict=True)]

        prepare(paths[:2], Path(folder) / "warm-up", [128])  # imports
        rounds: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            naive = seconds(lambda: [baseline(p) for p in paths]) / len(paths)
            one = seconds(lambda: [rule(p) for p in paths]) / len(paths)
            # one file after the other, so that both meet the same machine
            pairs = [
                (seconds(lambda: rule(a)), seconds(lambda: rule(b)))  # noqa: B023
                for a, b in zip(paths, told, strict=True)
            ]
            many = paths * arguments.repeat
            two = seconds(lambda: list(ordered_map(rule, many, 2))) / len(many)  # noqa: B023
            store = Path(folder) / "store"
            largest = seconds(lambda: prepare(paths, store, [512], 1))  # noqa: B023
            three = seconds(lambda: prepare(paths, store, [128, 256, 512], 1))  # noqa: B023
            read = seconds(lambda: [io.BytesIO(Path(p).read_bytes()) for p in paths]) / len(paths)
            for name, value in (
                ("Pillow, one process", naive), ("ours, one process", one),
                ("ours, two processes with their start", two), ("reading alone", read),
            ):  # fmt: skip
                rounds.setdefault(name, []).append(1e3 * value)
            rounds.setdefault("decode_ratio_1p", []).append(naive / one)
            profile_cost = statistics.median(b / a for a, b in pairs)
            rounds.setdefault("srgb_profile_ratio", []).append(profile_cost)
            rounds.setdefault("decode_ratio_2p", []).append(naive / two)
            rounds.setdefault("three_sizes_ratio", []).append(three / largest)

    median = {name: statistics.median(values) for name, values in rounds.items()}
    print(f"{len(paths)} JPEGs of 12 and 24 megapixels, {megabytes:.1f} MB, to 128 px; "
          f"medians of {arguments.rounds} rounds")  # fmt: skip
    for name, value in median.items():
        low, high = min(rounds[name]), max(rounds[name])
        unit = "×" if name.endswith(("1p", "2p", "ratio")) else "ms an image"
        print(f"  {name:38} {value:8.2f} {unit} ({low:.2f} to {high:.2f})")
    rate = megabytes / len(paths) / median["ours, one process"] * 1e3
    print(f"  {rate:.0f} MB of JPEG a second and process; error against a full decode: "
          f"mean {np.mean(errors):.3f}, worst file {max(errors):.3f} of 255")  # fmt: skip
    result = {k: round(v, 3) for k, v in median.items() if k.endswith(("1p", "2p", "ratio"))}
    print(json.dumps(result | {"decode_mae": round(max(errors), 3)}))


if __name__ == "__main__":
    main()
