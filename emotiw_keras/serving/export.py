"""A run as a TensorFlow SavedModel, which is kept only after a new process has loaded it and gives the same answers."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import emotiw_keras
from emotiw_keras.errors import FULL, ModelError, OutputError
from emotiw_keras.files import local_path, place_new, writing
from emotiw_keras.formats import protobuf_writing as wire
from emotiw_keras.locking import sweep_beside
from emotiw_keras.uncertainty import entropy

if TYPE_CHECKING:
    from emotiw_keras.runs import Run
    from emotiw_keras.serving.predictor import Predictor

TOLERANCE = 1e-5
_REFUSALS = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS)
"""Numbers by which operating systems refuse to write."""
VERSION = "1"
"""The folder in a SavedModel's folder, as TensorFlow Serving numbers them."""
# Height, width and channels of the faces that are compared: FER-2013's, larger and smaller than the net's input, not
# square.
SAMPLE_SHAPES = ((48, 48, 1), (48, 48, 3), (256, 256, 1), (97, 61, 3), (350, 350, 1), (300, 411, 3))


@dataclass(frozen=True)
class ExportReport:
    """What was written, what it takes, how many faces were compared and how far apart they were at most."""

    path: Path
    megabytes: float
    labels: tuple[str, ...]
    compared: int
    largest_difference: float
    takes: str


def refuse_existing(out: str | os.PathLike[str]) -> Path:
    """The path to write, whose folder is made; what killed exports left beside it is removed.

    Raises:
        OutputError: it exists, or its folder cannot be made.
    """
    target = local_path(out)
    if os.path.lexists(target):
        raise OutputError(f"{target} exists; exporting never overwrites, name a new place or remove that one")
    with writing(target):
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
    sweep_beside(target)
    return target


def facts_of(predictor: Predictor) -> dict[str, Any]:
    """What travels inside of every export: version, network, SHA-256 of the weights, labels, preprocessing."""
    return {
        "emotiw_keras": emotiw_keras.__version__,
        "model": predictor.run.model_name,
        "fingerprint": predictor.run.fingerprint,
        "labels": list(predictor.labels),
        "preprocessing": predictor.run.settings,
        "crop": predictor.run.crop,
        "crops": predictor.crops,
        **heads_facts(predictor.run),
        "usable_entropy": predictor.usable_entropy,
    }


def heads_facts(run: Run) -> dict[str, Any]:
    """The heads of a run, the chosen one, and up to which entropy the answers of each are usable; nothing of a network with one
    answer."""
    head = run.head
    if head is None:
        return {}
    limits = {each.name: run.with_head(each.name).usable_entropy for each in run.heads}
    return {"heads": run.info["heads"], "head": head.name, "usable_entropies": limits}


def side_answers(predictor: Predictor, faces: Callable[[Predictor], np.ndarray]) -> dict[str, np.ndarray]:
    """Output -> probabilities of each head of a run, by a predictor of its own, for the faces that `faces` makes it answer."""
    from emotiw_keras.serving.predictor import Predictor

    run = predictor.run
    of = {head.name: Predictor(run.with_head(head.name), crops=predictor.crops, engine="tensorflow") for head in run.heads}
    return {f"probabilities_{name}": faces(each) for name, each in of.items()}


