"""Ctrl-C, SIGTERM and the end of the terminal: finish the step, save, then stop."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = tuple(int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Those that a training saves at."""


class Interrupted(BaseException):
    """Training stopped on a signal after saving; `exit_code` is 128 plus the signal's number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Flag:
    """Remembers the first signal."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM):
            leave_terminal()
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


def leave_terminal() -> None:
    """What is said goes nowhere from here on, where it went to a terminal: to write to one that is gone is an error."""
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def hang_up() -> tuple[signal.Signals, ...]:
    """SIGHUP, where it ends processes: under `nohup` it does not, and Windows has none."""
    found = getattr(signal, "SIGHUP", None)
    return () if found is None or signal.getsignal(found) == signal.SIG_IGN else (found,)


@contextmanager
def delayed_signals() -> Iterator[Flag]:
    """Within the block SIGINT, SIGTERM and SIGHUP only set the flag; a second Ctrl-C stops at once.

    Outside the main thread, where Python allows no handlers, the flag stays unset.
    """
    flag = Flag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag) for number in (signal.SIGINT, signal.SIGTERM, *hang_up())}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
