"""From what a user names (files, folders, globs, zips, videos, a camera) to images; one that fails stops nothing."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from emotiw_keras.data.archive import LINK_OUT, MEMBER_BYTES, is_image, open_archive
from emotiw_keras.data.heif import is_heif
from emotiw_keras.data.images import SUFFIXES, ImageError, decode_image
from emotiw_keras.data.prefetch import map_ahead
from emotiw_keras.errors import DataError
from emotiw_keras.hardware import processor_threads
from emotiw_keras.serving.input_images import InputImage, Video
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of

# Threads that decode the images of a folder or zip; each holds one, which may be large.
DECODERS = 4


def expand(inputs: Sequence[str]) -> list[str | InputImage]:
    """Names with the glob patterns among them replaced by what they match (`matching`); one that matches nothing by its
    error."""
    from emotiw_keras.data.walking import matching
    from emotiw_keras.serving.video_inputs import is_camera, is_sequence

    names: list[str | InputImage] = []
    for name in inputs:
        if os.path.exists(name) or is_camera(name) or is_sequence(name):
            names.append(name)
        elif glob.has_magic(name):
            found = [path.rstrip("/") or "/" for path in matching(name)]
            # nobody has named the pipes among them, and who opens one may wait for ever
            names += [InputImage(path, None, "not a file") if _is_pipe(path) else path for path in found] or [
                InputImage(name, None, "no file matches this pattern")
            ]
        else:
            names.append(InputImage(name, None, "no such file or folder"))
    return names


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def _silent(remark: str) -> None:
    """Where nobody asks what was left out."""


def read_inputs(names: Sequence[str | InputImage], say: Callable[[str], None] = _silent) -> Iterator[InputImage | Video]:
    """Read every image and video that `expand` named, in their order; folders and zips in the order of their names.

    Files and pipes named themselves are read whatever they are called; of a folder or a zip the files that are called like
    images or videos.

    Args:
        names: paths of files, folders and zips, numbered images (`frames_%05d.jpg`), `camera:0`, and errors, which pass.
        say: called with a remark on what is left out of a folder or zip.

    Yields:
        A `InputImage` or a `Video` for each; an input that is missing, empty or damaged is an image with `error` set.
    """
    from emotiw_keras.serving.video_inputs import is_camera, is_sequence, open_camera, open_sequence

    for name in names:
        if isinstance(name, InputImage):
            yield name
        elif os.path.exists(name):
            yield from _read(name, say)
        elif is_camera(name):
            yield open_camera(name)
        elif is_sequence(name):
            yield open_sequence(name, read_file)
        else:
            yield InputImage(name, None, "no such file or folder")


READ_WITH_OUT = frozenset({".tar", ".tgz", ".txt", ".csv", ".tsv", ".parquet"})
"""What names inputs or holds them, and is no picture."""


def is_one_file(name: str) -> bool:
    """Whether an input is a single picture or film, as far as its name tells: no folder, zip, or film of numbered images."""
    return os.path.isfile(name) and Path(name).suffix.lower() != ".zip"


def _read(name: str, say: Callable[[str], None]) -> Iterator[InputImage | Video]:
    zipped = Path(name).suffix.lower() == ".zip" and os.path.isfile(name)
    if zipped or os.path.isdir(name):
        yield from _read_archive(name, zipped, say)
    else:
        found = (_read_pipe if _is_pipe(name) else read_file)(name, os.path.basename(name))
        if isinstance(found, InputImage) and found.error and Path(name).suffix.lower() in READ_WITH_OUT:
            found = replace(found, error=f"{found.error}; tars, lists and tables of inputs are read with --out DIR")
        yield found


def read_file(path: str, below: str) -> InputImage | Video:
    """Read an image, or open a video, which is known by its name or by its first bytes; `below` is its relative name."""
    from emotiw_keras.data.video_files import is_video
    from emotiw_keras.serving.video_inputs import looks_like_video, open_video

    try:
        if not os.path.isfile(path):
            return InputImage(path, None, "not a file" if os.path.exists(path) else "no such file or folder")
        with open(path, "rb") as file:
            start = file.read(16)
            if start and not is_heif(start) and (is_video(path) or looks_like_video(start)):
                return open_video(path, below)
            size = os.path.getsize(path)
            if size > MEMBER_BYTES:
                return InputImage(path, None, f"{size:,} bytes, more than the {MEMBER_BYTES:,} allowed for one image")
            data = start + file.read()
    except OSError as error:
        return InputImage(path, None, f"cannot read: {error.strerror or error}")
    return decode(path, data, below)


def _read_pipe(path: str, below: str) -> InputImage:
    """Read an image from a pipe that was named itself, such as `/dev/stdin` or the `<(...)` of a shell."""
    from emotiw_keras.serving.video_inputs import looks_like_video

    try:
        # To open it does not wait for who writes into it, and to read it ends at once where there is nobody.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(number, True)
        with open(number, "rb") as file:
            data = file.read(MEMBER_BYTES + 1)
    except OSError as error:
        return InputImage(path, None, f"cannot read: {error.strerror or error}")
    if not data:
        return InputImage(path, None, "zero bytes came out of this pipe; start first what writes into it")
    if not is_heif(data[:16]) and looks_like_video(data[:16]):
        return InputImage(path, None, "a video in a pipe; write it into a file first")
    if len(data) > MEMBER_BYTES:
        return InputImage(path, None, f"more than the {MEMBER_BYTES:,} bytes allowed for one image")
    return decode(path, data, below)


def decode(path: str, data: bytes, below: str) -> InputImage:
    """An image out of a file's bytes, decoded in another process where there is one for that."""
    from emotiw_keras.serving.decoders import current

    apart = current()
    return decoded(path, data, below) if apart is None else apart.image(path, data, below)


