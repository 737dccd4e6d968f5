"""A node of an ONNX file and its attributes, checked as they are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError

Attribute = Any
"""int, float, str, a tuple of numbers, an array, a `Branch`, or None for what is not read."""
LARGEST_SETTING = 1 << 20


@dataclass
class OnnxNode:
    """A node as the file has it."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute] = field(default_factory=dict)


@dataclass
class Branch:
    """One of the two graphs within an If: its nodes, and the tensor among them or around them that it gives."""

    nodes: list[OnnxNode]
    output: str


@dataclass
class Graph:
    """The nodes in order with all arrays (initialisers and constants) and the declared inputs."""

    where: str
    opset: int
    nodes: list[OnnxNode]
    arrays: dict[str, np.ndarray]
    inputs: dict[str, tuple[int, ...]]


class Unsupported(Exception):
    """What no kind of node does; the argument says which part."""


class AttributeReader:
    """Attributes of the nodes of one file; ModelError for values that none may have, `Unsupported` for unusual ones."""

    def __init__(self, where: str) -> None:
        self.where = where

    def integer(self, node: OnnxNode, name: str, default: int) -> int:
        """An integer attribute."""
        value = node.attributes.get(name, default)
        if not isinstance(value, int):
            raise self.wrong(node, name, value, "an integer")
        return value

    def number(self, node: OnnxNode, name: str, default: float) -> float:
        """A finite number."""
        value = node.attributes.get(name, default)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.wrong(node, name, value, "a finite number")
        return float(value)

    def integers(self, node: OnnxNode, name: str, default: tuple[int, ...], least: int) -> tuple[int, ...]:
        """As many integers as the default has."""
        value = node.attributes.get(name, default)
        if isinstance(value, int):
            value = (value,)
        if not isinstance(value, tuple) or not all(isinstance(v, int) and least <= v <= LARGEST_SETTING for v in value):
            raise self.wrong(node, name, value, f"integers of {least} to {LARGEST_SETTING:,}")
        if len(value) != len(default):
            raise Unsupported(f"with {len(value)} values of {name}")
        return value

    def wrong(self, node: OnnxNode, name: str, value: object, expected: str) -> ModelError:
        """The error of an attribute that has no such value."""
        found = "of another kind" if value is None or isinstance(value, (np.ndarray, Branch)) else str(value)[:60]
        return ModelError(f"{self.where}: node {node.name} ({node.op}) has {name} {found}, expected {expected}")

    def only(self, node: OnnxNode, name: str, default: Attribute, *allowed: Attribute) -> None:
        """Nodes have no other value of this attribute."""
        value = node.attributes.get(name, default)
        if value not in (default, *allowed):
            raise Unsupported(f"with {name} {value}")

    def window(self, node: OnnxNode, size: tuple[int, ...]) -> dict[str, Any]:
        """size, stride, dilation (height, width) and pad (top, bottom, left, right)."""
        stride = self.integers(node, "strides", (1, 1), 1)
        dilation = self.integers(node, "dilations", (1, 1), 1)
        how = node.attributes.get("auto_pad", "NOTSET")
        top, left, bottom, right = self.integers(node, "pads", (0, 0, 0, 0), 0) if how == "NOTSET" else (0, 0, 0, 0)
        if how in ("SAME_UPPER", "SAME_LOWER"):
            if stride != (1, 1):
                raise Unsupported(f"with auto_pad {how} and strides")
            rows, columns = ((k - 1) * d for k, d in zip(size, dilation, strict=True))
            top, left = rows // 2, columns // 2
            bottom, right = rows - top, columns - left
            if how == "SAME_LOWER":
                top, bottom, left, right = bottom, top, right, left
        elif how not in ("NOTSET", "VALID"):
            raise Unsupported(f"with auto_pad {how}")
        return {"size": size, "stride": stride, "pad": (top, bottom, left, right), "dilation": dilation}
