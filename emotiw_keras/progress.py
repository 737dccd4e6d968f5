"""A bar while something is under way: on a terminal and in notebooks, nowhere else."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Any, TextIO

from emotiw_keras import talk
from emotiw_keras.text import shown

SECONDS_BETWEEN_REDRAWS = 0.2
_drawn: Any = None  # the bar on the screen


def watched() -> bool:
    """Whether somebody would see a bar: standard error is a terminal, or a notebook runs this."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return (sys.stderr is not None and sys.stderr.isatty()) or (shell is not None and "IPKernelApp" in shell.config)


def clear() -> None:
    """Take the bar off the screen, so that a line can be written; its next step draws it again."""
    if _drawn is not None:
        _drawn.clear()


class Bar:
    """How much of something is done, drawn by tqdm where it is watched.

    Args:
        unit: what is counted; "B" for bytes.
        file: a terminal to draw on; None for standard error or a notebook's cell, unless --quiet was given.

    Attributes:
        seen: whether it is drawn at all.

    Example:
        >>> bar = Bar("images")
        >>> bar.to(64, 1000)
    """

    def __init__(self, unit: str, file: TextIO | None = None) -> None:
        self.seen = file is not None or (not talk.quiet and watched())
        self._unit, self._file = unit, file
        self._bar: Any = None

    def to(self, done: int, total: int = 0, what: str = "", note: str = "") -> None:
        """Show that `done` of `total` are done; 0 where nobody knows how many there are. The bar goes when all are done.

        Args:
            what: stands before the bar.
            note: stands after it.
        """
        global _drawn
        if not self.seen:
            return
        if self._bar is None:
            if _drawn is not None:
                _drawn.close()  # lost by an error: there is one line to draw on
            self._bar = _drawn = _made(self._unit, self._file, done, total or None, shown(what), shown(note))
        self._bar.set_description(shown(what), refresh=False)
        self._bar.set_postfix_str(shown(note), refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total > 0:
            self.close()

    def close(self) -> None:
        """Take it off the screen for good; one more `to` begins another."""
        global _drawn
        if self._bar is not None:
            self._bar.close()
            self._bar = _drawn = None


def _width(file: TextIO | None) -> dict[str, Any]:
    """How wide a bar is: as the terminal, whose width some systems do not know, where tqdm would draw nothing."""
    with suppress(OSError, ValueError):  # a notebook has no terminal
        if os.get_terminal_size((file or sys.stderr).fileno()).columns == 0:
            return {"ncols": 80, "nrows": 24}
    return {"dynamic_ncols": True}


def _made(unit: str, file: TextIO | None, done: int, total: int | None, what: str, note: str) -> Any:
    """A bar that begins at `done`: what was done before says nothing of the rate."""
    from tqdm.auto import tqdm

    class Drawn(tqdm):
        monitor_interval = 0  # no thread beside ours: processes are forked

    Drawn.set_lock(threading.RLock())  # nor a lock between processes
    size = unit == "B"
    return Drawn(
        desc=what or None,
        postfix=note,
        initial=done,
        total=total,
        unit=unit if size else f" {unit}",
        unit_scale=size,
        file=file,
        leave=False,
        **_width(file),
        mininterval=SECONDS_BETWEEN_REDRAWS,
        miniters=1,
    )
