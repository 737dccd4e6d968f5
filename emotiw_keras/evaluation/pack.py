"""A run as a small folder to ship: weights in 16 bits, calibrated probabilities."""

from __future__ import annotations

import lzma
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emotiw_keras.activations import ACTIVATIONS_FILE
from emotiw_keras.data.annotated_videos import VideoSet
from emotiw_keras.data.resize import as_taken
from emotiw_keras.data.votes import VOTED, check_votes
from emotiw_keras.engines import computing_in
from emotiw_keras.errors import ModelError, OutputError, UsageError
from emotiw_keras.evaluation.assessment import Assessment
from emotiw_keras.evaluation.calibration import Unseen, unseen
from emotiw_keras.evaluation.evaluate import assess, read_once, under_conditions
from emotiw_keras.evaluation.metrics import at_temperature, best_temperature, expected_calibration_error
from emotiw_keras.files import check_room, local_path, place_new, sha256_file, write_atomic, writing
from emotiw_keras.locking import sweep_beside
from emotiw_keras.models.registry import get_spec
from emotiw_keras.models.weights import save
from emotiw_keras.observing import compared, observed
from emotiw_keras.onnx_network import is_known
from emotiw_keras.out_of_fold import read_out_of_fold, write_out_of_fold
from emotiw_keras.packed_rows import PACKED_ROWS_FILE
from emotiw_keras.run_facts import WEIGHTS_FILE
from emotiw_keras.runs import INFO_FILE, Run, believed_hashes
from emotiw_keras.sealed import sealed_json
from emotiw_keras.uncertainty import UNCERTAINTY_FILE, Usable, usable, usable_json
from emotiw_keras.without_places import info_without_places, recipe_without_places