def decoded(path: str, data: bytes, below: str) -> InputImage:
    """An image out of a file's bytes, decoded in this process; `below` is its relative name."""
    notes: list[str] = []
    try:
        return InputImage(path, decode_image(data, notes=notes), name=below, notes=tuple(notes))
    except ImageError as error:
        return InputImage(path, None, str(error), name=below)


def _read_archive(name: str, zipped: bool, say: Callable[[str], None]) -> Iterator[InputImage | Video]:
    from emotiw_keras.data.layouts.listing import and_more
    from emotiw_keras.data.video_files import VIDEO_SUFFIXES, is_video

    try:
        archive = open_archive(name, outward=True)
    except DataError as error:
        yield InputImage(name, None, str(error))
        return
    members = [member for member in archive.names if is_image(member) or is_video(member)]
    taken = set(members)
    others = [member for member in archive.names if member not in taken] + archive.left_out
    if not members and not archive.locked:
        known = " ".join(sorted(SUFFIXES | VIDEO_SUFFIXES))
        saw = f", but {number_of(len(others), 'other files')} ({and_more(others)})" if others else ""
        yield InputImage(name, None, f"holds no images and no videos{saw}; looked for {known}")
    elif others:
        say(Notice(f"{name}: no images or videos, so left out: {number_of(len(others), 'files')} ({and_more(others)})"))

    def read(member: str) -> InputImage | str:
        """The image; of a video its name, since a video is opened when its turn comes."""
        path = os.path.join(name, member)
        if member in archive.locked:
            return InputImage(path, None, f"cannot read: {archive.locked[member]}")
        if is_video(member):
            return InputImage(path, None, LINK_OUT) if archive.leads_out(member) else member
        try:
            return decode(path, archive.read(member), member)
        except ImageError as error:
            return InputImage(path, None, str(error))

    listed = sorted([*members, *archive.locked], key=lambda each: each + "/" * (each in archive.locked))
    for found in map_ahead(read, listed, min(DECODERS, processor_threads())):
        if isinstance(found, InputImage):
            yield found
        else:
            path = os.path.join(name, found)
            yield InputImage(path, None, "a video in a zip; unpack it first") if zipped else read_file(path, found)
