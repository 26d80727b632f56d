"""The service of a run trained on real images: does it answer as `melanoma predict` does, which
pictures does it refuse, and does it refuse real lesions?

Needs MELANOMA_DATA, an exported run (--run) and scikit-image. The last line is JSON."""

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from skimage import data as bundled
from sklearn.datasets import load_digits, load_sample_images

from melanoma.data.preprocessing import resize
from melanoma.run.layout import Run
from melanoma.serve.service import Service, decode
from melanoma.serve.settings import Settings
from melanoma.serve.uploads import Limits, Upload

MELANOMA = str(Path(sys.executable).with_name("melanoma"))
PICTURES = """astronaut camera cat chelsea coffee coins colorwheel grass gravel brick page text
hubble_deep_field immunohistochemistry logo moon retina rocket clock horse checkerboard
microaneurysms"""


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    "Any bundled picture as uint8 RGB."
    x = np.asarray(pixels).astype(np.float64)
    x = 255 * (x - x.min()) / max(float(np.ptp(x)), 1e-9)
    x = np.repeat(x[..., None], 3, 2) if x.ndim == 2 else x[..., :3]
    return np.ascontiguousarray(x.round().astype(np.uint8))


def other_pictures() -> list[tuple[str, np.ndarray]]:
    "100 pictures that show no lesion: bundled ones, crops of them, drawings, noise, text."
    rng, found = np.random.default_rng(0), []
    for name in PICTURES.split():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append((name, as_rgb(getattr(bundled, name)())))
        except Exception as error:  # some of them would have to be downloaded
            print(f"  without {name}: {type(error).__name__}")
    found += [(f"photo {i}", x) for i, x in enumerate(load_sample_images().images)]
    found += [
        (f"digit {i}", as_rgb(np.kron(load_digits().images[i], np.ones((16, 16)))))
        for i in range(4)
    ]
    whole = list(found)
    while len(found) < 78:
        name, picture = whole[len(found) % len(whole)]
        side = int(rng.uniform(0.35, 0.8) * min(picture.shape[:2]))
        y, x = (rng.integers(0, n - side + 1) for n in picture.shape[:2])
        found.append((f"crop of {name}", np.ascontiguousarray(picture[y : y + side, x : x + side])))
    for i in range(6):
        found.append((f"noise {i}", rng.integers(0, 256, (160 + 30 * i, 200, 3), dtype=np.uint8)))
    for i in range(8):
        page = np.full((240, 240, 3), 255, np.uint8)
        for line in range(9):
            words = "".join(rng.choice(list("etaoin shrdlu cmfwyp"), 24))
            cv2.putText(page, words, (6, 24 + 25 * line), 0, 0.5 + 0.02 * i, (20, 20, 20), 1)
        found.append((f"text {i}", page))
    while len(found) < 100:
        sheet = np.full((220, 220, 3), rng.integers(200, 256, 3), np.uint8)
        for _ in range(7):
            ink = tuple(map(int, rng.integers(0, 256, 3)))
            a, b = (tuple(map(int, rng.integers(0, 220, 2))) for _ in range(2))
            if rng.random() < 0.5:
                cv2.rectangle(sheet, a, b, ink, -1)
            else:
                cv2.line(sheet, a, b, ink, int(rng.integers(2, 9)))
        found.append((f"drawing {len(found)}", sheet))
    return found


def encoded(pixels: np.ndarray) -> bytes:
    "PNG bytes."
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def answer(service: Service, data: bytes) -> dict[str, Any]:
    "What the service says of one image."
    model = service.ready()
    one = decode(Upload(0, "x", data), model.responses.predictor, Limits())
    if one.refusal:
        return model.responses.refused(one.refusal)
    assert one.square is not None
    scored = model.batcher.score(one.square[None])
    return model.responses.answer(scored, one.image)


