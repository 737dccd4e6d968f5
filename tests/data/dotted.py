"""A detector for tests, and images and folders it finds faces in: two white squares on a darker ground are a pair of eyes."""

from __future__ import annotations

import csv
import io
import os
import signal
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from emotiw_keras.faces.face import Face

EYE = 3  # half the side of an eye, in pixels


class Dotted:
    """Takes squares of white in the order of their top edges two by two; an image of one value 13 kills it."""

    name = "dotted"

    def detect(self, image: np.ndarray) -> list[Face]:
        grey = image if image.ndim == 2 else image.min(axis=2)
        if (grey == 13).all():
            os.kill(os.getpid(), signal.SIGKILL)
        _, _, _, centres = cv2.connectedComponentsWithStats((grey >= 250).astype(np.uint8))
        points = sorted((tuple(map(float, point)) for point in centres[1:]), key=lambda point: point[1])
        faces = []
        for first, second in zip(points[::2], points[1::2], strict=False):
            left, right = sorted((first, second))
            d = float(np.hypot(right[0] - left[0], right[1] - left[1]))
            middle = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
            box = (middle[0] - d, middle[1] - 0.8 * d, 2 * d, 2.4 * d)
            faces.append(Face(box, (left, right), 0.9, self.name))
        return sorted(faces, key=lambda face: -face.box[2])


def photo(*faces: tuple[tuple[int, int], tuple[int, int]], size: tuple[int, int] = (120, 160), seed: int = 0) -> np.ndarray:
    """A grey image (height, width) with these pairs of eyes, each (x, y)."""
    image = np.random.default_rng(seed).integers(60, 120, size, np.uint8)
    for x, y in (eye for pair in faces for eye in pair):
        image[y - EYE : y + EYE + 1, x - EYE : x + EYE + 1] = 255
    return image


ONE = ((60, 50), (100, 50))
TWO = (ONE, ((40, 90), (60, 94)))


def save(path: Path, image: np.ndarray | Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "faces.csv").read_text())))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def build(folder: Path, each: int = 3) -> Path:
    """Train|Val|Test of class folders; the test split has images without a class, as SFEW's has."""
    for number, split in enumerate(("Train", "Val")):
        for label in ("Angry", "Happy"):
            for i in range(each):
                save(folder / split / label / f"{i}.png", photo(ONE, seed=100 * number + 10 * i + len(label)))
    save(folder / "Test" / "unknown.png", photo(ONE, seed=5))
    save(folder / "Train" / "Angry" / "nobody.png", photo(seed=6))
    return folder
