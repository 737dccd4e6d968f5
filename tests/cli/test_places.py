"""Arguments that name files and folders: addresses that a command does not understand make no folder called `s3:`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from emotiw_keras import Run, Stage, StagedFineTuner
from emotiw_keras.cli import main as cli_main
from emotiw_keras.cli.places import ANYWHERE, Place
from emotiw_keras.data import load_faces
from emotiw_keras.data.generated import write_images
from emotiw_keras.data.prepare import prepare
from emotiw_keras.errors import UsageError
from emotiw_keras.files import check_folder_place, write_atomic
from emotiw_keras.models.weights_argument import find
from emotiw_keras.serving.new_folder import NewFolder
from emotiw_keras.serving.portable import export_onnx
from emotiw_keras.training.cross_validation import cross_validate
from emotiw_keras.training.fit import fit
from emotiw_keras.training.recipe import load_recipe

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


def _tuner(place: str | Path) -> None:
    from emotiw_keras.models import AlexNet

    net = AlexNet(weights=None, classes=7, input_shape=(67, 67, 3), width=0.1)
    stage = Stage("all", train=("a:train",), val=("a:val",), epochs=1)
    StagedFineTuner(net, [stage], data={"a": "generated:small"}, run_dir=place, width=0.1)


PYTHON: dict[str, Callable[[str | Path], object]] = {
    "Run.open": Run.open,
    "StagedFineTuner": _tuner,
    "check_folder_place": check_folder_place,
    "cross_validate": lambda place: cross_validate(load_recipe("finetune"), {"data": "generated:small"}, place, 3),
    "export_onnx": lambda place: export_onnx("run", place),
    "fit": lambda place: fit(load_recipe("demo"), {}, place),
    "load_faces": load_faces,
    "NewFolder": NewFolder,
    "prepare from": lambda place: prepare(place, "faces"),
    "prepare into": lambda place: prepare("photos", place),
    "votes": lambda place: load_faces("generated:small", votes=place, limit=7),
    "weights": lambda place: find(place, "alexnet"),
    "write_images": lambda place: write_images("small", place, 1),
}


@pytest.mark.parametrize("address", ["s3://bucket/x", Path("s3://bucket/x")], ids=["text", "Path"])
@pytest.mark.parametrize("name", PYTHON)
def test_functions_of_python_refuse_addresses_too(
    name: str, address: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"s3://?bucket/x is an address; expected a file or folder of this machine"):
        PYTHON[name](address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (("audit", "fer28-face-vgg", "--data", "gone", "--out", "out"), "audit.json"),
        (("audit", "fer28-face-vgg", "--data", "gone", "--out", "out"), "audit.html"),
        (("compare", "gone", "gone", "--out", "out"), "compare.html"),
        (("convert", "gone", "--model", "alexnet", "--out", "out/a.weights.h5"), "a.weights.h5"),
        (("evaluate", "fer28-face-vgg", "--data", "gone", "--out", "out"), "near_duplicates.csv"),
        (("fit", "demo", "--out", "run", "--show-batch", "out/seen.png"), "seen.png"),
        (("pathnet-study", "--data", "a=gone", "--data", "b=gone", "--out", "out"), "results.md"),
        (
            ("staged-study", "--net", "alexnet=none", "--data", "fer=gone", "--data", "target=gone", "--out", "out"),
            "study.html",
        ),
    ],
)
def test_a_folder_where_a_file_will_be_written_is_told_before_the_work(
    words: tuple[str, ...], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / file).mkdir(parents=True)
    assert cli_main.run(list(words)) == 6
    assert f"cannot write out/{file}: a folder is there; remove it, or choose another place" in capsys.readouterr().err


def test_text_that_is_an_address_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="s3://bucket/x.png is an address"):
        write_atomic("s3://bucket/x.png", b"")
    (tmp_path / "s3:").mkdir()
    write_atomic(Path("s3:") / "x.png", b"a picture")
    assert (tmp_path / "s3:" / "x.png").read_bytes() == b"a picture"


def test_a_folder_whose_name_has_a_colon_is_a_folder(emotiw: Emotiw, tmp_path: Path) -> None:
    (tmp_path / "s3:").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(tmp_path / "s3:" / "10:15.png")
    done = emotiw("prepare", "s3:", "faces: all", "--detector", "viola_jones", "--workers", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "10:15.png" in (tmp_path / "faces: all" / "faces.csv").read_text()
