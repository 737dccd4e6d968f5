"""Images and videos decoded in other processes: a decoder that crashes on one of them gives that one's row an error.

Decoders are large libraries in C, and files come from strangers. Each worker is forked from a process that was forked in its
turn when nothing but the decoders had been imported, so that a worker starts in milliseconds and its death is no one else's.
Elsewhere than on Linux, where forking is not safe, and for who calls the package from Python, decoding stays in the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from emotiw_keras.errors import EmotiwError
from emotiw_keras.own_process import how_it_ended, signal_name
from emotiw_keras.serving.input_images import InputImage, Video

DecodeImage = Callable[[str, bytes, str], InputImage]
"""A file's path, its bytes, its relative name -> the image."""
OpenVideo = Callable[[str, str], Video | InputImage]
"""A file's path, its relative name -> the video."""
_HEAD = struct.Struct("<IQ")
"""Before each message: bytes of its facts, which are JSON, and bytes that follow them."""
_SMALL = 1 << 16
OUTSIDE = tuple(getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
"""Signals that come from outside of a process, not from what it does."""
_current: Decoders | None = None


class DecodersLost(EmotiwError):
    """Decoding was ended from outside, which says nothing of the file that was being decoded."""


@contextlib.contextmanager
def apart(image: DecodeImage, video: OpenVideo, seconds: float | None = None, blameless: bool = False) -> Iterator[None]:
    """Decode in other processes until the block ends. To be entered before TensorFlow is imported or a thread is started.

    Args:
        image: decodes one there, `inputs.decoded`.
        video: opens one there, `video_inputs.opened`.
        seconds: in which an image has to be decoded; None for no end.
        blameless: raise `DecodersLost` where a decoder is killed from outside, as a system out of memory does, instead of an
            error in the row of its file.
    """
    global _current
    if sys.platform != "linux" or "tensorflow" in sys.modules or threading.active_count() > 1:
        yield
        return
    _current = decoders = Decoders(image, video, seconds, blameless)
    try:
        yield
    finally:
        _current = None
        decoders.close()


def current() -> Decoders | None:
    """What decodes apart, if anything does."""
    return _current


class Decoders:
    """Workers, each started when all others are busy."""

    def __init__(self, image: DecodeImage, video: OpenVideo, seconds: float | None = None, blameless: bool = False) -> None:
        self._seconds = seconds
        # What a worker needs, here, where it costs nothing: this process needs it as well.
        import cv2

        from emotiw_keras.data import video_files  # noqa: F401 - for the fork

        # The threads of OpenCV's pool do not live in a fork, where their end would be waited for forever.
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._blameless = blameless
        self._closed = False
        if not os.fork():  # once: after it this process starts threads, and a fork of those may wait for ever
            try:
                self._control.close()
                _mother(theirs, image, video)
            except BaseException:  # none of what this process would go on with is its own; the cause is told before
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        cv2.setNumThreads(threads)
        theirs.close()

    def image(self, path: str, data: bytes, name: str) -> InputImage:
        """The image that these bytes are."""
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        worker = worker or self._worker()
        try:
            worker.socket.settimeout(self._seconds)
            worker.send({"path": path, "name": name}, data)
            answer = worker.answer()
        except TimeoutError as error:
            os.kill(worker.process, signal.SIGKILL)  # it is not gone before it has been waited for
            self._end_of(worker, error)
            return InputImage(path, None, f"cannot decode: it took more than {self._seconds:g} seconds", name=name)
        except OSError as error:
            return InputImage(path, None, self._end_of(worker, error), name=name)
        with self._lock:
            self._idle.append(worker)
        return _image(*answer)

    def video(self, path: str, name: str) -> Video | InputImage:
        """The video that this file is."""
        worker = self._worker()
        try:
            worker.send({"path": path, "name": name, "video": True}, b"")
            facts, pixels = worker.answer()
        except OSError as error:
            return InputImage(path, None, self._end_of(worker, error), name=name)
        if "rate" not in facts:
            self._end_of(worker, None)
            return _image(facts, pixels)
        return Video(path, name, facts["rate"], self._frames(worker, path, name))

    def _frames(self, worker: _Worker, path: str, name: str) -> Iterator[InputImage]:
        frame = 0
        try:
            while True:
                try:
                    facts, pixels = worker.answer()
                except OSError as error:
                    yield InputImage(path, None, self._end_of(worker, error), frame=frame, name=name)
                    return
                if "end" in facts:
                    return
                image = _image(facts, pixels)
                frame = (image.frame if image.frame is not None else frame) + 1
                yield image
        finally:
            self._end_of(worker, None)

    def _worker(self) -> _Worker:
        with self._lock, _asking():
            self._control.send(b"+")
            data, descriptors, _, _ = socket.recv_fds(self._control, 4, 1)
            if len(data) < 4:
                raise EOFError
        return _Worker(struct.unpack("<I", data)[0], socket.socket(fileno=descriptors[0]))

    def _end_of(self, worker: _Worker, error: OSError | None) -> str:
        """How a worker ended that was left or has died, in words; "" if that has been asked before."""
        if worker.over:
            return ""
        worker.over = True
        worker.socket.close()
        if self._closed:  # a film that an interrupted command was reading: nobody asks any more how it ended
            return ""
        with self._lock, _asking():
            self._control.send(b"-" + struct.pack("<I", worker.process))
            answer = self._control.recv(4, socket.MSG_WAITALL)
            if len(answer) < 4:
                raise EOFError
        (code,) = struct.unpack("<i", answer)
        if self._blameless and error is not None and -code in OUTSIDE:
            raise DecodersLost(f"a decoder was ended by {signal_name(-code)}; run the same command again")
        return f"cannot decode: the decoder {how_it_ended(code)}" + (f" ({error})" if code >= 0 else "")

    @property
    def alive(self) -> bool:
        """Whether the process that starts them is there."""
        try:
            return bool(self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:  # it has nothing to say
            return True
        except OSError:
            return False

    def close(self) -> None:
        """End them."""
        self._closed = True
        for worker in self._idle:
            worker.socket.close()
        self._control.close()


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Talk to the process that starts decoders; DecodersLost if it is gone."""
    try:
        yield
    except (OSError, EOFError) as error:
        raise DecodersLost("the process that starts decoders was ended from outside; run the same command again") from error


class _Worker:
    """One process, and the socket to it."""

    def __init__(self, process: int, channel: socket.socket) -> None:
        self.process, self.socket, self.over = process, channel, False

    def send(self, facts: dict[str, Any], content: bytes | memoryview) -> None:
        text = json.dumps(facts).encode()
        start = _HEAD.pack(len(text), len(content)) + text
        if len(content) < _SMALL:
            self.socket.sendall(start + content)
        else:
            self.socket.sendall(start)
            self.socket.sendall(content)

    def answer(self) -> tuple[dict[str, Any], np.ndarray]:
        """Facts, and the bytes that follow them as uint8. Raises OSError where the other side is gone."""
        facts, content = _HEAD.unpack(self._exactly(_HEAD.size).tobytes())
        whole = self._exactly(facts + content)
        return json.loads(whole[:facts].tobytes()), whole[facts:]

    def _exactly(self, count: int) -> np.ndarray:
        found = np.empty(count, np.uint8)
        view, at = found.data, 0
        while at < count:
            more = self.socket.recv_into(view[at:])
            if not more:
                raise ConnectionResetError("it closed its end")
            at += more
        return found


def _image(facts: dict[str, Any], content: np.ndarray) -> InputImage:
    shape = facts.pop("shape")
    facts["notes"] = tuple(facts["notes"])
    return InputImage(pixels=None if shape is None else content.reshape(shape), **facts)


def _facts(image: InputImage) -> tuple[dict[str, Any], memoryview | bytes]:
    facts = {key: getattr(image, key) for key in ("path", "error", "frame", "name", "seconds", "notes")}
    pixels = image.pixels
    if pixels is None:
        return facts | {"shape": None}, b""
    return facts | {"shape": pixels.shape}, np.ascontiguousarray(pixels).data.cast("B")


def _mother(control: socket.socket, image: DecodeImage, video: OpenVideo) -> None:
    """Forks workers, and tells how they ended; ends when the other side does, however that ends, and ends them."""
    _begin()
    workers: set[int] = set()
    while order := control.recv(1):
        if order == b"+":
            ours, theirs = socket.socketpair()
            process = os.fork()
            if not process:
                control.close()
                theirs.close()
                _work(_Worker(0, ours), image, video)
            workers.add(process)
            socket.send_fds(control, [struct.pack("<I", process)], [theirs.fileno()])
            ours.close()
            theirs.close()
        else:
            (process,) = struct.unpack("<I", control.recv(4, socket.MSG_WAITALL))
            workers.remove(process)
            control.send(struct.pack("<i", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])))
    for process in workers:  # one may be in a library that does not end
        os.kill(process, signal.SIGKILL)
    os._exit(0)


def _begin() -> None:
    # Both may be sent to the whole group, and are for the process that was started: it ends what is at hand, and then us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)


def _work(worker: _Worker, image: DecodeImage, video: OpenVideo) -> None:
    """Answer until the other side is gone; never returns."""
    try:
        while True:
            facts, data = worker.answer()
            if facts.get("video"):
                _show(worker, video(facts["path"], facts["name"]))
            else:
                worker.send(*_facts(image(facts["path"], data.tobytes(), facts["name"])))
    except OSError:
        os._exit(0)
    except BaseException:  # told where others are, then the end of this process tells it
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _show(worker: _Worker, video: Video | InputImage) -> None:
    if isinstance(video, InputImage):
        worker.send(*_facts(video))
        return
    worker.send({"rate": video.rate}, b"")
    for image in video.frames:
        worker.send(*_facts(image))
    worker.send({"end": True}, b"")
