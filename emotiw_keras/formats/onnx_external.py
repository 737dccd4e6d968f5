"""Arrays that an ONNX model keeps in a second file beside it, as exporters write `net.onnx.data` beside `net.onnx`.

Source: `TensorProto.external_data` of `onnx.proto`: location (a path relative to the model's folder), offset, length.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.beside import within_folder
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.protobuf import map_file

_ADVICE = "put that file beside it, or export the model as one file (torch.onnx.export(..., external_data=False))"


class ExternalFiles:
    """The files beside a model, mapped as they are asked for.

    Only files within the model's own folder are opened, whatever a location says and wherever links lead, and all of them
    together have no more bytes than the limits allow.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._open: dict[str, memoryview] = {}

    def read(self, name: str, entries: Mapping[str, str], size: int) -> memoryview:
        """The `size` bytes of the array `name`, whose external_data is `entries`.

        Raises:
            ModelError: the file lies elsewhere, is missing or too large, or does not hold so many bytes there.
        """
        location = entries.get("location", "")
        numbers = {key: entries.get(key, "0") for key in ("offset", "length")}
        if not all(text.isdecimal() and len(text) < 20 for text in numbers.values()):
            raise ModelError(f"{self._path.name}: {name} has a damaged place in {location[:80]!r}; fetch it again")
        start, length = int(numbers["offset"]), int(numbers["length"]) or size
        if length != size:
            raise ModelError(f"{self._path.name}: {name} has {length:,} bytes in {location[:80]}, its shape {size:,}")
        data = self._file(location, name)
        if start + size > len(data):
            raise ModelError(
                f"{self._path.name}: {name} lies behind the end of {location}, which has {len(data):,} bytes; the two files "
                "do not belong together, fetch both again"
            )
        return data[start : start + size]

    def _file(self, location: str, name: str) -> memoryview:
        if location in self._open:
            return self._open[location]
        if len(self._open) >= self._limits.arrays:
            raise ModelError(f"{self._path.name} keeps its arrays in more than {self._limits.arrays:,} files")
        found = within_folder(self._path, location, f"keeps {name} in {location[:80]!r}", _ADVICE)
        data = map_file(found, self._limits)
        total, allowed = len(data) + sum(map(len, self._open.values())), self._limits.total_bytes
        if total > allowed:
            raise ModelError(f"{self._path.name}: the files beside it have {total:,} bytes, more than the {allowed:,} allowed")
        self._open[location] = data
        return data
