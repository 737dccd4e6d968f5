"""Any weight file -> `Foreign`: the format is told by the content, and by the name only where the content has no mark."""

from __future__ import annotations

import importlib
from pathlib import Path

from emotiw_keras.errors import ModelError
from emotiw_keras.files import expanded
from emotiw_keras.formats.foreign import Foreign, Limits
from emotiw_keras.formats.zipped import Zip

# format -> (module in this package, function)
READERS = {
    "Caffe model": ("caffe", "read_caffemodel"),
    "Caffe mean image": ("caffe", "read_binaryproto"),
    "Caffe prototxt": ("caffe", "read_prototxt"),
    "ONNX": ("onnx", "read_onnx"),
    "MatConvNet": ("matconvnet", "read_matconvnet"),
    "PyTorch": ("pytorch", "read_pytorch"),
    "NumPy array": ("numpy_files", "read_npy"),
    "NumPy archive": ("numpy_files", "read_npz"),
    "pickled arrays": ("numpy_files", "read_pickle_dict"),
    "Keras HDF5": ("keras_h5", "read_keras_h5"),
    "Keras model": ("keras_h5", "read_keras_archive"),
    "safetensors": ("safe_tensors", "read_safetensors"),
    "safetensors index": ("safe_tensors", "read_index"),
}
SUFFIXES = {
    ".caffemodel": "Caffe model",
    ".binaryproto": "Caffe mean image",
    ".prototxt": "Caffe prototxt",
    ".onnx": "ONNX",
    ".pkl": "pickled arrays",
    ".pickle": "pickled arrays",
    ".pth": "PyTorch",
    ".pt": "PyTorch",
}
TORCH_MAGIC = bytes.fromhex("8a0a6cfc9c46f920 6aa85019".replace(" ", ""))
"""The number that starts a PyTorch file of before 1.6, as a pickle of protocol 2 writes it."""
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_DEFAULTS = Limits()


def sniff(path: Path, limits: Limits = _DEFAULTS) -> str:
    """The format of a file, a key of READERS. Raises ModelError if it is missing, empty or in none of them."""
    if not path.is_file():
        runs = "; it is a run folder, which --weights and --model take as it is"
        folder = "" if not path.is_dir() else runs if (path / "run.json").is_file() else "; it is a folder"
        raise ModelError(f"no weight file at {path}{folder}")
    try:
        with path.open("rb") as file:
            head = file.read(520)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise ModelError(f"{path.name} is empty (zero bytes); fetch it again")
    if head.startswith(b"\x93NUMPY"):
        return "NumPy array"
    if head.startswith(b"PK\x03\x04"):
        names = Zip(path, limits).sizes
        if {"config.json", "metadata.json"} <= names.keys():
            return "Keras model"
        pickled = any(name.rpartition("/")[2] == "data.pkl" for name in names)
        return "NumPy archive" if not pickled and any(name.endswith(".npy") for name in names) else "PyTorch"
    if head.startswith(b"MATLAB "):
        return "MatConvNet"
    if head.startswith(HDF5_MAGIC):
        return "Keras HDF5"
    if head[:1] == b"\x80" and head[2:14].startswith(TORCH_MAGIC):
        return "PyTorch"
    if path.name.lower().endswith(".safetensors.index.json"):
        return "safetensors index"
    if len(head) > 8 and head[8:9] == b"{" and path.suffix.lower() not in SUFFIXES:
        return "safetensors"
    known = SUFFIXES.get(path.suffix.lower())
    if known is None or (known == "PyTorch" and head[:1] != b"\x80"):
        if head.lstrip()[:1] == b"<":
            raise ModelError(f"{path.name} is a web page, not a weight file; fetch it again from the right address")
        formats = f"{', '.join(READERS)} ({', '.join(SUFFIXES)}, ...)"
        raise ModelError(f"{path.name} is in no known weight format; known are {formats}")
    return known


def read(path: str | Path, limits: Limits = _DEFAULTS) -> Foreign:
    """A weight file in any known format.

    Nothing in it is executed, and no more memory is taken than `limits` allows.

    Raises:
        ModelError: the file is missing, damaged, too large, or in no known format.
    """
    path = expanded(path)
    module, function = READERS[sniff(path, limits)]
    size = path.stat().st_size
    if size > limits.total_bytes:
        raise ModelError(f"{path.name} has {size:,} bytes, more than the {limits.total_bytes:,} allowed")
    return getattr(importlib.import_module(f"emotiw_keras.formats.{module}"), function)(path, limits)
