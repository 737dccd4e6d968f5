"""ONNX's operators on tensors of any shape and on their sizes, which exporters write around the layers; what needs no image
is computed at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats import reference_tensors
from emotiw_keras.formats.foreign import Node
from emotiw_keras.formats.onnx_attributes import AttributeReader, Branch, Graph, OnnxNode, Unsupported
from emotiw_keras.formats.reference_checks import LARGEST_TENSOR
from emotiw_keras.formats.reference_tensors import DTYPES, STEPS

_INTEGERS = {
    "Cast": ("to",),
    "Concat": ("axis",),
    "Gather": ("axis",),
    "ReduceMean": ("keepdims", "noop_with_empty_axes"),
    "Reshape": ("allowzero",),
    "Shape": ("start", "end"),
}
# What newer versions of an operator take as an operand, older ones have as an attribute -> the operand's place.
_OPERANDS = {
    "Pad": {"pads": 1, "value": 2},
    "ReduceMean": {"axes": 1},
    "Reshape": {"shape": 1},
    "Slice": {"starts": 1, "ends": 2, "axes": 3},
    "Squeeze": {"axes": 1},
    "Unsqueeze": {"axes": 1},
}
REALS = (1, 10, 11, 16)
"""ONNX's numbers of the types that are read as real numbers, whatever their precision."""
_LARGEST_BRANCH = 16
"""Nodes of one branch; exporters write one or two."""


