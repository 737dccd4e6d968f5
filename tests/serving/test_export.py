"""The SavedModel that `emotiw export` writes."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from emotiw_keras.data.images import decode_image
from emotiw_keras.errors import ModelError, OutputError
from emotiw_keras.serving import export
from emotiw_keras.serving.predictor import Predictor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "served"
    report = export.export_savedmodel(run_folder, folder)
    assert report.compared == 12 and report.largest_difference <= 1e-5 and report.megabytes > 0.5
    assert [path.name for path in folder.iterdir()] == ["1"]
    return folder / "1"


def jpegs(shapes: list[tuple[int, ...]], seed: int = 5) -> list[bytes]:
    files = []
    for shape in shapes:
        pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, shape[2]), np.uint8)
        image = Image.fromarray(pixels[..., 0] if shape[2] == 1 else pixels).resize(shape[1::-1], Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def test_a_fresh_process_with_tensorflow_alone_answers_as_the_predictor(served: Path, run_folder: Path, tmp_path: Path) -> None:
    files = jpegs([(48, 48, 1), (200, 123, 3), (67, 300, 3)])
    for index, file in enumerate(files):
        (tmp_path / f"{index}.jpg").write_bytes(file)
    script = (
        "import json, sys, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "data = tf.stack([tf.io.read_file(name) for name in sys.argv[2:]])\n"
        "found = model.signatures['serving_default'](image_bytes=data)\n"
        "assert not any(name.startswith('emotiw_keras') for name in sys.modules)\n"
        "print(json.dumps({name: value.numpy().astype(str).tolist() for name, value in found.items()}))\n"
    )
    paths = [str(tmp_path / f"{index}.jpg") for index in range(3)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, str(served), *paths], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    predictor = Predictor(run_folder)
    expected = predictor.predict([decode_image(file) for file in files])
    np.testing.assert_allclose(np.array(found["probabilities"], float), expected, atol=1e-5)
    assert found["labels"] == [list(predictor.labels)] * 3 and found["ok"] == ["True"] * 3
    assert found["label"] == [predictor.labels[best] for best in expected.argmax(axis=1)]


def test_pixels_of_one_or_three_channels_and_any_size(served: Path, run_folder: Path) -> None:
    model = tf.saved_model.load(str(served))
    predictor = Predictor(run_folder)
    for shape in [(3, 48, 48, 1), (2, 90, 61, 3), (1, 256, 256, 1)]:
        pixels = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
        found = model.signatures["pixels"](pixels=tf.constant(pixels))["probabilities"].numpy()
        np.testing.assert_allclose(found, predictor.predict(pixels), atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="1 or 3 channels"):
        model.signatures["pixels"](pixels=tf.zeros((1, 9, 9, 2), tf.uint8))


def test_signatures_have_the_documented_names_types_and_shapes(served: Path) -> None:
    model = tf.saved_model.load(str(served))
    assert set(model.signatures) == {"serving_default", "pixels"}
    for signature in model.signatures.values():
        specs = signature.structured_outputs
        assert specs["probabilities"].dtype == tf.float32 and specs["probabilities"].shape.as_list() == [None, 7]
        assert specs["labels"].dtype == tf.string and specs["label"].dtype == tf.string and specs["ok"].dtype == tf.bool
    empty = model.signatures["serving_default"](image_bytes=tf.constant([], tf.string))
    assert empty["probabilities"].shape == (0, 7)


def test_warm_up_requests_are_what_the_signatures_take(served: Path) -> None:
    """Read by the message types of TensorFlow Serving, made anew from their definitions."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorflow.core.framework import tensor_pb2

    file = descriptor_pb2.FileDescriptorProto(name="log.proto", package="log", syntax="proto3")
    types = {"string": 9, "bytes": 12}
    fields = {
        "Spec": [("name", 1, "string"), ("signature_name", 3, "string")],
        "Input": [("key", 1, "string"), ("value", 2, "bytes")],
        "Request": [("model_spec", 1, "Spec"), ("inputs", 2, "Input")],
        "Predict": [("request", 1, "Request")],
        "Log": [("predict_log", 6, "Predict")],
    }
    for name, parts in fields.items():
        message = file.message_type.add(name=name)
        for part, number, kind in parts:
            of = {"type": types[kind]} if kind in types else {"type": 11, "type_name": f".log.{kind}"}
            message.field.add(name=part, number=number, label=1, **of)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    log = message_factory.GetMessageClass(pool.FindMessageTypeByName("log.Log"))
    model = tf.saved_model.load(str(served))
    asked = []
    for record in tf.data.TFRecordDataset(str(served / "assets.extra" / "tf_serving_warmup_requests")):
        request = log.FromString(record.numpy()).predict_log.request
        tensor = tf.make_ndarray(tensor_pb2.TensorProto.FromString(request.inputs.value))
        signature = request.model_spec.signature_name
        answer = model.signatures[signature](**{request.inputs.key: tf.constant(tensor)})
        assert answer["ok"].numpy().tolist() == [True]
        asked.append(signature)
    assert sorted(asked) == ["pixels", "serving_default"]


