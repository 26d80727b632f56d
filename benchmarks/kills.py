"""Kill stages at random moments: does the same command go on, to the same bytes?

Drawn lesions go through prepare, folds, a fold of training, evaluate and predict once without
disturbance. Then each round begins one stage anew in a copy of the project, ends it at a random
moment of its usual time by SIGINT, SIGTERM or SIGKILL (the command, its kernel or both), gives the
same command again, and compares every result with the undisturbed one. Nothing may be left behind:
no temporary file, no socket, no note of a lock. The last line is JSON."""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil

from melanoma.data.synthetic import make_dataset

MELANOMA = str(Path(sys.executable).with_name("melanoma"))
RECIPE = ["-p", "arch", "resnet10t", "-p", "pretrained", "none", "-p", "epochs", "3",
          "-p", "batch_size", "16", "-p", "device", "cpu", "-p", "precision", "fp32"]  # fmt: skip
STAGES = {
    "prepare": ["prepare", "--run", "r", "--source", "siim2020=data", "--size", "32"],
    "folds": ["folds", "--run", "r", "--n-folds", "2"],
    "train": ["train", "--run", "r", "--folds", "0", *RECIPE],
    "evaluate": ["evaluate", "--run", "r"],
    "predict": ["predict", "--run", "r", "--source", "siim2020=data", "--split", "test",
                "--sample-submission", "data/sample_submission.csv"],
}  # fmt: skip
RESULTS = {  # of each stage, below the project
    "prepare": ["output/r/store/table.parquet", "output/r/store/32/images.npy"],
    "folds": ["output/r/folds.csv"],
    "train": ["output/r/fold0/oof.csv", "output/r/fold0/views.csv", "weights/r/fold0.safetensors"],
    "evaluate": ["output/r/metrics.json", "output/r/calibration.json"],
    "predict": ["output/r/predictions.csv", "output/r/submission.csv"],
}
SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "KILL": signal.SIGKILL}


def begin(root: Path, stage: str) -> subprocess.Popen[str]:
    "Start a stage's command."
    environment = os.environ | {"MELANOMA_ROOT": str(root), "TMPDIR": str(root / "tmp")}
    return subprocess.Popen(
        [MELANOMA, *STAGES[stage]], cwd=root, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(root: Path, stage: str) -> tuple[float, str]:  # seconds, what it said
    "Run a stage to its end."
    start = time.monotonic()
    process = begin(root, stage)
    said = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{stage} ended with {process.returncode}:\n{said}")
    return time.monotonic() - start, said


def content(path: Path) -> str:
    "A file's digest; of JSON and tables without the time they took."
    if path.suffix == ".csv" and path.name == "history.csv":
        return str(pd.read_csv(path).drop(columns="seconds").to_csv())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def results(root: Path, stage: str) -> dict[str, str]:
    "Digests of what a stage makes; 'gone' for a file that is not there."
    paths = RESULTS[stage] + (["output/r/fold0/history.csv"] if stage == "train" else [])
    return {p: content(root / p) if (root / p).exists() else "gone" for p in paths}


def forget(root: Path, stage: str) -> None:
    "Take away what a stage made, and its manifest."
    for path in RESULTS[stage]:
        (root / path).unlink(missing_ok=True)
    if stage in ("prepare", "train"):
        shutil.rmtree(root / "output/r" / {"prepare": "store", "train": "fold0"}[stage])
    if stage == "folds":
        (root / "output/r/folds.json").unlink()


def disturb(
    process: subprocess.Popen[str],
    how: str,
    whom: str,
    patience: float,  # seconds; a signal may meet nobody, and the stage then comes to its end
) -> list[str]:  # what went on
    "Send a signal to the command, to its kernel, or to both."
    try:
        command = psutil.Process(process.pid)
        family = [command, *command.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    chosen = {"command": family[:1], "kernel": family[1:], "both": family}[whom]
    for one in chosen:
        try:
            one.send_signal(SIGNALS[how])
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(family, timeout=patience)
    for one in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    return [f"{one.pid} goes on {patience:.0f} s after the signal" for one in alive]


def left_behind(root: Path) -> list[str]:
    "Temporary files, sockets and notes of who holds a lock, once everything has ended well."
    found = [p for folder in ("output", "weights") for p in (root / folder).rglob(".*")]
    found += [p for p in root.rglob("*") if p.is_socket() or ".running." in p.name]
    found = [p for p in found if not p.name.endswith(".lock") or p.stat().st_size]
    found += list((root / "tmp").iterdir())
    return sorted(str(p.relative_to(root)) for p in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES))
    given = parser.parse_args()
    # a shell starts what runs in its background deaf to Ctrl+C, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng, stages = random.Random(given.seed), given.stages.split(",")
    with tempfile.TemporaryDirectory(prefix="kills") as name:
        root, whole = Path(name) / "project", Path(name) / "whole"  # results may name their paths
        (root / "tmp").mkdir(parents=True)
        make_dataset(root / "data", patients=24, test_patients=6, prevalence=0.25)
        seconds = {stage: finish(root, stage)[0] for stage in STAGES}
        expected = {stage: results(root, stage) for stage in STAGES}
        print("undisturbed:", ", ".join(f"{s} {t:.1f} s" for s, t in seconds.items()), flush=True)
        shutil.copytree(root, whole)
        wrong: list[str] = []
        reached: Counter[str] = Counter()
        for i in range(given.rounds):
            stage = stages[i % len(stages)]
            how, whom = rng.choice(list(SIGNALS)), rng.choice(["command", "kernel", "both"])
            shutil.rmtree(root)
            shutil.copytree(whole, root)
            forget(root, stage)
            after = rng.uniform(0, seconds[stage])
            process = begin(root, stage)
            time.sleep(after)
            reached["ended before" if process.poll() is not None else f"{stage} {how}"] += 1
            deaf = disturb(process, how, whom, 60 + 5 * seconds[stage])
            process.communicate()
            finish(root, stage)
            got, left = results(root, stage), left_behind(root)
            differ = [p for p in got if got[p] != expected[stage][p]]
            if differ or left or deaf:
                told = f"{stage}, SIG{how} to {whom} after {after:.2f} s"
                wrong.append(f"{told}: {differ} {left} {deaf}")
                print(wrong[-1], flush=True)
            if not (i + 1) % 10:
                print(f"{i + 1 - len(wrong)} of {i + 1} identical", flush=True)
        print(dict(sorted(reached.items())))
        print(json.dumps({"rounds": given.rounds, "identical": given.rounds - len(wrong)}))
        if wrong:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
