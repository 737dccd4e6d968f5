"""Expression labels: the named sets, the order each data set counts them in, and the usual spellings of their names.

Names are matched whole, never by a part of a word, and numbers are never guessed: 1 is disgust in FER-2013 and surprise
in RAF-DB.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.talk import most
from emotiw_keras.text import briefly


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

VOTE_MODES = ("cross_entropy", "probabilistic", "majority", "multi_label")
"""How the votes of several raters become labels; see `data.votes.labels_of`."""

# What the numbers in each data set's own label files mean.
NUMBER_CODES: dict[str, dict[str, str]] = {
    "FER-2013": {str(i): label for i, label in enumerate(LABEL_SETS["basic7"].labels)},
    "RAF-DB": {"1": "surprise", "2": "fear", "3": "disgust", "4": "happy", "5": "sad", "6": "angry", "7": "neutral"},
    "Aff-Wild2": {str(i): label for i, label in enumerate(LABEL_SETS["affwild8"].labels)},
    # 8 to 10 are no expression, an uncertain one and no face.
    "AffectNet": {
        "0": "neutral", "1": "happy", "2": "sad", "3": "surprise", "4": "fear", "5": "disgust", "6": "angry", "7": "contempt",
    },
    "ExpW": {"0": "angry", "1": "disgust", "2": "fear", "3": "happy", "4": "sad", "5": "surprise", "6": "neutral"},
}  # fmt: skip

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
    return _CANONICAL.get(_plain(word))


def class_key(name: str) -> str:
    """What makes two names one class: the package's name of an expression, else the name without regard to case, and to
    whether words are parted by spaces, hyphens or underscores.

    Letters with accents are equal however they are composed (NFC and NFD), as file systems do not agree on it.

    Example:
        >>> class_key("Happiness"), class_key(" Smirk "), class_key("Very_Happy") == class_key("very-happy")
        ('happy', 'smirk', True)
    """
    return _CANONICAL.get(_plain(name)) or " ".join(re.split(r"[\s_-]+", _plain(name)))


def label_columns(labels: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """The position in `labels` of each of `wanted`, matched as they are written, else by `class_key`; None if the two are not
    the same set.

    Example:
        >>> label_columns(("sad", "happy"), ("happiness", "sadness"))
        [1, 0]
    """
    if set(labels) == set(wanted):  # which may hold two words for one expression
        return [labels.index(label) for label in wanted]
    places = {class_key(label): i for i, label in enumerate(labels)}
    keys = [class_key(label) for label in wanted]
    if set(keys) != set(places) or not len(keys) == len(places) == len(labels):
        return None
    return [places[key] for key in keys]


def _plain(word: str) -> str:
    return unicodedata.normalize("NFC", word).strip().casefold()


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


def match_classes(
    found: Mapping[str, str], labels: str | Sequence[str], remedy: str = "leave_out = {names}"
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Match the class names found in a data set to labels.

    Args:
        found: each class name -> where it was first seen (a path or a row), for the error.
        labels: the name of a label set, "folder" (the names as they are, sorted; those that `class_key` finds equal are one
            class), or the labels themselves in order.
        remedy: how whoever reads the error leaves out classes; `{names}` stands for their list.

    Returns:
        The labels, and class name -> label id.

    Raises:
        UsageError: there is no such label set.
        DataError: a class name is none of the labels nor a spelling of one.

    Example:
        >>> match_classes({"Smirk": "Smirk/1.png", "happy": "happy/1.png", "Happiness": "Happiness/1.png"}, "folder")
        (('Smirk', 'happy'), {'Smirk': 0, 'happy': 1, 'Happiness': 1})
    """
    if labels == "folder":
        spellings: dict[str, list[str]] = {}
        for name in sorted(found):
            spellings.setdefault(class_key(name), []).append(name)
        names = tuple(sorted(written[0] if len(written) == 1 else key for key, written in spellings.items()))
        position = {class_key(name): i for i, name in enumerate(names)}
        return names, {name: position[class_key(name)] for name in found}
    title = f"labels = {labels!r}" if isinstance(labels, str) else "these labels"
    names = label_set(labels).labels if isinstance(labels, str) else check_labels(labels)
    ids = {class_key(name): i for i, name in enumerate(names)}
    matched = {name: ids[class_key(name)] for name in found if class_key(name) in ids}
    unknown = sorted(name for name in found if name not in matched)
    if unknown:
        shown = ", ".join(f"{name!r} ({found[name]})" for name in unknown[:5])
        told = unknown[: most(5)]
        more = f" and {len(unknown) - len(told)} more" if len(told) < len(unknown) else ""
        written = "[" + ", ".join(f'"{name}"' for name in unknown[:5]) + "]"
        ways = ["rename them", f"leave them out with {remedy.format(names=written)}"]
        if isinstance(labels, str):  # labels in order are a run's, or its user's own
            ways.append(f'take {_other_sets(found)}any class names with labels = "folder"')
        raise DataError(
            f"unknown class name{'s' if len(unknown) > 1 else ''} {shown}{more} under {title}, which knows "
            f"{', '.join(names)} in their usual spellings{_number_hint(unknown)}{_nearest(unknown, names)}; "
            f"{', '.join(ways[:-1])}{',' if len(ways) > 2 else ''} or {ways[-1]}"
        )
    return names, matched


def _nearest(unknown: Iterable[str], names: Sequence[str]) -> str:
    """What the unknown names may have been meant to be."""
    spellings = {_plain(spelling): name for name in names for spelling in (name, *SPELLINGS.get(class_key(name), ()))}
    close = {name: difflib.get_close_matches(_plain(name), spellings, n=1, cutoff=0.75) for name in unknown}
    meant = [f"{spellings[found[0]]} by {name!r}" for name, found in close.items() if found]
    return f" (did you mean {', '.join(meant[: most(5)])}?)" if meant else ""


def _other_sets(found: Iterable[str]) -> str:
    keys = {class_key(name) for name in found}
    sets = [f'labels = "{each.name}"' for each in _SETS if keys <= set(each.labels)]
    return f"all of them with {' or '.join(sets)}, or " if sets else ""


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Names of classes in their order, once each however they are spelt; UsageError for others."""
    names = tuple(labels)
    if not all(isinstance(name, str) and name for name in names):
        raise UsageError(f"labels = {briefly(list(names))}: expected names")
    if len(names) < 2 or len({class_key(name) for name in names}) != len(names):
        raise UsageError(f"labels = {briefly(list(names))}: expected at least two labels, each once")
    return names


def _number_hint(unknown: Iterable[str]) -> str:
    numbers = sorted(name for name in unknown if name.strip().isdigit())
    if not numbers:
        return ""
    meanings = [f"{codes[numbers[0]]} in {data}" for data, codes in NUMBER_CODES.items() if numbers[0] in codes]
    return f" (a number is not a name{f': {numbers[0]} is ' + ', '.join(meanings) if meanings else ''})"
