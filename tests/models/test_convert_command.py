"""`emotiw convert` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emotiw_keras.cli.main import run
from emotiw_keras.models import build
from tests.formats import write_caffe
from tests.formats.foreign_networks import network, write_caffe_files

NARROW = ["--width", "0.1"]


@pytest.fixture(scope="module")
def caffemodel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_caffe_files(tmp_path_factory.mktemp("caffe"), network("squeezenet_v1_1", 0.1))[0]


def test_it_says_what_it_read_matched_and_proved(caffemodel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "sq.weights.h5"
    assert run(["convert", str(caffemodel), "--model", "squeezenet_v1_1", *NARROW, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{out}: ") and said.out.endswith(" MB\n")
    first, matched, channels, *rest = said.err.splitlines()
    assert first.startswith("read squeezenet_v1_1.caffemodel: Caffe model (V2 layers), 52 arrays, ")
    assert matched.startswith("matched 26 layers of squeezenet_v1_1 by ")
    assert channels == "channels: BGR (as the format has it)"
    assert rest[-1].startswith("proved on a colour image against the computation in the file, run in NumPy: class scores ")
    build("squeezenet_v1_1", weights=out, width=0.1)


def test_grey_weights_fit_a_network_of_one_channel(caffemodel: Path, tmp_path: Path) -> None:
    out = tmp_path / "grey.weights.h5"
    assert run(["convert", str(caffemodel), "--model", "squeezenet_v1_1", *NARROW, "--grey", "--out", str(out)]) == 0
    model = build("squeezenet_v1_1", weights=out, width=0.1, input_shape=(227, 227, 1))
    assert model.input_shape == (None, 227, 227, 1)


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The source itself, given as --out, and a finished run's weights were replaced."""
    np.save(tmp_path / "mean.npy", np.zeros((3, 3, 3)))
    for name, options in (("net.weights.h5", ["--model", "squeezenet", "--grey"]), ("mean.npy", [])):
        path = tmp_path / name
        path.touch()
        before = path.read_bytes()
        assert run(["convert", str(path), *options, "--out", str(path)]) == 6
        assert capsys.readouterr().err == (
            f"emotiw: error: {path} exists; converting never overwrites, name a new place or remove that one\n"
        )
        assert path.read_bytes() == before