class Folded:
    """A graph whose nodes all need the image.

    `aliases` are names of tensors that are arrays of other names, `made` the arrays that were computed from others, which are
    `sources`.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.arrays = graph, graph.arrays
        self.read = AttributeReader(graph.where)
        self.aliases: dict[str, str] = {}
        self.made: set[str] = set()
        self.sources: set[str] = set()
        self._bytes = 0
        # Sizes of a file made for several images at once are those of as many as there are.
        first = next(iter(graph.inputs.values()), ())
        self.batch = first[0] if len(graph.inputs) == 1 and first and first[0] > 1 else 0
        self.nodes = self._fold(graph.nodes)

    def _fold(self, nodes: Sequence[OnnxNode]) -> list[OnnxNode]:
        kept: list[OnnxNode] = []
        for before in nodes:
            node = replace(before, inputs=tuple(self.aliases.get(name, name) for name in before.inputs))
            output = node.outputs[0] if node.outputs else ""
            named = [name for name in node.inputs if name]
            known = bool(named and output) and all(name in self.arrays for name in named)
            branch = self._branch(node) if known and node.op == "If" else None
            if branch is not None:
                kept += self._fold(branch.nodes)
                self.aliases[output] = self.aliases.get(branch.output, branch.output)
            elif output and node.inputs and node.inputs[0] in self.arrays and self._same(node):
                self.aliases[output] = node.inputs[0]
            elif known and node.op in STEPS and output not in self.arrays:
                try:
                    made = reference_tensors.compute(self.tensor(node), ())
                except Unsupported:
                    kept.append(node)
                    continue
                except ModelError as error:
                    raise ModelError(f"{self.graph.where}: {error}") from error
                self._take(made, output, named)
                self.sources.update(named)
            else:
                kept.append(node)
        return kept

    def _take(self, made: np.ndarray, output: str, named: Sequence[str]) -> None:
        """An array that was made of others, unless all of them are too large; views of these take no memory."""
        self._bytes += 0 if any(np.may_share_memory(made, self.arrays[name]) for name in named) else made.nbytes
        if self._bytes > LARGEST_TENSOR:
            raise ModelError(
                f"{self.graph.where}: the arrays that it makes of others have {self._bytes:,} bytes up to {output}, more than "
                f"the {LARGEST_TENSOR:,} allowed"
            )
        self.arrays[output] = made
        self.made.add(output)

    def _same(self, node: OnnxNode) -> bool:
        """Whether a node gives its first operand as it is: real numbers of every precision are computed in float32."""
        real = self.arrays[node.inputs[0]].dtype.kind == "f"
        cast = node.op == "CastLike" or (node.op == "Cast" and node.attributes.get("to") in REALS)
        return (node.op == "Identity" and len(node.inputs) == 1) or (cast and real)

    def _branch(self, node: OnnxNode) -> Branch | None:
        """The branch that a condition of the file itself chooses."""
        condition = self.arrays[node.inputs[0]]
        if condition.size != 1:
            return None
        branch = node.attributes.get("then_branch" if condition.reshape(-1)[0] else "else_branch")
        return branch if isinstance(branch, Branch) else None

    def tensor(self, node: OnnxNode, outputs: tuple[str, ...] = ()) -> Node:
        """A node of the kind "tensor". Raises Unsupported for settings that none has."""
        if node.op not in STEPS:
            raise Unsupported("")
        places: list[Any] = [name or None for name in node.inputs]
        while places and places[-1] is None:
            places.pop()
        for name, place in _OPERANDS.get(node.op, {}).items():
            value = node.attributes.get(name)
            if value is None or (len(places) > place and places[place] is not None):
                continue
            places += [None] * (place + 1 - len(places))
            places[place] = np.asarray(value)
        attrs: dict[str, Any] = {"type": node.op}
        attrs |= {name: self.read.integer(node, name, 0) for name in _INTEGERS.get(node.op, ()) if name in node.attributes}
        self._settings(node, attrs)
        held = {i: self.arrays[at] if isinstance(at, str) else at for i, at in enumerate(places)
                if not isinstance(at, str) or at in self.arrays}  # fmt: skip
        if node.op in ("Reshape", "Expand") and self.batch and 1 in held and held[1] is not None:
            held[1] = self._one_image(held[1], 0 if node.op == "Reshape" and not attrs.get("allowzero") else 1)
        if held:
            attrs["constants"] = tuple(held.items())
        inputs = tuple(at for at in places if isinstance(at, str) and at not in self.arrays)
        return Node("tensor", node.name, inputs, outputs or node.outputs[:1], (), attrs)

    def _settings(self, node: OnnxNode, attrs: dict[str, Any]) -> None:
        if node.op == "Cast" and attrs.get("to") not in DTYPES:
            raise Unsupported(f"to numbers of type {attrs.get('to')}")
        if node.op == "Pad":
            self.read.only(node, "mode", "constant")
        if node.op == "Concat" and "axis" not in attrs:
            raise Unsupported("without an axis")
        if node.op == "Transpose" and "perm" in node.attributes:
            attrs["perm"] = node.attributes["perm"]
        if node.op == "ConstantOfShape":
            attrs["value"] = node.attributes.get("value")
        if node.op == "AveragePool":
            attrs |= self._mean_over_channels(node)

    def _mean_over_channels(self, node: OnnxNode) -> dict[str, Any]:
        size = self.read.integers(node, "kernel_shape", (0, 0, 0), 1)
        pads = self.read.integers(node, "pads", (0,) * 6, 0)
        if size[1:] != (1, 1) or self.read.integers(node, "strides", (1, 1, 1), 1) != (1, 1, 1) or any(
            pads[i] for i in (1, 2, 4, 5)
        ):  # fmt: skip
            raise Unsupported(f"over windows of {'x'.join(map(str, size))}")
        self.read.only(node, "auto_pad", "NOTSET", "VALID")
        self.read.only(node, "ceil_mode", 0)
        counts = bool(self.read.integer(node, "count_include_pad", 0))
        return {"size": size[0], "pad": (pads[0], pads[3]), "count_pad": counts}

    def _one_image(self, sizes: np.ndarray, batch: int) -> np.ndarray:
        """Sizes of a tensor that starts with the file's number of images, with `batch` in its place."""
        flat = np.asarray(sizes).reshape(-1)
        if flat.size < 2 or flat[0] != self.batch:
            return sizes
        return np.concatenate([[batch], flat[1:]]).astype(np.int64)

    def choice(self, node: OnnxNode) -> Node:
        """A node of the kind "if": both branches, of tensors alone."""
        branches: dict[str, Any] = {}
        captured: dict[str, None] = {}
        for word in ("then", "else"):
            branch = node.attributes.get(f"{word}_branch")
            if not isinstance(branch, Branch) or len(branch.nodes) > _LARGEST_BRANCH:
                raise Unsupported("")
            steps, made = [], set[str]()
            for step in branch.nodes:
                step = replace(step, inputs=tuple(self.aliases.get(name, name) for name in step.inputs))
                if step.op == "Identity" and len(step.inputs) == 1:
                    steps.append(Node("identity", step.name, step.inputs, step.outputs[:1]))
                else:
                    steps.append(self.tensor(step))
                captured.update(dict.fromkeys(name for name in steps[-1].inputs if name not in made))
                made.update(step.outputs)
            branches[word] = (tuple(steps), branch.output)
            if branch.output not in made:
                captured[branch.output] = None
        inputs = (node.inputs[0], *(name for name in captured if name != node.inputs[0]))
        if set(inputs) & self.arrays.keys():
            raise Unsupported("of arrays of the file")
        return Node("if", node.name, inputs, node.outputs[:1], (), branches)
