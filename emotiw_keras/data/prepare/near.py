"""Near duplicates among prepared faces: a table of all pairs, and a sheet of images to look them over."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from emotiw_keras.data.contact_sheet import FACE, GAP, INK, PAPER, QUIET, TEXT, TITLE, fitted, read_face
from emotiw_keras.data.duplicates import pixel_hash
from emotiw_keras.data.near.embedding import SIDE, thumbnails
from emotiw_keras.data.near.pairs import NearPairs, near_pairs
from emotiw_keras.data.pixel_stores import MemoryPixels
from emotiw_keras.files import write_atomic, write_encoded
from emotiw_keras.fonts import get_font
from emotiw_keras.text import csv_text, number_of, sheet_cell

TABLE, SHEET = "near_duplicates.csv", "near_duplicates.jpg"
MOST, COLUMNS = 100, 4  # pairs on the sheet, pairs in a row


def list_near_duplicates(folder: Path, outputs: Sequence[str], threshold: float) -> NearPairs | None:
    """Write `near_duplicates.csv` and `near_duplicates.jpg` of a prepared folder; remove those of an earlier call.

    Args:
        folder: holds the faces.
        outputs: their names in it.
        threshold: correlation from which two faces are one photograph; 0 does not look for them.

    Returns:
        The pairs, the least sure first; None where they were not looked for.

    Raises:
        DataError: a face is damaged.
        OutputError: a file cannot be written.
    """
    for name in (TABLE, SHEET):
        (folder / name).unlink(missing_ok=True)
    if not threshold:
        return None
    thumbs, hashes = np.empty((len(outputs), SIDE, SIDE, 1), np.uint8), []
    for i, name in enumerate(outputs):
        face = np.asarray(read_face(folder / name))
        face = face[..., None] if face.ndim == 2 else face
        hashes.append(pixel_hash(face))
        thumbs[i, ..., 0] = thumbnails(face[None])[0]
    found = near_pairs([MemoryPixels(thumbs, np.ones(len(outputs), bool))], [hashes], threshold)
    found = found.at(np.argsort(found.correlation, kind="stable"))
    if len(found):
        write_atomic(folder / TABLE, _table(outputs, found))
        sheet = _sheet(folder, outputs, found)
        write_encoded(folder / SHEET, partial(sheet.save, format="JPEG", quality=88))
    return found


def _table(outputs: Sequence[str], pairs: NearPairs) -> str:
    rows = [["output", "other", "correlation", "mirrored"]]
    for one, other, value, mirrored in zip(pairs.first, pairs.second, pairs.correlation, pairs.mirrored, strict=True):
        names = (sheet_cell(outputs[one]), sheet_cell(outputs[other]))
        rows.append([*names, f"{value:.4f}", "yes" if mirrored else "no"])
    return csv_text(rows)


def _sheet(folder: Path, outputs: Sequence[str], pairs: NearPairs) -> Image.Image:
    shown = pairs.at(np.arange(min(MOST, len(pairs))))
    columns = min(COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    width = 2 * FACE + GAP
    sheet = Image.new("RGB", (GAP + max(2, columns) * width, TITLE + GAP + lines * (FACE + TEXT + GAP)), PAPER)
    draw, large, small = ImageDraw.Draw(sheet), get_font(18), get_font(11)
    number = number_of(len(pairs), "pairs")
    number = number if len(shown) == len(pairs) else f"the {len(shown):,} least sure of {number}"
    draw.text((GAP, GAP), fitted(draw, f"near duplicates: {number}", large, sheet.width - 2 * GAP), INK, large)
    for index in range(len(shown)):
        left = GAP + index % columns * width
        top = TITLE + GAP + index // columns * (FACE + TEXT + GAP)
        for side, which in enumerate((shown.first[index], shown.second[index])):
            face = read_face(folder / outputs[which])
            sheet.paste(face.resize((FACE, FACE), Image.Resampling.BICUBIC), (left + side * FACE, top))
            name = outputs[which].rpartition("/")[2].removesuffix(".png")
            draw.text((left + side * FACE, top + FACE + 1), fitted(draw, name, small, FACE - 4), INK, small)
        told = f"{shown.correlation[index]:.3f}" + (", mirrored" if shown.mirrored[index] else "")
        draw.text((left, top + FACE + 15), told, QUIET, small)
    return sheet
