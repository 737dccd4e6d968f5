"""Compute the answers of an ONNX model with ONNX Runtime alone; run as a script by `emotiw_keras.serving.portable`.

    python -P onnx_answers.py MODEL FACES.npy OUTPUTS.npz

FACES is uint8 (n, side, side, channels). OUTPUTS gets `batch` and `single`, float32 (n, classes): all faces at once, and one by
one; `facts`, the text of the model's metadata; and the answers of heads. It imports nothing of the package: what it can do,
any program can.
"""

from __future__ import annotations

import os
import sys

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it writes to its makers
import onnxruntime  # noqa: E402


def answer(model_file: str, faces_file: str, outputs_file: str) -> None:
    """Compute every face and save the results."""
    session = onnxruntime.InferenceSession(model_file, providers=["CPUExecutionProvider"])
    faces = np.load(faces_file, allow_pickle=False)

    def probabilities(batch: np.ndarray, output: str = "probabilities") -> np.ndarray:
        return session.run([output], {"pixels": batch})[0]

    first, *heads = (output.name for output in session.get_outputs())
    single = np.concatenate([probabilities(face[None], first) for face in faces])
    facts = session.get_modelmeta().custom_metadata_map["emotiw"]
    answers = {name: probabilities(faces, name) for name in heads}
    answers |= {"batch": probabilities(faces), "single": single, "facts": np.array(facts)}
    np.savez(outputs_file, **answers)  # type: ignore[arg-type]


if __name__ == "__main__":
    answer(*sys.argv[1:4])
