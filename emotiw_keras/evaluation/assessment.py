"""The result of evaluating a run: the prediction for each image, the figures, and what both came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.costs import Costs
from emotiw_keras.data.columns import pick
from emotiw_keras.data.near.threshold import THRESHOLD
from emotiw_keras.evaluation.metrics import scores

if TYPE_CHECKING:
    from emotiw_keras.data.faceset import FaceSet
    from emotiw_keras.evaluation.near_seen import NearSeen
    from emotiw_keras.evaluation.video_scores import FrameAnswers
    from emotiw_keras.runs import Run


@dataclass(frozen=True)
class Predictions:
    """What a model said about each image of a split, unreadable images included.

    Attributes:
        labels: the class names, in the order of the columns of `probabilities`.
        paths: name of each image inside its source, n of them.
        status: "ok", or why the image could not be read.
        truth: int (n,), the true class; -1 where there is none.
        probabilities: float32 (n, classes), 0..1; NaN where the image could not be read.
        subject: the person each image shows, "" if unknown; empty if nobody is known.
    """

    labels: tuple[str, ...]
    paths: Sequence[str]
    status: Sequence[str]
    truth: np.ndarray
    probabilities: np.ndarray
    subject: Sequence[str] = ()

    @property
    def readable(self) -> np.ndarray:
        """bool (n,), whether the image could be read."""
        return ~np.isnan(self.probabilities).any(axis=1)

    @property
    def predicted(self) -> np.ndarray:
        """int (n,), the most probable class; -1 where the image could not be read."""
        read = self.readable
        return np.where(read, np.where(read[:, None], self.probabilities, 0.0).argmax(axis=1), -1)

    def select(self, rows: np.ndarray) -> Predictions:
        """What was said about some of the images, int (m,)."""
        paths, status = pick(self.paths, rows), pick(self.status, rows)
        subject = pick(self.subject, rows) if len(self.subject) else ()
        return Predictions(self.labels, paths, status, self.truth[rows], self.probabilities[rows], subject)


@dataclass(frozen=True)
class Question:
    """What was asked: the data as the user named it, the split, at most how many images, crops of a face, costs.

    Attributes:
        source: a path, or "generated:" and a name.
        split: "train", "val", "test" or "all".
        limit: images at most, or None for all.
        crops: crops of a face whose probabilities were averaged; None in an ensemble whose members differ.
        costs: what each confusion costs.
        costs_file: where they were read from, or None.
        near_duplicates: correlation from which two images count as one photograph; 0 where they were not looked for.
        head: the answer of a network with several heads that was asked for; None for the run's own choice.
        votes, votes_rows: FER+'s votes, whose majority is the truth, and which row an image is; None where labels are.
        calibrate: whether a temperature was chosen on the validation images.
        subject_pattern: regular expression on file names for the person, or None.
    """

    source: str
    split: str
    limit: int | None
    crops: int | None
    costs: Costs
    costs_file: str | None = None
    near_duplicates: float = THRESHOLD
    head: str | None = None
    votes: str | None = None
    votes_rows: str | None = None
    calibrate: bool = False
    subject_pattern: str | None = None


@dataclass(frozen=True)
class Assessment:
    """The figures of one run, or of an ensemble of runs, with what they were computed from.

    Attributes:
        result: the figures, with the keys of `emotiw evaluate --json`.
        predictions: every image of the split, unreadable ones included.
        seen: bool (n,), whether the image is in a train or val split of the run.
        question: what was asked.
        run: the run; the first member's in an ensemble.
        indices: int (n,), the positions of the images in `faces`.
        faces: the data set as the run reads it.
        members: of an ensemble, its members' own assessments; else empty.
        near: where images of the split are near duplicates of what the run was given; None where that is not known.
        folds: of a cross-validation, the assessments of its runs, each on its own fold.
        folder: of a cross-validation, the folder of its runs.
        answers: of a set of videos, the probabilities of every image, labelled or not, where they were asked for.
    """

    result: dict[str, Any]
    predictions: Predictions
    seen: np.ndarray
    question: Question
    run: Run
    indices: np.ndarray
    faces: FaceSet
    members: tuple[Assessment, ...] = ()
    answers: FrameAnswers | None = None
    near: NearSeen | None = None
    folds: tuple[Assessment, ...] = ()
    folder: Path | None = None

    @property
    def name(self) -> str:
        """The run's name, that of the folder of a cross-validation, or those of an ensemble's members joined by "+"."""
        if self.folder is not None:
            return self.folder.resolve().name
        return " + ".join(each.run.name for each in self.members) or self.run.name

    @property
    def path(self) -> Path:
        """The folder of the run, or of a cross-validation."""
        return self.folder or self.run.path

    @property
    def called(self) -> str:
        """What commands take for it."""
        return self.run.called if self.folder is None else str(self.folder)

    @property
    def runs(self) -> list[Run]:
        """The runs that answered."""
        return [each.run for each in self.members or self.folds] or [self.run]

    @property
    def unrecorded(self) -> list[str]:
        """Those of them that were trained on images which are not recorded, so that no image is known to be new to them."""
        return [run.name for run in self.runs if run.unrecorded]


def figures(
    predictions: Predictions, seen: np.ndarray, question: Question, *, selected_on: bool, near: np.ndarray | None = None
) -> dict[str, Any]:
    """The keys of `emotiw evaluate --json`.

    Args:
        predictions: the answers.
        seen: bool (n,), images that leak-free figures leave out.
        question: what was asked.
        selected_on: whether the best epoch was chosen on these images.
        near: bool (n,), images that are near duplicates of what was seen, `seen` ones or not; None where that is not known.
    """
    readable = predictions.readable

    def of(kept: np.ndarray) -> dict[str, Any]:
        part = predictions.select(np.flatnonzero(kept & readable))
        return scores(
            part.truth,
            part.probabilities,
            part.labels,
            n=int(kept.sum()),
            n_found=len(part.truth),
            costs=question.costs.matrix,
            subject=part.subject,
        )

    overall = of(np.ones(len(readable), dtype=bool))
    head = {key: overall.pop(key) for key in ("n", "n_found", "coverage", "persons", "person_unknown")}
    asked = {"split": question.split, "crops": question.crops, "selected_on": selected_on}
    costs = {"source": question.costs.source, "matrix": question.costs.matrix.round(4).tolist()}
    leak_free = of(~seen) if (~seen & readable).any() else None
    new = None if near is None else ~seen & ~near
    near_free = None if new is None or not (new & readable).any() else of(new)
    return {**head, **asked, **overall, "costs": costs, "leak_free": leak_free, "leak_free_near": near_free}
