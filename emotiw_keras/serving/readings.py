"""What is read from one face, and what is read from one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.faces.face import Point

if TYPE_CHECKING:
    from emotiw_keras.serving.input_images import InputImage, Video

Box = tuple[float, float, float, float]
NO_FACE = "no face found"


@dataclass(frozen=True)
class Reading:
    """The expression of one face.

    Attributes:
        number: from 0, the largest first; in a video a face keeps its number while it is followed.
        box: x, y, width, height in pixels of the upright image, origin top left.
        eyes: the two eye centres, the one further left in the image first; None where nobody looked for them.
        score: the detector's, 0..1; None where the image is the face.
        label: the most likely class.
        probabilities: class -> probability; their sum is 1.
        uncertain: whether the entropy of the probabilities is above what the validation images say is usable; None where the
            run does not say what is.
        derived: "valence" and "arousal", -1..1, derived from the probabilities, not measured (`uncertainty.derived_affect`);
            None where the classes have no place on the circumplex.
        doubt: why the answer is unreliable, such as a face that lies on its side; or None.
    """

    number: int
    box: Box
    eyes: tuple[Point, Point] | None
    score: float | None
    label: str
    probabilities: dict[str, float]
    doubt: str | None = None
    uncertain: bool | None = None
    derived: dict[str, float] | None = None


@dataclass(frozen=True)
class ImageReading:
    """All faces of one image or frame.

    Attributes:
        image: where it comes from; its pixels are kept only on request.
        video: the video that it is a frame of, or None.
        faces: one reading a face, in the detector's order.
        error: why it could not be read, or `NO_FACE`; None if there are faces.
        cut_faces: each face as the network gets it, uint8 (side, side, channels); kept only on request.
    """

    image: InputImage
    video: Video | None
    faces: tuple[Reading, ...]
    error: str | None
    cut_faces: tuple[np.ndarray, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it could not be read, other than read and found without a face."""
        return self.image.error is not None
