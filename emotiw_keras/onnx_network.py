"""A run's network as an ONNX model, made of its weight file without Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.activations import ACTIVATIONS_FILE
from emotiw_keras.errors import ModelError, RunError, UsageError
from emotiw_keras.formats.foreign import check_floats
from emotiw_keras.formats.keras_h5 import ROLES, read_keras_h5
from emotiw_keras.formats.onnx_quantised import observing, quantised
from emotiw_keras.formats.onnx_writing import onnx_bytes
from emotiw_keras.models.originals import as_built
from emotiw_keras.models.originals.features import reading_features
from emotiw_keras.models.registry import get_spec
from emotiw_keras.run_facts import WEIGHTS_FILE

if TYPE_CHECKING:
    from emotiw_keras.formats.foreign import Node
    from emotiw_keras.runs import Run

NOT_OBSERVED = (
    "does not say how large its activations are, which int8 must know; `emotiw pack RUN OUT --data DATA` finds it: give the "
    "packed run, or compute in float32"
)


def is_known(run: Run) -> bool:
    """Whether the steps of a run's network are known without Keras: not those of a user's own, of PathNet, of
    `keras.applications`, and of what fits one size of images only and was trained on another."""
    return _nodes(run) is not None


def _nodes(run: Run) -> tuple[Node, ...] | None:
    model = run.info["model"]
    if model.get("given"):
        return None
    nodes = as_built(model["name"], tuple(model["input_shape"]), model.get("width", 1.0))
    if nodes is not None and "features" in model and nodes[-1].op != "fc":
        return None  # of SENet and SqueezeNet: what reads their activations is made by Keras alone
    return nodes


def network_graph(run: Run, precision: str = "float32") -> bytes:
    """The ONNX model from prepared faces, float32 (batch, channels, height, width), to probabilities (batch, classes), of
    several heads those of the chosen one.

    Args:
        run: a finished run.
        precision: "int8" for a model that multiplies bytes; any other is the engine's affair.

    Raises:
        RunError: the weight file is damaged or does not fit the network.
        ModelError: it cannot be read safely, holds numbers that are not finite, or the network is one that only Keras knows.
        UsageError: int8, and the run does not say how large its activations are.
    """
    if precision != "int8":
        return onnx_bytes(*_network(run))
    known, network = run.activations, _network(run)
    if known is None:
        raise UsageError(f"{run.called} {NOT_OBSERVED}")
    try:
        return quantised(*network, known.ranges)
    except ModelError as error:
        raise RunError(f"{run.path} is damaged, or of another version: in {ACTIVATIONS_FILE} {error}; pack it again") from error


def observing_graph(run: Run) -> tuple[bytes, tuple[str, ...]]:
    """The model of `onnx_quantised.observing`, and the names of the tensors; errors are those of `network_graph`."""
    return observing(*_network(run))


def _network(run: Run) -> tuple[tuple[Node, ...], dict[str, np.ndarray], tuple[int, int, int], int]:
    """Steps, arrays, the shape of the faces and the number of classes."""
    nodes, model = _nodes(run), run.info["model"]
    if nodes is None:
        raise ModelError(f"{run.called}: nothing but Keras knows its network, {model['name']}; compute with TensorFlow")
    run.check_weights()
    try:
        stored = read_keras_h5(run.path / WEIGHTS_FILE, trusted=run.ships).arrays
        for name, array in stored.items():
            check_floats(WEIGHTS_FILE, name.rpartition(".")[0], array)
        arrays = {name: np.asarray(array, np.float32) for name, array in stored.items()}
    except ModelError as error:
        raise ModelError(f"{run.path}: {error}") from error
    needed = {name for node in nodes for name in node.arrays}
    if _shapes(arrays) != _listed(run) or arrays.keys() != needed:
        raise RunError(f"{run.path}: the weights do not fit {model['name']} as this version builds it")
    if "features" in model:
        nodes = reading_features(nodes, _shapes(arrays), tuple(model["input_shape"][:2]), model["features"])
    if run.head is not None:
        classifier = get_spec(model["name"]).classifier
        arrays |= {name: array[..., run.head.columns] for name, array in arrays.items() if name.startswith(f"{classifier}.")}
    return nodes, arrays, tuple(model["input_shape"]), len(run.labels)


def _shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _listed(run: Run) -> dict[str, tuple[int, ...]]:
    """What run.json says of the weights, by the names that the reader gives them."""
    listed = {}
    for path, shape, _ in run.info["weights"]["variables"]:
        layer, _, role = path.rpartition("/")
        listed[f"{layer}.{ROLES.get(role, role)}"] = tuple(shape)
    return listed
