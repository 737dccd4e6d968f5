"""Networks in int8: nearly the answers of float32, by ranges that are those of the activations, or a line why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from emotiw_keras import engines, observing
from emotiw_keras.activations import ACTIVATIONS_FILE, Activations
from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.data.generated import draw_faces
from emotiw_keras.errors import ModelError, RunError, UsageError
from emotiw_keras.formats.foreign import Node
from emotiw_keras.formats.onnx_quantised import quantised, without_batch_norms
from emotiw_keras.formats.onnx_writing import onnx_bytes
from emotiw_keras.hardware import multiplies_bytes
from emotiw_keras.light_inference import LightInference
from emotiw_keras.observing import compared, observed
from emotiw_keras.onnx_network import network_graph
from emotiw_keras.runs import Run
from emotiw_keras.serving import auto
from emotiw_keras.serving.predictor import Predictor
from tests.serving.zoo_runs import ANY_SIZE, ONE_SIZE, faces_for, reading_features, zoo_run

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares with Keras on TensorFlow")
with_products_of_bytes = pytest.mark.skipif(
    not engines.computing_in("int8"), reason="takes ONNX Runtime and a processor with VNNI"
)
SHIPPED = ("fer28-face-vgg", "fer28-face-vgg-votes")
# In EfficientNet-Lite0 random weights carry so little that rounding the kernels alone makes half of an answer.
NETWORKS = [*ANY_SIZE, *(pytest.param(name, marks=pytest.mark.slow) for name in ONE_SIZE if name != "efficientnet_lite0")]


def settled(run: Run, faces: np.ndarray) -> Run:
    """The run, its folder saying how large its activations are for these faces."""
    (run.path / ACTIVATIONS_FILE).write_text(observed(run, faces).to_json())
    return Run.open(run.path)


def small(folder: Path, **changes: object) -> Run:
    return zoo_run(folder / "run", "face_vgg", 48, 0.125, input_channels=1, **changes)


def varied_faces(run: Run) -> np.ndarray:
    """Faces of noise, dark, plain and bright, which a network of random weights tells apart."""
    noise = faces_for(run.settings)
    return np.stack([noise[0] // 4, noise[1], 255 - noise[2] // 6])


def centred(probabilities: np.ndarray) -> np.ndarray:
    logits = np.log(np.maximum(probabilities, 1e-30))
    return logits - logits.mean(axis=1, keepdims=True)


@with_products_of_bytes
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_nearly_as_in_float32(name: str, tmp_path: Path) -> None:
    one_size = name in ONE_SIZE
    size = 224 if one_size else 48 if name == "face_vgg" else 71
    run = zoo_run(tmp_path / "run", name, size, 1.0 if one_size else 0.125)
    faces = varied_faces(run)
    run = settled(run, faces)
    exact, coarse = (centred(LightInference(run, 1, "onnxruntime", kind)(faces)) for kind in ("float32", "int8"))
    assert np.abs(exact - coarse).max() > 1e-6
    spread = np.std(exact - exact.mean(axis=0))
    assert np.std(exact - coarse) < 0.2 * spread, f"{np.std(exact - coarse)} of {spread}"


@with_products_of_bytes
def test_a_classifier_on_several_activations_answers_nearly_alike(tmp_path: Path) -> None:
    run = reading_features(small(tmp_path), 5)
    faces = varied_faces(run)
    run = settled(run, faces)
    exact, coarse = (centred(LightInference(run, 2, "onnxruntime", kind)(faces)) for kind in ("float32", "int8"))
    assert 1e-6 < np.abs(exact - coarse).max() < 0.2 * exact.std()


def test_the_ranges_are_those_of_the_activations_in_keras(tmp_path: Path) -> None:
    run = small(tmp_path)
    faces = faces_for(run.settings)
    found = observed(run, faces)
    prepare, mirrored = FaceInput.from_settings(run.settings), np.array([[0, 0, 1]] * len(faces))
    prepared = np.concatenate([np.asarray(prepare(faces, places)) for places in (None, mirrored)])
    assert found.images == len(faces) and found.weights == run.fingerprint
    net = run.build()
    layers = {f"relu_{layer.name.removesuffix('_relu')}": layer for layer in net.layers if layer.name.endswith("_relu")}
    assert layers.keys() <= found.ranges.keys() and len(layers) == 10
    for name, layer in layers.items():
        values = np.asarray(keras.Model(net.inputs, layer.output)(prepared, training=False))
        assert found.ranges[name] == pytest.approx((values.min(), values.max()), rel=1e-3, abs=1e-4), name


def test_the_graph_means_what_its_operators_say(tmp_path: Path) -> None:
    """ONNX's own evaluator, which fuses nothing and has words wide enough on every processor, gives what the engine gives."""
    onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator

    run = small(tmp_path)
    faces = faces_for(run.settings)
    run = settled(run, faces)
    prepared = np.random.default_rng(0).uniform(-2, 2, (2, 1, 48, 48)).astype(np.float32)
    model = network_graph(run, "int8")
    loaded = onnx.load_from_string(model)
    loaded.opset_import[0].version = 19  # the first of the evaluator; what we use of these operators is as it was
    (told,) = evaluator(loaded).run(None, {"faces": prepared})
    exact = engines.load("opencv", network_graph(run), "it")(prepared)
    assert 1e-6 < np.abs(told - exact).max() < 0.1
    if multiplies_bytes():
        np.testing.assert_allclose(engines.load("onnxruntime", model, "it")(prepared), told, atol=0.01)


