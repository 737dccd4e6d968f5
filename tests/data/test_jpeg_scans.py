"""JPEGs that were cut and closed again: errors, and whole ones are none, whatever their last corner shows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data import jpeg_scans
from emotiw_keras.data.images import ImageError, decode_image

END = b"\xff\xd9"
_EXIF = Image.Exif()
_EXIF[0x0112] = 6
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "4:2:0": ("RGB", {}),
    "4:4:4": ("RGB", {"subsampling": 0}),
    "4:2:2": ("RGB", {"subsampling": 1}),
    "grey": ("L", {}),
    "restarts": ("RGB", {"restart_marker_rows": 1}),
    "own tables": ("RGB", {"optimize": True}),
    "turned": ("RGB", {"exif": _EXIF}),
    "inks": ("CMYK", {}),
    "progressive": ("RGB", {"progressive": True}),
    "progressive grey": ("L", {"progressive": True}),
}


def sample_image(width: int = 120, height: int = 100, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 14, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, kind: str) -> bytes:
    mode, options = KINDS[kind]
    file = io.BytesIO()
    image.convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(120, 100), (113, 97)])
def test_a_cut_jpeg_that_was_closed_again_is_an_error(kind: str, size: tuple[int, int]) -> None:
    data = jpeg(sample_image(*size), kind)
    assert decode_image(data).shape[:2] == (size if kind == "turned" else size[::-1])
    # The last scan of a progressive file is one of seven or so, whose own end is not seen.
    last = data.rfind(b"\xff\xda") / len(data) if kind.startswith("progressive") else 0.99
    for share in np.linspace(0.15, last - 0.01, 9):
        with pytest.raises(ImageError, match="missing before its end|cannot decode"):
            decode_image(data[: int(share * len(data))] + END)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_images_whose_last_corner_is_grey_are_read(kind: str) -> None:
    image = sample_image(125, 99)
    for grey in ((128, 128, 128), (127, 127, 127)):
        image.paste(grey, (64, 48, 125, 99))
        data = jpeg(image, kind)
        assert decode_image(data).shape[2] == (1 if KINDS[kind][0] == "L" else 3)
        assert not jpeg_scans.is_incomplete(data)


def test_large_scans_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    image = sample_image()
    image.paste((128, 128, 128), (60, 50, 120, 100))
    monkeypatch.setattr(jpeg_scans, "MOST_COUNTED", 100)
    monkeypatch.setattr(jpeg_scans, "_holds", lambda *_: pytest.fail("was counted"))
    assert decode_image(jpeg(image, "4:2:0")).shape == (100, 120, 3)


def test_a_png_whose_last_chunk_is_damaged_is_an_error() -> None:
    file = io.BytesIO()
    sample_image().convert("1").save(file, "PNG")
    data = file.getvalue()
    for end in (data[: int(0.99 * len(data))] + bytes(64), data[:-20] + bytes(20), data[:-17] + b"\0" + data[-16:]):
        with pytest.raises(ImageError):
            decode_image(end)
