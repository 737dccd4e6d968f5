"""What reading a file may still take of its `Limits`."""

from __future__ import annotations

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits


class Budget:
    """Counts the bytes and items that a reader is about to take, before it takes them.

    Example:
        >>> budget = Budget("net.mat", Limits(total_bytes=100))
        >>> budget.take(60, "layers")
        >>> budget.bytes_left
        40
    """

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.limits = limits
        self.bytes_left = limits.total_bytes
        self.items_left = limits.arrays

    def take(self, size: int, what: str) -> None:
        """Raises ModelError if `what`, of `size` bytes, is more than is left."""
        if size > self.bytes_left:
            raise ModelError(
                f"{self.name}: {what} has {size:,} bytes, with what was read before more than the "
                f"{self.limits.total_bytes:,} allowed of a file of its size; save it unpacked if you trust it"
            )
        self.bytes_left -= size

    def count(self, items: int = 1) -> None:
        """Raises ModelError if `items` more arrays, structures or texts are too many."""
        if items > self.items_left:
            raise ModelError(
                f"{self.name}: more than the {self.limits.arrays:,} arrays and structures allowed; raise the limit if you "
                "trust the file"
            )
        self.items_left -= items
