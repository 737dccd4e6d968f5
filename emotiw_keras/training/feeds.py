"""What the steps of a stage are fed with: the batches of an epoch, and those of validation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from emotiw_keras.data.batches import Share, Source, batches
from emotiw_keras.data.face_input import draw_crops
from emotiw_keras.training.epoch_plan import StageCrops
from emotiw_keras.training.features import Features
from emotiw_keras.training.head_labels import drawn_classes
from emotiw_keras.training.own_data import Batches
from emotiw_keras.training.stage import Stage

VALIDATION_BATCH = 128
Trained = Source | Batches
"""What a stage trains on: items known by their number, or batches as they come."""


def steps_in_epoch(source: Trained, stage: Stage) -> int:
    """How many updates an epoch has."""
    return source.steps if isinstance(source, Batches) else math.ceil(len(source) / stage.batch_size)


def label_spec(source: Trained) -> tf.TensorSpec:
    """What a batch's labels are."""
    return source.label_spec if hasattr(source, "label_spec") else tf.TensorSpec((None,), tf.int32)


def epoch_batches(
    train: Trained, stage: Stage, crops: StageCrops, epoch: int, start: int, share: Share | None = None
) -> Iterator[tuple[tf.Tensor, Any, tf.Tensor]]:
    """The batches of an epoch: what the source holds, what happens to each image (see `StageCrops`), labels.

    Args:
        train: the source.
        stage: its batch size, crops and changes count.
        crops: of the stage.
        epoch: from 0; order and crops are drawn for it.
        start: batches to leave out, of a source that can be entered anywhere.
        share: the positions in a batch of the images that this process computes; its labels come all.
    """
    if isinstance(train, Batches):
        for number, (images, labels) in enumerate(train):
            seed = (*crops.seed, epoch, 1, number)
            drawn = draw_crops(len(images), crops.room, mirror=stage.mirror, seed=seed)
            if not stage.random_crop:
                drawn[:, :2] = crops.room // 2
            drawn = crops.augmented(drawn, (*crops.seed, epoch, 4, number)) if stage.augmented else drawn
            if share is not None:
                mine = share(np.arange(len(images)))
                images, drawn = tf.gather(images, mine), drawn[mine]
            yield images, drawn, labels
        return
    taken = None
    if isinstance(train, Features):
        train.choose(crops.chosen(epoch))
    else:
        taken = crops.draws_of_epoch(epoch)
    columns = getattr(train, "drawn", None)
    labels = None if columns is None else drawn_classes(train.labels, columns, (*crops.seed, epoch, 5))
    yield from batches(train, crops.order(epoch, train.labels), taken, stage.batch_size, start, share, labels)


def validation_batches(
    source: Trained, share: Share | None = None, size: int = VALIDATION_BATCH
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Images and labels of a source in its own order, `size` at once; the batches are the same whatever was done before. With
    `share` the images that this process computes, and all labels."""
    if isinstance(source, Batches):
        for images, labels in source:
            yield images if share is None else tf.gather(images, share(np.arange(len(images)))), labels
    else:
        for images, _, labels in batches(source, np.arange(len(source)), None, size, share=share):
            yield images, labels
