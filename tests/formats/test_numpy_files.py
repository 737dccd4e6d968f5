"""NumPy's files: arrays, archives and pickled dictionaries, real ones and ones of strangers."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Foreign, Limits
from emotiw_keras.formats.numpy_files import read_npy, read_npz, read_pickle_dict

Read = Callable[..., Foreign]


def refused(read: Read, path: Path, limits: Limits | None = None) -> str:
    """The error of a file, which must be one line that names it."""
    with pytest.raises(ModelError) as caught:
        read(path, limits)
    message = str(caught.value)
    assert path.name in message and message.isprintable(), message
    return message


def _same(foreign: Foreign, want: dict[str, Any]) -> None:
    assert list(foreign.arrays) == list(want)
    for name, array in want.items():
        read = foreign.arrays[name]
        assert read.dtype == array.dtype and read.shape == array.shape and np.array_equal(read, array), name
    assert foreign.layout is None and foreign.nodes is None


def _blobs() -> dict[str, list[np.ndarray]]:
    draw = np.random.default_rng(0)
    return {
        "conv1": [draw.normal(size=(11, 11, 3, 8)).astype(np.float32), draw.normal(size=8).astype(np.float32)],
        "fc6": [draw.normal(size=(36, 5)).astype(np.float32), draw.normal(size=5).astype(np.float32)],
    }


def _flat(blobs: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    return {
        f"{name}.{what}": array for name, pair in blobs.items() for what, array in zip(("weight", "bias"), pair, strict=True)
    }


def test_the_decoded_squeezenet(shared_data: Path) -> None:
    path = shared_data / "foreign_weights" / "squeezenet" / "squeezenet_v1.0_imagenet_decoded.npz"
    foreign = read_npz(path)
    with np.load(path) as want:
        _same(foreign, dict(want))
    assert foreign.arrays["conv1.weight"].shape == (96, 3, 7, 7) and len(foreign.arrays) == 52


def test_the_mean_image_of_ilsvrc_2012(shared_data: Path) -> None:
    path = shared_data / "foreign_weights" / "bvlc" / "ilsvrc_2012_mean.npy"
    _same(read_npy(path), {"array": np.load(path)})


@pytest.mark.parametrize("code", ["?", "u1", "<i4", ">i8", "<f2", ">f4", "<f8"])
def test_plain_arrays_of_every_kind(tmp_path: Path, code: str) -> None:
    path = tmp_path / "a.npy"
    numbers = np.arange(24).reshape(2, 3, 4)
    for array in (numbers, np.asfortranarray(numbers), numbers[:, :0], np.array(3)):
        np.save(path, array.astype(code))
        _same(read_npy(path), {"array": array.astype(code)})
    for version in ((1, 0), (2, 0), (3, 0)):
        with path.open("wb") as file:
            np.lib.format.write_array(file, numbers.astype(code), version)
        _same(read_npy(path), {"array": numbers.astype(code)})


def test_a_long_array_is_a_view_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(1 << 20))
    np.savez(tmp_path / "a.npz", a=np.arange(1 << 20))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": {"w": np.arange(1 << 20)}}, 4))
    for read, name in ((read_npy, "a.npy"), (read_npz, "a.npz"), (read_pickle_dict, "a.pkl")):
        tracemalloc.start()
        foreign = read(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        (array,) = foreign.arrays.values()
        assert peak < 1 << 19 and array[-1] == (1 << 20) - 1, name
        assert not array.flags.writeable


def _npy(header: str, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) if length is None else length) + text + data


def _objects(content: object, protocol: int) -> bytes:
    """A .npy of one object, as numpy.save writes it, in any protocol."""
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    return _npy(header, pickle.dumps(np.array(content, dtype=object), protocol))


@pytest.mark.parametrize("keys", [str, str.encode])
@pytest.mark.parametrize("protocol", range(6))
def test_dictionaries_of_blobs(tmp_path: Path, protocol: int, keys: Callable[[str], Any]) -> None:
    blobs = _blobs()
    named = {keys(name): pair for name, pair in blobs.items()}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(named, protocol))
    _same(read_pickle_dict(tmp_path / "a.pkl"), _flat(blobs))
    (tmp_path / "a.npy").write_bytes(_objects(named, protocol))
    _same(read_npy(tmp_path / "a.npy"), _flat(blobs))


def test_dictionaries_of_other_forms(tmp_path: Path) -> None:
    path = tmp_path / "senet.pkl"
    one, two, three = (np.full(3, number, np.float32) for number in (1, 2, 3))
    content = {
        "conv1/7x7_s2": {"weight": one, "bias": two},
        "bn": {"mean": one, "variance": two, "blobs": [one, two, three]},
        "fc8": (one,),
        "flat": two,
        "scalar": np.float32(4),
        "note": "SENet",
        "deep": {"a": {"b": {"c": {"d": one}}}},
        "empty": [],
    }
    path.write_bytes(pickle.dumps(content, 2))
    foreign = read_pickle_dict(path)
    _same(
        foreign,
        {
            "conv1/7x7_s2.weight": one,
            "conv1/7x7_s2.bias": two,
            "bn.mean": one,
            "bn.variance": two,
            "bn.blobs.0": one,
            "bn.blobs.1": two,
            "bn.blobs.2": three,
            "fc8.weight": one,
            "flat": two,
            "scalar": np.array(4, np.float32),
        },
    )
    assert set(foreign.ignored) == {"note", "deep.a.b.c"}


def test_what_python_2_wrote(tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR"
    )
    array += b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\xc0?\\x00\\x00\\x00\\xc0'\ntb"
    path.write_bytes(b"(dp0\nS'conv\\xe9'\n(lp1\n" + array + b"as.")
    _same(read_pickle_dict(path), {"convé.weight": np.array([1.5, -2], np.float32)})


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "written"

    class Trap:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {target}",)

    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"conv1": Trap()}, protocol))
    assert "system" in refused(read_pickle_dict, tmp_path / "a.pkl")
    (tmp_path / "a.npy").write_bytes(_objects(Trap(), protocol))
    assert "system" in refused(read_npy, tmp_path / "a.npy")
    assert not target.exists()


def test_loops_and_laughs_in_a_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    loop: dict[str, Any] = {"a": np.ones(2)}
    loop["self"] = loop
    path.write_bytes(pickle.dumps(loop))
    foreign = read_pickle_dict(path)
    assert list(foreign.arrays) == ["a", "self.a", "self.self.a", "self.self.self.a"]
    assert foreign.ignored == {"self.self.self.self": "no array but of type dict, too deep"}
    laughs: list[Any] = []
    for _ in range(3):
        laughs = [laughs] * 1000
    path.write_bytes(pickle.dumps({"a": laughs, "b": np.ones(2)}))
    assert "100,000 arrays" in refused(read_pickle_dict, path)
    path.write_bytes(pickle.dumps({"a": [np.ones(1 << 10)] * 3000}))
    assert "more than the 1,048,576 bytes" in refused(read_pickle_dict, path, Limits(total_bytes=1 << 20))
    assert "2,000 arrays" in refused(read_pickle_dict, path, Limits(arrays=2000))
    path.write_bytes(pickle.dumps({"long" * 25_000: [np.ones(2)] * 2000}))
    tracemalloc.start()
    assert "damaged name 'longlong" in refused(read_pickle_dict, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([np.ones(2)], "holds a list"),
        ({"a": 1}, "no arrays"),
        ({}, "no arrays"),
        ({"a": {"b": np.ones(2)}, "a.b": np.ones(2)}, "two arrays would be named a.b"),
        ({"a": np.array([None, "x"], dtype=object)}, "of objects"),
        ({"a": np.array(["x"])}, "dtype <U1"),
        ({"a": np.array([1j])}, "dtype <c16"),
        ({"a\n": np.ones(2)}, "damaged name"),
        ({("a", 1): np.ones(2)}, "a tuple as a key"),
    ],
)
def test_dictionaries_that_are_none_of_arrays(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    assert words in refused(read_pickle_dict, path)
    np.save(tmp_path / "a.npy", np.array(content, dtype=object) if isinstance(content, dict) else np.array([None]))
    refused(read_npy, tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }"), "needs 20 bytes and has 16"),
        (_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776), }"), "larger than"),
        (_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999999999999), }"), "larger than"),
        (_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999), }"), "expected sizes"),
        (_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1 2), }"), "expected sizes"),
        (_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }"), "header is not that"),
        (_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 33 + "), }"), "no shape of at most 32"),
        (_npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,), }"), "header is not that"),
        (_npy("{'descr': '<c8', 'fortran_order': False, 'shape': (2,), }"), "dtype <c8"),
        (_npy("{'descr': '|V16', 'fortran_order': False, 'shape': (1,), }"), "dtype |V16"),
        (_npy("{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }"), "dtype <U4"),
        (_npy("{'descr': '<f4'}"), "header is not that"),
        (_npy("-" * 4000 + "1"), "header is not that"),
        (_npy("(" * 4000), "header is not that"),
        (_npy("{}", length=65535), "65,535 bytes"),
        (b"\x93NUMPY\x01\x00", "cut off"),
        (b"\x93NUMPY\x09\x00" + bytes(20), "known version"),
        (b"NUMPY", "no .npy"),
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    assert words in refused(read_npy, path)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("w.npy", content)
    assert words in refused(read_npz, tmp_path / "a.npz")


def test_python_2_wrote_long_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 2L), }"))
    assert read_npy(path).arrays["array"].shape == (2, 2)


def test_archives_packed_and_with_other_entries(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    want: dict[str, Any] = {"conv1.weight": np.arange(600.0), "../../x": np.ones((2, 3), ">f4"), "none": np.zeros((0, 3))}
    np.savez_compressed(path, **want)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "x")
    foreign = read_npz(path)
    _same(foreign, want)
    assert foreign.ignored == {"readme.txt": "no array (.npy)"}
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.npz"]


def test_archives_that_are_traps(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(1 << 20))
    assert "would unpack to" in refused(read_npz, path, Limits(total_bytes=1 << 22))
    # The entry says less than it holds.
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 1000)
    path.write_bytes(data)
    tracemalloc.start()
    assert "size or checksum" in refused(read_npz, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    np.savez(path, a=np.array([None]))
    assert "dtype |O" in refused(read_npz, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "holds no arrays" in refused(read_npz, path)
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", buffer.getvalue())
        archive.writestr("a.npy", buffer.getvalue())
    assert "the entry a.npy twice" in refused(read_npz, path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", buffer.getvalue())
    assert "packing method 12" in refused(read_npz, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", buffer.getvalue())
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refused(read_npz, path)


def _files(folder: Path) -> list[tuple[Read, Path]]:
    blobs = _blobs()
    np.save(folder / "plain.npy", blobs["fc6"][0])
    np.save(folder / "dict.npy", np.array(blobs, dtype=object))
    np.savez(folder / "stored.npz", **_flat(blobs))
    np.savez_compressed(folder / "packed.npz", **_flat(blobs))
    (folder / "dict.pkl").write_bytes(pickle.dumps(blobs, 2))
    readers: dict[str, Read] = {".npy": read_npy, ".npz": read_npz, ".pkl": read_pickle_dict}
    return [(readers[path.suffix], path) for path in sorted(folder.iterdir())]


def test_truncated_anywhere(tmp_path: Path) -> None:
    for read, path in _files(tmp_path):
        data = path.read_bytes()
        for part in range(37):
            path.write_bytes(data[: len(data) * part // 37])
            refused(read, path)


def test_mutated_anywhere(tmp_path: Path) -> None:
    draw = random.Random(5)
    for read, path in _files(tmp_path):
        data = path.read_bytes()
        places = [*range(min(700, len(data))), *range(max(0, len(data) - 700), len(data))]
        for _ in range(150):
            changed = bytearray(data)
            for _ in range(draw.randint(1, 3)):
                changed[draw.choice(places)] = draw.choice((0, 255, 128, draw.randrange(256)))
            path.write_bytes(changed)
            try:
                foreign = read(path, Limits(total_bytes=1 << 24))
            except ModelError as error:
                assert str(error).isprintable()
            else:
                assert sum(array.nbytes for array in foreign.arrays.values()) <= 1 << 24


def test_what_is_no_grey_level_is_no_mean_image(tmp_path: Path) -> None:
    for value, taken in ((200.0, True), (1e300, False), (np.nan, False)):
        np.save(tmp_path / "mean.npy", np.full((3, 4, 5), value))
        assert (read_npy(tmp_path / "mean.npy").mean is not None) == taken
