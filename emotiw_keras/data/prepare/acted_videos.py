"""Videos of acted emotions as they are distributed: who speaks and what is shown, by the names of folders and files.

SAVEE (Haq and Jackson 2009): `AudioVisualClip/<speaker>/<emotion><sentence>.avi`, speakers DC, JE, JK, KL, emotions a, d, f, h,
n, sa, su. eNTERFACE'05 (Martin et al. 2006): `subject 1/anger/sentence 1/s1_an_1.avi`, in places without the sentence's folder,
or with odd file names; the folders count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from emotiw_keras.data.layouts.listing import and_more
from emotiw_keras.labels import LABEL_SETS, canonical
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of

SAVEE_CODES = {"a": "angry", "d": "disgust", "f": "fear", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprise"}
_SAVEE = re.compile(r"(?:^|/)(?:([^/]+)/|([A-Za-z]+)_)(sa|su|[adfhn])(\d{1,3})\.[^./]+$")
_FOLDERS = re.compile(r"(?:^|/)subject[ _-]?(\d+)/([^/]+)/(?:sentence[ _-]?\d+/)?[^/]+$", re.IGNORECASE)
_FILE = re.compile(r"(?:^|/)s_?(\d+)_([a-z]{2})_?\d*\.[^./]+$", re.IGNORECASE)


@dataclass(frozen=True)
class Speech:
    """Videos of a known data set: its name, the (emotion, speaker) of each video, and remarks for a person."""

    name: str
    videos: dict[str, tuple[str, str]]
    notes: list[str]


def find_speech(members: Sequence[str]) -> Speech | None:
    """Recognise SAVEE or eNTERFACE'05 by most of the videos' names; those that do not fit are left out and named.

    Example:
        >>> find_speech(["AudioVisualClip/DC/sa07.avi"]).videos
        {'AudioVisualClip/DC/sa07.avi': ('sad', 'DC')}
    """
    for name, read in (("SAVEE", _savee), ("eNTERFACE'05", _enterface)):
        videos, doubtful = {}, []
        for member in members:
            found = read(member)
            if found is not None:
                videos[member] = found[:2]
                if found[2]:
                    doubtful.append(member)
        if 2 * len(videos) > len(members):
            speakers = sorted({speaker for _, speaker in videos.values()})
            notes = [
                f"{name}: {number_of(len(videos), 'videos')} of {number_of(len(speakers), 'speakers')} ({and_more(speakers)})"
            ]
            others = [member for member in members if member not in videos]
            if others:
                notes.append(Notice(f"videos whose names say nothing, left out: {len(others):,} ({and_more(others)})"))
            if doubtful:
                told = "videos whose own name says another speaker or emotion than their folders, which count"
                notes.append(Notice(f"{told}: {len(doubtful):,} ({and_more(doubtful)})"))
            return Speech(name, videos, notes)
    return None


def _savee(member: str) -> tuple[str, str, bool] | None:
    found = _SAVEE.search(member)
    speaker = (found[1] or found[2]) if found else ""
    # A folder of another data set may be called by an emotion, but no speaker is.
    return None if found is None or canonical(speaker) else (SAVEE_CODES[found[3]], speaker, False)


def _enterface(member: str) -> tuple[str, str, bool] | None:
    folders, file = _FOLDERS.search(member), _FILE.search(member)
    ours = None if folders is None else _named(folders[2], folders[1])
    own = None if file is None else _named(file[2], file[1])
    if ours is None:
        return None if own is None else (*own, False)
    return (*ours, own is not None and own != ours)


def _named(emotion: str, speaker: str) -> tuple[str, str] | None:
    label = canonical(emotion)
    return None if label not in LABEL_SETS["enterface6"].labels else (str(label), f"s{int(speaker):02d}")
