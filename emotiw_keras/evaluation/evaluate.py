"""Score a run on the images of one split: read, predict, measure."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.arguments import whole_number, whole_or_none
from emotiw_keras.costs import costs_of
from emotiw_keras.data.annotated_videos import VideoSet
from emotiw_keras.data.archive import printable
from emotiw_keras.data.columns import pick
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.layouts import classes_of
from emotiw_keras.data.layouts.listing import SPLITS, class_names
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.near.threshold import THRESHOLD
from emotiw_keras.data.splits import stratified
from emotiw_keras.data.video_reading import checked
from emotiw_keras.data.votes import by_majority, check_votes
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.evaluation.assessment import Assessment, Predictions, Question, figures
from emotiw_keras.evaluation.calibration import by_agreement, calibrated
from emotiw_keras.evaluation.near_seen import NearSeen, near_seen
from emotiw_keras.evaluation.run_splits import found_again, known_splits, own_splits, persons_of, select, val_of
from emotiw_keras.evaluation.video_scores import answer_every_image, per_video
from emotiw_keras.inference import Inference, checked_crops
from emotiw_keras.keras_settings import check_keras
from emotiw_keras.talk import Notice
from emotiw_keras.uncertainty import selective

if TYPE_CHECKING:
    from emotiw_keras.evaluation.conditions import Condition
    from emotiw_keras.runs import Run

# From this share of a split's images on, an epoch was chosen on that split; a few duplicates between splits are fewer.
SELECTED_SHARE = 0.05
MOST_SCORED = 1000
"""Classes: scores hold a confusion matrix."""

Votes = tuple[str, str | None]
"""FER+'s table of votes, and the table that says which row of it an image is."""
Progress = Callable[[int, int], None]  # images done, images in all


def read_source(
    run: Run,
    source: str | os.PathLike[str],
    limit: int | None = None,
    near_duplicates: float = THRESHOLD,
    subject_pattern: str | None = None,
    say: Callable[[str], None] | None = None,
    votes: Votes | None = None,
) -> FaceSet:
    """Read `source` with the labels, channels and size of the run, without the classes that it left out.

    Args:
        run: a finished run.
        source: anything `load_faces` recognises, or "generated:large" or "generated:small".
        limit: images per split at most.
        near_duplicates, subject_pattern, say: as `load_faces` has them.
        votes: FER+'s table, and that of rows or None: then an image's label is the majority of its votes.

    Raises:
        DataError: the source is missing or bad, or holds classes that the run does not know.
    """
    if len(run.labels) > MOST_SCORED:
        raise DataError(f"{run.called} has {len(run.labels):,} classes; scores are of up to {MOST_SCORED:,}")
    grey = run.settings["channels"] == "grey"
    unwanted = run.info.get("leave_out", [])
    if unwanted:
        unwanted = sorted(class_names(classes_of(source)) & class_names(unwanted))
    # Which of train became val is the run's to say.
    options: dict[str, Any] = {"grey": grey, "size": run.settings["resize"], "leave_out": unwanted, "limit": limit}
    if votes is not None:
        options |= {"votes": votes[0], "votes_rows": votes[1], "limit": None}
    faces = load_faces(
        source, labels=tuple(run.labels), check=False, near_duplicates=near_duplicates, say=say, val_share=0,
        subject_pattern=subject_pattern, **options,
    )  # fmt: skip
    return faces if votes is None else by_majority(faces)


Read = Callable[..., FaceSet]
"""Called as `read_source` up to `subject_pattern`, and with `votes`."""


def read_once(say: Callable[[str], None] | None = None) -> Read:
    """A `read_source` with a memory: runs that read faces alike share what was read; `say` as in `load_faces`."""
    kept: dict[tuple[object, ...], FaceSet] = {}

    def read(
        run: Run, source: str | os.PathLike[str], limit: int | None, near_duplicates: float, subject_pattern: str | None,
        votes: Votes | None = None,
    ) -> FaceSet:  # fmt: skip
        left_out = tuple(run.info.get("leave_out", []))
        pixels = (run.settings["channels"] == "grey", run.settings["resize"])
        key = (os.fspath(source), run.labels, pixels, left_out, limit, near_duplicates, subject_pattern, votes)
        if key not in kept:
            kept[key] = read_source(run, source, limit, near_duplicates, subject_pattern, say, votes)
        return kept[key]

    return read


