"""The class of each image, and how much an image counts by it."""

from __future__ import annotations

import numpy as np

EFFECTIVE_BETA = 0.999


def classes_of(labels: np.ndarray) -> np.ndarray:
    """The class of each image: int (images,), whether labels are classes or rows of shares, one-hot ones among them."""
    return labels if labels.ndim == 1 else labels.argmax(axis=1)


def class_weights(labels: np.ndarray, classes: int, kind: str) -> np.ndarray:
    """The weight of an image by its label, float32 (classes,), for a `Stage.class_weight`; that of an absent class is 0.

    Args:
        labels: int (images,), those of the training images.
        classes: how many there are.
        kind: a word of `Stage.class_weight`.

    Example:
        >>> [round(float(weight), 2) for weight in class_weights(np.array([0, 0, 0, 1]), 2, "balanced")]
        [0.67, 2.0]
    """
    if kind == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    if kind == "complement":
        return np.where(present, 1 - counts / len(labels), 0.0).astype(np.float32)
    if kind == "effective":
        inverse = np.where(present, (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA ** np.maximum(counts, 1)), 0.0)
        return (inverse * len(labels) / (inverse * counts).sum()).astype(np.float32)
    return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 0.0).astype(np.float32)
