"""How a run reads faces as cameras and files spoil them: with noise, blurred, small, compressed, dark, cut otherwise.

Everything is done to the faces as the set holds them, uint8, by OpenCV and NumPy, before the run's own preprocessing; what is
random is drawn for each face from its own pixels, so every run, whatever it reads beside them, is shown the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from emotiw_keras.evaluation.metrics import expected_calibration_error
from emotiw_keras.evaluation.significance import accuracy_difference_interval, share_interval

REFERENCE = 48
"""Pixels of the side of FER-2013's faces, in which blur and shift are said: in larger faces they are as much larger."""
NOISE, BLUR, PIXELS, QUALITY, DARK, SHIFT, ZOOM = 15.0, 1.5, 24, 10, 0.7, 4, 1.2
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""One face, uint8 (height, width, channels), and what is drawn for it -> the same shape."""


@dataclass(frozen=True)
class Condition:
    """One way to spoil faces.

    Attributes:
        name: its key in JSON.
        words: for people.
        change: what is done to a face.
    """

    name: str
    words: str
    change: Change

    def of(self, faces: np.ndarray) -> np.ndarray:
        """Spoil faces, uint8 (n, height, width, 1 or 3)."""
        drawn = (np.random.default_rng(zlib.crc32(np.ascontiguousarray(face).tobytes())) for face in faces)
        return np.stack([self.change(face, each).reshape(face.shape) for face, each in zip(faces, drawn, strict=True)])


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _noisy(face: np.ndarray, drawn: np.random.Generator) -> np.ndarray:
    return _levels(face + drawn.normal(0, NOISE, face.shape))


def _blurred(face: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(face, (0, 0), BLUR * face.shape[0] / REFERENCE)


def _small(face: np.ndarray, _: np.random.Generator) -> np.ndarray:
    height, width = face.shape[:2]
    if min(height, width) <= PIXELS:
        return face
    small = cv2.resize(face, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _compressed(face: np.ndarray, _: np.random.Generator) -> np.ndarray:
    # OpenCV takes the channels the other way round, on both ways.
    coded = cv2.imencode(".jpg", face[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    found = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE if face.shape[-1] == 1 else cv2.IMREAD_COLOR)
    return np.asarray(found).reshape(face.shape)[..., ::-1]


def _dark(face: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return _levels(255 * (1 - DARK) * (face / 255) ** (1 + DARK))


def _warped(face: np.ndarray, scale: float, across: float, down: float) -> np.ndarray:
    """Scale about the middle and move, by pixels; what comes in repeats the border."""
    height, width = face.shape[:2]
    middle = (width - 1) / 2, (height - 1) / 2
    matrix = np.array([[scale, 0, (1 - scale) * middle[0] + across], [0, scale, (1 - scale) * middle[1] + down]])
    return cv2.warpAffine(face, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _shifted(face: np.ndarray, drawn: np.random.Generator) -> np.ndarray:
    across, down = [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)][drawn.integers(8)]
    return _warped(face, 1, across * SHIFT * face.shape[1] / REFERENCE, down * SHIFT * face.shape[0] / REFERENCE)


CONDITIONS = (
    Condition("noise", f"Gaussian noise of {NOISE:g} grey levels", _noisy),
    Condition("blur", f"Gaussian blur of {BLUR:g} pixels of {REFERENCE}", _blurred),
    Condition("small", f"shrunk to {PIXELS} pixels and enlarged again", _small),
    Condition("jpeg", f"a JPEG of quality {QUALITY}", _compressed),
    Condition("low_light", f"{100 * DARK:.0f} % of the light taken away", _dark),
    Condition("shift", f"moved by {SHIFT} pixels of {REFERENCE}, in one of eight directions", _shifted),
    Condition("closer", f"cut {ZOOM:g} times closer", lambda face, _: _warped(face, ZOOM, 0, 0)),
    Condition("farther", f"cut {ZOOM:g} times farther away", lambda face, _: _warped(face, 1 / ZOOM, 0, 0)),
)
"""`shift` and the two cuts repeat the border where there is no more of the picture."""


def compared(truth: np.ndarray, clean: np.ndarray, spoilt: np.ndarray, persons: np.ndarray | None = None) -> dict[str, Any]:
    """Figures of faces under a condition beside the same faces as they are.

    Args:
        truth: int (n,), the true class.
        clean: float (n, classes), the probabilities of the faces as they are.
        spoilt: likewise, under the condition.
        persons: int (n,), from `significance.person_numbers`; None counts by images.

    Returns:
        accuracy and its interval `accuracy_ci95`; `difference` to clean faces and its paired interval `difference_ci95`; `ece`
        and `mean_confidence`, which say whether the run knows.
    """
    right, before = spoilt.argmax(axis=1) == truth, clean.argmax(axis=1) == truth
    return {
        "accuracy": float(right.mean()),
        "accuracy_ci95": list(share_interval(right, persons)),
        "difference": float((right.astype(float) - before).mean()),
        "difference_ci95": list(accuracy_difference_interval(before, right, persons)),
        "ece": expected_calibration_error(truth, spoilt),
        "mean_confidence": float(spoilt.max(axis=1).mean(dtype=np.float64)),
    }