def test_colour_and_stretch_travel_inside(colour_run_folder: Path, tmp_path: Path) -> None:
    report = export.export_savedmodel(colour_run_folder, tmp_path / "served")
    assert report.labels == ("calm", "glad", "tense") and report.largest_difference <= 1e-5
    facts = json.loads((tmp_path / "served" / "1" / "assets" / "emotiw.json").read_text())
    assert facts["labels"] == ["calm", "glad", "tense"]
    assert facts["preprocessing"]["channels"] == "rgb" and facts["preprocessing"]["min_max"] is True


def test_nothing_is_overwritten(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists"):
        export.export_savedmodel(run_folder, tmp_path / "there")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        export.export_savedmodel(run_folder, tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write"):
        export.export_savedmodel(run_folder, tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine" and sorted(each.name for each in tmp_path.iterdir()) == [
        "file",
        "there",
    ]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("x/variables; File too large", "File too large; free some space and run the same command again"),
        ("x; Disk quota exceeded", "Disk quota exceeded; free some space and run the same command again"),
        ("x; Permission denied", "Permission denied; choose a place that can be written"),
        ("another fault", "another fault"),
    ],
)
def test_what_tensorflow_says_of_a_disk_is_told_without_its_internals(
    told: str, said: str, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        name = "__wrapped__SaveV2_dtypes_20_device_/job:localhost/replica:0/task:0/device:CPU:0"
        raise tf.errors.UnknownError(None, None, f"{{{{function_node {name}}}}} {told} [Op:SaveV2]")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OutputError) as caught:
        export.export_savedmodel(run_folder, tmp_path / "out")
    assert str(caught.value) == f"cannot write {tmp_path / 'out'}: {said}"
    assert not list(tmp_path.iterdir())


def test_what_came_there_meanwhile_is_not_overwritten(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(predictor: Predictor, folder: Path) -> tuple[int, float]:
        (tmp_path / "served" / "1").mkdir(parents=True)
        return 0, 0.0

    monkeypatch.setattr(export, "compare_reloaded", meanwhile)
    with pytest.raises(OutputError, match="served exists already"):
        export.export_savedmodel(run_folder, tmp_path / "served")
    assert [each.name for each in tmp_path.iterdir()] == ["served"]
    assert [path.name for path in (tmp_path / "served").rglob("*")] == ["1"]


def test_a_model_that_answers_otherwise_is_refused(
    served: Path, colour_run_folder: Path, run_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="expected"):
        export.compare_reloaded(Predictor(colour_run_folder), served)
    predictor = Predictor(run_folder)
    kernel, bias = predictor.net.get_layer("fc8").get_weights()
    predictor.net.get_layer("fc8").set_weights([kernel, bias + np.eye(7)[0] * 1e-3])
    with pytest.raises(ModelError, match="differs by"):
        export.compare_reloaded(predictor, served)
    damaged = tmp_path / "damaged"
    shutil.copytree(served, damaged)
    (damaged / "saved_model.pb").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="does not run in a fresh process"):
        export.compare_reloaded(Predictor(run_folder), damaged)


def test_a_function_that_must_be_compiled_is_refused(served: Path, tmp_path: Path) -> None:
    export.refuse_must_compile(served)

    class Compiled(tf.Module):
        @tf.function(jit_compile=True, input_signature=[tf.TensorSpec((None,), tf.float32)])
        def double(self, x: tf.Tensor) -> tf.Tensor:
            return 2 * x

    tf.saved_model.save(Compiled(), str(tmp_path / "compiled"))
    with pytest.raises(ModelError, match="must be compiled by XLA"):
        export.refuse_must_compile(tmp_path / "compiled")


def test_a_failed_comparison_leaves_nothing_behind(run_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(run_folder, broken)
    net = Predictor(run_folder).net
    kernel, bias = net.get_layer("fc8").get_weights()
    net.get_layer("fc8").set_weights([kernel * np.nan, bias])
    net.save_weights(broken / "model.weights.h5")
    info = json.loads((broken / "run.json").read_text())
    from emotiw_keras.files import sha256_file

    info["weights"]["sha256"] = sha256_file(broken / "model.weights.h5")
    (broken / "run.json").write_text(json.dumps(info))
    with pytest.raises(ModelError, match="nan"):
        export.export_savedmodel(broken, tmp_path / "served")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["broken"]
    keras.backend.clear_session()
