"""Facial expression networks fine-tuned in stages, from ImageNet to faces to the small set you care about.

The public names are loaded on first use, so that importing the package costs nothing and loads no TensorFlow:

    >>> import emotiw_keras
    >>> emotiw_keras.Stage.__name__
    'Stage'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from emotiw_keras import config as config
from emotiw_keras import keras_names

if TYPE_CHECKING:
    from emotiw_keras.runs import Run as Run
    from emotiw_keras.serving.predictor import Predictor as Predictor
    from emotiw_keras.training.recipe import Recipe as Recipe
    from emotiw_keras.training.stage import Stage as Stage
    from emotiw_keras.training.tuner import StagedFineTuner as StagedFineTuner

__version__ = "0.2.0"

_HOMES = {
    "Predictor": "emotiw_keras.serving.predictor",
    "Recipe": "emotiw_keras.training.recipe",
    "Run": "emotiw_keras.runs",
    "Stage": "emotiw_keras.training.stage",
    "StagedFineTuner": "emotiw_keras.training.tuner",
}

__all__ = ["Predictor", "Recipe", "Run", "Stage", "StagedFineTuner", "__version__"]

# So that Keras loads a `.keras` file of ours.
keras_names.announce()


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
