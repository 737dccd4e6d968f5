"""PyTorch's weight files, .pth and .pt: the zip of 1.6 and later, and the row of pickles before it, without PyTorch.

Source: `torch/serialization.py`. A zip has `<any>/data.pkl`, `<any>/data/<key>` for each storage and, from 2.1 on,
`<any>/byteorder`. The older form is five pickles (a magic number, the protocol, facts of the system, the object, the keys of
the storages) and then each storage: a count as int64 and the numbers, little-endian. Nothing of it is executed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.array_collector import Gathered
from emotiw_keras.formats.foreign import Foreign, Limits
from emotiw_keras.formats.pickle_arrays import Array, Context
from emotiw_keras.formats.pickle_ops import shown
from emotiw_keras.formats.pickles import load_pickle
from emotiw_keras.formats.protobuf import checked_name, map_file
from emotiw_keras.formats.torch_tensors import TORCH_NAMES, Order, Storage, Tensor, array_of_tensor, numbers, storage_of
from emotiw_keras.formats.wrapped_names import unwrapped
from emotiw_keras.formats.zipped import Zip

MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model", "net", "model_state", "params", "weights", "ema")
_NUMBERED_CLASSES = ("class_to_idx", "idx_to_class", "id2label", "label2id")
_CLASS_LISTS = ("classes", "class_names", "labels", "label_names", "categories")
_ASIDE = ("hyper_parameters", "meta", "dataset_meta", "config", "args")
"""Parts of a checkpoint that may name the classes: Lightning's, OpenMMLab's, and those of scripts."""
_DEPTH = 3
"""State dicts within each other that are looked for."""
_ADVICE = "save model.state_dict() with torch.save and give that file instead"

_Storages = Callable[[str], tuple[memoryview, Order]]
"""A storage's key -> its bytes and their order."""


def read_pytorch(path: Path, limits: Limits | None = None) -> Foreign:
    """Read a state dict, or a checkpoint that holds one under state_dict, model_state_dict, model, net, model_state, params,
    weights or ema; of several, the first of these, else the only one, whatever it is called.

    Names are the state dict's, in its order, without wrappers (see `wrapped_names`), but for layers with running statistics,
    which are batch normalisation: running_mean -> mean, running_var -> variance, weight -> gamma, bias -> beta. Kernels are
    (out, in, height, width), fully connected weights (out, in). float16 stays, bfloat16 becomes float32. `classes` are the
    names that the checkpoint has beside its tensors, if there is one for each output of the last layer.

    Raises:
        ModelError: the file is missing, damaged or too large, holds a whole pickled module, a TorchScript program or no
            tensors, or asks for anything to be called but what makes tensors.
    """
    bounds = limits or Limits()
    data = map_file(path, bounds)
    is_zip = bytes(data[:2]) == b"PK"
    root, storages = _read_zip(path, bounds) if is_zip else _read_legacy(data, Context(path.name, bounds))
    gathered = Gathered(path.name, bounds.of_file(len(data)))  # one stretch of numbers may be many tensors
    _gather(_state_dict(root, gathered), storages, gathered, Context(path.name, bounds))
    if not gathered.arrays:
        raise ModelError(f"{path.name} holds no tensors under names; {_ADVICE}")
    return Foreign(
        format=f"PyTorch state dict ({'zip' if is_zip else 'the form before 1.6'})",
        path=path,
        arrays=gathered.arrays,
        layout="oihw",
        ignored=gathered.ignored,
        classes=_class_names(root, _outputs(gathered.arrays)),
    )


class _Known:
    """The storages that the pickle has named; one key is always the same storage."""

    def __init__(self, context: Context) -> None:
        self.by_key: dict[str, tuple[str, int]] = {}
        self._context = context

    def __call__(self, identifier: Any) -> Storage:
        storage = storage_of(identifier, self._context)
        facts = (storage.kind, identifier[4])
        if self.by_key.setdefault(storage.key, facts) != facts:
            raise ModelError(f"{self._context.where}: two storages are called {shown(storage.key)}; fetch the file again")
        return storage


