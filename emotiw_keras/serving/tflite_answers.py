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
    plain = tf.lite.Interpreter(model_path=model_file)  # as programs read it that know no signatures: the first output
    plain.allocate_tensors()
    given, first = plain.get_input_details()[0]["index"], plain.get_output_details()[0]["index"]
    faces = np.load(faces_file, allow_pickle=False)

    def alone(face: np.ndarray) -> np.ndarray:
        plain.set_tensor(given, face[None])
        plain.invoke()
        return plain.get_tensor(first)

    single = np.concatenate([alone(face) for face in faces])
    answers = dict(runner(pixels=faces))
    with zipfile.ZipFile(model_file) as archive:
        facts = archive.read("emotiw.json").decode()
    np.savez(outputs_file, batch=answers.pop("probabilities"), single=single, facts=np.array(facts), **answers)


if __name__ == "__main__":
    answer(*sys.argv[1:4])
