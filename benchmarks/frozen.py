"""A stage with all of AlexNet's convolutions frozen: images per second with and without kept features, and of plain Keras.

    python benchmarks/frozen.py --json frozen.json

"kept" and "anew" are what `emotiw fit` runs with cache_features = true and false; "keras" is the same network of stock layers
with trainable = False in Keras' own train step. All start from the same weights, take the same crops in the same order and,
with dropout off, must end in the same weights before anything is timed. Each has a process of its own; they take turns.
See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from train_step import pair, processor

from emotiw_keras.data.batches import Pool, batches
from emotiw_keras.data.device import FaceInput
from emotiw_keras.data.generated import read_any
from emotiw_keras.hardware import keep_memory
from emotiw_keras.training.caching import as_they_are
from emotiw_keras.training.crops import StageCrops
from emotiw_keras.training.features import Features, fingerprint
from emotiw_keras.training.freezing import apply_rules
from emotiw_keras.training.frozen import cut_frozen
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.steps import StageSteps

CONTESTANTS = ("kept", "anew", "keras")
RATE = 0.003
CHECKED_EPOCHS = 2
LIMIT = 1e-3
"""The largest difference of final weights, relative to how far the farthest weight moved."""
Epoch = Callable[[int], Iterator[None]]


def stage_of(options: argparse.Namespace) -> Stage:
    """Convolutions frozen, a few crops per image; the optimizer as Keras' SGD knows it."""
    return Stage(
        "frozen",
        train=("fer:train",),
        batch_size=options.batch,
        learning_rate=RATE,
        weight_decay=0.0,
        bias_rate=1.0,
        rules=(("conv*", 0.0), ("*", 1.0)),
        crops_per_image=options.crops,
    )


def contestant(name: str, options: argparse.Namespace) -> None:
    """A process of its own: writes its final weights and tells of it, then answers each line with images per second."""
    if name != "keras":
        keep_memory()
    keras.utils.set_random_seed(0)
    model = pair(options.size, options.width)["stock" if name == "keras" else "ours"]
    stage = stage_of(options)
    face_input = FaceInput(resize=round(options.size * 256 / 227), crop=options.size, mean=(128.0,) * 3, std=(64.0,) * 3)
    faces = read_any("generated:large", name="fer", labels="basic7", grey=True, size=face_input.resize, limit=options.images)
    pool = Pool([(faces, faces.indices("train"))], face_input.resize, True)
    crops = StageCrops(stage, len(pool), face_input.room, (0, 1))
    rates = apply_rules(model, stage.rules, "the benchmark")
    before = [variable.numpy() for variable in model.trainable_variables]
    drops = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    shares = [layer.rate for layer in drops]

    def epochs() -> Epoch:
        """A new optimizer and new graphs: a dropout's rate is a constant of its graph."""
        if name == "keras":
            return keras_epoch(model, pool, crops, face_input, stage)
        return our_epoch(name, model, pool, crops, face_input, stage, rates, Path(options.folder))

    for layer in drops:
        layer.rate = 0.0
    epoch = epochs()
    for number in range(CHECKED_EPOCHS):
        for _ in epoch(number):
            pass
    after = [variable.numpy() for variable in model.trainable_variables]
    np.savez(Path(options.folder) / f"{name}.npz", *[new - old for new, old in zip(after, before, strict=True)])
    print(float(sum(np.abs(new - old).sum() for new, old in zip(after, before, strict=True))), flush=True)

    for layer, share in zip(drops, shares, strict=True):
        layer.rate = share
    epoch = epochs()
    list(epoch(0))
    for line in sys.stdin:
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < options.seconds:
            for _ in epoch(int(line) + count):
                pass
            count += 1
        print(count * len(pool) / (time.perf_counter() - start), flush=True)


def order_of(pool: Pool, number: int) -> np.ndarray:
    """The order of an epoch."""
    return np.random.default_rng(number).permutation(len(pool))


def our_epoch(
    name: str,
    model: keras.Model,
    pool: Pool,
    crops: StageCrops,
    face_input: FaceInput,
    stage: Stage,
    rates: dict[str, float],
    folder: Path,
) -> Epoch:
    """The epochs of `emotiw fit`, with features or with images."""
    optimizer = make_optimizer(stage, model.trainable_variables, rates)
    ones = np.ones(7, np.float32)
    if name == "anew":
        steps = StageSteps(model, face_input, stage, ones, optimizer, pool.shape)
    else:
        cut = cut_frozen(model)
        assert cut is not None
        start = time.perf_counter()
        features = Features(
            folder / fingerprint(cut.prefix, face_input, pool, crops.kept(), {}), cut.prefix, face_input, pool, crops.kept()
        )
        computed = features.prepare(print, lambda: None)
        if computed:
            rate = computed / (time.perf_counter() - start)
            (folder / "computed.json").write_text(json.dumps({"crops": computed, "crops_per_second": rate}))
        steps = StageSteps(cut.tail, as_they_are, stage, ones, optimizer, features.shape, features.dtype)

    def epoch(number: int) -> Iterator[None]:
        taken = None
        if name == "kept":
            features.choose(crops.chosen(number))
        else:
            taken = crops.of_epoch(number)
        source = features if name == "kept" else pool
        for images, draws, labels in batches(source, order_of(pool, number), taken, stage.batch_size):
            loss, _ = steps.train(images, draws, labels, RATE)
            finite(loss)
            yield

    return epoch


