"""Training on two workers of this machine against one process: the same weights, how fast, and what goes over the wire.

python -m benchmarks.scale_train                   speed: one process of one thread, two workers of one thread each, in turns
python -m benchmarks.scale_train --part equal      200 steps of AlexNet and FaceVGG: largest differences of loss and weights
                                                   of two workers, and of two logical processors, from one process
python -m benchmarks.scale_train --part kills      30 times kill -9 of one worker or the other at moments drawn by a seed: how
                                                   the other ends, and whether the run that goes on is the undisturbed one
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
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
LOST, WITHIN = 9, 60
"""The exit code of a worker that lost another, and the seconds within which it ends."""
EPOCH = r"^  fer epoch ([0-9]+)/"
"""How the first worker tells of an epoch that is done."""
BEGUN = r"^stage 1 fer: "
"""What it says when it is about to train."""


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


class Worker:
    """A command `emotiw fit` that runs, with one thread, and what it has said."""

    def __init__(self, words: Sequence[str], talk: Path, cluster: str = "") -> None:
        self.talk = talk
        command = [sys.executable, "-P", "-m", "emotiw_keras.cli.main", "fit", "fer28-scratch", *words]
        environment = {**os.environ, **({"TF_CONFIG": cluster} if cluster else {})}
        with open(talk, "w") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file)

    def said(self) -> str:
        return self.talk.read_text(encoding="utf-8", errors="replace")


def start(out: Path, data: str, changes: Sequence[str], limit: int, workers: int, words: Sequence[str] = ()) -> list[Worker]:
    """The workers of a training, begun; only the first is to write `out`."""
    sockets = [socket.socket() for _ in range(workers)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    words = [
        f"--data=fer={data}", f"--out={out}", f"--limit={limit}", "--threads=1", "--precision=float32", *words,
        *(word for change in changes for word in ("--set", change)),
        *(["--strategy=multi-worker"] if workers > 1 else []),
    ]  # fmt: skip
    found = []
    for number in range(workers):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
        talk = out.with_name(f"{out.name}-{number}.txt")
        found.append(Worker(words, talk, json.dumps(task) if workers > 1 else ""))
    return found


def end(workers: Sequence[Worker]) -> None:
    """Wait until all are done."""
    for worker in workers:
        if worker.process.wait(timeout=1200):
            sys.exit(f"emotiw fit ended with {worker.process.returncode}:\n{worker.said()[-2000:]}")


def history(run: Path) -> list[dict[str, str]]:
    """The rows of the history."""
    with open(run / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def fit(
    out: Path, data: str, changes: Sequence[str], limit: int, workers: int, words: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Train, with one thread a process; the rows of the history."""
    end(start(out, data, changes, limit, workers, words))
    return history(out)


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


def told(workers: Sequence[Worker], pattern: str) -> list[str]:
    """Where the first has said it."""
    return re.findall(pattern, workers[0].said(), re.MULTILINE)


def await_line(workers: Sequence[Worker], pattern: str, times: int = 1, seconds: float = 600) -> float:
    """The seconds until the first had said it so often, or until they are over."""
    begin = time.monotonic()
    while len(told(workers, pattern)) < times and time.monotonic() - begin < seconds:
        if any(worker.process.poll() is not None for worker in workers):
            sys.exit("\n".join(f"a worker ended with {each.process.returncode}:\n{each.said()[-2000:]}" for each in workers))
        time.sleep(0.02)
    return time.monotonic() - begin


def kill(workers: Sequence[Worker], number: int) -> tuple[float, str]:
    """`kill -9` one of two: the seconds until the other has ended, and its last line. It must end in a minute with code 9."""
    workers[number].process.kill()
    begin = time.monotonic()
    workers[number].process.wait()
    left = workers[1 - number]
    try:
        code = left.process.wait(timeout=WITHIN)
    except subprocess.TimeoutExpired:
        left.process.kill()
        sys.exit(f"worker {1 - number} still ran {WITHIN} s after worker {number} was killed:\n{left.said()[-2000:]}")
    line = left.said().strip().splitlines()[-1]
    if code != LOST or not re.search("was lost|waited", line) or "Traceback" in left.said():
        sys.exit(f"worker {1 - number} ended with {code} when worker {number} was killed:\n{left.said()[-2000:]}")
    return time.monotonic() - begin, line


