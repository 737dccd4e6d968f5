"""What the images of a pool teach to each head of a network: their own labels, and votes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from emotiw_keras.data.batches import Pool
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.votes import VOTED, entropy, labels_of
from emotiw_keras.errors import DataError
from emotiw_keras.heads import Head
from emotiw_keras.text import number_of
from emotiw_keras.training.class_weights import class_weights
from emotiw_keras.training.stage import Stage


def head_labels(pool: Pool, heads: Sequence[Head], stage: Stage, training: bool = True) -> np.ndarray:
    """Labels of a pool for all heads side by side: float32 (images, columns of all heads).

    A head that an image has no label for has zeros. Own labels go to the head with just the set's classes, votes to the one
    with `ferplus8`'s; an image that has both for one head has its votes.

    Args:
        pool: the images.
        heads: of the network.
        stage: how votes become labels (`votes`), what a face that raters disagree about counts (`entropy_weight`), and what a
            rare class does (`class_weight`). Validation takes the majority of the votes, and each face counts alike.
        training: whether it is the pool that the stage trains on.
    """
    rows = np.zeros((len(pool), sum(len(head.labels) for head in heads)), np.float32)
    own = own_head(pool.parts, heads)
    if own is not None:
        rows[np.arange(len(pool)), own.start + pool.labels] = 1
    votes = np.concatenate([_votes(faces, index) for faces, index in pool.parts])
    shares = labels_of(votes, stage.votes if training else "majority")
    there = np.flatnonzero(shares.any(axis=1))
    for head in heads:
        if head.labels == VOTED:
            rows[there, head.columns] = shares[there]
    if not training:
        return rows
    if stage.class_weight != "none":
        for head in heads:
            part = rows[:, head.columns]
            taught = part.any(axis=1)
            classes = part[taught].argmax(axis=1)
            part[taught] *= class_weights(classes, len(head.labels), stage.class_weight)[classes, None]
    if stage.entropy_weight:
        voted = np.flatnonzero(votes.any(axis=1))
        counted = votes[voted, : len(VOTED)].astype(np.float64)
        disagreement = entropy(counted / np.maximum(counted.sum(axis=1, keepdims=True), 1))
        rows[voted] *= (1 - stage.entropy_weight * disagreement)[:, None].astype(np.float32)
    return rows


def _votes(faces: FaceSet, index: np.ndarray) -> np.ndarray:
    return np.zeros((len(index), len(VOTED) + 2), np.int32) if faces.votes is None else faces.votes[index]


def own_head(parts: Sequence[tuple[FaceSet, np.ndarray]], heads: Sequence[Head]) -> Head | None:
    """The head that the sets' own labels go to: the one with their classes in their order, if there is one."""
    classes = parts[0][0].labels
    return next((head for head in heads if head.labels == tuple(classes)), None)


def drawn_classes(labels: np.ndarray, columns: slice, seed: tuple[int, ...]) -> np.ndarray:
    """Labels with one class of a head in place of its shares, drawn by them for each image: the "probabilistic" mode."""
    shares = labels[:, columns]
    weight = shares.sum(axis=1)
    sums = np.cumsum(shares, axis=1)
    at = np.random.Generator(np.random.PCG64(seed)).random(len(labels), np.float32)[:, None] * weight[:, None]
    place = np.minimum((sums <= at).sum(axis=1), shares.shape[1] - 1)
    place = np.where(shares[np.arange(len(labels)), place] > 0, place, shares.argmax(axis=1))  # a sum's rounding
    drawn = labels.copy()
    drawn[:, columns] = 0
    drawn[np.arange(len(labels)), columns.start + place] = weight
    return drawn


def check_taught(stage: Stage, rows: np.ndarray, heads: Sequence[Head], what: str, say: Callable[[str], None]) -> None:
    """Say how many images each head has; DataError where a head has none to learn from."""
    counts = {head.name: int(rows[:, head.columns].any(axis=1).sum()) for head in heads}
    say(
        f"stage {stage.name}: {what}: "
        + ", ".join(f"{number_of(count, 'images')} for head {head}" for head, count in counts.items())
    )
    for head in heads:
        if counts[head.name]:
            continue
        source = (stage.train if what == "training" else stage.val)[0].partition(":")[0]
        way = f"the classes {', '.join(head.labels)}"
        if head.labels == VOTED:
            way = f"votes (--set source.{source}.votes=fer2013new.csv)"
        raise DataError(f"{stage.where} has no {what} image with labels for head {head.name!r}; expected a set with {way}")


def weights_of(stage: Stage, heads: Sequence[Head]) -> Mapping[str, float]:
    """What each head counts in the loss, and in what chooses the epoch."""
    return {head.name: dict(stage.head_weights).get(head.name, 1.0) for head in heads}
