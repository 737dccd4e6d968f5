"""Conversions proved by images of a known class, which also settle what a file of bare arrays leaves open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.conversion.record import Conversion, RowOrder
from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.models.preprocessing import IMAGENET_CLASSES, preprocessing
from emotiw_keras.models.registry import ModelSpec, get_spec
from emotiw_keras.weights.imagenet import imagenet_classes, imagenet_synsets

if TYPE_CHECKING:
    import keras

_OTHER: dict[RowOrder, RowOrder] = {"chw": "hwc", "hwc": "chw"}


@dataclass(frozen=True, eq=False)
class Check:
    """An image and what is on it.

    Attributes:
        name: of the image, for the report.
        pixels: uint8 0..255 (height, width, 3) RGB, or (height, width, 1).
        wanted: the number of a class, from 0, or for ImageNet's classes a synset or words of its name.
    """

    name: str
    pixels: np.ndarray
    wanted: str


@dataclass(frozen=True)
class Answer:
    """What a network says of an image: `name` is the likeliest class, `score` its share of 1."""

    check: Check
    name: str
    score: float
    right: bool

    def __str__(self) -> str:
        return f"{self.check.name} is {self.name} ({self.score:.2f})"


def convert_checked(name: str, source: Any, checks: Sequence[Check], **settings: Any) -> tuple[keras.Model, Conversion]:
    """`convert`, and the likeliest class of every image is the one said.

    Where the file leaves the order of the first fully connected layer's rows open (`Conversion.rows`), both are tried; the one
    that gives the classes is taken, the usual one where both do. Arguments, result and errors as for `convert`.

    Raises:
        ModelError: the network says something else of an image, or has no classifier.
    """
    from emotiw_keras.conversion.convert import convert

    model, conversion = convert(name, source, **settings)
    if not checks:
        return model, conversion
    found = answers(model, conversion, checks)
    right = all(answer.right for answer in found)
    said = "; ".join(map(str, found))
    file = conversion.foreign.path.name
    if conversion.rows is None:
        if not right:
            raise ModelError(
                f"{conversion.foreign.path.name} as {name}: {said}, expected {_wanted(checks)}; nothing was written"
            )
        conversion.checked.append(f"checked: {said}")
        return model, conversion
    other = convert(name, source, rows=_OTHER[conversion.rows], **settings)
    others = answers(*other, checks)
    if all(answer.right for answer in others):
        if right:
            conversion.checked.append(f"checked: {said}, with both orders of the rows; give images that tell them apart")
            return model, conversion
        other[1].checked.append(f"checked, with this order of the rows alone: {'; '.join(map(str, others))}")
        return other
    if not right:
        raise ModelError(
            f"{file} as {name}: {said}, with the rows of the first fully connected layer in the other "
            f"order {'; '.join(map(str, others))}; expected {_wanted(checks)}; nothing was written"
        )
    conversion.checked.append(f"checked, with this order of the rows alone: {said}")
    return model, conversion


def _wanted(checks: Sequence[Check]) -> str:
    return "; ".join(f"{check.name} {check.wanted}" for check in checks)


def answers(model: keras.Model, conversion: Conversion, checks: Sequence[Check]) -> list[Answer]:
    """What a converted network, which returns logits, says of the images."""
    import keras

    file = conversion.foreign.path.name
    if conversion.classes is None:
        raise ModelError(f"{file} gives no classes, its trunk alone is converted; leave out --check")
    spec = get_spec(conversion.name)
    height, width, channels = model.input_shape[1:]
    if channels != 3:
        raise ModelError(f"{file} takes images of {channels} channel; --check needs a network of colour images")
    names, synsets = _labels(conversion, spec)
    found = []
    for check in checks:
        image = preprocessing(spec.name)(_cropped(check.pixels, spec, height, width))
        scores = keras.ops.convert_to_numpy(model(image[None], training=False)).reshape(-1).astype(np.float64)
        powers = np.exp(scores - scores.max())
        best = int(scores.argmax())
        label = names[best] if names else f"class {best}"
        right = _says(check.wanted, best, names, synsets, file)
        found.append(Answer(check, label, float(powers[best] / powers.sum()), right))
    return found


def _labels(conversion: Conversion, spec: ModelSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and synsets of the outputs in their order, as far as they are known."""
    stored = conversion.foreign.classes
    if stored is not None and stored != imagenet_synsets() and not conversion.reordered:
        return stored, ()
    if conversion.classes == IMAGENET_CLASSES and spec.trained_on == "imagenet":
        return imagenet_classes(), imagenet_synsets()
    return (), ()


def _says(wanted: str, best: int, names: tuple[str, ...], synsets: tuple[str, ...], file: str) -> bool:
    if wanted.isdecimal():
        return int(wanted) == best
    if wanted in synsets:
        return synsets[best] == wanted
    if not any(_in_name(wanted, name) for name in names):
        known = (
            "no class of ImageNet" if synsets else f"not known: {file} does not name its classes" if not names else "not there"
        )
        raise UsageError(f"--check: the class {wanted!r} is {known}; give the number of the class, from 0")
    return _in_name(wanted, names[best])


def _in_name(words: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(words)}\b", name, re.IGNORECASE) is not None


def _cropped(pixels: np.ndarray, spec: ModelSpec, height: int, width: int) -> np.ndarray:
    """The middle of an image, as the network is evaluated: uint8 RGB (height, width, 3)."""
    import cv2

    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    scale = max(height / pixels.shape[0], width / pixels.shape[1]) * spec.resize / spec.input_size
    size = [max(side, round(scale * length)) for side, length in zip((height, width), pixels.shape[:2], strict=True)]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, (size[1], size[0]), interpolation=way)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return resized[top : top + height, left : left + width]