def traps(folder: Path, files: list[Path]) -> None:
    "Real images, a part of them turned by EXIF, in CMYK, with a palette, with alpha, in 16 bits."
    for i, file in enumerate(files):
        image = Image.open(file).convert("RGB")
        exif = image.getexif()
        if i % 5 == 1:
            exif[0x0112] = 1 + i % 8
            image.save(folder / f"{i}.jpg", quality=92, exif=exif)
        elif i % 10 == 2:
            image.convert("CMYK").save(folder / f"{i}.jpg", quality=92)
        elif i % 10 == 3:
            image.convert("RGBA").save(folder / f"{i}.png")
        elif i % 10 == 4:
            image.quantize(128).save(folder / f"{i}.png")
        elif i % 10 == 7:
            grey = np.asarray(ImageOps.grayscale(image)).astype(np.uint16) * 257
            Image.fromarray(grey).save(folder / f"{i}.png")
        else:
            (folder / f"{i}{file.suffix}").write_bytes(file.read_bytes())


def parity(run: Run, files: list[Path], port: int) -> dict[str, float]:
    "Largest difference between the service over HTTP and `melanoma predict`, in each precision."
    found = {}
    header = json.loads((run.weights / "ensemble.json").read_text())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        folder.mkdir()
        traps(folder, files)
        for precision in header["cleared"]:
            out = Path(name) / f"{precision}.csv"
            words = [MELANOMA, "predict", "--run", run.name, "--source", f"folder={folder}"]
            words += ["--split", "all", "--out", str(out), "-p", "precision", precision]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            table = pd.read_csv(out, dtype={"image_name": str}).set_index("image_name")
            served = [MELANOMA, "serve", "--run", run.name, "--port", str(port)]
            process = subprocess.Popen(
                [*served, "--precision", precision],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                worst, n = 0.0, 0
                for path in sorted(folder.iterdir()):
                    said = post(port, path.read_bytes())
                    if said["status"] == "ok":
                        p = table.loc[path.stem, "score"]
                        worst, n = max(worst, abs(said["score"] - p)), n + 1
            finally:
                process.terminate()
                process.wait()
            print(f"{precision}: {n} of {len(files)} images scored, max |dp| {worst:.1e}")
            found[f"parity_{precision}"] = worst
    return found


def post(port: int, data: bytes) -> dict[str, Any]:
    "One image over HTTP; waits for the service to be there."
    body = b'--e\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + data
    url = f"http://127.0.0.1:{port}/v1/predict"
    kind = {"Content-Type": "multipart/form-data; boundary=e"}
    for _ in range(100):
        try:
            request = urllib.request.Request(url, body + b"\r\n--e--\r\n", kind)
            with urllib.request.urlopen(request, timeout=30) as reply:
                said: dict[str, Any] = json.load(reply)
                return said
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.1)
    sys.exit("the service is not there")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    data = Path(os.environ.get("MELANOMA_DATA", "data"))
    run = Run.named(arguments.run)
    os.environ["MELANOMA_ROOT"] = str(run.root)
    service = Service(Settings(precision=arguments.precision))
    service.load(run)

    pictures = other_pictures()
    said = [
        answer(service, encoded(resize(p, 512) if max(p.shape) > 2000 else p)) for _, p in pictures
    ]
    why = pd.Series([a["refusal"] or "scored" for a in said])
    passed = [name for (name, _), a in zip(pictures, said, strict=True) if a["status"] == "ok"]
    print(f"{len(pictures)} pictures without a lesion: {why.value_counts().to_dict()}")
    print(f"  scored: {', '.join(passed)}")
    found: dict[str, float] = {
        "others_refused": len(pictures) - len(passed),
        "others": len(pictures),
    }

    lesions = sorted((data / "siim2020").rglob("*.jpg"))
    chosen = random.Random(0).sample(lesions, 300)
    why = pd.Series([answer(service, p.read_bytes())["refusal"] or "scored" for p in chosen])
    print(f"300 SIIM-2020 test lesions: {why.value_counts().to_dict()}")
    found["lesions_refused"] = int((why != "scored").sum())
    originals = sorted(p for p in (data / "originals").iterdir() if p.suffix != ".csv")
    why = pd.Series([answer(service, p.read_bytes())["refusal"] or "scored" for p in originals])
    print(f"{len(originals)} originals: {why.value_counts().to_dict()}")
    found |= parity(run, [*originals, *chosen[: 100 - len(originals)]], 8455)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
