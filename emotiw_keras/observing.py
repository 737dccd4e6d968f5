"""How large the activations of a run's network become for some faces, and what computing in int8 by them changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras import engines
from emotiw_keras.activations import Activations
from emotiw_keras.data.host import HostFaceInput
from emotiw_keras.data.preprocessing_settings import crop_places
from emotiw_keras.errors import ModelError
from emotiw_keras.formats.onnx_quantised import ENDS
from emotiw_keras.light_inference import LightInference
from emotiw_keras.onnx_network import observing_graph

if TYPE_CHECKING:
    from emotiw_keras.runs import Run

AT_ONCE = 32


def observed(run: Run, faces: np.ndarray) -> Activations:
    """The ranges of the activations that faces give, each as it is and mirrored.

    Args:
        run: a finished run whose network `onnx_network.is_known`.
        faces: uint8 (n, side, side, channels) of the run's size, n at least 1.

    Raises:
        RunError, ModelError: the run is damaged, or its network has a step that has no form in int8.
    """
    model, names = observing_graph(run)
    compute = engines.load(engines.installed()[0], model, run.called, ENDS)
    prepare = HostFaceInput(run.settings, run.path)
    ends = [
        compute(prepare(faces[start : start + AT_ONCE], place))
        for start in range(0, len(faces), AT_ONCE)
        for place in crop_places(prepare.room, 2)
    ]
    columns = np.concatenate(ends)
    if not np.isfinite(columns).all():
        raise ModelError(f"the network of {run.called} gives nan or infinity for these faces; train it anew")
    low, high = columns[:, : len(names)].min(axis=0), columns[:, len(names) :].max(axis=0)
    ranges = {name: (float(least), float(most)) for name, least, most in zip(names, low, high, strict=True)}
    return Activations(run.fingerprint, images=len(faces), compared=0, same=0.0, ranges=ranges)


def compared(run: Run, faces: np.ndarray) -> tuple[float, float]:
    """What int8 changes: the share of faces that get the answer of float32, and the largest difference of a probability.

    Args:
        run: with a head chosen, where it has several; its folder holds the ranges of its activations.
        faces: uint8 (n, side, side, channels) of the run's size.

    Raises:
        As `LightInference`.
    """
    (engine, *_) = engines.computing_in("int8")
    exact, coarse = (LightInference(run, None, engine, precision)(faces) for precision in ("float32", "int8"))
    same = (exact.argmax(axis=1) == coarse.argmax(axis=1)).mean()
    return float(same), float(np.abs(exact - coarse).max())