RECIPE_FILE = "recipe.toml"
KEPT = (RECIPE_FILE, "history.csv", "curves.png", "mean_image.npy")
CLEAN, ROBUST = "clean", "robust"
CALIBRATE = (CLEAN, ROBUST)
OBSERVED, COMPARED = 256, 2_000
"""Faces whose activations int8 goes by, and faces that are read in it and in float32."""
MOST_CHANGED = 0.02
"""The share of them that may get another answer, be it one of fifty or fewer; with more int8 is not offered."""
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
        heads: of several heads, each one's temperature and calibration error before and after.
        chosen_on: the images: a split, or "cross-validation" of a classifier that was fitted again on its validation images.
    """

    path: Path
    megabytes: float
    temperature: float
    ece: tuple[float, float]
    largest_change: float
    heads: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    chosen_on: str = "val"


def pack(
    run: Run, out: str | os.PathLike[str], source: str | os.PathLike[str], *, split: str = "val", crops: int | None = None,
    votes: str | None = None, votes_rows: str | None = None, head: str | None = None, calibrate: str = "clean",
    say: Callable[[str], None] | None = None,
) -> Packed:  # fmt: skip
    """Write a run as a small run folder: weights of 16 bits, logits divided by the temperature that suits a split, rows zipped.

    The temperature changes the probabilities, not the predicted class, but for near ties where several crops are averaged: the
    packed run divides the logits of each and averages then, while the temperature is chosen as if those of their mean were
    divided. Beside them stands up to which entropy the answers, of
    each head its own, are usable (`emotiw_keras.uncertainty`), by the same images. Checkpoints and
    TensorBoard's files are left out, and so is where data, votes, teachers and the weights to start from lay; the names of the
    images stay. Everything that reads run folders reads this one; training can start from it, but not be resumed.

    Args:
        run: a finished run.
        out: the new folder.
        source: data with the split.
        split: images that the temperature is chosen on; never those of the final score. Images that the run was trained on are
            left out: it is more confident on them. Where its classifier was fitted again on the validation images (`refit`),
            the temperature is chosen by what it said of images in the folds that they were left out of.
        crops: crops of a face that the packed run averages over by default; None for what the run says.
        votes, votes_rows: FER+'s votes for `source` (see `load_faces`): of several heads, the one with `ferplus8`'s classes has
            its temperature by their majority. Each head has a temperature of its own.
        head: of several heads, the one whose answers the packed run gives by default; None for the run's own choice.
        calibrate: the faces that the temperature suits: "clean", as they are; "robust", the same faces also under each of
            `conditions.CONDITIONS`, all together, for pictures of other cameras.
        say: called with each line for the user.

    Raises:
        DataError: bad data, or too few images.
        ModelError: the network cannot be rounded to 16 bits.
        OutputError: `out` exists or cannot be written.
        UsageError: the run has no such head, or none that votes are for; `votes_rows` without `votes`; another word than those
            for `calibrate`, or "robust" where the images are a cross-validation's or in videos.

    Example:
        >>> pack(Run.open("runs/fer"), "fer-small", "fer2013.zip").temperature     # doctest: +SKIP
        0.83
    """
    if calibrate not in CALIBRATE:
        raise UsageError(f"calibrate = {calibrate!r}; expected one of {', '.join(CALIBRATE)}")
    check_votes(votes, votes_rows)
    target = local_path(out)
    if target.exists():
        raise OutputError(f"{target} exists already; name a new folder")
    if head is not None:
        run = run.with_head(head)
    runs = {each.name: run.with_head(each.name) for each in run.heads} or {"": run}
    voted = {name for name, one in runs.items() if name and one.labels == VOTED and votes is not None}
    if votes is not None and not voted:
        raise UsageError(f"votes are for a head with the classes {', '.join(VOTED)}, which {run.called} does not have")
    sweep_beside(target)
    read = read_once(say)

    def answered(side: Run, name: str, **options: Any) -> Assessment:
        if name in voted:
            options |= {"votes": votes, "votes_rows": votes_rows}
        return assess(side, source, split=split, near_duplicates=0, read=read, **options)

    sides = {name: _Side(run, answered(one, name, crops=crops, say=say), calibrate, say) for name, one in runs.items()}
    temperatures = {name: side.temperature for name, side in sides.items()}
    main = "" if run.head is None else run.head.name
    temporary = target.absolute().with_name(f".{os.getpid()}.{target.name}")

    def answers(packed: Run, name: str) -> np.ndarray:
        return answered(packed.with_head(name) if name else packed, name).predictions.probabilities

    with writing(target):
        try:
            temporary.mkdir(parents=True)
            info = info_without_places(run.info) | {"crops": sides[main].before.question.crops}
            if main:
                info |= {"head": main, "labels": list(run.labels)}
            rounded = _write(run, temporary, info, dict.fromkeys(sides, 1.0))
            change = max(
                float(np.nanmax(np.abs(answers(rounded, name) - side.before.predictions.probabilities)))
                for name, side in sides.items()
            )
            if not change <= LARGEST_CHANGE:
                raise ModelError(f"with weights of 16 bits a probability moves by {change:.3g}; {run.path} is not packed")
            packed = _write(run, temporary, info, temperatures)
            each: dict[str, dict[str, Any]] = {}
            limits: dict[str, Usable] = {}
            for name, side in sides.items():
                after = side.scaled() if side.by.rows is None else answers(packed, name)[side.by.rows]
                each[name] = side.facts(after, packed.with_head(name) if name else packed)
                limits[name] = usable(side.by.truth, after, packed.fingerprint, side.by.chosen_on)
            if (folds := read_out_of_fold(run)) is not None:
                write_out_of_fold(temporary, run.labels, folds[0], at_temperature(folds[1], temperatures[main]))
            write_atomic(temporary / UNCERTAINTY_FILE, usable_json(limits.pop(main), limits))
            _settle_int8(packed, sides[main].before, say or (lambda line: None))
            facts = {"bits": 16, **each[main], **({"heads": each} if main else {})}
            if "packed" in run.info:
                facts["before"] = run.info["packed"]  # its temperatures are in the weights already
            _write_info(temporary, {**packed.info, "packed": facts})
            size = sum(file.stat().st_size for file in temporary.iterdir())
            place_new(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    found = {name: (facts["temperature"], facts["ece"][0], facts["ece"][1]) for name, facts in each.items()}
    return Packed(
        target, size / 1e6, temperatures[main], found[main][1:], change, found if main else {}, each[main]["chosen_on"]
    )


def _settle_int8(packed: Run, assessment: Assessment, say: Callable[[str], None]) -> None:
    """Write how large the activations of a packed run become for some of the images, if answers in int8 are nearly those in
    float32; a line says which, or why not."""
    if not is_known(packed):
        return say("not for --precision int8: its network is known to Keras alone")
    if not computing_in("int8"):
        return say(
            "not for --precision int8: that takes ONNX Runtime and a processor that multiplies bytes (VNNI); pack it there"
        )

    faces = assessment.faces
    readable = [index for index in assessment.indices.tolist() if faces.status[index] == "ok"]

    def some(count: int) -> np.ndarray:
        places = np.unique(np.linspace(0, len(readable) - 1, min(len(readable), count), dtype=int))
        return np.stack([as_taken(image, channels, side) for image in faces.pixels.gather(np.array(readable)[places])])

    channels, side = 1 if packed.settings["channels"] == "grey" else 3, packed.settings["resize"]
    file = packed.path / ACTIVATIONS_FILE
    try:
        found = observed(packed, some(OBSERVED))
    except ModelError as error:
        return say(f"not for --precision int8: {error}")
    write_atomic(file, found.to_json())
    images = some(COMPARED)
    sides = [packed.with_head(head.name) for head in packed.heads] or [packed]
    each = [compared(side, images) for side in sides]
    same, change = min(share for share, _ in each), max(difference for _, difference in each)
    told = f"of {len(images):,} images {same:.1%} get the same answer, and a probability moves by at most {change:.2g}"
    if round((1 - same) * len(images)) > max(1, MOST_CHANGED * len(images)):
        file.unlink()
        return say(f"not for --precision int8: {told}; all but {MOST_CHANGED:.0%} must be the same")
    write_atomic(file, replace(found, compared=len(images), same=same).to_json())
    say(f"--precision int8: {told}")


class _Side:
    """An answer of the run, a head's or its only one: what it said of the images, and the temperature that suits it.

    Attributes:
        before: its answers, as the run gives them.
        by: those about images that trained nothing.
        temperature: what its logits are to be divided by.
    """

    def __init__(self, run: Run, before: Assessment, calibrate: str, say: Callable[[str], None] | None) -> None:
        self.before, self.by, self._say = before, unseen(run, before), say
        self._spoilt = _spoilt(before.run, self.by, before, say) if calibrate == ROBUST else {}
        shown = [self.by.probabilities, *self._spoilt.values()]
        self.temperature = best_temperature(np.tile(self.by.truth, len(shown)), np.concatenate(shown))

    def scaled(self) -> np.ndarray:
        """What it says at its temperature, of images that trained nothing."""
        return at_temperature(self.by.probabilities, self.temperature)

    def facts(self, after: np.ndarray, packed: Run) -> dict[str, Any]:
        """What run.json says of it, calibration errors before and after, by what the packed run says."""
        truth, say = self.by.truth, self._say
        facts: dict[str, Any] = {"temperature": self.temperature, "chosen_on": self.by.chosen_on, "images": len(truth)}
        facts["ece"] = [expected_calibration_error(truth, said) for said in (self.by.probabilities, after)]
        if self._spoilt:
            then = _spoilt(packed, self.by, self.before, say and (lambda line: say(f"once packed: {line}")))
            facts["conditions"] = {CLEAN: facts["ece"]} | {
                name: [expected_calibration_error(truth, said) for said in (self._spoilt[name], then[name])] for name in then
            }
        return facts


def _spoilt(run: Run, by: Unseen, assessment: Assessment, say: Callable[[str], None] | None) -> dict[str, np.ndarray]:
    """A run's probabilities of images of an assessment under each of `conditions.CONDITIONS`, by name: float32 (n, classes)."""
    if by.rows is None:
        raise UsageError(
            f"the images of split {assessment.question.split!r} trained the run (refit), and its cross-validation knows them "
            "as they are alone; to calibrate by spoilt faces too name images that are new to it"
        )
    faces, crops = assessment.faces, assessment.question.crops
    if isinstance(faces, VideoSet):
        raise UsageError(f"spoilt are single faces, but {assessment.question.source} is a set of videos; name a set of images")
    answers = under_conditions(run, faces, assessment.indices[by.rows], crops=crops, say=say)
    return {condition.name: shares for condition, shares in answers}


def _write(run: Run, folder: Path, info: dict[str, Any], temperatures: Mapping[str, float]) -> Run:
    """The packed run in `folder`, its logits divided by a temperature, those of each head by its own."""
    net = run.build_logits() if run.heads else run.build()
    classifier = net.get_layer(get_spec(run.model_name).classifier)
    parts = [np.full(len(head.labels), temperatures[head.name]) for head in run.heads]
    by = np.concatenate(parts).astype(np.float32) if parts else temperatures[""]
    classifier.set_weights([value / by for value in classifier.get_weights()])
    whole, weights = folder / "whole.weights.h5", folder / WEIGHTS_FILE
    save(net, whole)
    _halve(whole, weights)
    whole.unlink()
    for name in KEPT:
        if (run.path / name).is_file():
            content = run.content(name)
            write_atomic(folder / name, recipe_without_places(content, persons=True) if name == RECIPE_FILE else content)
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
