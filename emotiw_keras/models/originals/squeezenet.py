"""SqueezeNet v1.0 and v1.1: their sizes, and the released networks."""

from __future__ import annotations

from typing import NamedTuple

from emotiw_keras.formats.foreign import Node


class Version(NamedTuple):
    conv1: tuple[int, int]
    """Channels, and the side of the kernel."""
    smallest: int
    """The smallest image it takes: every pooling needs three rows."""
    pools: tuple[int, ...]
    """Numbers of the layers before a pooling; conv1 is 1."""
    border: int
    """Zeros around conv10. The released v1.0 has them although its kernel is 1x1: they count in the mean."""


NETWORKS = {
    "squeezenet": Version((96, 7), 29, (1, 4, 8), 1),
    "squeezenet_v1_1": Version((64, 3), 25, (1, 3, 5), 0),
}
# Channels of the squeeze convolution, and of each expand convolution.
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}


def original(name: str) -> tuple[Node, ...]:
    """The network `name` in Caffe's terms, from the tensor "data" to "prob", as its authors' deploy.prototxt has it.

    Arrays are `<our layer name>.weight` (out, in, height, width) and `.bias` (out,).

    Sources: forresti/SqueezeNet `SqueezeNet_v1.0/deploy.prototxt` and
    `SqueezeNet_v1.1/deploy.prototxt`.

    Example:
        >>> [node.name for node in original("squeezenet")][:3]
        ['conv1', 'relu_conv1', 'pool1']
    """
    (_, _), _, pools, border = NETWORKS[name]
    nodes: list[Node] = []

    def conv(layer: str, source: str, stride: int = 1, pad: int = 0) -> str:
        attrs = {"stride": (stride, stride), "pad": (pad,) * 4, "groups": 1, "dilation": (1, 1)}
        nodes.append(Node("conv", layer, (source,), (layer,), (f"{layer}.weight", f"{layer}.bias"), attrs))
        nodes.append(Node("relu", f"relu_{layer}", (layer,), (layer,), (), {"slope": 0.0}))
        return layer

    def pool(number: int, source: str) -> str:
        attrs = {"size": (3, 3), "stride": (2, 2), "pad": (0, 0, 0, 0), "rounding": "ceil"}
        nodes.append(Node("max_pool", f"pool{number}", (source,), (f"pool{number}",), (), attrs))
        return f"pool{number}"

    x = pool(1, conv("conv1", "data", stride=2))
    for n in FIRES:
        squeezed = conv(f"fire{n}_squeeze1x1", x)
        parts = (conv(f"fire{n}_expand1x1", squeezed), conv(f"fire{n}_expand3x3", squeezed, pad=1))
        x = f"fire{n}_concat"
        nodes.append(Node("concat", x, parts, (x,), (), {"axis": 1}))
        if n in pools:
            x = pool(n, x)
    nodes.append(Node("identity", "drop9", (x,), ("drop9",)))
    x = conv("conv10", "drop9", pad=border)
    nodes.append(Node("global_mean", "pool10", (x,), ("pool10",)))
    nodes.append(Node("softmax", "prob", ("pool10",), ("prob",), (), {"axis": 1}))
    return tuple(nodes)
