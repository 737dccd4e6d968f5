"""PathNet (Fernando et al. 2017) for images: layers of many small convolutional modules, of which a path uses a few.

A path is data: for each layer the numbers of its active modules, a number that stands twice counting once. `PathNet` builds the
network of one path alone, at the cost of that path; `emotiw_keras.pathnet` searches for paths among all modules. Modules are
called `layer1_module00`, ..., so that weights move by name between networks of different paths; the classifier is `readout`.

ReLU and summed outputs are the paper's, though descriptions of it say that its last layer averages them; here that sums too.
3x3 kernels, filters and pooling are chosen here, as not all that it does with images is known; all but the kernels can be set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import layers as keras_layers

from emotiw_keras.errors import UsageError
from emotiw_keras.models import weights_argument as stored
from emotiw_keras.models.parts import (
    Shape,
    Tensor,
    VarianceScaling,
    classifier_kernel,
    image_input,
    model_of,
    pooled,
    scaled,
)
from emotiw_keras.models.preprocessing import decode_predictions, preprocessing
from emotiw_keras.models.registry import PATHNET_SIZES

__all__ = ["COMBINE", "REDUCE", "Path", "PathNet", "decode_predictions", "module_name", "preprocess_input"]

Path = tuple[tuple[int, ...], ...]
COMBINE = ("sum", "average")
REDUCE = ("pool", "stride", "none")
READOUT = "readout"
SMALLEST = 8
FOREIGN_NAMES: tuple[dict[str, str], ...] = ()
preprocess_input = preprocessing("pathnet")
_LAYERS, _MODULES, _ACTIVE, _FILTERS = PATHNET_SIZES


def module_name(layer: int, module: int) -> str:
    """The name of a module's convolution; layers count from 1, modules from 0.

    Example:
        >>> module_name(1, 7)
        'layer1_module07'
    """
    return f"layer{layer}_module{module:02d}"


def checked_path(path: Iterable[Iterable[int]] | None, layers: int, modules: int, active: int) -> Path:
    """The distinct modules of each layer in rising order; None is the first `active` of each.

    Raises UsageError if there is not one group of 1 to `active` numbers below `modules` for each layer.
    """
    if path is None:
        return (tuple(range(min(active, modules))),) * layers
    given = [list(genes) for genes in path]
    whole = all(isinstance(gene, int) and not isinstance(gene, bool) for genes in given for gene in genes)
    if len(given) != layers or not whole or not all(1 <= len(genes) <= active for genes in given):
        raise UsageError(f"path {given!r}: expected {layers} groups of 1 to {active} whole numbers")
    outside = [gene for genes in given for gene in genes if not 0 <= gene < modules]
    if outside:
        raise UsageError(f"path {given!r}: there is no module {outside[0]}; expected numbers from 0 to {modules - 1}")
    return tuple(tuple(sorted(set(genes))) for genes in given)


def module_kernel(combine: str, active: int, seed: int | None = None) -> VarianceScaling:
    """How a module's kernel begins: He's, divided by `active` where outputs are summed, so that a sum is as large as one."""
    return VarianceScaling(2.0 / active**2 if combine == "sum" else 2.0, "fan_in", "truncated_normal", seed=seed)


def check_sizes(sizes: Sequence[tuple[str, int]], combine: str, reduce: str) -> None:
    """UsageError for a size below 1 or an unknown way to combine or reduce."""
    for name, value in sizes:
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"pathnet: {name} is {value!r}, expected a whole number from 1 on")
    for name, word, known in (("combine", combine, COMBINE), ("reduce", reduce, REDUCE)):
        if word not in known:
            raise UsageError(f"pathnet: {name} is {word!r}, expected one of {', '.join(known)}")


def PathNet(
    include_top: bool = True,
    weights: Any = None,
    input_tensor: Tensor | None = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "pathnet",
    width: float = 1.0,
    path: Iterable[Iterable[int]] | None = None,
    layers: int = _LAYERS,
    modules: int = _MODULES,
    active: int = _ACTIVE,
    filters: int = _FILTERS,
    combine: str = "sum",
    reduce: str = "pool",
) -> keras.Model:
    """The network of one path through layers of modules; the modules that the path does not use are not there.

    Args:
        include_top: with the readout; without it the output is the maps of the last layer.
        weights: None (random; nothing is published for ImageNet), or the path of a `.weights.h5` file of the same path.
        input_tensor: a Keras tensor to build on instead of a new input.
        input_shape: (height, width, channels); (128, 128, 3) if None. Where layers reduce, at least 2**layers square. Without
            the top height and width may be None, for any.
        pooling: without the top: None, "avg" or "max".
        classes: outputs of the readout.
        classifier_activation: "softmax", or None for logits.
        name: the model's name.
        width: multiplier of filters.
        path: for each layer the numbers of its active modules (1 to `active` of them); None takes the first ones.
        layers, modules, active: L, M and N of the paper: layers, modules in each, active ones at most.
        filters: channels that a module puts out.
        combine: "sum" (the paper's) or "average" of the active modules' outputs, in every layer.
        reduce: what halves the image in each layer: "pool" (2x2 maximum behind the layer), "stride" (of 2 in the modules, a
            quarter of the work) or "none".

    Input: float (batch, height, width, channels), RGB, 0..255 minus 128, divided by 64 (`preprocess_input`). Output: float32
    (batch, classes). Raises UsageError for a path or a size that cannot be meant, ModelError for weights that are missing or
    do not fit and for too small an image.

    Source: Fernando et al. 2017, arXiv:1701.08734.

    Example:
        >>> net = PathNet(classes=7, input_shape=(32, 32, 1), path=[[0, 3], [7], [1, 1, 2]])
        >>> [layer.name for layer in net.layers if layer.weights][:3]
        ['layer1_module00', 'layer1_module03', 'layer2_module07']
    """
    stored.find(weights, "pathnet")  # before anything large is built
    sizes = (("layers", layers), ("modules", modules), ("active", active), ("filters", filters))
    check_sizes(sizes, combine, reduce)
    taken = checked_path(path, layers, modules, active)
    smallest = 1 if reduce == "none" else 2**layers
    image = image_input("pathnet", input_tensor, input_shape, smallest, width, include_top)

    x = image
    for number, chosen in enumerate(taken, 1):
        outputs = [
            keras_layers.Conv2D(
                scaled(filters, width),
                3,
                strides=2 if reduce == "stride" else 1,
                padding="same",
                activation="relu",
                data_format="channels_last",
                kernel_initializer=module_kernel(combine, active),
                name=module_name(number, module),
            )(x)
            for module in chosen
        ]
        x = outputs[0]
        if len(outputs) > 1:
            merge = keras_layers.Add if combine == "sum" else keras_layers.Average
            x = merge(name=f"layer{number}_{combine}")(outputs)
        if reduce == "pool":
            x = keras_layers.MaxPooling2D(2, data_format="channels_last", name=f"pool{number}")(x)
    if not include_top:
        x = pooled(x, pooling)
    else:
        if classes < 1:
            raise UsageError(f"classes is {classes}, expected at least 1")
        x = keras_layers.Flatten(data_format="channels_last", name="flatten")(x)
        x = keras_layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=classifier_kernel(),
            dtype="float32",
            name=READOUT,
        )(x)
    model = model_of(image, x, input_tensor, name)
    stored.load(model, weights, "pathnet", width)
    return model
