"""Readers of expressions, each asked in the same way: uint8 faces of 48 x 48 in, probabilities out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from emotiw_keras.audit.adapter import Adapter, checked_probabilities
from emotiw_keras.audit.entries import MOST_TOGETHER, UNKNOWN, Entry, Input
from emotiw_keras.audit.faces import AuditFaces
from emotiw_keras.data.resize import resize
from emotiw_keras.errors import ModelError
from emotiw_keras.files import expanded, sha256_file
from emotiw_keras.formats.foreign import FACTS, Limits
from emotiw_keras.formats.protobuf import Message, Schema, Spec, Wire, last, map_file

SELECTED_SHARE = 0.05
"""From this share of a split's pictures on a run counts as trained, or selected, on the split; duplicates alone are fewer."""
_MODEL: Schema = {
    7: Spec("graph", "message"),
    14: Spec("metadata", "message", True),
    25: Spec("function", "message", True),
}
_PROPERTY: Schema = {1: Spec("key", "str")}
_GRAPH: Schema = {
    1: Spec("node", "message", True),
    5: Spec("initializer", "message", True),
    11: Spec("input", "message", True),
    12: Spec("output", "message", True),
    15: Spec("sparse", "message", True),
}
_FUNCTION: Schema = {7: Spec("node", "message", True)}
_NODE: Schema = {5: Spec("attribute", "message", True)}
_ATTRIBUTE: Schema = {
    **dict.fromkeys((5, 10), Spec("tensor", "message", True)),
    **dict.fromkeys((6, 11), Spec("graph", "message", True)),
    **dict.fromkeys((22, 23), Spec("sparse", "message", True)),
}
_SPARSE: Schema = dict.fromkeys((1, 2), Spec("tensor", "message", True))
_VALUE: Schema = {1: Spec("name", "str"), 2: Spec("type", "message")}
_TYPE: Schema = {1: Spec("tensor", "message")}
_ARRAY: Schema = {1: Spec("kind", "int"), 2: Spec("shape", "message")}
_FLOATS = (1, 10, 11, 16)
"""Kinds of numbers in ONNX: of 32, 16 and 64 bits, and bfloat16."""
_OTHER_FLOATS = {10: np.float16, 11: np.float64}
"""Inputs of other numbers than float32; OpenCV converts by itself."""
_KERAS = (".keras", ".h5", ".hdf5")
_SHAPE: Schema = {1: Spec("dim", "message", True)}
_DIM: Schema = {1: Spec("value", "int")}
_TENSOR: Schema = {8: Spec("name", "str"), 13: Spec("external", "message", True), 14: Spec("location", "int")}
_WHOLE = "answers with whole numbers, such as the number of a class; expected probabilities or logits: save it with that output"
SPLIT_NAMES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}


Compute = Callable[[np.ndarray], np.ndarray]
"""Faces as `prepared` makes them -> what the file's network answers."""


class Reader(Protocol):
    """What an audit asks.

    Attributes:
        labels: its classes, in the order of its columns.
        facts: what tables say of it: "how" a face reaches it, and where known "version", "licence", "bytes", "trained_on",
            "selected_on", "source".
        identity: a hash of the weights, where they are at hand; "" of an adapter, which is known by its command and its facts.
    """

    labels: tuple[str, ...]
    facts: dict[str, Any]
    identity: str

    def predict(self, faces: np.ndarray) -> np.ndarray:
        """uint8 (n, 48, 48) -> float32 (n, labels), rows of sum 1, or of NaN where no face was found."""
        ...


@contextlib.contextmanager
def opened(entry: Entry, faces: AuditFaces, timeout: float) -> Iterator[Reader]:
    """The reader that an entry states; what it started ends with the context.

    Args:
        entry: from `entries`.
        faces: to tell what of them a run has seen.
        timeout: seconds that an adapter has for each answer.

    Raises:
        EmotiwError: it is not there, damaged, or cannot be asked.
    """
    if entry.adapter:
        with Adapter(entry.adapter, timeout, entry.name) as adapter:
            yield _Answers(adapter.labels, {**adapter.facts, **_told(entry)}, adapter.predict)
    elif entry.run:
        yield _of_run(entry, faces)
    else:
        yield _of_file(entry)


