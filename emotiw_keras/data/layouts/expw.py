"""ExpW: a list of boxes, `label.lst`, and the photos they lie in (Zhang et al. 2018)."""

from __future__ import annotations

import posixpath

from emotiw_keras.data.layouts.boxes import Box, BoxedImages
from emotiw_keras.data.layouts.listing import Listing, and_more
from emotiw_keras.data.layouts.table import Layout, Source
from emotiw_keras.data.layouts.text_tables import read_text
from emotiw_keras.errors import DataError
from emotiw_keras.labels import NUMBER_CODES
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of

LIST = "label.lst"
_ROW = "image_name face_id top left right bottom confidence expression"


def _detect(source: Source) -> bool:
    return len(source.named(LIST)) == 1 and bool(source.images)


def _read(source: Source) -> Listing:
    """One entry for each face of the list; photos that are not there are left out and named."""
    name = source.named(LIST)[0]
    where = source.where(name)
    codes = NUMBER_CODES["ExpW"]
    members: list[str] = []
    boxes: list[Box] = []
    listing = Listing("ExpW", BoxedImages(source.archive, members, boxes), [], [], [], [], used={name})
    missing = []
    for number, line in enumerate(read_text(source.archive, name, where).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            top, left, right, bottom = map(int, words[-6:-2])
            label = codes[words[-1]]
            face = words[-7]
            image = " ".join(words[:-7])
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(f"{where}: line {number} is {line[:80]!r}; expected {_ROW}, expression 0 to 6") from error
        found = source.paths_of.get(posixpath.basename(image), [])
        if not found:
            missing.append(image)
            continue
        if len(found) > 1:
            raise DataError(f"{where}: line {number} names {image!r}, which lies at {found[0]} and {found[1]}; keep one")
        members.append(found[0])
        boxes.append((left, top, right, bottom))
        listing.names.append(f"{found[0]}#{face}")
        listing.classes.append(label)
    listing.split = [""] * len(members)
    # Faces of one photo stay together.
    listing.subject = list(members)
    listing.used |= {*members}
    if not members:
        raise DataError(f"{where}: none of the photos that it names is in {source.given}; unpack them there")
    listing.notes.append("faces are the boxes of the list; those of one photo stay in one split")
    if missing:
        listing.notes.append(
            Notice(f"photos of the list that are not there: {number_of(len(missing), 'faces')} ({and_more(missing, 3)})")
        )
    return listing


LAYOUT = Layout("ExpW", f"ExpW ({LIST} and its photos)", _detect, _read)
