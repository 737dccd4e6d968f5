"""AlexNet's train step against the same network of stock layers: images per second, in turns, each in its own process.

    python benchmarks/train_step.py --json train_step.json

The stock network is AlexNet of `keras.layers.Conv2D(groups=2)` and `tf.nn.local_response_normalization`. Both get the
same weights and must give the same outputs before anything is timed. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from turns import serve, take_turns

from emotiw_keras.data.device import FaceInput, draw_crops
from emotiw_keras.hardware import keep_memory
from emotiw_keras.models import AlexNet
from emotiw_keras.models.layers import GroupedConv2D, LocalResponseNormalization
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.steps import StageSteps

Step = Callable[[], None]
# the largest difference of outputs, relative to the largest logit
LIMITS = {"float32": 1e-4, "mixed_bfloat16": 0.05}
CONTESTANTS = ("ours", "stock", "stock, memory kept")
# small enough for the loss to stay finite
RATE = 1e-9


class StockNormalization(keras.layers.Layer):
    """`tf.nn.local_response_normalization`; in float32 always, since it has no bfloat16 kernel on a processor."""

    def __init__(self, arguments: dict[str, float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = arguments

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        y = tf.nn.local_response_normalization(tf.cast(inputs, tf.float32), **self.arguments)
        return tf.cast(y, self.compute_dtype)


def stock(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The stock layer that does what `layer` does."""
    config = layer.get_config()
    if isinstance(layer, LocalResponseNormalization):
        names = ("depth_radius", "bias", "alpha", "beta")
        return StockNormalization({key: config[key] for key in names}, name=layer.name)
    if isinstance(layer, GroupedConv2D):
        return keras.layers.Conv2D.from_config(config)
    return type(layer).from_config(config)


def pair(size: int, width: float) -> dict[str, keras.Model]:
    """Ours and the stock network under the present float policy, with the same random weights, returning logits."""
    ours = AlexNet(weights=None, classes=7, classifier_activation=None, input_shape=(size, size, 3), width=width)
    other = keras.models.clone_model(ours, clone_function=stock)
    other.set_weights(ours.get_weights())
    return {"ours": ours, "stock": other}


def contestant(name: str, options: argparse.Namespace, policy: str) -> None:
    """A process of its own: tells its outputs, then answers each line on standard input with a figure.

    "ours" is what `emotiw fit` runs: the zoo's network, the step and optimizer of training, memory kept by the process. The
    input goes in as bytes and is resized, cropped and mirrored inside the step. "stock" is the same network of stock layers in
    Keras' own train step with Keras' SGD, on ready-made floats; "stock, memory kept" differs from it by that setting alone.
    """
    if name != "stock":
        keep_memory()
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    models = pair(options.size, options.width)
    rng = np.random.default_rng(0)
    # the spread of pixels: with inputs about 1 the normalisation would divide by 1 and the comparison prove nothing
    probe = (60 * rng.standard_normal((8, options.size, options.size, 3))).astype("float32")
    model = models["ours" if name == "ours" else "stock"]
    labels = rng.integers(0, 7, options.batch).astype("int32")
    step = our_step(model, options, labels) if name == "ours" else stock_step(model, options, labels)
    serve(model(probe, training=False).numpy(), step, options.batch, options.seconds)


def our_step(model: keras.Model, options: argparse.Namespace, labels: np.ndarray) -> Step:
    """One step of `emotiw fit` on a fixed batch of 48x48 bytes."""
    stage = Stage("bench", train=("bench:train",), learning_rate=RATE)
    face_input = FaceInput(resize=round(options.size * 256 / 227), crop=options.size, mean=(104.0, 117.0, 123.0))
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    steps = StageSteps(model, face_input, stage, np.ones(7, np.float32), optimizer, (48, 48, 1))
    images = np.random.default_rng(1).integers(0, 256, (options.batch, 48, 48, 1), np.uint8)
    batch = [tf.constant(x) for x in (images, draw_crops(options.batch, face_input.room, mirror=True, seed=(0,)), labels)]

    def step() -> None:
        finite(steps.train(*batch, RATE)[0])

    return step