@with_products_of_bytes
def test_zeros_around_a_picture_stay_zeros_and_dead_channels_are_no_division_by_zero() -> None:
    settings = {"stride": (1, 1), "pad": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
    nodes = [
        Node("conv", "a", ("data",), ("a",), ("a.weight",), settings),
        Node("conv", "b", ("a",), ("b",), ("b.weight", "b.bias"), settings),
        Node("relu", "r", ("b",), ("r",)),
        Node("fc", "f", ("r",), ("f",), ("f.weight",)),
    ]
    first, kernel = np.zeros((3, 3, 1, 1), np.float32), np.zeros((3, 3, 1, 2), np.float32)
    first[1, 1], kernel[..., 0] = 1, 1  # the second channel is dead
    weights = np.zeros((32, 2), np.float32)
    weights[0, 0] = 0.1  # of a corner, around which five of nine values are zeros of the padding
    arrays = {"a.weight": first, "b.weight": kernel, "b.bias": np.array([0, 0.5], np.float32), "f.weight": weights}
    faces = np.full((1, 1, 4, 4), 5, np.float32)
    # The smallest activation is far from zero, and zero must have a step of its own all the same.
    model = quantised(nodes, arrays, (4, 4, 1), 2, {"a": (3.0, 7.0), "r": (0.0, 60.0)})
    (answer,) = engines.load("onnxruntime", model, "it")(faces)
    assert np.log(answer[0] / answer[1]) == pytest.approx(0.1 * 4 * 5, abs=0.05)
    dead = quantised(nodes, arrays, (4, 4, 1), 2, {"a": (0.0, 0.0), "r": (0.0, 0.0)})
    assert np.isfinite(engines.load("onnxruntime", dead, "it")(faces)).all()
    with pytest.raises(ModelError, match="how large r becomes is not known"):
        quantised(nodes, arrays, (4, 4, 1), 2, {"a": (0.0, 1.0)})


def test_batch_normalisations_go_into_their_convolutions() -> None:
    generator = np.random.default_rng(3)
    settings = {"stride": (1, 1), "pad": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
    nodes = [
        Node("conv", "c", ("data",), ("c",), ("c.weight",), settings),
        Node("batch_norm", "n", ("c",), ("n",), ("n.mean", "n.variance"), {"epsilon": 1e-3}),
        Node("scale", "s", ("n",), ("s",), ("n.gamma", "n.beta")),
        Node("fc", "f", ("s",), ("f",), ("f.weight", "f.bias")),
    ]
    arrays = {
        "c.weight": generator.normal(size=(3, 3, 2, 4)).astype(np.float32),
        **{f"n.{name}": generator.uniform(0.5, 2, 4).astype(np.float32) for name in ("mean", "variance", "gamma", "beta")},
        "f.weight": generator.normal(0, 0.05, (64, 3)).astype(np.float32),
        "f.bias": np.zeros(3, np.float32),
    }
    faces = generator.normal(size=(2, 2, 4, 4)).astype(np.float32)
    before = engines.load("opencv", onnx_bytes(nodes, arrays, (4, 4, 2), 3), "it")(faces)
    kept, folded = without_batch_norms(nodes, arrays)
    assert [node.op for node in kept] == ["conv", "fc"]
    np.testing.assert_allclose(engines.load("opencv", onnx_bytes(kept, folded, (4, 4, 2), 3), "it")(faces), before, atol=1e-5)
    lone = [replace(nodes[1], inputs=("data",)), *nodes[2:]]
    with pytest.raises(ModelError, match="layer n: batch normalisation has a form in int8 behind a convolution alone"):
        without_batch_norms(lone, arrays)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_models_that_ship_say_how_large_their_activations_are(name: str) -> None:
    run = Run.open(name)
    told = run.activations
    assert told is not None and told.images == 256 and told.compared == 2_000 and told.same > 0.985
    faces = draw_faces(70, size=48)[0]
    names = observed(run, faces[:8]).ranges
    assert told.ranges.keys() == names.keys()
    if engines.computing_in("int8"):
        same, most = compared(run, faces)
        assert same > 0.95 and 1e-6 < most < 0.15
        np.testing.assert_allclose(
            Predictor(name, precision="int8").predict(list(faces)), Predictor(name).predict(list(faces)), atol=0.15
        )


def test_what_cannot_be_computed_in_int8_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small(tmp_path)
    monkeypatch.setattr(auto, "multiplies_bytes", lambda: True)
    monkeypatch.setattr(engines, "multiplies_bytes", lambda: True)
    with pytest.raises(UsageError, match="does not say how large its activations are.*`emotiw pack"):
        Predictor(run, precision="int8")
    with pytest.raises(UsageError, match="does not say how large"):
        network_graph(run, "int8")
    run = settled(run, faces_for(run.settings))
    for engine in ("tensorflow", "opencv"):
        with pytest.raises(UsageError, match="only ONNX Runtime and OpenVINO multiply bytes"):
            Predictor(run, precision="int8", engine=engine)
    run.info["model"]["name"], run.info["model"]["given"] = "mine", True
    with pytest.raises(UsageError, match="is known to Keras alone"):
        auto.settled_engine("auto", run, "int8")
    with monkeypatch.context() as patch:
        patch.setattr(engines, "installed", lambda: ("opencv",))
        with pytest.raises(UsageError, match="neither ONNX Runtime nor OpenVINO is installed"):
            Predictor(SHIPPED[0], precision="int8")
    monkeypatch.setattr(auto, "multiplies_bytes", lambda: False)
    with pytest.raises(UsageError, match="this processor has no products of bytes"):
        Predictor(SHIPPED[0], precision="int8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ranges": {"data": [1.0, float("inf")]}}, "does not hold the ranges"),
        ({"ranges": {"data": [1.0, 0.5]}}, "does not hold the ranges"),
        ({"ranges": {"data": [0.0, 10**400]}}, "does not hold the ranges"),
        ({"ranges": {"data": [-1e300, 1e300]}}, "does not hold the ranges"),
        ({"compared": -7}, "does not hold the ranges"),
        ({"ranges": {"data": 3}}, "does not hold the ranges"),
        ({"same": 2.0}, "does not hold the ranges"),
        ({"images": "many"}, "does not hold the ranges"),
        ({"weights": "0" * 64}, "of other weights"),
    ],
)
def test_a_damaged_file_is_told(change: dict[str, object], told: str, tmp_path: Path) -> None:
    run = small(tmp_path)
    whole = Activations(run.fingerprint, 3, 3, 1.0, {"data": (0.0, 1.0)})
    (run.path / ACTIVATIONS_FILE).write_text(replace(whole, **change).to_json())
    with pytest.raises(RunError, match=f"is damaged: .*{told}"):
        _ = run.activations
    (run.path / ACTIVATIONS_FILE).write_text(whole.to_json().replace("1.0", "9.0"))
    with pytest.raises(RunError, match="is damaged"):
        _ = run.activations


