"""What processes of `test_shared.py` and `test_workers.py` run: the same training on one device and on several."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SPOILT = ("one.noise=20", "one.blur=1", "one.jpeg=20", "one.low_light=0.5", "one.occlude=0.3", "one.degrade=0.7")
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    # name -> network, settings beside `SMALL`
    "plain": ("alexnet", ()),
    "normalised": ("face_vgg", ()),
    "averages": ("face_vgg", ("one.average_decay=0.9",)),
    "accumulated": ("alexnet", ("one.accumulate=2", "one.clip_norm=0.5", "one.optimizer=adam", "one.learning_rate=0.001")),
    "sharpness": ("face_vgg", ("one.sharpness=0.05", "one.pull_to_start=0.1")),
    "weighed": ("alexnet", ("one.class_weight=balanced", "one.sampling=balanced", "one.loss=focal", "one.cost_weight=0.5")),
    "uneven": ("face_vgg", ("one.batch_size=41",)),  # of 42 images: one replica has none of the last batch
    "augmented": ("face_vgg", ("one.rotate=20", "one.erase=0.5", "one.brightness=0.1", "one.label_smoothing=0.1")),
    # the teacher sees what the network sees before it is spoilt
    "taught": ("face_vgg", (*_SPOILT, "one.teachers=['{teacher}']", "one.teacher_weight=0.7", "one.temperature=2")),
    "voted": (
        "face_vgg",
        ("model.heads={{fer='basic7', votes='ferplus8'}}", "source.fer.votes={votes}", "source.fer.votes_rows={votes_rows}",
         "data=['fer']", "stage.train=['fer:train']", "stage.val=['fer:val']", "one.votes=probabilistic",
         "one.entropy_weight=0.3", "one.average_decay=0.9", "one.batch_size=41", "two.votes=multi_label"),
    ),
}  # fmt: skip
SMALL = ("model.width=0.05", "stage.epochs=2")
NORMAL = ("model.width=0.1", "model.input_size=32", "two.initialise=['classifier']")


def settings(name: str, **places: str) -> list[str]:
    """The words of `emotiw fit` for a variant; `places` of its teacher and votes."""
    network, changes = VARIANTS[name]
    sizes = NORMAL if network == "face_vgg" else ()
    return [f"model.name={network}", *SMALL, *sizes, *(change.format(**places) for change in changes)]


def fit(recipe: str, data: Mapping[str, str], out: str, name: str, *devices: str) -> None:
    """Train a variant on these devices of this process.

    Args:
        recipe: a file.
        data: `fer` and `target`, and where the variant wants them `teacher`, `votes` and `votes_rows`.
        out: the run folder.
        name: the variant.
        devices: none is this process on one.
    """
    from emotiw_keras.training.fit import fit as train
    from emotiw_keras.training.recipe import load_recipe

    chosen = load_recipe(recipe, settings(name, **data))
    train(
        chosen, {key: data[key] for key in chosen.data}, out, threads=1, strategy="mirrored" if devices else "none",
        devices=devices,
    )  # fmt: skip


def compare_mirrored(recipe: str, told: str, folder: str, *names: str) -> None:
    """Print, for each variant, by how much two logical processors differ from one; `told` is JSON of `data` as for `fit`."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    data: dict[str, str] = json.loads(told)
    if "taught" in names:
        data["teacher"] = str(Path(folder, "teacher"))
        fit(recipe, data, data["teacher"], "normalised")
    found: dict[str, Any] = {}
    for name in names:
        one, two = Path(folder, f"{name}-one"), Path(folder, f"{name}-two")
        fit(recipe, data, str(one), name)
        fit(recipe, data, str(two), name, "cpu:0", "cpu:1")
        found[name] = differences(one, two)
    json.dump(found, sys.stdout)