class _Answers:
    def __init__(
        self, labels: tuple[str, ...], facts: dict[str, Any], predict: Callable[[np.ndarray], np.ndarray], identity: str = ""
    ) -> None:
        self.labels, self.facts, self.predict, self.identity = labels, facts, predict, identity
        self.facts.pop("labels", None)


def _told(entry: Entry) -> dict[str, str]:
    told = {"trained_on": entry.trained_on or UNKNOWN, "selected_on": entry.selected_on or UNKNOWN}
    return told | ({"source": entry.source} if entry.source else {})


def _of_run(entry: Entry, faces: AuditFaces) -> Reader:
    from emotiw_keras import __version__
    from emotiw_keras.run_facts import WEIGHTS_FILE
    from emotiw_keras.runs import INFO_FILE, Run
    from emotiw_keras.serving.predictor import Predictor

    predictor = Predictor(entry.run, crops=entry.crops, head=entry.head or None)
    mirrored = {1: "the centre", 2: "the face and its mirror image", 10: "ten crops"}[predictor.crops]
    facts: dict[str, Any] = {"version": __version__, "how": f"the face as it is; {mirrored}", **_told(entry)}
    source = predictor.source
    if isinstance(source, Run):
        identity = sha256_file(source.path / INFO_FILE)  # which has the hashes of all that it answers by
        facts["bytes"] = (source.path / WEIGHTS_FILE).stat().st_size
        if source.unrecorded:
            facts |= {"trained_on": f"{', '.join(source.unrecorded)}, whose images are not recorded"}
        else:
            seen = source.seen()
            facts["trained_on"] = entry.trained_on or _splits_in(seen["train"], faces)
            facts["selected_on"] = entry.selected_on or _splits_in(source.selected_on, faces)
            facts["source"] = entry.source or "the run's own record of its images"
    else:
        identity = hashlib.sha256(source.model).hexdigest()
        facts["bytes"] = len(source.model)

    def predict(pixels: np.ndarray) -> np.ndarray:
        return checked_probabilities(predictor.predict(pixels[..., None]), entry.name)

    return _Answers(predictor.labels, facts, predict, identity)


def _splits_in(hashes: set[str], faces: AuditFaces) -> str:
    """Which splits of these data are among a run's pictures, in words."""
    found = [
        SPLIT_NAMES[name]
        for name, own in faces.hashes.items()
        if own and len(own & hashes) / len(own) >= SELECTED_SHARE and not _only_twins(name, own, hashes, faces)
    ]
    if not found:
        return "other pictures" if hashes else "nothing"
    strange = len(hashes) - len(hashes & frozenset().union(*faces.hashes.values()))
    return ", ".join(found) + (f" and {strange:,} other pictures" if strange else "")


def _only_twins(name: str, own: frozenset[str], hashes: set[str], faces: AuditFaces) -> bool:
    """Whether a split is among a run's pictures only because pictures of other splits are equal."""
    others = frozenset().union(*(each for other, each in faces.hashes.items() if other != name))
    return not (own - others) & hashes


def _of_file(entry: Entry) -> Reader:
    assert entry.input is not None
    path, given = expanded(entry.file), entry.input
    if not path.exists():
        raise ModelError(f"{entry.name}: there is no {entry.file}")
    onnx = path.suffix.lower() == ".onnx"
    _check_kind(path, entry)
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    size = sum(each.stat().st_size for each in files)
    identity = " ".join(map(sha256_file, files))
    compute, fixed = _onnx(path, entry.name) if onnx else _keras(path, entry)
    batch = fixed or given.batch
    if batch > MOST_TOGETHER:
        raise ModelError(f"{entry.name}: {entry.file} takes {batch:,} faces at a time; expected at most {MOST_TOGETHER:,}")
    how = f"the face at {given.side} x {given.side}, {given.channels}, {given.low:g} to {given.high:g}"

    def predict(pixels: np.ndarray) -> np.ndarray:
        parts = [
            np.asarray(compute(_filled(prepared(pixels[start : start + batch], given), batch)))
            for start in range(0, len(pixels), batch)
        ]
        return _probabilities(parts, entry, batch)[: len(pixels)]

    return _Answers(entry.labels, {"how": how, "bytes": size, **_told(entry)}, predict, identity)


