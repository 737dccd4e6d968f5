"""A run as one ONNX or TFLite file for runtimes without TensorFlow, kept only if such a runtime gives the same answers."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.files import atomic_path, writing
from emotiw_keras.heads import heads_of
from emotiw_keras.serving.export import (
    TOLERANCE,
    ExportReport,
    facts_of,
    refuse_existing,
    run_fresh,
    sample_faces,
    side_answers,
)

if TYPE_CHECKING:
    from emotiw_keras.runs import Run
    from emotiw_keras.serving.folding import Folded
    from emotiw_keras.serving.predictor import Predictor

# Both formats address their bytes with 31 bits; the rest of a file is far below a mebibyte.
MOST_BYTES = 2**31 - 2**20


@dataclass(frozen=True)
class _Format:
    """Its name for people, packages that it needs beyond ours, what writes it, and the script that answers with its runtime."""

    name: str
    packages: tuple[str, ...]
    write: Callable[[Folded, dict[str, Any], Path], None]
    answers: str


def export_onnx(run: Run | str | os.PathLike[str], out: str | os.PathLike[str]) -> ExportReport:
    """Write a run as an ONNX model to the new file `out`.

    It takes `pixels`, uint8 (batch, side, side, channels): faces that are cut out, grey (1 channel) or RGB (3) as the run was
    trained, and resized to the run's side, which is what `Predictor.prepare` does. It gives `probabilities`, float32 (batch,
    classes); of several heads those of the chosen one, and `probabilities_NAME` of each. Stretch, centre crop, mean and
    deviation are inside. The metadata's `emotiw` is a JSON object with labels, heads, input and preprocessing.

    Args:
        run: a finished run, or the path of its folder.
        out: a file that does not exist yet.

    Raises:
        ModelError: onnx or onnxruntime is not installed; the network has a layer without an ONNX form or is over 2 GB; the
            reloaded model answers otherwise by more than 1e-5. Nothing is left behind.
        OutputError: `out` exists or cannot be written.
        RunError: `run` is no finished run folder.

    Example:
        >>> export_onnx("runs/first", "face.onnx").takes                       # doctest: +SKIP
        'uint8 (batch, 256, 256, 1), grey'
    """
    return _export(run, out, _Format("ONNX", ("onnx", "onnxruntime"), _write_onnx, "onnx_answers.py"))


def export_tflite(run: Run | str | os.PathLike[str], out: str | os.PathLike[str]) -> ExportReport:
    """Write a run as a TFLite model to the new file `out`.

    Input, output, arguments and errors as for `export_onnx`; it needs no further package. A ZIP archive with emotiw.json and
    labels.txt is appended to the model, where TFLite keeps such files: `unzip face.tflite` reads them.

    Example:
        >>> export_tflite("runs/first", "face.tflite").compared                # doctest: +SKIP
        6
    """
    return _export(run, out, _Format("TFLite", (), _write_tflite, "tflite_answers.py"))


def _export(run: Run | str | os.PathLike[str], out: str | os.PathLike[str], form: _Format) -> ExportReport:
    missing = [package for package in form.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ModelError(f"exporting to {form.name} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    target = refuse_existing(out)

    from emotiw_keras.serving.folding import fold
    from emotiw_keras.serving.predictor import Predictor

    # One crop: the folded graph cuts the centre out once.
    predictor = Predictor(run, crops=1, engine="tensorflow")
    size = sum(4 * int(np.prod(variable.shape)) for variable in predictor.net.weights)
    if size > MOST_BYTES:
        raise ModelError(f"the weights have {size / 1e9:.1f} GB, a file of {form.name} holds 2; export a savedmodel instead")
    facts = {**facts_of(predictor), "input": _input_facts(predictor)}
    folded = fold(predictor.run.build_heads() if predictor.run.heads else predictor.net, predictor.face_input)
    with atomic_path(target, new=True) as temporary:
        form.write(folded, facts, temporary)
        difference = _compare(predictor, temporary, form.answers)
        megabytes = temporary.stat().st_size / 1e6
    takes = f"uint8 (batch, {predictor.side}, {predictor.side}, {predictor.channels}), {facts['input']['colour']}"
    if predictor.run.crops != 1:
        takes += f", and computes the centre crop alone, where the run averages over {predictor.run.crops} crops"
    return ExportReport(target, megabytes, predictor.labels, len(_faces(predictor)), difference, takes)


def _input_facts(predictor: Predictor) -> dict[str, Any]:
    """What the caller must give."""
    grey = predictor.channels == 1
    luma = "make it grey by (19595 R + 38470 G + 7471 B + 32768) >> 16, " if grey else ""
    return {
        "name": "pixels",
        "type": "uint8",
        "shape": ["batch", predictor.side, predictor.side, predictor.channels],
        "colour": "grey" if grey else "RGB",
        "prepare": f"cut the face out, {luma}resize it to {predictor.side}x{predictor.side} (bilinear, half-pixel centres, "
        "antialiased when shrinking, first rows, then columns, each rounded half to even; Pillow's are within 2); "
        "0..255; all that follows is inside",
    }


def _columns(facts: dict[str, Any]) -> dict[str, slice]:
    """Outputs by name: the answers, and of several heads those of each beside the chosen one's."""
    heads = heads_of(facts)
    if not heads:
        return {"probabilities": slice(0, len(facts["labels"]))}
    chosen = next(head.columns for head in heads if head.name == facts["head"])
    return {"probabilities": chosen, **{f"probabilities_{head.name}": head.columns for head in heads}}


