"""Files of which only the beginning is there are errors in every format, whether they end there or zeros follow."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data.images import ImageError, decode_image

_NOISE = np.random.default_rng(0).integers(0, 256, (160, 176, 3), np.uint8)
_SLOPE = np.mgrid[0:160, 0:176].sum(0, dtype=np.uint16).astype(np.uint8)
COLOUR = Image.fromarray(_NOISE // 2 + _SLOPE[..., None] // 2)
GREY, DEEP, LINES = COLOUR.convert("L"), Image.fromarray(_SLOPE.astype(np.uint16) << 4), COLOUR.convert("1")
KINDS: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
    "JPEG": (COLOUR, "JPEG", {}), "JPEG progressive": (COLOUR, "JPEG", {"progressive": True}),
    "JPEG of inks": (COLOUR.convert("CMYK"), "JPEG", {}), "PNG": (COLOUR, "PNG", {}), "PNG of 16 bits": (DEEP, "PNG", {}),
    "PNG of a palette": (COLOUR.convert("P"), "PNG", {}), "BMP": (COLOUR, "BMP", {}), "BMP of greys": (GREY, "BMP", {}),
    "GIF": (COLOUR, "GIF", {}), "GIF in lines": (GREY, "GIF", {"interlace": 1}), "WebP": (COLOUR, "WEBP", {}),
    "WebP lossless": (COLOUR, "WEBP", {"lossless": True}),
    "WebP animated": (COLOUR, "WEBP", {"save_all": True, "append_images": [COLOUR.rotate(180)]}),
    "TIFF": (COLOUR, "TIFF", {}), "TIFF of 16 bits": (DEEP, "TIFF", {}),
    "TIFF LZW": (COLOUR, "TIFF", {"compression": "tiff_lzw"}),
    "TIFF deflate": (COLOUR, "TIFF", {"compression": "tiff_deflate"}), "TIFF fax": (LINES, "TIFF", {"compression": "group4"}),
    "PPM": (COLOUR, "PPM", {}), "PGM": (GREY, "PPM", {}), "PBM": (LINES, "PPM", {}), "AVIF": (COLOUR, "AVIF", {"quality": 95}),
    "HEIC": (COLOUR, "HEIF", {"quality": 95}),
}  # fmt: skip
UNPACKED = ("BMP", "BMP of greys", "TIFF", "TIFF of 16 bits", "PPM", "PGM", "PBM")
"""What is stored as it is: zeros are black pixels, and nothing tells them from those of a black image."""


def whole(kind: str) -> bytes:
    image, format_name, options = KINDS[kind]
    if format_name == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    file = io.BytesIO()
    try:
        image.save(file, format_name, **options)
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow writes no {kind}: {error}")
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_the_beginning_of_a_file_is_an_error(kind: str) -> None:
    data = whole(kind)
    assert decode_image(data).shape[:2] == (160, 176)
    # Behind the last pixel there may be some bytes that only end the file, and an animation's second image.
    most = 0.4 if kind == "WebP animated" else 1 - 20 / len(data)
    for share in np.linspace(0.2, most, 12):
        with pytest.raises(ImageError) as found, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decode_image(data[: int(share * len(data))])
        assert "not an image" not in str(found.value)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_bytes_that_only_end_a_file_are_not_missed(kind: str) -> None:
    data = whole(kind)
    np.testing.assert_array_equal(decode_image(data[:-1]), decode_image(data))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.partition(" of greys")[0] not in UNPACKED and "fax" not in kind]
)
def test_the_beginning_of_a_file_with_zeros_behind_it_is_an_error(kind: str) -> None:
    data = whole(kind)
    for share in (0.1, 0.4) if kind == "WebP animated" else (0.1, 0.5, 0.7):
        held = int(share * len(data))
        if len(data) - held >= 4096:
            with pytest.raises(ImageError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                decode_image(data[:held] + bytes(len(data) - held))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_numbers_as_text_that_end_early_are_an_error(number: int) -> None:
    image = {1: LINES, 2: GREY, 3: COLOUR}[number]
    text = " ".join(map(str, np.asarray(image).astype(int).ravel()))
    data = f"P{number} 176 160{'' if number == 1 else ' 255'}\n{text}\n".encode()
    assert decode_image(data).shape[:2] == (160, 176)
    for share in (0.3, 0.6, 0.99):
        with pytest.raises(ImageError):
            decode_image(data[: int(share * len(data))])


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize(
    "options", [("WEBP", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("TIFF", {"compression": "tiff_lzw"})]
)
def test_images_of_one_colour_are_no_cut_ones(level: int, options: tuple[str, dict[str, Any]]) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1500, 1200), (level,) * 3).save(file, options[0], **options[1])
    assert (decode_image(file.getvalue()) == level).all()
