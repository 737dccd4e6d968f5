"""The process that tries HDF5 files for `hdf5_trial`: a line of JSON in, a fork that runs the reader, a line of JSON out."""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import sys
from pathlib import Path
from typing import Any

from emotiw_keras.errors import ModelError
from emotiw_keras.formats import hdf5_trial
from emotiw_keras.formats.foreign import Limits

IDLE_SECONDS = 60.0
CPU_SECONDS = 2
BYTES_PER_SECOND = 100_000
"""Of a file of many small objects, the slowest to read there is, on a slow processor."""
MEMORY = 1 << 30
"""Beside twice what the reader's limits allow."""


def main() -> None:
    """Answers until the input ends or nothing is asked for a minute."""
    hdf5_trial.inside = True
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        request = json.loads(line)
        # Before the fork, so that only the first file waits for it.
        reader = getattr(importlib.import_module(request["module"]), request["function"])
        answer = json.dumps(_try(reader, request)) + "\n"
        sys.stdout.buffer.write(answer.encode())
        sys.stdout.buffer.flush()


def _try(reader: Any, request: dict[str, Any]) -> dict[str, str]:
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(source)
            _bound(request)
            _run(reader, request, sink)
        finally:
            os._exit(0)  # any other error comes again, and is seen, where the file is read after this
    os.close(sink)
    with open(source, "rb") as pipe:
        error = pipe.read().decode()
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if number == -signal.SIGXCPU or number == -signal.SIGKILL:
        return {"died": "does not come to an end with it"}
    if number < 0:
        return {"died": f"fails on it with signal {-number}"}
    return {"error": error}


def _bound(request: dict[str, Any]) -> None:
    size = os.stat(request["path"]).st_size
    seconds = CPU_SECONDS + size // BYTES_PER_SECOND
    for kind, bound in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_DATA, 2 * request["total_bytes"] + MEMORY),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))


def _run(reader: Any, request: dict[str, Any], sink: int) -> None:
    try:
        reader(Path(request["path"]), Limits(request["total_bytes"], request["arrays"]))
    except ModelError as error:
        os.write(sink, str(error).encode(errors="replace"))


if __name__ == "__main__":
    main()
