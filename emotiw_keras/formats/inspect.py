"""What a foreign file holds, as plain data and as a table to read."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotiw_keras.formats.foreign import Foreign, Node

_NUMBERS_SHOWN = 16


def describe(foreign: Foreign) -> dict[str, Any]:
    """The contents of a file without its values, ready for JSON."""
    return {
        "file": foreign.path.name,
        "format": foreign.format,
        "layout": foreign.layout,
        "channel_order": foreign.channel_order,
        "inputs": {name: list(shape) for name, shape in foreign.inputs.items()},
        "mean": None if foreign.mean is None else list(foreign.mean.shape),
        "images": [str(each) for each in foreign.images],
        "classes": len(foreign.classes) if foreign.classes else None,
        "values": sum(array.size for array in foreign.arrays.values()),
        "arrays": [
            {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)} for name, array in foreign.arrays.items()
        ],
        "nodes": None
        if foreign.nodes is None
        else [
            {"op": node.op, "name": node.name, "inputs": list(node.inputs), "outputs": list(node.outputs)}
            | {"arrays": list(node.arrays), "attributes": {key: _plain(value) for key, value in node.attrs.items()}}
            for node in foreign.nodes
        ],
        "ignored": foreign.ignored,
    }


def _plain(value: Any) -> Any:
    """A setting as JSON can have it: of arrays the numbers, of many their shape, of nodes their kind."""
    if isinstance(value, Node):
        return value.attrs.get("type", value.op)
    if isinstance(value, np.ndarray):
        return value.tolist() if value.size <= _NUMBERS_SHOWN else f"{'x'.join(map(str, value.shape))} {value.dtype}"
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def table(foreign: Foreign) -> list[str]:
    """The contents of a file as lines of aligned columns: layers in order where the file holds them, else arrays."""
    facts = describe(foreign)
    order = f"channels {foreign.channel_order.upper()}" if foreign.channel_order else "channel order not stated"
    megabytes = sum(array.nbytes for array in foreign.arrays.values()) / 1e6
    inputs = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in foreign.inputs.items())
    lines = [
        f"{foreign.path.name}: {foreign.format}, {len(foreign.arrays)} arrays, {facts['values']:,} values, {megabytes:.1f} MB",
        f"kernels {foreign.layout or 'of unstated layout'}, {order}" + (f", input {inputs}" if inputs else ""),
    ]
    if foreign.mean is not None:
        lines.append(f"mean {'x'.join(map(str, foreign.mean.shape))}, average {foreign.mean.mean():.3f}")
    lines += [f"images {each}" for each in foreign.images]
    rows = [("layer", "kind", "arrays", "settings")]
    placed: set[str] = set()
    for node in foreign.nodes or ():
        rows.append((node.name, node.op, _shapes(foreign, node.arrays), _settings(node)))
        placed.update(node.arrays)
    for name, array in foreign.arrays.items():
        if name not in placed:
            rows.append((name, "array", f"{'x'.join(map(str, array.shape)) or 'one value'} {array.dtype}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines += ["  ".join((*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3])).rstrip() for row in rows]
    lines += [f"ignored {what}: {why}" for what, why in foreign.ignored.items()]
    return lines


def _shapes(foreign: Foreign, names: tuple[str, ...]) -> str:
    shapes = ("x".join(map(str, foreign.arrays[name].shape)) if name in foreign.arrays else "missing" for name in names)
    return ", ".join(shapes)


def _settings(node: Node) -> str:
    def word(value: Any) -> str:
        if isinstance(value, list):
            return word(value[0]) if len(set(map(str, value))) == 1 else "/".join(map(word, value))
        return f"{value:g}" if isinstance(value, float) else str(value)

    return " ".join(f"{key}={word(_plain(value))}" for key, value in node.attrs.items())