def predict(
    run: Run,
    faces: FaceSet,
    indices: np.ndarray,
    *,
    crops: int | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
    compute: Inference | None = None,
    condition: Condition | None = None,
) -> np.ndarray:
    """The run's probabilities for some images of a set, computed in float32.

    Args:
        run: a finished run.
        faces: the set; its pixels are uint8 (height, width, 1 or 3).
        indices: int (n,), readable images of the set.
        crops: crops of a face whose probabilities are averaged (see `Inference`); None for the run's setting.
        batch_size: images computed at once.
        progress: called with (images done, images in all) after each batch.
        compute: the run's network for such faces, if it is there already.
        condition: what is done to the faces first.

    Returns:
        float32 (n, classes), rows summing to 1.
    """
    compute = compute or Inference(run, faces.pixels.shape, crops)  # loads TensorFlow
    import tensorflow as tf

    from emotiw_keras.data.batches import made_batches

    probabilities = np.empty((len(indices), len(faces.labels)), np.float32)
    signature = (tf.TensorSpec((None, *faces.pixels.shape), tf.uint8),)
    done = 0

    def gather(chosen: np.ndarray) -> tuple[np.ndarray]:
        images = faces.pixels.gather(chosen)
        return (images if condition is None else condition.of(images),)

    for (images,) in made_batches(gather, indices, batch_size, signature):
        probabilities[done : done + len(images)] = compute(images.numpy())
        done += len(images)
        if progress is not None:
            progress(done, len(indices))
    return probabilities


def under_conditions(
    run: Run, faces: FaceSet, indices: np.ndarray, *, crops: int | None = None, batch_size: int = 64,
    progress: Progress | None = None, say: Callable[[str], None] | None = None,
) -> Iterator[tuple[Condition, np.ndarray]]:  # fmt: skip
    """Each of `conditions.CONDITIONS`, and the run's probabilities of the same readable images under it, as of `predict`."""
    from emotiw_keras.evaluation.conditions import CONDITIONS

    compute = Inference(run, faces.pixels.shape, crops)
    for condition in CONDITIONS:
        if say is not None:
            say(f"{f'head {run.chosen}: ' if run.chosen else ''}the same faces: {condition.words}")
        yield (
            condition,
            predict(run, faces, indices, batch_size=batch_size, progress=progress, compute=compute, condition=condition),
        )


