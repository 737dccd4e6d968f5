"""The light engines: they answer as Keras does, without importing it, and refuse what they cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from emotiw_keras import engines
from emotiw_keras.bulk.job import settled
from emotiw_keras.data.generated import draw_faces
from emotiw_keras.errors import EmotiwError, ModelError, RunError, UsageError
from emotiw_keras.files import sha256_file
from emotiw_keras.inference import Inference
from emotiw_keras.light_inference import LightInference
from emotiw_keras.models import registry
from emotiw_keras.run_facts import WEIGHTS_FILE
from emotiw_keras.runs import Run
from emotiw_keras.serving import auto, speeds
from emotiw_keras.serving.auto import Automatic
from emotiw_keras.serving.predictor import Predictor
from tests.serving.zoo_runs import ANY_SIZE, ONE_SIZE, faces_for, reading_features, zoo_run

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares with TensorFlow")
HERE = engines.installed()
NETWORKS = [*ANY_SIZE, *(pytest.param(name, marks=pytest.mark.slow) for name in ONE_SIZE)]


@pytest.mark.parametrize("count", [1, 5, 100])
@pytest.mark.parametrize(
    "name",
    [
        *(name for name in ANY_SIZE if not name.startswith("squeezenet")),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ONE_SIZE if name != "senet50"),
    ],
)
def test_a_classifier_on_several_activations_answers_as_keras_does(name: str, count: int, tmp_path: Path) -> None:
    one_size = name in ONE_SIZE
    size = registry.get_spec(name).input_size if one_size else 50 if name == "face_vgg" else 71
    run = reading_features(zoo_run(tmp_path / "run", name, size, 1.0 if one_size else 0.125), count)
    assert auto.settled_engine("auto", run) == "auto"
    faces = faces_for(run.settings)
    expected = Inference(run, faces.shape[1:], 1)(faces)
    assert expected.std(axis=0).max() > 0.05
    for engine in HERE:
        tolerance = 1e-4 if one_size else 3e-5  # what scales their random answers apart scales their rounding too
        np.testing.assert_allclose(LightInference(run, 1, engine)(faces), expected, atol=tolerance, err_msg=engine)


@pytest.mark.parametrize("engine", HERE)
def test_threads_may_share_a_network(engine: str, tmp_path: Path) -> None:
    run = zoo_run(tmp_path / "run", "face_vgg", 48, 0.125, input_channels=1)
    network = LightInference(run, 1, engine)
    batches = [faces_for(run.settings) for _ in range(8)]
    batches = [np.roll(batch, number, axis=1) ^ np.uint8(16 * number) for number, batch in enumerate(batches)]
    expected = [network(batch) for batch in batches]
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            for one, other in zip(pool.map(network, batches), expected, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)


def test_activations_that_keras_alone_can_find_are_left_to_tensorflow(tmp_path: Path) -> None:
    run = zoo_run(tmp_path / "run", "squeezenet", 71, 0.125)
    run.info["model"]["features"] = 5
    assert auto.settled_engine("auto", run) == "tensorflow"
    words = "engine='opencv' cannot do this: the network of .* is built by Keras alone.*, or a file that `emotiw export"
    with pytest.raises(UsageError, match=words):
        auto.settled_engine("opencv", run)


def test_a_classifier_that_does_not_fit_its_activations_is_one_line(tmp_path: Path) -> None:
    run = reading_features(zoo_run(tmp_path / "run", "face_vgg", 48, 0.125, input_channels=1), 3)
    run.info["model"]["features"] = 4
    for engine in HERE:
        with pytest.raises(ModelError, match=f"{engine} cannot compute the network of .*") as error:
            LightInference(run, 1, engine)(faces_for(run.settings))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_as_keras_does(name: str, tmp_path: Path) -> None:
    one_size = name in ONE_SIZE
    size = registry.get_spec(name).input_size if one_size else 48 if name == "face_vgg" else 71
    run = zoo_run(tmp_path / "run", name, size, 1.0 if one_size else 0.125)
    faces = faces_for(run.settings)
    expected = Inference(run, faces.shape[1:], 1)(faces)
    assert expected.std(axis=0).max() > 1e-3 or name.startswith("squeezenet")  # random squeezenets answer evenly
    tolerance = 3e-5 if one_size else 1e-5  # what scales their random answers apart scales their rounding too
    for engine in HERE:
        np.testing.assert_allclose(LightInference(run, 1, engine)(faces), expected, atol=tolerance, err_msg=engine)


@pytest.mark.parametrize("crops", [1, 2, 10])
@pytest.mark.parametrize(
    "settings",
    [{}, {"min_max": True}, {"channels": "rgb", "std": [50.0, 60.0, 70.0]}, {"input_channels": 1}],
    ids=["grey", "stretched", "colour", "one channel"],
)
def test_faces_are_prepared_as_the_layer_prepares_them(settings: dict[str, Any], crops: int, tmp_path: Path) -> None:
    run = zoo_run(tmp_path / "run", "alexnet", 67, 0.125, **settings)
    faces = faces_for(run.settings)
    expected = Inference(run, faces.shape[1:], crops)(faces)
    np.testing.assert_allclose(LightInference(run, crops, "opencv")(faces), expected, atol=1e-5)


@pytest.mark.parametrize("place", ["resize", "crop"])
def test_a_mean_image_is_subtracted_where_it_lies(place: str, tmp_path: Path) -> None:
    run = zoo_run(tmp_path / "run", "alexnet", 67, 0.125)
    side = run.settings["resize" if place == "resize" else "crop"]
    np.save(run.path / "mean_image.npy", np.random.default_rng(1).uniform(50, 200, (side, side, 3)).astype(np.float32))
    info = json.loads((run.path / "run.json").read_text())
    info["preprocessing"] |= {"mean_image": "mean_image.npy", "mean_image_at": place}
    (run.path / "run.json").write_text(json.dumps(info))
    run = Run.open(run.path)
    faces = faces_for(run.settings)
    expected = Inference(run, faces.shape[1:], 2)(faces)
    np.testing.assert_allclose(LightInference(run, 2, "opencv")(faces), expected, atol=1e-5)


@pytest.mark.parametrize("engine", HERE)
def test_the_shipped_model_answers_alike_in_batches_of_all_sizes(engine: str) -> None:
    run = Run.open("fer28-face-vgg-votes")
    faces = draw_faces(70, size=48)[0]
    expected = Inference(run, faces.shape[1:])(faces)
    light = LightInference(run, None, engine)
    for count in (1, 2, 33, 70):
        np.testing.assert_allclose(light(faces[:count]), expected[:count], atol=1e-5)
    np.testing.assert_array_equal(light(faces[:5]), light(faces[:5]))


@pytest.mark.slow
def test_every_first_label_of_fer2013s_private_test_is_the_same(shared_data: Path) -> None:
    from emotiw_keras.data.load import load_faces

    faces = load_faces(shared_data / "fer2013" / "fer2013_jpg.zip", near_duplicates=0)
    pixels = faces.pixels.gather(faces.indices("test"))
    expected = Predictor("fer28-face-vgg-votes", engine="tensorflow").predict(pixels)
    for engine in HERE:
        found = Predictor("fer28-face-vgg-votes", engine=engine).predict(pixels)
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).all(), engine
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=engine)


def photo(folder: Path) -> Path:
    path = folder / "face.png"
    Image.fromarray(np.repeat(draw_faces(1, size=200)[0][0], 3, axis=-1)).save(path)
    return path


def test_a_light_engine_imports_no_framework(tmp_path: Path) -> None:
    """Faces are looked for, one is computed, one input is broken: with all that the command imports on the way."""
    face, broken = photo(tmp_path), tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no image")
    code = (
        "import sys\nfrom emotiw_keras.cli.main import run\n"
        f"codes = [run(['predict', {str(face)!r}]), run(['predict', {str(face)!r}, {str(broken)!r}, '--faces', 'whole'])]\n"
        "print(*codes, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    *rows, last = done.stdout.splitlines()
    assert last.split()[:2] == ["0", "3"] and len(rows) == 3 and "broken.jpg: error" in rows[2]
    modules = {name.split(".")[0] for name in last.split()[2:]}
    assert (
        modules & {"tensorflow", "keras", "jax", "torch", "onnxruntime", "openvino", "scipy", "sklearn", "matplotlib"} == set()
    )
    assert {"cv2", "numpy", "h5py"} <= modules


@pytest.mark.parametrize("engine", HERE)
def test_an_engine_leaves_nothing_in_the_users_folders(engine: str, tmp_path: Path) -> None:
    """ONNX Runtime and OpenVINO keep there what they send to their makers, unless they are kept from it."""
    code = (
        "import numpy as np\nfrom emotiw_keras.serving.predictor import Predictor\n"
        f"Predictor('fer28-face-vgg', engine={engine!r}).faces(np.zeros((50, 50, 3), np.uint8))\n"
    )
    there = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | there
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [path.name for path in tmp_path.rglob("*")] == []


def test_openvino_is_imported_without_what_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "openvino_telemetry": "",
        "openvino": "try:\n    import openvino_telemetry\n    told = True\nexcept ImportError:\n    told = False",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert not engines.openvino_module().told and "openvino_telemetry" not in sys.modules
    del sys.modules["openvino"]
    import openvino_telemetry  # somebody else uses it

    assert engines.openvino_module().told and sys.modules["openvino_telemetry"] is openvino_telemetry
    del sys.modules["openvino"], sys.modules["openvino_telemetry"]


@pytest.mark.parametrize("engine", ["auto", *HERE])
def test_rows_are_the_same_whatever_computes(predict: Callable, tmp_path: Path, engine: str) -> None:
    face = photo(tmp_path)
    (tmp_path / "cut.png").write_bytes(face.read_bytes()[:200])
    inputs = ("face.png", "cut.png", "missing.png", "--faces", "whole", "--crops", 10)
    expected, found = (predict(*inputs, "--engine", each) for each in ("tensorflow", engine))
    assert found.code == expected.code == 3 and found.err == expected.err
    for one, other in zip(found.rows, expected.rows, strict=True):
        chances, others = one.pop("probabilities"), other.pop("probabilities")
        assert one == other
        assert chances is others or chances == pytest.approx(others, abs=1e-5)


def damaged_runs(folder: Path) -> dict[str, Path]:
    """Runs that must be refused, with the words for it."""
    from tests.conftest import write_run

    runs = {}
    for words in ("nan or infinite numbers in layer conv2", "has SHA-256", "do not fit", "must lie between"):
        run = runs[words] = write_run(folder / words.split()[0] / "run")
        info = json.loads((run / "run.json").read_text())
        if words.startswith("nan"):
            import h5py

            with h5py.File(run / WEIGHTS_FILE, "r+") as file:
                file["layers/grouped_conv2d/vars/1"][...] = np.nan
            info["weights"]["sha256"] = sha256_file(run / WEIGHTS_FILE)
        elif words.startswith("has"):
            info["weights"]["sha256"] = "0" * 64
        elif words.startswith("do"):
            info["weights"]["variables"][0][1][0] += 1
        else:
            info["preprocessing"]["resize"] = info["preprocessing"]["crop"] - 1
        (run / "run.json").write_text(json.dumps(info))
    return runs


def test_damage_is_told_in_the_same_words(tmp_path: Path) -> None:
    def told(run: Path, engine: str) -> tuple[type, str]:
        with pytest.raises(EmotiwError) as error:
            Predictor(run, engine=engine).predict(np.zeros((1, 76, 76, 1), np.uint8) + 7)
        return type(error.value), str(error.value)

    for words, run in damaged_runs(tmp_path).items():
        kind, line = told(run, "opencv")
        assert words in line and "\n" not in line
        assert (kind, line) == told(run, "tensorflow"), words


@pytest.mark.parametrize("engine", HERE)
def test_faces_that_overflow_are_told_though_engines_take_nan_for_nought(engine: str, tmp_path: Path) -> None:
    run = zoo_run(tmp_path / "run", "alexnet", 67, 0.125)
    run.settings.update(std=[1e-30] * 3, mean=[1e20] * 3)
    with pytest.raises(ModelError, match="answers nan or infinity for 3 of 3 faces"):
        LightInference(run, 2, engine)(faces_for(run.settings))


def test_what_no_light_engine_can_do_is_refused_or_left_to_tensorflow(run_folder: Path, tmp_path: Path) -> None:
    asked = [(engine, "mixed_float16") for engine in engines.installed()]
    for engine, precision in (*asked, ("opencv", "mixed_bfloat16")):
        with pytest.raises(UsageError, match=f"'{engine}' cannot do this: it does not compute in {precision} here; [^,]*$"):
            Predictor(run_folder, engine=engine, precision=precision)
    assert auto.settled_engine("auto", Run.open(run_folder), "mixed_float16") == "tensorflow"
    with pytest.raises(UsageError, match="engine='gpu': expected one of auto, tensorflow"):
        Predictor(run_folder, engine="gpu")
    lite = zoo_run(tmp_path / "lite", "efficientnet_lite0", 64, 0.25)
    with pytest.raises(UsageError, match="efficientnet_lite0.* is built by Keras alone"):
        Predictor(lite, engine="opencv")
    assert auto.settled_engine("auto", lite) == "tensorflow" and Predictor(run_folder).engine == "auto"


@pytest.mark.skipif(
    not engines.computing_in("mixed_bfloat16"), reason="OpenVINO is not installed, or the processor lacks bfloat16"
)
@pytest.mark.parametrize("engine", ["openvino", "auto"])
def test_openvino_computes_in_bfloat16_where_that_is_asked_for(engine: str, run_folder: Path) -> None:
    run = Run.open(run_folder)
    faces = faces_for(run.settings)
    exact = LightInference(run, 1, "openvino")(faces)
    found = Predictor(run, engine=engine, precision="mixed_bfloat16", crops=1)
    assert 0 < np.abs(found.predict(faces) - exact).max() < 0.05
    assert settled(engine, run, "mixed_bfloat16") == "openvino"


def test_bfloat16_is_left_to_tensorflow_where_no_light_engine_has_it(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.LIGHT, "openvino", "no_such_module")
    assert engines.computing_in("mixed_bfloat16") == ()
    assert auto.settled_engine("auto", Run.open(run_folder), "mixed_bfloat16") == "tensorflow"


def test_an_engine_that_is_not_installed_is_named(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.LIGHT, "openvino", "no_such_module")
    with pytest.raises(UsageError, match=r"engine='openvino' is not installed; `pip install openvino`"):
        Predictor(run_folder, engine="openvino")


def test_explaining_takes_tensorflow_or_is_refused(predict: Callable, tmp_path: Path, run_folder: Path) -> None:
    photo(tmp_path)
    refused = predict("face.png", "--faces", "whole", "--explain", "why", "--engine", "opencv")
    assert refused.code == 2 and "--engine opencv" in refused.err and not (tmp_path / "why").exists()
    assert predict("face.png", "--faces", "whole", "--explain", "why").code == 0
    assert [path.name for path in (tmp_path / "why").iterdir()] == ["face-face0.png"]
    with pytest.raises(UsageError, match="engine='opencv' knows no Keras network"):
        _ = Predictor(run_folder, engine="opencv").net
    predictor = Predictor(run_folder)
    assert predictor.net.output_shape == (None, 7) and predictor.engine == "tensorflow"


class Timed:
    """In place of the engines: each is named, and as fast as a table says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **rates: float) -> None:
        self.opened: list[str] = []
        self.timed: list[float] = []

        def rate(compute: Any, shape: Any) -> float:
            self.timed.append(rates[compute.name])
            return rates[compute.name]

        monkeypatch.setattr(auto, "open_engine", self.open)
        monkeypatch.setattr(engines, "installed", lambda: ("opencv", "onnxruntime"))
        monkeypatch.setattr(speeds, "_rate", rate)

    def open(self, engine: str, *arguments: Any) -> Callable:
        self.opened.append(engine)

        def compute(faces: np.ndarray) -> np.ndarray:
            return np.ones((len(faces), 7), np.float32)

        compute.name = engine  # type: ignore[attr-defined]
        return compute


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / speeds.FOLDER


