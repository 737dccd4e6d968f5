"""`emotiw convert`: foreign weights become weights of the zoo, or are shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.console import put, put_made, tell
from emotiw_keras.cli.places import LOCAL
from emotiw_keras.errors import ModelError, OutputError, UsageError
from emotiw_keras.files import expanded
from emotiw_keras.sealed import json_text

if TYPE_CHECKING:
    import numpy as np

    from emotiw_keras.conversion.checking import Check


@click.command(epilog="Example: emotiw convert bvlc_alexnet.caffemodel --model alexnet --out alexnet.weights.h5")
@click.argument("source", type=LOCAL, metavar="SOURCE")
@click.option(
    "--model",
    metavar="M",
    shell_complete=completion.networks,
    help="The network that SOURCE holds; `emotiw models` lists them.",
)
@click.option(
    "--out",
    type=LOCAL,
    metavar="FILE",
    help="Where the weights go, a .weights.h5 file; a mean image becomes a .npy file.",
)
@click.option("--inspect", is_flag=True, help="Print what SOURCE holds, and convert nothing.")
@click.option("--structure", type=LOCAL, metavar="FILE", help="The .prototxt of SOURCE, where SOURCE holds arrays alone.")
@click.option(
    "--channel-order",
    type=click.Choice(["rgb", "bgr"]),
    help="Channel order of the images SOURCE was trained on, or of a mean image, where its format does not say; default: the "
    "network's own.",
)
@click.option(
    "--check",
    "checks",
    type=LOCAL,
    metavar="IMAGE=CLASS",
    multiple=True,
    help="An image and its class, a number or ImageNet's name; nothing is written unless the network agrees. Repeatable.",
)
@click.option("--grey", is_flag=True, help="Fold the first kernel for images with one channel.")
@click.option("--width", type=float, default=1.0, show_default=True, help="Width of the network that SOURCE holds.")
@click.option("--json", "as_json", is_flag=True, help="With --inspect: as JSON.")
@click.pass_context
def convert(
    ctx: click.Context,
    /,
    source: str,
    model: str | None,
    out: str | None,
    inspect: bool,
    structure: str | None,
    channel_order: Literal["rgb", "bgr"] | None,
    checks: tuple[str, ...],
    grey: bool,
    width: float,
    as_json: bool,
) -> None:
    """Turn a weight file of another framework into weights of a network of the zoo.

    It reads Caffe, MatConvNet, PyTorch, ONNX, NumPy, pickled, Keras and safetensors files, and runs nothing that is in
    them. Every array must find its place. FILE must not exist yet; before it is written, the network is compared with the
    original's own computation on a colour image, layer by layer.
    """
    if inspect:
        _refuse_all_but(ctx, {"inspect", "as_json"}, "--inspect converts nothing")
        _inspect(source, as_json)
        return
    if as_json:
        raise UsageError("--json is how --inspect prints; add --inspect, or leave it out")
    if out is None:
        raise UsageError("say where the weights go with --out FILE, or look at SOURCE with --inspect")
    if Path(out).is_file():
        raise OutputError(f"{out} exists; converting never overwrites, name a new place or remove that one")
    if model is None:
        mean, order = _mean_image(source, out, channel_order)
        _refuse_all_but(ctx, {"out", "channel_order"}, f"{Path(source).name} is a mean image")
        _write_mean_image(mean, order, out)
        return
    from emotiw_keras.models.registry import get_spec

    get_spec(model)
    if not out.endswith(".weights.h5"):
        raise UsageError(f"--out {out}: expected a name that ends in .weights.h5")

    from emotiw_keras.conversion.checking import convert_checked
    from emotiw_keras.conversion.convert import write_weights
    from emotiw_keras.files import check_file_place

    check_file_place(out)
    images = [_check(text) for text in checks]
    network, report = convert_checked(model, source, images, structure=structure, channel_order=channel_order, width=width)
    for line in report.lines():
        tell(line)
    if grey:
        from emotiw_keras.models.grey_folding import fold_to_grey

        spec = get_spec(model)
        network = fold_to_grey(network, spec.mean, spec.std)
        tell("folded to one input channel: images of shape (height, width, 1)")
    path = write_weights(network, out, new=True)
    put_made(f"{path}: {network.count_params():,} parameters of {model}, {path.stat().st_size / 1e6:.1f} MB")


def _refuse_all_but(ctx: click.Context, heeded: set[str], why: str) -> None:
    """Refuse options that were given and count for nothing.

    Args:
        ctx: of the command.
        heeded: names of the parameters that count, besides the source.
        why: what makes the others count for nothing.
    """
    others = [
        each.opts[0]
        for each in ctx.command.params
        if each.name not in {"source", *heeded}
        and ctx.get_parameter_source(str(each.name)) == click.core.ParameterSource.COMMANDLINE
    ]
    if others:
        raise UsageError(f"{why}: leave out {', '.join(others)}")


def _check(text: str) -> Check:
    """IMAGE=CLASS as an image and its class."""
    from emotiw_keras.conversion.checking import Check
    from emotiw_keras.data.archive import read_file
    from emotiw_keras.data.images import ImageError, decode_image

    image, _, wanted = text.rpartition("=")
    if not image or not wanted.strip():
        raise UsageError(f"--check {text}: expected IMAGE=CLASS, e.g. cat.jpg=cat or cat.jpg=285")
    path = expanded(image)
    try:
        return Check(path.name, decode_image(read_file(str(path))), wanted.strip())
    except ImageError as error:
        raise ImageError(f"--check {path}: {error}") from error


def _inspect(source: str, as_json: bool) -> None:
    from emotiw_keras.formats.inspect import describe, table
    from emotiw_keras.formats.reading import read

    foreign = read(source)
    if as_json:
        put(json_text(describe(foreign), indent=1))
    else:
        for line in table(foreign):
            put(line)


def _mean_image(source: str, out: str, stated: str | None) -> tuple[np.ndarray, str | None]:
    """The mean image in a file, (side, side, channels), and the order of its channels where the file or `stated` says it."""
    from emotiw_keras.formats.reading import read

    foreign = read(source)
    mean, name, order = foreign.mean, Path(source).name, foreign.channel_order
    if mean is None or mean.ndim != 3 or (foreign.nodes is not None and not out.endswith(".npy")):
        raise UsageError(f"say which network {name} holds with --model; `emotiw models` lists them")
    if not out.endswith(".npy"):
        raise UsageError(f"--out {out}: {name} is a mean image; expected a name that ends in .npy")
    if mean.shape[0] != mean.shape[1]:
        raise ModelError(
            f"{name} is a mean image of {mean.shape[0]} x {mean.shape[1]} pixels; expected as many rows as columns"
        )
    if order and stated and order != stated:
        raise ModelError(f"{name} is {order.upper()}, as its format says; leave out --channel-order")
    return mean, order or stated


def _write_mean_image(mean: np.ndarray, order: str | None, out: str) -> None:
    import numpy as np

    from emotiw_keras.files import write_encoded

    write_encoded(out, lambda file: np.save(file, mean))
    size = " x ".join(map(str, mean.shape))
    put_made(f"{out}: mean image, {size}, {(order or 'unknown order').upper()}, mean {mean.mean():.3f}")
