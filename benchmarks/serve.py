"""The service under load, against FastAPI with torch that answers one image a request.

A client on loopback sends real images (MELANOMA_DATA): over 32 connections as fast as they are
answered (capacity, in turns with the baseline), at half of that with random gaps, and at four times
that for a minute. Five folds of EfficientNet-Lite0 are trained on ISIC 2017 for one epoch, unless
the run is there already. The last line is JSON."""

import argparse
import asyncio
import atexit
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import psutil
from inference import MELANOMA, train

from melanoma.run.layout import Run

BASELINE = """
import io, sys
from pathlib import Path
import numpy as np, torch, uvicorn
from fastapi import FastAPI, Request
from PIL import Image
from melanoma.model.checkpoint import load_checkpoint
models = [load_checkpoint(Path(p))[0] for p in sys.argv[2:]]
app = FastAPI()

@app.get("/readyz")
async def readyz():
    return {}

@app.post("/v1/predict")
async def predict(request: Request):
    image = Image.open(io.BytesIO(await request.body())).convert("RGB").resize((128, 128))
    with torch.no_grad():
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        return {"probability": float(np.mean([torch.sigmoid(m(x)).item() for m in models]))}

uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
"""


def request_bytes(data: bytes, form: bool) -> bytes:
    "A POST of one image: as a form, or its bytes alone for the baseline."
    kind, body = "image/jpeg", data
    if form:
        kind = "multipart/form-data; boundary=edge"
        part = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
        body = part + data + b"\r\n--edge--\r\n"
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Line:
    "A keep-alive connection that sends one request at a time."

    def __init__(self, port: int):
        self.port, self.used = port, 0.0
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, data: bytes) -> tuple[int, float]:  # status, seconds
        start = time.perf_counter()
        if self.streams and start - self.used > 3:  # the server closes what is idle for 5 seconds
            self.streams[1].close()
        self.used = start
        if self.streams is None or self.streams[1].is_closing():
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        if b"connection: close" in head.lower():
            writer.close()
        return int(head[9:12]), time.perf_counter() - start


async def closed(
    port: int, requests: list[bytes], lines: int, length: float
) -> list[tuple[int, float]]:  # status, seconds
    "Every line sends its next request when the last is answered."
    end, results = time.perf_counter() + length, []

    async def worker(k: int) -> None:
        line, i = Line(port), k
        while time.perf_counter() < end:
            results.append(await line.send(requests[i % len(requests)]))
            i += lines

    await asyncio.gather(*(worker(k) for k in range(lines)))
    return results


async def opened(
    port: int,
    requests: list[bytes],
    rate: float,
    length: float,
    most: int,
    on_second: Callable[[int], None] | None = None,
    even: bool = False,
) -> tuple[list[tuple[int, float]], float]:  # status and seconds of each, seconds in all
    "Requests at random (Poisson) or even gaps, answered the last or not; at most `most` at a time."
    rng, free = random.Random(0), [Line(port) for _ in range(most)]
    results: list[tuple[int, float]] = []
    running: set[asyncio.Task[None]] = set()
    start, due, seen = time.perf_counter(), 0.0, -1
    while due < length:
        due += 1 / rate if even else rng.expovariate(rate)
        wait = start + due - time.perf_counter()
        if wait > 0.0005 or len(results) % 50 == 0:
            await asyncio.sleep(max(wait, 0))
        while not free:
            await asyncio.sleep(0.001)
        if on_second and int(due) != seen:
            seen = int(due)
            on_second(seen)
        line, chosen = free.pop(), requests[rng.randrange(len(requests))]

        async def one(line: Line = line, data: bytes = chosen) -> None:
            try:
                results.append(await line.send(data))
            except (ConnectionError, asyncio.IncompleteReadError):
                results.append((0, 0.0))
                line.streams = None
            free.append(line)

        task = asyncio.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
    taken = time.perf_counter() - start
    await asyncio.gather(*running)
    return results, taken


