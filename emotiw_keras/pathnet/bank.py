"""All modules of a PathNet on the device, and which of them are frozen."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras.errors import ModelError, RunError
from emotiw_keras.models.parts import classifier_kernel, scaled
from emotiw_keras.models.pathnet import READOUT, PathNet, module_kernel, module_name
from emotiw_keras.pathnet.evolution import Path
from emotiw_keras.pathnet.search import PathNetSettings

if TYPE_CHECKING:
    from emotiw_keras.training.prepared_data import Prepared

SIZES = ("layers", "modules", "active", "filters", "combine", "reduce")
"""What tells one PathNet from another besides its width."""


class Bank:
    """Kernels (modules, 3, 3, channels, filters) and biases (modules, filters) of each layer, and one task's readout.

    Args:
        settings: how many modules there are, and how they come together.
        width: multiplier of filters.
        input_shape: (height, width, channels) of the network's input.
    """

    def __init__(self, settings: PathNetSettings, width: float, input_shape: Sequence[int]) -> None:
        self.settings, self.width = settings, width
        self.input_shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
        self.filters = scaled(settings.filters, width)
        self.kernels: list[tf.Variable] = []
        self.biases: list[tf.Variable] = []
        channels, (height, across) = self.input_shape[2], self.input_shape[:2]
        for _ in range(settings.layers):
            self.kernels.append(tf.Variable(tf.zeros((settings.modules, 3, 3, channels, self.filters))))
            self.biases.append(tf.Variable(tf.zeros((settings.modules, self.filters))))
            channels = self.filters
            if settings.reduce == "pool":
                height, across = height // 2, across // 2
            elif settings.reduce == "stride":
                height, across = -(-height // 2), -(-across // 2)
        self.units = height * across * self.filters
        kernel, bias = tf.zeros((self.units, 0)), tf.zeros(0)
        self.readout = [tf.Variable(kernel, shape=(self.units, None)), tf.Variable(bias, shape=(None,))]
        self.frozen = np.zeros((settings.layers, settings.modules), bool)

    @property
    def classes(self) -> int:
        """Outputs of the readout."""
        return int(self.readout[1].shape[0] or tf.shape(self.readout[1])[0])

    def initialise(self, seed: tuple[int, ...], kept: np.ndarray) -> None:
        """New values for every module that is not kept, bool (layers, modules), each from a seed of its own."""
        for layer, (kernels, biases) in enumerate(zip(self.kernels, self.biases, strict=True)):
            new, bias = kernels.numpy(), biases.numpy()
            for module in np.flatnonzero(~kept[layer]):
                number = zlib.crc32(repr((*seed, layer, int(module))).encode())
                kernel = module_kernel(self.settings.combine, self.settings.active, number)
                new[module] = keras.ops.convert_to_numpy(kernel(new.shape[1:], "float32"))
                bias[module] = 0.0
            kernels.assign(new)
            biases.assign(bias)

    def new_readout(self, classes: int, seed: tuple[int, ...]) -> None:
        """A readout of a new task."""
        config = {**classifier_kernel().get_config(), "seed": zlib.crc32(repr((*seed, READOUT)).encode())}
        kernel = type(classifier_kernel()).from_config(config)((self.units, classes), "float32")
        self.readout[0].assign(keras.ops.convert_to_numpy(kernel))
        self.readout[1].assign(np.zeros(classes, np.float32))

    def freeze(self, path: Path) -> None:
        """Modules that no training may change any more."""
        for layer, genes in enumerate(path):
            self.frozen[layer, list(genes)] = True

    def digests(self, modules: np.ndarray) -> dict[str, str]:
        """Module name -> a short hash of its weights, of the modules in bool (layers, modules)."""
        found = {}
        for layer, (kernels, biases) in enumerate(zip(self.kernels, self.biases, strict=True)):
            kernel, bias = kernels.numpy(), biases.numpy()
            for module in np.flatnonzero(modules[layer]):
                digest = hashlib.blake2b(kernel[module].tobytes() + bias[module].tobytes(), digest_size=8)
                found[module_name(layer + 1, int(module))] = digest.hexdigest()
        return found

    def check_frozen(self, before: Mapping[str, str], where: str) -> None:
        """ModelError if a module's hash is not what it was."""
        after = self.digests(self.frozen)
        moved = [name for name, digest in before.items() if after.get(name) != digest]
        if moved:
            raise ModelError(f"{where}: {moved[0]} was frozen but has moved; this is a defect, please report it")

    def options(self, path: Path) -> dict[str, Any]:
        """What `PathNet` must be told to build the network of a path, as plain data."""
        return {"path": [list(genes) for genes in path], **{key: getattr(self.settings, key) for key in SIZES}}

    def network(self, path: Path) -> keras.Model:
        """The network of a path alone, with the weights that it has here; it returns logits."""
        model = PathNet(
            classes=self.classes,
            classifier_activation=None,
            input_shape=self.input_shape,
            width=self.width,
            **self.options(path),
        )
        for layer, genes in enumerate(path):
            kernels, biases = self.kernels[layer].numpy(), self.biases[layer].numpy()
            for module in genes:
                model.get_layer(module_name(layer + 1, module)).set_weights([kernels[module], biases[module]])
        model.get_layer(READOUT).set_weights([variable.numpy() for variable in self.readout])
        return model

    def take(self, model: keras.Model) -> Path:
        """Take the modules of a path's network into their places; its path.

        Raises:
            ModelError: a module has another size.
        """
        path: list[list[int]] = [[] for _ in range(self.settings.layers)]
        for layer in range(self.settings.layers):
            kernels, biases = self.kernels[layer].numpy(), self.biases[layer].numpy()
            for module in range(self.settings.modules):
                name = module_name(layer + 1, module)
                if any(each.name == name for each in model.layers):
                    kernel, bias = model.get_layer(name).get_weights()
                    if kernel.shape != kernels.shape[1:]:
                        raise ModelError(f"{name} is {kernel.shape} there, {kernels.shape[1:]} here")
                    kernels[module], biases[module] = kernel, bias
                    path[layer].append(module)
            self.kernels[layer].assign(kernels)
            self.biases[layer].assign(biases)
        return tuple(map(tuple, path))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, by name."""
        found = {"frozen": self.frozen.copy()}
        for layer, (kernels, biases) in enumerate(zip(self.kernels, self.biases, strict=True), 1):
            found |= {f"layer{layer}/kernel": kernels.numpy(), f"layer{layer}/bias": biases.numpy()}
        return found | {"readout/kernel": self.readout[0].numpy(), "readout/bias": self.readout[1].numpy()}

    def restore(self, arrays: Mapping[str, np.ndarray], path: object) -> None:
        """What `arrays` gave; RunError naming the checkpoint `path` where sizes differ."""
        targets = {"readout/kernel": self.readout[0], "readout/bias": self.readout[1]}
        for layer, (kernels, biases) in enumerate(zip(self.kernels, self.biases, strict=True), 1):
            targets |= {f"layer{layer}/kernel": kernels, f"layer{layer}/bias": biases}
        for name, variable in targets.items():
            value = arrays.get(name)
            if value is None or not variable.shape.is_compatible_with(value.shape):
                shape = "nothing" if value is None else f"shape {value.shape}"
                raise RunError(f"{path} holds {shape} for {name}, expected {variable.shape}; begin anew with --restart")
            variable.assign(value)
        frozen = arrays.get("frozen")
        if frozen is None or frozen.shape != self.frozen.shape:
            raise RunError(f"{path} does not say which modules are frozen; begin anew with --restart")
        self.frozen = np.array(frozen, bool)


def check_parent(prepared: Prepared) -> None:
    """ModelError unless the run that gives the modules, if any, holds modules of the recipe's sizes."""
    recipe, parent = prepared.recipe, prepared.parent
    if parent is None:
        return
    options = parent.info["model"].get("options")
    if parent.model_name != "pathnet" or options is None:
        raise ModelError(f"--weights {recipe.model.weights} holds {parent.model_name}; a search starts from a run of a search")
    wanted = {key: getattr(recipe.tables["pathnet"], key) for key in SIZES}
    found = {**options, "width": parent.info["model"]["width"]}
    for key, value in {**wanted, "width": recipe.model.width}.items():
        if found.get(key) != value:
            table = "model" if key == "width" else "pathnet"
            raise ModelError(
                f"--weights {recipe.model.weights} was made with {key} = {found.get(key)!r}, this recipe has {value!r}; "
                f"add --set {table}.{key}={found.get(key)}"
            )
