"""The train step of ours beside stock Keras and PyTorch: images a second, and the share of what matrix products reach here.

PyTorch runs the same network with the same weights, written from the authors' definition (`models/originals`), in every
combination of eager and compiled, NCHW and channels_last, float32 and bfloat16 autocast. All are shown once, at the smallest
batch; the best of each precision then takes its turns with ours. Each contestant's outputs on the same faces must agree before
anything is timed. "ours" is what `emotiw fit` runs, from grey bytes of 48x48 to the update, crops included; the others get
ready-made floats. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.report import Options, Table, spread
from benchmarks.turns import Contestant, heat, rate_of, serve, summary, take_turns

PROBE = 8
# the largest difference of outputs, as a fraction of the largest logit
LIMITS = {"float32": 1e-4, "bfloat16": 0.05}
OURS = ("ours float32", "ours bfloat16")
STOCK = ("keras float32", "keras bfloat16")
TORCH = {
    f"torch {how} {layout} {precision}": (how, layout, precision)
    for how in ("eager", "compiled")
    for layout in ("NCHW", "channels_last")
    for precision in ("float32", "bfloat16")
}
# small enough for the loss to stay finite
RATE = 1e-9
WEIGHTS = "PEER_WEIGHTS"


def precision_of(contestant: str) -> str:
    """float32 or bfloat16."""
    return contestant.split()[-1]


def measured(names: Iterable[str]) -> tuple[str, ...]:
    """The contestants whose precision this processor has."""
    return tuple(name for name in names if precision_of(name) in machine.precisions())


def network_of(name: str, width: float) -> Any:
    """The network of the zoo with the weights that all contestants have; logits of 7 classes."""
    import keras

    from emotiw_keras.models import build

    keras.utils.set_random_seed(0)
    return build(name, weights=None, classes=7, classifier_activation=None, width=width)


def grey_input(network: str) -> tuple[Any, np.ndarray]:
    """How grey faces reach the network, and faces of its input's size: uint8 (n, side, side, 1)."""
    from emotiw_keras.data.face_input import FaceInput
    from emotiw_keras.data.preprocessing_settings import settings_for
    from emotiw_keras.models.registry import get_spec

    face_input = FaceInput.from_settings(settings_for(get_spec(network), channels="grey"))
    side = face_input.crop
    return face_input, np.random.default_rng(0).integers(0, 256, (PROBE, side, side, 1), np.uint8)


def floats(face_input: Any, faces: np.ndarray) -> np.ndarray:
    """What the network gets of faces of its input's size: float32 (n, side, side, channels)."""
    channels = np.repeat(faces, face_input.input_channels, axis=-1).astype(np.float32)
    return (channels - np.float32(face_input.mean)) / np.float32(face_input.std)


def random_floats(face_input: Any, count: int) -> np.ndarray:
    """Grey pictures with the spread of pixels, as a network for colour gets them."""
    faces = np.random.default_rng(1).integers(0, 256, (count, face_input.crop, face_input.crop, 1), np.uint8)
    return floats(face_input, faces)


def labels_of(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 7, count).astype("int32")


def finite(loss: float) -> None:
    """What is timed must be arithmetic on ordinary numbers."""
    if not np.isfinite(loss):
        raise SystemExit(f"the loss is {loss}; nothing was measured")


def our_step(model: Any, face_input: Any, batch: int) -> tuple[Callable[[], None], Any, Any, Any]:
    """One step of `emotiw fit` on a batch of 48x48 bytes; and the network, the input and the optimizer that compute it."""
    import tensorflow as tf

    from emotiw_keras.data import one_channel
    from emotiw_keras.data.face_input import draw_crops
    from emotiw_keras.training.optimizers import make_optimizer
    from emotiw_keras.training.stage import Stage
    from emotiw_keras.training.train_step import StageSteps

    stage = Stage("bench", train=("bench:train",), learning_rate=RATE)
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    net, given = one_channel.for_grey(model, face_input)
    steps = StageSteps(net, given, stage, np.ones(7, np.float32), optimizer, (48, 48, 1))
    images = np.random.default_rng(1).integers(0, 256, (batch, 48, 48, 1), np.uint8)
    crops = draw_crops(batch, face_input.room, mirror=True, seed=(0,))
    taken = [tf.constant(x) for x in (images, crops, labels_of(batch))]
    return lambda: finite(steps.train(*taken, RATE)[0]), net, given, optimizer


