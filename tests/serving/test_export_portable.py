"""The ONNX and TFLite files that `emotiw export` writes."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.errors import ModelError, OutputError, RunError
from emotiw_keras.files import sha256_file
from emotiw_keras.formats.protobuf import Wire
from emotiw_keras.models import build, model_names
from emotiw_keras.models.features import with_features
from emotiw_keras.serving import exported, portable
from emotiw_keras.serving.exported_graph import bytes_of_face
from emotiw_keras.serving.folding import fold
from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.serving.tflite_graph import tflite_model

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="onnx or onnxruntime is not installed (the extra [onnx])")
formats = pytest.mark.parametrize("kind", ["tflite", pytest.param("onnx", marks=needs_onnx)])
WRITERS = {"tflite": portable.export_tflite, "onnx": portable.export_onnx}


def run_onnx(path: Path, faces: np.ndarray) -> np.ndarray:
    import onnxruntime

    return onnxruntime.InferenceSession(path).run(["probabilities"], {"pixels": faces})[0]


def run_tflite(path: Path, faces: np.ndarray) -> np.ndarray:
    return tf.lite.Interpreter(model_path=str(path)).get_signature_runner()(pixels=faces)["probabilities"]


RUN: dict[str, Callable[[Path, np.ndarray], np.ndarray]] = {"tflite": run_tflite, "onnx": run_onnx}


def facts_in(kind: str, path: Path) -> dict:
    if kind == "onnx":
        import onnxruntime

        return json.loads(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["emotiw"])
    with zipfile.ZipFile(path) as archive:
        facts = json.loads(archive.read("emotiw.json"))
        assert archive.read("labels.txt").decode().split() == facts["labels"]
    return facts


@pytest.mark.slow
@formats
def test_grey_faces_are_read_as_the_predictor_reads_them(kind: str, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / f"face.{kind}"
    report = WRITERS[kind](run_folder, path)
    assert report.path == path and report.takes == "uint8 (batch, 76, 76, 1), grey"
    assert report.compared == 6 and report.largest_difference <= 1e-5
    predictor = Predictor(run_folder)
    colour = np.random.default_rng(2).integers(0, 256, (5, 120, 90, 3), np.uint8)
    faces = np.stack([predictor.prepare(face) for face in colour])
    np.testing.assert_allclose(RUN[kind](path, faces), predictor.predict(colour), atol=1e-5)
    facts = facts_in(kind, path)
    assert facts["labels"] == list(predictor.labels) and facts["fingerprint"] == predictor.run.fingerprint
    assert facts["input"]["shape"] == ["batch", 76, 76, 1] and "grey" in facts["input"]["prepare"]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@needs_onnx
def test_colour_and_stretch_travel_inside_onnx(colour_run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "face.onnx"
    report = portable.export_onnx(colour_run_folder, path)
    assert report.labels == ("calm", "glad", "tense") and report.takes == "uint8 (batch, 76, 76, 3), RGB"
    faces = np.random.default_rng(3).integers(90, 150, (4, 76, 76, 3), np.uint8)
    np.testing.assert_allclose(run_onnx(path, faces), Predictor(colour_run_folder).predict(faces), atol=1e-5)
    assert facts_in("onnx", path)["preprocessing"]["min_max"] is True


def test_colour_and_stretch_travel_inside_tflite(colour_run_folder: Path, tmp_path: Path) -> None:
    predictor = Predictor(colour_run_folder)
    (tmp_path / "net.tflite").write_bytes(tflite_model(fold(predictor.net, predictor.face_input)))
    faces = np.random.default_rng(3).integers(90, 150, (4, 76, 76, 3), np.uint8)
    expected = predictor.predict(faces)
    # One batch size after another, larger and smaller.
    for count in (1, 4, 2):
        np.testing.assert_allclose(run_tflite(tmp_path / "net.tflite", faces[:count]), expected[:count], atol=1e-5)


def small(name: str) -> tuple[keras.Model, FaceInput, np.ndarray]:
    keras.utils.set_random_seed(2)
    net = build(name, weights=None, classes=42, input_shape=(67, 67, 3), width=0.1)
    faces = np.random.default_rng(4).integers(0, 256, (2, 70, 70, 3), np.uint8)
    return net, FaceInput(channels="rgb", resize=70, crop=67, mean=(104, 117, 123), std=(50, 60, 70)), faces


@needs_onnx
@pytest.mark.parametrize("name", model_names())
def test_every_network_is_the_same_in_onnx(name: str, tmp_path: Path) -> None:
    import onnx

    from emotiw_keras.serving.onnx_graph import onnx_model

    net, face_input, faces = small(name)
    model = onnx_model(fold(net, face_input), 42, {"emotiw": "{}"})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "net.onnx")
    wire = Wire("net.onnx")
    fields = wire.decode(memoryview(model.SerializeToString()), exported._MODEL, closed=True)
    assert faces[0].nbytes < bytes_of_face(tmp_path / "net.onnx", wire, fields, faces.shape[1:]) < 10**8
    expected = keras.ops.convert_to_numpy(net(face_input(faces), training=False))
    np.testing.assert_allclose(run_onnx(tmp_path / "net.onnx", faces), expected, rtol=1e-4, atol=1e-7)
    assert expected.max() < 0.9, "one class has all: nothing is compared"


@formats
def test_a_classifier_on_several_layers_is_the_same_in_both(kind: str, tmp_path: Path) -> None:
    """Its means over a grid are flattened and put side by side, each in Keras' order."""
    net, face_input, faces = small("face_vgg")
    net = with_features(net, 5)
    kernel = net.get_layer("classifier").kernel
    kernel.assign(np.random.default_rng(0).normal(0, 0.1, kernel.shape))
    folded = fold(net, face_input)
    if kind == "onnx":
        from emotiw_keras.serving.onnx_graph import onnx_model

        content = onnx_model(folded, 42, {"emotiw": "{}"}).SerializeToString()
    else:
        content = tflite_model(folded)
    (tmp_path / "net").write_bytes(content)
    expected = keras.ops.convert_to_numpy(net(face_input(faces), training=False))
    np.testing.assert_allclose(RUN[kind](tmp_path / "net", faces), expected, rtol=1e-3, atol=1e-6)