def assess(
    run: Run, source: str | os.PathLike[str], *, split: str = "test", limit: int | None = None, crops: int | None = None,
    costs: str | os.PathLike[str] | None = None, batch_size: int = 64, smooth: int = 1, every_frame: bool = False,
    near_duplicates: float = THRESHOLD, subject_pattern: str | None = None, robust: bool = False,
    progress: Progress | None = None, say: Callable[[str], None] | None = None, read: Read = read_source,
    votes: str | None = None, votes_rows: str | None = None, calibrate: bool = False,
) -> Assessment:  # fmt: skip
    """`evaluate` with all predictions, for reports and for naming the images that could not be read.

    Args and errors are those of `evaluate`; `every_frame` asks for predictions of all images of a set of videos, which
    smoothing needs anyway; `say` is called with each line of the reader's report; `read` reads the source.
    """
    check_keras()
    _check(split, smooth, robust, votes, votes_rows, calibrate)
    limit, batch_size = whole_or_none("limit", limit, 1), whole_number("batch_size", batch_size, 1)
    smooth = whole_number("smooth", smooth, 1)
    crops = checked_crops(crops, run.crops)
    costs_file = None if costs is None else os.fspath(costs)
    question = Question(
        printable(os.fspath(source)), split, limit, crops, costs_of(run.labels, costs_file), costs_file, near_duplicates,
        run.chosen, votes, votes_rows, calibrate, subject_pattern,
    )  # fmt: skip
    own = own_splits(source)
    faces, indices, split_of = _images(run, source, question, own, read)
    every_frame = every_frame or smooth != 1
    if isinstance(faces, VideoSet):
        if robust:
            raise UsageError(f"robust spoils single faces, but {source} is a set of videos; name a set of images")
        faces, indices = checked(faces.take(indices), os.cpu_count() or 1), np.arange(len(indices))
    if every_frame and (limit is not None or not isinstance(faces, VideoSet)):
        why = f"limit = {limit} leaves frames out" if limit is not None else f"{source} is no set of videos"
        raise UsageError(f"smooth = {smooth} and answers for every frame need whole videos, but {why}")
    if say is not None:
        told = faces.report if own else [faces.report[0], found_again(split_of, run)]
        for line in [*told, *run.cautions]:
            say(line)

    def ask(images: FaceSet, rows: np.ndarray) -> np.ndarray:
        return predict(run, images, rows, crops=crops, batch_size=batch_size, progress=progress)

    truth = faces.label[indices]
    readable = truth >= 0
    if not readable.any():
        raise DataError(
            f"none of the {len(indices)} images of split {split!r} of {source} could be read; the first, "
            f"{faces.paths[indices[0]]}: {faces.status[indices[0]]}"
        )
    kept = indices[readable]
    answers = None
    probabilities = np.full((len(indices), len(faces.labels)), np.nan, np.float32)
    if isinstance(faces, VideoSet) and every_frame:
        answers = answer_every_image(faces, indices, split if own else None, ask).smoothed(smooth)
        probabilities[readable] = answers.of(faces.video[kept], faces.frame[kept])
    else:
        probabilities[readable] = ask(faces, kept)
    predictions = Predictions(
        tuple(faces.labels), pick(faces.paths, indices), pick(faces.status, indices), truth, probabilities,
        persons_of(faces, indices, run),
    )  # fmt: skip
    seen, near, selected_on = _known_to(run, faces, indices, say)
    result = figures(predictions, seen, question, selected_on=selected_on, near=None if near is None else near.near)
    result["uncertain"] = selective(run.usable, truth[readable], probabilities[readable])
    if robust:
        from emotiw_keras.evaluation.conditions import compared
        from emotiw_keras.evaluation.significance import person_numbers

        worse = under_conditions(run, faces, kept, crops=crops, batch_size=batch_size, progress=progress, say=say)
        persons = person_numbers(predictions.select(np.flatnonzero(readable)).subject)
        result["robust"] = {
            each.name: {"condition": each.words, **compared(truth[readable], probabilities[readable], spoilt, persons)}
            for each, spoilt in worse
        }
    if faces.votes is not None:
        result["votes"] = by_agreement(predictions, faces.votes[indices])
    if calibrate:
        on_val = assess(
            run, source, split="val", crops=crops, near_duplicates=near_duplicates, subject_pattern=subject_pattern, read=read,
            votes=votes, votes_rows=votes_rows, progress=progress,
        )  # fmt: skip
        result["calibrated"] = calibrated(predictions, on_val)
    if isinstance(faces, VideoSet):
        result |= {"smooth": smooth, "per_video": per_video(faces, indices, probabilities)}
    return Assessment(result, predictions, seen, question, run, indices, faces, answers=answers, near=near)


def _check(
    split: str, smooth: int, robust: bool, votes: str | None, votes_rows: str | None, calibrate: bool
) -> None:  # fmt: skip
    """UsageError for arguments of `assess` that cannot be meant, whatever the source holds."""
    if split not in (*SPLITS, "all"):
        raise UsageError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}, all")
    if robust and smooth != 1:
        raise UsageError(f"robust and smooth = {smooth} cannot be combined; score spoilt faces one by one")
    check_votes(votes, votes_rows)
    if calibrate and split in ("val", "all"):
        held = "" if split == "val" else ", which split 'all' holds"
        raise UsageError(f"calibrate chooses a temperature on val{held}, and would flatter its figures; score another split")


def _images(
    run: Run, source: str | os.PathLike[str], question: Question, own: set[str], read: Read
) -> tuple[FaceSet, np.ndarray, np.ndarray]:
    """The source as the run reads it, which of its images are asked about, and the split of every one.

    Args:
        run, source, read: as `assess` has them.
        question: its split, limit, votes and persons.
        own: the splits that the source says itself.
    """
    split, limit = question.split, question.limit
    cut = "train" in own and "val" not in own and split in ("train", "val")
    votes = {"votes": (question.votes, question.votes_rows)} if question.votes is not None else {}
    early = limit if own and not cut and not votes else None  # where the reader can tell what to leave out
    # what the run was given is left out with the rest: twins of it are not to be found
    near_duplicates = question.near_duplicates if early is None else 0
    faces = read(run, source, early, near_duplicates, question.subject_pattern, **votes)
    split_of = known_splits(faces, run) if not own else val_of(faces, run) if cut else faces.split
    indices = select(faces, split_of, split, run)
    return faces, indices if limit is None else stratified(indices, faces.label[indices], limit), split_of


