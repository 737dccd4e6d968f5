"""A run as a small folder to ship: weights in 16 bits, calibrated probabilities."""

from __future__ import annotations

import lzma
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.optimize import minimize_scalar

from emotiw_keras.data.columns import pick
from emotiw_keras.errors import DataError, ModelError, OutputError
from emotiw_keras.evaluation.assessment import Assessment
from emotiw_keras.evaluation.evaluate import assess
from emotiw_keras.evaluation.metrics import expected_calibration_error
from emotiw_keras.files import check_room, sha256_file, write_atomic, writing
from emotiw_keras.locking import sweep_beside
from emotiw_keras.models.registry import get_spec
from emotiw_keras.models.weights import save
from emotiw_keras.runs import INFO_FILE, PACKED_ROWS_FILE, WEIGHTS_FILE, Run, believed_hashes
from emotiw_keras.sealed import sealed_json

KEPT = ("recipe.toml", "history.csv", "curves.png", "mean_image.npy")
TEMPERATURES = (0.2, 5.0)
LARGEST_CHANGE = 0.02
"""How far a probability may move by the weights' rounding; beyond it the network is not packed."""


@dataclass(frozen=True)
class Packed:
    """What `pack` did.

    Attributes:
        path: the new folder.
        megabytes: its size.
        temperature: what the logits were divided by.
        ece: expected calibration error on the images it was chosen on, before and after.
        largest_change: of a probability on those images, by rounding the weights alone.
    """

    path: Path
    megabytes: float
    temperature: float
    ece: tuple[float, float]
    largest_change: float


def best_temperature(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature that makes the true classes most likely (Guo et al. 2017, section 4.2).

    Args:
        truth: int (n,), the true class.
        probabilities: float (n, classes), rows summing to 1.

    Example:
        >>> sure = np.full((10, 2), (0.999, 0.001))
        >>> bool(best_temperature(np.array([0] * 8 + [1] * 2), sure) > 2)      # sure of all, right in eight of ten
        True
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        return float(np.mean(np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(truth)), truth]))

    return float(minimize_scalar(loss, bounds=TEMPERATURES, method="bounded").x)


def pack(
    run: Run, out: str | os.PathLike[str], source: str | os.PathLike[str], *, split: str = "val", crops: int | None = None,
    say: Callable[[str], None] | None = None,
) -> Packed:  # fmt: skip
    """Write a run as a small run folder: weights of 16 bits, logits divided by the temperature that suits a split, rows zipped.

    The temperature changes the probabilities, never the predicted class. Checkpoints, TensorBoard's files and the paths of the
    data are left out. Everything that reads run folders reads this one; training can start from it, but not be resumed.

    Args:
        run: a finished run.
        out: the new folder.
        source: data with the split.
        split: images that the temperature is chosen on; never those of the final score. Images that the run was trained on are
            left out: it is more confident on them.
        crops: crops of a face that the packed run averages over by default; None for what the run says.
        say: called with each line for the user.

    Raises:
        DataError: bad data, or too few images.
        ModelError: the network cannot be rounded to 16 bits.
        OutputError: `out` exists or cannot be written.

    Example:
        >>> pack(Run.open("runs/fer"), "fer-small", "fer2013.zip").temperature     # doctest: +SKIP
        0.83
    """
    target = Path(out)
    if target.exists():
        raise OutputError(f"{target} exists already; name a new folder")
    sweep_beside(target)
    before = assess(run, source, split=split, crops=crops, say=say)
    new = _new_to(run, before)
    truth, probabilities = _answers(before, new)
    if len(truth) < 2 * probabilities.shape[1]:
        raise DataError(
            f"split {split!r} of {source} has {len(truth)} images that can be read and that the run was not trained on, too "
            "few to choose a temperature"
        )
    temperature = best_temperature(truth, probabilities)
    temporary = target.absolute().with_name(f".{os.getpid()}.{target.name}")
    with writing(target):
        try:
            temporary.mkdir(parents=True)
            info = {**run.info, "crops": before.question.crops, "sources": {}}
            rounded = _write(run, temporary, info, 1.0)
            change = float(np.abs(_answers(assess(rounded, source, split=split), new)[1] - probabilities).max())
            if not change <= LARGEST_CHANGE:
                raise ModelError(f"with weights of 16 bits a probability moves by {change:.3g}; {run.path} is not packed")
            packed = _write(run, temporary, info, temperature)
            after = _answers(assess(packed, source, split=split), new)[1]
            ece = (expected_calibration_error(truth, probabilities), expected_calibration_error(truth, after))
            facts = {"bits": 16, "temperature": temperature, "chosen_on": split, "images": len(truth), "ece": ece}
            _write_info(temporary, {**packed.info, "packed": facts})
            size = sum(file.stat().st_size for file in temporary.iterdir())
            os.rename(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Packed(target, size / 1e6, temperature, ece, change)


def _new_to(run: Run, assessment: Assessment) -> np.ndarray:
    """bool (n,): the images of an assessment that can be read and that the run, or what it came from, had not trained on."""
    trained = {row["pixel_hash"] for row in run.each_row() if row["status"] == "train"}
    hashes = pick(assessment.faces.pixel_hash, assessment.indices)
    return assessment.predictions.readable & np.array([pixel_hash not in trained for pixel_hash in hashes])


def _answers(assessment: Assessment, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return assessment.predictions.truth[rows], assessment.predictions.probabilities[rows]


def _write(run: Run, folder: Path, info: dict[str, Any], temperature: float) -> Run:
    """The packed run in `folder`, its logits divided by `temperature`."""
    net = run.build()
    classifier = net.get_layer(get_spec(run.model_name).classifier)
    classifier.set_weights([value / temperature for value in classifier.get_weights()])
    whole, weights = folder / "whole.weights.h5", folder / WEIGHTS_FILE
    save(net, whole)
    _halve(whole, weights)
    whole.unlink()
    for name in KEPT:
        if (run.path / name).is_file():
            write_atomic(folder / name, run.content(name))
    # Each image is there once per stage, too far apart for a compressor that looks back less far.
    write_atomic(folder / PACKED_ROWS_FILE, lzma.compress(run.data_csv(), preset=9))
    info = {**info, "files": {}, "weights": {**info["weights"], "sha256": sha256_file(weights)}}
    _write_info(folder, info)
    return Run.open(folder)


def _halve(source: Path, target: Path) -> None:
    """Copy a weight file with every array in 16 bits."""
    check_room(target, source.stat().st_size // 2)
    with h5py.File(source) as old, h5py.File(target, "w") as new:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                values = item[...].astype(np.float16)
                if not np.isfinite(values).all():
                    raise ModelError(f"{name} holds numbers beyond those of 16 bits")
                new.create_dataset(name, data=values)
            else:
                new.create_group(name).attrs.update(item.attrs)

        old.visititems(copy)


def _write_info(folder: Path, info: dict[str, Any]) -> None:
    write_atomic(folder / INFO_FILE, sealed_json({**info, "files": believed_hashes(folder)}))
