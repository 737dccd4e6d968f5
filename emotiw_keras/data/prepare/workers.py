"""Processes that cut faces, one image at a time each; one that dies takes no other image with it.

A worker is a fresh Python that reads pickled images' names from its standard input and ends with it: when the parent dies, at
whatever moment, so does the worker.
"""

from __future__ import annotations

import pickle
import queue
import subprocess
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from emotiw_keras.data.prepare.face_settings import Settings
from emotiw_keras.data.prepare.faces import FaceCutter, Outcome, failed
from emotiw_keras.data.prepare.source import Item, open_for_reading
from emotiw_keras.faces.face import Detector
from emotiw_keras.hardware import limit_threads
from emotiw_keras.own_process import end, how_it_ended, own_streams, start_python

_ATTEMPTS = 2
_COMMAND = "from emotiw_keras.data.prepare.workers import serve; serve()"


@dataclass(frozen=True)
class Job:
    """What all workers of one preparation share; `detector` is None where `settings.detector` is the name of one."""

    source: Path
    out: Path
    settings: Settings
    detector: Detector | None = None

    def cutter(self) -> FaceCutter:
        """What does the work, in this process."""
        detector = self.detector
        if detector is None:
            from emotiw_keras.faces.detectors import get_detector

            detector = get_detector(self.settings.detector)
        return FaceCutter(open_for_reading(self.source), detector, self.settings, self.out)


def serve() -> None:
    """Be a worker: a job and then items come in, outcomes or the exception that stopped them go out."""
    questions, answers = own_streams()
    # The images are what runs in parallel.
    limit_threads(1)
    # Either means that the parent is gone or needs no more.
    with suppress(EOFError, BrokenPipeError):
        try:
            cutter = pickle.load(questions).cutter()
            _send(answers, None)
            while True:
                _send(answers, cutter.cut(pickle.load(questions)))
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:
            error.add_note("in a worker process:\n" + traceback.format_exc())
            _send(answers, error)


def _send(stream: BinaryIO, thing: object) -> None:
    pickle.dump(thing, stream)
    stream.flush()


class _Died(Exception):
    """A worker process ended without an answer."""


class _Worker:
    """One worker process, started when it is first needed and again after it died."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._process: subprocess.Popen[bytes] | None = None

    def cut(self, item: Item) -> Outcome:
        reason = ""
        for _ in range(_ATTEMPTS):
            if self._process is None:
                self._start()
            try:
                return self._ask(item)
            except _Died as error:
                reason = str(error)
                self._process = None
        # Not for good: memory may have been short.
        return Outcome(item.index, [failed(item, f"the process that read it {reason}")], lasting=False)

    def _start(self) -> None:
        self._process = start_python(_COMMAND)  # with this import path, for detectors that are the caller's own
        try:
            self._ask(self._job)
        except _Died as error:
            raise RuntimeError(f"a worker process {error} before it could begin; its last words stand above") from error

    def _ask(self, question: object) -> Any:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            _send(process.stdin, question)  # type: ignore[arg-type]
            answer = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise _Died(how_it_ended(end(process))) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None


def outcomes(job: Job, items: Sequence[Item], workers: int) -> Iterator[Outcome]:
    """Cut the faces of all items in `workers` processes; outcomes come as they are done.

    Raises:
        Exception: whatever stopped a worker other than one image: a missing model, a full disk.
    """
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    done: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def work(worker: _Worker) -> None:
        try:
            while not stop.is_set():
                done.put(worker.cut(waiting.get_nowait()))
        except queue.Empty:
            pass
        except BaseException as error:
            done.put(error)
        finally:
            worker.close()

    crew = [_Worker(job) for _ in range(max(1, min(workers, len(items))))]
    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in crew]
    for thread in threads:
        thread.start()
    try:
        for _ in items:
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        # Each finishes the image it is at.
        stop.set()
        for thread in threads:
            thread.join()
