"""Compute the answers of a TFLite model with its interpreter alone; run as a script by `emotiw_keras.serving.portable`.

    python -P tflite_answers.py MODEL FACES.npy OUTPUTS.npz

FACES, OUTPUTS and what it must not import are those of `onnx_answers.py`. The facts are the file emotiw.json in the ZIP archive
appended to the model.
"""

from __future__ import annotations

import sys
import zipfile

import numpy as np
import tensorflow as tf


def answer(model_file: str, faces_file: str, outputs_file: str) -> None:
    """Compute every face and save the results."""
    runner = tf.lite.Interpreter(model_path=model_file).get_signature_runner("serving_default")
    faces = np.load(faces_file, allow_pickle=False)

    single = np.concatenate([runner(pixels=face[None])["probabilities"] for face in faces])
    answers = dict(runner(pixels=faces))
    with zipfile.ZipFile(model_file) as archive:
        facts = archive.read("emotiw.json").decode()
    np.savez(outputs_file, batch=answers.pop("probabilities"), single=single, facts=np.array(facts), **answers)


if __name__ == "__main__":
    answer(*sys.argv[1:4])
