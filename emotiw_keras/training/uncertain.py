"""Which answers of a finished run are too unsure, by images that trained nothing: what `uncertainty.json` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from emotiw_keras.data.batches import Pool
from emotiw_keras.data.columns import pick
from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.data.preprocessing_settings import crop_places
from emotiw_keras.heads import heads_of
from emotiw_keras.models import registry
from emotiw_keras.models.parts import computing_in, empty_networks
from emotiw_keras.out_of_fold import FOLDS
from emotiw_keras.runs import Run
from emotiw_keras.text import number_of
from emotiw_keras.training.class_weights import classes_of
from emotiw_keras.training.feeds import VALIDATION_BATCH, Trained
from emotiw_keras.training.losses import gives_logits
from emotiw_keras.training.own_data import Arrays, Batches, are_faces
from emotiw_keras.training.stage import Stage, split_reference
from emotiw_keras.training.surroundings import Surroundings
from emotiw_keras.uncertainty import Usable, usable, usable_json

CHOSEN_ON = "val"
Answers = dict[str, tuple[np.ndarray, np.ndarray]]
"""By head, "" for the only answer of a network: the classes of images, int (n,), and probabilities, float (n, classes)."""


def validation_answers(run: Surroundings, stage: Stage, val: Trained | None) -> Answers:
    """What the network says, as `predict` computes it, of the validation images of the stage that is kept.

    Images that trained the run or what it came from, and those of a test set, are left out. Nothing where there are no faces,
    or fewer than two for each class, as for `pack`.
    """
    if val is None or isinstance(val, Batches) or run.info["preprocessing"] is None or not are_faces(val.shape, val.dtype):
        return {}
    taken = _new(run, stage, val)
    if not len(taken):
        return {}
    outputs = _outputs(run, val, taken)
    heads = heads_of(run.info)
    labels = val.labels[taken]
    found: Answers = {}
    for head in heads:
        columns = labels[:, head.columns]
        there = columns.any(axis=1)
        found[head.name] = columns[there].argmax(axis=1), outputs[head.name][there]
    if not heads:
        found[""] = classes_of(labels), outputs[""]
    return enough(found)


def settled(answers: Answers, chosen_on: str, info: Mapping[str, Any], say: Callable[[str], None]) -> str | None:
    """The content of `uncertainty.json` by these answers, None if those of the run's own choice are lacking; a line says what.

    Args:
        answers: from `validation_answers`, or what the folds said of images that they were not given.
        chosen_on: `CHOSEN_ON` or `out_of_fold.FOLDS`, of which images.
        info: run.json's content.
        say: takes the line.
    """
    own = info.get("head", "")  # "" of a network with one answer
    limits = {name: usable(*each, info["weights"]["sha256"], chosen_on) for name, each in answers.items()}
    if own not in limits:
        takes = "two validation images for each class, in files or arrays of bytes, that trained nothing and are of no test set"
        if info["preprocessing"] is None:
            takes = "faces as bytes, uint8, and this network was trained on numbers"
        elif not info["model"].get("given"):  # which no command can make again
            takes += "; `emotiw pack` settles it on others"
        say(f"no answer will be called uncertain: that takes {takes}")
        return None
    for name, limit in limits.items():
        say(f"{f'head {name}: ' if name else ''}{_told(limit)}")
    return usable_json(limits.pop(own), limits)


def enough(answers: Answers) -> Answers:
    """Those of two images for each class, or more, as for `pack`."""
    return {name: each for name, each in answers.items() if len(each[0]) >= 2 * each[1].shape[1]}


def _told(limit: Usable) -> str:
    images = number_of(limit.images, "validation images" if limit.chosen_on == CHOSEN_ON else f"images of its {FOLDS}")
    if not limit.coverage:
        return f"all answers will be called uncertain: of {images} not even the surest are right often enough"
    return (
        f"answers with an entropy above {limit.entropy:.3f} will be called uncertain; by {images} "
        f"{limit.coverage:.1%} are usable, of which {limit.accuracy_usable:.1%} are right"
    )


def _new(run: Surroundings, stage: Stage, val: Trained) -> np.ndarray:
    """Positions of the validation images that trained nothing and belong to no test set."""
    assert not isinstance(val, Batches)
    info = {**run.info, "finished": True}
    trained = {row["pixel_hash"] for row in Run(run.run_dir, info).each_row_as_trained() if row["status"] == "train"}
    if isinstance(val, Pool):
        hashes = [digest for faces, index in val.parts for digest in pick(faces.pixel_hash, index)]
        held = np.concatenate([faces.split[index] == CHOSEN_ON for faces, index in val.parts])
    else:
        assert isinstance(val, Arrays)
        hashes = val.identities()
        held = np.full(len(val), all(split_reference(name, "val")[1] == CHOSEN_ON for name in stage.val))
    return np.flatnonzero(held & np.array([digest not in trained for digest in hashes]))


def _outputs(run: Surroundings, val: Trained, taken: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities in float32 by head, the mean over the crops that the run averages over."""
    assert not isinstance(val, Batches)
    # a network that takes faces as they are has none in training
    face_input = run.face_input or FaceInput.from_settings(run.info["preprocessing"], run.run_dir)
    net, heads = _in_float32(run), heads_of(run.info)
    logits = gives_logits(net)
    columns = {head.name: head.columns for head in heads} or {"": slice(None)}
    places = crop_places(face_input.room, run.info.get("crops", 1))
    said: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for start in range(0, len(taken), VALIDATION_BATCH):
        faces = val.gather(taken[start : start + VALIDATION_BATCH])
        each = [np.asarray(net(face_input(faces, np.tile(place, (len(faces), 1))), training=False)) for place in places]
        for name, part in columns.items():
            rows = [_softmax(outputs[:, part]) if logits else outputs[:, part].astype(np.float64) for outputs in each]
            said[name].append(np.mean(rows, axis=0))
    return {name: np.concatenate(rows) for name, rows in said.items()}


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _in_float32(run: Surroundings) -> keras.Model:
    """The network, or where it computes in fewer bits another one with its weights, as evaluation has it."""
    model, shape = run.model, run.info["model"]
    if model.dtype_policy.name == "float32" or shape.get("given"):
        return model
    with computing_in("float32"), empty_networks():
        net = registry.build_described(shape, classifier_activation=None)
    net.set_weights(model.get_weights())
    return net