def run_fresh(script: str, *arguments: Path) -> None:
    """Run a script beside this file in a fresh process.

    Raises:
        ModelError: it fails; the message ends with its last line.
    """
    # -P: the script's folder is not searched for modules, so nothing of this package can be imported by accident.
    command = [sys.executable, "-P", str(Path(__file__).with_name(script)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"the exported model does not run in a fresh process (exit code {done.returncode}): {last}")


def export_savedmodel(run: Run | str | os.PathLike[str], out: str | os.PathLike[str]) -> ExportReport:
    """Write the SavedModel of a run to the new folder `out/1`: TensorFlow Serving takes the folders in `out` for versions.

    Signatures: `serving_default` takes `image_bytes`, string (batch,); `pixels` takes `pixels`, uint8 (batch, height, width, 1
    or 3), RGB, any size. Both give `probabilities` float32 (batch, classes), `labels` string (batch, classes), `label` string
    (batch,) and `ok` bool (batch,), of several heads those of the run's own choice, and `probabilities_NAME` and `labels_NAME`
    of each; where the run says which entropy is usable, also `uncertain` bool (batch,). An image that cannot be decoded has
    `ok` false, the label "" and zeros, and leaves the others alone. `assets/emotiw.json` holds labels and preprocessing for
    people, `assets.extra` requests by which a server warms up.

    Args:
        run: a finished run, or the path of its folder.
        out: a folder that does not exist yet.

    Raises:
        RunError: `run` is no finished run folder.
        OutputError: `out` exists or cannot be written.
        ModelError: the reloaded model answers otherwise, or cannot be served everywhere; nothing is left behind.
    """
    target = refuse_existing(out)

    from emotiw_keras.serving.predictor import Predictor

    predictor = Predictor(run, engine="tensorflow")
    temporary = target.absolute().with_name(f".{os.getpid()}.{target.name}")
    try:
        _save(predictor, temporary / VERSION, target)
        refuse_must_compile(temporary / VERSION)
        compared, difference = compare_reloaded(predictor, temporary / VERSION)
        with writing(target):
            megabytes = _flush(temporary) / 1e6
            place_new(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExportReport(target, megabytes, predictor.labels, compared, difference, "image bytes, or pixels of any size")


def _save(predictor: Predictor, folder: Path, target: Path) -> None:
    import tensorflow as tf

    from emotiw_keras.serving.savedmodel_graph import ServedModel

    run = predictor.run
    net = run.build_heads() if run.heads else predictor.net
    served = ServedModel(
        net, predictor.face_input, predictor.labels, predictor.crops, run.heads, run.head, predictor.usable_entropy
    )
    facts = {**facts_of(predictor), "exif_orientation": "ignored"}
    with writing(target):
        try:
            tf.saved_model.save(served, str(folder), signatures=served.signatures())
            _write_warm_up(folder / "assets.extra")
        except tf.errors.OpError as error:
            # TensorFlow's own file system reports a full or forbidden disk in its own classes and many words.
            number = next((each for each in _REFUSALS if os.strerror(each) in error.message), None)
            if number is not None:
                raise OSError(number, os.strerror(number)) from error
            said = " ".join(re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", error.message).split())
            raise OutputError(f"cannot write {target}: {said[-300:]}") from error
        (folder / "assets").mkdir(exist_ok=True)
        (folder / "assets" / "emotiw.json").write_text(json.dumps(facts, indent=2) + "\n")


def _write_warm_up(folder: Path) -> None:
    """One request for each signature, which TensorFlow Serving computes before it answers others.

    Records of PredictionLog; source: `prediction_log.proto`, `predict.proto` and `model.proto` of TensorFlow Serving.
    """
    import tensorflow as tf

    files, pixels = sample_faces()
    inputs = {"serving_default": ("image_bytes", files[:1]), "pixels": ("pixels", pixels[0][None])}
    folder.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for signature, (name, values) in inputs.items():
            tensor = tf.make_tensor_proto(values).SerializeToString()
            request = wire.block(1, wire.text(1, "emotiw") + wire.text(3, signature))
            request += wire.block(2, wire.text(1, name) + wire.block(2, tensor))
            writer.write(wire.block(6, wire.block(1, request)))


def _flush(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        total += file.stat().st_size if file.is_file() else 0
    return total


def refuse_must_compile(folder: Path) -> None:
    """Raise if a function of the SavedModel can only run through the XLA compiler, which many servers do not have.

    Raises:
        ModelError: naming the first such function.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    for meta_graph in saved.meta_graphs:
        for function in meta_graph.graph_def.library.function:
            nodes = [function.attr, *(node.attr for node in function.node_def)]
            if any(attributes["_XlaMustCompile"].b for attributes in nodes if "_XlaMustCompile" in attributes):
                raise ModelError(
                    f"the exported graph holds {function.signature.name}, which must be compiled by XLA; "
                    "many servers refuse that"
                )


def sample_faces(seed: int = 0) -> tuple[list[bytes], list[np.ndarray]]:
    """Images to compare on, smooth with noise: files (PNG and JPEG in turn) and the pixels they were made of."""
    from PIL import Image

    from emotiw_keras.data.resize import resize

    generator = np.random.default_rng(seed)
    files, pixels = [], []
    for index, (height, width, channels) in enumerate(SAMPLE_SHAPES):
        coarse = resize(generator.integers(0, 256, (6, 6, channels), np.uint8), height, width)
        noisy = coarse.astype(np.int16) + generator.integers(-20, 21, coarse.shape)
        face = np.clip(noisy, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(face[..., 0] if channels == 1 else face).save(file, "JPEG" if index % 2 else "PNG")
        files.append(file.getvalue())
        pixels.append(face)
    return files, pixels


def compare_reloaded(predictor: Predictor, folder: Path) -> tuple[int, float]:
    """Load the SavedModel in a fresh process that imports only TensorFlow, and compare with the predictor.

    Returns:
        How many faces were compared, and the largest difference of a probability.

    Raises:
        ModelError: it cannot be loaded, names other labels, or a probability differs by more than 1e-5.
    """
    from emotiw_keras.data.images import decode_image

    files, pixels = sample_faces()
    images = [decode_image(file) for file in files] + pixels
    expected = predictor.predict(images)
    sides = side_answers(predictor, lambda each: each.predict(images))
    inputs = {f"bytes_{index}": np.frombuffer(file, np.uint8) for index, file in enumerate(files)}
    inputs.update({f"pixels_{index}": face for index, face in enumerate(pixels)})
    with tempfile.TemporaryDirectory() as scratch:
        source, result = Path(scratch) / "inputs.npz", Path(scratch) / "outputs.npz"
        np.savez(source, **inputs)  # type: ignore[arg-type]
        run_fresh("savedmodel_answers.py", folder, source, result)
        with np.load(result, allow_pickle=False) as answers:
            found = dict(answers)
    largest = _largest_difference(list(inputs), found, expected, predictor.labels)
    if predictor.usable_entropy is not None:
        for name in inputs:
            unsure = bool(entropy(found[f"{name}/probabilities"]) > predictor.usable_entropy)
            if bool(found[f"{name}/uncertain"]) != unsure:
                raise ModelError(
                    f"the exported model calls {name} {'sure' if unsure else 'uncertain'}, its probabilities do not"
                )
    for head in predictor.run.heads:
        for name, row in zip(inputs, sides[f"probabilities_{head.name}"], strict=True):
            said, labels = found[f"{name}/probabilities_{head.name}"], found[f"{name}/labels_{head.name}"]
            difference = float(np.abs(said - row).max()) if said.shape == row.shape else np.inf
            if not difference <= TOLERANCE or tuple(labels.tolist()) != head.labels:
                raise ModelError(f"the exported model differs by {difference:.3g} on {name}, head {head.name}; it was not kept")
            largest = max(largest, difference)
    return len(inputs), largest


def _largest_difference(
    names: list[str], answers: dict[str, np.ndarray], expected: np.ndarray, labels: tuple[str, ...]
) -> float:
    largest = 0.0
    for name, row in zip(names, expected, strict=True):
        found = answers[f"{name}/probabilities"]
        if found.shape != row.shape or tuple(answers[f"{name}/labels"].tolist()) != labels:
            raise ModelError(f"the exported model names {answers[f'{name}/labels'].tolist()}, expected {list(labels)}")
        difference = float(np.abs(found - row).max())
        # Not "difference > TOLERANCE": a nan must fail too.
        if not difference <= TOLERANCE:
            raise ModelError(f"the exported model differs by {difference:.3g} on {name} (allowed {TOLERANCE}); it was not kept")
        if not answers[f"{name}/ok"]:
            raise ModelError(f"the exported model cannot read {name}; it was not kept")
        said, meant = str(answers[f"{name}/label"]), labels[int(found.argmax())]
        if said != meant:
            raise ModelError(f"the exported model calls {name} {said}, but its probabilities say {meant}")
        largest = max(largest, difference)
    return largest