@formats
@pytest.mark.parametrize("chosen", ["fer", "votes"])
def test_the_chosen_heads_answer_is_the_first_output(kind: str, chosen: str, tmp_path: Path) -> None:
    """Of TFLite it was any, and a tensor that another output had too: labels.txt belonged to none."""
    net, face_input, faces = small("face_vgg")
    heads = {"fer": slice(0, 12), "votes": slice(12, 42)}
    columns = {"probabilities": heads[chosen], **{f"probabilities_{name}": part for name, part in heads.items()}}
    folded = fold(net, face_input)
    expected = keras.ops.convert_to_numpy(net(face_input(faces), training=False))
    if kind == "onnx":
        import onnxruntime

        from emotiw_keras.serving.onnx_graph import onnx_model

        session = onnxruntime.InferenceSession(onnx_model(folded, columns, {"emotiw": "{}"}).SerializeToString())
        assert [output.name for output in session.get_outputs()] == list(columns)
        first = session.run(None, {"pixels": faces[:1]})[0]
    else:
        model = tflite_model(folded, columns)
        assert tf.lite.Interpreter(model_content=model).get_signature_list()["serving_default"]["outputs"] == sorted(columns)
        plain = tf.lite.Interpreter(model_content=model)
        plain.allocate_tensors()
        plain.set_tensor(plain.get_input_details()[0]["index"], faces[:1])
        plain.invoke()
        outputs = plain.get_output_details()
        assert len({output["index"] for output in outputs}) == 3
        first = plain.get_tensor(outputs[0]["index"])
        both = tf.lite.Interpreter(model_content=model).get_signature_runner()(pixels=faces[:1])
        np.testing.assert_array_equal(first, both["probabilities"])
        for name, part in columns.items():
            np.testing.assert_allclose(both[name], expected[:1, part], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(first, expected[:1, heads[chosen]], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["alexnet_owt", "squeezenet", "vgg_cnn_m_128", "pathnet"])
def test_other_kinds_of_networks_are_the_same_in_tflite(name: str, tmp_path: Path) -> None:
    net, face_input, faces = small(name)
    (tmp_path / "net.tflite").write_bytes(tflite_model(fold(net, face_input)))
    expected = keras.ops.convert_to_numpy(net(face_input(faces), training=False))
    np.testing.assert_allclose(run_tflite(tmp_path / "net.tflite", faces), expected, rtol=1e-4, atol=1e-7)


@formats
def test_nothing_is_overwritten(kind: str, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        WRITERS[kind](run_folder, tmp_path / "there")
    with pytest.raises(OutputError, match="cannot write"):
        WRITERS[kind](run_folder, tmp_path / "there" / "below")
    with pytest.raises(RunError, match="run.json"):
        WRITERS[kind](tmp_path, tmp_path / "new")
    assert [each.name for each in tmp_path.iterdir()] == ["there"] and (tmp_path / "there").read_text() == "mine"


@formats
def test_what_came_there_meanwhile_is_not_overwritten(
    kind: str, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(predictor: Predictor, path: Path, answers: str) -> float:
        (tmp_path / "face").write_text("mine")
        return 0.0

    monkeypatch.setattr(portable, "_compare", meanwhile)
    with pytest.raises(OutputError, match="face exists already"):
        WRITERS[kind](run_folder, tmp_path / "face")
    assert [each.name for each in tmp_path.iterdir()] == ["face"] and (tmp_path / "face").read_text() == "mine"


@needs_onnx
def test_a_file_that_answers_otherwise_is_not_kept(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = portable.facts_of
    monkeypatch.setattr(portable, "facts_of", lambda predictor: {**original(predictor), "labels": ["other"] * 7})
    with pytest.raises(ModelError, match="'other'"):
        portable.export_onnx(run_folder, tmp_path / "face.onnx")
    monkeypatch.undo()
    monkeypatch.setattr(portable, "TOLERANCE", 0.0)
    with pytest.raises(ModelError, match="differs by"):
        portable.export_onnx(run_folder, tmp_path / "face.onnx")
    monkeypatch.undo()
    monkeypatch.setattr(portable, "MOST_BYTES", 1000)
    with pytest.raises(ModelError, match="a file of ONNX holds 2"):
        portable.export_onnx(run_folder, tmp_path / "face.onnx")
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_weights_that_are_no_numbers_are_not_kept(run_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(run_folder, broken)
    net = Predictor(run_folder).net
    kernel, bias = net.get_layer("fc8").get_weights()
    net.get_layer("fc8").set_weights([kernel * np.nan, bias])
    net.save_weights(broken / "model.weights.h5")
    info = json.loads((broken / "run.json").read_text())
    info["weights"]["sha256"] = sha256_file(broken / "model.weights.h5")
    (broken / "run.json").write_text(json.dumps(info))
    with pytest.raises(ModelError, match="holds nan or infinite numbers in layer fc8"):
        portable.export_onnx(broken, tmp_path / "face.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["broken"]


def test_a_missing_package_is_one_line_with_the_command_and_loads_nothing(tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys\n"
        "known = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name.startswith('onnx') else known(name, *rest)\n"
        "from emotiw_keras.cli.main import run\n"
        "code = run(['export', 'nowhere', 'face.onnx', '--format', 'onnx'])\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 5 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("emotiw: error: ") and last.endswith("pip install onnx onnxruntime")
