"""Objects of Keras in a stage: known by their class, and written down by name and configuration. It needs no Keras."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from typing import Any

from emotiw_keras.keras_names import unnumbered

KINDS = {
    "Loss": "keras.losses.Loss",
    "Metric": "keras.metrics.Metric",
    "Optimizer": "keras.optimizers.Optimizer",
    "LearningRateSchedule": "keras.optimizers.schedules.LearningRateSchedule",
    "Callback": "keras.callbacks.Callback",
}


DEEPEST = 16
"""Lists and tables within each other, of what an object keeps."""


def _keras_base(value: Any) -> type | None:
    """The nearest class of Keras that a value is an instance of."""
    return next((base for base in type(value).__mro__ if base.__module__.partition(".")[0] == "keras"), None)


def is_keras(value: Any, kind: str) -> bool:
    """Whether a value is one of `KINDS`, a user's own subclass included.

    Example:
        >>> is_keras("adam", "Optimizer")
        False
    """
    bases = type(value).__mro__
    return any(base.__name__ == kind and base.__module__.partition(".")[0] == "keras" for base in bases)


_OF_NUMBERS = ("Circle", "CTC", "CategoricalGeneralizedCrossEntropy")
"""Losses that take classes as whole numbers though they are not called Sparse."""


def wants_one_hot(value: Any) -> bool:
    """Whether a loss or metric of Keras takes labels as rows of zeros and a one; a user's own takes what the data hold."""
    base = _keras_base(value)
    abstract = ("Loss", "LossFunctionWrapper", "Metric", "MeanMetricWrapper", "Mean", "Sum", "MeanTensor")
    if base is None or base.__name__ in (*abstract, *_OF_NUMBERS) or base.__name__.startswith("Sparse"):
        return False
    return not getattr(value, "sparse_y_true", False)


def _named(value: Any) -> Any:
    """What stands in a configuration for what JSON cannot hold: the same in every process, so no place in memory."""
    if hasattr(value, "numpy") and not hasattr(value, "assign"):  # a tensor; variables are no settings
        value = value.numpy()
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "get_config") and not isinstance(value, type):
        return described(value)
    of = value if hasattr(value, "__qualname__") else type(value)
    return f"{of.__module__}.{of.__qualname__}"


def _unnumbered(config: Any) -> Any:
    """A configuration without the numbers that Keras gives to the objects of a class as they come, in whatever depth."""
    if isinstance(config, dict):
        return {
            key: unnumbered(value) if key == "name" and isinstance(value, str) else _unnumbered(value)
            for key, value in config.items()
        }
    return [_unnumbered(each) for each in config] if isinstance(config, list) else config


def untold(value: Any, told: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """What a user's class was made with and its configuration does not tell.

    Args:
        value: an object of it.
        told: the names in its configuration.

    Returns:
        The arguments that the object keeps by their names, `self.alpha` or `self._alpha`; and the names of the others.
    """
    kept: dict[str, Any] = {}
    lost = []
    for base in type(value).__mro__:
        if base.__module__.partition(".")[0] in ("keras", "builtins") or "__init__" not in vars(base):
            continue
        for each in list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]:
            if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) or each.name in ("name", *told, *kept):
                continue
            place = next((place for place in (each.name, f"_{each.name}") if place in vars(value)), None)
            if place is None:
                lost.append(each.name)
            else:
                kept[each.name] = _kept(vars(value)[place])
    return kept, lost


def _kept(item: Any, depth: int = 0) -> Any:
    """An argument that an object keeps, as JSON and `_named` take it. Of a network, which is built as it is used, its class."""
    if depth > DEEPEST or is_keras(item, "Layer"):
        return f"{type(item).__module__}.{type(item).__qualname__}"
    if isinstance(item, dict):
        return {str(key): _kept(each, depth + 1) for key, each in item.items()}
    if isinstance(item, list | tuple):
        return [_kept(each, depth + 1) for each in item]
    if isinstance(item, set | frozenset):
        return sorted(json.dumps(_kept(each, depth + 1), default=_named) for each in item)
    return item.hex() if isinstance(item, bytes) else item


def described(value: Any) -> dict[str, str]:
    """What a recipe records of an object: its class and its configuration as JSON, "" where it has none.

    Example:
        >>> described(object())
        {'object': 'builtins.object', 'config': ''}
    """
    kind = type(value)
    config = ""
    if hasattr(value, "get_config"):
        try:
            told = value.get_config()
            told = {**untold(value, told)[0], **told}
        except NotImplementedError:  # a schedule of a user's own: what it was made with, as far as it keeps that
            told = vars(value)
        config = json.dumps(_unnumbered(json.loads(json.dumps(told, default=_named))), sort_keys=True)
    return {"object": f"{kind.__module__}.{kind.__qualname__}", "config": config}
