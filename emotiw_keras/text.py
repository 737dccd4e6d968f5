"""Text that strangers wrote (names of files and classes, answers of servers), made safe to show; rows as CSV."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence, Sized

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


def shown_line(text: str, most: int = 2_000) -> str:
    """`shown` of a line for people, the middle of one that a name of many thousand characters has made long left out.

    Example:
        >>> shown_line("cannot read " + "x" * 10_000 + ": no such file", 40)
        'cannot read xxxxxxxxxxxxxxxxxx... (9,986 characters left out) ... such file'
    """
    if len(text) <= most:
        return shown(text)
    start, end = most * 3 // 4, most // 4
    return shown(f"{text[:start]}... ({len(text) - start - end:,} characters left out) ...{text[-end:]}")


def number_of(count: int, things: str) -> str:
    """A count and what is counted.

    Example:
        >>> number_of(1, "faces"), number_of(1456, "faces")
        ('1 face', '1,456 faces')
    """
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def briefly(value: object, most: int = 120) -> str:
    """A value that a user gave, on one line for a message: of arrays, and of lists that hold them, type and shape alone.

    Example:
        >>> import numpy as np
        >>> briefly(0.5), briefly((np.zeros((60, 48)), np.zeros(60))), briefly(list(range(1000)), 20)
        ('0.5', '(ndarray of shape (60, 48), ndarray of shape (60,))', '[0, 1, 2, 3, 4, 5, 6... (a list of 1,000)')
    """
    shape = getattr(value, "shape", ())
    if shape != ():
        return f"{type(value).__name__} of shape {shape}"
    if isinstance(value, list | tuple) and any(hasattr(item, "shape") for item in value):
        items = ", ".join(map(briefly, value[:3])) + (f", and {len(value) - 3:,} more" if len(value) > 3 else "")
        return f"[{items}]" if isinstance(value, list) else f"({items})"
    text = " ".join(repr(value).split())
    if len(text) <= most:
        return text
    size = f" (a {type(value).__name__} of {len(value):,})" if isinstance(value, Sized) else ""
    return f"{text[:most]}...{size}"


def shown_lines(text: str) -> str:
    """`shown` of each line: the line breaks stay."""
    return "\n".join(map(shown, text.split("\n")))


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


def class_columns(labels: Sequence[str], others: Collection[str]) -> list[str]:
    """What the columns of classes are called in a table that has other columns too: as the classes are, and `probability of`
    one that is called like another column.

    Example:
        >>> class_columns(["happy", "label"], ["path", "label"])
        ['happy', 'probability of label']
    """
    taken, columns = {*others, *labels}, []
    for label in labels:
        column = label if label not in others else f"probability of {label}"
        while column != label and column in taken:
            column = f"probability of {column}"
        taken.add(column)
        columns.append(column)
    return columns


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
