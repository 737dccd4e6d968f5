"""A finished run folder with random weights: a network that costs what a trained one costs."""

from __future__ import annotations

import json
from pathlib import Path


def write_random_run(folder: Path, model: str = "alexnet", width: float = 1.0, side: int | None = None) -> Path:
    """Write the run folder of a network with the seven basic expressions and its published input, or one of `side` pixels."""
    from emotiw_keras.data.preprocessing_settings import settings_for
    from emotiw_keras.files import sha256_file
    from emotiw_keras.keras_names import fingerprint
    from emotiw_keras.labels import LABEL_SETS
    from emotiw_keras.models import registry
    from emotiw_keras.run_facts import WEIGHTS_FILE
    from emotiw_keras.runs import RUN_FORMAT

    spec, labels = registry.get_spec(model), LABEL_SETS["basic7"].labels
    size = side or spec.input_size
    shape = (size, size, 3)
    network = registry.build(model, weights=None, classes=len(labels), input_shape=shape, width=width)
    folder.mkdir(parents=True)
    network.save_weights(folder / WEIGHTS_FILE)
    info = {
        "format": RUN_FORMAT,
        "model": {"name": model, "width": width, "classes": len(labels), "input_shape": list(shape)},
        "labels": list(labels),
        "preprocessing": settings_for(spec) if side is None else settings_for(spec, crop=side),
        "weights": {"sha256": sha256_file(folder / WEIGHTS_FILE), "variables": fingerprint(network)},
        "stages": [],
        "finished": True,
    }
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def soften(run: Path) -> None:
    """Scale the last layer of a run until its probabilities are far from 0 and 1.

    Else every answer would be the same whatever the arithmetic, and comparing answers would prove nothing.
    """
    import numpy as np

    from emotiw_keras.files import sha256_file
    from emotiw_keras.run_facts import WEIGHTS_FILE
    from emotiw_keras.serving.predictor import Predictor

    predictor = Predictor(run, engine="tensorflow")
    shape = (4, predictor.side, predictor.side, predictor.channels)
    faces = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    last = [layer for layer in predictor.net.layers if layer.weights][-1]
    while predictor.classify(list(faces)).max() > 0.8:
        last.set_weights([weight / 2 for weight in last.get_weights()])
    predictor.net.save_weights(run / WEIGHTS_FILE)
    info = json.loads((run / "run.json").read_text())
    info["weights"]["sha256"] = sha256_file(run / WEIGHTS_FILE)
    (run / "run.json").write_text(json.dumps(info))
