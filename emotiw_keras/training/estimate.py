"""How long a stage will take, by timing a few of its steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from emotiw_keras.data.device import FaceInput
from emotiw_keras.training.optimizers import make_optimizer
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.steps import StageSteps

BATCH = 16
STEPS = 3


def seconds_per_image(model: keras.Model, settings: Mapping[str, Any], stage: Stage) -> float:
    """Seconds one training image takes, the best of a few small steps on empty images.

    Args:
        model: with the stage's rules applied; its weights change.
        settings: `FaceInput` settings.
        stage: optimizer and rates.
    """
    face_input = FaceInput.from_settings({**settings, "mean_image": None})
    optimizer = make_optimizer(stage, model.trainable_variables, {})
    steps = StageSteps(model, face_input, stage, np.ones(model.output_shape[-1], np.float32), optimizer, (48, 48, 1))
    images, labels = np.zeros((BATCH, 48, 48, 1), np.uint8), np.zeros(BATCH, np.int32)
    times = []
    for _ in range(STEPS):
        start = time.monotonic()
        steps.train(images, np.zeros((BATCH, 3), np.int32), labels, stage.learning_rate)
        times.append(time.monotonic() - start)
    return min(times) / BATCH
