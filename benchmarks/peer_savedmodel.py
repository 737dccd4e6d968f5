"""A model that `emotiw export` wrote as a contestant, by TensorFlow alone: nothing of the package is imported.

python -m benchmarks.peer_savedmodel served/1 [HEAD], in an environment that has TensorFlow.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.peer_worker import serve


def main() -> None:
    """Serve one head of the model, the chosen one if none is named."""
    folder, head = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    model = tf.saved_model.load(str(folder))
    pixels, end = model.signatures["pixels"], f"_{head}" if head else ""
    names = pixels(pixels=tf.zeros((1, 48, 48, 1), tf.uint8))
    if f"probabilities{end}" not in names:
        sys.exit(f"{folder} answers {', '.join(sorted(names))}; expected probabilities{end}")
    labels = [label.decode() for label in names[f"labels{end}"].numpy()[0]]

    def classify(faces: np.ndarray) -> np.ndarray:
        return np.asarray(pixels(pixels=tf.constant(faces[..., None]))[f"probabilities{end}"])

    told = json.loads((folder / "assets" / "emotiw.json").read_text())
    facts = {"version": str(told.get("version", "not told")), "licence": "MIT", "how": "its SavedModel, by TensorFlow alone"}
    facts["bytes"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    serve(classify, labels, facts)


if __name__ == "__main__":
    if any(name.partition(".")[0] == "emotiw_keras" for name in sys.modules):
        sys.exit("emotiw_keras was imported; expected TensorFlow alone")
    main()
