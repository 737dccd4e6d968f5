"""Finished runs of the zoo's networks with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.data.preprocessing_settings import settings_for
from emotiw_keras.files import sha256_file
from emotiw_keras.keras_names import fingerprint
from emotiw_keras.models import registry
from emotiw_keras.run_facts import WEIGHTS_FILE
from emotiw_keras.runs import RUN_FORMAT, Run

# Where a network fits one size only, that size; else a small one.
ANY_SIZE = ("alexnet", "caffenet", "face_vgg", "vgg_cnn_f", "vgg_cnn_m", "vgg_cnn_s", "squeezenet", "squeezenet_v1_1")
ONE_SIZE = ("alexnet_owt", "senet50", "efficientnet_lite0")


def zoo_run(folder: Path, name: str, crop: int, width: float, **changes: Any) -> Run:
    """A finished run of a network with random weights, normalisations too, that is sure of some answers and not of others."""
    keras.utils.set_random_seed(5)
    spec = registry.get_spec(name)
    settings = settings_for(spec, crop=crop, **changes)
    shape = [crop, crop, settings["input_channels"]]
    facts = {"name": name, "width": width, "classes": 5, "input_shape": shape}
    model = registry.build(name, weights=None, classes=5, input_shape=tuple(shape), width=width)
    generator = np.random.default_rng(5)
    for layer in model.layers:
        for variable in layer.weights:
            # A gamma near 1 behind each of SENet's fifty layers makes numbers that no rounding leaves alike.
            ends = {"gamma": (0.2, 0.6) if name == "senet50" else (0.5, 1.5), "moving_variance": (0.5, 1.5)}
            low, high = ends.get(variable.path.rpartition("/")[2], (-0.1, 0.1))
            if len(variable.shape) == 1:
                variable.assign(generator.uniform(low, high, variable.shape))
    last = model.get_layer(spec.classifier)
    kernel, bias = last.get_weights()
    probes = FaceInput.from_settings(settings)(faces_for(settings))
    logits = np.log(np.maximum(keras.ops.convert_to_numpy(model(probes, training=False)), 1e-30))
    scale = min(20.0, 1.0 / max(float(np.std(logits - logits.mean(axis=0))), 1e-6))
    last.set_weights([kernel * scale, (bias - logits.mean(axis=0)) * scale])
    folder.mkdir(parents=True)
    model.save_weights(folder / WEIGHTS_FILE)
    weights = {"sha256": sha256_file(folder / WEIGHTS_FILE), "variables": fingerprint(model)}
    info = {"format": RUN_FORMAT, "model": facts, "labels": list("abcde"), "preprocessing": settings, "weights": weights}
    (folder / "run.json").write_text(json.dumps({**info, "stages": [], "finished": True}))
    return Run.open(folder)


def faces_for(settings: dict[str, Any]) -> np.ndarray:
    side, channels = settings["resize"], 1 if settings["channels"] == "grey" else 3
    return np.random.default_rng(6).integers(0, 256, (3, side, side, channels), np.uint8)


def reading_features(run: Run, count: int) -> Run:
    """The same network with a classifier of random weights on its last `count` activations."""
    info = json.loads((run.path / "run.json").read_text())
    classifier = registry.get_spec(run.model_name).classifier
    plain = registry.build_described(info["model"])
    plain.load_weights(run.path / WEIGHTS_FILE)
    info["model"]["features"] = count
    model = registry.build_described(info["model"])
    for layer in plain.layers:
        if layer.weights and layer.name != classifier:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    last = model.get_layer(classifier)
    read = keras.ops.convert_to_numpy(
        keras.Model(model.inputs, last.input)(FaceInput.from_settings(run.settings)(faces_for(run.settings)))
    )
    kernel = np.random.default_rng(7).normal(0, 1 / np.sqrt(read.shape[1]) / read.std(axis=0).mean(), last.kernel.shape)
    last.set_weights([kernel, -(read @ kernel).mean(axis=0)])
    model.save_weights(run.path / WEIGHTS_FILE)
    info["weights"] = {"sha256": sha256_file(run.path / WEIGHTS_FILE), "variables": fingerprint(model)}
    (run.path / "run.json").write_text(json.dumps(info))
    return Run.open(run.path)
