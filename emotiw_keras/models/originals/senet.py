"""SENet-50: its blocks, and the network as released."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from emotiw_keras.formats.foreign import Node

EPSILON = 1e-5
"""Caffe's default, which the prototxt does not change."""
# Stage -> blocks, and channels of their first two convolutions.
_STAGES = {2: (3, 64), 3: (4, 128), 4: (6, 256), 5: (3, 512)}
CONV1 = "conv1_7x7_s2"


def blocks() -> Iterator[tuple[str, int, int, bool]]:
    """Name, channels, stride, and whether the shortcut is a projection."""
    for stage, (count, channels) in _STAGES.items():
        for number in range(1, count + 1):
            yield f"conv{stage}_{number}", channels, 2 if stage > 2 and number == 1 else 1, number == 1


def original() -> tuple[Node, ...]:
    """SENet-50 in Caffe's terms, from the tensor "data" to "prob", as its authors' prototxt has it.

    Arrays are `<our layer name>.weight` (out, in, height, width) and `.bias` (out,), of batch normalisations
    `<conv>_bn.mean`, `.variance`, `.gamma` and `.beta`.

    Source: hujie-frank/SENet `models/SE-ResNet-50.prototxt`.

    Example:
        >>> [node.name for node in original()][:3]
        ['conv1_7x7_s2', 'conv1_7x7_s2_bn', 'conv1_7x7_s2_bn_scale']
    """
    nodes: list[Node] = []

    def add(op: str, name: str, *inputs: str, arrays: tuple[str, ...] = (), **attrs: Any) -> str:
        nodes.append(Node(op, name, inputs, (name,), arrays, attrs))
        return name

    def conv(layer: str, source: str, stride: int = 1, pad: int = 0, bias: bool = False) -> str:
        arrays = (f"{layer}.weight", f"{layer}.bias")[: 1 + bias]
        sides = {"stride": (stride, stride), "pad": (pad,) * 4, "groups": 1, "dilation": (1, 1)}
        return add("conv", layer, source, arrays=arrays, **sides)

    def normalised(layer: str, source: str, stride: int = 1, pad: int = 0) -> str:
        x, bn = conv(layer, source, stride, pad), f"{layer}_bn"
        x = add("batch_norm", bn, x, arrays=(f"{bn}.mean", f"{bn}.variance"), epsilon=EPSILON)
        return add("scale", f"{bn}_scale", x, arrays=(f"{bn}.gamma", f"{bn}.beta"))

    x = add("relu", "conv1_relu_7x7_s2", normalised(CONV1, "data", 2, 3), slope=0.0)
    x = add("max_pool", "pool1_3x3_s2", x, size=(3, 3), stride=(2, 2), pad=(0,) * 4, rounding="ceil")
    for block, _, stride, projected in blocks():
        y = add("relu", f"{block}_1x1_reduce_relu", normalised(f"{block}_1x1_reduce", x, stride), slope=0.0)
        y = add("relu", f"{block}_3x3_relu", normalised(f"{block}_3x3", y, 1, 1), slope=0.0)
        y = normalised(f"{block}_1x1_increase", y)
        gate = conv(f"{block}_1x1_down", add("global_mean", f"{block}_global_pool", y), bias=True)
        gate = conv(f"{block}_1x1_up", add("relu", f"{block}_1x1_down_relu", gate, slope=0.0), bias=True)
        gate = add("sigmoid", f"{block}_prob", gate)
        shortcut = normalised(f"{block}_1x1_proj", x, stride) if projected else x
        x = add("relu", f"{block}_relu", add("axpy", block, gate, y, shortcut), slope=0.0)
    x = add("mean_pool", "pool5_7x7_s1", x, size=(7, 7), stride=(1, 1), pad=(0,) * 4, rounding="ceil", count_pad=True)
    x = add("fc", "classifier", x, arrays=("classifier.weight", "classifier.bias"))
    add("softmax", "prob", x, axis=1)
    return tuple(nodes)