def _write_onnx(folded: Folded, facts: dict[str, Any], path: Path) -> None:
    import onnx

    from emotiw_keras.formats.foreign import FACTS
    from emotiw_keras.serving.exported import SEAL, seal
    from emotiw_keras.serving.onnx_graph import onnx_model

    model = onnx_model(folded, _columns(facts), {})
    sealed = {**facts, SEAL: seal(model.graph.SerializeToString(), facts)}
    onnx.helper.set_model_props(model, {FACTS: json.dumps(sealed)})
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)


def _write_tflite(folded: Folded, facts: dict[str, Any], path: Path) -> None:
    from emotiw_keras.serving.tflite_graph import tflite_model

    path.write_bytes(tflite_model(folded, _columns(facts) if "heads" in facts else None))
    with zipfile.ZipFile(path, "a") as archive:
        # ZipInfo without a time: the same run gives the same bytes.
        archive.writestr(zipfile.ZipInfo("emotiw.json"), json.dumps(facts, indent=2) + "\n")
        archive.writestr(zipfile.ZipInfo("labels.txt"), "".join(f"{label}\n" for label in facts["labels"]))


def _faces(predictor: Predictor) -> np.ndarray:
    return np.stack([predictor.prepare(face) for face in sample_faces()[1]])


def _compare(predictor: Predictor, model: Path, answers: str) -> float:
    """The largest difference of a probability between the file in a fresh process and the predictor.

    Raises:
        ModelError: it does not run, names other labels, or differs by more than 1e-5.
    """
    faces = _faces(predictor)
    expected = predictor.classify(list(faces))
    sides = side_answers(predictor, lambda each: each.classify(list(faces)))
    with tempfile.TemporaryDirectory() as scratch:
        source, result = Path(scratch) / "faces.npy", Path(scratch) / "outputs.npz"
        with writing(source):
            np.save(source, faces)
        run_fresh(answers, model, source, result)
        with np.load(result, allow_pickle=False) as found:
            labels = json.loads(str(found["facts"]))["labels"]
            batch, single = found["batch"], found["single"]
            others = {key: found[key] for key in found.files if key.startswith("probabilities_")}
    if labels != list(predictor.labels) or not batch.shape == single.shape == expected.shape:
        raise ModelError(f"the exported model gives {batch.shape} of {labels}, expected {expected.shape}")
    difference = float(max(np.abs(batch - expected).max(), np.abs(single - expected).max()))
    for name, answers_of in sides.items():
        same = name in others and others[name].shape == answers_of.shape
        difference = max(difference, float(np.abs(others[name] - answers_of).max())) if same else np.inf
    # Not "difference > TOLERANCE": a nan must fail too.
    if not difference <= TOLERANCE:
        raise ModelError(f"the exported model differs by {difference:.3g} (allowed {TOLERANCE}); it was not kept")
    return difference