def compare_regularized(folder: str) -> None:
    """Print by how much two logical processors differ from one in a network of the user's own with regularizers, without them,
    and with a mean over class weights, and what they say of one whose layers add to the loss."""
    import keras
    import numpy as np
    import tensorflow as tf

    from emotiw_keras import Stage, StagedFineTuner
    from emotiw_keras.errors import UsageError

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(70, 6)).astype(np.float32), draw.integers(0, 3, 70)

    def fit(name: str, strategy: Any, stage: Mapping[str, Any] | None = None, **of_hidden: Any) -> Path:
        keras.utils.set_random_seed(1)
        image = keras.Input((6,))
        hidden = keras.layers.Dense(16, "relu", name="hidden", **of_hidden)(image)
        model = keras.Model(image, keras.layers.Dense(3, "softmax", name="out")(hidden), name="net")
        named = {"train": ("d:train",), "val": ("d:val",), **(stage or {})}
        stages = [Stage("s", epochs=2, batch_size=33, learning_rate=0.1, **named)]
        data = {"d": {"train": (x, y), "val": (x, y)}}
        StagedFineTuner(
            model, stages, data=data, run_dir=Path(folder, name), strategy=strategy, duplicates="keep", say=None
        ).fit()
        return Path(folder, name)

    def two() -> tf.distribute.Strategy:
        return tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])

    regularizer = keras.regularizers.L2(0.1)
    loss = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    weighed = {"loss": loss, "class_weight": "complement"}
    one = fit("one", None, kernel_regularizer=regularizer)
    found = {
        "regularized": differences(one, fit("two", two(), kernel_regularizer=regularizer)),
        "without": differences(one, fit("without", None)),
        "weighed": differences(fit("weighed", None, weighed), fit("weighed-two", two(), weighed)),
    }
    try:
        fit("refused", two(), activity_regularizer=regularizer)
    except UsageError as error:
        found["refused"] = str(error)  # type: ignore[assignment]
    json.dump(found, sys.stdout)


def two_strategies(folder: str) -> None:
    """Print what is said where a second strategy trains a network of other sizes."""
    import keras
    import numpy as np
    import tensorflow as tf

    from emotiw_keras import Stage, StagedFineTuner
    from emotiw_keras.errors import UsageError

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    x, y = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32), np.arange(32) % 3

    def fit(units: int, strategy: tf.distribute.Strategy) -> None:
        hidden = [keras.layers.Dense(units), keras.layers.BatchNormalization()]
        model = keras.Sequential([keras.Input((6,)), *hidden, keras.layers.Dense(3, "softmax")])
        stages = [Stage("s", train=("d:train",), epochs=1, batch_size=16)]
        StagedFineTuner(model, stages, data={"d": (x, y)}, run_dir=Path(folder, str(units)), strategy=strategy, say=None).fit()

    first, second = (tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"]) for _ in range(2))
    fit(6, first)
    fit(7, first)
    try:
        fit(8, second)
    except UsageError as error:
        print(error)


def connect_late() -> None:
    """Print what is said where workers are to be connected once a network has been made."""
    import keras

    from emotiw_keras.errors import UsageError
    from emotiw_keras.training.replicas import make_strategy

    keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    try:
        make_strategy("multi-worker")
    except UsageError as error:
        print(error)


def differences(one: Path, other: Path) -> dict[str, float]:
    """The largest differences of two runs: of weights, and of the figures of their histories."""
    import csv

    import h5py
    import numpy as np

    def arrays(run: Path) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}

        def take(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = np.asarray(item[()], np.float64)

        with h5py.File(run / "model.weights.h5") as file:
            file.visititems(take)
        return found

    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    rows = [list(csv.DictReader((run / "history.csv").open())) for run in (one, other)]
    assert len(rows[0]) == len(rows[1]) > 1
    return {
        "weights": max(float(np.abs(first[name] - second[name]).max()) for name in first),
        "moved": max(float(np.abs(value).max()) for value in first.values()),
        **{
            key: max(abs(float(a[key]) - float(b[key])) for a, b in zip(*rows, strict=True))
            for key in ("loss", "accuracy", "val_loss", "val_accuracy")
        },
    }