def _check_kind(path: Path, entry: Entry) -> None:
    """Refuse a file that no one here can compute, before its reader is asked to trust it."""
    if path.is_dir() or path.suffix.lower() == ".onnx":
        return
    whole = "save the whole model, with model.save, or export it as ONNX"
    if path.name.lower().endswith(".weights.h5"):
        raise ModelError(f"{entry.name}: {entry.file} holds weights alone; {whole}")
    if path.suffix.lower() not in _KERAS:
        kinds = f"an ONNX file, a Keras model ({', '.join(_KERAS)}) or the folder of a SavedModel"
        raise ModelError(f"{entry.name}: {entry.file} is none that an audit computes; expected {kinds}: export it as ONNX")
    if entry.trust and path.suffix.lower() != ".keras":  # the HDF5 library is for files of whom one trusts
        alone = False
        with contextlib.suppress(OSError, RuntimeError, ValueError, KeyError), h5py.File(path, "r", locking=False) as file:
            alone = "layer_names" in file.attrs and "model_config" not in file.attrs
        if alone:
            raise ModelError(f"{entry.name}: {entry.file} holds weights alone; {whole}")


def prepared(faces: np.ndarray, given: Input) -> np.ndarray:
    """Faces as a file's network takes them: uint8 (n, 48, 48) -> float32, in the shape and range of `given`."""
    large = np.stack([resize(face[..., None], given.side, given.side) for face in faces]).astype(np.float32)
    values = given.low + large / 255 * (given.high - given.low)
    if given.channels != "grey":
        values = np.repeat(values, 3, axis=-1)
    if given.mean:
        values = values - np.array(given.mean, np.float32)
    if given.std:
        values = values / np.array(given.std, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if given.order == "nchw" else values, np.float32)


def _filled(faces: np.ndarray, batch: int) -> np.ndarray:
    """So many faces, the last one again and again: a file may take nothing but whole batches."""
    return np.concatenate([faces, np.repeat(faces[-1:], batch - len(faces), axis=0)])


def _probabilities(parts: list[np.ndarray], entry: Entry, batch: int) -> np.ndarray:
    if parts[0].dtype.kind in "biu":
        raise ModelError(f"{entry.name}: {entry.file} {_WHOLE}")
    if {part.shape for part in parts} != {(batch, len(entry.labels))}:
        found = ", ".join(str(part.shape) for part in parts[:1])
        raise ModelError(f"{entry.name} answers with {found}; its labels say {len(entry.labels)} numbers a face")
    answers = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(answers).all():
        raise ModelError(f"{entry.name} answers with numbers that are not finite; its weights or its input are not as stated")
    if entry.output == "logits":
        powers = np.exp(answers - answers.max(axis=1, keepdims=True))
        answers = powers / powers.sum(axis=1, keepdims=True)
    return checked_probabilities(answers, entry.name)


def _onnx(path: Path, called: str) -> tuple[Compute, int | None]:
    """What computes it, and how many faces it takes at a time; None for any number."""
    from emotiw_keras import engines

    engine = "onnxruntime" if "onnxruntime" in engines.installed() else "opencv"
    wire, view = Wire(path.name), map_file(path, Limits(total_bytes=2**31))
    model = wire.decode(view, _MODEL)
    if any(last(wire.decode(part, _PROPERTY), "key") == FACTS for part in model.get("metadata", ())):
        raise ModelError(
            f"{called}: {path} is of `emotiw export` and says itself what it takes; give {path.name} itself, without a table, "
            "or as its run in place of file, labels, input and output"
        )
    graph = wire.decode(last(model, "graph", memoryview(b"")), _GRAPH)
    functions = [wire.decode(part, _FUNCTION) for part in model.get("function", ())]
    for tensor in _tensors(wire, [graph, *functions]):
        if "external" in tensor or last(tensor, "location", 0):
            raise ModelError(
                f"{called}: {path} keeps {last(tensor, 'name', 'an array')} in another file; an audit is of one file: save "
                "it so, with onnx.save(onnx.load(FILE), NEW) or torch.onnx.export(..., external_data=False)"
            )
    outputs = [wire.decode(part, _VALUE) for part in graph.get("output", ())]
    if len(outputs) != 1:
        raise ModelError(f"{called}: {path} has {len(outputs)} outputs; expected one, a number for each label")
    answer = wire.decode(last(wire.decode(last(outputs[0], "type", memoryview(b"")), _TYPE), "tensor", memoryview(b"")), _ARRAY)
    if last(answer, "kind", _FLOATS[0]) not in _FLOATS:
        raise ModelError(f"{called}: {path} {_WHOLE}")
    weights = {
        last(wire.decode(part, _TENSOR), "name", "") for part in graph.get("initializer", ())
    }  # which old files list among the inputs
    inputs = [value for part in graph.get("input", ()) if last(value := wire.decode(part, _VALUE), "name", "") not in weights]
    if len(inputs) != 1:
        raise ModelError(f"{called}: {path} has {len(inputs)} inputs; expected one, the faces")
    kind = wire.decode(last(wire.decode(last(inputs[0], "type", memoryview(b"")), _TYPE), "tensor", memoryview(b"")), _ARRAY)
    if last(kind, "kind", _FLOATS[0]) not in _FLOATS:
        raise ModelError(f"{called}: {path} takes no floating-point numbers; expected float32: save it with such an input")
    shape = wire.decode(last(kind, "shape", memoryview(b"")), _SHAPE)
    first = wire.decode(shape["dim"][0], _DIM) if shape.get("dim") else {}
    compute = engines.load(engine, bytes(view), called, last(outputs[0], "name", ""), advice="ask it by an adapter")
    given = _OTHER_FLOATS.get(last(kind, "kind", 1)) if engine == "onnxruntime" else None
    asked = compute if given is None else lambda batch: compute(batch.astype(given))
    return asked, max(0, last(first, "value", 0)) or None