def test_inspect_shows_the_layers_and_writes_nothing(caffemodel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(caffemodel.parent.iterdir())
    assert run(["convert", str(caffemodel), "--inspect"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("squeezenet_v1_1.caffemodel: Caffe model (V2 layers), 52 arrays, ")
    assert lines[1] == "kernels oihw, channels BGR, input data 1x3x227x227"
    assert lines[2].split() == ["layer", "kind", "arrays", "settings"]
    assert lines[3].split()[:2] == ["conv1", "conv"] and "stride=2" in lines[3]
    assert run(["convert", str(caffemodel), "--inspect", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["arrays"][0] == {"name": "conv1.weight", "shape": [6, 3, 3, 3], "dtype": "float32"}
    assert facts["nodes"][0]["attributes"]["stride"] == [2, 2]
    assert sorted(caffemodel.parent.iterdir()) == before


def test_how_a_data_layer_prepares_images_is_told_and_another_scale_refused(
    caffemodel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report said that the file does not state it."""
    deploy = caffemodel.with_suffix(".prototxt").read_text()
    data = 'layer {{ name: "data" type: "Data" top: "data" include {{ phase: {} }} transform_param {{ {} }} }}\n'.format
    out, takes = str(tmp_path / "sq.weights.h5"), "squeezenet_v1_1 takes BGR, 0..255 less 104, 117, 123"

    def said(*layers: str) -> tuple[int, list[str]]:
        (tmp_path / "train.prototxt").write_text("".join(layers) + deploy)
        arguments = ["--model", "squeezenet_v1_1", *NARROW, "--structure", str(tmp_path / "train.prototxt"), "--out", out]
        code = run(["convert", str(caffemodel), *arguments])
        return code, capsys.readouterr().err.splitlines()

    scaled, mean = "scale: 0.00390625 mean_value: 127.5", "mean_value: 104 mean_value: 117 mean_value: 123"
    ways = "(0..255 less 127.5) times 0.00390625 and 0..255 less 104, 117, 123"
    code, lines = said(data("TRAIN", scaled), data("TEST", mean))
    assert code == 5 and len(lines) == 1 and not Path(out).exists()
    assert f"squeezenet_v1_1.caffemodel was trained on images of {ways}, as its data layers say: {takes}; change" in lines[0]
    code, lines = said(data("TRAIN", mean))
    assert code == 0 and not any("not stated by the file" in line for line in lines)
    assert f"images as the file's data layers have them: 0..255 less 104, 117, 123; {takes}" in lines
    assert "mean in the file 104.000, 117.000, 123.000; squeezenet_v1_1 subtracts 104.000, 117.000, 123.000 (BGR)" in lines
    Path(out).unlink()
    assert run(["convert", str(tmp_path / "train.prototxt"), "--out", out]) == 2
    assert "say which network train.prototxt holds with --model" in capsys.readouterr().err
    assert run(["convert", str(tmp_path / "train.prototxt"), "--out", str(tmp_path / "mean.npy")]) == 2, "no mean image"
    assert "say which network train.prototxt holds with --model" in capsys.readouterr().err
    code, lines = said(data("TRAIN", mean), data("TEST", 'mean_file: "m.binaryproto"'))
    ways = "0..255 less 104, 117, 123 and 0..255 less the mean image m.binaryproto"
    assert code == 0 and f"images as the file's data layers have them: {ways}; {takes}; they contradict each other" in lines


def test_a_mean_image_becomes_an_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mean = np.random.default_rng(0).uniform(90, 130, (3, 5, 5)).astype("float32")
    source, out = write_caffe.write_binaryproto(tmp_path / "mean.binaryproto", mean), tmp_path / "mean.npy"
    assert run(["convert", str(source), "--out", str(out)]) == 0
    assert "mean image, 5 x 5 x 3, BGR" in capsys.readouterr().out
    assert np.array_equal(np.load(out), mean.transpose(1, 2, 0))
    assert run(["convert", str(source), "--out", str(tmp_path / "other.npy"), "--channel-order", "rgb"]) == 5
    assert "mean.binaryproto is BGR, as its format says; leave out --channel-order" in capsys.readouterr().err
    for order, told in ([], "UNKNOWN ORDER"), (["--channel-order", "rgb"], "RGB"):
        assert run(["convert", str(out), "--out", str(tmp_path / "again.npy"), *order]) == 0
        assert f"mean image, 5 x 5 x 3, {told}" in capsys.readouterr().out
        (tmp_path / "again.npy").unlink()
    given = ["--grey", "--width", "1.0", "--check", "cat.jpg=cat", "--structure", "x.prototxt"]
    assert run(["convert", str(out), "--out", str(tmp_path / "again.npy"), *given]) == 2
    assert "mean.npy is a mean image: leave out --structure, --check, --grey, --width" in capsys.readouterr().err
    np.save(out, mean[:, :4].transpose(1, 2, 0))
    assert run(["convert", str(out), "--out", str(tmp_path / "again.npy")]) == 5
    assert "mean.npy is a mean image of 4 x 5 pixels; expected as many rows as columns" in capsys.readouterr().err
    assert not (tmp_path / "again.npy").exists() and not (tmp_path / "other.npy").exists()


@pytest.mark.parametrize(
    "options, code, message",
    [
        ([], 2, "say where the weights go with --out FILE, or look at SOURCE with --inspect"),
        (["--inspect", "--out", "x.weights.h5", "--grey"], 2, "--inspect converts nothing: leave out --out, --grey"),
        (["--out", "x.weights.h5", "--json"], 2, "--json is how --inspect prints; add --inspect, or leave it out"),
        (["--out", "x.weights.h5"], 2, "say which network squeezenet_v1_1.caffemodel holds with --model"),
        (["--out", "x.h5", "--model", "alexnet"], 2, "--out x.h5: expected a name that ends in .weights.h5"),
        (["--out", "x.weights.h5", "--model", "squeezenett"], 5, "did you mean squeezenet?"),
        (["--out", "x.weights.h5", "--model", "squeezenet_v1_1", "--width", "inf"], 2, "width is inf, expected a multiplier"),
        (["--out", "x.weights.h5", "--model", "squeezenet_v1_1", "--width", "1e9"], 2, "width is 1000000000.0, expected"),
        (["--out", "x.weights.h5", "--model", "alexnet"], 5, "does not hold alexnet: it has 26 convolutions"),
    ],
)
def test_a_mistake_gives_one_line_and_writes_nothing(
    options: list[str], code: int, message: str, caffemodel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(["convert", str(caffemodel), *options]) == code
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and message in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_unknown_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(tmp_path / "none.pth"), "--inspect"]) == 5
    (tmp_path / "page.caffemodel").write_text("<html>not found</html>")
    assert run(["convert", str(tmp_path / "page.caffemodel"), "--inspect"]) == 5
    (tmp_path / "notes.txt").write_text("<html>not found</html>")
    assert run(["convert", str(tmp_path / "notes.txt"), "--inspect"]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"emotiw: error: no weight file at {tmp_path / 'none.pth'}"
    assert "page.caffemodel" in lines[1]
    assert lines[2].endswith("notes.txt is a web page, not a weight file; fetch it again from the right address")
    assert len(lines) == 3
