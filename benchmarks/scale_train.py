"""Training on two workers of this machine against one process: the same weights, how fast, and what goes over the wire.

python -m benchmarks.scale_train                   speed: one process of one thread, two workers of one thread each, in turns
python -m benchmarks.scale_train --part equal      200 steps of AlexNet and FaceVGG: largest differences of loss and weights
                                                   of two workers, and of two logical processors, from one process
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
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.turns import ROOT

FACES = ROOT.parent / "shared/data/fer2013/fer2013_jpg.zip"
VOTES, ROWS = FACES.with_name("fer2013new.csv"), FACES.with_name("ferplus_rows.csv")
BATCH = 64
ALEXNET = ("model.name=alexnet", "model.width=0.4")
FACE = ("model.name=face_vgg", "model.width=0.25", "model.input_size=48")
SPOILT = ("fer.rotate=15", "fer.erase=0.3", "fer.noise=20", "fer.blur=1", "fer.jpeg=20", "fer.low_light=0.5")
NETWORKS = {
    "AlexNet": ALEXNET,
    "FaceVGG, moving averages": (*FACE, "fer.average_decay=0.99"),
    "FaceVGG, accumulate 2": (*FACE, "fer.accumulate=2"),
    "FaceVGG, sharpness 0.05": (*FACE, "fer.sharpness=0.05"),
    "FaceVGG, faces spoilt": (*FACE, *SPOILT),
    "FaceVGG, spoilt, a teacher": (*FACE, *SPOILT, "fer.teachers=['{teacher}']", "fer.teacher_weight=0.7"),
    "FaceVGG, two heads, votes": (
        *FACE, "model.heads={{fer='basic7', votes='ferplus8'}}", "source.fer.votes={votes}", "source.fer.votes_rows={rows}",
        "fer.votes=probabilistic",
    ),
}  # fmt: skip
WAYS = {"two workers": (2, ()), "mirrored": (1, ("--strategy=mirrored", "--devices=cpu:0,cpu:1"))}
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


def titled(name: str, settings: Sequence[str]) -> str:
    """With the width that it has.

    Example:
        >>> titled("AlexNet, slow", [*ALEXNET, "model.width=0.1"])
        'AlexNet (0.1), slow'
    """
    width = [each for each in settings if each.startswith("model.width=")][-1].partition("=")[2]
    network, comma, rest = name.partition(",")
    return f"{network} ({width}){comma}{rest}"


def fit(
    out: Path, data: str, changes: Sequence[str], limit: int, workers: int, words: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Train, with one thread a process; the rows of the history."""
    sockets = [socket.socket() for _ in range(workers)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    words = [*words, *(word for change in changes for word in ("--set", change))]
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


def equal(folder: Path, data: str, steps: int, smaller: bool, only: str) -> None:
    """Print how far two workers, and two logical processors, are from one process after so many steps, and how far training has
    come. The last batch of an epoch is uneven."""
    limit = math.ceil(steps / 2) * BATCH - BATCH // 2 + 1
    print(
        f"{steps} steps of {BATCH}, two epochs; from one process     loss   largest difference: loss, val loss, weights (up to)"
    )
    places = {"teacher": str(folder / "teacher"), "votes": str(VOTES), "rows": str(ROWS)}
    for number, (name, changes) in enumerate(NETWORKS.items()):
        if only not in name:
            continue
        shrunk = SMALLER[changes[0]] if smaller else ()
        settings = [*(change.format(**places) for change in changes), *shrunk, "stage.epochs=2"]
        if "{teacher}" in str(changes) and not (folder / "teacher").exists():
            fit(folder / "teacher", data, [*FACE, *shrunk, "stage.epochs=2"], limit, 1)
        one = fit(folder / f"{number}-one", data, settings, limit, 1)
        for way, (workers, words) in WAYS.items():
            two = fit(folder / f"{number}-{way}", data, settings, limit, workers, words)
            first, second = weights_of(folder / f"{number}-one"), weights_of(folder / f"{number}-{way}")
            apart = {
                key: max(abs(float(a[key]) - float(b[key])) for a, b in zip(one, two, strict=True))
                for key in ("loss", "val_loss")
            }
            moved = [(float(np.abs(first[key] - second[key]).max()), float(np.abs(first[key]).max())) for key in first]
            print(
                f"{titled(name, settings):38}{way:12}{float(one[-1]['loss']):9.4f}    {apart['loss']:.1e}  "
                f"{apart['val_loss']:.1e}  {max(apart for apart, _ in moved):.1e} ({max(size for _, size in moved):.2g})",
                flush=True,
            )  # fmt: skip


def speed(folder: Path, data: str, limit: int, rounds: int, batch: int) -> None:
    """Print images a second of one process and of two workers, in turns, and what the gradients cost on a wire."""
    settings = [*NETWORKS["AlexNet"], f"fer.batch_size={batch}"]
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds):
        for workers in rates:
            rows = fit(folder / f"{turn}-{workers}", data, [*settings, "stage.epochs=3", "fer.val=[]"], limit, workers)
            rates[workers] += [float(row["images_per_second"]) for row in rows[1:]]  # the first epoch warms up
    one, two = (statistics.median(found) for found in rates.values())
    print(
        f"{titled('AlexNet', settings)}, batch {batch}, images/s: one process {one:.1f}, two workers {two:.1f}: "
        f"{two / one:.2f} times ({', '.join(f'{min(found):.1f} - {max(found):.1f}' for found in rates.values())})"
    )
    parameters = sum(value.size for value in weights_of(folder / "0-1").values() if value.dtype == np.float32)
    count = summed(parameters, batch, 7)
    sent = wire_bytes(count, 2)
    print(f"a step adds up {count:,} numbers: each of two workers sends {sent / 1e6:.1f} MB and receives as much")
    for link in LINKS:
        seconds = 8 * sent / link
        computes = batch / two * 1e3
        print(f"  at {link / 1e9:g} Gbit/s {seconds * 1e3:.1f} ms, beside {computes:.0f} ms that a step takes here")


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--part", choices=("speed", "equal"), default="speed")
    parser.add_argument("--data", default=str(FACES), help="FER-2013 in any layout")
    parser.add_argument("--limit", type=int, default=640, help="images of an epoch of the speed part (640)")
    parser.add_argument("--batch", type=int, default=BATCH, help="global batch of the speed part (64)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of the speed part (2)")
    parser.add_argument("--steps", type=int, default=200, help="of the equal part (200)")
    parser.add_argument("--smaller", action="store_true", help="equal part: networks of width 0.1, AlexNet on 67 pixels")
    parser.add_argument("--only", default="", metavar="TEXT", help="equal part: rows whose name holds this")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if chosen.part == "speed":
            speed(Path(place), chosen.data, chosen.limit, chosen.rounds, chosen.batch)
        else:
            equal(Path(place), chosen.data, chosen.steps, chosen.smaller, chosen.only)


if __name__ == "__main__":
    main()
