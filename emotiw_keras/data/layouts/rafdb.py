"""RAF-DB, basic expressions: the list of labels and the aligned (or original) images, or number folders (Li et al. 2017)."""

from __future__ import annotations

import re

from emotiw_keras.data.layouts.listing import Listing, and_more, list_images
from emotiw_keras.data.layouts.table import Layout, Source
from emotiw_keras.data.layouts.text_tables import read_text
from emotiw_keras.errors import DataError
from emotiw_keras.labels import NUMBER_CODES
from emotiw_keras.talk import Notice

# As the authors spell it, and as it should be.
LISTS = ("list_patition_label.txt", "list_partition_label.txt")
_IMAGE = re.compile(r"(train|test)_\d{3,6}(_aligned)?\.\w+", re.IGNORECASE)
_LINE = re.compile(r"((train|test)_\d+)\.\w+\s+([1-7])")


def _in_number_folders(names: list[str]) -> bool:
    parts = [name.split("/")[-2:] for name in names]
    return bool(parts) and all(
        len(part) == 2 and part[0] in NUMBER_CODES["RAF-DB"] and _IMAGE.fullmatch(part[1]) for part in parts
    )


def _detect(source: Source) -> bool:
    return bool(source.images) and (len(source.named(*LISTS)) == 1 or _in_number_folders(source.images))


def _read(source: Source) -> Listing:
    lists = source.named(*LISTS)
    return _listed(source, lists[0]) if lists else _sorted(source)


def _sorted(source: Source) -> Listing:
    """Images in folders called 1 to 7, whose own names say that they are RAF-DB's and of which split."""
    listing = list_images("RAF-DB", source.archive, source.images)
    for i, name in enumerate(source.images):
        folder, own = name.split("/")[-2:]
        listing.classes.append(NUMBER_CODES["RAF-DB"][folder])
        listing.split[i] = own.split("_")[0].lower()
    listing.notes.append("folders 1 to 7 read as RAF-DB's numbers, as the images have its names")
    return listing


def _listed(source: Source, name: str) -> Listing:
    """The aligned image of each line where there are any, else the original one."""
    where = source.where(name)
    aligned = any(own.lower().rpartition(".")[0].endswith("_aligned") for own in source.paths_of)
    there: dict[str, list[str]] = {}
    for own, places in source.paths_of.items():
        if _IMAGE.fullmatch(own) and ("_aligned" in own.lower()) == aligned:
            there.setdefault(own.rpartition(".")[0].lower().removesuffix("_aligned"), []).extend(places)
    members, classes, split, missing = [], [], [], []
    for number, line in enumerate(read_text(source.archive, name, where).splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(f"{where}: line {number} is {line[:60]!r}; expected such as `train_00001.jpg 5`, 1 to 7")
        found = there.get(match[1].lower(), [])
        if len(found) > 1:
            raise DataError(f"{where}: {match[1]} lies at {found[0]} and {found[1]}; keep one of them")
        if not found:
            missing.append(match[1])
            continue
        members += found
        classes.append(NUMBER_CODES["RAF-DB"][match[3]])
        split.append(match[2].lower())
    if not members:
        raise DataError(f"{where}: none of the images that it names is in {source.given}; unpack aligned.zip there")
    listing = list_images("RAF-DB", source.archive, members)
    listing.classes, listing.split = classes, split
    listing.used.add(name)
    listing.notes.append(f"the list names {'aligned' if aligned else 'original'} images: {len(members):,}")
    if missing:
        listing.notes.append(Notice(f"images of the list that are not there: {len(missing):,} ({and_more(missing)})"))
    return listing


LAYOUT = Layout("RAF-DB", f"RAF-DB ({LISTS[0]} and the aligned images)", _detect, _read)
