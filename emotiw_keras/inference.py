"""A run's network on prepared faces: the one place where evaluation and prediction compute probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.errors import UsageError
from emotiw_keras.runs import CROPS

if TYPE_CHECKING:
    import keras

    from emotiw_keras.data.device import FaceInput
    from emotiw_keras.runs import Run


def checked_crops(crops: int | None, run: Run) -> int:
    """The crops to average over: those asked for, else the run's own.

    Raises:
        UsageError: another number than 1, 2 or 10.
    """
    if crops is None:
        return run.crops
    if crops not in CROPS:
        raise UsageError(
            f"crops must be 1 (the centre), 2 (the centre, plain and mirrored) or 10 (the corners too); got {crops}"
        )
    return crops


class Inference:
    """The network of a run, from uint8 faces of one shape to probabilities.

    Args:
        run: a finished run.
        shape: height, width and channels of the faces.
        crops: 1 for the centre crop; 2 for the mean over it and its mirror image; 10 for the four corners and the centre,
            plain and mirrored (Krizhevsky et al. 2012, section 4.1); None for what the run says.
        precision: dtype policy to compute in.

    Attributes:
        net: prepared faces -> probabilities.
        face_input: the layer that prepares them.
        crops: as settled.

    Raises:
        RunError: the run is damaged.
        UsageError: a number of crops that cannot be meant.
    """

    def __init__(self, run: Run, shape: tuple[int, ...], crops: int | None = None, precision: str = "float32") -> None:
        self.crops = checked_crops(crops, run)

        import tensorflow as tf

        from emotiw_keras.data.device import crop_places
        from emotiw_keras.data.grey import for_grey

        self.face_input = run.face_input()
        self.net = run.build(policy=precision)
        net, given = for_grey(self.net, self.face_input)
        self._places = crop_places(self.face_input.room, self.crops)
        # A batch axis of unknown size: the last, smaller batch needs no second trace.
        faces = tf.TensorSpec((None, *shape), tf.uint8)
        self._centre = tf.function(lambda faces: net(given(faces), training=False), input_signature=[faces])
        self._cropped = tf.function(
            lambda faces, places: net(given(faces, crops=places), training=False),
            input_signature=[faces, tf.TensorSpec((None, 3), tf.int32)],
        )

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Probabilities of a batch: uint8 (batch, height, width, channels) -> float32 (batch, classes)."""
        if self.crops == 1:
            return np.asarray(self._centre(faces), np.float32)
        # One after the other: ten crops at once would take ten times the memory.
        each = [np.asarray(self._cropped(faces, np.tile(place, (len(faces), 1)))) for place in self._places]
        return np.stack(each).mean(axis=0, dtype=np.float64).astype(np.float32)


def crop_mean(net: keras.Model, face_input: FaceInput, faces: Any, crops: int) -> Any:
    """The same as one expression for a graph that is saved: uint8 (batch, ...) tensor -> probabilities (batch, classes)."""
    if crops == 1:
        return net(face_input(faces), training=False)
    from keras import ops

    from emotiw_keras.data.device import crop_places

    count = ops.shape(faces)[0]
    places = crop_places(face_input.room, crops)
    each = [net(face_input(faces, crops=ops.tile(place[None], (count, 1))), training=False) for place in places]
    return ops.mean(ops.stack(each), axis=0)
