"""Sets whose file names say who is shown, and what: CK+, KDEF and JAFFE, as they are distributed or sorted into folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from emotiw_keras.data.layouts.listing import Listing, list_images, split_named
from emotiw_keras.data.layouts.table import Layout, Source


@dataclass(frozen=True)
class Naming:
    """How one set calls its files: a pattern with the group `person`, and `code` where the name says the expression too."""

    name: str
    pattern: re.Pattern[str]
    codes: tuple[tuple[str, str], ...] = ()


NAMINGS = (
    # S010_004_00000017.png: person, sequence, frame (Lucey et al. 2010)
    Naming("CK+", re.compile(r"(?P<person>S\d{3})_\d{3}_\d{8}\.\w+", re.IGNORECASE)),
    # AF01ANS.JPG: session A or B, woman or man and number, expression, angle (Lundqvist et al. 1998)
    Naming(
        "KDEF",
        re.compile(r"[AB](?P<person>[FM]\d{2})(?P<code>AF|AN|DI|HA|NE|SA|SU)(FL|HL|S|HR|FR)\.\w+", re.IGNORECASE),
        (("AF", "fear"), ("AN", "angry"), ("DI", "disgust"), ("HA", "happy"), ("NE", "neutral"), ("SA", "sad"),
         ("SU", "surprise")),
    ),
    # KA.AN1.39.tiff: person, expression and its number, number in all (Lyons et al. 1998)
    Naming(
        "JAFFE",
        re.compile(r"(?P<person>[A-Z]{2})\.(?P<code>AN|DI|FE|HA|NE|SA|SU)\d\.\d{1,3}\.\w+", re.IGNORECASE),
        (("AN", "angry"), ("DI", "disgust"), ("FE", "fear"), ("HA", "happy"), ("NE", "neutral"), ("SA", "sad"),
         ("SU", "surprise")),
    ),
)  # fmt: skip


# KDEF as it is distributed has a name or two that follow no rule (AM31H.JPG).
_SHARE = 0.95


def naming_of(files: Sequence[str]) -> Naming | None:
    """The set that calls nearly all of these files so, or None."""
    for each in NAMINGS:
        if files and sum(bool(each.pattern.fullmatch(name)) for name in files) >= _SHARE * len(files):
            return each
    return None


def persons_named(files: Sequence[str]) -> tuple[str, list[str]] | None:
    """The set that calls nearly all of these files so, and the person of each ("" for the others); None if none does.

    Example:
        >>> persons_named(["AF01ANS.JPG", "BF01HAHL.JPG"])
        ('KDEF', ['F01', 'F01'])
    """
    naming = naming_of(files)
    if naming is None:
        return None
    matches = [naming.pattern.fullmatch(name) for name in files]
    return naming.name, ["" if match is None else match["person"].upper() for match in matches]


def told_by_names(files: Sequence[str]) -> tuple[str, list[tuple[str, str]]] | None:
    """The set whose file names tell class and person, and both of each file ("" for a name that follows no rule); None if none.

    Example:
        >>> told_by_names(["KA.AN1.39.tiff"])
        ('JAFFE', [('angry', 'KA')])
    """
    naming = naming_of(files)
    if naming is None or not naming.codes:
        return None
    codes = dict(naming.codes)
    matches = [naming.pattern.fullmatch(name) for name in files]
    return naming.name, [("", "") if m is None else (codes[m["code"].upper()], m["person"].upper()) for m in matches]


def _own_names(source: Source) -> list[str]:
    return [name.rpartition("/")[2] for name in source.images]


def _detect(source: Source) -> bool:
    # Where the set has been sorted into split folders, those count.
    return told_by_names(_own_names(source)) is not None and not any(_in_split(name) for name in source.images)


def _in_split(name: str) -> bool:
    """Whether an image lies below a folder that is called like a split."""
    return any(split_named(part) for part in name.split("/")[:-1])


def _read(source: Source) -> Listing:
    told = told_by_names(_own_names(source))
    assert told is not None, "detected before"
    known = [(name, *facts) for name, facts in zip(source.images, told[1], strict=True) if facts[0]]
    listing = list_images(told[0], source.archive, [name for name, _, _ in known])
    listing.classes, listing.subject = [label for _, label, _ in known], [person for _, _, person in known]
    listing.notes.append(f"classes and persons read from file names as {told[0]} writes them")
    return listing


LAYOUT = Layout("KDEF, JAFFE", "KDEF and JAFFE by their file names", _detect, _read)
