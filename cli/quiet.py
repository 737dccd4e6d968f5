"""TensorFlow without its start-up talk."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hold back what is written to file descriptor 2; show it if the block fails."""
    if sys.stderr is None:  # closed: nobody hears it, and number 2 may be another file by now
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class QuietTensorFlow:
    """An import hook for the first `import tensorflow`, whose libraries write before any log level counts.

    It stays while others only ask whether there is a TensorFlow.
    """

    def __init__(self) -> None:
        self._looking = False

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Leave every import alone but that of TensorFlow itself."""
        if name != "tensorflow" or self._looking:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def quietly(module: ModuleType) -> None:
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                with _silent_stderr():
                    load(module)
                module.get_logger().setLevel("ERROR")  # what it wonders at in our graphs, no user can mend

            spec.loader.exec_module = quietly  # type: ignore[method-assign]
        return spec


def quiet_tensorflow() -> None:
    """Keep TensorFlow's start-up quiet, unless the user has asked for all of it by TF_CPP_MIN_LOG_LEVEL=0."""
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "0":
        sys.meta_path.insert(0, QuietTensorFlow())


def loud_tensorflow() -> None:
    """Take `quiet_tensorflow` back, before TensorFlow is imported."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, QuietTensorFlow)]
