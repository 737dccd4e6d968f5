"""Bounds and fits that every step of `reference` is held to."""

from __future__ import annotations

import math

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Node

LARGEST_TENSOR = 1 << 28
"""Bytes of one tensor; a net of strangers could ask for any size."""


def fits(condition: bool, node: Node, x: np.ndarray, what: str) -> None:
    """ModelError unless what reaches the node fits."""
    if not condition:
        raise ModelError(f"layer {node.name} ({node.op}) gets {'x'.join(map(str, x.shape))}, which does not fit {what}")


def bounded(node: Node, *sizes: int) -> None:
    """ModelError if float32 of these sizes are more than LARGEST_TENSOR."""
    if math.prod(sizes) * 4 > LARGEST_TENSOR:
        raise ModelError(
            f"layer {node.name} ({node.op}) would make {math.prod(sizes) * 4:,} bytes, more than the {LARGEST_TENSOR:,} allowed"
        )