def stock_step(model: keras.Model, options: argparse.Namespace, labels: np.ndarray) -> Step:
    """One step of Keras' own training on a fixed batch of floats."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE, momentum=0.9), loss, jit_compile=False)
    x = (60 * np.random.default_rng(1).standard_normal((options.batch, options.size, options.size, 3))).astype("float32")
    batch = iter(tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(labels))).repeat())
    function = model.make_train_function() or model.train_function

    def step() -> None:
        finite(float(function(batch)["loss"]))

    return step


def finite(loss: float) -> None:
    """What is timed must be arithmetic on ordinary numbers."""
    if not np.isfinite(loss):
        raise SystemExit(f"train_step: the loss is {loss}; nothing was measured")


def measure(options: argparse.Namespace, policy: str) -> dict[str, list[float]]:
    """Figures of all contestants, one a round each, in turns; the others wait meanwhile."""
    own = [f"--{key}={getattr(options, key)}" for key in ("batch", "size", "width", "seconds")]
    commands = {name: [sys.executable, __file__, f"--contestant={name}", f"--policy={policy}", *own] for name in CONTESTANTS}
    return take_turns(commands, options.rounds, dict.fromkeys(CONTESTANTS, LIMITS[policy]))


def processor() -> tuple[str, bool | None]:
    """The processor's name and whether it multiplies bfloat16 itself; None where that cannot be read."""
    facts = Path("/proc/cpuinfo")
    if not facts.is_file():
        return platform.processor() or platform.machine(), None
    text = facts.read_text()
    name = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "?")
    return name, any(flag in text for flag in ("avx512_bf16", "amx_bf16"))


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images a step (64)")
    parser.add_argument("--size", type=int, default=227, help="height and width of the pictures (227)")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of channels and units (1.0)")
    parser.add_argument("--rounds", type=int, default=5, help="figures per network; the median is told (5)")
    parser.add_argument("--seconds", type=float, default=10.0, help="least seconds of a figure (10)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--policy", choices=list(LIMITS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        contestant(options.contestant, options, options.policy)
        return

    name, native = processor()
    note = {True: "native bfloat16", False: "no native bfloat16", None: "native bfloat16 unknown"}[native]
    print(f"{name}, {os.cpu_count()} cores, {note}; TensorFlow {tf.__version__}, Keras {keras.__version__}")
    print(f"AlexNet, width {options.width:g}, batch {options.batch}, {options.size}x{options.size}; images per second, medians")
    print(f"{'policy':16}" + "".join(f"{each:>20}" for each in CONTESTANTS) + f"{'ours / stock':>14}{'/ memory kept':>15}")
    results: dict[str, Any] = {}
    for policy in LIMITS:
        if policy == "mixed_bfloat16" and native is False:
            print(f"{policy:16}left out: this processor has no native bfloat16")
            results[policy] = None
            continue
        rounds = measure(options, policy)
        medians = {each: statistics.median(rates) for each, rates in rounds.items()}
        ratios = [medians["ours"] / medians[each] for each in CONTESTANTS[1:]]
        results[policy] = {"rounds": rounds, "median": medians, "ratios": ratios}
        row = "".join(f"{medians[each]:20.1f}" for each in CONTESTANTS)
        print(f"{policy:16}{row}{ratios[0]:14.2f}{ratios[1]:15.2f}")
    if options.json:
        facts = {"processor": name, "cores": os.cpu_count(), "native_bfloat16": native}
        facts |= {"tensorflow": tf.__version__, "keras": keras.__version__, "python": platform.python_version()}
        settings = {key: getattr(options, key) for key in ("batch", "size", "width", "rounds", "seconds")}
        text = json.dumps({"machine": facts, "settings": settings, "images_per_second": results}, indent=2)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
