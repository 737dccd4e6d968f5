"""From a photo to a face: find it, straighten it, cut it out as Ng et al. 2015 did.

The public names are loaded on first use; importing this package loads no OpenCV and no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotiw_keras.faces.alignment import align as align
    from emotiw_keras.faces.detectors import DETECTORS as DETECTORS
    from emotiw_keras.faces.detectors import detect as detect
    from emotiw_keras.faces.detectors import get_detector as get_detector
    from emotiw_keras.faces.face import Detector as Detector
    from emotiw_keras.faces.face import Face as Face

_HOMES = {
    "DETECTORS": "emotiw_keras.faces.detectors",
    "Detector": "emotiw_keras.faces.face",
    "Face": "emotiw_keras.faces.face",
    "align": "emotiw_keras.faces.alignment",
    "detect": "emotiw_keras.faces.detectors",
    "get_detector": "emotiw_keras.faces.detectors",
}

__all__ = ["DETECTORS", "Detector", "Face", "align", "detect", "get_detector"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(set(globals()) | set(__all__))
