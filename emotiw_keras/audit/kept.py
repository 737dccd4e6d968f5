"""Answers that an audit keeps: one that was interrupted goes on, and one that is run again asks only what has changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from emotiw_keras.audit.adapter import checked_probabilities
from emotiw_keras.audit.entries import Entry
from emotiw_keras.audit.readers import Reader
from emotiw_keras.errors import ModelError
from emotiw_keras.files import NUMPY_UNREADABLE, check_regular, write_encoded
from emotiw_keras.sealed import json_text

_WORDS = ("name", "trained_on", "selected_on", "source")
"""What an entry says for people alone: it changes no answer."""


class KeptAnswers:
    """A folder of answers, each under a hash of all that is known of who gave it and of the faces.

    Args:
        folder: made if it is not there.
        say: takes a line for each set of faces that is not asked about again.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say

    def ask(self, entry: Entry, reader: Reader, faces: np.ndarray, called: str) -> np.ndarray:
        """A reader's probabilities, from the folder if it has answered the same faces before.

        Args:
            entry: as it was stated.
            reader: who answers.
            faces: uint8 (n, 48, 48).
            called: what these faces are called, for the file and for people.

        Returns:
            float32 (n, labels), as of `Reader.predict`.
        """
        stated = {key: value for key, value in asdict(entry).items() if key not in _WORDS}
        facts = {key: value for key, value in reader.facts.items() if key not in _WORDS}
        key = hashlib.sha256(json_text([stated, facts, reader.labels, reader.identity]).encode())
        key.update(np.ascontiguousarray(faces).tobytes())
        plain = re.sub(r"[^a-z0-9]+", "-", entry.name.lower()).strip("-")[:60]
        place = self._folder / f"{plain}-{called}-{key.hexdigest()[:20]}.npy"
        if place.is_file():
            kept = self._read(place, (len(faces), len(reader.labels)))
            if kept is not None:
                self._say(f"  {called}: as it answered before ({place.name})")
                return kept
        answers = reader.predict(faces)
        write_encoded(place, lambda file: np.save(file, answers, allow_pickle=False))
        return answers

    def _read(self, place: Path, shape: tuple[int, int]) -> np.ndarray | None:
        """What the file holds; None, with a line, where that is no such answers."""
        try:
            check_regular(place)
            answers = np.load(place, mmap_mode="r", allow_pickle=False)  # takes no memory on a header's word
            if isinstance(answers, np.ndarray) and answers.shape == shape and answers.dtype == np.float32:
                return checked_probabilities(np.array(answers), place.name)
        except (*NUMPY_UNREADABLE, RecursionError, ModelError):
            pass
        self._say(f"  {place.name} is damaged; asked again")
        return None
