"""Training on two workers of this machine against one process: the same weights, how fast, and what goes over the wire.

python -m benchmarks.scale_train                   speed: one process of one thread, two workers of one thread each, in turns
python -m benchmarks.scale_train --part equal      200 steps of AlexNet and FaceVGG: largest differences of loss and weights
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.turns import ROOT

FACES = ROOT.parent / "shared/data/fer2013/fer2013_jpg.zip"
BATCH = 64
NETWORKS = {
    "AlexNet, width 0.4": ("model.name=alexnet", "model.width=0.4"),
    "FaceVGG, width 0.25": ("model.name=face_vgg", "model.width=0.25", "model.input_size=48", "fer.average_decay=0.99"),
    "FaceVGG, accumulate 2": ("model.name=face_vgg", "model.width=0.25", "model.input_size=48", "fer.accumulate=2"),
}
SMALLER = {"model.name=alexnet": ("model.width=0.1", "model.input_size=67"), "model.name=face_vgg": ("model.width=0.1",)}
LINKS = (1e9, 10e9)
"""Bits a second."""


def wire_bytes(numbers: int, workers: int) -> float:
    """Bytes that each worker sends, and receives, to add up so many float32 in a ring.

    Example:
        >>> wire_bytes(1_000_000, 2)
        4000000.0
    """
    return 2 * (workers - 1) / workers * 4 * numbers


def summed(parameters: int, batch: int, classes: int) -> int:
    """Numbers that a step adds up: gradients, losses and outputs of the batch, and three wishes."""
    return parameters + batch * (classes + 1) + 3


def fit(out: Path, data: str, changes: list[str], limit: int, workers: int) -> list[dict[str, str]]:
    """Train, with one thread a process; the rows of the history."""
    sockets = [socket.socket() for _ in range(workers)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    words = [word for change in changes for word in ("--set", change)]
    processes = []
    for number in range(workers):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
        command = [
            sys.executable, "-P", "-m", "emotiw_keras.cli.main", "fit", "fer28-scratch", f"--data=fer={data}", f"--out={out}",
            f"--limit={limit}", "--threads=1", "--precision=float32", *words,
            *(["--strategy=multi-worker"] if workers > 1 else []),
        ]  # fmt: skip
        environment = {**os.environ, **({"TF_CONFIG": json.dumps(task)} if workers > 1 else {})}
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    for process in processes:
        _, talk = process.communicate(timeout=1200)
        if process.returncode:
            sys.exit(f"emotiw fit ended with {process.returncode}:\n{talk[-2000:]}")
    with open(out / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights_of(run: Path) -> dict[str, np.ndarray]:
    """All arrays of a run."""
    import h5py

    found: dict[str, np.ndarray] = {}
    with h5py.File(run / "model.weights.h5") as file:
        file.visititems(lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None)
    return found


def equal(folder: Path, data: str, steps: int, smaller: bool) -> None:
    """Print how far two workers are from one process after so many steps, and how far training has come."""
    print(
        f"{steps} steps of {BATCH}, two epochs      loss one    largest difference: loss, val loss, weights (of weights up to)"
    )
    for number, (name, changes) in enumerate(NETWORKS.items()):
        settings = [*changes, *(SMALLER[changes[0]] if smaller else ()), "stage.epochs=2"]
        limit = math.ceil(steps / 2) * BATCH
        runs = [folder / f"{number}-{workers}" for workers in (1, 2)]
        one, two = (fit(run, data, settings, limit, workers) for run, workers in zip(runs, (1, 2), strict=True))
        first, second = map(weights_of, runs)
        apart = {
            key: max(abs(float(a[key]) - float(b[key])) for a, b in zip(one, two, strict=True)) for key in ("loss", "val_loss")
        }
        moved = [(float(np.abs(first[key] - second[key]).max()), float(np.abs(first[key]).max())) for key in first]
        print(
            f"{name:34}{float(one[-1]['loss']):9.4f}    {apart['loss']:.1e}  {apart['val_loss']:.1e}  "
            f"{max(apart for apart, _ in moved):.1e} ({max(size for _, size in moved):.2g})",
            flush=True,
        )  # fmt: skip


def speed(folder: Path, data: str, limit: int, rounds: int) -> None:
    """Print images a second of one process and of two workers, in turns, and what the gradients cost on a wire."""
    name, settings = next(iter(NETWORKS.items()))
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds):
        for workers in rates:
            rows = fit(folder / f"{turn}-{workers}", data, [*settings, "stage.epochs=3", "fer.val=[]"], limit, workers)
            rates[workers] += [float(row["images_per_second"]) for row in rows[1:]]  # the first epoch warms up
    one, two = (statistics.median(found) for found in rates.values())
    print(f"{name}, batch {BATCH}, images/s: one process {one:.1f}, two workers {two:.1f}: {two / one:.2f} times")
    parameters = sum(value.size for value in weights_of(folder / "0-1").values() if value.dtype == np.float32)
    count = summed(parameters, BATCH, 7)
    sent = wire_bytes(count, 2)
    print(f"a step adds up {count:,} numbers: each of two workers sends {sent / 1e6:.1f} MB and receives as much")
    for link in LINKS:
        seconds = 8 * sent / link
        computes = BATCH / two * 1e3
        print(f"  at {link / 1e9:g} Gbit/s {seconds * 1e3:.1f} ms, beside {computes:.0f} ms that a step takes here")


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--part", choices=("speed", "equal"), default="speed")
    parser.add_argument("--data", default=str(FACES), help="FER-2013 in any layout")
    parser.add_argument("--limit", type=int, default=640, help="images of an epoch of the speed part (640)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of the speed part (2)")
    parser.add_argument("--steps", type=int, default=200, help="of the equal part (200)")
    parser.add_argument("--smaller", action="store_true", help="equal part: networks of width 0.1")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if chosen.part == "speed":
            speed(Path(place), chosen.data, chosen.limit, chosen.rounds)
        else:
            equal(Path(place), chosen.data, chosen.steps, chosen.smaller)


if __name__ == "__main__":
    main()
