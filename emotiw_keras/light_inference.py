"""A run's network in a light engine: `inference.Inference` without TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras import engines
from emotiw_keras.data.host import HostFaceInput
from emotiw_keras.data.preprocessing_settings import crop_places
from emotiw_keras.errors import DataError, RunError
from emotiw_keras.inference import checked_answers, checked_crops
from emotiw_keras.onnx_network import network_graph

if TYPE_CHECKING:
    from emotiw_keras.runs import Run

AT_ONCE = 64
"""Crops that are computed together, at most: more make nothing faster."""


class LightInference:
    """The network of a run, from uint8 faces to probabilities; arguments and errors are those of `inference.Inference`.

    Args:
        run: a finished run whose network `onnx_network.is_known`.
        crops: 1, 2 or 10; None for what the run says.
        engine: a name in `engines.LIGHT`.
        precision: what it computes in, as `engines.load` has it.
    """

    def __init__(self, run: Run, crops: int | None, engine: str, precision: str = "float32") -> None:
        self.crops = checked_crops(crops, run.crops)
        self._called = run.called
        if run.settings.get("mean_image"):
            run.content(run.settings["mean_image"])
        try:
            self._input = HostFaceInput(run.settings, run.path)
        except DataError as error:
            raise RunError(f"{run.path} is damaged: {error}") from error
        self._places = crop_places(self._input.room, self.crops)
        self._net = engines.load(engine, network_graph(run, precision), run.called, precision=precision)

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Probabilities of a batch: uint8 (batch, height, width, channels) -> float32 (batch, classes).

        Raises:
            ModelError: the network answers with numbers that are not finite, or the engine cannot compute it.
        """
        few = max(1, AT_ONCE // self.crops)
        parts = [self._few(faces[start : start + few]) for start in range(0, len(faces), few)]
        return checked_answers(np.concatenate(parts), self._called)

    def _few(self, faces: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            crops = np.concatenate([self._input(faces, place) for place in self._places])
        answers = self._net(crops)
        # Engines take nan for 0 in a ReLU, and then answer with numbers.
        answers[~np.isfinite(crops).all(axis=(1, 2, 3))] = np.nan
        each = answers.reshape(self.crops, len(faces), -1)
        return each.mean(axis=0, dtype=np.float64).astype(np.float32)
