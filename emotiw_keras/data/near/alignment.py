"""Whether two images are one photograph: the correlation of their pixels once one is laid over the other.

A grid of scales and shifts on coarse pixels finds where to begin, and drops most pairs; the rest is aligned by an affine
transform that maximises the correlation (ECC; Evangelidis and Psarakis 2008).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from emotiw_keras.data.near.embedding import SIDE

HOPE, FROM_LIKENESS, SECOND_LOOK = 0.95, 0.3, 0.84
"""A pair is aligned if its coarse correlation and `FROM_LIKENESS` of its likeness reach `HOPE` together, and from the other
side too if that comes to `SECOND_LOOK` and yet decides nothing: of a small cut in a large one only one side is whole."""
SCALES = (0.76, 0.87, 1.0, 1.15, 1.32)
SHIFTS = (-8.0, -4.0, 0.0, 4.0, 8.0)
_WINDOW, _SAMPLES = 32, 12  # pixels a side of the centre that the coarse look compares, and samples of it
_CENTRE = 36  # pixels a side of the centre that is aligned
_MIDDLE = (SIDE - 1) / 2
_STOP = (3, 40, 1e-4)  # ECC: at most 40 steps, or one that gains less
# A face detector cuts one photograph like this at most; what needs more was bent until it fitted.
_SCALE, _STRETCH, _TURN, _SHIFT = (0.6, 1.67), 1.2, 0.2, 13.0


def _sampling(scale: float, shift: float) -> np.ndarray:
    """float32 (samples, SIDE): means over the samples of the window, scaled and shifted; what lies outside is the border."""
    rows, fine = np.zeros((_SAMPLES, SIDE), np.float32), 4
    for sample in range(_SAMPLES):
        for k in range(fine):
            at = _MIDDLE + shift + scale * ((sample + (k + 0.5) / fine) / _SAMPLES - 0.5) * _WINDOW
            at = min(max(at, 0.0), SIDE - 1.0)
            low = min(int(at), SIDE - 2)
            rows[sample, low] += (1 - (at - low)) / fine
            rows[sample, low + 1] += (at - low) / fine
    return rows


@cache
def _grid() -> list[np.ndarray]:
    return [np.concatenate([_sampling(scale, shift) for shift in SHIFTS]) for scale in SCALES]


def _unit(values: np.ndarray) -> np.ndarray:
    values = values - values.mean(axis=-1, keepdims=True)
    return values / (np.linalg.norm(values, axis=-1, keepdims=True) + 1e-3)


def coarse(
    images: np.ndarray, others: np.ndarray, first: np.ndarray, second: np.ndarray, mirrored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best correlation of each pair on the grid.

    Args:
        images, others: float32 (n, SIDE, SIDE).
        first: int (pairs,), where a pair's first image stands in `images`, ascending.
        second: int (pairs,), where its second stands in `others`.
        mirrored: bool (pairs,), whether the second is to be mirrored.

    Returns:
        float32 (pairs,) and int (pairs,), the point of the grid: scale, row shift, column shift.
    """
    plain, count = _sampling(1.0, 0.0), len(SHIFTS)
    sampled = plain @ others @ plain.T
    middle, turned = (_unit(each.reshape(len(others), -1)) for each in (sampled, sampled[:, :, ::-1]))
    cuts = [
        (grid @ images @ grid.T)
        .reshape(-1, count, _SAMPLES, count, _SAMPLES)
        .transpose(0, 1, 3, 2, 4)
        .reshape(len(images), count * count, -1)
        for grid in _grid()
    ]
    templates = _unit(np.concatenate(cuts, axis=1))
    value, point = np.empty(len(first), np.float32), np.empty(len(first), np.int64)
    edges = np.searchsorted(first, np.arange(len(images) + 1)).tolist()
    for i, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        if start == stop:
            continue
        wanted = second[start:stop]
        rows = np.where(mirrored[start:stop, None], turned[wanted], middle[wanted])
        alike = rows @ templates[i].T
        point[start:stop], value[start:stop] = alike.argmax(axis=1), alike.max(axis=1)
    return value, point


def hopeful(value: np.ndarray, likeness: np.ndarray) -> np.ndarray:
    """bool (pairs,), whether a pair is worth aligning, by its coarse correlation and its likeness."""
    return value + FROM_LIKENESS * likeness >= HOPE


def fine(image: np.ndarray, other: np.ndarray, point: int, enough: float) -> float:
    """The correlation of the centre of one with what it lies over in the other, once aligned.

    Args:
        image, other: float32 (SIDE, SIDE).
        point: of the grid, from `coarse`.
        enough: correlation that decides, so that it is not looked at from the other side.

    Returns:
        -1..1; 0 where no plausible alignment was found.
    """
    scale_at, rest = divmod(point, len(SHIFTS) ** 2)
    down, across = divmod(rest, len(SHIFTS))
    scale, shifts = SCALES[scale_at], (SHIFTS[down], SHIFTS[across])
    value = _aligned(image, other, scale, shifts)
    if SECOND_LOOK <= value < enough:
        value = max(value, _aligned(other, image, 1 / scale, (-shifts[0] / scale, -shifts[1] / scale)))
    return value


def _aligned(image: np.ndarray, other: np.ndarray, scale: float, shifts: tuple[float, float]) -> float:
    import cv2

    half = (_CENTRE - 1) / 2
    margin = (SIDE - _CENTRE) // 2
    centre = np.ascontiguousarray(other[margin : margin + _CENTRE, margin : margin + _CENTRE])
    start = np.array(
        [[scale, 0, _MIDDLE + shifts[1] - scale * half], [0, scale, _MIDDLE + shifts[0] - scale * half]], np.float32
    )
    try:
        value, warp = cv2.findTransformECC(centre, image, start, cv2.MOTION_AFFINE, _STOP, None, 3)
    except cv2.error:  # it says so where the alignment does not converge
        return 0.0
    return float(value) if _plausible(warp) else 0.0


def _plausible(warp: np.ndarray) -> bool:
    """Whether a transform may be another cut of the same photograph, and most of the centre lies on the image."""
    linear = warp[:, :2].astype(np.float64)
    determinant = float(np.linalg.det(linear))
    if determinant <= 0:
        return False
    large, small = np.linalg.svd(linear, compute_uv=False)
    turn = abs(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))
    moved = linear @ np.full(2, (_CENTRE - 1) / 2) + warp[:, 2] - _MIDDLE
    inside = _SCALE[0] <= determinant**0.5 <= _SCALE[1] and np.abs(moved).max() <= _SHIFT
    return bool(inside and large / small <= _STRETCH and turn <= _TURN)
