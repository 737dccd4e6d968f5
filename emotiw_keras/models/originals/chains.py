"""The networks that are one chain: AlexNet in its three forms, VGG-CNN, and our own FaceVGG."""

from __future__ import annotations

import functools

from emotiw_keras.formats.foreign import Node
from emotiw_keras.models.originals import steps
from emotiw_keras.models.registry import FACE_VGG_EPSILON, FACE_VGG_LEVELS


def alexnet(name: str) -> tuple[Node, ...]:
    """The deploy.prototxt of BVLC's `bvlc_alexnet` ("alexnet") or `bvlc_reference_caffenet` ("caffenet")."""

    def norm_and_pool(number: str) -> list[steps.Step]:
        norm, pool = steps.lrn(f"norm{number}", 1e-4, 1.0), steps.max_pool(f"pool{number}", 3, 2)
        return pool + norm if name == "caffenet" else norm + pool

    return steps.sequence(
        steps.conv("conv1", stride=4),
        norm_and_pool("1"),
        steps.conv("conv2", pad=2, groups=2),
        norm_and_pool("2"),
        steps.conv("conv3", pad=1),
        steps.conv("conv4", pad=1, groups=2),
        steps.conv("conv5", pad=1, groups=2),
        steps.max_pool("pool5", 3, 2),
        steps.fc("fc6"),
        steps.fc("fc7"),
        steps.fc("fc8", relu=False),
    )


def alexnet_owt() -> tuple[Node, ...]:
    """torchvision's `models/alexnet.py`; at 224x224 its adaptive pooling changes nothing."""
    return steps.sequence(
        steps.conv("conv1", stride=4, pad=2),
        steps.max_pool("pool1", 3, 2, "floor"),
        steps.conv("conv2", pad=2),
        steps.max_pool("pool2", 3, 2, "floor"),
        steps.conv("conv3", pad=1),
        steps.conv("conv4", pad=1),
        steps.conv("conv5", pad=1),
        steps.max_pool("pool5", 3, 2, "floor"),
        steps.fc("fc6"),
        steps.fc("fc7"),
        steps.fc("fc8", relu=False),
    )


def vgg_cnn(name: str) -> tuple[Node, ...]:
    """The released deploy file of `name`; fc7's width is in its weights."""
    letter = name.removeprefix("vgg_cnn_")[0]
    conv, pool, norm = steps.conv, steps.max_pool, functools.partial(steps.lrn, alpha=5e-4, k=2.0)
    if letter == "f":
        start = [conv("conv1", stride=4), norm("norm1"), pool("pool1", 3, 2)]
        start += [conv("conv2", pad=2), norm("norm2"), pool("pool2", 3, 2)]
    elif letter == "m":
        start = [conv("conv1", stride=2), norm("norm1"), pool("pool1", 3, 2)]
        start += [conv("conv2", stride=2, pad=1), norm("norm2"), pool("pool2", 3, 2)]
    else:
        start = [conv("conv1", stride=2), norm("norm1"), pool("pool1", 3, 3), conv("conv2"), pool("pool2", 2, 2)]
    last = pool("pool5", 3, 3) if letter == "s" else pool("pool5", 3, 2)
    middle = [conv(f"conv{number}", pad=1) for number in (3, 4, 5)]
    return steps.sequence(*start, *middle, last, steps.fc("fc6"), steps.fc("fc7"), steps.fc("fc8", relu=False))


def face_vgg() -> tuple[Node, ...]:
    """FaceVGG in the terms of other frameworks, from the tensor "data" to the class scores, for weights trained in them."""
    chain: list[steps.Step] = []
    for level, (_, convolutions) in enumerate(FACE_VGG_LEVELS, 1):
        if level > 1:
            chain += steps.max_pool(f"pool{level - 1}", 2, 2, "floor")
        for number in range(1, convolutions + 1):
            chain += steps.normalised_conv(f"conv{level}_{number}", pad=1, epsilon=FACE_VGG_EPSILON)
    return steps.sequence(chain, [("global_mean", "avg_pool", {})], steps.fc("classifier", relu=False))