def keras_epoch(model: keras.Model, pool: Pool, crops: StageCrops, face_input: FaceInput, stage: Stage) -> Epoch:
    """Keras' own training; its input is preprocessed ahead of the clock, as floats in memory."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE, momentum=stage.momentum), loss, jit_compile=False)
    function = model.make_train_function() or model.train_function
    kept = crops.kept()
    everything = np.arange(len(pool))
    floats = [face_input(pool.gather(everything), tf.constant(each)).numpy() for each in kept]

    def epoch(number: int) -> Iterator[None]:
        order, chosen = order_of(pool, number), crops.chosen(number)
        for start in range(0, len(order), stage.batch_size):
            index = order[start : start + stage.batch_size]
            x = np.stack([floats[chosen[i]][i] for i in index])
            batch = iter(tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(pool.labels[index]))))
            finite(float(function(batch)["loss"]))
            yield

    return epoch


def finite(loss: float) -> None:
    """What is timed must be arithmetic on ordinary numbers."""
    if not np.isfinite(loss):
        raise SystemExit(f"frozen: the loss is {loss}; nothing was measured")


def differences(folder: Path) -> dict[str, float]:
    """How far the final weights of the others lie from those of "anew", relative to the farthest move."""
    moves = {}
    for name in CONTESTANTS:
        with np.load(folder / f"{name}.npz") as file:
            moves[name] = [file[key] for key in file.files]
    far = max(float(np.abs(move).max()) for move in moves["anew"])
    return {
        name: max(float(np.abs(a - b).max()) for a, b in zip(moves[name], moves["anew"], strict=True)) / far
        for name in ("kept", "keras")
    }


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images a step (64)")
    parser.add_argument("--size", type=int, default=227, help="height and width of the pictures (227)")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of channels and units (1.0)")
    parser.add_argument("--images", type=int, default=256, help="training images (256)")
    parser.add_argument("--crops", type=int, default=2, help="crops per image (2)")
    parser.add_argument("--rounds", type=int, default=5, help="figures per contestant; the median is told (5)")
    parser.add_argument("--seconds", type=float, default=10.0, help="least seconds of a figure (10)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        contestant(options.contestant, options)
        return

    name, _ = processor()
    print(f"{name}, {os.cpu_count()} cores; TensorFlow {tf.__version__}, Keras {keras.__version__}; float32")
    print(f"AlexNet, width {options.width:g}, batch {options.batch}, {options.size}x{options.size}; images per second, medians")
    figures: dict[str, list[float]] = {each: [] for each in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        workers: dict[str, Any] = {}
        for each in CONTESTANTS:
            command = [sys.executable, __file__, "--contestant", each, "--folder", folder]
            command += [f"--{key}={getattr(options, key)}" for key in ("batch", "size", "width", "images", "crops", "seconds")]
            workers[each] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if not float(workers[each].stdout.readline()) > 0:
                sys.exit(f"frozen: {each} moved no weight; nothing was measured")
        gaps = differences(Path(folder))
        print("final weights differ from anew's by: " + ", ".join(f"{each} {gap:.1g}" for each, gap in gaps.items()))
        if max(gaps.values()) > LIMIT:
            sys.exit(f"frozen: more than {LIMIT:g} of the farthest move; nothing was measured")
        for turn in range(options.rounds + 1):
            for each, worker in workers.items():
                worker.stdin.write(f"{turn}\n")
                worker.stdin.flush()
                figures[each].append(float(worker.stdout.readline()))
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
        computed = json.loads((Path(folder) / "computed.json").read_text())
    medians = {each: statistics.median(rates[1:]) for each, rates in figures.items()}
    for each in CONTESTANTS:
        low, high = min(figures[each][1:]), max(figures[each][1:])
        print(f"{each:6}{medians[each]:10.1f}  ({low:.1f} to {high:.1f}){medians[each] / medians['keras']:8.2f} x keras")
    print(f"features computed at {computed['crops_per_second']:.1f} crops a second, once")
    if options.json:
        settings = {key: getattr(options, key) for key in ("batch", "size", "width", "images", "crops", "rounds", "seconds")}
        result = {"processor": name, "settings": settings, "rounds": figures, "median": medians, "differences": gaps}
        result |= {"computed": computed, "tensorflow": tf.__version__, "keras": keras.__version__}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