def _tensors(wire: Wire, graphs: list[Message]) -> Iterator[Message]:
    """All arrays of graphs, of what is sparse and of graphs within their nodes too."""
    for graph in graphs:  # which grow on the way
        parts, sparse = [*graph.get("initializer", ())], [*graph.get("sparse", ())]
        for node in graph.get("node", ()):
            for attribute in wire.decode(node, _NODE).get("attribute", ()):
                held = wire.decode(attribute, _ATTRIBUTE)
                parts += held.get("tensor", ())
                sparse += held.get("sparse", ())
                graphs += [wire.decode(part, _GRAPH) for part in held.get("graph", ())]
        parts += [each for part in sparse for each in wire.decode(part, _SPARSE).get("tensor", ())]
        yield from (wire.decode(part, _TENSOR) for part in parts)


def _keras(path: Path, entry: Entry) -> tuple[Compute, int | None]:
    """As `_onnx`. These files are programs: what they raise is as they like."""
    if not entry.trust:
        raise ModelError(
            f"{entry.name}: {entry.file} is a program, and loading it runs it; set trust = true in its [[model]] if you "
            "trust who made it, or give an ONNX file"
        )
    import tensorflow as tf

    if path.is_dir():
        try:
            loaded = tf.saved_model.load(str(path))
            serve = loaded.signatures["serving_default"]
        except Exception as error:
            raise ModelError(f"{entry.name}: {entry.file} is no SavedModel with serving_default ({_short(error)})") from error
        inputs, outputs = list(serve.structured_input_signature[1]), list(serve.structured_outputs)
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(f"{entry.name}: serving_default has {len(inputs)} inputs and {len(outputs)} outputs, not one")
        (given,) = serve.structured_input_signature[1].values()
        kind, fixed = given.dtype.name, given.shape[0] if given.shape.rank else None

        def call(batch: np.ndarray) -> np.ndarray:
            assert loaded is not None  # it must outlive its signature
            return serve(**{inputs[0]: tf.constant(batch)})[outputs[0]].numpy()
    else:
        import keras

        try:
            model = keras.models.load_model(path, compile=False, safe_mode=True)
        except Exception as error:
            raise ModelError(f"{entry.name}: Keras cannot load {entry.file} ({_short(error)})") from error
        given = next(iter(getattr(model, "inputs", None) or ()), None)
        kind, fixed = ("float32", None) if given is None else (given.dtype, given.shape[0])

        def call(batch: np.ndarray) -> np.ndarray:
            return keras.ops.convert_to_numpy(model(batch, training=False))

    if "float" not in kind:  # Keras would cut numbers of 0 to 1 off to 0
        raise ModelError(f"{entry.name}: {entry.file} takes {kind}; expected float32, as faces are: save it with such an input")

    def compute(batch: np.ndarray) -> np.ndarray:
        try:
            return call(batch)
        except Exception as error:
            raise ModelError(f"{entry.name} cannot take faces as its input is stated ({_short(error)})") from error

    return compute, fixed


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
