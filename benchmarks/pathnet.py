"""What training a path costs among all modules, against the plain network of that path; and the time of a generation.

"search" is a trial as `emotiw fit pathnet` runs it: gathered modules, plain gradient descent, scattered back. "plain" is the
Keras network of the same path, one layer a module, with Keras' SGD in a compiled step. Both get bytes, and must give the same
answers before anything is timed. They take turns, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.turns import rate_of, serve, summary, take_turns

CONTESTANTS = ("plain", "search")
RATE = 1e-4
OPTIONS = ("size", "batch", "minibatches", "filters", "modules", "active", "reduce", "seconds")


def contestant(name: str, options: argparse.Namespace) -> None:
    """Train one path for ever on the same pictures, as `name` does."""
    from emotiw_keras.hardware import keep_memory

    keep_memory()
    import keras
    import tensorflow as tf

    from emotiw_keras.data.face_input import FaceInput
    from emotiw_keras.pathnet.bank import Bank
    from emotiw_keras.pathnet.path_step import PathSteps
    from emotiw_keras.pathnet.search import PathNetSettings

    settings = PathNetSettings(modules=options.modules, active=options.active, filters=options.filters, reduce=options.reduce)
    bank = Bank(settings, 1.0, (options.size, options.size, 3))
    bank.initialise((0,), bank.frozen)
    bank.new_readout(7, (0,))
    path = (tuple(range(options.active)),) * settings.layers
    generator = np.random.default_rng(0)
    shape = (options.minibatches, options.batch)
    images = generator.integers(0, 256, (*shape, 48, 48, 1), np.uint8)
    crops = np.zeros((*shape, 3), np.int32)
    labels = generator.integers(0, 7, shape).astype(np.int32)
    face_input = FaceInput(resize=options.size, crop=options.size, mean=(128.0,) * 3, std=(64.0,) * 3)
    steps = PathSteps(bank, face_input)
    plain = bank.network(path)
    given = face_input(images[0])
    step: Callable[[], Any]
    if name == "search":
        outputs = steps.logits(given, path).numpy()

        def step() -> None:
            steps.trial(images, crops, labels, path, RATE)
    else:
        outputs = plain(given).numpy()
        descent = keras.optimizers.SGD(RATE)
        descent.build(plain.trainable_variables)

        @tf.function
        def update(sample_images: Any, places: Any, classes: Any) -> Any:
            with tf.GradientTape() as tape:
                answers = plain(face_input(sample_images, places), training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, answers)
                mean = tf.reduce_mean(losses)
            descent.apply(tape.gradient(mean, plain.trainable_variables), plain.trainable_variables)
            return tf.reduce_sum(losses)

        def step() -> None:
            for number in range(options.minibatches):
                loss = update(tf.constant(images[number]), tf.constant(crops[number]), tf.constant(labels[number]))
            float(loss)

    serve(outputs, rate_of(step, options.minibatches * options.batch, options.seconds))


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="height and width of the network's input (128)")
    parser.add_argument("--batch", type=int, default=16, help="images in a minibatch (16)")
    parser.add_argument("--minibatches", type=int, default=50, help="of a trial (50)")
    parser.add_argument("--filters", type=int, default=20, help="of a module (20)")
    parser.add_argument("--modules", type=int, default=10, help="in each of three layers (10)")
    parser.add_argument("--active", type=int, default=3, help="of them on the path (3)")
    parser.add_argument("--reduce", choices=("pool", "stride"), default="pool")
    parser.add_argument("--rounds", type=int, default=5, help="figures per contestant (5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="least seconds of a figure (5)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        contestant(options.contestant, options)
        return
    told = [f"--{key}={getattr(options, key)}" for key in OPTIONS]
    commands = {name: ["benchmarks.pathnet", "--contestant", name, *told] for name in CONTESTANTS}
    taken = take_turns(commands, options.rounds, dict.fromkeys(CONTESTANTS, 1e-4))
    figures = {name: summary(rates) for name, rates in taken.items()}
    for name, each in figures.items():
        print(f"{name:7}{each['median']:9.1f} images/s  ({each['least']:.1f} to {each['most']:.1f})")
    ratio = figures["plain"]["median"] / figures["search"]["median"]
    generation = 2 * options.minibatches * options.batch / figures["search"]["median"]
    print(f"a path of the search costs {ratio:.2f} of its plain network; a generation of two takes {generation:.2f} s")
    if options.json:
        settings = {key: getattr(options, key) for key in (*OPTIONS, "rounds")}
        options.json.write_text(json.dumps({"settings": settings, "figures": figures, "cost": ratio, "generation": generation}))


if __name__ == "__main__":
    main()
