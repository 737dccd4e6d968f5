"""Networks of the zoo with random weights, written as files of other frameworks, and run by those frameworks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from emotiw_keras.conversion.convert import probe_image
from emotiw_keras.conversion.matching import original_nodes
from emotiw_keras.formats.foreign import Node
from emotiw_keras.models.registry import build, get_spec
from emotiw_keras.models.senet import FOREIGN_NAMES as SENET_NAMES
from tests.formats import write_caffe, write_matconvnet, write_onnx

CAFFE_TYPES = {"conv": "Convolution", "fc": "InnerProduct", "relu": "ReLU", "lrn": "LRN", "max_pool": "Pooling"}
CAFFE_TYPES |= {"softmax": "Softmax", "concat": "Concat", "identity": "Dropout", "global_mean": "Pooling"}
CAFFE_TYPES |= {"batch_norm": "BatchNorm", "scale": "Scale", "axpy": "Axpy", "sigmoid": "Sigmoid", "mean_pool": "Pooling"}
IN_PLACE = ("relu", "identity", "batch_norm", "scale", "sigmoid")
BATCHES = 37.5
"""What Caffe's statistics are multiplied by in the files written here: it keeps sums, and their weight beside them."""


@dataclass
class Network:
    """Nodes of the original, its arrays as Caffe stores them, the side of its images, and the sizes of its tensors."""

    name: str
    nodes: tuple[Node, ...]
    arrays: dict[str, np.ndarray]
    side: int
    sizes: dict[str, int]

    @property
    def input(self) -> str:
        return self.nodes[0].inputs[0]

    @property
    def scores(self) -> str:
        """The last tensor before the softmax."""
        return [node.outputs[0] for node in self.nodes if node.op not in ("softmax", "identity")][-1]


def changed(node: Node, attrs: dict[str, Any]) -> Node:
    """The node with other settings."""
    return replace(node, attrs={**node.attrs, **attrs})


def network(name: str, width: float = 1.0, seed: int = 0, classes: int | None = None) -> Network:
    """The network `name` with random weights that keep the signal's size."""
    rng = np.random.default_rng(seed)
    side = get_spec(name).input_size
    arrays: dict[str, np.ndarray] = {}
    model = build(name, weights=None, width=width, classes=classes or get_spec(name).classes)
    first = next(layer for layer in model.layers if layer.weights)
    for layer in model.layers:
        if not layer.weights:
            continue
        if layer.name.endswith("_bn"):
            arrays |= {f"{layer.name}.{key}": value for key, value in _statistics(layer.gamma.shape[0], rng).items()}
            continue
        shape = tuple(layer.weights[0].shape)
        flat = len(shape) == 2
        oihw = shape[::-1] if flat else (shape[3], shape[2], shape[0], shape[1])
        kernel = rng.standard_normal(oihw, dtype=np.float32)
        kernel *= np.float32(np.sqrt(2 / np.prod(oihw[1:])) * (0.02 if layer is first else 1))
        arrays[f"{layer.name}.weight"] = kernel
        if layer.use_bias:
            arrays[f"{layer.name}.bias"] = rng.normal(0, 0.1, oihw[0]).astype("float32")
    nodes = original_nodes(name)
    sizes = {nodes[0].inputs[0]: side}
    for node in nodes:
        before = sizes[node.inputs[-1]]
        sizes[node.outputs[0]] = _size(node, before, arrays)
    return Network(name, nodes, arrays, side, sizes)


