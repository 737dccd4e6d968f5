"""Folders that look like SAVEE and eNTERFACE'05: films of drawn faces under their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emotiw_keras.faces.face import Face
from tests.data.dotted import Dotted, photo
from tests.serving.marked import write_film

SAVEE = {"a": "angry", "d": "disgust", "f": "fear", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprise"}
ENTERFACE = {"anger": "an", "disgust": "di", "fear": "fe", "happiness": "ha", "sadness": "sa", "surprise": "su"}


class Wandering(Dotted):
    """`Dotted` for films, whose whites are no longer quite white."""

    def detect(self, image: np.ndarray) -> list[Face]:
        return super().detect(np.where(image >= 190, 255, 0).astype(np.uint8))


def film(path: Path, frames: int = 6, seed: int = 0) -> None:
    """A film of one pair of eyes that wanders, as `Wandering` finds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [photo(((50 + i, 50), (90 + i, 50 + seed % 3)), seed=100 * seed + i) for i in range(frames)]
    write_film(path, [np.repeat(picture[..., None], 3, axis=-1) for picture in pictures])


def write_savee(folder: Path, speakers: tuple[str, ...] = ("DC", "JE", "JK", "KL"), sentences: int = 1) -> Path:
    """`AudioVisualClip/<speaker>/<emotion><sentence>.avi`, all seven emotions."""
    for number, speaker in enumerate(speakers):
        for kind, code in enumerate(SAVEE):
            for sentence in range(1, sentences + 1):
                film(folder / "AudioVisualClip" / speaker / f"{code}{sentence:02d}.avi", seed=7 * number + kind + 50 * sentence)
    return folder


def write_enterface(folder: Path, subjects: int = 5, sentences: int = 1) -> Path:
    """`subject N/<emotion>/sentence M/sN_xx_M.avi`; the last subject's films lie without a sentence's folder."""
    for subject in range(1, subjects + 1):
        for kind, (emotion, code) in enumerate(ENTERFACE.items()):
            for sentence in range(1, sentences + 1):
                place = folder / f"subject {subject}" / emotion
                place = place if subject == subjects else place / f"sentence {sentence}"
                film(place / f"s{subject}_{code}_{sentence}.avi", seed=11 * subject + kind + 50 * sentence)
    return folder
