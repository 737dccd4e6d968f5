"""Pictures to measure with, written into a folder: crops, JPEGs and film frames of seven classes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from emotiw_keras.data.generated import draw_faces
from emotiw_keras.labels import LABEL_SETS

LABELS = LABEL_SETS["basic7"].labels
SUFFIXES = (".jpg", ".jpeg", ".png")


def _images(photos: Path | None, side: int) -> list[np.ndarray]:
    """Real photos, or drawn faces where there are none: uint8 (height, width, 3)."""
    files = sorted(file for file in photos.rglob("*") if file.suffix.lower() in SUFFIXES) if photos is not None else []
    read = [image for file in files if (image := cv2.imread(str(file), cv2.IMREAD_COLOR)) is not None]
    drawn, _ = draw_faces(28, size=side, seed=5)
    return read or [np.repeat(face, 3, axis=2) for face in drawn]


def write_faces(folder: Path, count: int, size: tuple[int, int], suffix: str, photos: Path | None = None) -> None:
    """`folder`/CLASS/NAME of `count` different pictures in equal numbers, each a part of a photo with its own light and grain.

    Args:
        folder: new.
        count: pictures.
        size: height and width.
        suffix: ".jpg" (quality 95) or ".png"; 48x48 crops are grey, others have colour.
        photos: a folder of photos.
    """
    height, width = size
    grey = height == width == 48
    images = _images(photos, max(height, width) // 2)
    for label in LABELS:
        (folder / label).mkdir(parents=True)
    grain = np.random.default_rng(0).normal(0, 3, (2 * height, 2 * width, 1)).astype(np.float32)

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        image = images[number % len(images)]
        rows, columns = image.shape[:2]
        high = max(8, int(rows * rng.uniform(0.5, 1.0)))
        wide = max(8, min(columns, int(high * width / height)))
        top, left = rng.integers(0, rows - high + 1), rng.integers(0, columns - wide + 1)
        part = cv2.resize(image[top : top + high, left : left + wide], (width, height)).astype(np.float32)
        y, x = rng.integers(0, height), rng.integers(0, width)
        part = part * rng.uniform(0.7, 1.2) + grain[y : y + height, x : x + width]
        final = np.clip(part, 0, 255).astype(np.uint8)
        final = cv2.cvtColor(final, cv2.COLOR_BGR2GRAY) if grey else final
        # the number stands in the image too: no two are the same
        digits = np.array([(number >> (4 * i) & 15) * 16 for i in range(8)], np.uint8)
        final[0, :8] = digits if grey else digits[:, None]
        done, data = cv2.imencode(suffix, final, [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix == ".jpg" else [])
        assert done
        (folder / LABELS[number % len(LABELS)] / f"{number:06d}{suffix}").write_bytes(data.tobytes())

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(write, range(count), chunksize=64):
            pass