def stock(layer: Any) -> Any:
    """The stock layer that does what `layer` does."""
    import keras
    import tensorflow as tf

    from emotiw_keras.models import layers

    class StockNormalization(keras.layers.Layer):
        """`tf.nn.local_response_normalization`; in float32 always, since it has no bfloat16 kernel on a processor."""

        def call(self, inputs: Any) -> Any:
            names = ("depth_radius", "bias", "alpha", "beta")
            arguments = {key: config[key] for key in names}
            y = tf.nn.local_response_normalization(tf.cast(inputs, tf.float32), **arguments)
            return tf.cast(y, self.compute_dtype)

    config = layer.get_config()
    if isinstance(layer, layers.LocalResponseNormalization):
        return StockNormalization(name=layer.name)
    if isinstance(layer, layers.GroupedConv2D):
        if config["padding"] not in ("valid", "same"):
            around = config["padding"]
            first = keras.layers.ZeroPadding2D(around, name=f"pad_{layer.name}")
            last = keras.layers.Conv2D.from_config({**config, "padding": "valid"})
            return keras.Sequential([first, last], name=layer.name) if any(map(any, around)) else last
        return keras.layers.Conv2D.from_config(config)
    if isinstance(layer, layers.Dense):
        return keras.layers.Dense.from_config(config)
    return type(layer).from_config(config)


def stock_network(model: Any) -> Any:
    """The network of stock layers, with the weights of `model`."""
    import keras

    other = keras.models.clone_model(model, clone_function=stock)
    other.set_weights(model.get_weights())
    return other


def stock_step(model: Any, x: np.ndarray) -> Callable[[], None]:
    """One step of Keras' own training on a fixed batch of floats."""
    import keras
    import tensorflow as tf

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE, momentum=0.9), loss, jit_compile=False)
    batch = iter(tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(labels_of(len(x))))).repeat())
    function = model.make_train_function() or model.train_function
    return lambda: finite(float(function(batch)["loss"]))


