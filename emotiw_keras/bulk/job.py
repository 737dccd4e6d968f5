"""What one job is: the command, its settings, what computes it; the same job gives the same bytes, another is told apart."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

import emotiw_keras
from emotiw_keras.bulk.parts import FORMATS
from emotiw_keras.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from emotiw_keras.bulk.entries import Shard
    from emotiw_keras.bulk.places import Folder
    from emotiw_keras.runs import Run
    from emotiw_keras.serving.exported import Exported

PREDICT, PREPARE = "predict", "prepare"
_SHOWN = 20
_LIBRARIES = {"tensorflow": ("tensorflow", "keras"), "onnxruntime": ("onnxruntime",), "openvino": ("openvino",), "opencv": ()}
Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A job, as every process that works on it gets it.

    Attributes:
        command: `PREDICT` or `PREPARE`.
        out: folder or address of the parts.
        settings: the command's, all of them plain data.
        kind: of the parts: "jsonl" or "parquet".
        inputs: what the user named: a few of the names, their number and their hash.
        shard: most inputs and bytes of one.
        versions: of everything that decides bits.
    """

    command: str
    out: str
    settings: dict[str, Any]
    kind: str
    inputs: dict[str, Any]
    shard: dict[str, int]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        if self.kind not in FORMATS:
            raise UsageError(f"format={self.kind!r}: expected one of {', '.join(FORMATS)}")

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the bytes of the parts: not where they lie, nor where the model does."""
        found = {key: value for key, value in self.as_dict().items() if key != "out"}
        found["settings"] = {key: value for key, value in self.settings.items() if key != "model"}
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `identity`."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def check_versions(self, where: str) -> None:
        """UsageError if a library here is of another version than where the job was begun."""
        here = versions_of(self.settings.get("engine", "opencv"), self.kind)
        other = [f"{name} {here.get(name)}, not {each}" for name, each in self.versions.items() if here.get(name) != each]
        if other:
            told = f"{where} has {'; '.join(other)} as where the job was begun"
            raise UsageError(f"{told}; install the same versions on every host")


class Shards(Protocol):
    """What does a job's shards in one process."""

    def do(self, shard: Shard, folder: Folder, at: Callable[[int], None]) -> Record:
        """Do one: write its part, return its record. `at` is told the place of each entry before it is read."""
        ...


def job_of(record: dict[str, Any]) -> Job:
    """The job that `Job.as_dict` gave."""
    return Job(**record)


def named_inputs(inputs: tuple[str, ...]) -> dict[str, Any]:
    """What a manifest says of the names that a user gave."""
    digest = hashlib.sha256("\0".join(inputs).encode("utf-8", "surrogateescape")).hexdigest()
    return {"named": list(inputs[:_SHOWN]), "count": len(inputs), "sha256": digest}


def versions_of(engine: str, kind: str) -> dict[str, str]:
    """Of the libraries that a job's bits depend on; one that is missing is "none"."""
    # The detector takes ONNX Runtime where it is.
    names = ("numpy", "opencv-python-headless", "pillow", "onnxruntime", *_LIBRARIES[engine])
    names += ("pyarrow",) if kind == "parquet" else ()
    found = {"emotiw_keras": emotiw_keras.__version__}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def settled(engine: str, source: Run | Exported, precision: str) -> str:
    """The engine of a job: "auto" is the first of OpenVINO, ONNX Runtime and OpenCV that is installed and can compute the
    network in this precision, else TensorFlow. Nothing is timed, so that the same machine always takes the same one.

    Raises:
        ModelError, RunError, UsageError: as `Predictor`.
    """
    from emotiw_keras import engines
    from emotiw_keras.serving.auto import settled_engine

    found = settled_engine(engine, source, precision)
    if found != "auto":
        return found
    here = engines.computing_in(precision)
    return next(name for name in ("openvino", "onnxruntime", "opencv") if name in here)


def model_facts(source: Any) -> dict[str, Any]:
    """What of a run or an exported file decides its answers: the hash of its weights, and one of how faces are prepared."""
    facts = {"settings": source.settings, "crop": source.crop, "labels": list(source.labels), "crops": source.crops}
    facts["usable_entropy"] = source.usable_entropy
    text = json.dumps(facts, sort_keys=True, default=str)
    return {"weights": source.fingerprint, "preprocessing": hashlib.sha256(text.encode()).hexdigest()}
