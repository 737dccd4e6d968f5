"""ONNX files as PyTorch's two exporters write the networks of the zoo, with all that they put around the layers.

What is written was read off files of torch 2.13: names of nodes and arrays, decomposed operators, shapes computed on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.formats.foreign import Node
from tests.formats.foreign_networks import Network
from tests.formats.write_onnx import Op, SubGraph, write_onnx

EPSILON = 1e-5


@dataclass(frozen=True)
class Style:
    """How a file is written.

    Attributes:
        dynamo: names of nodes as the newer exporter's, operators of opset 18; else those of the older one.
        opset: of the operators.
        half: all arrays in float16.
        folded: batch normalisations folded into the convolutions, in arrays with names of their own.
        constants: small arrays as Constant nodes, else as initialisers.
        batch: the declared number of images; 0 for any, whose shapes are computed from the tensors.
        external: arrays in a second file.
        padding: what stands around layers for nothing: Identity, Cast and Dropout.
        softmax: at the end.
        module: of the network within what was exported.
    """

    dynamo: bool = False
    opset: int = 13
    half: bool = False
    folded: bool = True
    constants: bool = True
    batch: int = 1
    external: bool = False
    padding: bool = False
    softmax: str = ""
    module: str = ""


STYLES = {
    "older-9": Style(opset=9),
    "older-13": Style(),
    "older-17-any-batch": Style(opset=17, batch=0),
    "older-13-four-images": Style(batch=4),
    "older-13-half": Style(half=True),
    "older-13-unfolded": Style(folded=False, padding=True),
    "older-13-softmax": Style(softmax="LogSoftmax", module="0"),
    "newer-18": Style(dynamo=True, opset=18, constants=False),
    "newer-20-any-batch": Style(dynamo=True, opset=20, constants=False, batch=0),
    "newer-23-external": Style(dynamo=True, opset=23, constants=False, external=True),
    "newer-18-half": Style(dynamo=True, opset=18, constants=False, half=True),
    "newer-18-unoptimised": Style(dynamo=True, opset=18, folded=False, padding=True, softmax="Softmax"),
}


@dataclass
class Exporter:
    """Writes one network in one style; `modules` are PyTorch's names of our layers."""

    net: Network
    style: Style
    modules: Callable[[str], str]
    ops: list[Op] = field(default_factory=list)
    count: int = 0
    waiting: dict[str, np.ndarray] = field(default_factory=dict)
    """Initialisers that the next node brings along."""
    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tensors -> channels and side, which an exporter knows."""

    def write(self, path: Path) -> Path:
        """The file, and a second one beside it for external arrays."""
        now = {self.net.input: "x"}
        flat: set[str] = set()
        for node in self.net.nodes:
            if node.op == "softmax":
                now[node.outputs[0]] = now[node.inputs[0]]
                continue
            sources = [now[name] for name in node.inputs]
            made = self.layer(node, sources, flat)
            kernel = self.net.arrays[node.arrays[0]] if node.op == "conv" else None
            channels = len(kernel) if kernel is not None else self.known.get(sources[0], (3, 0))[0]
            self.known[made] = (channels, self.net.sizes[node.outputs[0]])
            now[node.outputs[0]] = made
        last = now[self.net.nodes[-1].outputs[0]]
        if self.net.nodes[-1].op == "softmax" and self.net.sizes[self.net.scores] == 1 and last not in flat:
            last = self.flattened(last)
        if self.style.softmax:
            last = self.op(self.style.softmax, [last], {"axis": 1})
        inputs = {"x": (self.style.batch, 3, self.net.side, self.net.side)}
        external = f"{path.name}.data" if self.style.external else ""
        return write_onnx(path, self.ops, inputs=inputs, outputs=[last], opset=self.style.opset, external=external)

    def op(self, kind: str, inputs: list[str], attributes: dict[str, Any] | None = None, name: str = "", **arrays: Any) -> str:
        self.count += 1
        if self.style.dynamo:
            name, output = f"node_{kind.lower()}_{self.count}", f"{kind.lower()}_{self.count}"
        else:
            parts = [part for part in name.split(".") if part]
            scopes = "".join(f"/{'.'.join(parts[: i + 1])}" for i in range(len(parts)))
            name = f"{scopes}/{kind}" if parts else f"/{kind}_{self.count}"
            output = f"{name}_output_0"
        held = {key: self.stored(array) for key, array in arrays.pop("arrays", {}).items()}
        self.ops.append(Op(kind, [*inputs, *held], [output], attributes or {}, held | self.waiting, name))
        self.waiting = {}
        return output

    def stored(self, array: np.ndarray) -> np.ndarray:
        return array.astype(np.float16) if self.style.half and array.dtype.kind == "f" else array

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """A small array, of sizes or of one real number."""
        self.count += 1
        array = self.stored(np.array(values, dtype))
        name = f"val_{self.count}"
        if self.style.constants and self.style.dynamo and array.ndim == 1 and array.dtype == np.int64:
            self.ops.append(Op("Constant", [], [name], {"value_ints": array.tolist()}, name=f"node_Constant_{self.count}"))
        elif self.style.constants:
            self.ops.append(Op("Constant", [], [name], {"value": array}, name=f"/Constant_{self.count}"))
        else:
            self.waiting[name] = array
        return name

    def layer(self, node: Node, inputs: list[str], flat: set[str]) -> str:
        module = ".".join(part for part in (self.style.module, self.modules(node.name)) if part)
        attrs, source = node.attrs, inputs[0]
        if node.op in ("conv", "fc"):
            weights = self.weights(node, module)
            if node.op == "fc":
                if source not in flat:
                    source = self.flattened(source)
                made = self.op("Gemm", [source], {"alpha": 1.0, "beta": 1.0, "transB": 1}, module, arrays=weights)
                flat.add(made)
                return made
            sides = {"strides": [*attrs["stride"]], "pads": [attrs["pad"][0]] * 4, "dilations": [1, 1]}
            settings = {"group": attrs["groups"], **sides}
            return self.op("Conv", [source], settings, module, arrays=weights)
        if node.op == "batch_norm":
            if self.style.folded:
                return source
            roles = (("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "variance"))
            arrays = {f"{module}.{theirs}": self.net.arrays[f"{node.name}.{ours}"] for theirs, ours in roles}
            settings = {"epsilon": attrs["epsilon"], "momentum": 0.9}
            return self.op("BatchNormalization", [source], settings, module, arrays=arrays)
        if node.op == "scale":
            return source
        if node.op == "relu":
            made = self.op("Relu", [self.around(source)], {}, module)
            if source in flat:
                flat.add(made)
                return self.dropped(made, flat)
            return made
        if node.op == "lrn":
            return self.lrn(source, attrs)
        if node.op == "max_pool":
            return self.max_pool(node, source)
        if node.op in ("global_mean", "mean_pool"):
            return self.global_mean(source)
        if node.op == "axpy":
            gate, x, y = inputs
            return self.op("Add", [self.op("Mul", [gate, x]), y])
        if node.op == "concat":
            return self.op("Concat", inputs, {"axis": 1})
        if node.op == "identity":
            return self.dropped(source, flat)
        return self.op({"sigmoid": "Sigmoid"}[node.op], [source])

    def weights(self, node: Node, module: str) -> dict[str, np.ndarray]:
        kernel, *bias = (self.net.arrays[key] for key in node.arrays)
        norm = f"{node.name}_bn"
        if not (self.style.folded and f"{norm}.gamma" in self.net.arrays):
            return {f"{module}.weight": kernel} | ({f"{module}.bias": bias[0]} if bias else {})
        mean, variance, gamma, beta = (
            self.net.arrays[f"{norm}.{role}"].astype(float) for role in ("mean", "variance", "gamma", "beta")
        )
        factor = gamma / np.sqrt(variance + EPSILON)
        self.count += 1
        names = (f"{module}.weight", f"{module}.weight_bias") if self.style.dynamo else (
            f"onnx::Conv_{self.count}", f"onnx::Conv_{self.count}_bias")  # fmt: skip
        folded = (kernel * factor[:, None, None, None]).astype("float32"), (beta - mean * factor).astype("float32")
        return dict(zip(names, folded, strict=True))

    def around(self, source: str) -> str:
        if not self.style.padding:
            return source
        return self.op("Cast", [self.op("Identity", [source])], {"to": 1})

    def dropped(self, source: str, flat: set[str]) -> str:
        if not self.style.padding:
            return source
        operands = [self.constant(0.5, np.float32), self.constant(False, bool)] if self.style.opset >= 12 else []
        made = self.op("Dropout", [source, *operands])
        if source in flat:
            flat.add(made)
        return made

    def size(self, source: str, axis: int) -> str:
        """One size of a tensor, (1,), computed from it."""
        shape = self.op("Shape", [source])
        place = self.constant(axis)
        picked = self.op("Gather", [shape, place], {"axis": 0})
        if self.style.opset < 13:
            return self.op("Unsqueeze", [picked], {"axes": [0]})
        return self.op("Unsqueeze", [picked, self.constant([0])])

    def shaped(self, source: str, sizes: list[int], like: str) -> str:
        """Reshape to sizes of which the first is the number of images, that of the tensor `like`."""
        if self.style.batch == 0 and not self.style.dynamo:  # computed from the tensor
            parts = [self.size(like, 0), *(self.constant([size]) for size in sizes[1:])]
            return self.op("Reshape", [source, self.op("Concat", parts, {"axis": 0})])
        unknown = 0 if -1 in sizes[1:] else -1
        wanted = [self.style.batch or unknown, *sizes[1:]]
        settings = {"allowzero": 0} if self.style.opset >= 14 else {}
        return self.op("Reshape", [source, self.constant(wanted)], settings)

    def flattened(self, source: str) -> str:
        if self.style.dynamo or self.style.padding or self.style.batch != 1:
            return self.shaped(source, [1, -1], source)
        return self.op("Flatten", [source], {"axis": 1})

    def global_mean(self, source: str) -> str:
        if not self.style.dynamo:
            return self.op("GlobalAveragePool", [source])
        return self.op("ReduceMean", [source, self.constant([-1, -2])], {"keepdims": 1, "noop_with_empty_axes": 0})

    def max_pool(self, node: Node, source: str) -> str:
        size, stride, before = node.attrs["size"][0], node.attrs["stride"][0], self.net.sizes[node.inputs[0]]
        settings: dict[str, Any] = {"kernel_shape": [size] * 2, "strides": [stride] * 2}
        more = max(0, (self.net.sizes[node.outputs[0]] - 1) * stride + size - before)
        if node.attrs["rounding"] == "ceil" and self.style.opset >= 10:
            return self.op("MaxPool", [source], settings | {"pads": [0] * 4, "ceil_mode": 1})
        return self.op("MaxPool", [source], settings | {"pads": [0, 0, more, more]})

    def lrn(self, source: str, attrs: dict[str, Any]) -> str:
        """torch.nn.LocalResponseNorm: the mean over the channels as a pooling of a fifth axis."""
        size = attrs["size"]
        squares = self.op("Mul", [source, source])
        # (images, 1, channels, height, width), of which the exporters know all but the first
        channels, side = self.known[source]
        five = self.shaped(squares, [1, 1, channels, side, -1], source)
        pads = [0, 0, size // 2, 0, 0, 0, 0, (size - 1) // 2, 0, 0]
        if self.style.opset < 11:
            padded = self.op("Pad", [five], {"mode": "constant", "pads": pads, "value": 0.0})
        else:
            padded = self.op("Pad", [five, self.constant(pads)], {"mode": "constant"})
        counted = {"count_include_pad": 1} if self.style.opset >= 7 else {}
        settings = {"kernel_shape": [size, 1, 1], "strides": [1, 1, 1], "pads": [0] * 6, **counted}
        means = self.op("AveragePool", [padded], settings)
        four = self.shaped(self.squeezed(means), [1, channels, side, side], source)
        scaled = self.op("Mul", [four, self.constant(attrs["alpha"], np.float32)])
        below = self.op("Add", [scaled, self.constant(attrs["k"], np.float32)])
        powers = self.op("Pow", [below, self.constant(attrs["beta"], np.float32)])
        return self.op("Div", [source, powers])

    def squeezed(self, means: str) -> str:
        """Without the second axis; where its size is not known, the older exporter asks for it first."""
        if self.style.opset < 13:
            return self.op("Squeeze", [means], {"axes": [1]})
        if self.style.dynamo or self.style.batch:
            return self.op("Squeeze", [means, self.constant([1])])
        one = self.constant([1])
        equal = self.op("Equal", [self.op("Gather", [self.op("Shape", [means]), one], {"axis": 0}), one])
        self.count += 1
        axes, number = f"axes_{self.count}", self.count
        then = SubGraph(
            [
                Op("Constant", [], [axes], {"value": np.array([1], np.int64)}),
                Op("Squeeze", [means, axes], [f"squeezed_{number}"]),
            ],
            f"squeezed_{number}",
        )
        other = SubGraph([Op("Identity", [means], [f"same_{number}"])], f"same_{number}")
        return self.op("If", [equal], {"then_branch": then, "else_branch": other})


def write_exported(path: Path, net: Network, style: Style, modules: Callable[[str], str]) -> Path:
    """The network as an exporter writes it."""
    return Exporter(net, style, modules).write(path)
