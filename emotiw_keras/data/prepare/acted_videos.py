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
_SPEAKERS = frozenset({"DC", "JE", "JK", "KL"})
_SAVEE = re.compile(r"(?:^|/)(?:([^/]+)/|([A-Za-z]+)_)(sa|su|[adfhn])(\d{1,3})\.[^./]+$")
_FOLDERS = re.compile(r"(?:^|/)subject[ _-]?(\d+)/([^/]+)/(?:sentence[ _-]?\d+/)?[^/]+$", re.IGNORECASE)
_FILE = re.compile(r"(?:^|/)s_?(\d+)_([a-z]{2})_?\d*\.[^./]+$", re.IGNORECASE)


@dataclass(frozen=True)
class Speech:
    """Videos of a known data set: its name, the (emotion, speaker) of each, and remarks for a person.

    What lies in class folders beside them has its folder's emotion, and no speaker.
    """

    name: str
    videos: dict[str, tuple[str, str]]
    notes: list[str]


def find_speech(members: Sequence[str], photos: Sequence[str] = ()) -> Speech | None:
    """Recognise SAVEE or eNTERFACE'05 by most of the videos' names; those that do not fit are left out and named, unless they
    lie in class folders, as are `photos`.

    Example:
        >>> find_speech(["AudioVisualClip/DC/sa07.avi"]).videos
        {'AudioVisualClip/DC/sa07.avi': ('sad', 'DC')}
    """
    for name, read in (("SAVEE", _savee), ("eNTERFACE'05", _enterface)):
        known = {member: found for member in members if (found := read(member)) is not None}
        doubtful = [member for member, (_, _, doubt) in known.items() if doubt]
        if 2 * (len(known) - len(doubtful)) > len(members):
            speakers = sorted({speaker for _, speaker, _ in known.values()})
            notes = [
                f"{name}: {number_of(len(known), 'videos')} of {number_of(len(speakers), 'speakers')} ({and_more(speakers)})"
            ]
            videos = {member: found[:2] for member, found in known.items()}
            for member in (*members, *photos):
                if member not in known and (label := _shown(member)):
                    found = read(member)
                    videos[member] = (label, "") if found is None else found[:2]
            others = [member for member in members if member not in videos]
            if others:
                notes.append(Notice(f"videos whose names say nothing, left out: {len(others):,} ({and_more(others)})"))
            if doubtful:
                told = "videos whose own name says another speaker or emotion than their folders, which count"
                notes.append(Notice(f"{told}: {len(doubtful):,} ({and_more(doubtful)})"))
            return Speech(name, dict(sorted(videos.items())), notes)
    return None


def acted(member: str) -> tuple[str, str] | None:
    """Emotion and speaker of one video of SAVEE or eNTERFACE'05 by its name alone; None for any other, and where only the file
    is called so and its folder otherwise."""
    found = _savee(member) or _enterface(member)
    if found is None:
        return None
    folders = _FOLDERS.search(member) or f"/{found[1]}/" in f"/{member}" or (_shown(member) and not found[2])
    return found[:2] if folders or "/" not in member else None


def _shown(member: str) -> str | None:
    """The expression that a folder of a file is called by; None if none is."""
    return next((label for part in member.split("/")[:-1] if (label := canonical(part))), None)


def _savee(member: str) -> tuple[str, str, bool] | None:
    found = _SAVEE.search(member)
    # In class folders lie other films, such as happy/anna/d1.mp4.
    if found is None or _shown(member):
        return None
    speaker = found[1] or found[2]
    inside = "audiovisualclip" in member.lower().split("/")[:-2]
    return (SAVEE_CODES[found[3]], speaker, False) if inside or speaker in _SPEAKERS else None


def _enterface(member: str) -> tuple[str, str, bool] | None:
    folders, file, shown = _FOLDERS.search(member), _FILE.search(member), _shown(member)
    label = canonical(folders[2]) if folders else None
    ours = (label, _speaker(folders[1])) if folders and label else None
    emotion = canonical(file[2]) if file else None
    own = (emotion, _speaker(file[1])) if file and emotion in LABEL_SETS["enterface6"].labels else None
    if ours is None:
        return None if own is None else (shown or own[0], own[1], shown not in (None, own[0]))
    return (*ours, own is not None and own != ours)


def _speaker(number: str) -> str:
    return f"s{int(number):02d}"
