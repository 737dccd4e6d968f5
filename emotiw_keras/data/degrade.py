"""What cameras and files do to a face, on the device: little light, blur, noise, JPEG; see `augment.Augment`.

All take and return float32 (batch, side, side, channels) in grey levels 0..255, with one strength an image, float32 (batch,).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from keras import ops

NOISE_VALUES = 1 << 20
"""Values of the bank of noise: an image takes as many as it has, from a place drawn for it on."""
WORST_QUALITY, UNTOUCHED = 1, 100
# ITU-T T.81, tables K.1 and K.2: what libjpeg scales by the quality.
LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
], np.float32).reshape(8, 8)  # fmt: skip
CHROMINANCE = np.full((8, 8), 99, np.float32)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# libjpeg's whole numbers. Of JFIF 1.02, in steps of 2^-16: RGB -> Y, Cb - 128, Cr - 128, and of the last two what they add to
# RGB; rows of the result.
YCC = np.array([[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]], np.float32)
RGB = np.array([[0, 91881], [-22554, -46802], [116130, 0]], np.float32)
# Of the cosine transform of eight values, in steps of 2^-13 (jfdctint.c): rows are frequencies, columns the first four places.
COSINES = np.array([
    8192, 8192, 8192, 8192, 11363, 9633, 6437, 2260, 10703, 4433, -4433, -10703, 9633, -2259, -11362, -6436,
    8192, -8192, -8192, 8192, 6437, -11362, 2261, 9633, 4433, -10704, 10704, -4433, 2260, -6436, 9633, -11363,
], np.float32).reshape(8, 4)  # fmt: skip
COSINES = np.concatenate([COSINES, COSINES[:, ::-1] * (-1) ** np.arange(8)[:, None]], axis=1, dtype=np.float32)


def _each(values: Any) -> Any:
    """One value an image, to go with its pixels."""
    return ops.reshape(values, (-1, 1, 1, 1))


def darkened(faces: Any, share: Any) -> Any:
    """Take away a share s of the light, 0..1: x of 255 becomes 255 (1 - s) (x / 255)^(1 + s)."""
    share = _each(share)
    return 255.0 * (1.0 - share) * ops.power(ops.clip(faces, 0.0, 255.0) / 255.0, 1.0 + share)


def blurred(faces: Any, sigma: Any, largest: float) -> Any:
    """Blur by a Gaussian as OpenCV's `GaussianBlur` does: a kernel of 6 sigma + 1 pixels, mirrored at the border's pixel.

    Args:
        faces: see above.
        sigma: of each image, in pixels; 0 leaves it sharp.
        largest: the largest sigma there may be.
    """
    shifts = ops.convert_to_tensor(_shifts(faces.shape[1], math.floor(3 * largest + 0.75)))
    reach = ops.arange(shifts.shape[0], dtype="float32")
    sigma = ops.reshape(sigma, (-1, 1))
    weights = ops.exp(-ops.square(reach / ops.maximum(sigma, 1e-3)) / 2)
    weights = ops.where(reach <= ops.floor(ops.floor(6 * sigma + 1.5) / 2), weights, 0.0)
    weights = weights / (2 * ops.sum(weights, axis=1, keepdims=True) - weights[:, :1])
    matrices = ops.einsum("bk,kij->bij", weights, shifts)
    return ops.einsum("brwc,bkw->brkc", ops.einsum("brh,bhwc->brwc", matrices, faces), matrices)


@functools.lru_cache(maxsize=8)
def _shifts(side: int, reach: int) -> np.ndarray:
    """For each distance 0..reach, the matrix that adds the pixels so far off on both sides: float32 (reach + 1, side, side)."""
    period = max(1, 2 * (side - 1))
    rows, found = np.arange(side), np.zeros((reach + 1, side, side), np.float32)
    for distance in range(reach + 1):
        for offset in {distance, -distance}:
            place = (rows + offset) % period
            np.add.at(found[distance], (rows, np.minimum(place, period - place) if side > 1 else 0 * rows), 1)
    return found


@functools.cache
def _noise_bank() -> np.ndarray:
    return np.random.Generator(np.random.PCG64(20_13)).standard_normal(NOISE_VALUES, np.float32)


def noisy(faces: Any, sigma: Any, place: Any) -> Any:
    """Add Gaussian noise; the same on every backend.

    Args:
        faces: see above.
        sigma: of each image, in grey levels.
        place: where in the bank of noise each image begins, whole numbers below `NOISE_VALUES`.
    """
    height, width, channels = faces.shape[1:]
    values = ops.arange(height * width * channels, dtype="int32")
    chosen = (ops.reshape(ops.cast(place, "int32"), (-1, 1)) + values) % NOISE_VALUES
    noise = ops.take(ops.convert_to_tensor(_noise_bank()), chosen, axis=0)
    return faces + _each(sigma) * ops.reshape(noise, (-1, height, width, channels))


def _shifted(sums: Any, bits: int) -> Any:
    """Whole numbers divided by 2^bits; halves go up."""
    return ops.floor((sums + 2.0 ** (bits - 1)) / 2.0**bits)


def compressed(faces: Any, quality: Any) -> Any:
    """What JPEG leaves of faces: 8 x 8 cosine transforms, quantised by libjpeg's tables, colour at half the size (4:2:0).

    Args:
        faces: whole grey levels, one channel or RGB.
        quality: of each image, 1..100.

    Returns:
        Whole grey levels, those of libjpeg: all sums are of its whole numbers, which float32 holds but for some of the largest.
    """
    quality = ops.reshape(quality, (-1, 1, 1))
    # a half more, which changes no quotient of whole numbers, for divisions that are not right to the last digit, as XLA's
    scale = ops.where(quality < 50, ops.floor(5000.5 / ops.maximum(quality, 1.0)), 200.0 - 2.0 * quality)
    luma, chroma = (
        ops.clip(ops.floor((ops.convert_to_tensor(table) * scale + 50.5) / 100.0), 1.0, 255.0)
        for table in (LUMINANCE, CHROMINANCE)
    )
    if faces.shape[-1] == 1:
        return _quantised(faces[..., 0] - 128.0, luma)[..., None] + 128.0
    side = faces.shape[1]
    rows, columns, double = (ops.convert_to_tensor(matrix) for matrix in _halves_and_double(side))
    # libjpeg rounds in turns up and down here, and of Cb and Cr halves go down
    down = ops.convert_to_tensor(np.resize([0.25, 0.5], columns.shape[0]).astype(np.float32))
    up = ops.convert_to_tensor(np.resize([8 / 16, 7 / 16], side).astype(np.float32))
    planes = ops.matmul(faces, ops.convert_to_tensor(YCC.T.copy()))
    light = _quantised(_shifted(planes[..., 0], 16) - 128.0, luma) + 128.0
    tints = []
    for plane in (planes[..., 1], planes[..., 2]):
        small = ops.einsum("kh,bhw,lw->bkl", rows, _shifted(plane - 1.0, 16), columns)
        small = _quantised(ops.floor(small + down), chroma)[:, :, : rows.shape[0]]
        tints.append(ops.floor(ops.einsum("hk,bkl,wl->bhw", double, small, double) + up))
    added = _shifted(ops.matmul(ops.stack(tints, axis=-1), ops.convert_to_tensor(RGB.T.copy())), 16)
    return ops.clip(light[..., None] + added, 0.0, 255.0)


def _quantised(plane: Any, table: Any) -> Any:
    """A plane about 0, (batch, height, width), through the transform with each image's table, (batch, 8, 8), and back."""
    height, width = plane.shape[1:]
    rows, columns = -(-height // 8), -(-width // 8)
    for axis, whole, size in ((1, 8 * rows, height), (2, 8 * columns, width)):
        if whole > size:  # the last pixel goes on, as in libjpeg
            plane = ops.take(plane, np.minimum(np.arange(whole), size - 1), axis=axis)
    blocks = ops.reshape(plane, (-1, rows, 8, columns, 8))
    cosines = ops.convert_to_tensor(COSINES)
    found = _shifted(ops.einsum("vk,brick->bricv", cosines, blocks), 11)
    eighths = _shifted(ops.einsum("ui,bricv->brucv", cosines, found), 15)
    steps = ops.reshape(table, (-1, 1, 8, 1, 8))
    # halves away from zero, on which sums of whole levels fall often
    found = ops.sign(eighths) * ops.floor((ops.abs(eighths) + 4.0 * steps + 0.5) / (8.0 * steps)) * steps
    found = _shifted(ops.einsum("ui,brucv->bricv", cosines, found), 11)
    blocks = ops.clip(_shifted(ops.einsum("vk,bricv->brick", cosines, found), 18), -128.0, 127.0)
    return ops.reshape(blocks, (-1, 8 * rows, 8 * columns))[:, :height, :width]


@functools.lru_cache(maxsize=8)
def _halves_and_double(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of pairs: along the height, float32 (half, side); along the width, where libjpeg first lets the last pixel go on to
    whole blocks, float32 (eights, side); and libjpeg's "fancy" way back along each, float32 (side, half)."""
    small = -(-side // 2)
    half, double = np.zeros((8 * -(-small // 8), side), np.float32), np.zeros((side, small), np.float32)
    for place in range(side):
        own = place // 2
        other = min(max(own + (1 if place % 2 else -1), 0), small - 1)
        double[place, own] += 0.75
        double[place, other] += 0.25
    for place in range(len(half)):
        for pixel in (2 * place, 2 * place + 1):
            half[place, min(pixel, side - 1)] += 0.5
    return half[:small], half, double
