"""Which engine computes: the one that was asked for; else for few faces what starts fastest, for many what computes fastest."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras import engines
from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.hardware import multiplies_bytes
from emotiw_keras.inference import Inference, checked_answers
from emotiw_keras.light_inference import LightInference
from emotiw_keras.onnx_network import NOT_OBSERVED, is_known
from emotiw_keras.serving.speeds import fastest

if TYPE_CHECKING:
    from emotiw_keras.runs import Run
    from emotiw_keras.serving.exported import Exported

SOON = 32
"""Faces from which ONNX Runtime is worth reading the network where it finds the faces already."""
SOME = 200
"""Faces from which it is worth timing it beside OpenCV."""
MANY = 1_000
"""The same of an engine that takes a second or so."""
Shape = tuple[int, int, int]


def run_of(source: Run | Exported) -> Run:
    """What is a run.

    Raises:
        UsageError: it is an exported file.
    """
    from emotiw_keras.runs import Run

    if not isinstance(source, Run):
        raise UsageError(f"{source.called} is an exported model, which only light engines compute; this needs the run itself")
    return source


def settled_engine(engine: str, source: Run | Exported, precision: str = "float32") -> str:
    """The engine that was asked for, once it is known to do what is asked; "auto" stays where a light engine can do it.

    Raises:
        UsageError: there is no such engine, or it cannot.
    """
    from emotiw_keras.runs import Run

    if engine not in engines.ENGINES:
        raise UsageError(f"engine={engine!r}: expected one of {', '.join(engines.ENGINES)}")
    if precision == "int8":
        wrong = _not_in_int8(source, engine)
        if wrong:
            raise UsageError(f"precision='int8' with engine={engine!r}: {wrong}")
        return engine
    needs = _needs_tensorflow(source, precision, engine)
    if engine in ("auto", "tensorflow"):
        if engine == "tensorflow" or needs:
            run_of(source)
            return "tensorflow"
        return "auto"
    if needs:
        way = "choose 'tensorflow' or 'auto'" if isinstance(source, Run) else "compute in float32"
        if needs == _of_keras_alone(source):
            way += f", or a file that `emotiw export {source.called} face.onnx --format onnx` writes"
        raise UsageError(f"engine={engine!r} cannot do this: {needs}; {way}")
    return engine


def _not_in_int8(source: Run | Exported, engine: str) -> str:
    """Why this cannot be computed in int8 here; nothing if it can."""
    from emotiw_keras.runs import Run

    if engine not in ("auto", "onnxruntime", "openvino"):
        return "only ONNX Runtime and OpenVINO multiply bytes; choose 'auto', or compute in float32"
    if not multiplies_bytes():
        return (
            "this processor has no products of bytes (VNNI), without which int8 is neither faster nor right; compute in float32"
        )
    if engine == "auto" and not engines.computing_in("int8"):
        return "neither ONNX Runtime nor OpenVINO is installed; pip install onnxruntime, or compute in float32"
    if not isinstance(source, Run):
        return f"{source.called} is an exported model, which computes as it was written; give the run itself, or leave it out"
    if not is_known(source):
        return f"the network of {source.called} ({source.model_name}) is known to Keras alone; compute in float32"
    return "" if source.activations is not None else f"{source.called} {NOT_OBSERVED}"


def _needs_tensorflow(source: Run | Exported, precision: str, engine: str) -> str:
    """Why no light engine will do, or the one asked for will not; nothing if it does."""
    able = engines.computing_in(precision)
    if engine in engines.LIGHT:
        if engine in engines.installed() and engine not in able:
            return f"it does not compute in {precision} here"
    elif not able:
        return f"no other engine here computes in {precision}"
    return _of_keras_alone(source)


def _of_keras_alone(source: Run | Exported) -> str:
    """Why light engines do not know the network, which a file exported of the run would tell them; nothing if they do."""
    from emotiw_keras.runs import Run

    if isinstance(source, Run) and not is_known(source):
        return f"the network of {source.called} ({source.model_name}) is built by Keras alone, or given by its user"
    return ""


def open_engine(engine: str, source: Run | Exported, crops: int, shape: Shape, precision: str = "float32") -> engines.Compute:
    """The network in an engine: uint8 (batch, *shape) -> probabilities, float32 (batch, classes).

    Raises:
        RunError, ModelError: the run or the file is damaged.
        UsageError: the engine is not there, or Keras is set to something else than TensorFlow and float32.
    """
    from emotiw_keras.runs import Run

    if engine == "tensorflow":
        if importlib.util.find_spec("tensorflow") is None:
            why = _needs_tensorflow(source, precision, engine)
            file = ", or give a file that `emotiw export --format onnx` wrote" if why and why == _of_keras_alone(source) else ""
            raise UsageError(
                f"TensorFlow is not installed{f', and {why}' if why else ''}; pip install emotiw-keras brings it{file}"
            )
        return Inference(run_of(source), shape, crops, precision)
    if isinstance(source, Run):
        return LightInference(source, crops, engine, precision)
    if crops != 1:
        raise UsageError(f"{source.called} is an exported model, which cuts the centre out itself: {crops} crops need the run")
    compute, count = engines.load(engine, source.model, source.called, source.output, precision), len(source.labels)

    def checked(faces: np.ndarray) -> np.ndarray:
        if not len(faces):
            return np.zeros((0, count), np.float32)
        starts = range(0, len(faces), source.at_once)
        answers = np.concatenate([compute(faces[start : start + source.at_once]) for start in starts])
        if answers.shape != (len(faces), count):
            raise ModelError(
                f"{source.called} is damaged: it answers {answers.shape[-1]} classes, its labels are {count}; export it again"
            )
        return checked_answers(answers, source.called)

    return checked


def fastest_light(source: Run | Exported, crops: int, shape: Shape) -> str:
    """The light engine that computes fastest, without TensorFlow: for what runs for long and may not pause to try others.

    Raises:
        As `open_engine`.
    """
    names = engines.installed()
    if len(names) == 1:
        return names[0]
    return fastest(
        names, (source.fingerprint, crops, "float32"), shape, lambda engine: open_engine(engine, source, crops, shape)
    )


class Automatic:
    """The network of a run in the engine that suits the number of faces that have come so far.

    It begins with the first of `engines.LIGHT` that is installed and can compute it. From `SOON` faces on ONNX Runtime goes on
    where it is imported already, for the detector. From `SOME` faces on the two are timed, from `MANY` the others too, and
    TensorFlow where it is imported already (it would take another gigabyte), each once on a machine for a network: the cache
    keeps what was found (`speeds`). The fastest goes on.

    Args:
        source: what to compute, which a light engine can.
        crops: crops of a face whose probabilities are averaged.
        shape: height, width and channels of the faces.
        precision: what to compute in; engines that cannot are left out.

    Attributes:
        engine: the name of the one in use.
    """

    def __init__(self, source: Run | Exported, crops: int, shape: Shape, precision: str = "float32") -> None:
        self._source, self._crops, self._shape, self._precision = source, crops, shape, precision
        first, *others = engines.computing_in(precision)
        self._waiting = [*others, *(["tensorflow"] if _may_use_tensorflow(source, precision) else [])]
        self._seen = 0
        self.engine = first
        self._opened: dict[str, engines.Compute] = {}
        self._compute = self._of(first)

    def _of(self, engine: str) -> engines.Compute:
        if engine not in self._opened:
            self._opened[engine] = open_engine(engine, self._source, self._crops, self._shape, self._precision)
        return self._opened[engine]

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Probabilities of a batch: uint8 (batch, height, width, channels) -> float32 (batch, classes).

        Raises:
            ModelError: the network answers with numbers that are not finite.
        """
        self._seen += len(faces)
        due = [engine for engine in self._waiting if self._seen >= _worth(engine)]
        if due:
            self._waiting = [engine for engine in self._waiting if engine not in due]
            self._go_on_with_fastest(due)
        elif self._seen >= SOON and self.engine == "opencv" and "onnxruntime" in self._waiting and "onnxruntime" in sys.modules:
            self.engine, self._compute = "onnxruntime", self._of("onnxruntime")
        return self._compute(faces)

    def _go_on_with_fastest(self, others: list[str]) -> None:
        subject = (self._source.fingerprint, self._crops, self._precision)
        self.engine = fastest(list(dict.fromkeys((*self._opened, *others))), subject, self._shape, self._of)
        self._compute = self._of(self.engine)
        self._opened = {self.engine: self._compute}


def _may_use_tensorflow(source: Run | Exported, precision: str = "float32") -> bool:
    """Whether TensorFlow and Keras are imported already and may compute it in this precision."""
    from emotiw_keras.runs import Run

    imported = precision != "int8" and "tensorflow" in sys.modules and "keras" in sys.modules
    return imported and isinstance(source, Run) and sys.modules["keras"].backend.backend() == "tensorflow"


def _worth(engine: str) -> int:
    return SOME if engine == "onnxruntime" else MANY
