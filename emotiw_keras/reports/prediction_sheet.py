"""A contact sheet: many faces on one PNG, each with its predicted label, its probability and its true label."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from emotiw_keras.data.contact_sheet import fitted
from emotiw_keras.files import write_encoded
from emotiw_keras.fonts import get_font

Colour = tuple[int, int, int]
FACE, FRAME, GAP, TEXT, BAR = 120, 5, 14, 17, 6  # pixels
RIGHT: Colour = (31, 136, 61)
WRONG: Colour = (207, 34, 46)
UNKNOWN: Colour = (9, 105, 218)
PAPER: Colour = (255, 255, 255)
INK: Colour = (31, 35, 40)
QUIET: Colour = (101, 109, 118)
TRACK: Colour = (225, 228, 232)


@dataclass(frozen=True)
class Caption:
    """The text under a face: the predicted label, its probability 0..1, and the true label (None if unknown)."""

    predicted: str
    probability: float
    truth: str | None = None

    @property
    def colour(self) -> Colour:
        """Green for right, red for wrong, blue where the truth is unknown."""
        if self.truth is None:
            return UNKNOWN
        return RIGHT if self.truth == self.predicted else WRONG


def contact_sheet(
    images: np.ndarray,
    captions: Sequence[Caption],
    path: str | os.PathLike[str],
    columns: int | None = None,
    title: str = "",
) -> None:
    """Write faces in rows, each in a green (right), red (wrong) or blue (truth unknown) frame over a probability bar.

    Args:
        images: uint8 (n, height, width, 1 or 3), grey or RGB 0..255, n at least 1.
        captions: one for each image.
        path: the PNG to write, in one step.
        columns: faces in a row (default: about square, at most 8).
        title: a line at the top.

    Raises:
        ValueError: the images are not of that shape, or captions are missing.
        OutputError: the file cannot be written.

    Example:
        >>> images = np.zeros((2, 48, 48, 1), np.uint8)
        >>> contact_sheet(images, [Caption("happy", 0.93, "happy"), Caption("sad", 0.4, "fear")], "sheet.png")
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8 or not 0 < len(images) == len(captions):
        raise ValueError(
            f"expected uint8 images (n, height, width, 1 or 3) and n captions; got {images.dtype} {images.shape} and "
            f"{len(captions)} captions"
        )
    columns = min(columns or min(8, max(1, round(len(images) ** 0.5))), len(images))
    rows = -(-len(images) // columns)
    cell_width, cell_height = FACE + 2 * FRAME, FACE + 2 * FRAME + 2 * TEXT + BAR + 8
    top = GAP + (30 if title else 0)
    sheet = Image.new("RGB", (GAP + columns * (cell_width + GAP), top + rows * (cell_height + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, small = get_font(14), get_font(12)
    if title:
        draw.text(
            (GAP, GAP - 2),
            fitted(draw, title, get_font(17), sheet.width - 2 * GAP),
            INK,
            get_font(17),
        )
    for index, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        left = GAP + index % columns * (cell_width + GAP)
        upper = top + index // columns * (cell_height + GAP)
        frame = (left, upper, left + cell_width - 1, upper + cell_width - 1)
        draw.rounded_rectangle(frame, radius=6, fill=caption.colour)
        face = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
        sheet.paste(face.resize((FACE, FACE), Image.Resampling.BICUBIC), (left + FRAME, upper + FRAME))
        y = upper + cell_width + 4
        draw.text((left, y), fitted(draw, caption.predicted, large, cell_width - 44), caption.colour, large)
        draw.text((left + cell_width, y + 1), f"{100 * caption.probability:.0f} %", QUIET, small, anchor="ra")
        y += TEXT + 2
        draw.rounded_rectangle((left, y, left + cell_width - 1, y + BAR - 1), radius=3, fill=TRACK)
        filled = round(min(1.0, max(0.0, caption.probability)) * (cell_width - 1))
        if filled >= BAR:
            draw.rounded_rectangle((left, y, left + filled, y + BAR - 1), radius=3, fill=caption.colour)
        if caption.truth is not None and caption.truth != caption.predicted:
            draw.text((left, y + BAR + 1), fitted(draw, f"is {caption.truth}", small, cell_width), QUIET, small)
    write_encoded(path, lambda file: sheet.save(file, format="PNG", optimize=True))
