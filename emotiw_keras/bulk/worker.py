"""A process that does shards, one thread each, and the one that asks it to: what dies in it takes nothing else along.

A worker is a fresh Python that reads a job and then shards as lines of JSON, and ends with its standard input: when the parent
dies, at whatever moment, so does the worker. Decoders are processes of their own again: a file that crashes one is a row.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import subprocess
import threading
import traceback
from dataclasses import replace
from typing import Any, BinaryIO

from emotiw_keras import errors
from emotiw_keras.bulk.entries import Shard, shard_of
from emotiw_keras.bulk.job import PREDICT, Job, Record, Shards, job_of
from emotiw_keras.bulk.places import folder_at
from emotiw_keras.errors import EmotiwError, UsageError
from emotiw_keras.hardware import limit_threads
from emotiw_keras.own_process import end, how_it_ended, own_streams, start_python
from emotiw_keras.sealed import strict_json
from emotiw_keras.serving.decoders import OUTSIDE, DecodersLost, apart

MANIFEST = "_manifest.json"
CRASHES = 3
"""Times that one input may end the process that reads it before it is an error in its row."""
KILLS = 10
"""The same where the process is killed from outside while it reads that input, as a system that is out of memory does."""
DEATHS = 20
"""Times that a process may be ended from outside in one shard (by a system that is out of memory, say) before the job stops."""
LOST = 75
"""Exit code of a worker whose decoders were killed."""
_COMMAND = (
    "from emotiw_keras.cli.quiet import quiet_tensorflow; quiet_tensorflow(); "
    "from emotiw_keras.bulk.worker import serve; serve()"
)


def opened(job: Job) -> Shards:
    """What does a job's shards in this process."""
    host = platform.node() or "this host"
    job.check_versions(host)
    _check_out(job, host)
    if job.command == PREDICT:
        from emotiw_keras.bulk.predicting import PredictShards

        return PredictShards(job)
    from emotiw_keras.bulk.preparing import PrepareShards

    return PrepareShards(job)


def _check_out(job: Job, host: str) -> None:
    found = folder_at(job.out).read(MANIFEST)
    try:
        told = None if found is None else strict_json(found)
    except ValueError:
        told = None
    if not isinstance(told, dict) or told.get("fingerprint") != job.fingerprint:
        told = f"{host} does not see {job.out} as the host that began the job does"
        raise UsageError(f"{told}; name a folder that all share, or an address of a store")


def serve() -> None:
    """Be a worker."""
    questions, answers = own_streams()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    limit_threads(1)
    with contextlib.suppress(BrokenPipeError):
        try:
            job = job_of(json.loads(questions.readline()))
            with _decoders(job):
                _answer(job, questions, answers)
        except BrokenPipeError:
            raise
        except DecodersLost:
            os._exit(LOST)  # as if it had been killed itself
        except EmotiwError as error:
            _send(answers, {"error": type(error).__name__, "text": str(error)})
        except MemoryError:
            os._exit(errors.EmotiwError.exit_code)
        except Exception:
            _send(answers, {"bug": traceback.format_exc()})


def _decoders(job: Job) -> contextlib.AbstractContextManager[None]:
    """Processes that decode for `predict`; `prepare` decodes in the worker, whose end is that of one input as well."""
    if job.command != PREDICT:
        return contextlib.nullcontext()
    from emotiw_keras.serving.inputs import decoded
    from emotiw_keras.serving.video_inputs import opened as opened_video

    return apart(decoded, opened_video, blameless=True)  # while nothing else has been started


def _answer(job: Job, questions: BinaryIO, answers: BinaryIO) -> None:
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        while line := questions.readline():
            waiting.put(line)
        os._exit(0)  # the parent is gone, or needs no more

    threading.Thread(target=listen, daemon=True).start()
    worker, folder = opened(job), folder_at(job.out)
    _send(answers, {"ready": True})
    while True:
        shard = shard_of(json.loads(waiting.get()))
        record = worker.do(shard, folder, lambda place: _send(answers, {"at": place}))
        _send(answers, {"record": record})


def _send(stream: BinaryIO, thing: object) -> None:
    stream.write(json.dumps(thing).encode() + b"\n")
    stream.flush()


class _Died(Exception):
    """A worker process ended without an answer; `code` is how, `place` the entry that it was at, or None."""

    def __init__(self, code: int, place: int | None) -> None:
        super().__init__("lost its decoders to a kill" if code == LOST else how_it_ended(code))
        self.place, self.outside = place, code == LOST or -code in OUTSIDE


class Worker:
    """One worker process, started when it is first needed and again after it died."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def do(self, shard: Shard) -> Record:
        """Have a shard done.

        Raises:
            EmotiwError: what stopped the worker other than one input, or its process was ended over and over.
        """
        ended: dict[tuple[int, bool], int] = {}
        deaths = 0
        while True:
            try:
                if self._closed:
                    raise EmotiwError(f"shard {shard.number} was given up")
                if self._process is None:
                    self._start()
                return self._ask(shard.as_json())["record"]
            except _Died as error:
                self._process = None
                if self._closed:
                    raise EmotiwError(f"the process that did shard {shard.number} {error}") from error
                deaths += 1
                if error.place is not None:
                    times = ended[error.place, error.outside] = ended.get((error.place, error.outside), 0) + 1
                    if times >= (KILLS if error.outside else CRASHES):
                        reason = f"cannot read: the process that read it {error}, {times} times"
                        shard, deaths = replace(shard, refused={**shard.refused, error.place: reason}), 0
                elif deaths >= (DEATHS if error.outside else CRASHES):
                    raise EmotiwError(
                        f"the process that did shard {shard.number} ({shard.span}) {error}, {deaths} times; free memory, or "
                        "use fewer --jobs, and run the same command again"
                    ) from error

    def _start(self) -> None:
        self._process = start_python(_COMMAND)
        self._ask(self._job.as_dict())

    def _ask(self, question: object) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        place = None
        try:
            _send(process.stdin, question)  # type: ignore[arg-type]
            while line := process.stdout.readline():
                answer: dict[str, Any] = json.loads(line)
                if "at" not in answer:
                    break
                place = answer["at"]
            else:
                raise EOFError
        except (EOFError, OSError, ValueError) as error:
            raise _Died(end(process), place) from error
        if "error" in answer:
            self.close()
            raise getattr(errors, answer["error"])(answer["text"])
        if "bug" in answer:
            self.close()
            raise RuntimeError(f"in a worker process:\n{answer['bug']}")
        return answer

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            end(process)

    def stop(self) -> None:
        """End it for good, from another thread: what is being done fails."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
