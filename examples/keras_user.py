"""What a Keras user brings works everywhere: `python examples/keras_user.py OUT` (and again after a kill).

First the zoo in plain Keras - `load_faces`, `tf.data`, `FaceInput`, `model.fit` - then `keras.applications` through two
stages, with a loss, an optimizer, a schedule, a metric and callbacks of Keras, on arrays and on a `tf.data.Dataset`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

from emotiw_keras import Predictor, Stage, StagedFineTuner
from emotiw_keras.data import FaceInput, load_faces
from emotiw_keras.models import AlexNet
from emotiw_keras.serving.export import export_savedmodel

SIDE, CLASSES = 96, 7


class TopTwo(keras.metrics.Mean):
    """How often the right class is among the two likeliest: a metric of one's own."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        values = keras.ops.in_top_k(keras.ops.cast(y_true, "int32"), y_pred, k=2)
        super().update_state(keras.ops.cast(values, "float32"), sample_weight)


def plain_keras(faces) -> dict[str, list[float]]:
    """A network of the zoo trained by `model.fit` on batches of bytes; random crops in training, the centre otherwise."""
    train = faces.dataset("train", batch_size=32, shuffle=True, seed=0)
    zoo = AlexNet(weights=None, classes=CLASSES, input_shape=(67, 67, 3), width=0.1)
    face_input = FaceInput.of("alexnet", crop=67, std=(64.0, 64.0, 64.0), random_crop=True, mirror=True, seed=0)
    net = keras.Sequential([face_input, zoo])
    net.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return net.fit(train, validation_data=faces.dataset("val", batch_size=64), epochs=2, verbose=2).history


def network() -> keras.Model:
    """MobileNetV2 with a head of one's own, from bytes to probabilities."""
    image = keras.Input((SIDE, SIDE, 3))
    trunk = keras.applications.MobileNetV2(
        weights=None, include_top=False, pooling="avg", alpha=0.35, input_shape=(SIDE, SIDE, 3)
    )
    x = trunk(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    x = keras.layers.Dense(32, activation="relu", name="head")(keras.layers.Dropout(0.2)(x))
    return keras.Model(image, keras.layers.Dense(CLASSES, activation="softmax", name="classes")(x), name="my_mobilenet")


def staged(faces, out: Path) -> Path:
    """Head first on arrays, then everything on a dataset; called again it goes on where it was."""
    colour = {split: np.repeat(faces.pixels.gather(faces.indices(split)), 3, axis=-1) for split in ("train", "val")}
    label = {split: faces.label[faces.indices(split)] for split in colour}
    ready = faces.dataset("train", batch_size=32, shuffle=True, seed=1).map(lambda x, y: (keras.ops.repeat(x, 3, axis=-1), y))
    steps = len(label["train"]) // 32 + 1
    stages = [
        Stage(
            "head",
            train=("arrays:train",),
            val=("arrays:val",),
            epochs=3,
            batch_size=32,
            rules=(("mobilenetv2*", 0.0), ("*", 1.0)),
            optimizer=keras.optimizers.Adam(1e-3),
            schedule=keras.optimizers.schedules.CosineDecay(1e-3, 3 * steps),
            callbacks=(keras.callbacks.EarlyStopping("val_loss", patience=2),),
        ),
        Stage(
            "all",
            train=("ready:train",),
            val=("arrays:val",),
            epochs=2,
            rules=(("classes", 10.0), ("*", 1.0)),
            optimizer=keras.optimizers.AdamW(1e-4, weight_decay=1e-4),
            loss=keras.losses.CategoricalFocalCrossentropy(),
        ),
    ]
    tuner = StagedFineTuner(
        network(),
        stages,
        data={"arrays": {split: (colour[split], label[split]) for split in colour}, "ready": ready},
        run_dir=out,
        labels=faces.labels,
        metrics=(TopTwo(name="top_two"),),
        callbacks=(keras.callbacks.CSVLogger(str(out) + ".csv", append=True),),
    )
    return tuner.fit().path


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/keras_user")
    drawn = load_faces("generated:small", limit=70)
    print(plain_keras(drawn))
    run = staged(drawn, out)
    predictor = Predictor(run, model=network())
    print(predictor.labels, predictor.predict(list(drawn.pixels.gather(drawn.indices("test")[:2]))).round(2))
    if not Path(f"{out}-savedmodel").exists():
        print(export_savedmodel(predictor.run, f"{out}-savedmodel"))
