"""Every network at full size through every format, against the framework that the format belongs to.

Random weights are written as a file of another framework, that framework computes the class scores and inner layers of a
colour picture without symmetry, `conversion.convert` reads the same file, and the Keras network is compared with it.
OpenCV runs the Caffe files, ONNX Runtime the ONNX files, PyTorch writes and runs AlexNet "one weird trick" (the extra
`bench`); a MatConvNet file, and SENet-50's pickled dictionary and keras-vggface's layout, are held against OpenCV on the Caffe
file of the same weights. OpenCV's Axpy is not SENet's (it takes a y + x for a x + y): its prototxt has a Scale and a sum in its
place. Run it from the root of the
repository: `python -m benchmarks.parity --json parity.json`. It needs about 1 GB of disk and five minutes.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np

from emotiw_keras.conversion.convert import TOLERANCE, convert, probe_image
from emotiw_keras.models.registry import get_spec
from tests.formats import foreign_networks as foreign

NETWORKS = ("alexnet", "caffenet", "vgg_cnn_f", "vgg_cnn_m", "vgg_cnn_m_2048", "vgg_cnn_s", "squeezenet", "squeezenet_v1_1")
NETWORKS += ("senet50",)
FORMATS = ("caffemodel", "mat", "onnx", "pth", "pkl", "h5")
SENET_BLOCKS = ("conv2_3_relu", "conv3_4_relu", "conv4_6_relu", "conv5_3_relu", "pool5_7x7_s1")
Row = tuple[str, str, str, float]


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Of all values, as a fraction of the largest expected one."""
    return float(np.abs(found.reshape(-1) - expected.reshape(-1)).max() / np.abs(expected).max())


def ours(name: str, path: Path, layers: list[str]) -> dict[str, np.ndarray]:
    """Inner layers and "scores" of the converted network, (1, values) in the order of (channels, height, width)."""
    import keras

    model, _ = convert(name, path)
    outputs = {layer: model.get_layer(layer).output for layer in layers} | {"scores": model.output}
    values = keras.Model(model.inputs[0], outputs)(probe_image(get_spec(name)))
    arrays = {layer: keras.ops.convert_to_numpy(value) for layer, value in values.items()}
    return {layer: np.moveaxis(array, -1, 1).reshape(1, -1) for layer, array in arrays.items()}


def inner_layers(net: foreign.Network) -> list[str]:
    """Normalisations, poolings and ends of stages, which Keras and the original call alike: at least three of them."""
    return [node.name for node in net.nodes if node.op in ("lrn", "max_pool") or node.name in SENET_BLOCKS][:6]


def rows_of(name: str, kind: str, folder: Path) -> Iterator[Row]:
    """What one network gives through one format."""
    net = foreign.network(name)
    layers = inner_layers(net)
    if kind == "onnx":
        path = foreign.write_onnx_file(folder / "net.onnx", net)
        last = [node.name for node in net.nodes if node.op not in ("softmax", "identity")][-1]
        expected = foreign.run_onnx_runtime(net, path, [*layers, last])
        scores, against = expected[last], "ONNX Runtime"
    else:
        caffe = foreign.write_caffe_files(folder, net, version=1 if name.startswith("vgg") else 2)
        expected = foreign.run_caffe(net, *caffe, [*layers, net.scores])
        scores, against, path = expected[net.scores], "OpenCV", caffe[0]
        if kind == "mat":
            write = foreign.write_dag_file if name == "senet50" else foreign.write_mat_file
            path = write(folder / "net.mat", net)
        elif kind == "pkl":
            path = folder / "net.pkl"
            path.write_bytes(pickle.dumps(foreign.torch_state(net), 2))
        elif kind == "h5":
            path = foreign.write_keras_file(folder / "net.h5", net)
    found = ours(name, path, layers)
    for layer in layers:
        yield name, f".{kind} against {against}", layer, largest_difference(found[layer], expected[layer])
    yield name, f".{kind} against {against}", "class scores", largest_difference(found["scores"], scores)


