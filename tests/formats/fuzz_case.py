"""What one damaged file does to the readers: an answer, an error, or a fault, with its time, memory and noise.

Runs in a process of its own (see `fuzz`): a file that crashes it or does not end takes only that process along.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import math
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import tokenize
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from emotiw_keras.errors import ModelError
from emotiw_keras.formats import hdf5_trial, inspect, reading, reference
from emotiw_keras.formats.foreign import Foreign, Limits
from emotiw_keras.formats.keras_h5 import UNPACKED

from .fuzz_corpus import Case
from .fuzz_seeds import EXECUTED

LIMITS = Limits(total_bytes=16 << 20, arrays=5000)
PROCESSOR_SECONDS = 5.0
WALL_SECONDS = 600.0
"""Much more than the processor's time: others may be using the processor."""
_ROOM = 2 * LIMITS.total_bytes
_WIDE = 1 << 30
_LINUX = sys.platform == "linux"
# What Python itself reports before it starts a program, opens a library or changes a folder.
_ACTS = ("os.", "subprocess.", "shutil.", "socket.", "pickle.", "ctypes.", "webbrowser.")
_OTHERS_ERRORS = (
    ValueError, OSError, EOFError, SyntaxError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError,
    RuntimeError, struct.error, zlib.error, zipfile.BadZipFile, tokenize.TokenError, SafetensorError,
)  # fmt: skip


@dataclass
class Outcome:
    """Of one case. `result` is "answered", "refused" or, where a fault is in the way of both, "fault"."""

    number: int
    name: str
    format: str
    result: str = "fault"
    message: str = ""
    faults: list[tuple[str, str]] = field(default_factory=list)
    """Kind and words."""
    noise: list[str] = field(default_factory=list)
    """Warnings and whatever else a user would see printed."""
    seconds: float = 0.0
    """Of this process."""
    peak: int = 0
    """Bytes of memory beyond what the process had before; 0 where that cannot be known."""

    def line(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


class Watch:
    """Runs readers one at a time, bounded in time and memory, and notes what they did."""

    def __init__(self, trace: Any) -> None:
        """`trace`: the open file that the process prints to, tracebacks of crashes included."""
        self._trace = trace
        self._acts: list[str] | None = None
        faulthandler.enable(trace)
        # Ends the process, after a traceback, when its processor time is used up.
        faulthandler.register(signal.SIGPROF, trace, chain=True)
        sys.addaudithook(self._hear)
        for module, _ in reading.READERS.values():
            importlib.import_module(f"emotiw_keras.formats.{module}")

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self._acts is None:
            return
        if event == "subprocess.Popen" and "emotiw_keras.formats.hdf5_helper" in map(str, args[1] or ()):
            return
        if any(os.path.join(tempfile.gettempdir(), UNPACKED) in str(value) for value in args):
            return  # what a .keras file is unpacked to, and removed from again
        path, flags = (args[0], args[2] or 0) if event == "open" else ("", 0)
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and isinstance(path, str) and path != os.devnull:
            self._acts.append(f"opened {path!r} to write")
        elif event.startswith(_ACTS) and event not in ("os.listdir", "os.scandir", "os.putenv"):
            self._acts.append(f"{event} {args!r}"[:200])

    def call(self, action: Callable[[], Any], outcome: Outcome, room: int = _ROOM) -> Any:
        """What `action` returns or, for errors, the ModelError; None after a fault."""
        before, printed = _status("VmRSS"), os.fstat(self._trace.fileno()).st_size
        started, found = time.process_time(), None
        with warnings.catch_warnings(record=True) as caught, _bounded(self._trace, room):
            warnings.simplefilter("always")
            self._acts = []
            try:
                found = action()
            except ModelError as error:
                found = error
            except MemoryError as error:
                outcome.faults.append(("memory", f"MemoryError with {room:,} bytes more than before, {_top(error)}"))
            except Exception as error:  # any other is what is looked for
                outcome.faults.append(("raised", f"{type(error).__name__}: {error} {_top(error)}"[:400]))
            acts, self._acts = self._acts, None
        outcome.seconds = max(outcome.seconds, time.process_time() - started)
        if room == _ROOM:
            outcome.peak = max(outcome.peak, _status("VmHWM") - before)
        outcome.noise += sorted({f"{w.category.__name__}: {w.message} ({Path(w.filename).name}:{w.lineno})" for w in caught})
        if os.fstat(self._trace.fileno()).st_size > printed:
            outcome.noise.append("something was printed")
        if acts or os.path.exists(EXECUTED):
            outcome.faults.append(("executed", "; ".join(acts or [f"made {EXECUTED}"])))
        if isinstance(found, ModelError) and (not str(found).isprintable() or not str(found)):
            outcome.faults.append(("message", f"not one printable line: {str(found)!r}"[:400]))
        return found


@contextlib.contextmanager
def _bounded(trace: Any, room: int) -> Any:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    faulthandler.dump_traceback_later(WALL_SECONDS, exit=True, file=trace)
    if _LINUX:
        Path("/proc/self/clear_refs").write_text("5")  # the highest use of memory counts from here
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + room, hard))
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if _LINUX:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        faulthandler.cancel_dump_traceback_later()


def _status(key: str) -> int:
    """Bytes that the system counts for this process."""
    if not _LINUX:
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))


def _top(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "emotiw_keras" in frame.filename] or list(frames)
    return f"at {Path(ours[-1].filename).name}:{ours[-1].lineno} ({ours[-1].line})" if ours else ""


