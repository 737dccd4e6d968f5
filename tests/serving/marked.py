"""Images and videos whose faces a simple detector finds: the left eye is marked magenta, the right one cyan."""

from __future__ import annotations

import cv2
import numpy as np

from emotiw_keras.data.generated import draw_faces
from emotiw_keras.faces.face import Face

LEFT, RIGHT = (255, 0, 255), (0, 255, 255)
# Of a drawn face: where its eyes are, in shares of its side.
EYE_LINE, EYE_LEFT, EYE_RIGHT = 0.42, 0.32, 0.68


class MarkedEyes:
    """Finds faces by the colours of their eyes; counts how often it was asked."""

    name = "marked"

    def __init__(self) -> None:
        self.asked = 0

    def detect(self, image: np.ndarray) -> list[Face]:
        self.asked += 1
        if image.ndim == 2:
            return []
        wide = image.astype(int)
        left = _dots((wide[..., 0] > 170) & (wide[..., 1] < 110) & (wide[..., 2] > 170))
        right = _dots((wide[..., 0] < 110) & (wide[..., 1] > 170) & (wide[..., 2] > 170))
        faces = []
        for x, y in left:
            partners = [dot for dot in right if dot[0] > x and abs(dot[1] - y) < dot[0] - x]
            if partners:
                faces.append(face_at((x, y), min(partners)))
        return sorted(faces, key=lambda face: -face.box[2])


def face_at(left: tuple[float, float], right: tuple[float, float]) -> Face:
    """The face with these eyes."""
    distance = float(np.hypot(right[0] - left[0], right[1] - left[1]))
    x, y = (left[0] + right[0]) / 2, (left[1] + right[1]) / 2
    return Face((x - distance, y - 0.8 * distance, 2 * distance, 2.2 * distance), (left, right), 0.9, "marked")


def _dots(mask: np.ndarray) -> list[tuple[float, float]]:
    count, _, stats, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return [(float(x), float(y)) for (x, y), stat in zip(centres[1:count], stats[1:count], strict=True) if stat[4] >= 4]


def background(height: int = 240, width: int = 320, seed: int = 0) -> np.ndarray:
    """Soft texture without a face: uint8 (height, width, 3), in quiet colours."""
    coarse = np.random.default_rng(seed).integers(60, 160, (height // 8, width // 8, 1), np.uint8)
    return np.repeat(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None], 3, axis=-1)


def put_face(image: np.ndarray, x: int, y: int, side: int = 80, seed: int = 0) -> Face:
    """Draw a face into an image with its corner at x, y; returns where it is."""
    face = draw_faces(1, size=side, seed=seed)[0][0, ..., 0]
    image[y : y + side, x : x + side] = face[..., None]
    eyes = [(x + round(share * side), y + round(EYE_LINE * side)) for share in (EYE_LEFT, EYE_RIGHT)]
    for (eye_x, eye_y), colour in zip(eyes, (LEFT, RIGHT), strict=True):
        image[eye_y - 2 : eye_y + 3, eye_x - 2 : eye_x + 3] = colour
    return face_at(*[(float(eye_x), float(eye_y)) for eye_x, eye_y in eyes])


def frames_of(count: int, step: int = 2, faces: int = 1, height: int = 240, width: int = 320) -> list[np.ndarray]:
    """A video in which faces move to the right by `step` pixels a frame."""
    video = []
    for index in range(count):
        image = background(height, width)
        for number in range(faces):
            put_face(image, 10 + index * step, 20 + number * 110, 96 - 16 * number, seed=number)
        video.append(image)
    return video


def write_video(path: object, frames: list[np.ndarray], rate: float = 25.0) -> None:
    """Write an MPEG-4 video."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
