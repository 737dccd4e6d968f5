"""The members of zips and tars as entries."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from emotiw_keras.bulk import tars
from emotiw_keras.bulk.entries import TAR, ZIP, Entry, wrong
from emotiw_keras.bulk.left_out import LeftOut, Say, end_of, placed
from emotiw_keras.bulk.places import asked, store_of
from emotiw_keras.data.archive import MEMBER_BYTES, ZipArchive, is_image
from emotiw_keras.data.layouts.folders import enclosing_folders
from emotiw_keras.data.video_files import is_video
from emotiw_keras.errors import DataError
from emotiw_keras.files import is_address


def state_of(path: str) -> str:
    """Size and time of change of a file; OSError if it is not there."""
    facts = os.stat(path)
    return f"{facts.st_size}:{facts.st_mtime_ns}"


def tag_of(facts: dict[str, object]) -> str:
    """What changes when a file of a store does: its tag, or size and time of change."""
    for key in ("ETag", "etag", "md5Hash", "content_md5"):
        if facts.get(key):
            return re.sub(r'["\s]', "", str(facts[key]))
    time = next((facts[key] for key in ("LastModified", "last_modified", "mtime", "created") if facts.get(key)), "")
    return f"{facts.get('size')}:{time}"


def of_zip(path: str, say: Say) -> Iterator[Entry]:
    try:
        archive = ZipArchive(Path(path))
        state = state_of(path)
    except DataError as error:
        yield wrong(path, str(error))
        return
    left, count = LeftOut(), 0
    depth = enclosing_folders(name for name in archive.names if is_image(name) or is_video(name))
    for member in archive.names:
        if is_image(member) or is_video(member):
            count += 1
            size = archive.size(member)
            yield placed(Entry(os.path.join(path, member), member, ZIP, path, size, state, member), depth)
        else:
            left.add(member)
    for name in archive.left_out:
        left.add(name)
    yield from end_of(path, count, left, say)


def of_tar(path: str, say: Say) -> Iterator[Entry]:
    try:
        if is_address(path):
            system, inside = store_of(path)
            state = tag_of(asked(path, lambda: system.info(inside)))
            opened = asked(path, lambda: system.open(inside, "rb"))
        else:
            state = state_of(path)
            opened = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        yield wrong(path, f"cannot read: {error.strerror or error}")
        return
    left, count = LeftOut(), 0
    with opened:
        names = (member.name for member in tars.members(opened) if is_image(member.name) or is_video(member.name))
        depth = enclosing_folders(names)
        opened.seek(0)
        for member in tars.members(opened):
            if member.error and not member.name:
                yield wrong(path, member.error)
            elif not (is_image(member.name) or is_video(member.name)):
                left.add(member.name)
                continue
            elif member.error or member.size > MEMBER_BYTES:
                reason = member.error or f"{member.size:,} bytes, more than the {MEMBER_BYTES:,} allowed for one image"
                yield wrong(f"{path}/{member.name}", reason)
            else:
                place = f"{path}/{member.name}"
                yield placed(Entry(place, member.name, TAR, path, member.size, state, "", member.offset), depth)
            count += 1
    yield from end_of(path, count, left, say)
