"""What a reader of foreign weight files returns: named arrays and, where the file holds it, the computation they belong to."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emotiw_keras.errors import ModelError

Layout = Literal["oihw", "hwio"]
FACTS = "emotiw"
"""Key of an ONNX file's metadata under which `emotiw export` says labels, input and preprocessing."""

OPS = (
    "conv",  # arrays weight[, bias]; stride (h, w), pad (top, bottom, left, right), groups, dilation (h, w)
    "fc",  # arrays weight[, bias]; flattens (channels, height, width) in this order first; rank: the axes it must get, if given
    "relu",  # slope: of the negative side, 0.0
    "prelu",  # arrays slope
    "lrn",  # size, alpha, beta, k: x / (k + alpha / size * sum over `size` channels of x^2) ** beta, as Caffe and ONNX have it
    "max_pool",  # size (h, w), stride (h, w), pad (top, bottom, left, right), rounding "floor" or "ceil"
    "mean_pool",  # the same, and count_pad: zeros of the padding count in the mean
    "global_max",
    "global_mean",
    "batch_norm",  # arrays mean, variance[, factor]: both are divided by the factor; epsilon
    "scale",  # arrays gamma[, beta], one for each channel
    "add",
    "axpy",  # inputs a, x, y: a * x + y, a having one value for each channel
    "concat",  # axis
    "softmax",  # axis; log: its logarithm
    "sigmoid",
    "flatten",
    "reshape",  # shape: 0 keeps a size, -1 is what remains
    "identity",  # dropout at test time, split
    "tensor",  # type: an operator of ONNX on tensors of any shape, its settings, and constants; see `reference_tensors`
    "if",  # then and else: (nodes, the tensor that the branch gives), for a first input of one value
    "unsupported",  # type: the file's word for it
)
"""The kinds of `Node` and their attributes; axes are those of (batch, channels, height, width)."""


BOMB_FROM, BOMB_RATIO = 1 << 30, 200
"""A file that unpacks to more bytes than this, and to more times its size, is a trap: weights do not pack so well."""


@dataclass(frozen=True)
class Limits:
    """Bounds that a reader checks before it takes memory."""

    total_bytes: int = 4 << 30
    """Of the file, and of all its arrays together."""
    arrays: int = 100_000
    """Arrays, layers and nodes, each."""

    def __post_init__(self) -> None:
        if self.total_bytes < 1 or self.arrays < 1:
            raise ValueError(f"limits must be positive, got {self.total_bytes} bytes and {self.arrays} arrays")

    def of_file(self, size: int) -> Limits:
        """The limits of what a packed file of `size` bytes unpacks to; see BOMB_FROM."""
        return replace(self, total_bytes=min(self.total_bytes, max(BOMB_FROM, BOMB_RATIO * size)))


@dataclass(frozen=True)
class Node:
    """One step of a foreign network: `op` (see OPS) of `inputs` to `outputs`, which are names of tensors.

    `arrays` are keys of `Foreign.arrays`, in the order that OPS gives. Batch statistics that are followed by a scale are
    two nodes where the file has two layers.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arrays: tuple[str, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Images:
    """How a layer that feeds a network says that it prepares images of 0..255: less `mean`, for all channels or for each, or
    less the mean image of a file, and then times `scale`.

    Example:
        >>> str(Images(scale=0.5, mean=(127.5,)))
        '(0..255 less 127.5) times 0.5'
    """

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    mean_file: str = ""

    def __str__(self) -> str:
        less = ", ".join(f"{value:g}" for value in self.mean) if len(self.mean) <= 4 else f"{len(self.mean)} values"
        less = less or (f"the mean image {self.mean_file}" if self.mean_file else "")
        text = f"0..255 less {less}" if less else "0..255"
        return text if self.scale == 1 else f"({text}) times {self.scale:g}"


@dataclass
class Foreign:
    """A weight file as it was read. Arrays are as stored; nothing is transposed, scaled or left out unsaid."""

    format: str
    """In words, e.g. "Caffe model (V1 layers)"."""
    path: Path
    arrays: dict[str, np.ndarray]
    """`<layer>.<what>`, what being weight, bias, mean, variance, factor, gamma, beta or slope, or the file's own key."""
    layout: Layout | None = None
    """"oihw": kernels (out, in, height, width), fc (out, in) over flattened (channels, height, width), as in Caffe, PyTorch,
    ONNX. "hwio": kernels (height, width, in, out), fc (in, out) over flattened (height, width, channels), as in Keras and
    MatConvNet. None: the format does not say."""
    flattening_open: bool = False
    """Whether the first fully connected layer may follow the other order all the same."""
    nodes: tuple[Node, ...] | None = None
    """The computation in order, without what only training needs; None where the format holds none."""
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Input tensors and their shapes (batch, channels, height, width) where declared; unknown sizes are 0."""
    channel_order: Literal["rgb", "bgr"] | None = None
    """Where the file or the format says so."""
    mean: np.ndarray | None = None
    """float32 (height, width, channels) mean image or (channels,) mean pixel, 0..255, in `channel_order`, if there is one."""
    images: tuple[Images, ...] = ()
    """How the file says that images are prepared; of several, which contradict each other, each once."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Layers and arrays that are not among the above -> why."""
    description: str = ""
    """The JSON text in which a Keras file describes its layers, if it does; see `conversion.described`."""
    rescales: tuple[str, ...] = ()
    """Layers that rescale or normalise the images, as far as a file without a graph names them; no array holds what they do."""
    classes: tuple[str, ...] | None = None
    """Names of the outputs, if the file holds them."""
    exported: bool = False
    """Whether `emotiw export` wrote it."""


def beyond_float32(array: np.ndarray) -> float | None:
    """A value that float32 cannot hold, if there is one: not a number, infinite or too large.

    Example:
        >>> beyond_float32(np.array([1.0, -1e300]))
        -1e+300
    """
    if not array.size:
        return None
    ends = float(array.min()), float(array.max())
    return next((value for value in ends if not abs(value) <= float(np.finfo(np.float32).max)), None)


def check_floats(file: str, layer: str, array: np.ndarray) -> None:
    """Raise ModelError unless these are floating-point numbers that float32 can hold."""
    if array.dtype.kind != "f":
        raise ModelError(f"{file} holds {array.dtype} in layer {layer}, expected floating-point numbers; save it as float32")
    if beyond_float32(array) is not None:  # infinite once it is float32
        raise ModelError(f"{file} holds nan or infinite numbers in layer {layer}; train or fetch it anew")


def release_pages(array: np.ndarray) -> None:
    """Let the pages of the mapped file behind `array`, if there is one, leave memory; reading them brings them back."""
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    owner = base.obj if isinstance(base, memoryview) else base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
