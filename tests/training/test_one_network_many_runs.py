"""One network object that is given to several runs: each answers with its own weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from emotiw_keras import Predictor, Run, Stage, StagedFineTuner
from emotiw_keras import inference as inference_module

FACES = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 1)).astype(np.uint8)
CLASSES = np.arange(40) % 3


def plain() -> keras.Model:
    keras.utils.set_random_seed(1)
    middle = [layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3, "softmax", name="out")]
    return keras.Sequential([keras.Input((12, 12, 1)), layers.Rescaling(1 / 255), layers.Flatten(), *middle])


def logits() -> keras.Model:
    keras.utils.set_random_seed(1)
    image = keras.Input((12, 12, 1))
    inner = keras.Sequential([keras.Input((144,)), layers.Dense(4, "relu"), layers.BatchNormalization()], name="inner")
    return keras.Model(image, layers.Dense(3, name="out")(inner(layers.Flatten()(image) / 255.0)))


def uncopied() -> keras.Model:
    """Keras makes no Lambda of a function anew."""
    keras.utils.set_random_seed(1)
    first = layers.Lambda(lambda x: x / 255.0, output_shape=(12, 12, 1))
    return keras.Sequential([keras.Input((12, 12, 1)), first, layers.Flatten(), layers.Dense(3, "softmax", name="out")])


def trained(model: keras.Model, folder: Path, turn: int) -> Run:
    stage = Stage("s", train=("d:train",), epochs=1, optimizer="adam", learning_rate=0.02)
    tuner = StagedFineTuner(model, [stage], data={"d": (FACES, (CLASSES + turn) % 3)}, run_dir=folder, say=None)
    run = tuner.fit()
    assert run is not None
    return run


@pytest.mark.parametrize("make", [plain, logits, uncopied])
@pytest.mark.parametrize("constant", [True, False], ids=["constants", "variables"])
def test_each_predictor_answers_with_the_weights_of_its_run(
    make: Callable[[], keras.Model], constant: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not constant:
        monkeypatch.setattr(inference_module, "CONSTANT_WEIGHTS", 0)
    model = make()
    runs = [trained(model, tmp_path / str(turn), turn) for turn in range(2)]
    want = [Predictor(run.path, model=make()).predict(list(FACES)) for run in runs]
    assert np.abs(want[0] - want[1]).max() > 0.01
    before = [weight.copy() for weight in model.get_weights()]
    first = Predictor(runs[0])
    np.testing.assert_allclose(first.predict(list(FACES[:2])), want[0][:2], atol=1e-5)
    second = Predictor(runs[1].path, model=model)
    for _ in range(2):
        for predictor, answers in zip((first, second), want, strict=True):
            np.testing.assert_allclose(predictor.predict(list(FACES)), answers, atol=1e-5)
        if make is not uncopied:
            for one, other in zip(before, model.get_weights(), strict=True):
                np.testing.assert_array_equal(one, other)
        model.set_weights([0 * weight for weight in before])
        before = model.get_weights()


def test_a_network_that_fits_a_finished_run_again_takes_its_weights(tmp_path: Path) -> None:
    want = trained(model := plain(), tmp_path / "run", 0) and model.get_weights()
    trained(again := plain(), tmp_path / "run", 0)
    for one, other in zip(want, again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
