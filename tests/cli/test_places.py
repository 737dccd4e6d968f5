"""Arguments that name files and folders: addresses that a command does not understand make no folder called `s3:`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from emotiw_keras.cli import main as cli_main
from emotiw_keras.cli.places import ANYWHERE, Place

Emotiw = Callable[..., "subprocess.CompletedProcess[str]"]
TAKE_STORES = {("predict", "inputs"), ("predict", "out"), ("prepare", "sources"), ("prepare", "out"), ("summary", "folder")}
PLACES = {"DIR", "FILE", "FILE.png", "NAME=PATH", "OUT", "PATH", "RUN", "RUN RUN ...", "RUN [RUN ...]", "SOURCE", "[MODEL ...]"}


def parameters() -> Iterator[tuple[str, click.Parameter]]:
    context = click.Context(cli_main.cli)
    for name in cli_main.COMMANDS:
        command = cli_main.cli.get_command(context, name)
        assert command is not None
        yield from ((name, parameter) for parameter in command.params)


def test_every_argument_that_names_a_place_refuses_addresses_or_takes_those_of_stores() -> None:
    for command, parameter in parameters():
        known = (command, parameter.name) in TAKE_STORES
        if isinstance(parameter.type, click.Path) or parameter.metavar in PLACES:
            expected = parameter.type is ANYWHERE if known else isinstance(parameter.type, Place)
            assert expected, f"{command} {parameter.name}"
            # click's own look at a file would end a command for one of several that cannot be read.
            assert isinstance(parameter.type, click.Path) and not parameter.type.readable, f"{command} {parameter.name}"


@pytest.mark.parametrize(
    "words",
    [
        ("prepare", "photos", "s3://bucket/faces"),
        ("prepare", "gs://bucket/photos", "faces"),
        ("predict", "photos", "--annotate", "s3://bucket/seen"),
        ("predict", "photos", "--explain", "gs://bucket/why"),
        ("predict", "s3://bucket/photos", "--json"),
        ("predict", "photos", "--model", "s3://bucket/run"),
        ("evaluate", "run", "--out", "s3://bucket/report"),
        ("evaluate", "run", "--challenge", "s3://bucket/answers"),
        ("evaluate", "s3://bucket/run"),
        ("evaluate", "run", "--data", "s3://bucket/faces.zip"),
        ("compare", "run", "other", "--out", "hf://anna/faces"),
        ("fit", "--out", "s3://bucket/run"),
        ("fit", "--out", "run", "--data", "data=s3://bucket/faces"),
        ("staged-study", "--net", "alexnet=none", "--data", "fer=a", "--data", "target=b", "--out", "s3://bucket/study"),
        ("pathnet-study", "--data", "a=a", "--data", "b=b", "--out", "s3://bucket/study"),
        ("export", "run", "s3://bucket/served"),
        ("pack", "run", "s3://bucket/small", "--data", "faces"),
        ("card", "run", "--out", "s3://bucket/README.md"),
        ("audit", "run", "--data", "faces", "--out", "s3://bucket/audit"),
        ("summary", "read", "--html", "s3://bucket/page.html"),
        ("convert", "net.onnx", "--model", "alexnet", "--out", "s3://bucket/net.weights.h5"),
    ],
)
def test_an_address_that_is_not_understood_is_refused_in_one_line(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli_main.run(list(words)) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    (address,) = (word.partition("=")[2] or word for word in words if "://" in word)
    assert f"{address} is an address; expected a file or folder of this machine" in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_name_has_a_colon_is_a_folder(emotiw: Emotiw, tmp_path: Path) -> None:
    (tmp_path / "s3:").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(tmp_path / "s3:" / "10:15.png")
    done = emotiw("prepare", "s3:", "faces: all", "--detector", "viola_jones", "--workers", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "10:15.png" in (tmp_path / "faces: all" / "faces.csv").read_text()
