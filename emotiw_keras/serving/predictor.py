"""Probabilities for faces in memory, by a trained run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.data.resize import resize, to_grey
from emotiw_keras.errors import DataError, UsageError

if TYPE_CHECKING:
    from emotiw_keras.runs import Run

BATCH_SIZE = 64


class Predictor:
    """Reads expressions with the network of a run, prepared as the run was trained.

    Args:
        run: a finished run, or the path of its folder.
        batch_size: faces computed at once.

    Attributes:
        run: the run.
        labels: the classes, in the order of the probabilities.
        net: the network, in float32: prepared faces -> probabilities.
        face_input: the layer that prepares faces for it.

    Raises:
        RunError: `run` is no finished run folder.
        UsageError: Keras runs on another backend than TensorFlow.

    Example:
        >>> predictor = Predictor("runs/first")                        # doctest: +SKIP
        >>> probabilities = predictor.predict([cv2.imread("face.png")[..., ::-1]])   # doctest: +SKIP
        >>> predictor.labels[probabilities[0].argmax()]                # doctest: +SKIP
        'happy'
    """

    def __init__(self, run: Run | str | os.PathLike[str], batch_size: int = BATCH_SIZE) -> None:
        from emotiw_keras.runs import Run

        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: expected at least 1")
        # A wrong path is told before TensorFlow loads, which takes seconds.
        self.run = run if isinstance(run, Run) else Run.open(os.fspath(run))

        import keras
        import tensorflow as tf

        if keras.backend.backend() != "tensorflow":
            raise UsageError(
                f"serving computes with TensorFlow, but Keras runs on {keras.backend.backend()}; unset KERAS_BACKEND"
            )
        self.labels: tuple[str, ...] = tuple(self.run.labels)
        self.batch_size = batch_size
        self.face_input = self.run.face_input()
        self.net = self.run.build(policy="float32")
        self.channels = 1 if self.face_input.channels == "grey" else 3
        self.side: int = self.face_input.resize
        # A batch axis of unknown size: the last, smaller batch needs no second trace.
        spec = tf.TensorSpec((None, self.side, self.side, self.channels), tf.uint8)
        self._compute = tf.function(lambda faces: self.net(self.face_input(faces), training=False), input_signature=[spec])

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Bring one face to the run's channels and size.

        Args:
            image: uint8 0..255, (height, width) or (height, width, 1) grey, or (height, width, 3) RGB.

        Returns:
            uint8 (side, side, channels).

        Raises:
            DataError: another shape or type.
        """
        picture = np.asarray(image)
        face = picture[..., None] if picture.ndim == 2 else picture
        if face.dtype != np.uint8 or face.ndim != 3 or face.shape[-1] not in (1, 3) or 0 in face.shape:
            raise DataError(
                f"an image of shape {picture.shape} and type {picture.dtype}: expected uint8 of (height, width), "
                "(height, width, 1) or (height, width, 3)"
            )
        if self.channels == 1:
            face = to_grey(face)
        elif face.shape[-1] == 1:
            face = np.repeat(face, 3, axis=-1)
        return resize(face, self.side, self.side)

    def predict(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Probabilities of each expression for each face.

        Args:
            images: uint8 0..255; a sequence of faces of any sizes, each as `prepare` takes it, or one array (n,
                height, width, 1 or 3).

        Returns:
            float32 (n, classes), each row sums to 1, in the order of `labels`.

        Raises:
            DataError: an image of another shape or type.
        """
        result = np.zeros((len(images), len(self.labels)), np.float32)
        for start in range(0, len(images), self.batch_size):
            faces = np.stack([self.prepare(image) for image in images[start : start + self.batch_size]])
            result[start : start + len(faces)] = np.asarray(self._compute(faces), np.float32)
        return result
