"""From cropped RGB images to a network's input, and from its output to class names. It loads no Keras."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.models.registry import get_spec

Prediction = tuple[str, float]
IMAGENET_CLASSES = 1000
CHANNEL_AXIS = {"channels_last": -1, "channels_first": -3}


def preprocessing(name: str) -> Callable[..., Any]:
    """The `preprocess_input` of the network `name`."""
    spec = get_spec(name)

    def preprocess_input(x: Any, data_format: str | None = None) -> Any:
        """Images cropped to the network's size -> its input: channels in its order, minus its mean pixel.

        Args:
            x: uint8 or float 0..255, RGB, (..., height, width, 3): NumPy's, a tensor, eager or symbolic, of Keras' backend, of
                TensorFlow in a `tf.data` map, or one of Keras' own as a model is built from.
            data_format: "channels_last", also if None, as the networks take them; "channels_first" for (..., 3, height, width).

        Returns float32 of the same shape and kind. Raises ModelError if there are not three channels.

        Example:
            >>> from emotiw_keras.models.alexnet import preprocess_input
            >>> preprocess_input(np.full((1, 1, 3), 255, "uint8")).round(1).tolist()
            [[[132.3, 138.3, 151.0]]]
        """
        axis = CHANNEL_AXIS.get(data_format or "channels_last")
        if axis is None:
            raise ModelError(f"{spec.name}: data_format is {data_format!r}, expected one of {', '.join(CHANNEL_AXIS)}")
        to_float, constant, flip = _operations(x)
        image = to_float(x)
        # What a dataset says of its images may be that they have some shape.
        shape = None if getattr(image.shape, "rank", 0) is None else tuple(image.shape)
        if shape is not None and (len(shape) < 3 or shape[axis] not in (3, None)):
            layout = "(..., height, width, 3)" if axis == -1 else "(..., 3, height, width)"
            raise ModelError(f"{spec.name}: got shape {shape}, expected RGB images {layout}")
        if spec.channel_order == "bgr":
            image = flip(image, axis)
        mean, std = (np.asarray(values, "float32").reshape(-1, *[1] * (-1 - axis)) for values in (spec.mean, spec.std))
        return (image - constant(mean)) / constant(std)

    return preprocess_input


def _operations(x: Any) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Of the library that made x: to float32, from a NumPy array, and one axis the other way round."""
    keras, tensorflow = sys.modules.get("keras"), sys.modules.get("tensorflow")
    if tensorflow is not None and tensorflow.is_tensor(x):  # in a dataset, whichever the backend

        def flip(x: Any, axis: int) -> Any:  # of as many axes as there may be
            return x[(..., slice(None, None, -1), *[slice(None)] * (-1 - axis))]

        return lambda x: tensorflow.cast(x, "float32"), tensorflow.constant, flip
    if keras is not None and (keras.ops.is_tensor(x) or keras.backend.is_keras_tensor(x)):
        return lambda x: keras.ops.cast(x, "float32"), keras.ops.convert_to_tensor, keras.ops.flip
    return lambda x: np.asarray(x, "float32"), np.asarray, np.flip


def decode_predictions(preds: np.ndarray, top: int = 5, labels: Sequence[str] | None = None) -> list[list[Prediction]]:
    """The `top` likeliest classes of each image as (class name, score), the likeliest first.

    Args:
        preds: float (batch, classes), what the network returned.
        top: how many; fewer where there are fewer classes.
        labels: the class names, one for each output; None for the 1000 ImageNet classes.

    Raises ModelError if labels are missing for another number of classes than 1000, or their number does not fit.

    Example:
        >>> decode_predictions(np.array([[0.1, 0.7, 0.2]]), top=1, labels=("sad", "happy", "fear"))
        [[('happy', 0.7)]]
    """
    scores = np.asarray(preds)
    if scores.ndim != 2:
        raise ModelError(f"decode_predictions got an array of shape {scores.shape}, expected (batch, classes)")
    if labels is None:
        if scores.shape[1] != IMAGENET_CLASSES:
            raise ModelError(
                f"decode_predictions has no names for the {scores.shape[1]} classes; pass labels=[...], one for each class"
            )
        from emotiw_keras.weights.imagenet import imagenet_classes

        labels = imagenet_classes()
    if len(labels) != scores.shape[1]:
        raise ModelError(f"decode_predictions got {len(labels)} labels for {scores.shape[1]} classes, expected as many")
    best = np.argsort(-scores, axis=1, kind="stable")[:, : max(0, top)]
    return [[(labels[i], float(row[i])) for i in order] for row, order in zip(scores, best, strict=True)]
