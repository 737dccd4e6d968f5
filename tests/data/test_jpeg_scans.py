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
    for share in np.linspace(0.15, 0.98, 9):
        with pytest.raises(ImageError, match="missing before its end|cannot decode"):
            decode_image(data[: int(share * len(data))] + END)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_images_whose_last_corner_is_grey_are_read(kind: str) -> None:
    image = sample_image(125, 99)
    for grey in ((128, 128, 128), (127, 127, 127)):
        image.paste(grey, (64, 48, 125, 99))
        data = jpeg(image, kind)
        assert decode_image(data).shape[2] == (1 if KINDS[kind][0] == "L" else 3)


def test_only_what_may_be_filled_and_progressive_files_are_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    decoded = jpeg_scans._decoded
    monkeypatch.setattr(jpeg_scans, "_decoded", lambda data: seen.append(data) or decoded(data))
    for kind in KINDS:
        decode_image(jpeg(sample_image(), kind))
    assert len(seen) == 2, "once for each progressive one"


def test_a_cut_within_a_scan_of_megabytes_is_an_error() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    assert file.tell() > 2 << 20
    for share in (0.5, 0.95, 0.99):
        with pytest.raises(ImageError, match="missing before its end"):
            decode_image(file.getvalue()[: int(share * file.tell())] + END)


def test_a_png_whose_last_chunk_is_damaged_is_an_error() -> None:
    file = io.BytesIO()
    sample_image().convert("1").save(file, "PNG")
    data = file.getvalue()
    for end in (data[: int(0.99 * len(data))] + bytes(64), data[:-20] + bytes(20), data[:-17] + b"\0" + data[-16:]):
        with pytest.raises(ImageError):
            decode_image(end)
