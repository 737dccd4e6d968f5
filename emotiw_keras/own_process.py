"""Fresh Python processes that answer what they are asked over their standard streams, and end with who started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import BinaryIO


def python(code: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command of a Python that runs `code`, and its environment, by which it has the import path of this one.

    Nothing is imported from the folder that the user happens to be in, which may be a stranger's (-P).
    """
    path = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return [sys.executable, "-P", "-c", code, *arguments], {**os.environ, "PYTHONPATH": path}


def start_python(code: str) -> subprocess.Popen[bytes]:
    """A Python that runs `code`, with the import path of this one; questions and answers go through its standard streams.

    When this process dies, at whatever moment, the other's standard input ends, by which it is to end itself.
    """
    command, environment = python(code)
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        # Ctrl-C is for the parent, which then ends the processes it has started.
        start_new_session=True,
    )


def own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Of a process so started: questions, and answers, among which nothing stands that libraries print."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, answers


def end(process: subprocess.Popen[bytes]) -> int:
    """End it; how it ended, which is its own way if it had ended by itself."""
    process.kill()
    code = process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what it was to be sent is not sent
                stream.close()
    return code


def how_it_ended(code: int) -> str:
    """In words.

    Example:
        >>> how_it_ended(-9), how_it_ended(3)
        ('was ended by SIGKILL', 'ended with exit code 3')
    """
    return f"was ended by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"


def signal_name(number: int) -> str:
    """SIGKILL for 9; a number that has no name as it is."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
