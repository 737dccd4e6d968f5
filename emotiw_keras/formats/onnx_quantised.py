"""A network as an ONNX model whose convolutions and layers multiply bytes (int8), and how large its activations are, which
that takes.

Every tensor that is multiplied is rounded to 256 steps between the smallest and the largest value that faces gave it, every
kernel to 255 steps around 0 for each of its outputs; sums have 32 bits. What multiplies the faces themselves and the classifier
stay in float32: rounding the pixels, after their mean was subtracted, made two thirds of the error of the models that ship.
Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
sections 2.1 to 2.4; `QuantizeLinear` and `DequantizeLinear` in `Operators.md` of ONNX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Node
from emotiw_keras.formats.onnx_writing import Writer

Ranges = Mapping[str, tuple[float, float]]
"""Step of the network -> the least and the greatest value that it gives."""
SMALLEST = 1e-12
"""A step is no smaller: what is always zero has one too."""
ENDS = "ends"
"""The output of `observing`: of each face and tensor the least and the greatest value."""


def quantised(
    nodes: Iterable[Node], arrays: Mapping[str, np.ndarray], shape: tuple[int, int, int], classes: int, ranges: Ranges
) -> bytes:
    """`onnx_writing.onnx_bytes` with products of bytes.

    Args:
        nodes, arrays, shape, classes: as there.
        ranges: of every tensor that `observing` names.

    Raises:
        ModelError: as there; a step between products that has no form in bytes, or a range that is missing.
    """
    nodes, arrays = without_batch_norms(nodes, arrays)
    writer = _Quantised(nodes, arrays, ranges)
    writer.steps(nodes)
    return writer.network(shape, classes)


def observing(
    nodes: Iterable[Node], arrays: Mapping[str, np.ndarray], shape: tuple[int, int, int], classes: int
) -> tuple[bytes, tuple[str, ...]]:
    """The network with the output `ENDS`, float32 (batch, 2 * tensors): the least values of all tensors, then the greatest.

    Returns:
        The model, and the names of the tensors, as `quantised` asks for them.

    Raises:
        ModelError: as `quantised`.
    """
    nodes, arrays = without_batch_norms(nodes, arrays)
    writer = _Observing(nodes, arrays)
    writer.steps(nodes)
    names = tuple(writer.ends)
    columns = [ends[which] for which in (0, 1) for ends in writer.ends.values()]
    writer.emit("Concat", columns, ENDS, axis=1)
    return writer.network(shape, classes, {ENDS: ["batch", len(columns)]}), names


def without_batch_norms(nodes: Iterable[Node], arrays: Mapping[str, np.ndarray]) -> tuple[list[Node], dict[str, np.ndarray]]:
    """The same network whose convolutions do what the batch normalisations behind them did.

    Raises:
        ModelError: a batch normalisation that stands behind something else.
    """
    kept: list[Node] = []
    new = dict(arrays)
    convolutions: dict[str, Node] = {}
    statistics: dict[str, Node] = {}
    for node in nodes:
        (read, *_), (made, *_) = node.inputs, node.outputs
        if node.op == "batch_norm":
            if read not in convolutions:
                raise ModelError(f"layer {node.name}: batch normalisation has a form in int8 behind a convolution alone")
            statistics[made], convolutions[made] = node, convolutions[read]
            continue
        if node.op == "scale" and read in statistics:
            before, conv = statistics[read], convolutions[read]
            mean, variance = (new[name].astype(np.float64) for name in before.arrays)
            gamma, beta = (new[name] for name in node.arrays)
            factor = gamma / np.sqrt(variance + before.attrs["epsilon"])
            kernel, bias = conv.arrays[0], f"{conv.name}.bias"
            held = new[bias] if bias in conv.arrays else 0.0
            new[kernel] = (new[kernel] * factor).astype(np.float32)
            new[bias] = ((held - mean) * factor + beta).astype(np.float32)
            at = next(place for place, each in enumerate(kept) if each is conv)
            kept[at] = replace(conv, arrays=(kernel, bias), outputs=(made,))
            continue
        if node.op == "conv":
            convolutions[made] = node
        kept.append(node)
    return kept, new


class _Products(Writer):
    """Meets every tensor that is multiplied, and every sum of products, where a ReLU follows behind that."""

    def __init__(self, nodes: list[Node], arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__(arrays)
        self._classifier = next((node.name for node in reversed(nodes) if node.op == "fc"), "")
        self._exact = {self._classifier, *(node.name for node in nodes if node.op in ("conv", "fc") and "data" in node.inputs)}
        self._rectified = {node.inputs[0] for node in nodes if node.op == "relu"}
        self._made_by: dict[str, Node] = {}

    def step(self, node: Node) -> None:
        super().step(node)
        self._made_by[node.outputs[0]] = node

    def met(self, name: str, x: str) -> str:
        """What takes the place of the tensor `x`, which the step of this name gives."""
        raise NotImplementedError

    def _conv(self, node: Node, inputs: list[str]) -> str:
        return self._sum(node, super()._conv(node, [self._factor(node, inputs[0])]))

    def _fc(self, node: Node, inputs: list[str]) -> str:
        return self._sum(node, super()._fc(node, [self._factor(node, self._flatten(node, inputs))]))

    def _factor(self, node: Node, x: str) -> str:
        return x if node.name in self._exact else self.met(self._made_by[node.inputs[0]].name, x)

    def _sum(self, node: Node, y: str) -> str:
        """The sums of a node: as they are where a ReLU takes them, or where they are the answers."""
        left = node.outputs[0] in self._rectified or node.name == self._classifier
        return y if left else self._as([y], self.met(node.name, y))

    def _relu(self, node: Node, inputs: list[str]) -> str:
        y = super()._relu(node, inputs)
        made_by = self._made_by.get(node.inputs[0])
        product = made_by is not None and made_by.op in ("conv", "fc") and made_by.name != self._classifier
        return self._as([y], self.met(node.name, y)) if product else y


class _Observing(_Products):
    def __init__(self, nodes: list[Node], arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__(nodes, arrays)
        self.ends: dict[str, list[str]] = {}

    def met(self, name: str, x: str) -> str:
        if name not in self.ends:
            flat = x if x in self._flat else self.emit("Flatten", [x], axis=1)
            self.ends[name] = [self.emit(op, [flat], axes=[1], keepdims=1) for op in ("ReduceMin", "ReduceMax")]
        return x


class _Quantised(_Products):
    def __init__(self, nodes: list[Node], arrays: Mapping[str, np.ndarray], ranges: Ranges) -> None:
        super().__init__(nodes, arrays)
        self._ranges = ranges
        self._steps: dict[str, np.float32] = {}

    def met(self, name: str, x: str) -> str:
        if x in self._steps:
            return x
        if name not in self._ranges:
            raise ModelError(f"how large {name} becomes is not known")
        # Zeros around an image must stay zeros.
        low, high = min(self._ranges[name][0], 0.0), max(self._ranges[name][1], 0.0)
        step = np.float32(max((high - low) / 255, SMALLEST))
        zero = np.array(np.clip(round(-low / float(step)), 0, 255), np.uint8)
        stored = [self.store(f"{x}.step", np.array(step)), self.store(f"{x}.zero", zero)]
        y = self.emit("DequantizeLinear", [self.emit("QuantizeLinear", [x, *stored]), *stored])
        self._steps[y] = step
        return self._as([x], y)

    def _products(self, node: Node, x: str, kernel: np.ndarray, out: int) -> list[str]:
        """Names of the kernel and the bias in bytes and words, for the axis of the kernel that counts the outputs."""
        others = tuple(axis for axis in range(kernel.ndim) if axis != out)
        steps = np.abs(kernel).max(axis=others) / np.float32(127)
        steps[steps == 0] = 1
        along = np.expand_dims(steps, others)
        whole = np.clip(np.rint(kernel / along), -127, 127).astype(np.int8)
        names = [self._words(f"{node.name}.kernel", whole, steps, np.zeros(len(steps), np.int8), out)]
        if len(node.arrays) > 1:
            each = steps * self._steps[x]
            words = np.rint(self.array_of(node.arrays[1]).astype(np.float64) / each)
            limit = 2**31 - 1
            words = np.clip(words, -limit, limit).astype(np.int32)
            names.append(self._words(f"{node.name}.bias", words, each, np.zeros(len(each), np.int32), 0))
        return names

    def _words(self, name: str, whole: np.ndarray, steps: np.ndarray, zeros: np.ndarray, axis: int) -> str:
        parts = {"": whole, ".steps": steps, ".zeros": zeros}
        return self.emit("DequantizeLinear", [self.store(f"{name}{part}", values) for part, values in parts.items()], axis=axis)

    def _weights(self, node: Node, inputs: list[str], *axes: int) -> list[str]:
        if node.name in self._exact:
            return super()._weights(node, inputs, *axes)
        kernel = self.kernel_of(node, *axes)
        return self._products(node, inputs[0], kernel, 0 if axes else 1)