@with_products_of_bytes
@pytest.mark.parametrize(("least", "most"), [(0.0, 1e-320), (0.0, 0.0), (-1e29, 1e29)])
def test_ranges_that_no_face_gave_are_no_traceback(least: float, most: float, tmp_path: Path) -> None:
    run = settled(small(tmp_path), faces_for(small(tmp_path / "again").settings))
    ranges = dict.fromkeys(run.activations.ranges, (least, most))
    (run.path / ACTIVATIONS_FILE).write_text(replace(run.activations, ranges=ranges).to_json())
    answers = engines.load("onnxruntime", network_graph(run, "int8"), "it")(np.zeros((1, 1, 48, 48), np.float32))
    assert answers.shape == (1, 5)
    del ranges["relu_conv4_3"]
    (run.path / ACTIVATIONS_FILE).write_text(replace(run.activations, ranges=ranges).to_json())
    with pytest.raises(RunError, match=f"{run.path} is damaged.*in {ACTIVATIONS_FILE} how large relu_conv4_3 becomes"):
        network_graph(run, "int8")


@with_products_of_bytes
def test_the_keras_network_is_refused_and_answers_go_on() -> None:
    predictor = Predictor(SHIPPED[0], precision="int8")
    for name in ("net", "face_input"):
        with pytest.raises(UsageError, match="precision='int8' is computed without the Keras network"):
            getattr(predictor, name)
    assert predictor.predict(list(draw_faces(2, size=48)[0])).shape == (2, 7)


@with_products_of_bytes
def test_a_network_that_gives_no_numbers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small(tmp_path)
    monkeypatch.setattr(observing.engines, "load", lambda *_: lambda batch: np.full((len(batch), 26), np.nan))
    with pytest.raises(ModelError, match="gives nan or infinity for these faces"):
        observed(run, faces_for(run.settings))


def test_explain_does_not_compute_in_int8(emotiw: Callable, tmp_path: Path) -> None:
    done = emotiw("predict", tmp_path, "--precision", "int8", "--explain", tmp_path / "why")
    assert done.returncode == 2 and "which does not compute in int8" in done.stderr and "Traceback" not in done.stderr
