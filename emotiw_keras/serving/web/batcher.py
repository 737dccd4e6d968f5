"""Pictures of many requests read together: what waits when the network is free becomes its next batch."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emotiw_keras.data.heif import is_heif
from emotiw_keras.data.prefetch import map_ahead
from emotiw_keras.hardware import processor_threads
from emotiw_keras.serving.decoders import current
from emotiw_keras.serving.input_images import InputImage
from emotiw_keras.serving.inputs import DECODERS, decoded
from emotiw_keras.serving.pipeline import Pipeline
from emotiw_keras.serving.rows import Row, rows_of
from emotiw_keras.serving.video_inputs import looks_like_video
from emotiw_keras.serving.web.limits import Refused
from emotiw_keras.serving.web.uploads import Upload

if TYPE_CHECKING:
    from emotiw_keras.serving.predictor import Predictor
    from emotiw_keras.serving.web.limits import Limits
    from emotiw_keras.serving.web.metrics import Metrics

TOGETHER = 32
"""Pictures of a batch, at most: those that come behind it wait for it."""
LONGEST_WAIT = 60
"""Seconds after which a client is told to come again, at most."""


@dataclass(frozen=True)
class Answer:
    """The rows of one picture, and remarks on how it was read."""

    rows: list[Row]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Job:
    upload: Upload
    whole: bool
    answer: Future[Answer] = field(default_factory=Future)


class Batcher:
    """Reads pictures with a predictor, in a thread of its own, in the order in which they came.

    Args:
        predictor: what reads.
        limits: how many may wait.
        metrics: what counts them.
    """

    def __init__(self, predictor: Predictor, limits: Limits, metrics: Metrics) -> None:
        _ = predictor.detector  # loaded, and a missing one told, before the first picture comes
        self._pipelines = {whole: Pipeline(predictor, whole=whole) for whole in (False, True)}
        self._limits, self._metrics = limits, metrics
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._seconds = 0.1  # that a picture took of late
        self._thread = threading.Thread(target=self._work, name="emotiw-batches", daemon=True)
        metrics.waiting.set_function(lambda: len(self._waiting))
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it reads."""
        return self._thread.is_alive() and not self._closing

    def submit(self, uploads: Sequence[Upload], whole: bool) -> list[Future[Answer]]:
        """Let pictures wait for their turn, all of them or none.

        Args:
            uploads: the pictures.
            whole: each is one face, already cropped.

        Raises:
            Refused: there is no room for them, or the service is stopping.
        """
        jobs = [_Job(upload, whole) for upload in uploads]
        with self._changed:
            self._check_room(len(jobs))
            self._waiting += jobs
            self._changed.notify()
        return [job.answer for job in jobs]

    def check_room(self) -> None:
        """Raises Refused where not one more picture may wait, before any byte of it is read."""
        with self._changed:
            self._check_room(1)

    def _check_room(self, count: int) -> None:
        if self._closing:
            raise Refused(503, "the service is stopping")
        waiting = len(self._waiting)
        if waiting + count > self._limits.waiting:
            after = min(LONGEST_WAIT, max(1, math.ceil(waiting * self._seconds)))
            raise Refused(503, f"{waiting} pictures wait, of at most {self._limits.waiting}; come again", after)

    def withdraw(self, answers: Sequence[Future[Answer]]) -> None:
        """Forget those that have not begun: nobody waits for them any more."""
        gone = {id(answer) for answer in answers if answer.cancel()}
        with self._changed:
            self._waiting = deque(job for job in self._waiting if id(job.answer) not in gone)

    def close(self) -> None:
        """Read what waits, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            start = time.perf_counter()
            self._read(jobs)
            self._seconds += 0.2 * ((time.perf_counter() - start) / len(jobs) - self._seconds)

    def _next(self) -> list[_Job]:
        """The next batch; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            jobs: list[_Job] = []
            while self._waiting and len(jobs) < TOGETHER and (not jobs or self._waiting[0].whole == jobs[0].whole):
                jobs.append(self._waiting.popleft())
            return jobs

    def _read(self, jobs: list[_Job]) -> None:
        jobs = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
        if not jobs:
            return
        self._metrics.batch.observe(len(jobs))
        try:
            self._read_together(jobs)
        except Exception:  # noqa: BLE001 - told to whoever sent the picture that is its cause
            for job in jobs:
                if not job.answer.done():
                    self._read_alone(job)

    def _read_alone(self, job: _Job) -> None:
        try:
            self._read_together([job])
        except Exception as error:  # noqa: BLE001 - likewise: the request raises it
            job.answer.set_exception(error)

    def _read_together(self, jobs: list[_Job]) -> None:
        images = map_ahead(_decoded, [job.upload for job in jobs], min(DECODERS, processor_threads()))
        readings = self._pipelines[jobs[0].whole].read(images, threads=True)
        for job, reading in zip(jobs, readings, strict=True):
            self._metrics.count(reading)
            job.answer.set_result(Answer(list(rows_of(reading)), reading.image.notes))


def _decoded(upload: Upload) -> InputImage:
    start = upload.data[:16]
    if start and not is_heif(start) and looks_like_video(start):
        return InputImage(upload.name, None, "a video, which `emotiw predict` reads; send pictures", name=upload.name)
    apart = current()
    if apart is None:
        return decoded(upload.name, upload.data, upload.name)
    return apart.image(upload.name, upload.data, upload.name)
