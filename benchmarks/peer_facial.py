"""PyPI's `facial-emotion-recognition` as a contestant: its own weights and network, without its detector.

python -m benchmarks.peer_facial, in an environment where it is installed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import sys
from pathlib import Path

import numpy as np

from benchmarks.peer_worker import serve


def main() -> None:
    """Serve `facial-emotion-recognition`, which takes one face at a time."""
    try:
        import facial_emotion_recognition as package
        import torch
    except ImportError as error:
        sys.exit(f"facial-emotion-recognition cannot be imported here: {error}; it needs facenet-pytorch and torchvision")
    # Its weights were saved on a GPU, and it does not say where to load them; from torch 1.13 on nothing but arrays is loaded.
    only = {"weights_only": True} if "weights_only" in inspect.signature(torch.load).parameters else {}
    torch.load = functools.partial(torch.load, map_location="cpu", **only)
    reader = package.EmotionRecognition(device="cpu")
    labels = ["Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral"]
    if list(reader.emotions.values()) != labels:
        sys.exit(f"facial-emotion-recognition names {reader.emotions}, expected {labels}")

    def score(face: np.ndarray) -> np.ndarray:
        # As in EmotionRecognition._predict, which returns the name alone.
        return torch.exp(reader.network(reader.transform(face).unsqueeze(0))).detach().numpy()

    def classify(faces: np.ndarray) -> np.ndarray:
        return np.concatenate([score(face) for face in faces])

    file = Path(package.__file__).parent / "model" / "model.pkl"
    told = importlib.metadata.metadata("facial-emotion-recognition")
    facts = {"version": told["Version"], "licence": told["License"] or "not told", "bytes": file.stat().st_size}
    facts["how"] = "its network alone, one face at a time; exponentials of sigmoids, divided by their sum"
    serve(classify, labels, facts)


if __name__ == "__main__":
    main()
