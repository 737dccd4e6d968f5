"""A rehearsal of reading an HDF5 file, in another process.

The HDF5 library (1.14 as of this writing) can crash or never return on damaged files, and no check from outside can tell
which. So the reader first runs on the same bytes in a child of a helper process that holds nothing; only a file that it
survives is opened here.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits

inside = False
"""Whether this is the helper process, where readers run at once."""
_lock = threading.Lock()
_helper: subprocess.Popen[bytes] | None = None


def rehearse(reader: Callable[[Path, Limits], object], path: Path, limits: Limits) -> None:
    """Run `reader`, a function at the top of a module, on `path` in another process; nothing if this is that process.

    The helper process starts with the first call (about half a second) and ends after a minute without another. Windows cannot
    fork: there `hdf5.open_hdf5` alone guards.

    Raises:
        ModelError: what the reader raised; or the library crashed, or used more processor time than any file of this size
            needs.
    """
    if inside or not hasattr(os, "fork"):
        return
    request = {
        "module": reader.__module__,
        "function": reader.__name__,
        "path": os.path.abspath(path),
        "total_bytes": limits.total_bytes,
        "arrays": limits.arrays,
    }
    answer = _ask(json.dumps(request).encode() + b"\n")
    if answer.get("error"):
        raise ModelError(answer["error"])
    if answer.get("died"):
        raise ModelError(f"{path.name} is damaged: the HDF5 library {answer['died']}; fetch it again")


def _ask(request: bytes) -> dict[str, str]:
    global _helper
    with _lock:
        for fresh in (False, True):
            if fresh or _helper is None or _helper.poll() is not None:
                _stop()
                _helper = _start()
            line = _exchange(_helper, request)
            if line:  # else it has just ended for want of work
                answer: dict[str, str] = json.loads(line)
                return answer
    raise ModelError("the helper process that tries HDF5 files does not run; see whether memory or processes are used up")


def _exchange(helper: subprocess.Popen[bytes], request: bytes) -> bytes:
    if helper.stdin is None or helper.stdout is None:
        return b""
    answered = False
    try:
        helper.stdin.write(request)
        helper.stdin.flush()
        line = helper.stdout.readline()
        answered = True
        return line
    except BrokenPipeError:
        return b""
    finally:
        if not answered:  # interrupted: its answer must not be taken for that to the next question
            helper.kill()


def _start() -> subprocess.Popen[bytes]:
    paths = os.pathsep.join((str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)))
    environment = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "emotiw_keras.formats.hdf5_helper"]
    try:
        # What the library says when it crashes is of no use to anyone.
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    except OSError as error:
        raise ModelError(f"the helper process that tries HDF5 files cannot be started: {error.strerror}") from error


@atexit.register
def _stop() -> None:
    global _helper
    if _helper is not None:
        helper, _helper = _helper, None
        if helper.stdout is not None:
            helper.stdout.close()
        helper.kill()
        helper.wait()
