"""The networks of the zoo and of keras.applications as ONNX graphs, built layer by layer in the operators of version 17.

ONNX has tensors of (batch, channels, height, width) and kernels of (out, in / groups, height, width). Source: `Operators.md`
of ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.ops.numpy import Add, Multiply
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from emotiw_keras.errors import ModelError
from emotiw_keras.models.layers import GroupedConv2D, LocalResponseNormalization
from emotiw_keras.models.normalisations import scale_and_shift
from emotiw_keras.models.pooling import AdaptiveMeanPooling2D, CaffeMaxPooling2D, window_means
from emotiw_keras.serving.folding import Folded
from emotiw_keras.text import briefly

OPSET = 17
# The oldest format of files that has this version of operators: more runtimes read it.
IR_VERSION = 8
INPUT, OUTPUT = "pixels", "probabilities"
_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "linear": None,
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": 1}),
    "tanh": ("Tanh", {}),
}
Pads = tuple[tuple[int, int], tuple[int, int]]


def onnx_model(folded: Folded, columns: int | Mapping[str, slice], metadata: Mapping[str, str]) -> ModelProto:
    """The graph from `pixels`, uint8 (batch, side, side, channels), to `probabilities`, float32 (batch, classes).

    Args:
        folded: the network and what comes before it.
        columns: outputs of the network, or by name the part of them that is an output of the model.
        metadata: key -> text, stored in the model.

    Raises:
        ModelError: the network has a layer, an activation or a setting that is not known here.
    """
    graph = _Graph()
    x = graph.add("Cast", INPUT, to=TensorProto.FLOAT)
    if folded.min_max:
        x = _stretched(graph, x)
    if folded.crop != folded.side:
        stop = folded.start + folded.crop
        limits = ([folded.start] * 2, [stop] * 2, [1, 2])
        x = graph.add("Slice", x, *(graph.constant(np.array(values, np.int64)) for values in limits))
    if folded.subtract is not None:
        x = graph.add("Sub", x, graph.constant(folded.subtract))
    x = graph.add("Transpose", x, perm=(0, 3, 1, 2))
    answers = _network(graph, folded.net, x)
    named = {OUTPUT: slice(0, columns)} if isinstance(columns, int) else columns
    for name, part in named.items():
        if part.stop - part.start == folded.net.output_shape[-1]:
            graph.add("Identity", answers, output=name)
        else:
            limits = ([part.start], [part.stop], [1])
            graph.add("Slice", answers, *(graph.constant(np.array(values, np.int64)) for values in limits), output=name)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            folded.net.name,
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ("batch", folded.side, folded.side, folded.channels))],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", part.stop - part.start))
                for name, part in named.items()
            ],
            graph.arrays,
        ),
        producer_name="emotiw_keras",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, dict(metadata))
    return model


class _Graph:
    """Nodes and arrays in the making; tensors are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.arrays: list[TensorProto] = []
        self._count = 0

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node; returns the name of its output, which is drawn from the operator where none is given."""
        self._count += 1
        output = output or f"{op.lower()}_{self._count}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, values: np.ndarray, name: str = "") -> str:
        """Store an array; returns its name."""
        self._count += 1
        name = name or f"constant_{self._count}"
        self.arrays.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def number(self, value: float) -> str:
        """Store one number; returns its name."""
        return self.constant(np.array(value, np.float32))


def _stretched(graph: _Graph, x: str) -> str:
    """Each face from its least and largest grey level to 0 and 255."""
    # OpenCV, as of 4.14, looks at a part of the pixels where it reduces several axes of several faces at once.
    flat, shape = graph.add("Flatten", x, axis=1), graph.constant(np.array((0, 1, 1, 1), np.int64))
    ends = (graph.add(op, flat, axes=(1,), keepdims=1) for op in ("ReduceMin", "ReduceMax"))
    low, high = (graph.add("Reshape", end, shape) for end in ends)
    one, most = (graph.constant(np.array([value], np.float32)) for value in (1, 255))
    scale = graph.add("Div", most, graph.add("Max", graph.add("Sub", high, low), one))
    return graph.add("Mul", graph.add("Sub", x, low), scale)


def _network(graph: _Graph, net: keras.Model, image: str) -> str:
    """Append every layer; returns the name of the output."""
    names: dict[int, str] = {id(net.inputs[0]): image}
    for layer in net.operations:  # `x + 3` is none of the layers
        if isinstance(layer, keras.layers.InputLayer):
            continue
        build = next((make for kind, make in _LAYERS.items() if isinstance(layer, kind)), None)
        if build is None:
            raise ModelError(f"{net.name}: no ONNX is known for layer {layer.name} ({type(layer).__name__})")
        inputs = [names[id(tensor)] for tensor in keras.tree.flatten(layer.input)]
        names[id(layer.output)] = _activated(graph, layer, build(graph, layer, inputs))
    return names[id(net.outputs[0])]


def _activated(graph: _Graph, layer: keras.layers.Layer, x: str) -> str:
    activation = getattr(layer, "activation", None)
    if activation is None:
        return x
    name = activation.__name__
    if name == "relu6":
        return _up_to(graph, x, 6)
    if name == "silu":
        return graph.add("Mul", x, graph.add("Sigmoid", x))
    if name == "hard_silu":
        third = _up_to(graph, graph.add("Add", x, graph.number(3)), 6)
        return graph.add("Mul", x, graph.add("Mul", third, graph.number(1 / 6)))
    if name == "gelu":  # as Keras computes it unless it is told to approximate
        part = graph.add("Erf", graph.add("Mul", x, graph.number(0.5**0.5)))
        return graph.add("Mul", graph.add("Mul", x, graph.number(0.5)), graph.add("Add", part, graph.number(1)))
    if name not in _ACTIVATIONS or (name == "softmax" and len(layer.output.shape) != 2):
        raise ModelError(f"no ONNX is known for the activation {name} of layer {layer.name}")
    found = _ACTIVATIONS[name]
    return x if found is None else graph.add(found[0], x, **found[1])


def _convolution(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    kernel, groups = keras.ops.convert_to_numpy(layer.kernel), getattr(layer, "groups", 1)
    return _convolved(graph, layer, inputs[0], kernel, groups, _bias(graph, layer))


def _depthwise(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    return _each_channel(graph, layer, inputs[0], layer.kernel, _bias(graph, layer))


def _separable(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    x = _each_channel(graph, layer, inputs[0], layer.depthwise_kernel, [])
    return _at_each_place(graph, layer, x, keras.ops.convert_to_numpy(layer.pointwise_kernel)[0, 0])


def _at_each_place(graph: _Graph, layer: Any, x: str, kernel: np.ndarray) -> str:
    """The product of the channels at each place of the maps with a kernel (in, out), and the bias of the layer."""
    arrays = [graph.constant(kernel.T[:, :, None, None], f"{layer.name}.pointwise"), *_bias(graph, layer)]
    return graph.add("Conv", x, *arrays, kernel_shape=(1, 1), group=1)


def _each_channel(graph: _Graph, layer: Any, x: str, kernel: keras.Variable, bias: list[str]) -> str:
    """Each channel makes `depth_multiplier` of its own."""
    values = keras.ops.convert_to_numpy(kernel)
    return _convolved(graph, layer, x, values.reshape(*values.shape[:2], 1, -1), values.shape[2], bias)


def _convolved(graph: _Graph, layer: Any, x: str, kernel: np.ndarray, groups: int, bias: list[str]) -> str:
    windows, spread = _windows(layer, kernel.shape[:2]), _spread(layer)
    pads = list(windows["pads"])
    for axis in (0, 1):
        if layer.input.shape[1 + axis] == layer.output.shape[1 + axis] == spread[axis] == 1:
            # All but one of the kernel sees zeros there, and of that OpenCV 4.14 makes something else, channel by channel.
            kernel = kernel.take([pads[axis]], axis)
            pads[axis] = pads[axis + 2] = 0
    windows |= {"kernel_shape": kernel.shape[:2], "pads": pads}
    weight = graph.constant(kernel.transpose(3, 2, 0, 1), f"{layer.name}.weight")
    return graph.add("Conv", x, weight, *bias, group=groups, **windows, dilations=spread)


def _bias(graph: _Graph, layer: Any) -> list[str]:
    return [] if layer.bias is None else [graph.constant(keras.ops.convert_to_numpy(layer.bias), f"{layer.name}.bias")]


def _spread(layer: Any) -> tuple[int, int]:
    return getattr(layer, "dilation_rate", (1, 1))


def _windows(layer: Any, size: tuple[int, int]) -> dict[str, Any]:
    """How windows of (rows, columns) lie on the image, in the words of ONNX."""
    (top, bottom), (left, right) = _pads(layer, size)
    return {"kernel_shape": size, "strides": layer.strides, "pads": (top, left, bottom, right)}


def _pads(layer: Any, kernel_size: tuple[int, int]) -> Pads:
    """Zeros around the image: ((top, bottom), (left, right))."""
    if layer.padding == "valid":
        return ((0, 0), (0, 0))
    if layer.padding != "same":
        return layer.padding
    sides = []
    for size, kernel, stride, dilation in zip(layer.input.shape[1:3], kernel_size, layer.strides, _spread(layer), strict=True):
        both = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
        sides.append((both // 2, both - both // 2))
    return (sides[0], sides[1])


def _dense(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    rank, kernel = len(layer.input.shape), keras.ops.convert_to_numpy(layer.kernel)
    if rank == 4:
        return _at_each_place(graph, layer, inputs[0], kernel)
    if rank != 2:
        raise ModelError(f"no ONNX is known for layer {layer.name} on {rank} axes")
    return graph.add("Gemm", *inputs, graph.constant(kernel.T, f"{layer.name}.weight"), *_bias(graph, layer), transB=1)


def _local_normalisation(graph: _Graph, layer: LocalResponseNormalization, inputs: list[str]) -> str:
    # ONNX multiplies the mean over the window, as Caffe does.
    size = 2 * layer.depth_radius + 1
    return graph.add("LRN", *inputs, size=size, alpha=layer.alpha * size, beta=layer.beta, bias=layer.bias)


def _batch_normalisation(graph: _Graph, layer: keras.layers.BatchNormalization, inputs: list[str]) -> str:
    if layer.axis not in (-1, len(layer.input.shape) - 1):
        raise ModelError(f"no ONNX is known for layer {layer.name} on axis {layer.axis}")
    factor, offset = (values.astype(np.float32) for values in scale_and_shift(layer))
    shape = (-1, 1, 1) if len(layer.input.shape) == 4 else (-1,)
    scaled = graph.add("Mul", *inputs, graph.constant(factor.reshape(shape)))
    return graph.add("Add", scaled, graph.constant(offset.reshape(shape)))


def _layer_normalisation(graph: _Graph, layer: keras.layers.LayerNormalization, inputs: list[str]) -> str:
    rank = len(layer.input.shape)
    if rank not in (2, 4) or layer.axis not in (-1, [-1], rank - 1, [rank - 1]) or getattr(layer, "rms_scaling", False):
        raise ModelError(f"no ONNX is known for layer {layer.name} on axis {layer.axis} of {rank}")
    channels = layer.input.shape[-1]
    given = ((layer.gamma, np.ones), (layer.beta, np.zeros))
    arrays = [
        graph.constant(keras.ops.convert_to_numpy(value) if value is not None else default(channels, np.float32))
        for value, default in given
    ]
    x = graph.add("Transpose", *inputs, perm=(0, 2, 3, 1)) if rank == 4 else inputs[0]
    x = graph.add("LayerNormalization", x, *arrays, axis=-1, epsilon=layer.epsilon)
    return graph.add("Transpose", x, perm=(0, 3, 1, 2)) if rank == 4 else x


def _caffe_pooling(graph: _Graph, layer: CaffeMaxPooling2D, inputs: list[str]) -> str:
    size, stride = layer.pool_size, layer.strides
    return graph.add("MaxPool", *inputs, kernel_shape=(size, size), strides=(stride, stride), ceil_mode=1)


def _pooling(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    op = "MaxPool" if isinstance(layer, keras.layers.MaxPooling2D) else "AveragePool"  # of what is in the image, as Keras does
    return graph.add(op, *inputs, **_windows(layer, layer.pool_size))


def _adaptive(graph: _Graph, layer: AdaptiveMeanPooling2D, inputs: list[str]) -> str:
    height, width = layer.input.shape[1:3]
    if (height, width) == (layer.size, layer.size):
        return inputs[0]
    rows, columns = (graph.constant(window_means(n, layer.size)) for n in (height, width))
    columns = graph.add("Transpose", columns, perm=(1, 0))
    return graph.add("MatMul", graph.add("MatMul", rows, *inputs), columns)


def _mean(graph: _Graph, layer: keras.layers.GlobalAveragePooling2D, inputs: list[str]) -> str:
    means = graph.add("GlobalAveragePool", *inputs)
    return means if layer.keepdims else graph.add("Flatten", means, axis=1)


def _flatten(graph: _Graph, layer: keras.layers.Flatten, inputs: list[str]) -> str:
    if len(layer.input.shape) == 2:
        return inputs[0]
    # Keras counts the channels first, then columns, then rows.
    return graph.add("Flatten", graph.add("Transpose", *inputs, perm=(0, 2, 3, 1)), axis=1)


def _reshape(graph: _Graph, layer: keras.layers.Reshape, inputs: list[str]) -> str:
    sizes, wanted = layer.input.shape[1:], layer.output.shape[1:]
    if len(sizes) not in (1, 3) or len(wanted) not in (1, 3) or None in wanted:
        raise ModelError(f"no ONNX is known for layer {layer.name} from {sizes} to {wanted}")
    x = graph.add("Transpose", *inputs, perm=(0, 2, 3, 1)) if len(sizes) == 3 else inputs[0]
    # 0 stands for the batch, as it came.
    x = graph.add("Reshape", x, graph.constant(np.array((0, *wanted), np.int64)))
    return graph.add("Transpose", x, perm=(0, 3, 1, 2)) if len(wanted) == 3 else x


def _padded(graph: _Graph, layer: keras.layers.ZeroPadding2D, inputs: list[str]) -> str:
    (top, bottom), (left, right) = layer.padding
    return graph.add("Pad", *inputs, graph.constant(np.array((0, 0, top, left, 0, 0, bottom, right), np.int64)))


def _cropped(graph: _Graph, layer: keras.layers.Cropping2D, inputs: list[str]) -> str:
    (top, bottom), (left, right) = layer.cropping
    height, width = layer.input.shape[1:3]
    limits = ((top, left), (height - bottom, width - right), (2, 3))
    return graph.add("Slice", *inputs, *(graph.constant(np.array(values, np.int64)) for values in limits))


def _operator(op: str) -> Callable[[_Graph, Any, list[str]], str]:
    """`x + 3` and `x * y`, which are no layers."""

    def build(graph: _Graph, operator: Any, inputs: list[str]) -> str:
        given = operator._inbound_nodes[0].arguments.args
        tensors = [value for value in given if isinstance(value, keras.KerasTensor)]
        numbers = [value for value in given if isinstance(value, int | float)]
        if len(tensors) + len(numbers) != 2 or len({len(tensor.shape) for tensor in tensors}) != 1:
            raise ModelError(f"no ONNX is known for the operator {operator.name} on {' and '.join(map(briefly, given))}")
        return graph.add(op, *inputs, *map(graph.number, numbers))

    return build


def _scaled_by_channel(graph: _Graph, layer: LayerScale, inputs: list[str]) -> str:
    return graph.add("Mul", *inputs, graph.constant(keras.ops.convert_to_numpy(layer.gamma).reshape(-1, 1, 1)))


def _scaled_sum(graph: _Graph, layer: CustomScaleLayer, inputs: list[str]) -> str:
    x, branch = inputs
    return graph.add("Add", x, graph.add("Mul", branch, graph.number(layer.scale)))


def _elementwise(op: str) -> Callable[[_Graph, keras.layers.Layer, list[str]], str]:
    def build(graph: _Graph, layer: keras.layers.Layer, inputs: list[str]) -> str:
        if len({len(tensor.shape) for tensor in layer.input}) != 1:
            shapes = " and ".join(str(tuple(tensor.shape)) for tensor in layer.input)
            raise ModelError(f"no ONNX is known for layer {layer.name} on {shapes}")
        x = inputs[0]
        for other in inputs[1:]:
            x = graph.add(op, x, other)
        return x

    return build


def _rectified(graph: _Graph, layer: keras.layers.ReLU, inputs: list[str]) -> str:
    if layer.negative_slope or layer.threshold:
        raise ModelError(f"no ONNX is known for the slope and threshold of layer {layer.name}")
    return graph.add("Relu", *inputs) if layer.max_value is None else _up_to(graph, inputs[0], layer.max_value)


def _up_to(graph: _Graph, x: str, most: float) -> str:
    return graph.add("Clip", x, graph.number(0), graph.number(most))


def _concatenate(graph: _Graph, layer: keras.layers.Concatenate, inputs: list[str]) -> str:
    rank = len(layer.output.shape)
    if rank not in (2, 4) or layer.axis not in (-1, rank - 1):
        raise ModelError(f"no ONNX is known for layer {layer.name} on axis {layer.axis}")
    return graph.add("Concat", *inputs, axis=1)


def _average(graph: _Graph, layer: keras.layers.Layer, inputs: list[str]) -> str:
    return graph.add("Mean", *inputs)


def _same(graph: _Graph, layer: keras.layers.Layer, inputs: list[str]) -> str:
    return inputs[0]


_IN_TRAINING = (
    keras.layers.Dropout, keras.layers.SpatialDropout2D, keras.layers.GaussianDropout, keras.layers.GaussianNoise,
    keras.layers.RandomFlip, keras.layers.RandomRotation, keras.layers.RandomZoom, keras.layers.RandomTranslation,
    keras.layers.RandomContrast, keras.layers.RandomBrightness, StochasticDepth,
)  # fmt: skip
"""Layers that do nothing else."""
_LAYERS: dict[type[keras.Operation], Callable[[_Graph, Any, list[str]], str]] = {
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.Conv2D: _convolution,
    GroupedConv2D: _convolution,
    keras.layers.Dense: _dense,
    LocalResponseNormalization: _local_normalisation,
    CaffeMaxPooling2D: _caffe_pooling,
    keras.layers.MaxPooling2D: _pooling,
    keras.layers.AveragePooling2D: _pooling,
    AdaptiveMeanPooling2D: _adaptive,
    keras.layers.GlobalAveragePooling2D: _mean,
    keras.layers.Flatten: _flatten,
    keras.layers.Reshape: _reshape,
    keras.layers.ZeroPadding2D: _padded,
    keras.layers.Cropping2D: _cropped,
    keras.layers.Concatenate: _concatenate,
    keras.layers.Add: _elementwise("Add"),
    keras.layers.Average: _average,
    keras.layers.Multiply: _elementwise("Mul"),
    Add: _operator("Add"),
    Multiply: _operator("Mul"),
    LayerScale: _scaled_by_channel,
    CustomScaleLayer: _scaled_sum,
    keras.layers.BatchNormalization: _batch_normalisation,
    keras.layers.LayerNormalization: _layer_normalisation,
    keras.layers.ReLU: _rectified,
    **dict.fromkeys(_IN_TRAINING, _same),
    keras.layers.Identity: _same,
    keras.layers.Activation: _same,
}
