"""The zoo: `from emotiw_keras.models import AlexNet`. Keras is imported when the first network is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from emotiw_keras.models.registry import ModelSpec, build, get_spec, model_names

_CLASSES = {get_spec(name).class_name: get_spec(name).module for name in model_names()}

__all__ = ["ModelSpec", "build", "get_spec", "model_names", *_CLASSES]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
