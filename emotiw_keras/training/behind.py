"""What is written while the next steps are computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from emotiw_keras.errors import EmotiwError
from emotiw_keras.talk import Notice


def nothing() -> None:
    """Do nothing."""


class Behind:
    """Writes in a thread, one at a time, in the order in which they began; the caller computes meanwhile.

    What an error of a write raises, it raises in the caller's thread, at the next `look`, `finish` or `begin`. When the block
    ends, nothing is being written any more.

    Args:
        say: takes a line for people, about a write that failed where another error ends the block.
        threads: False does everything at once: several processes write together.

    Example:
        >>> done = []
        >>> with Behind(print) as behind:
        ...     behind.begin(lambda: done.append("written"), lambda: done.append("told"))
        >>> done
        ['written', 'told']
    """

    def __init__(self, say: Callable[[str], None], threads: bool = True) -> None:
        self._say, self._threads = say, threads
        self._job: Future[None] | None = None
        self._then: Callable[[], None] = nothing

    def __enter__(self) -> Behind:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="emotiw-behind")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._pool:
            if error is None:
                self.finish()
                return
            try:
                self.finish()
            except (EmotiwError, OSError) as failed:  # the error that ends the block stays the one that is raised
                self._say(Notice(f"warning: {failed}"))

    def begin(self, write: Callable[[], None], then: Callable[[], None] = nothing) -> None:
        """Finish the last write, and begin another.

        Args:
            write: writes what no later step changes.
            then: is called in the caller's thread, once everything has been written.
        """
        self.finish()
        if self._threads:
            self._job, self._then = self._pool.submit(write), then
        else:
            write()
            then()

    def look(self) -> None:
        """Finish what has been written by now; what is being written is not waited for."""
        if self._job is not None and self._job.done():
            self.finish()

    def finish(self) -> None:
        """Wait until everything has been written."""
        job, self._job = self._job, None
        if job is not None:
            job.result()
            self._then()
