"""The layers of a Caffe network, the same from its binary and its text form and from all three versions of the format.

Source: Caffe's `upgrade_proto.cpp` for what versions 0 and 1 mean in version 2, `net.cpp` for which layers the test phase has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.caffe_schema import (
    LAYER,
    NET,
    PARAMS,
    RULE,
    SHAPE,
    TRANSFORMATION,
    V0_LAYER,
    V0_TYPES,
    V1_LAYER,
    V1_TYPES,
)
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.protobuf import Message, Schema, last

_V0_SETTINGS = {
    "num_output": "num_output",
    "biasterm": "bias_term",
    "pad": "pad",
    "kernelsize": "kernel_size",
    "group": "group",
    "stride": "stride",
    "pool": "pool",
    "local_size": "local_size",
    "alpha": "alpha",
    "beta": "beta",
    "k": "k",
    "concat_dim": "concat_dim",
    "scale": "scale",
    "meanfile": "mean_file",
}


class Decoder(Protocol):
    """Turns what one message is made of, bytes or parsed text, into its fields."""

    where: str

    def decode(self, message: Any, schema: Schema) -> Message: ...


@dataclass
class Layer:
    """One layer: `type` in the words of version 2, `settings` the fields of the message of its type, `blobs` undecoded."""

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    settings: Message = field(default_factory=dict)
    blobs: list[Any] = field(default_factory=list)
    dropped: str | None = None
    """Why the test phase does not have it."""


@dataclass
class Network:
    """The layers in order, the declared inputs and their shapes, and the version of the format (0, 1 or 2)."""

    layers: list[Layer]
    inputs: dict[str, tuple[int, ...]]
    version: int
    ignored: dict[str, str] = field(default_factory=dict)


def read_network(decoder: Decoder, message: Any, limits: Limits) -> Network:
    """The layers of a NetParameter.

    Raises:
        ModelError: no layers, more than allowed, or a message that is damaged.
    """
    net = decoder.decode(message, NET)
    old, new = net.get("layers", []), net.get("layer", [])
    if not old and not new:
        raise ModelError(f"{decoder.where}: a network without layers; expected a Caffe network")
    if len(old) + len(new) > limits.arrays:
        raise ModelError(f"{decoder.where} has {len(old) + len(new):,} layers, more than the {limits.arrays:,} allowed")
    ignored = {}
    if old:
        layers, version = _old_layers(decoder, old)
        if new:
            ignored["layer"] = f"{len(new)} layers of version 2 beside those of version 1, which Caffe takes"
    else:
        layers, version = [_layer(decoder, decoder.decode(part, LAYER)) for part in new], 2
    blobs = sum(len(layer.blobs) for layer in layers)
    if blobs > limits.arrays:
        raise ModelError(f"{decoder.where} has {blobs:,} arrays, more than the {limits.arrays:,} allowed")
    return Network(layers, _inputs(decoder, net, layers), version, ignored)


def _layer(decoder: Decoder, fields: Message) -> Layer:
    kind = last(fields, "type", "")
    layer = Layer(
        name=last(fields, "name", ""),
        type=V1_TYPES.get(kind, kind),
        bottoms=tuple(fields.get("bottom", ())),
        tops=tuple(fields.get("top", ())),
        blobs=fields.get("blobs", []),
        dropped=_dropped(decoder, fields),
    )
    for param, table in (PARAMS.get(layer.type, ("", {})), ("transform_param", TRANSFORMATION)):
        for part in fields.get(param, ()):
            for key, values in decoder.decode(part, table).items():
                layer.settings.setdefault(key, []).extend(values)
    if layer.type == "Reshape":
        layer.settings["shape"] = list(_shape(decoder, layer.settings.get("shape", [])))
    return layer


def _dropped(decoder: Decoder, fields: Message) -> str | None:
    includes = [decoder.decode(part, RULE) for part in fields.get("include", ())]
    excludes = [decoder.decode(part, RULE) for part in fields.get("exclude", ())]
    if includes and not any(_meets(rule) for rule in includes):
        phases = sorted({last(rule, "phase") for rule in includes if "phase" in rule})
        return f"only for the phase {phases[0]}" if phases == ["TRAIN"] else "not included at test time"
    return "excluded at test time" if any(_meets(rule) for rule in excludes) else None


def _meets(rule: Message) -> bool:
    """Whether the plain test phase, level 0 and no stages, is what the rule asks for."""
    return (
        last(rule, "phase", "TEST") == "TEST"
        and last(rule, "min_level", 0) <= 0 <= last(rule, "max_level", 0)
        and not rule.get("stage")
    )


def _old_layers(decoder: Decoder, messages: list[Any]) -> tuple[list[Layer], int]:
    layers, version = [], 1
    pads: dict[str, tuple[int, str]] = {}
    for message in messages:
        outer = decoder.decode(message, V1_LAYER)
        layer = _layer(decoder, outer)
        if "layer" not in outer:
            layers.append(layer)
            continue
        version = 0
        fields: Message = {}
        for part in outer["layer"]:
            for key, values in decoder.decode(part, V0_LAYER).items():
                fields.setdefault(key, []).extend(values)
        layer.name, layer.blobs = last(fields, "name", ""), fields.get("blobs", [])
        kind = last(fields, "type", "")
        if kind == "padding":
            if len(layer.bottoms) != 1 or len(layer.tops) != 1:
                raise ModelError(f"{decoder.where}: padding layer {layer.name} has not one input and one output")
            pads[layer.tops[0]] = (last(fields, "pad", 0), layer.bottoms[0])
            continue
        layer.type = V0_TYPES.get(kind, kind)
        layer.settings = {new: fields[old][-1:] for old, new in _V0_SETTINGS.items() if old in fields}
        _take_padding(decoder, layer, pads)
        layers.append(layer)
    return layers, version


def _take_padding(decoder: Decoder, layer: Layer, pads: dict[str, tuple[int, str]]) -> None:
    """Version 0 pads in a layer of its own; later ones in the convolution or pooling that follows it."""
    if any(name in pads for name in layer.bottoms):
        if layer.type not in ("Convolution", "Pooling") or len(layer.bottoms) != 1:
            raise ModelError(f"{decoder.where}: a padding layer before {layer.name} ({layer.type}), expected a convolution")
        pad, source = pads[layer.bottoms[0]]
        layer.settings["pad"], layer.bottoms = [pad], (source,)
    for name in layer.tops:
        pads.pop(name, None)


def _inputs(decoder: Decoder, net: Message, layers: list[Layer]) -> dict[str, tuple[int, ...]]:
    names = net.get("input", [])
    shapes = [_shape(decoder, [part]) for part in net.get("input_shape", ())]
    dims = net.get("input_dim", [])
    if not shapes:
        shapes = [tuple(dims[i : i + 4]) for i in range(0, len(dims), 4)]
    if shapes and len(shapes) != len(names) or dims and len(dims) % 4:
        raise ModelError(f"{decoder.where}: {len(shapes)} shapes for {len(names)} inputs, expected one each")
    inputs = {name: shapes[i] if shapes else (0, 0, 0, 0) for i, name in enumerate(names)}
    for layer in layers:
        if layer.type == "Input" and layer.dropped is None:
            shapes = [_shape(decoder, [part]) for part in layer.settings.get("shape", ())]
            if len(shapes) not in (0, 1, len(layer.tops)):
                raise ModelError(f"{decoder.where}: layer {layer.name} has {len(shapes)} shapes for {len(layer.tops)} outputs")
            for i, name in enumerate(layer.tops):
                inputs[name] = shapes[i % len(shapes)] if shapes else (0, 0, 0, 0)
    for name, shape in inputs.items():
        if any(not 0 <= size < 1 << 31 for size in shape) or len(shape) > 8:
            raise ModelError(f"{decoder.where}: input {name} has the shape {shape[:8]}, expected up to 8 sizes of 0 or more")
    return inputs


def _shape(decoder: Decoder, parts: list[Any]) -> tuple[int, ...]:
    return tuple(size for part in parts for size in decoder.decode(part, SHAPE).get("dim", ()))
