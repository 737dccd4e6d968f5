"""Tables and lists as people have them: encodings, separators, ends of lines and numbers like `3.0` are understood."""

from __future__ import annotations

import codecs
import csv
import io
import mmap
import re
from typing import BinaryIO, cast

from emotiw_keras.data.archive import TABLE_BYTES, Archive, ZipArchive
from emotiw_keras.data.images import ImageError
from emotiw_keras.errors import DataError

SUFFIXES = (".csv", ".tsv")
_SEPARATORS = ",;\t|"
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# What some spreadsheets write above the header.
_DECLARED = re.compile(r"^sep=(.)\r?\n?")


def encoding_of(head: bytes) -> str:
    """ "utf-16" (with or without its mark) or UTF-8, by the first bytes."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    # A table starts with the name of a column: of ASCII letters every other byte of UTF-16 is zero.
    if len(head) >= 4 and head[1] == head[3] == 0:
        return "utf-16-le"
    return "utf-16-be" if len(head) >= 4 and head[0] == head[2] == 0 else "utf-8"


def separator_of(line: str) -> str:
    """What stands between the cells of a header: the mark that occurs most often outside quotes."""
    bare = re.sub(r'"[^"]*"', "", line)
    return max(_SEPARATORS, key=bare.count)


def columns_of(head: bytes) -> list[str]:
    """The column names of a table from its first bytes, stripped and in lower case; [] if they are no text of a table."""
    text = head.decode(encoding_of(head), "replace")
    text = _DECLARED.sub("", text).lstrip("\r\n")
    line = re.split(r"[\r\n]", text, maxsplit=1)[0]
    try:
        row = next(csv.reader([line], delimiter=separator_of(line), skipinitialspace=True), [])
    except csv.Error:
        return []
    return [column.strip().lower() for column in row]


def decoded(data: bytes, where: str) -> str:
    """A file's text; DataError if it is neither UTF-8 nor UTF-16."""
    try:
        return data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        kind = "UTF-16" if error.encoding.startswith("utf-16") else "UTF-8"
        raise DataError(f"{where}: not {kind} at byte {error.start}; save it as UTF-8") from error


def read_text(archive: Archive, member: str, where: str) -> str:
    """The text of a list or table; DataError if it cannot be had."""
    try:
        return decoded(archive.read(member), where)
    except ImageError as error:
        raise DataError(f"{where}: {error}") from error


def read_rows(archive: Archive, member: str, where: str) -> list[list[str]]:
    """The rows of a table in a folder or zip, the header first, whatever separates cells; DataError if it is none."""
    text = read_text(archive, member, where)
    declared = _DECLARED.match(text)
    text = (text[declared.end() :] if declared else text).lstrip("\r\n")
    separator = declared[1] if declared else separator_of(re.split(r"[\r\n]", text, maxsplit=1)[0])
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(f"{where}: not a readable CSV: {error}") from error


def mapped(archive: Archive, member: str, where: str) -> mmap.mmap | bytes:
    """The bytes of a large table as UTF-8 with lines that end in a line feed: mapped, or converted in memory if they are not.

    A member of a zip is unpacked into a file without a name, which goes with the process.
    """
    try:
        if isinstance(archive, ZipArchive):
            data = _unpacked(archive, member)
        else:
            with open(archive.path / member, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, ImageError) as error:
        raise DataError(f"cannot read {where}: {error}") from error
    if encoding_of(data[:16]).startswith("utf-16"):
        return re.sub(r"\r\n?", "\n", decoded(_whole(data, where), where)).encode()
    head = data[: 2**16]
    return _whole(data, where).replace(b"\r", b"\n") if b"\r" in head and b"\n" not in head else data


def _whole(data: mmap.mmap, where: str) -> bytes:
    if len(data) > TABLE_BYTES:
        raise DataError(f"{where}: {len(data):,} bytes are more than {TABLE_BYTES:,}; save it as UTF-8 with usual line ends")
    return data[:]


def _unpacked(archive: ZipArchive, member: str) -> mmap.mmap:
    from emotiw_keras.data.packing import packing_file

    size = archive.size(member)
    file = packing_file(size)
    if file is None:
        raise DataError(f"no room on the disk for {size:,} bytes of {member}; free some, or unpack it elsewhere")
    with file:
        archive.copy(member, cast(BinaryIO, file))
        file.flush()
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)


def whole_number(word: str) -> str:
    """A number without the `.0` that tables of floating-point numbers add; other words as they are.

    Example:
        >>> whole_number("3.0"), whole_number("3.5"), whole_number("happy")
        ('3', '3.5', 'happy')
    """
    return re.sub(r"^([0-9]+)\.0*$", r"\1", word)