def kills(folder: Path, data: str, limit: int, count: int, seed: int) -> None:
    """Print how a run ends that is killed over and over: a quarter of the kills while workers start, the rest in an epoch."""
    generator, epochs = random.Random(seed), 2 * count + 2  # a kill lets two be done at most
    words = (f"--wait={WITHIN // 2}",)
    settings = [*FACE, *SMALLER[FACE[0]], "fer.average_decay=0.99", f"stage.epochs={epochs}"]
    plain, out = folder / "undisturbed", folder / "killed"
    whole = start(plain, data, settings, limit, 2, words)
    starting = await_line(whole, BEGUN)
    epoch = await_line(whole, EPOCH, 3) / 3
    end(whole)
    moments, said, done, slowest = Counter[str](), Counter[str](), Counter[str](), 0.0
    for turn in range(count):
        workers = start(out, data, settings, limit, 2, words)
        number = generator.randrange(2)
        if generator.random() < 0.25:
            await_line(workers, BEGUN, seconds=generator.uniform(0, starting))
        else:
            begun = generator.randrange(2)
            starting = await_line(workers, BEGUN)
            await_line(workers, EPOCH, begun)
            await_line(workers, EPOCH, begun + 1, generator.uniform(0, epoch))
        moment = "in an epoch" if told(workers, BEGUN) else "starting"
        seconds, line = kill(workers, number)
        moments[f"worker {number} {moment}"] += 1
        slowest = max(slowest, seconds)
        said[re.sub(r"[0-9.]+:[0-9]+", "ADDRESS", line.partition(";")[0])] += 1
        done.update(told(workers, EPOCH))
        print(
            f"{turn + 1}: worker {number} {moment}, {len(done)} epochs done; the other after {seconds:.1f} s: {line}",
            file=sys.stderr,
            flush=True,
        )
    workers = start(out, data, settings, limit, 2, words)
    end(workers)
    done.update(told(workers, EPOCH))
    rows, expected = history(out), history(plain)
    numbers = [int(row["epoch"]) for row in rows]
    if numbers != list(range(1, epochs + 1)):
        sys.exit(f"{out}: history.csv has epochs {numbers}, expected 1 to {epochs} once each")
    twice = [number for number, times in done.items() if times > 1]
    if twice:
        sys.exit(f"epochs {twice} were told, and done again")
    first, second = weights_of(plain), weights_of(out)
    apart = max(float(np.abs(first[key].astype(float) - second[key]).max()) for key in first)
    pairs = [(float(a[key]), float(b[key])) for a, b in zip(rows, expected, strict=True) for key in ("loss", "val_loss")]
    print(f"{count} kills: {', '.join(f'{n} of {moment}' for moment, n in sorted(moments.items()))}")
    print(f"the other ended after {slowest:.1f} s at most, with exit code {LOST} and a line:")
    for line, n in said.most_common():
        print(f"  {n} x {line}")
    print(f"{epochs} epochs, each once in history.csv; none that was told was done again")
    print(f"largest difference from the undisturbed run: weights {apart:g}, losses {max(abs(a - b) for a, b in pairs):g}")


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--part", choices=("speed", "equal", "kills"), default="speed")
    parser.add_argument("--data", default=str(FACES), help="FER-2013 in any layout")
    parser.add_argument("--limit", type=int, default=640, help="images of an epoch of the parts speed and kills (640)")
    parser.add_argument("--batch", type=int, default=BATCH, help="global batch of the speed part (64)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of the speed part (2)")
    parser.add_argument("--steps", type=int, default=200, help="of the equal part (200)")
    parser.add_argument("--smaller", action="store_true", help="equal part: networks of width 0.1, AlexNet on 67 pixels")
    parser.add_argument("--only", default="", metavar="TEXT", help="equal part: rows whose name holds this")
    parser.add_argument("--kills", type=int, default=30, help="of the part of this name (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (0)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if chosen.part == "speed":
            speed(Path(place), chosen.data, chosen.limit, chosen.rounds, chosen.batch)
        elif chosen.part == "kills":
            kills(Path(place), chosen.data, chosen.limit, chosen.kills, chosen.seed)
        else:
            equal(Path(place), chosen.data, chosen.steps, chosen.smaller, chosen.only)


if __name__ == "__main__":
    main()
