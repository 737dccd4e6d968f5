"""Text that strangers wrote (names of files and classes, answers of servers), made safe to show; rows as CSV."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable

# Control characters, surrogates (bytes that are no UTF-8), what has no meaning, and separators of lines and paragraphs.
_ESCAPED = ("Cc", "Cs", "Cn", "Co", "Zl", "Zp")
# Of the format characters, which turn the direction of what follows among other things, those that join letters and emoji.
_JOINERS = "\u200c\u200d"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def shown(text: str) -> str:
    """`text` with whatever could move a cursor, colour a terminal, break a line or turn the direction of writing as an escape.

    Example:
        >>> print(shown("a\\x1b[31m.png"), shown("Müller 東京.jpg"))
        a\\x1b[31m.png Müller 東京.jpg
    """
    if text.isprintable():
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in _ESCAPED or (kind == "Cf" and character not in _JOINERS):
        return character.encode("unicode_escape").decode("ascii")
    return character


def number_of(count: int, things: str) -> str:
    """A count and what is counted.

    Example:
        >>> number_of(1, "faces"), number_of(1456, "faces")
        ('1 face', '1,456 faces')
    """
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def shown_lines(text: str) -> str:
    """`shown` of each line: the line breaks stay."""
    return "\n".join(map(shown, text.split("\n")))


def plain_words(text: str) -> str:
    """`text` for Matplotlib, which takes what stands between two dollars for a formula."""
    return shown(text).replace("$", r"\$")


def markdown_words(text: object) -> str:
    """Text that means nothing to Markdown or HTML, on one line.

    Example:
        >>> print(markdown_words("a_b|c"))
        a\\_b\\|c
    """
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", shown(" ".join(str(text).split())))


def sheet_cell(text: str) -> str:
    """`text` for a cell of a table that people open in a spreadsheet: safe to show, an apostrophe before a would-be formula.

    Example:
        >>> sheet_cell("=1+1"), sheet_cell("a.png")
        ("'=1+1", 'a.png')
    """
    return f"'{shown(text)}" if text.startswith(_FORMULA) else shown(text)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV, one line each; the lines end in a line feed.

    Example:
        >>> csv_text([("path", "label"), ("a,b.png", "sad"), ("old\\rmac.png", "sad")])
        'path,label\\n"a,b.png",sad\\n"old\\rmac.png","sad"\\n'
    """
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    # A carriage return, which ends a line for readers, is quoted by default only where it ends those written.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = list(row)
        (quoted if any(isinstance(cell, str) and "\r" in cell for cell in cells) else plain).writerow(cells)
    return text.getvalue()
