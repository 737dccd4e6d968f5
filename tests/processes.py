"""Processes forked from one that has TensorFlow imported: each is on its own as a user's command is, and starts at once.

Importing TensorFlow takes 4 to 10 seconds of a processor. A process that tests how a command starts, or what it imports, is
started by `subprocess` instead.
"""

from __future__ import annotations

import atexit
import inspect
import multiprocessing
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Forking is safe on Linux alone: elsewhere system libraries keep threads from their first import on.
_CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    # Modules alone: nothing is computed in the process that is forked, so it has none of TensorFlow's threads.
    _CONTEXT.set_forkserver_preload(["tensorflow", "emotiw_keras.training.fit", "emotiw_keras.serving.predictor"])


def emotiw(*arguments: str) -> None:
    """The command line with these words, as its entry point is called."""
    from emotiw_keras.cli.main import main

    sys.argv[:] = ["emotiw", *arguments]
    main()


def script(path: str, *arguments: str) -> None:
    """A file as `python -P` runs it."""
    sys.argv[:] = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def run(function: Callable, *arguments: object, timeout: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    """Call a function of a module in a process of its own, and wait: exit code, standard output and standard error."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = _start(function, arguments, out.fileno(), err.fileno(), **options)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(str(arguments), timeout)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
        return subprocess.CompletedProcess(arguments, process.exitcode, *texts)


class Forked:
    """Such a process while it runs, with what the tests use of `subprocess.Popen`; its standard output is not kept."""

    def __init__(self, function: Callable[..., object], *arguments: object, **options: Any) -> None:
        read, write = os.pipe()
        with open(os.devnull, "wb") as nowhere:
            self._process = _start(function, arguments, nowhere.fileno(), write, **options)
        os.close(write)
        self.stderr = os.fdopen(read)

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process.pid), timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        """Nothing, and what is left of standard error, which ends with the process."""
        text = self.stderr.read()
        self.wait(timeout)
        return None, text

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended this moment
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def default_signals() -> None:
    """Signals as at a terminal, also where the tests themselves run with them ignored (`nohup make test &`)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _start(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    out: int,
    err: int,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    preexec_fn: Callable[[], object] | None = None,
) -> Any:
    """The started process; the options are those of `subprocess.Popen`."""
    place = (str(cwd or Path.cwd()), dict(env if env is not None else os.environ))
    calls = [_name(each) for each in (preexec_fn, function) if each is not None]
    process = _CONTEXT.Process(target=_child, args=(calls, arguments, place, _Streams(out, err)), daemon=True)
    process.start()
    return process


def _name(function: Callable[..., object]) -> str:
    """By what the function is found in another process; pytest's own names of test modules mean nothing there."""
    module = ".".join(Path(inspect.getfile(function)).with_suffix("").relative_to(ROOT).parts)
    return f"{module}:{function.__qualname__}"


class _Streams:
    """Descriptors that are handed over when the process starts."""

    def __init__(self, out: int, err: int) -> None:
        self.numbers = (out, err)

    def __getstate__(self) -> Any:
        return [DupFd(number) for number in self.numbers]

    def __setstate__(self, state: Any) -> None:
        self.numbers = tuple(each.detach() for each in state)


def _child(
    calls: list[str],
    arguments: tuple[object, ...],
    place: tuple[str, dict[str, str]],
    streams: _Streams,
) -> None:
    os.chdir(place[0])
    os.environ.clear()
    os.environ.update(place[1])
    for number, taken in enumerate(streams.numbers, 1):
        os.dup2(taken, number)
        os.close(taken)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - until the process ends
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    default_signals()
    *first, function = map(pkgutil.resolve_name, calls)
    for call in first:
        call()
    try:
        function(*arguments)
    finally:
        # As at the end of any Python: multiprocessing leaves them out.
        atexit._run_exitfuncs()
