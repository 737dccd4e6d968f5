"""Settings of the whole package."""

from __future__ import annotations

import os

from emotiw_keras.errors import UsageError

VARIABLE = "EMOTIW_FAST_KERNELS"
_fast: bool | None = None


def fast_kernels(on: bool | None = None) -> bool:
    """Whether layers, optimizers and predictions take the fast ways of `models.kernels`; with a value, from now on.

    Without them all is computed by Keras' and TensorFlow's own, with other rounding. It counts for what is built and traced
    afterwards: a function that TensorFlow has traced stays what it is.

    Args:
        on: None leaves it. Until it is set, $EMOTIW_FAST_KERNELS decides: 0 for off, 1 or nothing for on.

    Raises:
        UsageError: the variable holds another value.

    Example:
        >>> fast_kernels(False), fast_kernels(), fast_kernels(True)
        (False, False, True)
    """
    global _fast
    if on is not None:
        _fast = bool(on)
    if _fast is not None:
        return _fast
    given = os.environ.get(VARIABLE, "")
    if given not in ("", "0", "1"):
        raise UsageError(f"{VARIABLE} is {given!r}, expected 0 (off) or 1 (on)")
    return given != "0"
