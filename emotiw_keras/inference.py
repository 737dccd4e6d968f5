"""A run's network on prepared faces: the one place where evaluation and prediction compute probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras import hardware
from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.keras_settings import check_keras
from emotiw_keras.runs import CROPS

if TYPE_CHECKING:
    import keras

    from emotiw_keras.data.face_input import FaceInput
    from emotiw_keras.runs import Run

CONSTANT_WEIGHTS = 8_000_000
"""Networks of up to so many weights hold them as constants of the graph: a single face takes half to three quarters of the
time. A graph copies its constants several times when it is made, which is too much for larger ones."""


def checked_crops(crops: int | None, own: int) -> int:
    """The crops to average over: those asked for, else the run's `own`.

    Raises:
        UsageError: another number than 1, 2 or 10.
    """
    if crops is None:
        return own
    if crops not in CROPS:
        raise UsageError(
            f"crops must be 1 (the centre), 2 (the centre, plain and mirrored) or 10 (the corners too); got {crops}"
        )
    return crops


def checked_answers(answers: np.ndarray, called: str) -> np.ndarray:
    """Probabilities, float32 (batch, classes), once they are known to be numbers; `called` is what commands take for the run.

    Raises:
        ModelError: some are not finite.
    """
    if not np.isfinite(answers).all():
        count = len(answers) - int(np.isfinite(answers).all(axis=1).sum())
        raise ModelError(
            f"the network of {called} answers nan or infinity for {count} of {len(answers)} faces; its weights or "
            "its preprocessing are damaged: train or fetch it anew"
        )
    return answers


class Inference:
    """The network of a run, from uint8 faces of one shape to probabilities.

    Args:
        run: a finished run.
        shape: height, width and channels of the faces.
        crops: 1 for the centre crop; 2 for the mean over it and its mirror image; 10 for the four corners and the centre,
            plain and mirrored (Krizhevsky et al. 2012, section 4.1); None for what the run says.
        precision: dtype policy to compute in.

    Attributes:
        net: prepared faces -> probabilities. Its weights must not be changed: a copy of them may compute the answers.
        face_input: the layer that prepares them.
        crops: as settled.

    Raises:
        RunError, ModelError: the run is damaged.
        UsageError: a number of crops that cannot be meant, or Keras is set to something else than TensorFlow and float32.
    """

    def __init__(self, run: Run, shape: tuple[int, ...], crops: int | None = None, precision: str = "float32") -> None:
        check_keras()
        self.crops = checked_crops(crops, run.crops)
        hardware.check_precision(precision)
        self._called = run.called

        import tensorflow as tf

        from emotiw_keras.data.one_channel import for_grey
        from emotiw_keras.data.preprocessing_settings import crop_places
        from emotiw_keras.models.kernels.cast_once import narrow_kernels
        from emotiw_keras.models.kernels.large_batches import LARGE_BATCH, in_batches
        from emotiw_keras.models.normalisations import fold_normalisations

        self.face_input = run.face_input()
        self.net = run.build(policy=precision)
        small = self.net.count_params() <= CONSTANT_WEIGHTS
        if run.given is not None:  # any network at all: computed as it is
            net, given = self.net, self.face_input
        else:
            folded = fold_normalisations(self.net)
            # what is constant in a graph is cast once anyway
            net, given = for_grey(folded if small else narrow_kernels(folded), self.face_input)
        self._places = crop_places(self.face_input.room, self.crops)

        # An own network that could not be copied may be given other weights later.
        lent = {id(weight) for weight in run.given.weights} if run.given is not None else set()
        held = {id(weight): tf.Variable(weight.value) for weight in net.weights if id(weight) in lent}
        self._net, self._small = net, small
        self._held = [(weight, held.get(id(weight), weight)) for weight in net.weights if small or id(weight) in held]

        def centre(faces: Any) -> Any:
            return self._answers(given(faces))

        def cropped(faces: Any, places: Any) -> Any:
            return self._answers(given(faces, crops=places))

        # A batch axis of unknown size: the last, smaller batch needs no second trace.
        signature = [tf.TensorSpec((None, *shape), tf.uint8), tf.TensorSpec((None, 3), tf.int32)]

        def compiled(answer: Any, signature: list[Any]) -> dict[bool, Any]:
            """Whether a batch is large -> the function for it, traced when the first such batch comes."""
            large = in_batches()(answer)
            return {each: tf.function(large if each else answer, input_signature=signature) for each in (False, True)}

        self._large_batch = LARGE_BATCH
        self._last = ""  # what the batch before was: "large", "rest" or "small"
        self._centre, self._cropped = compiled(centre, signature[:1]), compiled(cropped, signature)

    def _answers(self, inputs: Any) -> Any:
        """The network in a graph that is being traced; its kernels bring constant weights into the form they want only once."""
        import keras
        import tensorflow as tf

        with tf.init_scope():  # outside the graph, where a variable has a value
            values = [held.numpy() if self._small else held for _, held in self._held]
        constants = [(weight, tf.convert_to_tensor(value)) for (weight, _), value in zip(self._held, values, strict=True)]
        with keras.StatelessScope(state_mapping=constants):
            return self._net(inputs, training=False)

    def _as_large(self, count: int) -> bool:
        """Whether a batch goes through the function for large ones. So does a small one right behind large ones: most often it
        is the rest of many faces, and would be alone in its trace, which takes longer than many batches."""
        if count >= self._large_batch:
            self._last = "large"
        else:
            self._last = "rest" if self._last == "large" else "small"
        return self._last != "small"

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Probabilities of a batch: uint8 (batch, height, width, channels) -> float32 (batch, classes).

        Raises:
            ModelError: the network answers with numbers that are not finite.
        """
        return checked_answers(self._compute(faces), self._called)

    def _compute(self, faces: np.ndarray) -> np.ndarray:
        large = self._as_large(len(faces))
        if self.crops == 1:
            return np.asarray(self._centre[large](faces), np.float32)
        if not large and len(faces) * self.crops < self._large_batch:
            # all crops at once: a face alone leaves a processor half idle
            taken = self._cropped[False](np.repeat(faces, self.crops, axis=0), np.tile(self._places, (len(faces), 1)))
            return np.reshape(taken, (len(faces), self.crops, -1)).mean(axis=1, dtype=np.float64).astype(np.float32)
        # One after the other: ten crops of a large batch at once would take ten times the memory.
        each = [np.asarray(self._cropped[large](faces, np.tile(place, (len(faces), 1)))) for place in self._places]
        return np.stack(each).mean(axis=0, dtype=np.float64).astype(np.float32)


def crop_mean(net: keras.Model, face_input: FaceInput, faces: Any, crops: int) -> Any:
    """The same as one expression for a graph that is saved: uint8 (batch, ...) tensor -> probabilities (batch, classes)."""
    if crops == 1:
        return net(face_input(faces), training=False)
    from keras import ops

    from emotiw_keras.data.preprocessing_settings import crop_places

    count = ops.shape(faces)[0]
    places = crop_places(face_input.room, crops)
    each = [net(face_input(faces, crops=ops.tile(place[None], (count, 1))), training=False) for place in places]
    return ops.mean(ops.stack(each), axis=0)
