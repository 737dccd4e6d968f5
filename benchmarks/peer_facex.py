"""PyPI's `facex` as a contestant: its own weights through its own classifier, without its detector.

python -m benchmarks.peer_facex, in an environment where `facex` is installed.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np

from benchmarks.peer_worker import serve

LABELS = ("anger", "disgust", "fear", "happy", "sadness", "surprised", "neutral")


def main() -> None:
    """Serve `facex`, which takes one face at a time."""
    try:
        import facex
    except ImportError as error:
        sys.exit(f"facex cannot be imported here: {error}")
    pool = facex.PoolManager(pool_size=1)
    reader = pool.get_classifier()

    def classify(faces: np.ndarray) -> np.ndarray:
        # As in EmotionClassifier.predict, behind its detector.
        answers = [reader.detect_emotion(face) for face in faces]
        return np.array([[answer[label] for label in LABELS] for answer in answers])

    told = importlib.metadata.metadata("facex")
    licence = [line.split(" :: ")[-1] for line in told.get_all("Classifier") or [] if line.startswith("License")]
    size = Path(pool.model_path).stat().st_size
    how = "its classifier alone, one face at a time"
    facts = {"version": told["Version"], "licence": ", ".join(licence) or "not told", "bytes": size, "how": how}
    serve(classify, LABELS, facts)


if __name__ == "__main__":
    main()
