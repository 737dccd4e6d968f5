"""`emotiw weights`: what it prints, where, and what it ends with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from emotiw_keras.cli.main import run
from emotiw_keras.weights import manifest
from emotiw_keras.weights.cache import file_path
from tests.weights.conftest import DATA, SHA256, Server

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def listed(server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, and a manifest of two files that it has."""
    path = tmp_path / "local.toml"
    path.write_text(
        f"""
[net]
kind = "weights"
format = "caffemodel"
url = "{server.url()}"
size = {len(DATA)}
hashes = {{ sha256 = "{SHA256}" }}
licence = "non-commercial use only"
non_commercial = true

[mean]
kind = "mean"
format = "npy"
url = "{server.url("/mean.npy")}"
"""
    )
    monkeypatch.setattr(manifest, "MANIFEST", path)
    return server


def test_list_shows_every_file(emotiw: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    place = {"env": {"PATH": "", "EMOTIW_CACHE": str(tmp_path)}}
    rows = json.loads(emotiw("weights", "list", "--json", **place).stdout)
    assert [row["key"] for row in rows] == list(manifest.load_manifest())
    first = rows[0]
    assert (first["model"], first["size"], first["in_cache"]) == ("alexnet", 243_862_414, False)
    assert first["path"] == str(tmp_path / "files" / "alexnet-caffe" / "bvlc_alexnet.caffemodel")
    path = tmp_path / "files" / "yunet" / "face_detection_yunet_2023mar.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    table = emotiw("weights", "list", **place).stdout.splitlines()
    assert len(table) == len(rows) + 1 and table[0].split()[:4] == ["key", "model", "MB", "licence"]
    assert table[1].split() == ["alexnet-caffe", "alexnet", "*", "243.9", "unrestricted", "use", "no"]
    assert table[-1].split() == ["yunet", "0.2", "MIT", "yes"]


def test_fetch_says_the_licence_first_and_the_place_last(listed: Server, capsys: Captured) -> None:
    assert run(["weights", "fetch", "net", "mean", "net"]) == 0
    out, err = capsys.readouterr()
    net, mean = (file_path(entry) for entry in manifest.load_manifest(manifest.MANIFEST).values())
    assert out == f"{net}  sha256 {SHA256}\n{mean}  sha256 {SHA256}\n"
    lines = err.splitlines()
    assert lines[0] == "net: licence: non-commercial use only"
    assert lines[1].startswith("net: WARNING: for non-commercial use only")
    assert lines[2] == "mean: licence: none is stated; ask its authors what you may do with it"
    assert lines[3].startswith("mean: no hash of it is published; its sha256 ") and len(lines) == 4
    assert run(["weights", "fetch", "net", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"key": "net", "path": str(net), "sha256": SHA256, "converted": None}]
    assert len(listed.requests) == 2


def test_fetch_of_an_unknown_name_fetches_nothing(listed: Server, capsys: Captured) -> None:
    assert run(["weights", "fetch", "net", "maen"]) == 5
    assert capsys.readouterr().err.startswith("emotiw: error: no file 'maen' in the weights manifest: did you mean mean?")
    assert listed.requests == []


def test_fetch_that_fails_is_one_line_and_exit_code_5(listed: Server, cache: Path, capsys: Captured) -> None:
    listed.answer = lambda handler: handler.give(b"", 404)
    assert run(["weights", "fetch", "mean"]) == 5
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[1] == (
        "emotiw: error: could not fetch mean: the server answered 404 Not Found: it has no such file "
        f"({listed.url('/mean.npy')}); try again later, or get {listed.url('/mean.npy')} in another way "
        f"and put it at {cache}/files/mean/mean.npy"
    )


def test_verify_names_each_wrong_file(listed: Server, cache: Path, capsys: Captured) -> None:
    assert run(["weights", "verify"]) == 0
    assert capsys.readouterr().err == f"no fetched file in {cache / 'files'}\n"
    assert run(["weights", "fetch", "net", "mean"]) == 0
    (cache / "files" / "mine").mkdir()
    capsys.readouterr()
    assert run(["weights", "verify"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines()] == [["ok", "net"], ["ok", "mean"]]
    assert err == f"not in the manifest, so not checked: mine in {cache / 'files'}\n"
    mean = cache / "files" / "mean" / "mean.npy"
    mean.write_bytes(b"changed")
    assert run(["weights", "verify"]) == 5
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines()] == [["ok", "net"], ["WRONG", "mean"]]
    assert f"emotiw: error: 1 of 2 files are wrong: {mean} is not the file mean: its sha256 is " in err and SHA256 in err
    assert run(["weights", "verify", "net", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["sha256"] == SHA256
    mean.unlink()
    assert run(["weights", "verify", "mean"]) == 5
    assert f"mean is not at {mean}; get it with `emotiw weights fetch mean`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_is_converted_after_its_file_has_come(
    listed: Server, cache: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = manifest.MANIFEST.read_text().replace("[net]", '[net]\nmodel = "squeezenet"\ndefault = true')
    path = manifest.MANIFEST.with_name("zoo.toml")
    path.write_text(text)
    monkeypatch.setattr(manifest, "MANIFEST", path)
    assert run(["weights", "fetch", "squeezenet", "--no-convert"]) == 0
    assert capsys.readouterr().out == f"{cache}/files/net/net.caffemodel  sha256 {SHA256}\n"
    # These bytes are no Caffe model: the converter says so, and nothing takes the place of weights.
    assert run(["weights", "fetch", "squeezenet"]) == 5
    assert "net.caffemodel" in capsys.readouterr().err.splitlines()[-1]
    assert not (cache / "squeezenet.weights.h5").exists() and (cache / "files" / "net" / "net.caffemodel").is_file()