def rows_of_torch(folder: Path) -> Iterator[Row]:
    """AlexNet of torchvision, its modules written out here, saved by PyTorch in both of its forms and run by it."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    def conv(inputs: int, outputs: int, size: int, stride: int = 1, pad: int = 0) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, size, stride, pad), nn.ReLU()]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pools = [nn.MaxPool2d(3, 2) for _ in range(3)]
            trunk = [*conv(3, 64, 11, 4, 2), pools[0], *conv(64, 192, 5, 1, 2), pools[1], *conv(192, 384, 3, 1, 1)]
            self.features = nn.Sequential(*trunk, *conv(384, 256, 3, 1, 1), *conv(256, 256, 3, 1, 1), pools[2])
            self.avgpool = nn.AdaptiveAvgPool2d(6)
            middle = [nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()]
            self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(), *middle, nn.Linear(4096, 1000))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    net = Net().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 100
            parameter.copy_(torch.randn_like(parameter) * (2 / fan) ** 0.5)
    expected: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: expected.update({name: output.numpy().copy()})

    for index, name in ((2, "pool1"), (5, "pool2"), (12, "pool5")):
        net.features[index].register_forward_hook(keep(name))
    with torch.no_grad():
        expected["scores"] = net(torch.from_numpy(foreign.image("alexnet_owt", "rgb"))).numpy()
    for form, zipped in (("zip", True), ("legacy", False)):
        path = folder / f"{form}.pth"
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=zipped)
        found = ours("alexnet_owt", path, ["pool1", "pool2", "pool5"])
        for layer, values in expected.items():
            shown = "class scores" if layer == "scores" else layer
            yield "alexnet_owt", f".pth ({form}) against PyTorch", shown, largest_difference(found[layer], values)


@click.command()
@click.option("--network", "networks", multiple=True, type=click.Choice(NETWORKS), help="Only these.")
@click.option("--format", "kinds", multiple=True, type=click.Choice(FORMATS), help="Only these.")
@click.option("--json", "out", type=click.Path(dir_okay=False), help="Write the rows here.")
def main(networks: tuple[str, ...], kinds: tuple[str, ...], out: str | None) -> None:
    """Print the largest differences and end with exit code 1 if one is over the tolerance."""
    chosen = kinds or FORMATS
    needs = {"onnx": ("onnx", "onnxruntime"), "pth": ("torch",)}
    for kind in chosen:
        missing = [module for module in needs.get(kind, ()) if importlib.util.find_spec(module) is None]
        if missing and kinds:
            raise click.UsageError(f"--format {kind} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
        if missing:
            click.echo(f".{kind} left out: {' and '.join(missing)} not installed", err=True)
            chosen = tuple(other for other in chosen if other != kind)
    rows: list[Row] = []
    work = [(name, kind) for name in networks or NETWORKS for kind in chosen if kind != "pth"]
    # MatConvNet has no rounding up of its own, and its files of these two do not exist.
    work = [(name, kind) for name, kind in work if kind != "mat" or not name.startswith("squeezenet")]
    # Pickled dictionaries and keras-vggface's layout are SENet-50's alone, which has no ONNX release.
    work = [
        (name, kind) for name, kind in work if (kind in ("pkl", "h5")) == (name == "senet50") or kind in ("caffemodel", "mat")
    ]
    for name, kind in work:
        with tempfile.TemporaryDirectory() as folder:
            rows += show(rows_of(name, kind, Path(folder)))
    if "pth" in chosen and not networks:
        with tempfile.TemporaryDirectory() as folder:
            rows += show(rows_of_torch(Path(folder)))
    if out:
        names = ("network", "path", "layer", "difference")
        Path(out).write_text(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1))
    worst = max(row[3] for row in rows)
    click.echo(f"{len(rows)} comparisons, the largest difference is {worst:.1e} of the largest value, allowed {TOLERANCE:.0e}")
    sys.exit(int(not worst <= TOLERANCE))


def show(rows: Iterator[Row]) -> list[Row]:
    """Print rows as they come."""
    shown = []
    for row in rows:
        shown.append(row)
        click.echo(f"{row[0]:16} {row[1]:30} {row[2]:14} {row[3]:.1e}")
    return shown


if __name__ == "__main__":
    main()
