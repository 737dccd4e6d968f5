"""Expression labels: the named sets, the order each data set counts them in, and the usual spellings of their names.

Names are matched whole, never by a part of a word, and numbers are never guessed: 1 is disgust in FER-2013 and surprise
in RAF-DB.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from emotiw_keras.errors import DataError, UsageError


@dataclass(frozen=True)
class LabelSet:
    """A named, ordered set of expressions; a label id is a position in `labels`."""

    name: str
    labels: tuple[str, ...]


_SETS = (
    # FER-2013's order, which is the package's own.
    LabelSet("basic7", ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")),
    # SFEW and AFEW count their folders alphabetically.
    LabelSet("sfew7", ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")),
    LabelSet("affwild7", ("neutral", "angry", "disgust", "fear", "happy", "sad", "surprise")),
    LabelSet("affwild8", ("neutral", "angry", "disgust", "fear", "happy", "sad", "surprise", "other")),
    LabelSet("enterface6", ("angry", "disgust", "fear", "happy", "sad", "surprise")),
    LabelSet("ferplus8", ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")),
)
LABEL_SETS: dict[str, LabelSet] = {label_set.name: label_set for label_set in _SETS}

# Id in SFEW's order -> id in FER-2013's order.
SFEW_TO_FER: tuple[int, ...] = (0, 1, 2, 3, 6, 4, 5)

# What the numbers in each data set's own label files mean.
NUMBER_CODES: dict[str, dict[str, str]] = {
    "FER-2013": {str(i): label for i, label in enumerate(LABEL_SETS["basic7"].labels)},
    "RAF-DB": {"1": "surprise", "2": "fear", "3": "disgust", "4": "happy", "5": "sad", "6": "angry", "7": "neutral"},
    "Aff-Wild2": {str(i): label for i, label in enumerate(LABEL_SETS["affwild8"].labels)},
}

# Words first, then the codes of AFEW/SFEW (An Di Fe Ha Ne Sa Su), JAFFE (the same in capitals), KDEF (AF NES SAS SUS).
SPELLINGS: dict[str, tuple[str, ...]] = {
    "angry": ("angry", "anger", "an", "ang"),
    "disgust": ("disgust", "disgusted", "di", "dis"),
    "fear": ("fear", "fearful", "afraid", "fe", "fea", "af", "afs"),
    "happy": ("happy", "happiness", "joy", "ha", "hap", "has"),
    "sad": ("sad", "sadness", "sa", "sas"),
    "surprise": ("surprise", "surprised", "suprise", "su", "sur", "sus"),
    "neutral": ("neutral", "neutrality", "ne", "neu", "nes"),
    "contempt": ("contempt", "contemptuous", "con"),
    "other": ("other", "others"),
}
_CANONICAL = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}


def canonical(word: str) -> str | None:
    """The package's name for an expression, or None where the word is not one of its usual spellings.

    Example:
        >>> canonical("Happiness"), canonical("AN"), canonical("unhappy"), canonical("3")
        ('happy', 'angry', None, None)
    """
    return _CANONICAL.get(word.strip().casefold())


def label_set(name: str) -> LabelSet:
    """The named label set.

    Raises:
        UsageError: there is no set of that name.
    """
    if name not in LABEL_SETS:
        close = difflib.get_close_matches(name, LABEL_SETS, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        known = f"{', '.join(LABEL_SETS)}, or 'folder' for any class names"
        raise UsageError(f"unknown label set {name!r}{hint}; known: {known}")
    return LABEL_SETS[name]


def match_classes(found: Mapping[str, str], labels: str | Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Match the class names found in a data set to labels.

    Args:
        found: each class name -> where it was first seen (a path or a row), for the error.
        labels: the name of a label set, "folder" (the names as they are, sorted), or the labels themselves in order.

    Returns:
        The labels, and class name -> label id.

    Raises:
        UsageError: there is no such label set.
        DataError: a class name is none of the labels nor a spelling of one.
    """
    if labels == "folder":
        names = tuple(sorted(found))
        return names, {name: i for i, name in enumerate(names)}
    title = f"labels = {labels!r}" if isinstance(labels, str) else "these labels"
    names = label_set(labels).labels if isinstance(labels, str) else _checked(labels)
    ids: dict[str, int] = {}
    for i, name in enumerate(names):
        for spelling in (name.casefold(), *SPELLINGS.get(canonical(name) or "", ())):
            ids.setdefault(spelling, i)
    matched = {name: ids[name.strip().casefold()] for name in found if name.strip().casefold() in ids}
    unknown = [name for name in found if name not in matched]
    if unknown:
        shown = ", ".join(f"{name!r} ({found[name]})" for name in sorted(unknown)[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DataError(
            f"unknown class name{'s' if len(unknown) > 1 else ''} {shown}{more} under {title}, which knows "
            f"{', '.join(names)} in their usual spellings{_number_hint(unknown)}; rename them, or take any class names "
            'with labels = "folder"'
        )
    return names, matched


def _checked(labels: Sequence[str]) -> tuple[str, ...]:
    names = tuple(labels)
    keys = [canonical(name) or name.strip().casefold() for name in names]
    if len(names) < 2 or len(set(keys)) != len(keys):
        raise UsageError(f"labels = {list(names)!r}: expected at least two labels, each once")
    return names


def _number_hint(unknown: Iterable[str]) -> str:
    numbers = sorted(name for name in unknown if name.strip().isdigit())
    if not numbers:
        return ""
    meanings = [f"{codes[numbers[0]]} in {data}" for data, codes in NUMBER_CODES.items() if numbers[0] in codes]
    return f" (a number is not a name{f': {numbers[0]} is ' + ', '.join(meanings) if meanings else ''})"
