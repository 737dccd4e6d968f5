"""Pictures of many requests read together: what waits when the network is free becomes its next batch."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emotiw_keras.data.heif import is_heif
from emotiw_keras.data.image_bounds import MAX_PIXELS, told_pixels
from emotiw_keras.data.prefetch import map_ahead
from emotiw_keras.hardware import processor_threads
from emotiw_keras.serving.decoders import DecodersLost, current
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
PIXELS_TOGETHER = 32_000_000
"""Pixels of a batch, at most, unless a single picture has more: large ones take seconds each."""
END_SECONDS = 5.0
"""Seconds that the end waits for a picture that is being read."""
LONGEST_WAIT = 60
"""Seconds after which a client is told to come again, at most."""
OK, STOPPING, LOST = "ok", "stopping", "decoders lost"
REASONS = {
    STOPPING: "the service is stopping",
    LOST: "the process that starts the service's decoders was ended from outside; the service has to be started again",
}


@dataclass(frozen=True)
class Answer:
    """The rows of one picture, and remarks on how it was read."""

    rows: list[Row]
    notes: tuple[str, ...]


class Awaited(Future[Answer]):
    """An answer to come; `gone` where nobody waits for it any more."""

    gone = False


@dataclass(eq=False)
class _Job:
    """Its pixels are as its file says, else None until it has been decoded."""

    upload: Upload
    whole: bool
    answer: Awaited = field(default_factory=Awaited)
    pixels: int | None = None
    known: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        told = told_pixels(self.upload.data)
        self.pixels = told if told is None or told <= MAX_PIXELS else 0  # more are not decoded


class Batcher:
    """Reads pictures with a predictor, in a thread of its own; requests take turns, each with its pictures in their order.

    Args:
        predictor: what reads.
        limits: how many may wait.
        metrics: what counts them.
    """

    def __init__(self, predictor: Predictor, limits: Limits, metrics: Metrics) -> None:
        _ = predictor.detector  # loaded, and a missing one told, before the first picture comes
        self._pipelines = {whole: Pipeline(predictor, whole=whole) for whole in (False, True)}
        self._limits, self._metrics = limits, metrics
        self._requests: deque[deque[_Job]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._seconds = 0.1  # that a picture took of late
        self._thread = threading.Thread(target=self._work, name="emotiw-batches", daemon=True)
        metrics.waiting.set_function(self.waiting)
        self._thread.start()

    @property
    def state(self) -> str:
        """`OK` while it reads, else a word of `REASONS`."""
        if self._closing or not self._thread.is_alive():
            return STOPPING
        apart = current()
        return OK if apart is None or apart.alive else LOST

    def waiting(self) -> int:
        """Pictures that wait for their turn."""
        with self._changed:
            return sum(map(len, self._requests))

    def submit(self, uploads: Sequence[Upload], whole: bool) -> list[Awaited]:
        """Let the pictures of a request wait for their turn, all of them or none.

        Args:
            uploads: the pictures.
            whole: each is one face, already cropped.

        Raises:
            Refused: there is no room for them, or the service is stopping.
        """
        jobs = [_Job(upload, whole) for upload in uploads]
        with self._changed:
            self.check_room(len(jobs))
            self._requests.append(deque(jobs))
            self._changed.notify()
        return [job.answer for job in jobs]

    def check_room(self, count: int = 1) -> None:
        """Raises Refused where so many more pictures may not wait."""
        if (state := self.state) != OK:
            raise Refused(503, REASONS[state])
        waiting = self.waiting()
        if waiting + count > self._limits.waiting:
            after = min(LONGEST_WAIT, max(1, math.ceil(waiting * self._seconds)))
            raise Refused(503, f"{waiting} pictures wait, of at most {self._limits.waiting}; come again", after)

    def withdraw(self, answers: Sequence[Awaited]) -> None:
        """Forget them: nobody waits for them any more. Those that are decoded already are read."""
        for answer in answers:
            answer.gone = True
        gone = {id(answer) for answer in answers if answer.cancel()}
        with self._changed:
            left = (deque(job for job in jobs if id(job.answer) not in gone) for jobs in self._requests)
            self._requests = deque(filter(None, left))

    def close(self) -> None:
        """Read what waits, then end; a picture that takes long is left."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(END_SECONDS)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            start = time.perf_counter()
            count = self._read(_Batch(job, self._more))
            self._seconds += 0.2 * ((time.perf_counter() - start) / count - self._seconds)

    def _next(self) -> _Job | None:
        """The first of the next batch, once there is one; None at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._requests or self._closing)
                if not self._requests:
                    return None
                if (job := self._more(self._requests[0][0].whole)) is not None:
                    return job

    def _more(self, whole: bool, room: float = math.inf) -> _Job | None:
        """Whose turn it is, unless it is read in another way or says that it has more pixels; None also where nothing waits."""
        with self._changed:
            while self._requests and (first := self._requests[0][0]).whole == whole and (first.pixels or 0) <= room:
                jobs = self._requests.popleft()
                job = jobs.popleft()
                if jobs:
                    self._requests.append(jobs)
                if job.answer.set_running_or_notify_cancel():
                    return job
        return None

    def _read(self, batch: _Batch) -> int:
        """Answer all of a batch; gives their number."""
        try:
            self._read_together(batch)
        except Exception:  # noqa: BLE001 - told to whoever sent the picture that is its cause
            for job in batch.jobs:
                if not job.answer.done():
                    self._read_alone(job)
        self._metrics.batch.observe(len(batch.jobs))
        return len(batch.jobs)

    def _read_alone(self, job: _Job) -> None:
        try:
            self._read_together(_Batch(job))
        except Exception as error:  # noqa: BLE001 - likewise: the request raises it
            job.answer.set_exception(error)

    def _read_together(self, batch: _Batch) -> None:
        images = map_ahead(batch.decoded, batch.drawn(), min(DECODERS, processor_threads()))
        readings = self._pipelines[batch.jobs[0].whole].read(images, threads=True)
        for number, reading in enumerate(readings):  # whose pictures may still be drawn in another thread
            if not batch.jobs[number].answer.gone:
                self._metrics.count(reading)
            batch.jobs[number].answer.set_result(Answer(list(rows_of(reading)), reading.image.notes))


class _Batch:
    """Pictures that are read together: the first, and what waits when there is room for another."""

    def __init__(self, first: _Job, more: Callable[[bool, float], _Job | None] = lambda *_: None) -> None:
        self.jobs = [first]
        self._more = more

    def drawn(self) -> Iterator[_Job]:
        """The first, and others as long as there are some and the batch is not full."""
        job: _Job | None = self.jobs[0]
        room = PIXELS_TOGETHER
        while job is not None:
            yield job
            if job.pixels is None:
                job.known.wait()
            room -= job.pixels or 0
            job = self._more(job.whole, room) if len(self.jobs) < TOGETHER and room > 0 else None
            if job is not None:
                self.jobs.append(job)

    def decoded(self, job: _Job) -> InputImage:
        """The picture of one of them."""
        try:
            image = InputImage("", None, "nobody waits for it") if job.answer.gone else _decoded(job.upload)
            if job.pixels is None and image.pixels is not None:
                job.pixels = image.pixels.size // image.pixels.shape[-1]
            return image
        finally:
            job.known.set()


def _decoded(upload: Upload) -> InputImage:
    start = upload.data[:16]
    if start and not is_heif(start) and looks_like_video(start):
        return InputImage(upload.name, None, "a video, which `emotiw predict` reads; send pictures", name=upload.name)
    apart = current()
    if apart is None:
        return decoded(upload.name, upload.data, upload.name)
    try:
        return apart.image(upload.name, upload.data, upload.name)
    except DecodersLost as error:
        raise Refused(503, REASONS[LOST]) from error