def _read_zip(path: Path, limits: Limits) -> tuple[Any, _Storages]:
    archive = Zip(path, limits)
    pickles = [name for name in archive.sizes if name == "data.pkl" or (name.endswith("/data.pkl") and name.count("/") == 1)]
    if len(pickles) != 1:
        raise ModelError(f"{path.name} is a zip with {len(pickles)} entries data.pkl, PyTorch's have one; {_ADVICE}")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in archive.sizes or any(name.startswith(f"{prefix}code/") for name in archive.sizes):
        raise ModelError(f"{path.name} is a TorchScript program, which would have to be run; {_ADVICE}")
    byteorder = f"{prefix}byteorder"
    order = bytes(archive.read(byteorder)) if byteorder in archive.sizes else b"little"
    if order not in (b"little", b"big"):
        raise ModelError(f"{path.name}: its byte order is {shown(order)}, expected little or big; fetch it again")
    context = Context(path.name, limits)
    known = _Known(context)
    root, _ = load_pickle(archive.read(pickles[0]), path.name, limits, names=TORCH_NAMES, persistent=known, advice=_ADVICE)
    read: dict[str, memoryview] = {}

    def storage(key: str) -> tuple[memoryview, Order]:
        if key not in read:
            name = f"{prefix}data/{key}"
            if name not in archive.sizes:
                raise ModelError(f"{path.name}: a tensor's storage {shown(key)} is not in it; fetch it again")
            kind, count = known.by_key[key]
            need = count * Storage(key, kind, count).itemsize
            if archive.sizes[name] != need:
                raise ModelError(f"{path.name}: storage {shown(key)} has {archive.sizes[name]:,} bytes, expected {need:,}")
            read[key] = archive.read(name)
        return read[key], "<" if order == b"little" else ">"

    return root, storage


def _read_legacy(data: memoryview, context: Context) -> tuple[Any, _Storages]:
    where, limits = context.where, context.limits
    magic, position = load_pickle(data, where, limits, advice=_ADVICE)
    if type(magic) is not int or magic != MAGIC:
        raise ModelError(f"{where} does not start with PyTorch's number; {_ADVICE}")
    protocol, position = load_pickle(data, where, limits, position=position)
    if type(protocol) is not int or protocol != _LEGACY_PROTOCOL:
        raise ModelError(f"{where} is of PyTorch's protocol {shown(protocol)}, expected {_LEGACY_PROTOCOL}; {_ADVICE}")
    _, position = load_pickle(data, where, limits, position=position)
    known = _Known(context)
    root, position = load_pickle(data, where, limits, position=position, names=TORCH_NAMES, persistent=known, advice=_ADVICE)
    keys, position = load_pickle(data, where, limits, position=position)
    if not isinstance(keys, list):
        raise ModelError(f"{where}: the keys of its storages are no list; the file is damaged, fetch it again")
    found: dict[str, memoryview] = {}
    for key in keys:
        if not isinstance(key, str) or key not in known.by_key or key in found:
            raise ModelError(
                f"{where}: it lists a storage twice, or one that no tensor has; the file is damaged, fetch it again"
            )
        kind, count = known.by_key[key]
        head = data[position : position + 8]
        size = count * Storage(key, kind, count).itemsize
        content = data[position + 8 : position + 8 + size]
        if len(head) < 8 or struct.unpack("<q", head)[0] != count or len(content) < size:
            raise ModelError(f"{where}: storage {shown(key)} of {count:,} numbers is cut off or damaged; fetch the file again")
        found[key] = content
        position += 8 + size

    def storage(key: str) -> tuple[memoryview, Order]:
        if key not in found:
            raise ModelError(f"{where}: a tensor's storage {shown(key)} is not in it; fetch the file again")
        return found[key], "<"

    return root, storage


