"""Grey faces through a network for colour with one channel in place of three equal ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.models.grey_folding import grey_twin

if TYPE_CHECKING:
    import keras


def for_grey(model: keras.Model, face_input: FaceInput) -> tuple[keras.Model, FaceInput]:
    """The network and the input to compute with: of one channel where faces are grey and that is the same, else as they are.

    The variables are those of `model`, so that updates, checkpoints and saved weights are what they were.

    Args:
        model: float (batch, crop, crop, channels) to outputs.
        face_input: what prepares faces for it.

    Example:
        >>> net, given = for_grey(model, face_input)                           # doctest: +SKIP
        >>> outputs = net(given(images, crops), training=True)                 # doctest: +SKIP
    """
    if face_input.channels != "grey" or face_input.input_channels != 3 or face_input.mean_image is not None:
        return model, face_input
    twin = grey_twin(model, face_input.mean, face_input.std)
    if twin is None:
        return model, face_input
    return twin, FaceInput.from_settings({**face_input.settings(), "input_channels": 1})
