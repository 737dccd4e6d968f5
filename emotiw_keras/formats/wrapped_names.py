"""Names of arrays as training code leaves them -> those of the network alone.

Wrappers put their own name around a network's: DataParallel and SWA's AveragedModel `module.`, torch.compile `_orig_mod.`,
Lightning and other training code `model.` and the like. TensorFlow's converters call kernels weights and join names by slashes
or underscores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

_INSIDE = ("module", "_orig_mod")
"""Wrappers that may stand around a part of a network, as DataParallel around AlexNet's features."""
_AROUND = ("module", "_orig_mod", "model", "backbone", "encoder", "net", "network", "trunk")
_DEPTH = 16
"""Wrappers around each other that are taken off; each takes a look at all names."""
COUNTERS = {
    "num_batches_tracked": "counts the steps of training",
    "n_averaged": "counts the averaged networks",
}
"""Last parts of names that are no weights, and why."""
_ROLES = {
    "weights": "weight",
    "kernel": "weight",
    "W": "weight",
    "w": "weight",
    "biases": "bias",
    "b": "bias",
    "scale": "gamma",
    "offset": "beta",
    "moving_mean": "mean",
    "moving_variance": "variance",
    "var": "variance",
}
_JOINED = ("weights", "weight", "kernel", "biases", "bias", "W", "w", "b")
"""Words that an underscore may join to a layer's name; before others, as in running_var, it is a part of the word."""
_ROLE = re.compile(rf"(.+?)(?:[./]({'|'.join((*_ROLES, 'weight', 'bias'))})|_({'|'.join(_JOINED)}))(?::0)?")


def unwrapped(names: Collection[str], ignore: Callable[[str, str], None]) -> dict[str, str]:
    """Names in the file -> names without wrappers, in the same order; `ignore(what, why)` is told what goes.

    A wrapper around a part of a name goes wherever it stands. One around all goes where most names start with it, so that what
    stands beside the network keeps its own name. Nothing goes where two names would become one.

    Example:
        >>> unwrapped(["module.model.conv1.weight", "n_averaged"], lambda what, why: None)
        {'module.model.conv1.weight': 'conv1.weight'}
    """
    found = {}
    for name in names:
        why = COUNTERS.get(name.rpartition(".")[2])
        if why is None:
            found[name] = name
        else:
            ignore(name, why)
    inside = {name: ".".join(part for part in name.split(".") if part not in _INSIDE) for name in found}
    if inside != found and _distinct(inside.values()):
        changed = [name for name in found if inside[name] != name]
        word = next(part for part in changed[0].split(".") if part in _INSIDE)
        ignore(f"{word}.", f"a wrapper's part of {len(changed)} names, the first {changed[0]}")
        found = inside
    for _ in range(_DEPTH):
        prefix = next((f"{word}." for word in _AROUND if 2 * _starting(found.values(), f"{word}.") > len(found)), None)
        if prefix is None:
            return found
        shorter = {name: now.removeprefix(prefix) for name, now in found.items()}
        if not _distinct(shorter.values()):
            return found
        ignore(prefix, f"a wrapper's prefix, taken off {_starting(found.values(), prefix)} names")
        found = shorter
    return found


def _starting(names: Iterable[str], prefix: str) -> int:
    return sum(name.startswith(prefix) and len(name) > len(prefix) for name in names)


def _distinct(names: Collection[str]) -> bool:
    return len(set(names)) == len(names) and all(names)


def plain_roles(names: Iterable[str]) -> dict[str, str]:
    """Names in a dictionary of arrays -> `<layer>.weight`, `.bias`, `.gamma`, ..., where they say so in other words.

    Example:
        >>> plain_roles(["conv1.weights", "conv1/biases:0", "fc6_W", "fc7.weight"]).values()
        dict_values(['conv1.weight', 'conv1.bias', 'fc6.weight', 'fc7.weight'])
    """
    listed = list(names)
    found = {}
    for name in listed:
        match = _ROLE.fullmatch(name)
        role = (match[2] or match[3]) if match else ""
        found[name] = f"{match[1]}.{_ROLES.get(role, role)}" if match else name
    return found if _distinct(found.values()) else {name: name for name in listed}
