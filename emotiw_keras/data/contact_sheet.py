"""Contact sheets of prepared faces: one image a class, to look over what was cut out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from emotiw_keras.data.images import ImageError, decode_image
from emotiw_keras.data.layouts.prepared import OK
from emotiw_keras.errors import DataError
from emotiw_keras.files import write_encoded
from emotiw_keras.fonts import Font, drawable, get_font
from emotiw_keras.text import number_of

MOST = 200  # faces on one sheet
COLUMNS, FACE, FRAME, GAP, TEXT, TITLE = 10, 112, 4, 10, 32, 34  # pixels but the first
SURE, DOUBTFUL = (31, 136, 61), (191, 135, 0)
PAPER, INK, QUIET = (255, 255, 255), (31, 35, 40), (101, 109, 118)
_NAME = re.compile(r"^contact_sheet(_.*)?\.jpg$", re.DOTALL)


def write_contact_sheets(folder: Path, rows: Sequence[Mapping[str, str]]) -> list[Path]:
    """Write `contact_sheet_CLASS.jpg` for each class among the faces of a prepared folder, and remove sheets of others.

    A face has a green frame, what was cut out without one an amber frame; below stand its name and the detector's score.
    Of more than 200 faces 200 are shown, evenly spread over the list, and the title says so. The sheets are JPEG because no
    face here is, so that names cannot meet.

    Args:
        folder: holds the faces; the sheets go there, too.
        rows: rows of `faces.csv`; those without an output are passed over.

    Returns:
        The sheets, by class.

    Raises:
        DataError: a face is damaged.
        OutputError: a sheet cannot be written.
    """
    by_class: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        if row["output"]:
            by_class[row["label"]].append(row)
    sheets = []
    for label in sorted(by_class):
        sheets.append(folder / (f"contact_sheet_{label}.jpg" if label else "contact_sheet.jpg"))
        sheet = _draw(folder, label, by_class[label])
        write_encoded(sheets[-1], partial(sheet.save, format="JPEG", quality=88))
    for path in folder.iterdir():
        if _NAME.match(path.name) and path not in sheets and path.is_file():
            path.unlink()
    return sheets


def read_face(path: Path) -> Image.Image:
    """A prepared face; DataError where it is damaged."""
    try:
        pixels = decode_image(path.read_bytes())
    except (OSError, ImageError) as error:
        raise DataError(f"{path} is damaged ({error}); remove it and run the same command again") from error
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _draw(folder: Path, label: str, rows: Sequence[Mapping[str, str]]) -> Image.Image:
    shown = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(MOST, len(rows))).round().astype(int))]
    number = number_of(len(rows), "crops")
    number = number if len(shown) == len(rows) else f"{len(shown):,} of {number}, evenly spread"
    doubtful = sum(row["status"] != OK for row in rows)
    title = f"{label or 'no class'}: {number}" + (f", {doubtful:,} of them without a face (amber)" if doubtful else "")
    columns, side = min(COLUMNS, max(4, len(shown))), FACE + 2 * FRAME
    lines = -(-len(shown) // columns)
    size = (GAP + columns * (side + GAP), TITLE + GAP + lines * (side + TEXT + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    large, small = get_font(18), get_font(11)
    draw.text((GAP, GAP), fitted(draw, title, large, size[0] - 2 * GAP), INK, large)
    for index, row in enumerate(shown):
        left = GAP + index % columns * (side + GAP)
        top = TITLE + GAP + index // columns * (side + TEXT + GAP)
        draw.rectangle((left, top, left + side - 1, top + side - 1), SURE if row["status"] == OK else DOUBTFUL)
        face = read_face(folder / row["output"])
        sheet.paste(face.resize((FACE, FACE), Image.Resampling.BICUBIC), (left + FRAME, top + FRAME))
        name = row["output"].rpartition("/")[2].removesuffix(".png")
        draw.text((left, top + side + 1), fitted(draw, name, small, side), INK, small)
        facts = f"{row['split']} {row['detector_score']}".strip()
        draw.text((left, top + side + 15), fitted(draw, facts, small, side), QUIET, small)
    return sheet


def fitted(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    """`text` as it can be drawn, cut short to `width` pixels."""
    text = drawable(text)
    while len(text) > 1 and draw.textlength(text, font=font) > width:
        text = text[:-2].rstrip() + "…"
    return text
