"""What fuzzing found, as small seeds; and that the campaign itself sees a fault. All of it is `make fuzz`."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.costs import read_costs
from emotiw_keras.data.face_input import load_mean_image
from emotiw_keras.errors import DataError, ModelError, RunError, UsageError
from emotiw_keras.files import sha256_file
from emotiw_keras.sealed import read_sealed
from emotiw_keras.training import checkpoints
from emotiw_keras.training.recipe import parse_recipe
from emotiw_keras.weights.manifest import load_manifest

DEEP = {
    "lists": "a = " + "[" * 5000,
    "tables": "a = " + "{b = " * 5000,
    "dotted": "a" + ".a" * 5000 + " = 1",
    "deep, whole": "a = " + "[" * 60 + "]" * 60,
}
# Headers of arrays are read as Python's source, whose end they may not have.
HEADERS = {"open bracket": b"{'descr': ('<f4'\n", "open text": b"{'''\n", "no table": b"1\n", "unsortable": b"{1: 2, 'a': 3}\n"}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_toml_too_deep_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    for error, read in (
        (UsageError, lambda: parse_recipe(text, "a.toml")),
        (DataError, lambda: read_costs(tmp_path / "a.toml", ("happy", "sad"))),
        (ModelError, lambda: load_manifest(tmp_path / "a.toml")),
    ):
        with pytest.raises(error, match=r"^.*deep.*$"):
            read()


def test_json_too_deep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"a": ' + "[" * 900 + "]" * 900 + "}")
    with pytest.raises(RunError, match="deeper than 50"):
        read_sealed(tmp_path / "run.json")


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_damaged_headers_of_arrays(header: bytes, tmp_path: Path) -> None:
    array = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(64)
    (tmp_path / "mean_image.npy").write_bytes(array)
    with pytest.raises(DataError, match="mean image"):
        load_mean_image(tmp_path / "mean_image.npy")
    for name, content in (("meta", array), ("meta", b"no array"), ("array/a", array)):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as packed:
            packed.writestr(f"{name}.npy", content)
            if name != "meta":
                packed.writestr(
                    "meta.npy", b"\x93NUMPY\1\0\x46\0{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}".ljust(80) + b"{}"
                )
        assert checkpoints.best_of(tmp_path / "a.npz") == ""
        named = tmp_path / f"e0001-s000001-{sha256_file(tmp_path / 'a.npz')[: checkpoints.HASH_CHARACTERS]}.npz"
        (tmp_path / "a.npz").rename(named)
        with pytest.raises(RunError, match="is damaged"):
            checkpoints.load(named)
        named.unlink()


def test_an_encrypted_checkpoint_is_damaged(tmp_path: Path) -> None:
    path = checkpoints.save(tmp_path, "e0001-s000001", {"a": np.ones(2)}, {"state": {}})
    data = bytearray(path.read_bytes())
    for start, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = -1
        while (at := data.find(start, at + 1)) >= 0:
            data[at + place] |= 1
    path.unlink()
    named = tmp_path / f"e0001-s000001-{hashlib.sha256(data).hexdigest()[: checkpoints.HASH_CHARACTERS]}.npz"
    named.write_bytes(data)
    assert checkpoints.best_of(named) == ""
    with pytest.raises(RunError, match="encrypted"):
        checkpoints.load(named)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        ('{"a": 1e999}', "1e999 is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": NaN}', "NaN is no number"),
    ],
)
def test_json_that_readers_take_differently_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=words):
        read_sealed(tmp_path / "run.json")


@pytest.mark.parametrize("url", ["http://[x", "https://example.org:port/a", "https://example.org:0/a", "https:///a"])
def test_addresses_that_are_none_are_refused(url: str, tmp_path: Path) -> None:
    text = f'[net]\nkind = "weights"\nformat = "h5"\nurl = "{url}"\nfile = "a.h5"\n'
    (tmp_path / "manifest.toml").write_text(text)
    with pytest.raises(ModelError, match="has the address"):
        load_manifest(tmp_path / "manifest.toml")
