"""What makes an HDF5 file unsafe to open is refused before anything of it is read."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.hdf5 import open_hdf5
from emotiw_keras.formats.hdf5_trial import rehearse
from tests.formats.trial_readers import crash, fine, never_return, refuse, take_memory


def refused(path: Path, message: str, limits: Limits | None = None) -> None:
    with pytest.raises(ModelError, match=message) as caught, open_hdf5(path, limits or Limits(total_bytes=1 << 24)):
        pytest.fail("opened")
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Another file, whose content a trap wants to be read."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["values"] = np.arange(8.0)
    return tmp_path / "secret.h5"


def test_external_link(tmp_path: Path, secret: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("layer")["weight"] = h5py.ExternalLink(str(secret), "/values")
    refused(tmp_path / "a.h5", "ExternalLink to '/values'")


def test_soft_link(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["again"] = h5py.SoftLink("/")
    refused(tmp_path / "a.h5", "SoftLink")


def test_external_storage(tmp_path: Path, secret: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("weight", (8,), "f8", external=[(str(secret), 0, 64)])
    refused(tmp_path / "a.h5", "stored in another file")


def test_virtual_dataset(tmp_path: Path, secret: Path) -> None:
    layout = h5py.VirtualLayout((8,), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "values", (8,))
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file.create_virtual_dataset("weight", layout)
    refused(tmp_path / "a.h5", "virtual dataset")


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1 << 40,), {}, "declares .* more than the 16,777,216 allowed"),
        ((1 << 20,), {}, "declares 8,388,608 bytes but stores 0"),
        ((1 << 20,), {"chunks": (64,), "compression": "gzip"}, "declares 8,388,608 bytes but stores"),
        ((8,), {"maxshape": (None,), "chunks": (1 << 20,), "compression": "gzip"}, "declares 8,388,608"),
        ((8,), {"compression": "lzf"}, "the filter 32000"),
        ((8,), {"chunks": (8,), "scaleoffset": 4}, "the filter 6"),
    ],
)
def test_shape_bombs_and_filters(tmp_path: Path, shape: tuple[int, ...], options: dict[str, object], message: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("weight", shape, "f8", **options)
    refused(tmp_path / "a.h5", message)


def test_zeros_are_no_bomb(tmp_path: Path) -> None:
    """A bias of zeros packs well; the bound is deflate's own."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("weight", data=np.zeros(1 << 20), compression="gzip", compression_opts=9, shuffle=True)
    with open_hdf5(tmp_path / "a.h5", Limits()) as opened:
        dataset = opened.child(opened.root, "weight")
        assert isinstance(dataset, h5py.Dataset) and not opened.array(dataset).any()


def test_loop_of_groups(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        inner = file.create_group("a/b/c")
        inner["home"] = file["a"]
    refused(tmp_path / "a.h5", "'home' is linked twice")


def test_depth_and_number(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        file.create_group("/".join("g" * 40))
    refused(tmp_path / "deep.h5", "deep")
    with h5py.File(tmp_path / "wide.h5", "w") as file:
        for i in range(50):
            file.create_group(f"g{i}")
    refused(tmp_path / "wide.h5", "more than the 20 arrays", Limits(arrays=20))


def test_names_that_cannot_be_printed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group(b"bell\x07")
        file.create_group("colour\x1b[31m")
    refused(tmp_path / "a.h5", "cannot be printed")


def test_same_text_many_times(tmp_path: Path) -> None:
    """Variable-length texts may all point at one place; their number times the file's size is the only bound there is."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["pad"] = np.zeros(1 << 18)
        file.attrs["names"] = ["a"] * 2000
        file.attrs["few"] = ["a", "b"]
        file.attrs["ragged"] = np.array([np.zeros(2), np.zeros(3)], object).astype(h5py.vlen_dtype(np.float64))
        file["objects"] = np.array([file["pad"].ref], h5py.ref_dtype)
        file["texts"] = ["a", "b"]
    with open_hdf5(tmp_path / "a.h5", Limits(total_bytes=1 << 24)) as opened:
        assert opened.texts_of(opened.root, "few") == ("a", "b")
        assert opened.texts_of(opened.root, "none") is None
        for name, message in (("names", "2,000 values"), ("ragged", "no text and no number")):
            with pytest.raises(ModelError, match=message):
                opened.texts_of(opened.root, name)
        for name in ("objects", "texts"):
            dataset = opened.child(opened.root, name)
            assert isinstance(dataset, h5py.Dataset)
            with pytest.raises(ModelError, match="expected numbers"):
                opened.array(dataset)


def test_no_hdf5(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    refused(tmp_path / "a.h5", "damaged or no HDF5 file")
    refused(tmp_path / "none.h5", "damaged or no HDF5 file")


def test_rehearsal(tmp_path: Path) -> None:
    path, limits = tmp_path / "ein \udcff\n.h5", Limits(total_bytes=1 << 20)
    path.write_bytes(bytes(8))
    for reader, message in (
        (crash, "fails on it with signal 11"),
        (never_return, "does not come to an end"),
        (take_memory, "no memory"),
        (refuse, "1048576 Bytes, größer als erlaubt"),
    ):
        with pytest.raises(ModelError, match=message):
            rehearse(reader, path, limits)
    rehearse(fine, path, limits)
    assert int(path.with_suffix(".seen").read_text()) != os.getpid()


def test_rehearsals_of_many_threads(tmp_path: Path) -> None:
    wrong: list[str] = []

    def ask(number: int) -> None:
        (tmp_path / f"{number}.h5").write_bytes(b"")
        for _ in range(5):
            try:
                rehearse(refuse, tmp_path / f"{number}.h5", Limits(total_bytes=number))
            except ModelError as error:
                if not str(error).startswith(f"{number}.h5: {number} Bytes"):
                    wrong.append(str(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_arrays_that_unpack_to_many_times_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emotiw_keras.formats.foreign.BOMB_FROM", 1 << 20)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "abcd":
            file.create_dataset(name, data=np.zeros(1 << 17), compression="gzip", compression_opts=9)
    size = (tmp_path / "a.h5").stat().st_size
    assert 1 << 20 < size * 200 < 4 << 20
    with open_hdf5(tmp_path / "a.h5", Limits()) as opened, pytest.raises(ModelError, match=f"more than the {size * 200:,}"):
        for item in opened.children(opened.root).values():
            assert isinstance(item, h5py.Dataset) and not opened.array(item).any()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("weight", data=np.zeros(1 << 19), compression="gzip", compression_opts=9)
    refused(tmp_path / "a.h5", "^a.h5: 'weight' declares 4,194,304 bytes in a file of ", Limits())