def _statistics(channels: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random ones of a batch normalisation; some variances are small, so that epsilon counts."""
    drawn = {
        "mean": rng.normal(0, 0.3, channels),
        "variance": 10 ** rng.uniform(-3, 0.5, channels),
        "gamma": rng.uniform(0.2, 0.6, channels),
        "beta": rng.normal(0, 0.2, channels),
    }
    drawn["gamma"] *= np.sqrt(drawn["variance"])
    return {key: value.astype("float32") for key, value in drawn.items()}


def _size(node: Node, size: int, arrays: dict[str, np.ndarray]) -> int:
    if node.op == "conv":
        return (size + 2 * node.attrs["pad"][0] - arrays[node.arrays[0]].shape[2]) // node.attrs["stride"][0] + 1
    if node.op in ("max_pool", "mean_pool"):
        room, stride = size - node.attrs["size"][0], node.attrs["stride"][0]
        return (-(-room // stride) if node.attrs["rounding"] == "ceil" else room // stride) + 1
    return 1 if node.op in ("fc", "global_mean") else size


def caffe_name(name: str) -> str:
    """What the released Caffe files call a layer of ours; SENet-50's alone have other names here."""
    return SENET_NAMES[0].get(name, name)


def image(name: str, channel_order: str = "bgr") -> np.ndarray:
    """float32 (1, 3, height, width), without symmetry, normalised as the network expects, in the order of the original."""
    x = probe_image(get_spec(name))
    x = x if channel_order == get_spec(name).channel_order else x[..., ::-1]
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def write_caffe_files(folder: Path, net: Network, *, embedding: np.ndarray | None = None, **options: Any) -> tuple[Path, Path]:
    """`.caffemodel` with in-place ReLUs, dropout and a softmax, as released files have them, and a `.prototxt` for OpenCV.

    OpenCV does not read LRN's k. x / (k + a s) ** b is k ** -b times x / (1 + a / k s) ** b, so its prototxt has a
    normalisation of k = 1 and a factor in its place. Nor does its Axpy do what SENet's `axpy_layer.cpp` does: of a, x, y it
    makes a y + x instead of a x + y. Its prototxt has a Scale of two inputs and a sum in its place. `embedding` (features,
    channels, 1, 1) is a further layer, feat_extract, before a classifier of 5.
    """
    layers: list[write_caffe.Layer] = []
    place: dict[str, str] = {}
    for node in net.nodes:
        bottoms = [place.get(name, name) for name in node.inputs]
        top = bottoms[0] if node.op in IN_PLACE else caffe_name(node.outputs[0])
        place[node.outputs[0]] = top
        params = _caffe_settings(node, net)
        blobs = [net.arrays[key] for key in node.arrays]
        if node.op == "batch_norm":
            blobs = [*(blob * np.float32(BATCHES) for blob in blobs), np.array([BATCHES], "float32")]
        if node.op == "fc" and embedding is not None:
            settings = {"num_output": len(embedding), "kernel_size": 1, "bias_term": False}
            layers.append(write_caffe.Layer("feat_extract", "Convolution", settings, bottoms, ["feat_extract"], [embedding]))
            bottoms, params = ["feat_extract"], {"num_output": 5}
            blobs = [np.ones((5, len(embedding)), "float32"), np.ones(5, "float32")]
        layers.append(write_caffe.Layer(caffe_name(node.name), CAFFE_TYPES[node.op], params, bottoms, [top], blobs))
    if net.nodes[-1].op != "softmax":
        layers.append(write_caffe.Layer("prob", "Softmax", {}, [layers[-1].tops[0]], ["prob"]))
    inputs = {net.input: (1, 3, net.side, net.side)}
    weights = write_caffe.write_caffemodel(folder / f"{net.name}.caffemodel", layers, inputs=inputs, **options)
    version = options.get("version", 2)
    understood = [part for layer in layers for part in _for_opencv(layer)]
    return weights, write_caffe.write_prototxt(folder / f"{net.name}.prototxt", understood, version=version, inputs=inputs)


def _for_opencv(layer: write_caffe.Layer) -> list[write_caffe.Layer]:
    if layer.type == "Axpy":
        factor, x, y = layer.bottoms
        scaled = write_caffe.Layer(f"{layer.name}_scaled", "Scale", {"axis": 1}, [x, factor], [f"{layer.tops[0]}_scaled"])
        return [scaled, write_caffe.Layer(layer.name, "Eltwise", {"operation": "SUM"}, [*scaled.tops, y], layer.tops)]
    k = layer.params.get("k", 1.0)
    if layer.type != "LRN" or k == 1.0:
        return [layer]
    params = {**layer.params, "alpha": layer.params["alpha"] / k, "k": 1.0}
    norm = write_caffe.Layer(f"{layer.name}_1", "LRN", params, layer.bottoms, [f"{layer.tops[0]}_1"])
    factor = {"scale": k ** -layer.params["beta"]}
    return [norm, write_caffe.Layer(layer.name, "Power", factor, norm.tops, layer.tops)]


def _caffe_settings(node: Node, net: Network) -> dict[str, Any]:
    attrs = node.attrs
    if node.op == "conv":
        out, _, size, _ = net.arrays[node.arrays[0]].shape
        settings = {"num_output": out, "kernel_size": size, "stride": attrs["stride"][0], "pad": attrs["pad"][0]}
        settings |= {} if len(node.arrays) > 1 else {"bias_term": False}
        return settings | ({"group": attrs["groups"]} if attrs["groups"] > 1 else {})
    if node.op == "fc":
        return {"num_output": net.arrays[node.arrays[0]].shape[0]}
    if node.op == "lrn":
        return {"local_size": attrs["size"], "alpha": attrs["alpha"], "beta": attrs["beta"], "k": attrs["k"]}
    if node.op == "batch_norm":
        return {"use_global_stats": True}
    if node.op == "scale":
        return {"bias_term": True}
    if node.op in ("max_pool", "mean_pool"):
        assert attrs["rounding"] == "ceil", "Caffe's pooling rounds up"
        return {
            "pool": "MAX" if node.op == "max_pool" else "AVE",
            "kernel_size": attrs["size"][0],
            "stride": attrs["stride"][0],
        }
    if node.op == "global_mean":
        return {"pool": "AVE", "global_pooling": True}
    return {}


def run_caffe(net: Network, weights: Path, prototxt: Path, layers: list[str]) -> dict[str, np.ndarray]:
    """What OpenCV's Caffe reader computes: layer -> (1, values) in the order of (channels, height, width)."""
    reader = cv2.dnn.readNetFromCaffe(str(prototxt), str(weights))
    return _run_opencv(reader, net, layers)


def run_onnx_by_opencv(net: Network, path: Path, layers: list[str]) -> dict[str, np.ndarray]:
    return _run_opencv(cv2.dnn.readNetFromONNX(str(path)), net, layers)


def run_onnx_runtime(net: Network, path: Path, layers: list[str]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes; inner layers are made outputs of the model."""
    import onnx

    from emotiw_keras.engines import onnxruntime_module

    onnxruntime = onnxruntime_module()
    model = onnx.load(str(path))
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=layer) for layer in layers if layer not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(layers, session.run(layers, {net.input: image(net.name)}), strict=True))


def _run_opencv(reader: Any, net: Network, layers: list[str]) -> dict[str, np.ndarray]:
    found = {}
    reader.setInput(image(net.name), net.input)
    for layer in layers:
        found[layer] = reader.forward(layer).copy()
    return found


def write_onnx_file(path: Path, net: Network) -> Path:
    """An ONNX model with a Flatten before the first Gemm and rounding-up poolings."""
    ops: list[write_onnx.Op] = []
    flattened = False
    now = {net.input: net.input}  # a tensor that is overwritten has another name from then on
    for node in net.nodes:
        sources, attrs, arrays = [now[name] for name in node.inputs], node.attrs, [net.arrays[key] for key in node.arrays]
        source, name = sources[0], node.name
        now[node.outputs[0]] = name
        if node.op == "conv":
            pads, strides = [attrs["pad"][0]] * 4, list(attrs["stride"])
            ops.append(write_onnx.conv(name, source, *arrays, pads=pads, strides=strides, group=attrs["groups"]))
        elif node.op == "fc":
            if not flattened:
                ops.append(write_onnx.flatten("flat", source))
                source, flattened = "flat", True
            ops.append(write_onnx.gemm(name, source, *arrays))
        elif node.op == "relu":
            ops.append(write_onnx.relu(name, source))
        elif node.op == "lrn":
            ops.append(write_onnx.lrn(name, source, size=attrs["size"], alpha=attrs["alpha"], beta=attrs["beta"], k=attrs["k"]))
        elif node.op == "max_pool":
            ceil = attrs["rounding"] == "ceil"
            ops.append(write_onnx.max_pool(name, source, attrs["size"][0], attrs["stride"][0], ceil=ceil))
        elif node.op == "concat":
            ops.append(write_onnx.concat(name, sources))
        elif node.op == "global_mean":
            ops.append(write_onnx.global_mean(name, source))
        elif node.op == "softmax":
            ops.append(write_onnx.softmax(name, source))
        else:
            ops.append(write_onnx.Op("Identity", [source], [name], name=name))
    classes = next(array.shape[0] for key, array in reversed(net.arrays.items()) if key.endswith(".bias"))
    shape = (1, classes, 1, 1) if any(node.op == "global_mean" for node in net.nodes) else (1, classes)
    inputs = {net.input: (1, 3, net.side, net.side)}
    return write_onnx.write_onnx(path, ops, inputs=inputs, outputs={ops[-1].outputs[0]: shape})


def write_mat_file(path: Path, net: Network, *, old: bool = False, newest: bool = False) -> Path:
    """A MatConvNet SimpleNN as its importer writes it: RGB, fully connected layers as convolutions, explicit padding."""
    steps = []
    for node in net.nodes:
        size, attrs = net.sizes[node.inputs[0]], node.attrs
        if node.op in ("conv", "fc"):
            kernel, bias = (net.arrays[key] for key in node.arrays)
            settings: dict[str, Any] = {"stride": np.array([[1.0, 1.0]]), "pad": np.zeros((1, 4))}
            if node.op == "fc":
                kernel = kernel.reshape(kernel.shape[0], -1, size, size)
            else:
                settings = {"stride": np.array([attrs["stride"]], float), "pad": np.array([attrs["pad"]], float)}
            hwio = np.asfortranarray(kernel.transpose(2, 3, 1, 0))
            if node.inputs[0] == net.input:
                hwio = np.asfortranarray(hwio[:, :, ::-1])
            steps.append(write_matconvnet.Step("conv", node.name, (hwio, bias), settings))
        elif node.op == "lrn":
            param = np.array([[attrs["size"], attrs["k"], attrs["alpha"] / attrs["size"], attrs["beta"]]])
            steps.append(write_matconvnet.Step("normalize" if old else "lrn", node.name, (), {"param": param}))
        elif node.op == "max_pool":
            window, stride = attrs["size"][0], attrs["stride"][0]
            more = float((net.sizes[node.outputs[0]] - 1) * stride + window - size)
            pad = np.array([[0.0, max(0.0, more), 0.0, max(0.0, more)]])
            settings = {"pool": np.array([attrs["size"]], float), "stride": np.array([attrs["stride"]], float), "pad": pad}
            steps.append(write_matconvnet.Step("pool", node.name, (), {"method": "max", **settings}))
        elif node.op == "relu":
            steps.append(write_matconvnet.Step("relu", node.name))
    steps.append(write_matconvnet.Step("softmax", "prob"))
    normalization = {"imageSize": np.array([[float(net.side), float(net.side), 3.0]])}
    content = write_matconvnet.simple_nn(steps, {"normalization": normalization}, old=old)
    write = write_matconvnet.write_mat73 if newest else write_matconvnet.write_mat5
    return write(path, content)


def write_dag_file(path: Path, net: Network, *, newest: bool = False, biased: str = "") -> Path:
    """A MatConvNet DagNN as the released SENet-50 is: RGB, `_` in names, BatchNorm with sigma, the classifier a convolution.

    The net keeps the root of variance and epsilon together; scales are part of the normalisation. The convolution `biased` gets
    a bias, which the mean of its normalisation takes off again.
    """
    steps: list[write_matconvnet.Step] = []
    now = {net.input: net.input}  # a scale's tensor is that of the normalisation that holds it
    by_name = {node.name: node for node in net.nodes}
    for node in net.nodes:
        inputs, attrs = tuple(now[name] for name in node.inputs), node.attrs
        now[node.outputs[0]] = node.name
        arrays = [net.arrays[key] for key in node.arrays]
        if node.name == biased:
            arrays.append(np.linspace(-3, 5, len(arrays[0]), dtype="float32"))
        elif node.name == f"{biased}_bn":
            arrays[0] = arrays[0] + np.linspace(-3, 5, len(arrays[0]), dtype="float32")
        if node.op == "scale":
            now[node.outputs[0]] = node.name.removesuffix("_scale")
            continue
        if node.op in ("conv", "fc"):
            kernel = arrays[0] if node.op == "conv" else arrays[0][:, :, None, None]
            hwio = np.asfortranarray(kernel.transpose(2, 3, 1, 0)[:, :, ::-1] if node.inputs[0] == net.input else
                                     kernel.transpose(2, 3, 1, 0))  # fmt: skip
            sides = {
                key: np.array([attrs.get(key, default)], float) for key, default in (("stride", (1, 1)), ("pad", (0,) * 4))
            }
            block = {"size": np.array([hwio.shape], float), "hasBias": len(arrays) > 1, **sides}
            steps.append(write_matconvnet.Step("Conv", node.name, (hwio, *arrays[1:]), block, inputs))
        elif node.op == "batch_norm":
            mean, variance = arrays
            sigma = np.sqrt(variance.astype(float) + attrs["epsilon"]).astype("float32")
            gamma, beta = (net.arrays[key] for key in by_name[f"{node.name}_scale"].arrays)
            weights = (gamma, beta, np.stack([mean, sigma], axis=1))
            block = {"numChannels": np.array([[float(len(mean))]]), "epsilon": np.array([[attrs["epsilon"]]])}
            steps.append(write_matconvnet.Step("BatchNorm", node.name, weights, block, inputs))
        elif node.op in ("max_pool", "mean_pool"):
            size, window, stride = net.sizes[node.inputs[0]], attrs["size"][0], attrs["stride"][0]
            more = max(0.0, float((net.sizes[node.outputs[0]] - 1) * stride + window - size))
            sides = {"poolSize": np.array([attrs["size"]], float), "stride": np.array([attrs["stride"]], float)}
            block = {"method": "max" if node.op == "max_pool" else "avg", **sides, "pad": np.array([[0.0, more, 0.0, more]])}
            steps.append(write_matconvnet.Step("Pooling", node.name, (), block, inputs))
        else:
            kind = {"relu": "ReLU", "sigmoid": "Sigmoid", "global_mean": "GlobalPooling", "axpy": "Axpy", "softmax": "SoftMax"}
            steps.append(write_matconvnet.Step(kind[node.op], node.name, (), {}, inputs))
            if node.op == "sigmoid":
                shape = write_matconvnet.Cell([np.ones((1, 1)), np.ones((1, 1)), np.zeros((0, 0))])
                steps.append(write_matconvnet.Step("Reshape", f"{node.name}_reshape", (), {"shape": shape}, (node.name,)))
                now[node.outputs[0]] = f"{node.name}_reshape"
    normalization = {"imageSize": np.array([[float(net.side), float(net.side), 3.0]])}
    write = write_matconvnet.write_mat73 if newest else write_matconvnet.write_mat5
    return write(path, {"net": write_matconvnet.dag_nn(steps, {"normalization": normalization})})


def torch_state(net: Network) -> dict[str, np.ndarray]:
    """SENet-50's arrays under the names of cydonia999/VGGFace2-pytorch, as its pickled dictionaries have them."""
    roles = {"mean": "running_mean", "variance": "running_var", "gamma": "weight", "beta": "bias"}
    state = {}
    for key, array in net.arrays.items():
        layer, _, role = key.rpartition(".")
        state[f"{SENET_NAMES[1][layer]}.{roles.get(role, role) if layer.endswith('_bn') else role}"] = array
    return state


def write_keras_file(path: Path, net: Network, *, top: bool = True) -> Path:
    """The layout of keras-vggface's files, with or without the classifier: names of layers have slashes."""
    roles = {
        "mean": "moving_mean:0",
        "variance": "moving_variance:0",
        "gamma": "gamma:0",
        "beta": "beta:0",
        "weight": "kernel:0",
    }
    layers: dict[str, dict[str, np.ndarray]] = {"input_1": {}, "activation_1": {}}
    for key, array in net.arrays.items():
        layer, _, role = key.rpartition(".")
        if layer == "classifier" and not top:
            continue
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        layers.setdefault(caffe_name(layer), {})[roles.get(role, f"{role}:0")] = array
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in layers])
        file.attrs["keras_version"], file.attrs["backend"] = b"2.0.6", b"tensorflow"
        for layer, arrays in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([f"{layer}/{name}".encode() for name in arrays] or np.zeros(0, "S1"))
            for name, array in arrays.items():
                group[f"{layer}/{name}"] = array
    return path