def serve_keras(options: argparse.Namespace) -> None:
    """Our step, or that of stock Keras on the same network of stock layers."""
    from emotiw_keras.hardware import keep_memory

    ours = options.contestant in OURS
    if ours:
        keep_memory()
    import keras

    keras.config.set_dtype_policy({"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision_of(options.contestant)])
    model = network_of(options.network, options.width)
    face_input, faces = grey_input(options.network)
    if ours:
        step, net, given, _ = our_step(model, face_input, options.batch)
    else:
        net, given = stock_network(model), face_input
        step = stock_step(net, random_floats(face_input, options.batch))
    outputs = np.asarray(net(floats(given, faces), training=False), np.float32)
    serve(outputs, rate_of(step, options.batch, options.seconds))


def torch_arrays(model: Any) -> dict[str, np.ndarray]:
    """Layer and what -> array, of our network in Caffe's layout."""
    arrays, maps = {}, None
    for layer in model.layers:
        if layer.name == "flatten":
            maps = layer.input.shape[1:]
        if not layer.weights:
            continue
        kernel, bias = layer.get_weights()
        if kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)
        elif maps is not None:
            kernel = kernel.reshape(*maps, -1).transpose(3, 2, 0, 1).reshape(kernel.shape[1], -1)
            maps = None
        else:
            kernel = kernel.T
        arrays |= {f"{layer.name}.weight": kernel, f"{layer.name}.bias": bias}
    return arrays


def torch_network(network: str, stored: Any, layout: str) -> Any:
    """The authors' network in PyTorch with the arrays of `torch_arrays`: float (batch, 3, side, side) -> logits."""
    import torch
    import torch.nn.functional as F

    from emotiw_keras.conversion.matching import original_nodes

    nodes = original_nodes(network)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for node in nodes:
                for what in node.arrays:
                    self.register_parameter(what.replace(".", "_"), torch.nn.Parameter(torch.from_numpy(stored[what].copy())))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for node in nodes:
                given = [getattr(self, what.replace(".", "_")) for what in node.arrays]
                if node.op == "conv":
                    x = F.conv2d(x, *given, node.attrs["stride"], node.attrs["pad"][::2], 1, node.attrs["groups"])
                elif node.op == "fc":
                    x = F.linear(torch.flatten(x, 1), *given)
                elif node.op == "relu":
                    x = F.relu(x)
                    if node.name in ("relu_fc6", "relu_fc7"):
                        x = F.dropout(x, 0.5, self.training)
                elif node.op == "lrn":
                    x = F.local_response_norm(x, *(node.attrs[key] for key in ("size", "alpha", "beta", "k")))
                elif node.op == "max_pool":
                    x = F.max_pool2d(x, node.attrs["size"], node.attrs["stride"], ceil_mode=node.attrs["rounding"] == "ceil")
                else:
                    raise SystemExit(f"{node.op} of {node.name} is not known here")
            return x

    torch.manual_seed(0)
    return Net().to(memory_format=torch_layout(layout))


def torch_layout(layout: str) -> Any:
    import torch

    return torch.channels_last if layout == "channels_last" else torch.contiguous_format


def torch_input(images: np.ndarray, layout: str) -> Any:
    """float32 (n, height, width, channels) as PyTorch takes it."""
    import torch

    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(memory_format=torch_layout(layout))


def serve_torch(options: argparse.Namespace) -> None:
    """PyTorch's step: forward with dropout, cross-entropy, backward, SGD with momentum and decay, on ready-made floats."""
    import torch
    import torch.nn.functional as F

    how, layout, precision = TORCH[options.contestant]
    with np.load(os.environ[WEIGHTS]) as file:
        stored = dict(file)
    net = torch_network(options.network, stored, layout)
    run: Callable[..., Any] = torch.compile(net) if how == "compiled" else net
    kernels = [parameter for key, parameter in net.named_parameters() if key.endswith("weight")]
    biases = [parameter for key, parameter in net.named_parameters() if key.endswith("bias")]
    groups = [{"params": kernels, "weight_decay": 0.0005}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=0.9)
    cast: Any = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()
    x = torch_input(stored["batch"][: options.batch], layout)
    y = torch.from_numpy(labels_of(options.batch)).long()
    net.eval()
    with torch.no_grad(), cast:
        outputs = net(torch_input(stored["probe"], layout)).float().numpy()
    net.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with cast:
            loss = F.cross_entropy(run(x).float(), y)
        loss.backward()
        optimizer.step()
        finite(loss.item())

    serve(outputs, rate_of(step, options.batch, options.seconds))


def write_shared(network: str, width: float, batch: int, file: Path) -> dict[str, float]:
    """What all contestants get, into a file; and multiplications of one image, forward, of the first layer and of all."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    model = network_of(network, width)
    face_input, faces = grey_input(network)
    np.savez(file, **torch_arrays(model), probe=floats(face_input, faces), batch=random_floats(face_input, batch))
    layers = [layer for layer in model.layers if layer.weights]
    each = [float(np.prod(layer.weights[0].shape) * np.prod(layer.output.shape[1:-1])) for layer in layers]
    return {"first": each[0], "all": sum(each)}


def work_of(contestant: str, products: dict[str, float]) -> float:
    """Multiplications and additions that a step needs for one image: forward, and backward to kernels and inputs.

    The input of the first layer needs no gradient; ours takes one channel of a grey face, the others three equal ones.
    """
    first = products["first"] / (3 if contestant in OURS else 1)
    return 6 * (products["all"] - products["first"]) + 4 * first


def measure(network: str, batches: list[int], options: Options, products: dict[str, Any]) -> Iterator[Table]:
    """A table for each batch size; the heat is run at the smallest."""
    width, seconds = (0.1, 0.1) if options.quick else (1.0, 4.0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "shared.npz")
        environment = {WEIGHTS: str(file)}
        counted = write_shared(network, width, max(batches), file)

        def commands(names: tuple[str, ...], batch: int, seconds: float) -> dict[str, list[str]]:
            own = [f"--network={network}", f"--batch={batch}", f"--width={width}", f"--seconds={seconds}"]
            return {name: ["benchmarks.train", *own, f"--contestant={name}"] for name in names}

        limits = {name: LIMITS[precision_of(name)] for name in (*OURS, *STOCK, *TORCH)}
        reference = Contestant("ours float32", commands(OURS, batches[0], 0)["ours float32"], environment)
        reference.close()
        # quick: one of each kind, for compiling takes most of a minute
        ways = [name for name in measured(TORCH) if not options.quick or "channels_last" in name]
        heats = heat(reference.outputs, commands(tuple(ways), batches[0], seconds), limits, environment)
        best = [max((n for n in heats if precision_of(n) == p), key=heats.__getitem__) for p in machine.precisions()]
        for batch in batches:
            names = (*measured(OURS), *(measured(STOCK) if batch == batches[0] else ()), *best)
            # each has taken a step before its first turn; at large batches, of half a minute a step, that must do
            warm_up = batch == batches[0]
            # large batches of both precisions at once are more than 24 GB: those of one precision take turns by themselves
            parts = [names] if warm_up else [[n for n in names if precision_of(n) == p] for p in machine.precisions()]
            taken: dict[str, list[float]] = {}
            for part in parts:
                taken |= take_turns(commands(tuple(part), batch, seconds), options.rounds, limits, environment, warm_up)
            rates = {name: summary(figures) for name, figures in taken.items()}
            yield _table(network, batch, rates, heats if batch == batches[0] else {}, products, counted)


def _table(
    network: str,
    batch: int,
    rates: dict[str, Any],
    heats: dict[str, float],
    products: dict[str, Any],
    counted: dict[str, float],
) -> Table:
    peers = {name: row["median"] for name, row in rates.items() if name in TORCH}
    float32 = max(rate for name, rate in peers.items() if precision_of(name) == "float32")
    any_precision = max(peers.values())

    def share(name: str, rate: float) -> float:
        return rate * work_of(name, counted) / products[precision_of(name)]

    rows: list[tuple[str, ...]] = []
    for name, row in rates.items():
        rate = row["median"]
        rows.append((name, *spread(row), f"{rate / float32:.2f}", f"{rate / any_precision:.2f}", f"{share(name, rate):.0%}"))
    slower = sorted((name for name in heats if name not in rates), key=lambda name: -heats[name])
    rows += [(name, f"{heats[name]:.1f}", "in the heat", "", "", f"{share(name, heats[name]):.0%}") for name in slower]
    figures = {"images_per_second": rates, "heats": heats, "products": products, "multiplications": counted, "batch": batch}
    return Table(
        f"Train step, {network}, batch {batch}, images a second",
        ("", "median", "least - most", "/ PyTorch float32", "/ PyTorch, any", "of products"),
        rows,
        figures={"network": network, **figures},
    )


def run(options: Options) -> Iterator[Table]:
    """All networks and batches, each told when it is done: the whole takes an hour."""
    batches = [8] if options.quick else sorted(options.batches)
    products = machine.product_rates(2 if options.quick else 5)
    told = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in products["each"].items())
    note = (
        f"Products of two matrices of 4096 x 4096, GFLOP/s, the best of each: {told}. The share is of the better library's in "
        "the same precision, for the arithmetic that each step needs (ours takes one channel of a grey face, the others three)."
    )
    if machine.precisions() != machine.PRECISIONS:
        note += " The processor has no bfloat16, whose emulation takes minutes a step: left out."
    for network in options.networks:
        for table in measure(network, batches, options, products):
            table.notes.append(note)
            yield table


def main() -> None:
    """A contestant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--contestant", required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    (serve_torch if options.contestant in TORCH else serve_keras)(options)


if __name__ == "__main__":
    main()
