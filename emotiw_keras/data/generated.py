"""Faces that the package draws itself: seven expressions from brows, lids and mouth, with everything else varied.

Two sets mirror the two of Ng et al. 2015: a large low-resolution one (`"large"`: 48x48, painted, nearly frontal) and a
small harder one (`"small"`: 96x96, turned heads, hard light, things in front of the face, half of it pen drawings).
They need no download, so the demo and the tests run anywhere. The expressions follow the action units of Ekman and
Friesen (1978): what a brow, a lid and a lip do, not the look of any person.
"""

from __future__ import annotations

import os

import cv2
import numpy as np

from emotiw_keras.data.layouts.drawn import DIFFICULTIES, GENERATED, KINDS, LABELS, Kind, draw_faces, is_generated
from emotiw_keras.data.load import load_faces
from emotiw_keras.errors import DataError, EmotiwError
from emotiw_keras.files import local_path, write_atomic
from emotiw_keras.text import number_of

__all__ = [
    "DIFFICULTIES", "GENERATED", "KINDS", "LABELS", "Kind", "draw_faces", "is_generated", "write_images",
]  # fmt: skip


def write_images(kind: str, folder: str | os.PathLike[str], limit: int | None = None) -> int:
    """Write a generated data set as PNG files, `folder`/SPLIT/CLASS/NAME.png: a data set in files to try things on.

    Args:
        kind: a name in `KINDS`.
        folder: where; made if it is missing.
        limit: images per split at most.

    Returns:
        The number of files.

    Raises:
        DataError: an unknown kind.
        OutputError: the folder cannot be written.
    """
    root = local_path(folder)
    faces = load_faces(GENERATED + kind, limit=limit)
    for position, path in enumerate(faces.paths):
        image = faces.pixels.gather(np.array([position]))[0]
        done, content = cv2.imencode(".png", image)
        if not done:
            raise DataError(f"{path}: OpenCV could not encode it as PNG")
        write_atomic(root / path, content.tobytes())
    return len(faces.paths)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="Write faces that the package draws as files.")
    parser.add_argument("kind", choices=[*KINDS, "affwild2"], help="one of the two sets as PNG, or a tree like Aff-Wild2's")
    parser.add_argument("folder")
    parser.add_argument("--limit", type=int, help="images per split")
    parser.add_argument("--videos", type=int, help="affwild2: how many videos (8)")
    parser.add_argument("--frames", type=int, help="affwild2: frames of all videos together (400)")
    parser.add_argument("--classes", type=int, help="affwild2: 7 (what is drawn if none is given), or 8 with Other")
    chosen = parser.parse_args()
    of_videos = {"videos": chosen.videos, "frames": chosen.frames, "classes": chosen.classes}
    given = {name: value for name, value in of_videos.items() if value is not None}
    if chosen.kind == "affwild2" and chosen.limit is not None:
        parser.error("--limit is for sets of images; give --videos and --frames")
    if chosen.kind != "affwild2" and given:
        parser.error(f"--{next(iter(given))} is for affwild2")
    try:
        if chosen.kind == "affwild2":
            from emotiw_keras.data.generated_videos import write_affwild2

            print(write_affwild2(chosen.folder, **{"videos": 8, "frames": 400, "classes": 7, **given}))
        else:
            print(f"{number_of(write_images(chosen.kind, chosen.folder, chosen.limit), 'images')} in {chosen.folder}")
    except EmotiwError as error:
        parser.error(str(error))
