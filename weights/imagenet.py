"""The 1000 classes of ILSVRC-2012, in the order of the outputs of networks trained on them."""

from __future__ import annotations

import functools
from pathlib import Path

CLASSES = Path(__file__).with_name("imagenet1000.txt")


@functools.cache
def _rows() -> tuple[tuple[str, str], ...]:
    lines = CLASSES.read_text(encoding="utf-8").splitlines()
    rows = (line.partition(" ") for line in lines if not line.startswith("#"))
    return tuple((synset, name) for synset, _, name in rows)


def imagenet_classes() -> tuple[str, ...]:
    """Names of the 1000 classes: first lemmas of WordNet 3.0, all different, sorted by synset id.

    Source: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015; WordNet 3.0.

    Example:
        >>> imagenet_classes()[285]
        'Egyptian cat'
    """
    return tuple(name for _, name in _rows())


def imagenet_synsets() -> tuple[str, ...]:
    """WordNet ids of the same classes, by which files with their classes in another order can be matched.

    Example:
        >>> imagenet_synsets()[285]
        'n02124075'
    """
    return tuple(synset for synset, _ in _rows())
