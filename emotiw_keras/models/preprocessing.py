"""From cropped RGB pictures to a network's input, and from its output to class names. NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.models.registry import get_spec

Prediction = tuple[str, float]
IMAGENET_CLASSES = 1000


def preprocessing(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The `preprocess_input` of the network `name`."""
    spec = get_spec(name)

    def preprocess_input(x: np.ndarray) -> np.ndarray:
        """Pictures cropped to the network's size -> its input: channels in its order, minus its mean pixel.

        Args:
            x: uint8 or float 0..255, RGB, (..., height, width, 3).

        Returns float32 of the same shape. Raises ModelError if there are not three channels.
        """
        image = np.asarray(x, dtype="float32")
        if image.ndim < 3 or image.shape[-1] != 3:
            raise ModelError(f"{spec.name}: got shape {image.shape}, expected RGB pictures (..., height, width, 3)")
        if spec.channel_order == "bgr":
            image = image[..., ::-1]
        return (image - np.asarray(spec.mean, "float32")) / np.asarray(spec.std, "float32")

    return preprocess_input


def decode_predictions(preds: np.ndarray, top: int = 5, labels: Sequence[str] | None = None) -> list[list[Prediction]]:
    """The `top` likeliest classes of each picture as (class name, score), the likeliest first.

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
