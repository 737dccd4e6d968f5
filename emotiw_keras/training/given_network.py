"""Networks of a user's own: whether one is of the zoo, and what a run records of one that is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.keras_names import fingerprint
from emotiw_keras.labels import label_set
from emotiw_keras.models import registry
from emotiw_keras.models.architecture import architecture, called, connections, noise
from emotiw_keras.text import briefly
from emotiw_keras.training.freezing import inner_layers
from emotiw_keras.training.losses import gives_logits
from emotiw_keras.training.own_data import OwnData, are_faces
from emotiw_keras.training.recipe_tables import InputSettings

RESIZE = 8 / 7
"""Side of a face before the crop by that of the crop: 256 to 224."""


def is_of_the_zoo(model: keras.Model, width: float) -> bool:
    """Whether the registry makes the same network: a run of it stores no architecture, only its name and size.

    Raises:
        ModelError: it has the name and layers of one, but is not of this width.
    """
    spec = registry.get_spec(model.name)
    shape = getattr(model, "input_shape", None) or ()
    try:
        same = registry.build(spec.name, weights=None, classes=model.output_shape[-1], input_shape=shape[1:], width=width)
    except (ModelError, UsageError, TypeError):
        return False
    if fingerprint(same) == fingerprint(model):
        return True
    names = [layer.name for layer in same.layers]
    if [layer.name for layer in model.layers] == names:
        raise ModelError(f"the model is not {spec.name} of width {width:g} as the zoo makes it; pass its own width")
    return False


def facts(model: keras.Model, preprocessing: InputSettings | None, own: OwnData) -> dict[str, Any]:
    """`model` and `preprocessing` of run.json for a network that is none of the zoo.

    Args:
        model: built, of one input and one output (batch, classes).
        preprocessing: what happens to pixels; None gives the network its data as they are.
        own: data sets that are no faces in files.

    Raises:
        ModelError: it is not built, has other inputs or outputs, or takes batches of one size alone.
        UsageError: preprocessing that does not fit its input.
    """
    if not model.built or not getattr(model, "weights", None):
        raise ModelError(
            f"the network {model.name!r} is not built; give it an Input: keras.Model(x := keras.Input(shape), net(x))"
        )
    try:
        shape, output = model.input_shape, model.output_shape
    except (AttributeError, ValueError) as error:
        raise ModelError(
            f"the network {model.name!r} does not say its input and output shapes; wrap it: "
            "keras.Model(x := keras.Input(shape), net(x))"
        ) from error
    if not isinstance(shape, tuple) or not isinstance(output, tuple) or len(output) != 2 or not isinstance(output[-1], int):
        raise ModelError(
            f"the network {model.name!r} has inputs {shape}, outputs {output}; expected one of each, out (batch, classes)"
        )
    if isinstance(getattr(model, "_outputs_struct", None), Mapping):  # of a list of one Keras returns what is in it
        raise ModelError(f"the network {model.name!r} returns a dict of {', '.join(model._outputs_struct)}; expected a tensor")
    if shape[0] is not None:
        _check_any_batch(model, shape)
    about = {
        "name": model.name,
        "given": True,
        "logits": gives_logits(model),
        "width": 1.0,
        "classes": output[-1],
        "input_shape": list(shape[1:]),
        "architecture": architecture(model),
        "connections": connections(model),
    }
    return {"model": about, "preprocessing": _preprocessing(model, shape[1:], preprocessing, own)}


def _check_any_batch(model: keras.Model, shape: tuple[Any, ...]) -> None:
    """ModelError for a network, made for batches of one size, that takes no others."""
    try:
        called(model, noise(model, shape[1:])[: 3 if shape[0] != 3 else 2], training=False)
    except Exception as error:  # whatever its layers raise
        raise ModelError(
            f"the network {model.name!r} takes batches of {shape[0]} alone, but the last of an epoch may be smaller, and a run "
            f"is asked of single items; make it of keras.Input({shape[1:]}), without a batch size and stateful=True"
        ) from error


def _preprocessing(
    model: keras.Model, shape: tuple[Any, ...], asked: InputSettings | None, own: OwnData
) -> dict[str, Any] | None:
    square = len(shape) == 3 and shape[0] == shape[1] and isinstance(shape[0], int) and shape[2] in (1, 3)
    if asked is not None and not square:
        raise UsageError(f"preprocessing makes square images of 1 or 3 channels, but {model.name!r} takes {shape}")
    numbers = any(not are_faces(part.shape, part.dtype) for splits in own.values() for part in splits.values())
    if not square or (asked is None and numbers):
        return None
    side, channels = shape[0], shape[2]
    if asked is None:
        kind = "grey" if channels == 1 else "rgb"
        plain = FaceInput(channels=kind, resize=side, crop=side, channel_order="rgb", input_channels=channels)
        return {**plain.settings(), "as_given": True}
    if holds_face_input(model):
        raise UsageError(f"{model.name!r} holds a FaceInput of its own; leave preprocessing out, or take the layer out")
    face_input = FaceInput(
        channels=asked.channels,
        resize=round(side * RESIZE),
        crop=side,
        min_max=asked.min_max,
        channel_order="rgb",
        mean=asked.mean or (0.0, 0.0, 0.0),
        std=asked.std or (1.0, 1.0, 1.0),
        input_channels=channels,
    )
    return face_input.settings()


def holds_face_input(model: keras.Model) -> bool:
    """Whether a network brings faces to its size by itself."""
    return any(isinstance(layer, FaceInput) for _, layer in inner_layers(model))


def labels_for(model: keras.Model, labels: str | None) -> tuple[str, ...]:
    """Class names for arrays and datasets: those of a named set, else the outputs' numbers: their order is nobody's guess.

    Raises:
        UsageError: a set of another size.
    """
    classes = model.output_shape[-1]
    if labels is None or labels == "folder":
        return tuple(map(str, range(classes)))
    names = label_set(labels).labels
    if len(names) != classes:
        raise UsageError(f"labels {briefly(labels)} are {len(names)}, the network has {classes} outputs")
    return names
