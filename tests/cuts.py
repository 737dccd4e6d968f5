"""Photographs of nothing, and other cuts of them: what near duplicates are tested with."""

from pathlib import Path

import cv2
import numpy as np


def photos(count: int, side: int = 72, seed: int = 0) -> np.ndarray:
    """Images of nothing, each another: uint8 (count, side, side), blurred noise of three scales."""
    generator = np.random.default_rng(seed)
    fields = []
    for _ in range(count):
        field = np.zeros((side, side), np.float32)
        for sigma in (2, 5, 11):
            noise = cv2.GaussianBlur(generator.normal(size=(side, side)).astype(np.float32), (0, 0), sigma)
            field += noise / noise.std()
        fields.append(np.clip(128 + 40 * field, 0, 255).astype(np.uint8))
    return np.stack(fields)


def cut(photo: np.ndarray, left: int = 12, top: int = 12, side: int = 48) -> np.ndarray:
    """A square of a photo at 48x48."""
    return cv2.resize(photo[top : top + side, left : left + side], (48, 48), interpolation=cv2.INTER_AREA)


def marked(image: np.ndarray) -> np.ndarray:
    """With half transparent letters over it, as agencies mark their photos."""
    letters = cv2.putText(image.copy(), "photo", (8, 40), cv2.FONT_HERSHEY_PLAIN, 0.7, 255, 1)
    return cv2.addWeighted(image, 0.65, letters, 0.35, 0)


def encoded(image: np.ndarray) -> np.ndarray:
    """As a JPEG of quality 40, darker and with less contrast."""
    _, data = cv2.imencode(".jpg", (image * 0.8 + 10).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 40])
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def write(folder: Path, images: dict[str, np.ndarray]) -> None:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), image)
