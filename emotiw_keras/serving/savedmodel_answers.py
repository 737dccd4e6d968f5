"""Load a SavedModel with TensorFlow alone and compute its answers; run as a script by `emotiw_keras.serving.export`.

    python -P savedmodel_answers.py MODEL INPUTS.npz OUTPUTS.npz

INPUTS holds `bytes_0`, ... (uint8 arrays of image files) and `pixels_0`, ... (uint8 (height, width, channels));
OUTPUTS gets the probabilities, labels, label, ok and uncertain of each under the same names, and those of each head. It imports
nothing of the package: what it can do, any server can.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf


def answer(model_folder: str, inputs_file: str, outputs_file: str) -> None:
    """Compute the signature of every input and save the results."""
    model = tf.saved_model.load(model_folder)
    results = {}
    with np.load(inputs_file, allow_pickle=False) as inputs:
        for name in inputs.files:
            if name.startswith("bytes_"):
                found = model.signatures["serving_default"](image_bytes=tf.constant([inputs[name].tobytes()]))
            else:
                found = model.signatures["pixels"](pixels=tf.constant(inputs[name][None]))
            for key, values in found.items():
                if key.startswith("probabilities"):
                    results[f"{name}/{key}"] = values.numpy()[0]
                elif key.startswith("labels"):
                    results[f"{name}/{key}"] = np.array([word.decode() for word in values.numpy()[0]])
            for key in {"ok", "uncertain"} & found.keys():
                results[f"{name}/{key}"] = found[key].numpy()[0]
            results[f"{name}/label"] = np.array(found["label"].numpy()[0].decode())
    np.savez(outputs_file, **results)


if __name__ == "__main__":
    answer(*sys.argv[1:4])
