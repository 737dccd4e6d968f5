"""AlexNet's train step against the same network of stock layers: images per second, in turns, in one process.

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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras.models import AlexNet
from emotiw_keras.models.layers import GroupedConv2D, LocalResponseNormalization

Step = Callable[[], None]
POLICIES = ("float32", "mixed_bfloat16")


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


def difference(models: dict[str, keras.Model], x: np.ndarray) -> float:
    """The largest difference of the two networks' logits, relative to the largest logit."""
    ours, other = (models[key](x, training=False).numpy() for key in ("ours", "stock"))
    return float(abs(ours - other).max() / abs(other).max())


def train_step(model: keras.Model, x: np.ndarray, labels: np.ndarray) -> Step:
    """One step of SGD with momentum on a fixed batch, as `fit` runs it; it returns when the step is done."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # small enough for the loss to stay finite: what is timed must be arithmetic on ordinary numbers
    model.compile(keras.optimizers.SGD(1e-9, momentum=0.9), loss, jit_compile=False)
    batch = iter(tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(labels))).repeat())
    function = model.make_train_function() or model.train_function

    def step() -> None:
        logs = function(batch)
        value = float(logs["loss"])
        if not np.isfinite(value):
            raise SystemExit(f"train_step: the loss of {model.name} is {value}; nothing was measured")

    return step


def rates(steps: dict[str, Step], batch: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images per second of each step function, one figure a round, the functions taking turns within a round."""
    for step in steps.values():
        step()
        step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            count, start = 0, time.perf_counter()
            while count == 0 or time.perf_counter() - start < seconds:
                step()
                count += 1
            found[name].append(batch * count / (time.perf_counter() - start))
    return found


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
    options = parser.parse_args()

    name, native = processor()
    note = {True: "native bfloat16", False: "no native bfloat16", None: "native bfloat16 unknown"}[native]
    print(f"{name}, {os.cpu_count()} cores, {note}; TensorFlow {tf.__version__}, Keras {keras.__version__}")
    print(f"AlexNet, width {options.width:g}, batch {options.batch}, {options.size}x{options.size}; images per second")
    rng = np.random.default_rng(0)
    # the spread of pixels: with inputs about 1 the normalisation would divide by 1 and the comparison prove nothing
    x = (60 * rng.standard_normal((options.batch, options.size, options.size, 3))).astype("float32")
    labels = rng.integers(0, 7, options.batch)
    results: dict[str, Any] = {}
    print(f"{'policy':16}{'ours':>10}{'stock':>10}{'ratio':>8}   largest difference of outputs")
    for policy in POLICIES:
        if policy == "mixed_bfloat16" and native is False:
            print(f"{policy:16}left out: this processor has no native bfloat16")
            results[policy] = None
            continue
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(0)
        models = pair(options.size, options.width)
        gap, limit = difference(models, x[:8]), {"float32": 1e-4, "mixed_bfloat16": 0.05}[policy]
        if not gap <= limit:
            sys.exit(f"train_step: {policy} outputs differ by {gap:.2g} of the largest logit, allowed is {limit:g}")
        steps = {key: train_step(model, x, labels) for key, model in models.items()}
        figures = rates(steps, options.batch, options.rounds, options.seconds)
        ours, other = (statistics.median(figures[key]) for key in ("ours", "stock"))
        results[policy] = {"ours": ours, "stock": other, "ratio": ours / other, "difference": gap, "rounds": figures}
        print(f"{policy:16}{ours:10.1f}{other:10.1f}{ours / other:8.2f}   {gap:.1e}")
    keras.config.set_dtype_policy("float32")
    if options.json:
        facts = {"processor": name, "cores": os.cpu_count(), "native_bfloat16": native}
        facts |= {"tensorflow": tf.__version__, "keras": keras.__version__, "python": platform.python_version()}
        settings = {key: getattr(options, key) for key in ("batch", "size", "width", "rounds", "seconds")}
        text = json.dumps({"machine": facts, "settings": settings, "images_per_second": results}, indent=2)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