def _state_dict(root: Any, gathered: Gathered) -> dict[Any, Any]:
    """The dict that has tensors as values: the object itself, or the part of a checkpoint that is named for it."""
    if not isinstance(root, dict):
        kind = "one tensor" if isinstance(root, Tensor) else f"a {type(root).__name__}"
        raise ModelError(f"{gathered.where} holds {kind}, expected names and their tensors; {_ADVICE}")
    state: dict[Any, Any] = root
    for _ in range(_DEPTH):
        inner = next((key for key in _CHECKPOINT_KEYS if isinstance(state.get(key), dict)), None) or _only_state(state)
        if inner is None:
            break
        for key, value in state.items():
            if key != inner:
                gathered.ignore(key, f"{_described(value)} beside the checkpoint's {shown(inner)}")
        state = state[inner]
    return state


def _only_state(part: dict[Any, Any]) -> str | None:
    """The key of the one dict in a dict that holds tensors under names, where it holds none itself."""
    if any(isinstance(value, Tensor) for value in part.values()):
        return None
    found = [
        key
        for key, value in part.items()
        if isinstance(key, str) and isinstance(value, dict) and any(isinstance(each, Tensor) for each in value.values())
    ]
    return found[0] if len(found) == 1 else None


def _outputs(arrays: Mapping[str, np.ndarray]) -> int:
    """Of the last layer."""
    last = list(arrays.values())[-1]
    return len(last) if last.ndim else 0


def _class_names(root: dict[Any, Any], outputs: int) -> tuple[str, ...] | None:
    """The names of the classes, in the order of the last layer's outputs, if the checkpoint has so many beside its tensors."""
    beside = [root, *(root[key] for key in (*_CHECKPOINT_KEYS, *_ASIDE) if isinstance(root.get(key), dict))]
    for part in beside:
        said = {key.lower(): value for key, value in part.items() if isinstance(key, str)}
        for key in (*_NUMBERED_CLASSES, *_CLASS_LISTS):
            names = _in_order(said.get(key))
            if len(names) == outputs > 1 and all(type(name) is str for name in names) and len(set(names)) == outputs:
                return tuple(names)
    return None


def _in_order(value: Any) -> list[Any]:
    """The names in a list, or in a dict of names and their numbers, whichever way round and also as text, as JSON has them
    ({"0": "angry"}); none of anything else, and none where names and numbers cannot be told apart."""
    if not isinstance(value, dict):
        return list(value) if isinstance(value, list | tuple) else []
    for pairs in ([*value.items()], [(number, name) for name, number in value.items()]):
        whole = all(type(number) is int for number, _ in pairs)
        numbers = [int(number) if _is_number(number) else -1 for number, _ in pairs]
        names = [name for _, name in pairs if type(name) is str and (whole or not _is_number(name))]
        if len(names) == len(pairs) and sorted(numbers) == list(range(len(pairs))):
            return [name for _, name in sorted(zip(numbers, names, strict=True))]
    return []


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is str and value.isascii() and value.isdecimal() and len(value) < 8)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return "a tensor"
    if isinstance(value, Array):
        return "a NumPy array"
    return "nothing" if value is None else f"of type {type(value).__name__}"


def _gather(state: dict[Any, Any], storages: _Storages, gathered: Gathered, context: Context) -> None:
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or not isinstance(key, str):
            gathered.ignore(key, f"{_described(value)}, expected a tensor under a name")
        else:
            tensors[checked_name(key, gathered.where)] = value
    tensors = {now: tensors[before] for before, now in unwrapped(tensors, gathered.ignore).items()}
    normalised = {key.removesuffix("running_mean") for key in tensors if key.rpartition(".")[2] == "running_mean"}
    for key, tensor in tensors.items():
        gathered.reserve(numbers(key, tensor, context))
        content, order = storages(tensor.storage.key)
        gathered.add(_name(key, normalised), array_of_tensor(tensor, content, order))


def _name(key: str, normalised: set[str]) -> str:
    _, _, what = key.rpartition(".")
    layer = key.removesuffix(what)
    if layer in normalised:
        roles = {"running_mean": "mean", "running_var": "variance", "weight": "gamma", "bias": "beta"}
        return layer + roles.get(what, what)
    return key
