"""Steps of which the networks are made, and how they follow each other."""

from __future__ import annotations

from typing import Any

from emotiw_keras.formats.foreign import Node

Step = tuple[str, str, dict[str, Any]]

INPUT = "data"
ROLES = {
    "conv": ("weight", "bias"),
    "unbiased_conv": ("weight",),
    "fc": ("weight", "bias"),
    "batch_norm": ("mean", "variance"),
    "scale": ("gamma", "beta"),
}
"""The arrays of a step, called after its layer; a scale's after the normalisation before it."""


def conv(name: str, stride: int = 1, pad: int = 0, groups: int = 1) -> list[Step]:
    """A convolution and its ReLU."""
    attrs = {"stride": (stride, stride), "pad": (pad,) * 4, "groups": groups, "dilation": (1, 1)}
    return [("conv", name, attrs), ("relu", f"relu_{name}", {})]


def normalised_conv(name: str, pad: int, epsilon: float) -> list[Step]:
    """A convolution without a bias, its batch normalisation `<name>_bn` with factors and offsets, and its ReLU."""
    (convolution, _), bn = conv(name, pad=pad), f"{name}_bn"
    norm = ("batch_norm", bn, {"epsilon": epsilon})
    return [("unbiased_conv", name, convolution[2]), norm, ("scale", f"{bn}_scale", {}), ("relu", f"relu_{name}", {})]


def fc(name: str, *, relu: bool = True) -> list[Step]:
    """A fully connected layer, and its ReLU."""
    return [("fc", name, {}), *([("relu", f"relu_{name}", {})] if relu else [])]


def lrn(name: str, alpha: float, k: float) -> list[Step]:
    """Local response normalisation over 5 channels, alpha as Caffe has it."""
    return [("lrn", name, {"size": 5, "alpha": alpha, "beta": 0.75, "k": k})]


def max_pool(name: str, size: int, stride: int, rounding: str = "ceil") -> list[Step]:
    """Max pooling that rounds its output size up, as Caffe does, or down."""
    return [("max_pool", name, {"size": (size, size), "stride": (stride, stride), "pad": (0,) * 4, "rounding": rounding})]


def sequence(*parts: list[Step]) -> tuple[Node, ...]:
    """The steps one after the other, from the tensor "data" to the class scores before the softmax."""
    nodes: list[Node] = []
    tensor = INPUT
    for part in parts:
        for op, name, attrs in part:
            arrays = tuple(f"{name.removesuffix('_scale')}.{role}" for role in ROLES.get(op, ()))
            nodes.append(Node(op.removeprefix("unbiased_"), name, (tensor,), (name,), arrays, attrs))
            tensor = name
    return tuple(nodes)
