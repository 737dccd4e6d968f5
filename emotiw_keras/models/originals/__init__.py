"""The networks as their authors defined them, in the terms of `formats.foreign.Node`, without Keras.

They say what a file of bare arrays leaves out: foreign weights are checked by them, and the light engines compute them. Their
arrays are named after our layers: `conv1.weight`, `conv1.bias`.
"""

from __future__ import annotations

from collections.abc import Callable

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Node
from emotiw_keras.models.originals import chains, efficientnet_lite, senet, squeezenet
from emotiw_keras.models.registry import get_spec

__all__ = ["as_built", "original"]

_OF_MODULE: dict[str, Callable[[str], tuple[Node, ...]]] = {
    "alexnet": chains.alexnet,
    "alexnet_owt": lambda name: chains.alexnet_owt(),
    "vgg_cnn": chains.vgg_cnn,
    "face_vgg": lambda name: chains.face_vgg(),
    "squeezenet": squeezenet.original,
    "senet": lambda name: senet.original(),
    "efficientnet_lite": lambda name: efficientnet_lite.original(),
}
# They say numbers that other sizes change: of an adaptive pooling, the last pooling, the padding and groups.
_ONE_SIZE = ("alexnet_owt", "senet", "efficientnet_lite")


def _module(name: str) -> str:
    return get_spec(name).module.rpartition(".")[2]


def original(name: str) -> tuple[Node, ...]:
    """The network `name` from the tensor "data", float (batch, channels, height, width), to its class scores or "prob".

    Raises:
        ModelError: there is no such network, or it is published in no other form than ours.

    Example:
        >>> [node.name for node in original("alexnet")][:3]
        ['conv1', 'relu_conv1', 'norm1']
    """
    found = _OF_MODULE.get(_module(name))
    if found is None:
        raise ModelError(f"no weights of {name} are published by others; give None, or a .weights.h5 file of the same network")
    return found(name)


def as_built(name: str, input_shape: tuple[int, ...], width: float = 1.0) -> tuple[Node, ...] | None:
    """The network as we build it for images of another size and with another width; None where nothing but Keras knows it.

    Args:
        name: in the registry.
        input_shape: (height, width, channels).
        width: multiplier of channels.

    Example:
        >>> as_built("pathnet", (48, 48, 1)) is None, as_built("face_vgg", (96, 96, 1)) is None
        (True, False)
    """
    spec = get_spec(name)
    published = input_shape[:2] == (spec.input_size, spec.input_size) and width == 1
    known = _module(name) in _OF_MODULE and (published or _module(name) not in _ONE_SIZE)
    return original(name) if known else None
