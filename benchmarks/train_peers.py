"""One train step of ours against PyTorch's, in turns: images per second, and the share of what matrix products reach here.

    python benchmarks/train_peers.py --network alexnet --batch 64 --json train_peers.json

PyTorch (the extra `bench`) runs the same network with the same weights, written from the authors' definition
(`models/originals.py`), in every combination of eager and compiled, NCHW and channels_last, float32 and bfloat16 autocast.
Each contestant's logits on the same pictures must agree before anything is timed. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = ("alexnet", "vgg_cnn_m_2048")
LIMITS = {"float32": 1e-4, "bfloat16": 0.05}
OURS = {"ours float32": "float32", "ours bfloat16": "mixed_bfloat16"}
TORCH = {
    f"torch {how} {layout} {precision}": (how, layout, precision)
    for how in ("eager", "compiled")
    for layout in ("NCHW", "channels_last")
    for precision in ("float32", "bfloat16")
}
# small enough for the loss to stay finite
RATE = 1e-9


def our_network(network: str) -> Any:
    """The network of the zoo with the weights that all contestants have; logits of 7 classes."""
    import keras

    from emotiw_keras.models import build

    keras.utils.set_random_seed(0)
    return build(network, weights=None, classes=7, classifier_activation=None)


def pictures(network: str, count: int) -> np.ndarray:
    """float32 (count, side, side, 3) with the spread of pixels."""
    from emotiw_keras.models.registry import get_spec

    side = get_spec(network).input_size
    return (60 * np.random.default_rng(0).standard_normal((count, side, side, 3))).astype("float32")


def serve_ours(network: str, policy: str, batch: int, seconds: float) -> None:
    """Our step, as `train_step.py` has it."""
    import train_step
    from turns import serve

    from emotiw_keras.hardware import keep_memory
    from emotiw_keras.models.registry import get_spec

    keep_memory()
    import keras

    keras.config.set_dtype_policy(policy)
    model = our_network(network)
    options = argparse.Namespace(batch=batch, size=get_spec(network).input_size)
    labels = np.random.default_rng(1).integers(0, 7, batch).astype("int32")
    outputs = np.asarray(model(pictures(network, 8), training=False))
    serve(outputs, train_step.our_step(model, options, labels), batch, seconds)


def torch_weights(network: str) -> dict[str, np.ndarray]:
    """Layer and what -> array, of our network in Caffe's layout."""
    model = our_network(network)
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


def serve_torch(network: str, name: str, batch: int, seconds: float) -> None:
    """PyTorch's step: forward with dropout, cross-entropy, backward, SGD with momentum and decay, on ready-made floats."""
    weights = Path(os.environ["PEER_WEIGHTS"])
    import torch
    import torch.nn.functional as F
    from turns import serve

    from emotiw_keras.models.matching import original_nodes

    how, layout, precision = TORCH[name]
    nodes = original_nodes(network)
    last = [node for node in nodes if node.op == "fc"][-1].name
    stored = np.load(weights)

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
    net = Net()
    assert last in ("fc8",), last
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    net = net.to(memory_format=memory)
    run: Callable[..., torch.Tensor] = torch.compile(net) if how == "compiled" else net
    kernels = [parameter for key, parameter in net.named_parameters() if key.endswith("weight")]
    biases = [parameter for key, parameter in net.named_parameters() if key.endswith("bias")]
    groups = [{"params": kernels, "weight_decay": 0.0005}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=0.9)
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.transpose(0, 3, 1, 2).copy()).to(memory_format=memory)

    net.eval()
    with torch.no_grad(), cast:
        outputs = net(tensor(pictures(network, 8))).float().numpy()
    net.train()
    x = tensor(pictures(network, batch))
    y = torch.from_numpy(np.random.default_rng(1).integers(0, 7, batch))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with cast:
            loss = F.cross_entropy(run(x).float(), y)
        loss.backward()
        optimizer.step()
        if not np.isfinite(loss.item()):
            raise SystemExit("the loss is not finite; nothing was measured")

    serve(outputs, step, batch, seconds)


def multiplications(network: str) -> int:
    """Of one image, forward."""
    model = our_network(network)
    total = 0
    for layer in model.layers:
        if layer.weights:
            kernel = layer.weights[0]
            places = int(np.prod(layer.output.shape[1:-1]))
            total += int(np.prod(kernel.shape)) * places
    return total


def product_rates(rounds: int = 5) -> dict[str, float]:
    """Best multiplications and additions a second of a product of matrices of 4096 x 4096, by precision."""
    import tensorflow as tf

    rates = {}
    for name, dtype in (("float32", tf.float32), ("bfloat16", tf.bfloat16)):
        matrix = tf.cast(tf.random.normal((4096, 4096)), dtype)
        best = 0.0
        for _ in range(rounds + 1):
            start = time.perf_counter()
            tf.linalg.matmul(matrix, matrix)[0, 0].numpy()
            best = max(best, 2 * 4096**3 / (time.perf_counter() - start))
        rates[name] = best
    return rates


def main() -> None:
    """Prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="alexnet")
    parser.add_argument("--batch", type=int, default=64, help="images a step (64)")
    parser.add_argument("--rounds", type=int, default=5, help="figures each; medians are told (5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="least seconds of a figure (5)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="contestants whose names hold one of these")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.contestant:
        if options.contestant in OURS:
            serve_ours(options.network, OURS[options.contestant], options.batch, options.seconds)
        else:
            serve_torch(options.network, options.contestant, options.batch, options.seconds)
        return
    compare(options)


def compare(options: argparse.Namespace) -> None:
    """All contestants on one piece of work."""
    import tempfile

    from train_step import processor
    from turns import summary, take_turns

    chosen = [name for name in (*OURS, *TORCH) if not options.only or any(word in name for word in options.only)]
    own = [f"--{key}={getattr(options, key)}" for key in ("network", "batch", "seconds")]
    commands = {name: [sys.executable, __file__, *own, f"--contestant={name}"] for name in chosen}
    limits = {name: LIMITS[name.split()[-1]] for name in chosen}
    # a multiplication and an addition each, forward, and twice as many backward
    work = 6 * multiplications(options.network)
    rates = product_rates()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.npz")
        np.savez(weights, **torch_weights(options.network))
        figures = summary(take_turns(commands, options.rounds, limits, {"PEER_WEIGHTS": str(weights)}))
    name, native = processor()
    print(f"{name}, {os.cpu_count()} cores, native bfloat16: {native}; products: " + ", ".join(
        f"{rate / 1e9:.0f} GFLOP/s in {precision}" for precision, rate in rates.items()))  # fmt: skip
    print(f"{options.network}, batch {options.batch}, {work / 1e9:.2f} GFLOP a step and image; medians of {options.rounds}")
    print(f"{'':38}{'images/s':>10}{'least':>8}{'most':>8}{'share of products':>20}")
    for contestant, row in figures.items():
        share = row["median"] * work / rates[contestant.split()[-1]]
        print(f"{contestant:38}{row['median']:10.1f}{row['least']:8.1f}{row['most']:8.1f}{share:20.0%}")
    if options.json:
        facts = {"processor": name, "cores": os.cpu_count(), "native_bfloat16": native, "products": rates}
        settings = {key: getattr(options, key) for key in ("network", "batch", "rounds", "seconds")}
        options.json.write_text(json.dumps({"machine": facts, "settings": settings, "images_per_second": figures}, indent=1))


if __name__ == "__main__":
    main()