def examine(watch: Watch, number: int, case: Case, path: Path) -> Outcome:
    """Read a case, which is written to `path`, in every way that there is for it."""
    outcome = Outcome(number, case.name, case.format)
    path.unlink(missing_ok=True)  # the file of before may still be mapped
    path.write_bytes(case.data)
    found = watch.call(lambda: _contents(reading.read(path, LIMITS)), outcome)
    kind = watch.call(lambda: reading.sniff(path, LIMITS), outcome)
    if kind != case.format:
        module, function = reading.READERS[case.format]
        reader = getattr(importlib.import_module(f"emotiw_keras.formats.{module}"), function)
        _alone(watch.call(lambda: _contents(reader(path, LIMITS)), outcome), lambda: reader(path, LIMITS), outcome)
    _alone(found, lambda: reading.read(path, LIMITS), outcome)
    if isinstance(found, ModelError):
        outcome.result, outcome.message = "refused", str(found)
    elif found is not None:
        outcome.result = "answered"
        outcome.faults += [("wrong", words) for words in _wrong(found, path)]
        watch.call(lambda: _run(found), outcome, 4 * reference.LARGEST_TENSOR)
    if outcome.peak > _ROOM:
        outcome.faults.append(("memory", f"{outcome.peak:,} bytes where {LIMITS.total_bytes:,} are allowed"))
    if case.expected is not None and case.expected != (outcome.result == "answered"):
        outcome.faults.append(("wrong", f"{outcome.result}: {outcome.message or 'a trap'}"))
    return outcome


def _alone(found: Any, read: Callable[[], Any], outcome: Outcome) -> None:
    """Read a refused file once more in a fork where the first time does not show what memory it takes.

    HDF5 files are refused by another process, and an error may hide that the memory was bounded here.
    """
    if not isinstance(found, ModelError):
        return
    hidden = isinstance(found.__cause__, MemoryError) or "alloc" in str(found)
    if not hidden and outcome.format not in ("Keras HDF5", "Keras model", "MatConvNet"):
        return
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(sink, b"%d" % _status("VmRSS"))  # less than this process has: a fork takes over only what was written
            hdf5_trial.inside = True
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(PROCESSOR_SECONDS),) * 2)
            if _LINUX:
                resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + _WIDE,) * 2)
            read()
        finally:
            os._exit(0)  # however it ends, it has been seen before; this time counts the memory
    usage = os.wait4(child, 0)[2]
    before = int(os.read(source, 32))
    os.close(source)
    os.close(sink)
    outcome.peak = max(outcome.peak, usage.ru_maxrss * 1024 - before if _LINUX else 0)


def _contents(foreign: Foreign) -> Foreign:
    """The same, after every value has been looked at and everything that a user could be shown has been made."""
    with np.errstate(all="ignore"):
        for array in foreign.arrays.values():
            array.sum()
    json.dumps(inspect.describe(foreign))
    inspect.table(foreign)
    return foreign


def _wrong(foreign: Foreign, path: Path) -> list[str]:
    """What contradicts the interface of readers, or another library's reading of the same file."""
    arrays, found = foreign.arrays, []
    words = [*arrays, *foreign.ignored, *foreign.ignored.values(), *foreign.inputs, *(foreign.classes or ()), foreign.format]
    for node in foreign.nodes or ():
        words += [node.op, node.name, *node.inputs, *node.outputs, *node.arrays, str(node.attrs.get("type", ""))]
    found += [f"{word[:80]!r} cannot be printed in one line" for word in words if not word.isprintable()]
    taken = sum(array.nbytes for array in arrays.values())
    if taken > LIMITS.total_bytes:
        found.append(f"arrays of {taken:,} bytes, {LIMITS.total_bytes:,} are allowed")
    if max(len(arrays), len(foreign.nodes or ())) > LIMITS.arrays:
        found.append(f"{len(arrays)} arrays, {len(foreign.nodes or ())} nodes, {LIMITS.arrays} are allowed")
    found += [f"{name!r} is of the type {a.dtype}" for name, a in arrays.items() if a.dtype.kind not in "biuf"]
    found += [f"input {name!r} has the shape {shape}" for name, shape in foreign.inputs.items() if min(shape, default=0) < 0]
    theirs = _of_others(foreign, path)
    unlike = [name for name in theirs if not _same(theirs[name], arrays.get(name))]
    return found + [f"{name!r} differs from what its own library reads" for name in unlike]


def _of_others(foreign: Foreign, path: Path) -> dict[str, np.ndarray]:
    """The arrays as NumPy and safetensors read them; nothing for other formats and where they do not."""
    with contextlib.suppress(*_OTHERS_ERRORS), warnings.catch_warnings(action="ignore"):
        if foreign.format == "NumPy array":
            return {"array": np.load(path, allow_pickle=False)}
        if foreign.format == "NumPy archive":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files if name in foreign.arrays}
        if foreign.format == "safetensors":
            return {name: array for name, array in safetensors.numpy.load_file(path).items() if name in foreign.arrays}
    return {}


def _same(theirs: np.ndarray, ours: np.ndarray | None) -> bool:
    if ours is None or ours.dtype != theirs.dtype or (ours.shape != theirs.shape and theirs.size):
        return False
    return np.ascontiguousarray(ours).tobytes() == np.ascontiguousarray(theirs).tobytes()


def _run(foreign: Foreign) -> None:
    """Compute the network on random inputs where their shapes are small."""
    shapes = {name: tuple(size or 1 for size in shape) for name, shape in foreign.inputs.items()}
    small = all(len(shape) == 4 and math.prod(shape) <= 1 << 15 for shape in shapes.values())
    if foreign.nodes and foreign.layout and shapes and small:
        random = np.random.default_rng(0)
        inputs = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
        reference.run(foreign.nodes, foreign.arrays, inputs, foreign.layout)
