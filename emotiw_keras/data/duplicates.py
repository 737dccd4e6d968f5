"""Images that are the same: two are if their decoded pixels are, whatever their files look like."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.data.near.groups import describe as near_lines
from emotiw_keras.talk import Notice, most

if TYPE_CHECKING:
    from emotiw_keras.data.faceset import FaceSet


def pixel_hash(image: np.ndarray) -> str:
    """An image's identity: BLAKE2b (16 bytes, hexadecimal) of its shape and decoded pixels.

    Args:
        image: uint8 0..255, (height, width, 1) grey or (height, width, 3) RGB; three equal channels count as grey.

    Returns:
        32 hexadecimal digits.
    """
    if image.shape[2] == 3 and (image == image[..., :1]).all():
        image = image[..., :1]
    digest = hashlib.blake2b(np.array(image.shape, "<u4").tobytes(), digest_size=16)
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def duplicate_groups(hashes: Sequence[str]) -> list[np.ndarray]:
    """Indices of images that share their pixels, one int64 array for each group of two or more; "" is no hash."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(hashes):
        if digest:
            groups[digest].append(i)
    return [np.array(group, np.int64) for group in groups.values() if len(group) > 1]


def conflicting_groups(hashes: Sequence[str], label: np.ndarray) -> list[np.ndarray]:
    """The duplicate groups whose images carry more than one label."""
    return [group for group in duplicate_groups(hashes) if len(set(label[group].tolist())) > 1]


def also_in(hashes: Sequence[str], split: np.ndarray, these: Iterable[str], others: Iterable[str]) -> np.ndarray:
    """Which images of the splits `these` also stand, pixel for pixel, in one of the splits `others`.

    Returns:
        bool (images,), false outside `these`.
    """
    of_these, of_others = set(these), set(others)
    pairs = list(zip(hashes, split.tolist(), strict=True))
    there = {digest for digest, name in pairs if digest and name in of_others}
    return np.array([name in of_these and digest in there for digest, name in pairs], bool)


def describe(faces: FaceSet) -> list[str]:
    """Lines on duplicates, conflicting labels and constant images, for a person to read."""
    groups = duplicate_groups(faces.pixel_hash)
    extra = sum(len(group) - 1 for group in groups)
    total = sum(bool(digest) for digest in faces.pixel_hash)
    if not groups:
        lines = [f"duplicates: none, {total:,} different images"]
    else:
        lines = [f"duplicates: {total - extra:,} different images of {total:,}, {extra:,} repeat another exactly"]
    equal: dict[tuple[str, str], int] = {}
    present = [name for name in ("train", "val", "test") if (faces.split == name).any()]
    for i, later in enumerate(present):
        for earlier in present[:i]:
            count = int(also_in(faces.pixel_hash, faces.split, [later], [earlier]).sum())
            if count:
                equal[later, earlier] = count
                lines.append(Notice(f"duplicates: {count:,} {later} images also stand in {earlier}"))
    lines += near_lines(faces, equal)
    conflicts = conflicting_groups(faces.pixel_hash, faces.label)
    if conflicts:
        example = conflicts[0]
        names = ", ".join(f"{faces.paths[i]} {faces.labels[faces.label[i]]}" for i in example[: most(3)])
        lines.append(Notice(f"conflicting labels: {len(conflicts):,} images carry more than one label ({names})"))
    constant = np.flatnonzero(faces.constant)
    if constant.size:
        told = constant[: most(5)]
        named = ", ".join(faces.paths[i] for i in told) + (" ..." if len(told) < len(constant) else "")
        lines.append(Notice(f"constant images (every pixel the same): {constant.size:,} ({named})"))
    return lines
