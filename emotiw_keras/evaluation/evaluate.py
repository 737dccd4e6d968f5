"""Score a run on the images of one split: read, predict, measure, report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.data.columns import pick
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.generated import is_generated, read_any
from emotiw_keras.data.layouts import classes_of
from emotiw_keras.data.layouts.listing import class_names
from emotiw_keras.data.video_reading import checked
from emotiw_keras.data.videos import VideoSet
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.evaluation.metrics import scores
from emotiw_keras.evaluation.report import Predictions, write_report
from emotiw_keras.evaluation.sheet import Caption, contact_sheet
from emotiw_keras.evaluation.splits import SPLITS, found_again, has_own_splits, known_splits, select, stratified
from emotiw_keras.evaluation.videos import FrameAnswers, answer_every_picture, per_video, per_video_csv
from emotiw_keras.files import write_atomic

if TYPE_CHECKING:
    from emotiw_keras.runs import Run

CROPS = (1, 10)
SHEET_FACES = 48
# From this share of a split's images on, an epoch was chosen on that split; a few duplicates between splits are fewer.
SELECTED_SHARE = 0.05

Progress = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True)
class Assessment:
    """The figures of one run on one split, with what they were computed from.

    Attributes:
        result: the figures, in DESIGN's keys of `emotiw evaluate --json`.
        predictions: every image of the split, unreadable ones included.
        indices: int (n,), where those images stand in `faces`.
        faces: the data set as read.
        answers: of a set of videos, the probabilities of every picture, labelled or not, where they were asked for.
    """

    result: dict[str, Any]
    predictions: Predictions
    indices: np.ndarray
    faces: FaceSet
    answers: FrameAnswers | None = None


def read_source(run: Run, source: str | os.PathLike[str], limit: int | None = None) -> FaceSet:
    """Read `source` as the run reads faces: its labels, its channels, its size, without the classes that it left out.

    Args:
        run: a finished run.
        source: anything `read_faces` recognises, or "generated:large" or "generated:small".
        limit: images per split at most.

    Raises:
        DataError: the source is missing or bad, or holds classes that the run does not know.
    """
    grey = run.settings["channels"] == "grey"
    unwanted = run.info.get("leave_out", [])
    if unwanted:
        unwanted = [] if is_generated(source) else sorted(class_names(classes_of(source)) & class_names(unwanted))
    options = {"grey": grey, "size": run.settings["resize"], "leave_out": unwanted, "limit": limit}
    return read_any(source, labels=tuple(run.labels), check=False, **options)


def predict(
    run: Run,
    faces: FaceSet,
    indices: np.ndarray,
    *,
    crops: int = 1,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> np.ndarray:
    """The run's probabilities for some images of a set, computed in float32.

    Args:
        run: a finished run.
        faces: the set; its pixels are uint8 (height, width, 1 or 3).
        indices: int (n,), readable images of the set.
        crops: 1 for the centre crop, 10 for the mean of the four corners and the centre, plain and mirrored.
        batch_size: images computed at once.
        progress: called with (images done, images in all) after each batch.

    Returns:
        float32 (n, classes), rows summing to 1.
    """
    import tensorflow as tf

    from emotiw_keras.data.device import ten_crops

    net = run.build()
    face_input = run.face_input()
    images_spec = tf.TensorSpec((None, *faces.pixels.shape), tf.uint8)

    # A batch axis of unknown size: the last, smaller batch needs no second trace.
    @tf.function(input_signature=[images_spec])
    def centre(images: Any) -> Any:
        return net(face_input(images), training=False)

    @tf.function(input_signature=[images_spec, tf.TensorSpec((None, 3), tf.int32)])
    def cropped(images: Any, places: Any) -> Any:
        return net(face_input(images, crops=places), training=False)

    def compute(images: np.ndarray) -> np.ndarray:
        batch = tf.constant(images)
        if crops == 1:
            return np.asarray(centre(batch), np.float32)
        each = [
            np.asarray(cropped(batch, tf.constant(np.tile(place, (len(images), 1))))) for place in ten_crops(face_input.room)
        ]
        return np.stack(each).mean(axis=0, dtype=np.float64).astype(np.float32)

    probabilities = np.empty((len(indices), len(faces.labels)), np.float32)
    starts = list(range(0, len(indices), batch_size))
    # One batch ahead: a set streamed from disk is decoded while the net computes.
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = [reader.submit(faces.pixels.gather, indices[: starts[0] + batch_size])] if starts else []
        for number, start in enumerate(starts):
            images = pending.pop().result()
            if number + 1 < len(starts):
                following = starts[number + 1]
                pending.append(reader.submit(faces.pixels.gather, indices[following : following + batch_size]))
            probabilities[start : start + batch_size] = compute(images)
            if progress is not None:
                progress(min(start + batch_size, len(indices)), len(indices))
    return probabilities


def _share_in(hashes: Sequence[str], known: set[str]) -> float:
    return sum(bool(pixel_hash) and pixel_hash in known for pixel_hash in hashes) / len(hashes)


def assess(
    run: Run, source: str | os.PathLike[str], *, split: str = "test", limit: int | None = None, crops: int = 1,
    batch_size: int = 64, smooth: int = 1, every_frame: bool = False, progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Assessment:  # fmt: skip
    """`evaluate` with everything it saw: for reports and for naming the images that could not be read.

    Args and errors are those of `evaluate`; `every_frame` asks for the answers of all pictures of a set of videos, which
    smoothing needs anyway; `say` is called with each line of what the reader decided.
    """
    if crops not in CROPS:
        raise UsageError(f"crops must be 1 (the centre) or 10 (corners and centre, plain and mirrored); got {crops}")
    if split not in (*SPLITS, "all"):
        raise UsageError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}, all")
    if batch_size < 1 or (limit is not None and limit < 1):
        raise UsageError(f"batch_size and limit must be at least 1; got {batch_size} and {limit}")
    own = has_own_splits(source)
    faces = read_source(run, source, limit if own else None)
    split_of = faces.split if own else known_splits(faces, run)
    indices = select(faces, split_of, split, run)
    if limit is not None:
        indices = stratified(indices, faces.label[indices], limit)
    if isinstance(faces, VideoSet):
        faces, indices = checked(faces.take(indices), os.cpu_count() or 1), np.arange(len(indices))
    every_frame = every_frame or smooth != 1
    if every_frame and (limit is not None or not isinstance(faces, VideoSet)):
        why = f"limit = {limit} leaves frames out" if limit is not None else f"{source} is no set of videos"
        raise UsageError(f"smooth = {smooth} and answers for every frame need whole videos, but {why}")
    hashes = pick(faces.pixel_hash, indices)
    if say is not None:
        for line in faces.report if own else [faces.report[0], found_again(split_of, run)]:
            say(line)

    labels = tuple(faces.labels)
    readable = faces.label[indices] >= 0
    if not readable.any():
        raise DataError(
            f"none of the {len(indices)} images of split {split!r} of {source} could be read; the first, "
            f"{faces.paths[indices[0]]}: {faces.status[indices[0]]}"
        )
    truth = faces.label[indices]
    probabilities = np.full((len(indices), len(labels)), np.nan, np.float32)
    kept = indices[readable]
    answers = None
    if isinstance(faces, VideoSet) and every_frame:

        def ask(pictures: FaceSet, rows: np.ndarray) -> np.ndarray:
            return predict(run, pictures, rows, crops=crops, batch_size=batch_size, progress=progress)

        answers = answer_every_picture(faces, indices, split if own else None, ask).smoothed(smooth)
        probabilities[readable] = answers.of(faces.video[kept], faces.frame[kept])
    else:
        probabilities[readable] = predict(run, faces, kept, crops=crops, batch_size=batch_size, progress=progress)

    def figures(kept: np.ndarray) -> dict[str, Any]:
        found = kept & readable
        return scores(truth[found], probabilities[found], labels, n=int(kept.sum()), n_found=int(found.sum()))

    seen = run.seen()
    leaked = seen.get("train", set()) | seen.get("val", set())
    unseen = np.array([pixel_hash not in leaked for pixel_hash in hashes], dtype=bool)
    overall = figures(np.ones(len(indices), dtype=bool))
    head = {key: overall.pop(key) for key in ("n", "n_found", "coverage")}
    result = {**head, "split": split, "selected_on": _share_in(hashes, run.selected_on) >= SELECTED_SHARE, **overall}
    result["leak_free"] = figures(unseen) if (unseen & readable).any() else None
    if isinstance(faces, VideoSet):
        result |= {"smooth": smooth, "per_video": per_video(faces, indices, probabilities)}
    predictions = Predictions(labels, pick(faces.paths, indices), pick(faces.status, indices), truth, probabilities)
    return Assessment(result, predictions, indices, faces, answers)


def write_assessment(assessment: Assessment, folder: str | os.PathLike[str], heading: str) -> list[Path]:
    """Write the report folder of an assessment, a contact sheet of some of its faces included.

    Returns:
        The paths written: scores.json, confusion.png, predictions.csv, report.md, faces.png, and videos.csv of a set of videos.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    told, faces = assessment.predictions, assessment.faces
    paths = write_report(folder, assessment.result, told, heading)
    readable = np.flatnonzero(told.predicted >= 0)
    shown = stratified(readable, told.truth[readable], SHEET_FACES)
    shown = np.random.default_rng(0).permutation(shown)
    captions = [
        Caption(told.labels[told.predicted[i]], float(told.probabilities[i].max()), told.labels[told.truth[i]]) for i in shown
    ]
    sheet = Path(folder) / "faces.png"
    title = f"{heading}: accuracy {100 * assessment.result['accuracy']:.1f} % of {assessment.result['n_found']} images"
    contact_sheet(faces.pixels.gather(assessment.indices[shown]), captions, sheet, columns=8, title=title)
    if "per_video" in assessment.result:
        paths.append(Path(folder) / "videos.csv")
        write_atomic(paths[-1], per_video_csv(assessment.result["per_video"]))
    return [*paths, sheet]


