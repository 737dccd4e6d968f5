"""The detectors by name, and the one that is used when nobody says which.

`blazeface`, the default, comes with what pip installs; `viola_jones` is what the paper used; `yunet` needs one small file from
the manifest of weights. benchmarks/README.md has the measurements behind the choice.
"""

from __future__ import annotations

import functools
import importlib

import numpy as np

from emotiw_keras.arguments import finite_number
from emotiw_keras.errors import UsageError
from emotiw_keras.faces.face import MIN_FACE, Detector, Face

DEFAULT = "blazeface"
_HOMES = {
    "blazeface": ("emotiw_keras.faces.blazeface", "BlazeFaceDetector"),
    "viola_jones": ("emotiw_keras.faces.viola_jones", "ViolaJonesDetector"),
    "yunet": ("emotiw_keras.faces.yunet", "YuNetDetector"),
}
DETECTORS = tuple(_HOMES)
EDITION = 1
"""Raised where the same photo gives other faces, or crops of them, than before; older folders of faces have none."""
# Nothing here finds smaller faces.
MIN_SIDE = 10


def get_detector(name: str | None = None, min_face: float | None = None, engine: str | None = None) -> Detector:
    """A detector, made once in a process; threads may share it.

    Args:
        name: one of `DETECTORS`; None is the default.
        min_face: pixels of the smallest faces to look for; None is `face.MIN_FACE`. More is faster in large images; smaller
            faces may be found all the same.
        engine: what computes the networks of `blazeface`: "onnxruntime" or "opencv"; None for the first of them that is
            installed. The others are OpenCV's own.

    Raises:
        UsageError: there is no detector of that name, `min_face` is below 10, or the engine is none of those, is not installed,
            or is asked of another detector than `blazeface`.
        ModelError: its file or package is missing, or not what it should be; the message says what to do.

    Example:
        >>> get_detector("viola_jones").name
        'viola_jones'
    """
    name = name or DEFAULT
    if name not in _HOMES:
        raise UsageError(f"no face detector is called {name!r}; there are {', '.join(DETECTORS)}")
    smallest = MIN_FACE if min_face is None else finite_number("min_face", min_face, MIN_SIDE)
    if name != DEFAULT:
        if engine is not None:
            raise UsageError(f"engine={engine!r}: the detector {name} is OpenCV's own; engines are for {DEFAULT}")
        return _made(name, smallest)
    from emotiw_keras.faces.detector_net import ENGINES, fastest

    if engine not in (None, *ENGINES):
        raise UsageError(f"engine={engine!r}: expected one of {', '.join(ENGINES)} for the detector {name}")
    return _made(name, smallest, engine or fastest())


@functools.cache
def _made(name: str, *settings: object) -> Detector:
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)(*settings)


def detect(image: np.ndarray, detector: str | Detector | None = None) -> list[Face]:
    """Find the faces of an image.

    Args:
        image: uint8 0..255, upright, (height, width, 3) RGB or (height, width[, 1]) grey.
        detector: a name of `DETECTORS`, a detector, or None for the default.

    Returns:
        Plausible faces, largest box first.

    Raises:
        UsageError, ModelError: as `get_detector`.
        ValueError: not such an array.

    Example:
        >>> detect(np.zeros((100, 100), np.uint8), "viola_jones")
        []
    """
    finder = get_detector(detector) if detector is None or isinstance(detector, str) else detector
    return finder.detect(image)
