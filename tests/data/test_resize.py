"""Resizing piece by piece gives the bytes of the whole product."""

from __future__ import annotations

import numpy as np
import pytest

from emotiw_keras.data.resize import DENSE, _bands, resize, resize_weights


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((256, 256, 1), (48, 48)),
        ((48, 48, 1), (256, 256)),
        ((37, 200, 3), (64, 31)),
        ((1, 9, 3), (5, 4)),
        ((DENSE, 30), (7, 30)),
    ],
)
def test_pieces_give_the_bytes_of_the_whole_product(shape: tuple[int, ...], target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    rows = np.rint(np.tensordot(resize_weights(shape[0], target[0]), image.astype(np.float64), 1))
    whole = np.rint(np.moveaxis(np.tensordot(resize_weights(shape[1], target[1]), np.moveaxis(rows, 1, 0), 1), 0, 1))
    np.testing.assert_array_equal(resize(image, *target), whole.astype(np.uint8))


def test_a_face_is_resized_by_products_too_small_for_several_threads() -> None:
    """Where two threads resize and each waits for all threads of OpenBLAS, one face took 4 ms instead of 0.1."""
    for _, _, weights in _bands(256, 48):
        assert weights.size * 256 * 3 <= 2**18