def _known_to(
    run: Run, faces: FaceSet, indices: np.ndarray, say: Callable[[str], None] | None
) -> tuple[np.ndarray, NearSeen | None, bool]:
    """What the run was given of some images: bool (n,) whether each is in its train or val, their near duplicates (None where
    that is not known), and whether its epochs were chosen on them."""
    hashes = pick(faces.pixel_hash, indices)
    selected_on = _share_in(hashes, run.selected_on) >= SELECTED_SHARE
    if run.unrecorded:  # of what data.csv does not know anything may have been trained on
        if say is not None:
            named = ", ".join(run.unrecorded)
            say(Notice(f"no leak-free figures: {run.path} was trained on {named}, whose images are not recorded"))
        return np.ones(len(hashes), bool), None, selected_on
    known = run.seen()
    given = known.get("train", set()) | known.get("val", set())
    seen = np.array([pixel_hash in given for pixel_hash in hashes], dtype=bool)
    return seen, near_seen(faces, indices, given), selected_on


def _share_in(hashes: Sequence[str], known: set[str]) -> float:
    return sum(bool(pixel_hash) and pixel_hash in known for pixel_hash in hashes) / len(hashes)


def evaluate(
    run: Run, source: str | os.PathLike[str], *, split: str = "test", limit: int | None = None, crops: int | None = None,
    costs: str | os.PathLike[str] | None = None, batch_size: int = 64, smooth: int = 1, near_duplicates: float = THRESHOLD,
    subject_pattern: str | None = None, robust: bool = False, progress: Progress | None = None, votes: str | None = None,
    votes_rows: str | None = None, calibrate: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Score a run on one split of a data set, in float32 and without augmentation.

    A source with splits of its own keeps them; otherwise the run's own splits are found again by the hash of the
    pixels. `leak_free` holds the same figures without the images that are in any train or val split given to the run,
    before duplicates were dropped; it is None if no image is left. `leak_free_near` also leaves out near duplicates of such
    images, as far as the source holds those; it is None if they were not looked for, or the source holds none. `selected_on`
    is true where the run chose its best epoch on these images.

    Args:
        run: a finished run (`Run.open(path)`).
        source: a path that `load_faces` recognises, or "generated:large" or "generated:small".
        split: "train", "val", "test" or "all".
        limit: score at most this many images, each class in proportion. Without votes only so many a split are read of a
            source with splits of its own, and near duplicates not looked for.
        crops: 1 (the centre), 2 (the mean over it and its mirror image) or 10 (over the corners too); None for the run's
            setting, or 1 if it has none.
        costs: a TOML file with the cost of each confusion (see `emotiw_keras.costs`); None for distances on the circumplex.
        batch_size: images computed at once.
        smooth: of a set of videos, average the probabilities over so many consecutive frame numbers around each frame.
        near_duplicates: correlation from which two images count as one photograph (see `load_faces`); 0 does not look.
        robust: score the same faces also with noise, blurred, small, compressed, dark and cut otherwise
            (`evaluation.conditions`): the key `robust`, of each the figures and the difference to the faces as they are.
        subject_pattern: regular expression on file names for the person (see `load_faces`). Persons that the data do not name
            are those that the run knew them by. Where persons are known, all intervals are by person.
        progress: called with (images done, images in all).
        votes: of FER-2013, FER+'s `fer2013new.csv`: the truth is the majority of ten people's votes; images without one, or
            whose class the run does not know, are left out.
        votes_rows: a table file,row that says which row of `votes` an image is (see `load_faces`).
        calibrate: choose a temperature on the split val, and say what the answers on this split are with it.

    Returns:
        The keys of `emotiw evaluate --json`; of a set of videos also `smooth` and `per_video` (see `videos.per_video`); with
        votes also `votes` (`calibration.by_agreement`), with `calibrate` also `calibrated`.

    Raises:
        DataError: bad data, a split that does not exist, or costs that cannot be used.
        UsageError: an argument out of range.
        ModelError: the model's probabilities are not finite.

    Example:
        >>> evaluate(Run.open("runs/ng"), "faces.zip", split="test")["accuracy"]  # doctest: +SKIP
    """
    return assess(
        run, source, split=split, limit=limit, crops=crops, costs=costs, batch_size=batch_size, smooth=smooth,
        near_duplicates=near_duplicates, subject_pattern=subject_pattern, robust=robust, progress=progress, votes=votes,
        votes_rows=votes_rows, calibrate=calibrate,
    ).result  # fmt: skip
