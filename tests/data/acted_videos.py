"""Folders that look like SAVEE and eNTERFACE'05: videos of drawn faces under their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emotiw_keras.faces.face import Face
from tests.data.dotted import Dotted, photo
from tests.serving.marked import write_video

SAVEE = {"a": "angry", "d": "disgust", "f": "fear", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprise"}
ENTERFACE = {"anger": "an", "disgust": "di", "fear": "fe", "happiness": "ha", "sadness": "sa", "surprise": "su"}


class Wandering(Dotted):
    """`Dotted` for videos, whose whites are no longer quite white."""

    def detect(self, image: np.ndarray) -> list[Face]:
        return super().detect(np.where(image >= 190, 255, 0).astype(np.uint8))


def video(path: Path, frames: int = 6, seed: int = 0) -> None:
    """A video of one pair of eyes that wanders, as `Wandering` finds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [photo(((50 + i, 50), (90 + i, 50 + seed % 3)), seed=100 * seed + i) for i in range(frames)]
    write_video(path, [np.repeat(image[..., None], 3, axis=-1) for image in images])


def write_savee(folder: Path, speakers: tuple[str, ...] = ("DC", "JE", "JK", "KL"), sentences: int = 1) -> Path:
    """`AudioVisualClip/<speaker>/<emotion><sentence>.avi`, all seven emotions."""
    for number, speaker in enumerate(speakers):
        for kind, code in enumerate(SAVEE):
            for sentence in range(1, sentences + 1):
                video(folder / "AudioVisualClip" / speaker / f"{code}{sentence:02}.avi", seed=7 * number + kind + 50 * sentence)
    return folder


def write_enterface(folder: Path, subjects: int = 5, sentences: int = 1) -> Path:
    """`subject N/<emotion>/sentence M/sN_xx_M.avi`; the last subject's videos lie without a sentence's folder."""
    for subject in range(1, subjects + 1):
        for kind, (emotion, code) in enumerate(ENTERFACE.items()):
            for sentence in range(1, sentences + 1):
                place = folder / f"subject {subject}" / emotion
                place = place if subject == subjects else place / f"sentence {sentence}"
                video(place / f"s{subject}_{code}_{sentence}.avi", seed=11 * subject + kind + 50 * sentence)
    return folder
