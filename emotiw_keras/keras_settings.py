"""What Keras must be set to where stages train and runs are computed: TensorFlow, and float32 where nothing else is said."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from emotiw_keras.errors import UsageError
from emotiw_keras.files import expanded


def check_keras() -> None:
    """Refuse other settings, those of the environment and of `keras.json` before Keras is imported, then its own.

    Raises:
        UsageError: another backend or another float type, with the place where it is said.
    """
    if "keras" in sys.modules:
        import keras

        backend, floats = keras.backend.backend(), keras.config.floatx()
        places = {"backend": "KERAS_BACKEND, or keras.json", "floatx": "keras.config.set_floatx, or keras.json"}
    else:
        file = expanded(os.environ.get("KERAS_HOME", "~/.keras")) / "keras.json"
        told = _settings(file)
        backend, floats = told.get("backend", "tensorflow"), told.get("floatx", "float32")
        places = {"backend": str(file), "floatx": str(file)}
        if os.environ.get("KERAS_BACKEND"):
            backend, places["backend"] = os.environ["KERAS_BACKEND"], "KERAS_BACKEND"
        order = told.get("image_data_format", "channels_last")
        if order not in ("channels_last", "channels_first") or not isinstance(told.get("epsilon", 1e-7), float):
            raise UsageError(f"{file} has values that Keras refuses: {json.dumps(told)}; mend or remove it")
    if backend != "tensorflow":
        raise UsageError(
            f"Keras computes with {backend!s:.40} here ({places['backend']}), where TensorFlow is needed; set KERAS_BACKEND="
            "tensorflow before Keras is imported"
        )
    if floats != "float32":
        raise UsageError(
            f"Keras' float type is {floats!s:.40} ({places['floatx']}), by which results would differ; set it to float32, and "
            "choose what to compute in by `precision`"
        )


def _settings(file: Path) -> dict[str, Any]:
    """What a keras.json says; nothing where it is missing or no JSON, as Keras has it."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
