"""Which detections cannot be faces: the check that stands in for the paper's rejection of landmark fits below 0.3."""

from __future__ import annotations

import math

from emotiw_keras.faces.face import Face

# Interocular distance over box width: 0.3 - 0.5 in frontal faces, less when a head is turned.
EYES_APART = (0.2, 0.75)
# Nobody here finds faces that lie on their side; a steeper line between the eyes is a misfit.
MAX_TILT = 75.0
MIN_SCORE = 0.5


def why_not(face: Face, width: int, height: int) -> str | None:
    """Why a detection is rejected, or None if it may be a face.

    Args:
        face: the detection.
        width, height: of the image, in pixels.

    Example:
        >>> why_not(Face((0, 0, 100, 100), ((30, 40), (35, 40)), 0.9, "yunet"), 200, 200)
        'eyes 0.05 of the box apart, plausible is 0.2 to 0.75'
    """
    x, y, box_width, box_height = face.box
    points = [value for point in face.eyes for value in point]
    if not all(map(math.isfinite, [*face.box, *points, face.score])):
        return "a coordinate that is not a number"
    if box_width <= 0 or box_height <= 0:
        return "an empty box"
    if face.score < MIN_SCORE:
        return f"score {face.score:.2f}, below {MIN_SCORE}"
    distance = math.dist(*face.eyes)
    if not EYES_APART[0] <= distance / box_width <= EYES_APART[1]:
        low, high = EYES_APART
        return f"eyes {distance / box_width:.2f} of the box apart, plausible is {low} to {high}"
    if abs(face.roll) > MAX_TILT:
        return f"tilted by {face.roll:.0f} degrees, plausible is up to {MAX_TILT:.0f}"
    middle_x, middle_y = ((face.eyes[0][axis] + face.eyes[1][axis]) / 2 for axis in (0, 1))
    if not (x <= middle_x <= x + box_width and y <= middle_y <= y + box_height):
        return "eyes outside the box"
    if not (0 <= middle_x < width and 0 <= middle_y < height):
        return "eyes outside the image"
    return None


def plausible(faces: list[Face], width: int, height: int) -> list[Face]:
    """The faces that pass `why_not`, largest box first; equal ones from left to right."""
    kept = [face for face in faces if why_not(face, width, height) is None]
    return sorted(kept, key=lambda face: (-face.box[2] * face.box[3], face.box[0], face.box[1]))
