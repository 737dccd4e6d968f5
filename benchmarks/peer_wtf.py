"""PyPI's `what-the-face-classification` as a contestant: its own weights and network, without its detector.

python -m benchmarks.peer_wtf, in an environment where it is installed.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np

from benchmarks.peer_worker import serve

PACKAGE = "what_the_face_classification"


def main() -> None:
    """Serve `what-the-face-classification`, which takes one face at a time."""
    try:
        import torch
        from PIL import Image
        from what_the_face_classification import inference
    except ImportError as error:
        sys.exit(f"what-the-face-classification cannot be imported here: {error}; it needs torchvision and setuptools<81")
    reader = inference.Image_classifier()
    reader.net.eval()

    def classify(faces: np.ndarray) -> np.ndarray:
        # As in Image_classifier.predict, behind its detector.
        with torch.no_grad():
            inputs = torch.stack([reader.transform(Image.fromarray(face)).float() for face in faces])
            return np.asarray(torch.softmax(reader.net(inputs), 1).tolist())

    told = importlib.metadata.metadata(PACKAGE)
    size = Path(inference.inp_file).stat().st_size
    how = "its network alone"
    serve(classify, reader.classes, {"version": told["Version"], "licence": "MIT", "bytes": size, "how": how})


if __name__ == "__main__":
    main()
