"""EfficientNet-Lite0: its blocks, and the network as released."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from emotiw_keras.formats.foreign import Node
from emotiw_keras.models.registry import EFFICIENTNET_LITE0_STAGES

EPSILON = 1e-3
STEM, HEAD = 32, 1280


class Block(NamedTuple):
    name: str
    kernel: int
    stride: int
    wider: int
    """Times as many channels in its middle."""
    channels: int
    """That it puts out."""
    given: int
    """Channels that it takes."""


def blocks() -> Iterator[Block]:
    given, number = STEM, 0
    for count, kernel, stride, wider, channels in EFFICIENTNET_LITE0_STAGES:
        for place in range(count):
            yield Block(f"block{number}", kernel, stride if place == 0 else 1, wider, channels, given)
            given, number = channels, number + 1


def original() -> tuple[Node, ...]:
    """The network on 224x224 in Caffe's terms, from the tensor "data" to the class scores, as PyTorch's port computes it.

    Arrays are `<our layer name>.weight` (out, in, height, width) and, of the classifier, `.bias` (out,); of batch
    normalisations `<conv>_bn.mean`, `.variance`, `.gamma` and `.beta`. TensorFlow's "same" pads by one less before than behind
    where a layer halves an even size.

    Example:
        >>> [node.name for node in original()][:3]
        ['stem', 'stem_bn', 'stem_bn_scale']
    """
    nodes: list[Node] = []

    def add(op: str, name: str, *inputs: str, arrays: tuple[str, ...] = (), **attrs: Any) -> str:
        nodes.append(Node(op, name, inputs, (name,), arrays, attrs))
        return name

    def normalised(layer: str, x: str, size: int, stride: int = 1, groups: int = 1, relu: bool = True) -> str:
        before, behind = (size - stride) // 2, size - stride - (size - stride) // 2
        sides = {"stride": (stride, stride), "pad": (before, behind) * 2, "groups": groups, "dilation": (1, 1)}
        x = add("conv", layer, x, arrays=(f"{layer}.weight",), **sides)
        bn = f"{layer}_bn"
        x = add("batch_norm", bn, x, arrays=(f"{bn}.mean", f"{bn}.variance"), epsilon=EPSILON)
        x = add("scale", f"{bn}_scale", x, arrays=(f"{bn}.gamma", f"{bn}.beta"))
        return add("relu", f"{layer}_relu6", x, limit=6.0) if relu else x

    x = normalised("stem", "data", 3, 2)
    for name, kernel, stride, wider, channels, given in blocks():
        y = normalised(f"{name}_expand", x, 1) if wider > 1 else x
        y = normalised(f"{name}_depthwise", y, kernel, stride, given * wider)
        y = normalised(f"{name}_project", y, 1, relu=False)
        x = add("add", name, x, y) if stride == 1 and channels == given else y
    x = add("global_mean", "avg_pool", normalised("head", x, 1))
    add("fc", "classifier", x, arrays=("classifier.weight", "classifier.bias"))
    return tuple(nodes)
