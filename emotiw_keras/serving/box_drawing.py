"""Boxes, labels and probability bars drawn on an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from emotiw_keras.fonts import drawable, get_font
from emotiw_keras.serving.readings import Box, Reading

Colour = tuple[int, int, int]
# One colour per class, distinguishable by the colour-blind too (Okabe and Ito 2008); more classes begin again.
COLOURS: tuple[Colour, ...] = (
    (213, 94, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (86, 180, 233), (230, 159, 0), (200, 200, 200), (0, 114, 178),
)  # fmt: skip
INK: Colour = (20, 20, 20)
PAPER: Colour = (255, 255, 255)
# Letters and bars, in shares of the image's shorter side, and in pixels.
TEXT_SHARE, TEXT_LEAST, TEXT_MOST = 0.03, 11, 40
FEWEST_TEXT_PIXELS = 7
# Share of its own face that a label or bars may cover where there is no other place.
OWN_COVERED = 0.3


def draw_readings(pixels: np.ndarray, faces: Sequence[Reading]) -> np.ndarray:
    """A copy of an image with each face's box, its most likely label above it, and one bar per class beside it.

    Labels and bars cover no other face; where a crowd leaves no room for one, it is left out.

    Args:
        pixels: uint8 0..255, (height, width, 1) or (height, width, 3) RGB.
        faces: what was read from it.

    Returns:
        uint8 (height, width, 3) RGB.
    """
    image = Image.fromarray(np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels)
    draw = ImageDraw.Draw(image, "RGBA")
    text = round(min(TEXT_MOST, max(TEXT_LEAST, TEXT_SHARE * min(image.size))))
    boxes = np.array([face.box for face in faces], float).reshape(-1, 4)
    taken: list[Box] = []

    def place(number: int, size: tuple[float, float], wanted: Sequence[tuple[float, float]]) -> Box | None:
        blocked = np.concatenate([np.delete(boxes, number, axis=0), np.reshape(taken, (-1, 4))])
        found = _free_place(size, faces[number].box, wanted, blocked, image.size)
        if found is not None:
            taken.append(found)
        return found

    labels: list[tuple[_Label, Box | None]] = []
    for number, face in enumerate(faces):
        # With smaller letters where a crowd leaves too little room.
        for letters in sorted({text, min(text, TEXT_LEAST), FEWEST_TEXT_PIXELS}, reverse=True):
            label = _Label.of(draw, face, text, letters)
            label_place = place(number, label.size, label.wanted())
            if label_place is not None:
                break
        labels.append((label, label_place))
    for number, face in enumerate(faces):
        panel = _Panel.beside(draw, face, text)
        panel_place = place(number, panel.size, panel.wanted())
        if panel_place is not None:
            panel.draw(draw, panel_place)
    for label, label_place in labels:
        label.draw(draw, label_place)
    return np.asarray(image)


@dataclass(frozen=True)
class _Label:
    """A face's box and its likeliest label; pixels of the box's line, of the letters, and of the label."""

    face: Reading
    words: str
    line: int
    text: int
    size: tuple[float, float]

    @classmethod
    def of(cls, draw: ImageDraw.ImageDraw, face: Reading, usual: int, text: int) -> _Label:
        words = drawable(f"{face.label} {face.probabilities[face.label]:.0%}")
        size = (draw.textlength(words, font=get_font(text)) + text // 2, text + text // 3)
        return cls(face, words, max(1, usual // 7), text, size)

    def wanted(self) -> list[tuple[float, float]]:
        """Where its corner may be, the best first: above the box, below it, and in it at its top and its bottom."""
        x, y, _, height = self.face.box
        return [(x, y - self.size[1]), (x, y + height), (x, y + self.line), (x, y + height - self.size[1])]

    def draw(self, draw: ImageDraw.ImageDraw, place: Box | None) -> None:
        """Draw the box, and the label where there is a place for it."""
        x, y, width, height = self.face.box
        colour = COLOURS[list(self.face.probabilities).index(self.face.label) % len(COLOURS)]
        line = self.line
        draw.rectangle((x, y, x + width - 1, y + height - 1), outline=colour, width=line)
        for eye_x, eye_y in self.face.eyes or ():
            draw.ellipse((eye_x - line, eye_y - line, eye_x + line, eye_y + line), fill=colour)
        if place is not None:
            left, top, long, tall = place
            draw.rectangle((left, top, left + long - 1, top + tall - 1), fill=colour)
            middle = (left + self.text // 4, top + tall / 2)
            draw.text(middle, self.words, fill=INK, font=get_font(self.text), anchor="lm")


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
        font = get_font(_letters(row))
        named = _letters(row) >= FEWEST_TEXT_PIXELS
        names = max(draw.textlength(drawable(label), font=font) for label in face.probabilities) + row // 2 if named else 0
        return cls(face, row, names, max(12, 2.5 * row))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        return self.names + self.bar + self.row // 2, self.row * len(self.face.probabilities) + 2

    def wanted(self) -> list[tuple[float, float]]:
        """Where its corner may be, the best first: right of the box, left, below, above."""
        x, y, width, height = self.face.box
        wide, tall = self.size
        return [(x + width + 2, y), (x - wide - 2, y), (x, y + height + 2), (x, y - 1.3 * tall)]

    def draw(self, draw: ImageDraw.ImageDraw, place: Box) -> None:
        """Draw the panel."""
        left, top, wide, tall = place
        draw.rectangle((left, top, left + wide - 1, top + tall - 1), fill=(*INK, 150))
        font = get_font(_letters(self.row))
        start = left + self.names + 1
        for index, (label, probability) in enumerate(self.face.probabilities.items()):
            middle = top + 1 + self.row * (index + 0.5)
            thick = max(1, self.row * 0.3)
            if self.names:
                draw.text((left + self.row // 4, middle), drawable(label), fill=PAPER, font=font, anchor="lm")
            draw.rectangle((start, middle - thick, start + self.bar, middle + thick), fill=(*PAPER, 60))
            if probability * self.bar >= 0.5:
                colour = COLOURS[index % len(COLOURS)]
                draw.rectangle((start, middle - thick, start + probability * self.bar, middle + thick), fill=colour)


def _letters(row: int) -> int:
    return max(1, round(row * 0.8))


def _free_place(
    size: tuple[float, float], own: Box, wanted: Sequence[tuple[float, float]], blocked: np.ndarray, image: tuple[int, int]
) -> Box | None:
    """The first wanted place that covers no blocked box and not the face, else one that covers a small part of the face.

    Returns:
        left, top, width and height, inside the image; None where nothing is free.
    """
    corners = np.clip(wanted, 0, np.maximum(0, np.subtract(image, size)))
    small = size[0] * size[1] <= OWN_COVERED * own[2] * own[3] or not len(blocked)
    for boxes in (np.concatenate([blocked, [own]]), *([blocked] if small else [])):
        low = np.maximum(corners[:, None], boxes[None, :, :2])
        high = np.minimum(corners[:, None] + size, boxes[None, :, :2] + boxes[None, :, 2:])
        free = np.flatnonzero(~(high > low).all(axis=-1).any(axis=-1))
        if len(free):
            left, top = corners[free[0]].tolist()
            return left, top, *size
    return None
