"""safetensors files: the library's own are read without a copy, damaged ones refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.safe_tensors import read_safetensors

RANDOM = np.random.default_rng(5)


def write(path: Path, header: dict[str, Any] | bytes, body: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


def test_as_the_library_wrote_it(tmp_path: Path) -> None:
    arrays = {f"layer.{t}": RANDOM.integers(0, 9, (3, 2, 4)).astype(t) for t in "?bBhHiIqQefd"}
    arrays |= {"conv1.weight": RANDOM.normal(size=(4, 3, 5, 5)), "scalar": np.array(2.5), "empty": np.zeros((0, 3), np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors", metadata={"format": "pt"})
    foreign = read_safetensors(tmp_path / "a.safetensors")
    assert foreign.layout is None and foreign.nodes is None and set(foreign.arrays) == set(arrays)
    assert foreign.ignored == {"__metadata__": "words about the file"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(foreign.arrays[name].ravel(), array.ravel())
        assert foreign.arrays[name].dtype == array.dtype
    assert foreign.arrays["conv1.weight"].shape == (4, 3, 5, 5) and foreign.arrays["scalar"].shape == ()


def test_bfloat16_and_types_numpy_has_not(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3e38, 0.0078125], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    header = {
        "half": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
        "tiny": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [8, 12]},
    }
    foreign = read_safetensors(write(tmp_path / "a.safetensors", header, bits.tobytes() + bytes(4)))
    expected = (bits.astype(np.uint32) << 16).view(np.float32).reshape(2, 2)
    np.testing.assert_array_equal(foreign.arrays["half"], expected)
    assert foreign.arrays["half"].dtype == np.float32 and np.allclose(expected.ravel(), values, rtol=1e-2)
    assert foreign.ignored == {"tiny": "numbers of the type F8_E4M3, which NumPy has not"}


def one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    ("header", "body", "length"),
    [
        (one(), bytes(8), 1 << 62),
        (one(), bytes(8), 99_999),
        (one(), bytes(7), None),
        (one(), bytes(9), None),
        (one(shape=[1 << 40]), bytes(8), None),
        (one(shape=[-2]), bytes(8), None),
        (one(data_offsets=[8, 0]), bytes(8), None),
        (one(data_offsets=[0, 1 << 63]), bytes(8), None),
        (one(dtype="F31"), bytes(8), None),
        (one(shape=[1] * 70 + [2]), bytes(8), None),
        ({"a": [1, 2]}, bytes(8), None),
        (one() | {"b": one()["a"]}, bytes(8), None),
        ({"a\x7f": one()["a"]}, bytes(8), None),
        (b"[" * 100_000, b"", None),
        (b'{"a": ' * 50_000, b"", None),
        (b"{} \xff", b"", None),
        (b"[]", b"", None),
        (b"", b"", None),
    ],
)
def test_traps(tmp_path: Path, header: dict[str, Any] | bytes, body: bytes, length: int | None) -> None:
    path = write(tmp_path / "a.safetensors", header, body, length)
    with pytest.raises(ModelError) as caught:
        read_safetensors(path)
    assert "\n" not in str(caught.value)


def test_truncation(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": RANDOM.normal(size=(8, 8)), "b": np.zeros(3)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for part in range(37):
        (tmp_path / "cut").write_bytes(whole[: len(whole) * part // 37])
        with pytest.raises(ModelError):
            read_safetensors(tmp_path / "cut")
    with pytest.raises(ModelError, match="missing"):
        read_safetensors(tmp_path / "none")


def test_flipped_bytes(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": RANDOM.normal(size=(2, 2)), "b": np.zeros(3)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    errors = 0
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[int(RANDOM.integers(120))] = int(RANDOM.integers(256))
        (tmp_path / "flipped").write_bytes(damaged)
        try:
            read_safetensors(tmp_path / "flipped")
        except ModelError as error:
            errors += 1
            assert "\n" not in str(error)
    assert errors > 100


def test_limits(tmp_path: Path) -> None:
    safetensors.numpy.save_file({f"a{i}": np.zeros(64) for i in range(9)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="2,000 allowed"):
        read_safetensors(tmp_path / "a.safetensors", Limits(total_bytes=2000))
    with pytest.raises(ModelError, match="more than the 8 arrays"):
        read_safetensors(tmp_path / "a.safetensors", Limits(arrays=8))
