"""A network of `keras.applications` through a whole run: stages and rules, a rebuilt run, scores, heat, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotiw_keras.cli.fit import fit as command
from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.gradcam import LayerCam
from emotiw_keras.models import build
from emotiw_keras.runs import Run
from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.serving.savedmodel_graph import ServedModel
from emotiw_keras.studies.staged import check_weights
from emotiw_keras.studies.staged_arms import Net
from emotiw_keras.training import fit as fitting
from emotiw_keras.training.fit import Outcome, fit
from emotiw_keras.training.prepared_data import prepare
from emotiw_keras.training.recipe import Recipe, load_recipe
from emotiw_keras.training.start import start_model

NAME = "keras:MobileNetV2"
RECIPE = f"""
name = "small"
data = ["fer"]
precision = "float32"

[model]
name = "{NAME}"
input_size = 32

[[stage]]
name = "head"
train = ["fer:train"]
val = ["fer:val"]
epochs = 2
batch_size = 14
random_crop = false
mirror = false
rules = [["classifier", 1.0], ["*", "freeze"]]
cache_features = true

[[stage]]
name = "end"
train = ["fer:train"]
epochs = 1
batch_size = 14
rules = [["block_1*", "freeze"], ["block_[2-9]*", "freeze"], ["*onv1*", "freeze"], ["expanded*", "freeze"], ["*", 1.0]]
initialise = ["block_16_*"]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("recipe") / "small.toml"
    # block_1* freezes block_10 to block_16 as well; only the last block and what follows it trains.
    file.write_text(RECIPE.replace('["block_1*", "freeze"]', '["block_16*", 1.0], ["block_1*", "freeze"]'))
    return str(file)


@pytest.fixture(scope="module")
def run(recipe: str, faces: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    outcome = fit(load_recipe(recipe), {"fer": faces["fer"]}, tmp_path_factory.mktemp("runs") / "small")
    assert outcome.run is not None
    return outcome.run


def test_frozen_layers_keep_weights_and_batch_statistics(run: Run) -> None:
    import keras

    keras.utils.set_random_seed(0)
    start = build(NAME, weights=None, classes=7, input_shape=(32, 32, 3), classifier_activation=None)
    end = run.build()
    moved = {
        old.name
        for old, new in zip(start.layers, end.layers, strict=True)
        if any(not np.array_equal(a, b) for a, b in zip(old.get_weights(), new.get_weights(), strict=True))
    }
    assert {"classifier", "Conv_1", "Conv_1_bn", "block_16_expand_BN", "block_16_depthwise"} <= moved
    assert all(name.startswith(("block_16_", "Conv_1", "classifier")) for name in moved)


def test_its_preprocessing_is_its_own(run: Run) -> None:
    assert run.settings["mean"] == run.settings["std"] == [127.5] * 3
    assert (run.settings["crop"], run.settings["channel_order"]) == (32, "rgb")


def test_it_is_served_as_it_was_trained(run: Run) -> None:
    predictor = Predictor(run)
    face = np.random.default_rng(0).integers(0, 256, (40, 40, 1), np.uint8)
    (probabilities,) = predictor.predict([face])
    assert probabilities.shape == (7,) and probabilities.sum() == pytest.approx(1, abs=1e-5)
    heat = LayerCam(predictor.net)(predictor.face_input(predictor.prepare(face)[None]), np.array([3]))
    assert heat.ndim == 3 and np.isfinite(heat).all()
    served = ServedModel(predictor.net, predictor.face_input, predictor.labels).classify(predictor.prepare(face)[None])
    np.testing.assert_allclose(served["probabilities"][0], probabilities, atol=1e-5)


def test_the_download_of_keras_is_what_a_run_starts_from(
    recipe: str, faces: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.utils import file_utils

    chosen = load_recipe(recipe, ["model.weights=imagenet"])
    real = file_utils.get_file
    monkeypatch.setattr(file_utils, "get_file", lambda *a, **k: real(*a, **{**k, "cache_dir": str(tmp_path / "cache")}))
    monkeypatch.setenv("EMOTIW_OFFLINE", "1")
    with pytest.raises(ModelError, match="imagenet weights of keras:MobileNetV2 are not in Keras' cache and EMOTIW_OFFLINE"):
        fit(chosen, {"fer": faces["fer"]}, tmp_path / "offline")
    assert not (tmp_path / "offline").exists()
    check_weights([Net(NAME, "imagenet")])  # of a study: Keras fetches them when the first run is built
    trunk = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3))
    with h5py.File(tmp_path / "published.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, trunk)
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(tmp_path / "published.h5"))
    prepared = prepare(chosen, {"fer": faces["fer"]})
    model = start_model(prepared.recipe, prepared.info, prepared.parent, lambda line: None)
    kernel = model.get_layer("Conv1").get_weights()[0]
    np.testing.assert_array_equal(kernel, trunk.get_layer("Conv1").get_weights()[0])


def test_one_width_and_the_near_name(recipe: str) -> None:
    with pytest.raises(UsageError, match="width of model is 0.5; keras:MobileNetV2 has one width, expected 1"):
        load_recipe(recipe, ["model.width=0.5"])
    with pytest.raises(UsageError, match="name of model is 'keras:MobileNetv2'; did you mean 'keras:MobileNetV2'"):
        load_recipe(recipe, ["model.name='keras:MobileNetv2'"])


@pytest.mark.parametrize("changes", [(), ("--set", "preprocessing.std=[64.0, 64.0, 64.0]")])
def test_a_recipe_of_another_network_lends_it_no_width_and_no_mean(
    changes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked: list[Recipe] = []

    def record(recipe: Recipe, *_: Any, **__: Any) -> Outcome:
        asked.append(recipe)
        return Outcome(None, ())

    monkeypatch.setattr(fitting, "fit", record)
    assert load_recipe("demo").model.width != 1 and load_recipe("demo").preprocessing.mean
    command.main(["demo", "--model", NAME, "--out", "x", *changes], standalone_mode=False)
    (recipe,) = asked
    assert (recipe.model.name, recipe.model.width, recipe.preprocessing.mean) == (NAME, 1.0, ())
    assert recipe.preprocessing.std == ((64.0, 64.0, 64.0) if changes else ())
    assert f"{NAME} in place of alexnet: with its own width, mean and deviation" in capsys.readouterr().err
