"""Small Aff-Wild2 trees written by hand: every image shows the number of its frame."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

SEVEN = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise"
EIGHT = SEVEN + ",Other"


@dataclass(frozen=True)
class Video:
    """One video: its set, its rows, and the frames that have an image."""

    split: str
    rows: Sequence[int]
    there: Iterable[int]


def image(frame: int, size: int = 16) -> bytes:
    """A JPEG whose pixels are 2 * frame, with a bright edge so that it is not constant."""
    pixels = np.full((size, size, 3), 2 * frame % 250, np.uint8)
    pixels[:2] = 255
    done, content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert done
    return content.tobytes()


def shown(pixels: np.ndarray) -> int:
    """The frame number that an image of `image` shows."""
    return round(float(pixels[6:].mean()) / 2)


def write_tree(
    root: Path, videos: dict[str, Video], *, header: str = SEVEN, annotations: str = "annotations/EXPR_Set", size: int = 16
) -> Path:
    """Write the tree; images are made in no order, as a file system may list them."""
    for name, video in videos.items():
        file = root / annotations / video.split / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([header, *map(str, video.rows)]) + "\n")
        folder = root / "cropped_aligned" / name
        folder.mkdir(parents=True, exist_ok=True)
        frames = list(video.there)
        random.Random(repr(name)).shuffle(frames)
        for frame in frames:
            (folder / f"{frame:05d}.jpg").write_bytes(image(frame, size))
    return root
