"""Faces in files as `tf.data`: `load_faces` reads any known layout, `FaceInput` prepares bytes on the device.

>>> from emotiw_keras.data import FaceInput, load_faces
>>> load_faces("generated:small", limit=14).splits
('train', 'val', 'test')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotiw_keras.data.face_input import FaceInput as FaceInput
    from emotiw_keras.data.faceset import FaceSet as FaceSet
    from emotiw_keras.data.load import load_faces as load_faces

_HOMES = {"FaceInput": "face_input", "FaceSet": "faceset", "load_faces": "load"}

__all__ = ["FaceInput", "FaceSet", "load_faces"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
