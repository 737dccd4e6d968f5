"""What a damaged file can make of a library, as readers. They run in another process, or the tests would end with them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits


def crash(path: Path, limits: Limits) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def never_return(path: Path, limits: Limits) -> None:
    while True:
        pass


def take_memory(path: Path, limits: Limits) -> None:
    try:
        bytearray(4 << 30)
    except MemoryError as error:
        raise ModelError("no memory") from error


def refuse(path: Path, limits: Limits) -> None:
    raise ModelError(f"{path.name}: {limits.total_bytes} Bytes, größer als erlaubt")


def fine(path: Path, limits: Limits) -> None:
    path.with_suffix(".seen").write_text(str(os.getpid()))
