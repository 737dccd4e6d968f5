"""The faces that a temperature is chosen on, as other cameras take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.data.annotated_videos import VideoSet
from emotiw_keras.errors import UsageError
from emotiw_keras.evaluation.conditions import CONDITIONS
from emotiw_keras.evaluation.evaluate import predict
from emotiw_keras.inference import Inference

if TYPE_CHECKING:
    from emotiw_keras.evaluation.assessment import Assessment
    from emotiw_keras.evaluation.calibration import Unseen

CLEAN = "clean"


def spoilt(by: Unseen, assessment: Assessment, say: Callable[[str], None] | None = None) -> dict[str, np.ndarray]:
    """The probabilities of the same images under each of `conditions.CONDITIONS`, by name; "clean" are those that are there.

    Args:
        by: images of the assessment.
        assessment: what they are from.
        say: called with a line for each condition.

    Raises:
        UsageError: they are answers of a cross-validation, whose images are not at hand, or faces in videos.
    """
    if by.rows is None:
        raise UsageError(
            f"the images of split {assessment.question.split!r} trained the run (refit), and its cross-validation knows them "
            "as they are alone; to calibrate by spoilt faces too name images that are new to it"
        )
    if isinstance(assessment.faces, VideoSet):
        raise UsageError(f"spoilt are single faces, but {assessment.question.source} is a set of videos; name a set of images")
    run, faces, indices = assessment.run, assessment.faces, assessment.indices[by.rows]
    compute, found = Inference(run, faces.pixels.shape, assessment.question.crops), {CLEAN: by.probabilities}
    for condition in CONDITIONS:
        if say is not None:
            say(f"{f'head {run.chosen}: ' if run.chosen else ''}the same faces: {condition.words}")
        found[condition.name] = predict(run, faces, indices, compute=compute, condition=condition)
    return found
