"""A worker that one input ends, as a crash in a library does."""

from __future__ import annotations

import os
import signal

from emotiw_keras.bulk import worker
from emotiw_keras.bulk.entries import Entry
from emotiw_keras.bulk.opening import Opener


def serve(how: str, name: str) -> None:
    """Be a worker that ends by a signal, or by an exit code, when it is to read a file of this name."""
    real = Opener.data

    def data(self: Opener, entry: Entry) -> bytes:
        if entry.path.endswith(name):
            if how == "exit":
                os._exit(9)
            os.kill(os.getpid(), getattr(signal, how))
        return real(self, entry)

    Opener.data = data  # type: ignore[method-assign]
    worker.serve()