class Process:
    "A server process that is ready."

    def __init__(self, words: list[str], port: int):
        self.port = port
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.memory = psutil.Process(self.process.pid).memory_info
        atexit.register(self.process.kill)  # whatever becomes of this program

    async def ready(self) -> "Process":
        "Wait until it answers."
        for _ in range(600):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(
                    b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                if b" 200 " in await reader.readline():
                    return self
            except ConnectionError:
                pass
            if self.process.poll() is not None:
                sys.exit(f"the server ended at once: is port {self.port} in use?")
            await asyncio.sleep(0.1)
        sys.exit("the server is not ready after a minute")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def quantile(values: list[float], q: float) -> float:
    "The value that a share q of the values does not exceed."
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


async def measure(run: Run, data: Path, rounds: int, deadline: float) -> dict[str, float]:
    "All figures."
    images = [p.read_bytes() for p in sorted((data / "isic2017").rglob("*.jpg"))[:200]]
    forms = [request_bytes(d, True) for d in images]
    bare = [request_bytes(d, False) for d in images]
    weights = [str(p) for p in sorted(run.weights.glob("fold*.safetensors"))]
    ours = Process(
        [MELANOMA, "serve", "--run", run.name, "--port", "8401", "--deadline", f"{deadline:g}"],
        8401,
    )
    base = Process([sys.executable, "-c", BASELINE, "8402", *weights], 8402)
    await ours.ready()
    await base.ready()
    for port, requests in ((8401, forms), (8402, bare)):
        await closed(port, requests, 4, 2)
    rates: dict[int, list[float]] = {8401: [], 8402: []}
    for _ in range(rounds):
        for port, requests in ((8402, bare), (8401, forms)):
            done = await closed(port, requests, 32, 5)
            assert all(status == 200 for status, _ in done), {s for s, _ in done}
            rates[port].append(len(done) / 5)
    base.stop()
    capacity = statistics.median(rates[8401])
    ratios = [a / b for a, b in zip(rates[8401], rates[8402], strict=True)]
    found = {"throughput_ratio": statistics.median(ratios)}
    print(f"32 clients: {statistics.median(rates[8402]):.0f} and {capacity:.0f} images/s")

    alone = [seconds for _, seconds in await closed(8401, forms, 1, 5)]
    service = statistics.mean(alone)
    half, taken = await opened(8401, forms, capacity / 2, 20, 256)
    waits = [seconds for status, seconds in half if status == 200]
    assert len(waits) == len(half), "every request at half of capacity is answered"
    found["p99_over_mean_half_load"] = quantile(waits, 0.99) / service
    middle, slow = 1e3 * quantile(waits, 0.5), 1e3 * quantile(waits, 0.99)
    print(
        f"half of capacity ({len(half) / taken:.0f}/s): median {middle:.1f} ms, p99 {slow:.1f} ms; "
        f"a lone client {1e3 * service:.1f} ms"
    )
    paced, _ = await opened(8401, forms, capacity / 2, 20, 256, even=True)
    slow = 1e3 * quantile([seconds for _, seconds in paced], 0.99)
    print(f"as many at even gaps: p99 {slow:.1f} ms")

    memory: dict[int, int] = {}
    storm, taken = await opened(
        8401, forms, 4 * capacity, 60, 512, lambda s: memory.update({s: ours.memory().rss})
    )
    first, last = memory[10], memory[max(memory)]
    answered = [seconds for status, seconds in storm if status == 200]
    found["overload_rss_growth"] = last / first - 1
    found["overload_late"] = sum(seconds > deadline for seconds in answered)
    found["overload_errors"] = sum(status not in (200, 503) for status, _ in storm)
    print(
        f"overload, {len(storm) / taken:.0f} requests/s ({len(storm) / taken / capacity:.1f} × "
        f"capacity) for {taken:.0f} s: {len(answered):,} answered, "
        f"{sum(s == 503 for s, _ in storm):,} refused; slowest answer {max(answered):.2f} s; "
        f"{first / 1e6:.0f} → {last / 1e6:.0f} MB"
    )
    ours.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="bench-serve", help="An exported run of five folds.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deadline", type=float, default=10)
    arguments = parser.parse_args()
    data = Path(os.environ.get("MELANOMA_DATA", "data"))
    run = Run.named(arguments.run)
    os.environ["MELANOMA_ROOT"] = str(run.root)
    if not (run.weights / "ensemble.json").exists():
        train(run, data, "tf_efficientnet_lite0", 5, 1)
    found = asyncio.run(measure(run, data, arguments.rounds, arguments.deadline))
    print(json.dumps({k: float(f"{v:.4g}") for k, v in found.items()}))


if __name__ == "__main__":
    main()
