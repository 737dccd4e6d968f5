"""Boxes, labels and probability bars drawn on a picture."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emotiw_keras.serving.readings import Box, Reading
from emotiw_keras.text import shown

Colour = tuple[int, int, int]
# One colour a class, told apart by the colour-blind too (Okabe and Ito 2008); more classes begin again.
COLOURS: tuple[Colour, ...] = (
    (213, 94, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (86, 180, 233), (230, 159, 0), (200, 200, 200), (0, 114, 178),
)  # fmt: skip
INK: Colour = (20, 20, 20)
PAPER: Colour = (255, 255, 255)
# Letters and bars, in shares of the picture's shorter side, and in pixels.
TEXT_SHARE, TEXT_LEAST, TEXT_MOST = 0.03, 11, 40
FEWEST_TEXT_PIXELS = 7


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def draw_readings(pixels: np.ndarray, faces: Sequence[Reading]) -> np.ndarray:
    """A copy of a picture with each face's box, its likeliest label over it, and a bar a class beside it.

    Args:
        pixels: uint8 0..255, (height, width, 1) or (height, width, 3) RGB.
        faces: what was read from it.

    Returns:
        uint8 (height, width, 3) RGB.
    """
    image = Image.fromarray(np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels)
    draw = ImageDraw.Draw(image, "RGBA")
    text = round(min(TEXT_MOST, max(TEXT_LEAST, TEXT_SHARE * min(image.size))))
    panels: list[Box] = []
    for face in faces:
        panel = _Panel.beside(draw, face, text)
        panels.append(panel.draw(draw, _free_place(panel.size, face, faces, panels, image.size)))
    for face in faces:
        _draw_box(draw, image.size, face, text)
    return np.asarray(image)


def _draw_box(draw: ImageDraw.ImageDraw, size: tuple[int, int], face: Reading, text: int) -> None:
    x, y, width, height = face.box
    colour = COLOURS[list(face.probabilities).index(face.label) % len(COLOURS)]
    line = max(1, text // 7)
    draw.rectangle((x, y, x + width - 1, y + height - 1), outline=colour, width=line)
    for eye_x, eye_y in face.eyes or ():
        draw.ellipse((eye_x - line, eye_y - line, eye_x + line, eye_y + line), fill=colour)
    words = shown(f"{face.label} {face.probabilities[face.label]:.0%}")
    font = _font(text)
    long = draw.textlength(words, font=font) + text // 2
    tall = text + text // 3
    left = min(max(0.0, x), max(0.0, size[0] - long))
    top = y - tall if y >= tall else min(y + line, size[1] - tall)
    draw.rectangle((left, top, left + long, top + tall), fill=colour)
    draw.text((left + text // 4, top + tall / 2), words, fill=INK, font=font, anchor="lm")


@dataclass(frozen=True)
class _Panel:
    """A bar a class, named if the letters can be read; pixels of a row, of the names and of a whole bar."""

    face: Reading
    row: int
    names: float
    bar: float

    @classmethod
    def beside(cls, draw: ImageDraw.ImageDraw, face: Reading, text: int) -> _Panel:
        """The panel for a face, no higher than its box and with no larger letters than its label."""
        row = max(3, min(text, round(face.box[3] / (len(face.probabilities) + 1))))
        font = _font(_letters(row))
        named = _letters(row) >= FEWEST_TEXT_PIXELS
        names = max(draw.textlength(shown(label), font=font) for label in face.probabilities) + row // 2 if named else 0
        return cls(face, row, names, max(12, 2.5 * row))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        return self.names + self.bar + self.row // 2, self.row * len(self.face.probabilities) + 2

    def draw(self, draw: ImageDraw.ImageDraw, place: Box) -> Box:
        """Draw the panel; returns its place."""
        left, top, wide, tall = place
        draw.rectangle((left, top, left + wide, top + tall), fill=(*INK, 150))
        font = _font(_letters(self.row))
        start = left + self.names + 1
        for index, (label, probability) in enumerate(self.face.probabilities.items()):
            middle = top + 1 + self.row * (index + 0.5)
            thick = max(1, self.row * 0.3)
            if self.names:
                draw.text((left + self.row // 4, middle), shown(label), fill=PAPER, font=font, anchor="lm")
            draw.rectangle((start, middle - thick, start + self.bar, middle + thick), fill=(*PAPER, 60))
            if probability * self.bar >= 0.5:
                colour = COLOURS[index % len(COLOURS)]
                draw.rectangle((start, middle - thick, start + probability * self.bar, middle + thick), fill=colour)
        return place


def _letters(row: int) -> int:
    return max(1, round(row * 0.8))


def _free_place(
    size: tuple[float, float], face: Reading, faces: Sequence[Reading], panels: Sequence[Box], picture: tuple[int, int]
) -> Box:
    """Where a panel covers least of the faces and of other panels: right, left, below or above; inside the picture."""
    x, y, width, height = face.box
    wide, tall = size
    others = [each.box for each in faces]

    def inside(left: float, top: float) -> Box:
        return min(max(0.0, left), max(0.0, picture[0] - wide)), min(max(0.0, top), max(0.0, picture[1] - tall)), wide, tall

    places = [inside(x + width + 2, y), inside(x - wide - 2, y), inside(x, y + height + 2), inside(x, y - 1.3 * tall)]
    return min(places, key=lambda place: sum(_common(place, other) for other in [*others, *panels]))


def _common(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
