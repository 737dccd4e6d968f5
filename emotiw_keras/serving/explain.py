"""LayerCAM of each face that was read, as an image of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.files import write_encoded
from emotiw_keras.fonts import drawable, get_font
from emotiw_keras.serving.new_folder import NewFolder

if TYPE_CHECKING:
    from emotiw_keras.serving.predictor import Predictor
    from emotiw_keras.serving.readings import ImageReading, Reading

SIDE, CAPTION = 224, 28  # pixels
INK, PAPER = (31, 35, 40), (255, 255, 255)


class Explainer:
    """Writes a PNG for each face: the face as the network gets it, and beside it where the network found its answer.

    What is explained is the centre crop, also where the answer is the mean over more crops or over the frames of a video.

    Args:
        predictor: what answers.
        folder: new or empty; an image's faces lie below its relative name, a video's in a folder of its name.
        inputs: names of what will be read.

    Raises:
        ModelError: the network has no convolutional maps, or does not end in a softmax.
        OutputError, UsageError: as `NewFolder`.
    """

    def __init__(self, predictor: Predictor, folder: str | os.PathLike[str], inputs: Sequence[str] = ()) -> None:
        from emotiw_keras.gradcam import LayerCam

        self._predictor = predictor
        self._cam = LayerCam(predictor.net)
        self._folder = NewFolder(folder, inputs)

    def close(self) -> None:
        """Let others write into the folder."""
        self._folder.close()

    def write(self, reading: ImageReading) -> None:
        """Write the faces of one image or frame; their pixels must have been kept.

        Raises:
            OutputError: an image cannot be written.
        """
        if not reading.faces:
            return
        from emotiw_keras.gradcam import heat_of_faces

        labels = self._predictor.labels
        classes = np.array([labels.index(face.label) for face in reading.faces])
        heats = heat_of_faces(self._cam, self._predictor.face_input, np.stack(reading.cut_faces), classes)
        for face, pixels, heat in zip(reading.faces, reading.cut_faces, heats, strict=True):
            self._write(self._name(reading, face), face, pixels, heat)

    @staticmethod
    def _name(reading: ImageReading, face: Reading) -> str:
        video, image = reading.video, reading.image
        if video is None or video.stills:
            return f"{os.path.splitext(image.name)[0]}-face{face.number}"
        return f"{video.name}/{image.frame:06d}-face{face.number}"

    def _write(self, name: str, face: Reading, pixels: np.ndarray, heat: np.ndarray) -> None:
        from PIL import Image, ImageDraw

        from emotiw_keras.gradcam import overlay

        # The face itself is an overlay of nothing.
        plain, warm = (overlay(pixels, each, SIDE) for each in (np.zeros_like(heat), heat))
        sheet = Image.new("RGB", (2 * SIDE, SIDE + CAPTION), PAPER)
        sheet.paste(Image.fromarray(plain), (0, 0))
        sheet.paste(Image.fromarray(warm), (SIDE, 0))
        words = drawable(f"{face.label} {face.probabilities[face.label]:.0%}")
        ImageDraw.Draw(sheet).text((8, SIDE + CAPTION // 2), words, INK, get_font(16), anchor="lm")
        with self._folder.filling():
            write_encoded(self._folder.place(name, ".png"), lambda file: sheet.save(file, format="PNG"))