def evaluate(
    run: Run, source: str | os.PathLike[str], *, split: str = "test", limit: int | None = None, crops: int = 1,
    batch_size: int = 64, smooth: int = 1, out: str | os.PathLike[str] | None = None, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a run on one split of a data set, in float32 and without augmentation.

    A source with splits of its own keeps them; otherwise the run's own splits are found again by the hash of the
    pixels. `leak_free` holds the same figures without every image that stands in any train or val split the run was
    given, before any dropping; it is None where no image is left. `selected_on` is true where the run chose its best
    epoch on these images.

    Args:
        run: a finished run (`Run.open(path)`).
        source: a path that `read_faces` recognises, or "generated:large" or "generated:small".
        split: "train", "val", "test" or "all".
        limit: score at most this many images, each class in proportion.
        crops: 1 (centre) or 10 (mean of the probabilities of ten crops).
        batch_size: images computed at once.
        smooth: of a set of videos, average the probabilities over so many consecutive frame numbers around each frame.
        out: write a report folder here.
        progress: called with (images done, images in all).

    Returns:
        The keys of `emotiw evaluate --json`; of a set of videos also `smooth` and `per_video` (see `videos.per_video`).

    Raises:
        DataError: bad data, or a split that does not exist.
        UsageError: an argument out of range.
        ModelError: the model's probabilities are not finite.
        OutputError: the report cannot be written.

    Example:
        >>> evaluate(Run.open("runs/ng"), "faces.zip", split="test")["accuracy"]  # doctest: +SKIP
    """
    assessment = assess(
        run, source, split=split, limit=limit, crops=crops, batch_size=batch_size, smooth=smooth, progress=progress
    )
    if out is not None:
        write_assessment(assessment, out, f"{run.name} on {Path(source).name}")
    return assessment.result