def automatic(run: Path) -> Automatic:
    return Automatic(Run.open(run), 1, (76, 76, 1))


def test_few_faces_stay_with_what_starts_fastest(run_folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    timed = Timed(monkeypatch, opencv=10.0, onnxruntime=20.0)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    several = automatic(run_folder)
    several(np.zeros((auto.SOME - 1, 1, 1, 1), np.uint8))
    assert several.engine == "opencv" and timed.opened == ["opencv"] and not timed.timed and not cache.exists()


def test_where_onnx_runtime_finds_the_faces_it_soon_reads_them_until_both_are_timed(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    timed = Timed(monkeypatch, opencv=20.0, onnxruntime=10.0, tensorflow=5.0)
    monkeypatch.setitem(sys.modules, "onnxruntime", sys)
    several = automatic(run_folder)
    several(np.zeros((auto.SOON - 1, 1, 1, 1), np.uint8))
    assert several.engine == "opencv" and timed.opened == ["opencv"]
    several(np.zeros((1, 1, 1, 1), np.uint8))
    assert several.engine == "onnxruntime" and timed.opened == ["opencv", "onnxruntime"] and not timed.timed
    several(np.zeros((auto.SOME - auto.SOON, 1, 1, 1), np.uint8))
    assert several.engine == "opencv" and timed.opened == ["opencv", "onnxruntime"] and timed.timed == [20.0, 10.0]


def test_some_faces_are_worth_onnx_runtime_and_nothing_that_starts_later(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    timed = Timed(monkeypatch, opencv=10.0, onnxruntime=20.0, tensorflow=30.0)
    some = automatic(run_folder)
    for _ in range(4):
        some(np.zeros((auto.SOME // 2, 1, 1, 1), np.uint8))
    assert some.engine == "onnxruntime" and timed.opened == ["opencv", "onnxruntime"] and timed.timed == [10.0, 20.0]
    some(np.zeros((auto.MANY, 1, 1, 1), np.uint8))  # TensorFlow is imported here
    assert some.engine == "tensorflow" and timed.timed == [10.0, 20.0, 30.0]


def test_many_faces_go_on_with_the_fastest_which_is_timed_once(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    timed = Timed(monkeypatch, opencv=10.0, onnxruntime=20.0, tensorflow=15.0)
    for count in (1, 2):
        many = automatic(run_folder)
        for _ in range(2):
            many(np.zeros((auto.MANY, 1, 1, 1), np.uint8))
        # TensorFlow is imported here, so that its start costs nothing more.
        assert many.engine == "onnxruntime" and sorted(timed.timed) == [10.0, 15.0, 20.0], count
    (kept,) = cache.glob("*.json")
    kept.write_text(kept.read_text().replace("20.0", "2.0"))  # damaged: the checksum tells, and it is timed anew
    many = automatic(run_folder)
    many(np.zeros((auto.MANY, 1, 1, 1), np.uint8))
    assert many.engine == "onnxruntime" and len(timed.timed) == 6 and "20.0" in kept.read_text()


def test_a_cache_that_cannot_be_written_keeps_nothing(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMOTIW_CACHE", str(tmp_path / "file"))
    Timed(monkeypatch, opencv=30.0, onnxruntime=20.0, tensorflow=40.0)
    many = automatic(run_folder)
    many(np.zeros((auto.MANY, 1, 1, 1), np.uint8))
    assert many.engine == "tensorflow"


def test_tensorflow_is_never_imported_to_compute_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open("fer28-face-vgg-votes")
    assert auto._may_use_tensorflow(run)  # it is imported already
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert not auto._may_use_tensorflow(run)
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "tensorflow")
    assert not auto._may_use_tensorflow(run)


def test_a_rate_is_faces_a_second() -> None:
    assert 0 < speeds._rate(lambda faces: faces, (4, 4, 1)) < float("inf")


def test_a_graph_that_an_engine_cannot_compute_is_one_line() -> None:
    for engine in HERE:
        with pytest.raises(ModelError, match=f"{engine} cannot compute the network of there") as error:
            engines.load(engine, b"\x08\x08no model", "there")
        assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    run = zoo_run(tmp_path / "run", "alexnet", 67, 0.125)
    info = json.loads((run.path / "run.json").read_text())
    info["model"]["name"] = "squeezenet"
    (run.path / "run.json").write_text(json.dumps(info))
    with pytest.raises(RunError, match="do not fit squeezenet"):
        LightInference(Run.open(run.path), 1, "opencv")
