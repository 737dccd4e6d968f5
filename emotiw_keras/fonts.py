"""The letters that names of classes and files are drawn with, in pictures and charts.

They are those of DejaVu Sans, which comes with Matplotlib: Latin, Greek and Cyrillic ones among others. Without Matplotlib they
are Pillow's, English ones. The environment variable `EMOTIW_FONT` names a font file for other scripts. A letter that a font has
not is drawn as its number (`\\u6050`), so that two names never look alike.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ImageFont

from emotiw_keras.errors import UsageError
from emotiw_keras.text import shown

VARIABLE = "EMOTIW_FONT"
ENGLISH = "".join(map(chr, range(33, 127)))
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_NO_LETTER = "\uffff"


def _file() -> Path | None:
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("mpl-data") / "fonts" / "ttf" / "DejaVuSans.ttf"
    return file if file.is_file() else None


def get_font(size: int) -> Font:
    """The font in a size, in pixels.

    Raises:
        UsageError: `EMOTIW_FONT` names no font file.
    """
    return _opened(_file(), size)


@functools.lru_cache(maxsize=64)
def _opened(file: Path | None, size: int) -> Font:
    if file is None:
        return ImageFont.load_default(size)
    try:
        file.stat()  # Pillow would look for another of that name
        font = ImageFont.truetype(str(file), size)
    except OSError as error:
        raise UsageError(f"{VARIABLE}={file}: no font can be read there ({error}); expected a .ttf or .otf file") from error
    if lacking := [letter for letter in ENGLISH if not _has(file, letter)]:
        raise UsageError(f"{VARIABLE}={file}: it has no {lacking[0]!r}; expected a font of English letters and digits too")
    return font


def drawable(text: str) -> str:
    """`text` safe to show, letters that the font has not as their numbers.

    Example:
        >>> drawable("радость"), drawable("\U00020000")
        ('радость', '\\\\U00020000')
    """
    file = _file()
    _opened(file, 16)  # a clear error of a file that is none
    return "".join(each if _has(file, each) else each.encode("unicode_escape").decode("ascii") for each in shown(text))


@functools.lru_cache(maxsize=4096)
def _has(file: Path | None, letter: str) -> bool:
    if file is None:
        return letter.isascii()
    # Letter by letter, not shaped into words, each that is missing is the same picture.
    font = ImageFont.truetype(str(file), 16, layout_engine=ImageFont.Layout.BASIC)
    return bytes(font.getmask(letter)) != bytes(font.getmask(_NO_LETTER))


def plain_words(text: str) -> str:
    """`drawable` for Matplotlib, which takes what stands between two dollars for a formula."""
    return drawable(text).replace("$", r"\$")


@contextmanager
def in_charts() -> Iterator[None]:
    """Within it (and within a function that it decorates) Matplotlib writes in the font that `EMOTIW_FONT` names."""
    if not os.environ.get(VARIABLE):
        yield
        return
    import matplotlib
    from matplotlib import font_manager

    get_font(16)  # a clear error before Matplotlib's
    font_manager.fontManager.addfont(str(_file()))
    name = font_manager.FontProperties(fname=str(_file())).get_name()
    with matplotlib.rc_context({"font.family": [name, "DejaVu Sans"]}):
        yield
