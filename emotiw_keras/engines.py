"""What computes a network: TensorFlow, or a light engine, which runs an ONNX model and starts in a fraction of a second."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.hardware import multiplies_bytes, processor_threads, thread_limit

Compute = Callable[[np.ndarray], np.ndarray]
"""One batch, of the type and shape that the model takes -> probabilities, float32 (batch, classes)."""
Outputs = Callable[[np.ndarray], Sequence[np.ndarray]]
"""One batch -> the outputs that were asked for, float32, in that order."""

ENGINES = ("auto", "tensorflow", "onnxruntime", "openvino", "opencv")
LIGHT: dict[str, str] = {"opencv": "cv2", "onnxruntime": "onnxruntime", "openvino": "openvino"}
"""Engine -> the module that it is, the one that starts fastest first."""


def installed() -> tuple[str, ...]:
    """The light engines that are here, as `LIGHT` has them."""
    return tuple(name for name, module in LIGHT.items() if importlib.util.find_spec(module) is not None)


def computing_in(precision: str) -> tuple[str, ...]:
    """The light engines that are here and compute in a precision on this processor: all in "float32", ONNX Runtime and OpenVINO
    in "int8" where the processor multiplies bytes, OpenVINO in "mixed_bfloat16" where the processor has it."""
    here = installed()
    if precision == "float32":
        return here
    if precision == "int8":
        return tuple(name for name in ("onnxruntime", "openvino") if name in here and multiplies_bytes())
    if precision != "mixed_bfloat16" or "openvino" not in here:
        return ()
    return ("openvino",) if "BF16" in openvino_module().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else ()


def load(
    engine: str,
    model: bytes,
    called: str,
    output: str = "probabilities",
    precision: str = "float32",
    advice: str = "choose another engine",
) -> Compute:
    """An ONNX model of one input, in a light engine.

    Args:
        engine: a name in `LIGHT`.
        model: the bytes of the model.
        called: what errors call it.
        output: the name of the output that is asked for.
        precision: one that the engine computes in; see `computing_in`.
        advice: what to do where it cannot compute this model.

    Raises:
        UsageError: the engine is not installed, or cannot compute in this precision here.
        ModelError: it cannot compute this model.
    """
    outputs = load_outputs(engine, model, called, (output,), precision=precision, advice=advice)
    return lambda batch: outputs(batch)[0]


def load_outputs(
    engine: str,
    model: bytes,
    called: str,
    outputs: Sequence[str],
    threads: int | None = None,
    precision: str = "float32",
    advice: str = "choose another engine",
) -> Outputs:
    """The same for several outputs. Threads may share what comes back; OpenCV's computes one batch after the other.

    Args:
        engine, model, called, precision, advice: as for `load`.
        outputs: the names of the outputs that are asked for.
        threads: that compute one batch, but in OpenCV, which has one setting for the process; None for all processors.

    Raises:
        UsageError, ModelError: as `load`.
    """
    if engine not in installed():
        raise UsageError(
            f"engine={engine!r} is not installed; `pip install {engine}`, or choose one of {', '.join(installed())}"
        )
    if engine not in computing_in(precision):
        raise UsageError(f"engine={engine!r} does not compute in {precision} on this processor; choose another, or float32")
    failures = _failures(engine)
    try:
        if precision == "mixed_bfloat16":
            compute = _openvino(model, list(outputs), threads, "bf16")
        else:  # a model in int8 says itself where
            compute = _LOADERS[engine](model, list(outputs), threads)
    except failures as error:
        raise _refused(engine, called, error, advice) from error

    def checked(batch: np.ndarray) -> list[np.ndarray]:
        try:
            return [np.asarray(each, np.float32) for each in compute(batch)]
        except failures as error:
            raise _refused(engine, called, error, advice) from error

    return checked


def onnxruntime_module() -> Any:
    """The module `onnxruntime`, silent: it would write of every process to its makers, and keep files for that in the user's
    folders, where this is not set before it is imported. What the user has set counts."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def openvino_module() -> Any:
    """The module `openvino`, silent: it would report each import to its makers, unless the package that does this is missing.
    Where somebody has imported that package before, it is left to them."""
    missing = sys.modules.setdefault("openvino_telemetry", None) is None  # type: ignore[arg-type]
    try:
        import openvino
    finally:
        if missing:
            sys.modules.pop("openvino_telemetry", None)
    return openvino


def _failures(engine: str) -> tuple[type[Exception], ...]:
    """What an engine raises for a model or a batch that it cannot compute."""
    if engine == "opencv":
        import cv2

        return (cv2.error,)
    if engine == "onnxruntime":  # a class for each of its codes
        codes = onnxruntime_module().capi.onnxruntime_pybind11_state
        found = tuple(each for each in vars(codes).values() if isinstance(each, type) and issubclass(each, Exception))
        return (*found, ValueError)  # its part in Python raises that for an input that is lacking
    return (RuntimeError,)


def _refused(engine: str, called: str, error: Exception, advice: str) -> ModelError:
    reason = " ".join(str(error).split())[:200]
    return ModelError(f"{engine} cannot compute the network of {called} ({reason}); {advice}")


def _opencv(model: bytes, outputs: list[str], threads: int | None) -> Outputs:
    import cv2

    net = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
    lock = threading.Lock()  # between the two a net holds one batch, whoever gave it

    def compute(batch: np.ndarray) -> Any:
        with lock:
            net.setInput(batch)
            return [np.array(each) for each in net.forward(outputs)]  # copies: it uses its memory again

    return compute


def _onnxruntime(model: bytes, outputs: list[str], threads: int | None) -> Outputs:
    onnxruntime = onnxruntime_module()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or processor_threads()
    options.log_severity_level = 3
    # Between two batches its threads would wait by turning, on processors where faces are looked for.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(outputs, {name: batch})


def _openvino(model: bytes, outputs: list[str], threads: int | None, precision: str = "f32") -> Outputs:
    core = openvino_module().Core()
    # Where the processor knows bfloat16, it would compute in it unasked.
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": precision}
    threads = threads or thread_limit()
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", settings)
    mine = threading.local()

    def compute(batch: np.ndarray) -> Any:
        if not hasattr(mine, "request"):
            mine.request = compiled.create_infer_request()
        answers = mine.request.infer([batch])
        return [np.array(answers[compiled.output(output)]) for output in outputs]  # copies, as of OpenCV

    return compute


_LOADERS: dict[str, Callable[[bytes, list[str], int | None], Outputs]] = {
    "opencv": _opencv,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
