"""A finished network with its kernels in the type that it computes in: they need not be cast for every batch."""

from __future__ import annotations

import keras

from emotiw_keras import config
from emotiw_keras.models.normalisations import LINEAR
from emotiw_keras.models.parts import empty_networks


def narrow_kernels(net: keras.Model) -> keras.Model:
    """The same network with the variables of convolutions and Dense layers of the type these compute in.

    Under a policy such as "mixed_bfloat16" a layer casts its float32 kernel whenever it is called: with AlexNet two thirds of
    the time that a single face takes. Layers that take the network's input stay as they are: `grey_twin` sums their kernels in
    float32.

    Args:
        net: a functional network, each of its layers called once, that will not be trained; left as it is.

    Returns:
        A copy with the same outputs, bit for bit, whose layers keep their names; or `net` itself where all kernels are of the
        type that they are computed in, or fast kernels are switched off.

    Example:
        >>> x = keras.Input((4,))
        >>> hidden = keras.layers.Dense(4, dtype="mixed_bfloat16", name="fc6")(x)
        >>> net = keras.Model(x, keras.layers.Dense(4, dtype="mixed_bfloat16", name="fc7")(hidden))
        >>> [layer.kernel.dtype for layer in narrow_kernels(net).layers[1:]]
        ['float32', 'bfloat16']
    """
    inputs = [id(tensor) for tensor in net.inputs]
    narrower = {
        layer.name
        for layer in net.layers
        if isinstance(layer, LINEAR)
        and layer.compute_dtype != layer.variable_dtype
        and layer.quantization_mode is None
        and not layer.lora_enabled
        and not any(id(tensor) in inputs for tensor in keras.tree.flatten(layer.input))
    }
    if not narrower or not config.fast_kernels():
        return net

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        return type(layer).from_config({**config, "dtype": layer.compute_dtype} if layer.name in narrower else config)

    with empty_networks():
        copy = keras.models.clone_model(net, clone_function=clone)
    # An unnamed `keras.Input` gets another name in the copy; it has no weights to find by it.
    for layer in filter(lambda layer: layer.weights, net.layers):
        for new, old in zip(copy.get_layer(layer.name).weights, layer.weights, strict=True):
            new.assign(old.value)
    return copy
