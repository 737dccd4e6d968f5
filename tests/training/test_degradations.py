"""Settings of a stage that spoil faces: their ranges, what a step is given, and the picture of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras.cli.main import run as command
from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.training.checked_fields import SettingError
from emotiw_keras.training.epoch_plan import StageCrops
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.stage import AUGMENTATIONS, Stage
from emotiw_keras.training.train_step import StageSteps

SPOILT = {"low_light": 0.5, "blur": 1.5, "noise": 20.0, "jpeg": 15, "occlude": 0.5}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"noise": -1.0}, "noise .* at least 0 and at most 255"),
        ({"noise": 256.0}, "noise .* at most 255"),
        ({"blur": 21.0}, "blur .* at most 20"),
        ({"jpeg": 0}, "jpeg .* at least 1"),
        ({"jpeg": 101}, "jpeg .* at most 100"),
        ({"low_light": 1.0}, "low_light .* at most 0.99"),
        ({"occlude": 1.5}, "occlude .* at most 1"),
        ({"noise": 5.0, "degrade": 0.0}, "degrade .* above 0"),
        ({"degrade": 0.2}, "nothing is set that it is the share of; set one of low_light, blur, noise, jpeg"),
        ({"occlude": 0.2, "degrade": 0.2}, "nothing is set that it is the share of"),
        ({"noise": 5.0, "rotate": 1.0, "cache_features": True}, "anew each epoch; leave out rotate, noise"),
        ({"kind": "head", "blur": 1.0}, "blur .* not heeded"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        Stage("s", train=("fer:train",), **settings)  # type: ignore[arg-type]


def test_every_change_counts_as_one() -> None:
    others = dict.fromkeys(("rotate", "zoom", "shift", "brightness", "contrast", "erase"), 0.1)
    changed = {**others, "resample": 2.0, **SPOILT}
    assert set(changed) == set(AUGMENTATIONS)
    for name, value in changed.items():
        assert Stage("s", train=("fer:train",), **{name: value}).augmentations == (name,)  # type: ignore[arg-type]
    assert not Stage("s", train=("fer:train",)).augmented


def test_old_recipes_mean_what_they_meant() -> None:
    stage = load_recipe("affwild2-senet50").stages[-1]
    assert stage.resample == 8 and stage.augmentations == ("resample",)


def test_a_step_sees_spoilt_faces_the_same_ones_each_time() -> None:
    """48 pixels that are not resized, as FaceVGG has them; a network that gives the mean of its input away."""
    stage = Stage("s", train=("fer:train",), random_crop=False, mirror=False, degrade=1.0, **SPOILT)  # type: ignore[arg-type]
    layer = FaceInput(resize=48, crop=48, mean=(120.0,) * 3, std=(60.0,) * 3, input_channels=1)
    model = keras.Sequential([keras.Input((48, 48, 1)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    steps = StageSteps(model, layer, stage, np.ones(2, np.float32), optimizer, (48, 48, 1))
    images = np.tile(np.arange(48, dtype=np.uint8)[:, None, None] * 4 + 30, (16, 1, 48, 1))
    crops = StageCrops(stage, 16, 0, (1, 1))
    seen = [np.asarray(steps._inputs(images, crops.draws_of_epoch(epoch))) for epoch in (0, 0, 1)]
    np.testing.assert_array_equal(seen[0], seen[1])
    clean = np.asarray(layer(images))
    for each in (seen[0], seen[2]):
        assert (np.abs(each - clean).mean(axis=(1, 2, 3)) > 0.02).all()
        levels = each * 60 + 120
        np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
        assert levels.min() >= -1e-3 and levels.max() <= 255 + 1e-3
    assert np.abs(seen[0] - seen[2]).mean() > 0.1
    loss, _ = steps.train(images, crops.draws_of_epoch(0), np.zeros(16, np.int32), 0.01)
    assert np.isfinite(loss)


def test_a_step_spoils_the_face_under_its_crop_and_not_what_the_middle_of_a_mean_image_makes_of_it() -> None:
    """An even face, of which the light goes, is even again without the mean that lay under its crop."""
    stage = Stage("s", train=("fer:train",), low_light=0.5, degrade=1.0)
    mean = np.linspace(90, 150, 56, dtype=np.float32)[None, :, None] + np.zeros((56, 56, 3), np.float32)
    layer = FaceInput(resize=56, crop=48, mean_image=mean)
    model = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    steps = StageSteps(model, layer, stage, np.ones(2, np.float32), optimizer, (56, 56, 1))
    draws = StageCrops(stage, 16, layer.room, (1, 1)).draws_of_epoch(0)
    inputs = steps._inputs(np.full((16, 56, 56, 1), 128, np.uint8), draws)
    seen = np.asarray(inputs + layer.mean_under(draws[:, :3]))
    assert set(draws[:, 2]) == {0, 1} and seen.max() < 126 and np.ptp(seen, axis=(1, 2, 3)).max() < 1e-3


def test_teachers_see_the_same_crops_before_anything_spoils_them() -> None:
    spoilt = {**SPOILT, "resample": 3.0, "occlude": 1.0, "rotate": 20.0, "shift": 0.1, "contrast": 0.3}
    stage = Stage("s", train=("fer:train",), degrade=1.0, **spoilt)  # type: ignore[arg-type]
    clear = Stage("s", train=("fer:train",), rotate=20.0, shift=0.1, contrast=0.3)
    layer = FaceInput(resize=48, crop=48, mean=(120.0,) * 3, std=(60.0,) * 3, input_channels=1)
    images = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 1), np.uint8)
    draws = StageCrops(stage, 8, 0, (1, 1)).draws_of_epoch(0)
    shown: list[np.ndarray] = []

    def teacher(inputs: Any, temperature: float) -> Any:
        shown.append(np.asarray(inputs))
        return keras.ops.ones((8, 2)) / 2

    model = keras.Sequential([keras.Input((48, 48, 1)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    steps = StageSteps(model, layer, stage, np.ones(2, np.float32), optimizer, (48, 48, 1), teachers=teacher)  # type: ignore[arg-type]
    inputs = np.asarray(steps._inputs(images, draws))
    steps._taught(tf.constant(images), tf.constant(draws), tf.constant(inputs))
    wanted = StageSteps(model, layer, clear, np.ones(2, np.float32), optimizer, (48, 48, 1))._inputs(images, draws)
    np.testing.assert_array_equal(shown[0], np.asarray(wanted))
    assert (np.abs(shown[0] - inputs).mean(axis=(1, 2, 3)) > 0.02).all()
    # where nothing spoils them the teachers see the very inputs, which are not computed again
    plain = StageSteps(model, layer, clear, np.ones(2, np.float32), optimizer, (48, 48, 1), teachers=teacher)  # type: ignore[arg-type]
    plain._taught(tf.constant(images), tf.constant(draws), tf.constant(inputs))
    np.testing.assert_array_equal(shown[1], inputs)


def test_the_picture_shows_what_is_seen(
    recipe_file: Path, faces: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [f"--data={name}={path}" for name, path in faces.items()]
    arguments = ["fit", str(recipe_file), *data, f"--out={tmp_path / 'run'}", f"--show-batch={tmp_path / 'seen.png'}"]
    assert command([*arguments, "--set", "one.noise=60", "--set", "one.degrade=1.0", "--set", "one.occlude=1.0"]) == 0
    assert "nothing was trained" in capsys.readouterr().err and not (tmp_path / "run").exists()
    sheet = cv2.imread(str(tmp_path / "seen.png"), cv2.IMREAD_GRAYSCALE).astype(float)
    assert sheet.shape == (2 * (26 + 6 + 8 * 118), 6 + 8 * 118)
    rough = np.abs(np.diff(sheet, axis=1))
    # the first stage, as it is and in its first epoch; the second is not spoilt
    clean, first = rough[32:970, 6:118], rough[32:970, 124:236]
    assert first.mean() > 2 * clean.mean()
    assert rough[1010:1940, 124:236].mean() < 1.5 * rough[1010:1940, 6:118].mean()
    assert command([*arguments[:-1], f"--show-batch={tmp_path / 'seen.png' / 'again.png'}"]) == 6
    assert command([*arguments[:-1], f"--show-batch={tmp_path / 'seen.jpg'}"]) == 2
    assert "seen.jpg: the picture of a batch is a PNG; expected a name that ends in .png" in capsys.readouterr().err
    # what is not trained is not shown
    assert command([*arguments, "--set", "one.val_least=1000", "--set", "one.noise=60"]) == 0
    assert "stage one is left out" in capsys.readouterr().err
    assert cv2.imread(str(tmp_path / "seen.png")).shape[0] == 26 + 6 + 8 * 118
    alone = ["fit", "finetune", f"--data=data={faces['target']}", *arguments[-2:]]
    assert command(alone) == 2
    assert "stage all is left out" in (told := capsys.readouterr().err) and "give more, or --set all.val_least=0" in told
