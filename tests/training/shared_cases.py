"""What processes of `test_shared.py` and `test_workers.py` run: the same training on one device and on several."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    # name -> network, settings beside `SMALL`
    "plain": ("alexnet", ()),
    "normalised": ("face_vgg", ()),
    "averages": ("face_vgg", ("one.average_decay=0.9",)),
    "accumulated": ("alexnet", ("one.accumulate=2", "one.clip_norm=0.5", "one.optimizer=adam", "one.learning_rate=0.001")),
    "sharpness": ("face_vgg", ("one.sharpness=0.05",)),
    "weighed": ("alexnet", ("one.class_weight=balanced", "one.sampling=balanced", "one.loss=focal", "one.cost_weight=0.5")),
    "uneven": ("face_vgg", ("one.batch_size=41",)),  # of 42 images: one replica has none of the last batch
    "augmented": ("face_vgg", ("one.rotate=20", "one.erase=0.5", "one.brightness=0.1", "one.label_smoothing=0.1")),
}
SMALL = ("model.width=0.05", "stage.epochs=2")
NORMAL = ("model.width=0.1", "model.input_size=32", "two.initialise=['classifier']")


def settings(name: str) -> list[str]:
    """The words of `emotiw fit` for a variant."""
    network, changes = VARIANTS[name]
    sizes = NORMAL if network == "face_vgg" else ()
    return [f"model.name={network}", *SMALL, *sizes, *changes]


def fit(recipe: str, fer: str, target: str, out: str, name: str, *devices: str) -> None:
    """Train a variant on these devices of this process."""
    from emotiw_keras.training.fit import fit as train
    from emotiw_keras.training.recipe import load_recipe

    train(
        load_recipe(recipe, settings(name)), {"fer": fer, "target": target}, out, threads=1,
        strategy="mirrored" if devices else "none", devices=devices,
    )  # fmt: skip


def compare_mirrored(recipe: str, fer: str, target: str, folder: str, *names: str) -> None:
    """Print, for each variant, by how much two logical processors differ from one."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    found: dict[str, Any] = {}
    for name in names:
        one, two = Path(folder, f"{name}-one"), Path(folder, f"{name}-two")
        fit(recipe, fer, target, str(one), name)
        fit(recipe, fer, target, str(two), name, "cpu:0", "cpu:1")
        found[name] = differences(one, two)
    json.dump(found, sys.stdout)


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
