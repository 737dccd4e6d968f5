"""The networks of the default detector, from their TFLite files into the engine that computes them.

In a file a network has one size of input; here it takes any, as far as its convolutions are concerned: sides that can be halved
as often as it does. ONNX Runtime computes whole blocks of 16 channels and leaves its fast layout where a tensor has others, or
meets an operator that it does not know in it. So for it channels are filled up with zeros, which change nothing:

- a step that widens a tensor by channels of zero and adds a convolution to it becomes two convolutions, side by side;
- a ReLU with a slope for each channel, max(x, 0) + slope min(x, 0), becomes x + sign(1 - slope) max(-|1 - slope| x, 0).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emotiw_keras import engines
from emotiw_keras.formats.onnx_writing import Graph
from emotiw_keras.formats.tflite import Network, Step, read_tflite

BLOCK = 16
ENGINES = ("onnxruntime", "opencv")
"""What computes the detector, the fastest first; OpenVINO was no faster than the first."""
KEPT = 8
"""Networks of OpenCV that are kept: each remembers one size of input."""


def fastest() -> str:
    """The first of `ENGINES` that is installed."""
    here = engines.installed()
    return next(engine for engine in ENGINES if engine in here)


class DetectorNet:
    """A network: float32 (batch, channels, height, width) -> its outputs, float32 (batch, channels, height, width) each.

    Threads may share it; each batch is computed by one.

    Args:
        path: its TFLite file.
        outputs: names of convolutions in it.
        engine: one of `ENGINES`.
        shape: batch, height and width of all that comes; None for any.

    Raises:
        ModelError: the file is damaged, or the engine cannot compute it.
        UsageError: the engine is not installed.
    """

    def __init__(self, path: Path, outputs: Sequence[str], engine: str, shape: tuple[int, int, int] | None = None) -> None:
        network = read_tflite(path.read_bytes(), path.name)
        self._model = onnx_of(network, outputs, BLOCK if engine == "onnxruntime" else 1, shape)
        self._called, self._outputs, self._engine = path.name, outputs, engine
        self._lock = threading.Lock()
        self._made = 0
        self._free: list[tuple[tuple[int, ...], engines.Outputs]] = []
        self._shared = self._load()
        if engine == "opencv":
            self._free.append(((), self._shared))

    def _load(self) -> engines.Outputs:
        self._made += 1
        return engines.load_outputs(self._engine, self._model, self._called, self._outputs, threads=1)

    def __call__(self, batch: np.ndarray) -> Sequence[np.ndarray]:
        """The outputs for a batch."""
        if self._engine != "opencv":
            return self._shared(batch)
        compute = self._borrowed(batch.shape)
        found = compute(batch)
        with self._lock:
            self._free.append((batch.shape, compute))
        return found

    def _borrowed(self, shape: tuple[int, ...]) -> engines.Outputs:
        """One that nobody uses: for this shape, else a new one, or when there are many the one that waited longest."""
        with self._lock:
            for place in range(len(self._free) - 1, -1, -1):
                if self._free[place][0] in (shape, ()):
                    return self._free.pop(place)[1]
            if self._free and self._made >= KEPT:
                return self._free.pop(0)[1]
            return self._load()


def onnx_of(network: Network, outputs: Sequence[str], block: int, shape: tuple[int, int, int] | None = None) -> bytes:
    """A network as an ONNX model whose tensors are (batch, channels, height, width).

    Args:
        network: what the file says.
        outputs: names of convolutions whose results are asked for; what comes after them is left out.
        block: the numbers of channels inside are multiples of it; 1 leaves all as it is, slopes too.
        shape: batch, height and width of the input; None for any. ONNX Runtime adds in its fast layout only what it knows to be
            of the same size beforehand.
    """
    made = _Converter(network, outputs, block)
    for step in network.steps:
        made.take(step)
    for name in outputs:
        made.whole(name)
    sizes: dict[str, list[int | str]] = {
        name: ["batch", network.shapes[name][3], f"height_{place}", f"width_{place}"] for place, name in enumerate(outputs)
    }
    batch, height, width = shape or ("batch", "height", "width")
    return made.graph.written({network.input: [batch, network.shapes[network.input][3], height, width]}, sizes)


@dataclass(frozen=True)
class _Convolution:
    """One that is not written yet: kernel (out, in, height, width), bias (out,)."""

    source: str
    kernel: np.ndarray
    bias: np.ndarray
    stride: list[int]
    pads: list[int]
    groups: int


class _Converter:
    def __init__(self, network: Network, outputs: Sequence[str], block: int) -> None:
        self.graph = Graph()
        self._network, self._outputs, self._block = network, outputs, block
        self._channels = {network.input: network.shapes[network.input][3]}
        self._waiting: dict[str, _Convolution] = {}
        self._widened: dict[str, str] = {}
        self._halves: dict[str, tuple[str, str, int]] = {}

    def take(self, step: Step) -> None:
        """Write what a step computes, or wait with it until it is used."""
        if step.op not in ("reshape", "concat"):  # the ends, which are none of the outputs
            getattr(self, f"_{step.op}")(step)

    def whole(self, name: str) -> str:
        """A tensor, once it stands in the graph as one."""
        if name in self._waiting:
            self._write(name, self._waiting.pop(name))
        elif name in self._halves:
            self.graph.emit("Concat", list(self._halves.pop(name)[:2]), name, axis=1)
        return name

    def _up(self, count: int) -> int:
        return -(-count // self._block) * self._block

    @staticmethod
    def _filled(values: np.ndarray, *sizes: int) -> np.ndarray:
        """With zeros behind, to these sizes of the first axes."""
        filled = np.zeros((*sizes, *values.shape[len(sizes) :]), np.float32)
        filled[tuple(map(slice, values.shape))] = values
        return filled

    def _write(self, name: str, layer: _Convolution) -> str:
        kernel = self.graph.store(f"{name}.kernel", layer.kernel)
        bias = self.graph.store(f"{name}.bias", layer.bias)
        sides = list(layer.kernel.shape[2:])
        shape = {"kernel_shape": sides, "strides": layer.stride, "pads": layer.pads, "group": layer.groups}
        return self.graph.emit("Conv", [layer.source, kernel, bias], name, **shape)

    def _conv(self, step: Step) -> None:
        kernel, bias = (self._network.arrays[name] for name in step.inputs[1:])
        source = self.whole(step.inputs[0])
        wide = len(bias) if step.output in self._outputs else self._up(len(bias))
        kernel = self._filled(kernel.transpose(0, 3, 1, 2), wide, self._channels[source])
        self._later(step, source, kernel, self._filled(bias, wide), 1)

    def _depthwise(self, step: Step) -> None:
        kernel, bias = (self._network.arrays[name] for name in step.inputs[1:])
        source = self.whole(step.inputs[0])
        wide = self._channels[source]
        self._later(step, source, self._filled(kernel.transpose(3, 0, 1, 2), wide), self._filled(bias, wide), wide)

    def _later(self, step: Step, source: str, kernel: np.ndarray, bias: np.ndarray, groups: int) -> None:
        stride = [step.settings["stride_y"], step.settings["stride_x"]]
        pads = [0, 0, 0, 0]
        if not step.settings["valid"]:
            sides = self._network.shapes[step.inputs[0]][1:3]
            for axis, (side, size, by) in enumerate(zip(sides, kernel.shape[2:], stride, strict=True)):
                more = max(0, (-(-side // by) - 1) * by + size - side)
                pads[axis], pads[axis + 2] = more // 2, more - more // 2
        self._channels[step.output] = len(bias)
        self._waiting[step.output] = _Convolution(source, kernel, bias, stride, pads, groups)

    def _max_pool(self, step: Step) -> None:
        at = step.settings
        shape = {"kernel_shape": [at["height"], at["width"]], "strides": [at["stride_y"], at["stride_x"]]}
        self.graph.emit("MaxPool", [self.whole(step.inputs[0])], step.output, **shape)
        self._channels[step.output] = self._channels[step.inputs[0]]

    def _pad(self, step: Step) -> None:
        """More channels, of zeros, behind those that there are."""
        source, (*others, (before, more)) = step.inputs[0], self._network.arrays[step.inputs[1]].tolist()
        if before or any(map(any, others)):
            raise ValueError(f"{step.output} widens a tensor otherwise than by channels behind its own")
        have = self._network.shapes[source][3]
        self._channels[step.output] = self._up(have + more)
        self._widened[step.output] = self.whole(source)

    def _add(self, step: Step) -> None:
        first, second = step.inputs
        if second in self._widened:
            first, second = second, first
        self._channels[step.output] = self._channels[second]
        if first in self._widened:
            first = self._widened.pop(first)
            have = self._channels[first]
            more = self._channels[second] - have
            if more and self._block > 1 and second in self._waiting:
                layer = self._waiting.pop(second)
                names = [
                    self._write(f"{step.output}.{start}", replace(layer, kernel=layer.kernel[part], bias=layer.bias[part]))
                    for start, part in ((0, slice(have)), (have, slice(have, None)))
                ]
                self._halves[step.output] = (self.graph.emit("Add", [names[0], first], f"{step.output}.sum"), names[1], have)
                return
            if more:
                zeros = self.graph.store(f"{step.output}.zeros", np.array([0, 0, 0, 0, 0, more, 0, 0], np.int64))
                first = self.graph.emit("Pad", [first, zeros], f"{step.output}.widened")
        self.graph.emit("Add", [self.whole(second), self.whole(first)], step.output)

    def _relu(self, step: Step) -> None:
        self._channels[step.output] = self._channels[step.inputs[0]]
        halves = self._halves.pop(step.inputs[0], None)
        if halves is None:
            self.graph.emit("Relu", [self.whole(step.inputs[0])], step.output)
            return
        first, second = (self.graph.emit("Relu", [half], f"{half}.relu") for half in halves[:2])
        self._halves[step.output] = (first, second, halves[2])

    def _prelu(self, step: Step) -> None:
        source, wide = step.inputs[0], self._channels[step.inputs[0]]
        self._channels[step.output] = wide
        slopes = self._filled(self._network.arrays[step.inputs[1]].ravel(), wide)
        halves = self._halves.pop(source, None)
        if halves is None:
            self._sloped(self.whole(source), slopes, step.output)
            return
        first, second, have = halves
        names = [(first, slopes[:have]), (second, slopes[have:])]
        first, second = (self._sloped(name, part, f"{name}.prelu") for name, part in names)
        self._halves[step.output] = (first, second, have)

    def _sloped(self, source: str, slopes: np.ndarray, output: str) -> str:
        """A ReLU with a slope for each channel."""
        if self._block == 1:
            return self.graph.emit("PRelu", [source, self.graph.store(f"{output}.slopes", slopes[:, None, None])], output)
        more = 1 - slopes
        below = self._scaled(source, -np.abs(more), f"{output}.below")
        below = self._scaled(self.graph.emit("Relu", [below], f"{output}.relu"), np.sign(more), f"{output}.signed")
        return self.graph.emit("Add", [below, source], output)

    def _scaled(self, source: str, factors: np.ndarray, output: str) -> str:
        """Each channel times a number, as a convolution, which ONNX Runtime fuses with the ReLU or the sum behind it."""
        stored = self.graph.store(f"{output}.factors", factors[:, None, None, None])
        return self.graph.emit("Conv", [source, stored], output, kernel_shape=[1, 1], group=len(factors))

    def _resize_bilinear(self, step: Step) -> None:
        if not step.settings["half_pixel"] or step.settings["align_corners"]:
            raise ValueError(f"{step.output} is enlarged otherwise than by half-pixel centres")
        source = step.inputs[0]
        before, after = (self._network.shapes[name][1:3] for name in (source, step.output))
        factors = np.array([1, 1, *(new / old for new, old in zip(after, before, strict=True))])
        inputs = [self.whole(source), "", self.graph.store(f"{step.output}.factors", factors)]
        self.graph.emit("Resize", inputs, step.output, mode="linear", coordinate_transformation_mode="half_pixel")
        self._channels[step.output] = self._channels[source]
