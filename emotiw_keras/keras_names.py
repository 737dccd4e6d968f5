"""The names that `.keras` files call our classes by, made known to Keras without loading either.

Keras finds a class of a file by its registered name alone, and a class is registered when its module is imported. So that
`import emotiw_keras` is enough, and still loads no Keras: as soon as Keras is there, each name leads to a `Deferred`, which
imports the class when a file asks for it. Importing the module puts the class itself in its place.

And the names that Keras itself gives: to weights, and to what has none.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

PACKAGE = "emotiw_keras"
HOMES = {
    "AdamW": "training.optimizers",
    "AdaptiveMeanPooling2D": "models.pooling",
    "BatchNormalization": "models.layers",
    "CaffeMaxPooling2D": "models.pooling",
    "CaffeSGD": "training.optimizers",
    "Conv2D": "models.layers",
    "Dense": "models.layers",
    "FaceInput": "data.face_input",
    "GroupedConv2D": "models.layers",
    "HeNormal": "models.parts",
    "LocalResponseNormalization": "models.layers",
    "RandomNormal": "models.parts",
    "VarianceScaling": "models.parts",
}
"""Class -> the module that registers it."""


def fingerprint(model: keras.Model) -> list[list[Any]]:
    """[path, shape, dtype] of each weight: what a weight file must fit, which Keras itself does not check by name."""
    return [["/".join(v.path.split("/")[-2:]), list(v.shape), str(v.dtype)] for v in model.weights]


def unnumbered(path: str) -> str:
    """The names of a path without the numbers that Keras gives to what has no name, as it comes.

    Example:
        >>> unnumbered("functional_3/dense_12/kernel")
        'functional/dense/kernel'
    """
    return re.sub(r"_\d+(?=/|$)", "", path)


class Deferred:
    """Stands for a class until a file asks for one of its objects."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _resolve(self) -> Any:
        return getattr(importlib.import_module(f"{PACKAGE}.{HOMES[self._name]}"), self._name)

    def from_config(self, config: dict[str, Any]) -> Any:
        return self._resolve().from_config(config)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._resolve()(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{PACKAGE}.{HOMES[self._name]}.{self._name}, not imported yet>"


def announce() -> None:
    """Makes the names known to Keras: at once if it has been imported, otherwise as soon as it is."""
    if "keras" in sys.modules:
        _tell(importlib.import_module("keras"))
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


def _tell(keras: ModuleType) -> None:
    known = keras.saving.get_custom_objects()
    for name in HOMES:
        known.setdefault(f"{PACKAGE}>{name}", Deferred(name))


class _WhenImported(MetaPathFinder):
    """Finds `keras` where it would be found without, and calls `_tell` behind its import."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader)
        return spec


class _Telling(Loader):
    """`loader`, and `_tell` when it is done."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _tell(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _WhenImported)]
