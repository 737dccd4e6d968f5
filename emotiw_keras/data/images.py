"""One picture from its bytes: its header first, and its pixels only if the header promises something sane.

Pillow decodes strictly: a file that ends early is an error. OpenCV, which would fill up a truncated JPEG with grey,
decodes the plain JPEGs that reach their end marker, in a third of the time. Both give the pixels of
`tf.io.decode_jpeg` with `dct_method="INTEGER_ACCURATE"`, byte for byte.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from emotiw_keras.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .pbm .pnm".split())
MAX_PIXELS = 64_000_000
MIN_SIDE = 8
ORIENTATION_TAG = 0x0112

_JPEG_START = b"\xff\xd8"
# Cannot stand inside compressed data, where a byte 255 is followed by 0 or a restart marker.
_JPEG_END = b"\xff\xd9"
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive
_JPEG_PLAIN = frozenset({0xE0, 0xDB, 0xC4, 0xDD, 0xFE})  # JFIF, quantisation, Huffman, restart interval, comment
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"})
# Pillow warns of large sizes and odd metadata without naming the file; what matters of it becomes an ImageError here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.\w+ImagePlugin")


class ImageError(DataError):
    """One picture that cannot be used; the text is the reason alone, without the file's name."""


@dataclass(frozen=True)
class Header:
    """What a picture says of itself: width and height in pixels after EXIF orientation, 1 channel (grey) or 3."""

    format: str
    width: int
    height: int
    channels: int


def read_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read a picture's header without decoding a pixel; the format is what the bytes say, whatever the file is called.

    Args:
        data: the file's bytes; its beginning is enough for most files.
        max_pixels: width times height above which the picture is refused.

    Raises:
        ImageError: no picture, a format not in `FORMATS`, smaller than 8 pixels a side, or above `max_pixels`.
    """
    plain = _plain_jpeg(data)
    if plain is not None:
        _check_size(plain.width, plain.height, max_pixels)
        return plain
    with _refusals(max_pixels), _opened(data, max_pixels) as image:
        width, height = image.size
        if _turned(image):
            width, height = height, width
        # A phone's JPEG with a second picture behind it opens as MPO.
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        return Header(kind, width, height, 1 if image.mode in _GREY_MODES else 3)


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode one picture (the first frame of an animation), upright by its EXIF orientation.

    Alpha is dropped, 16 bits become 8 by their high byte, palettes and CMYK become RGB.

    Args:
        data: the whole file: JPEG, PNG, BMP, GIF, WebP, TIFF or PPM.
        max_pixels: width times height above which the picture is refused before it is decoded.

    Returns:
        uint8 0..255: (height, width, 1) if the header says grey, else (height, width, 3) RGB.

    Raises:
        ImageError: as `read_header`, or the bytes are truncated or damaged.

    Example:
        >>> decode_image(b"P5 8 8 255 " + bytes(range(64))).shape
        (8, 8, 1)
    """
    plain = _plain_jpeg(data) if data.endswith(_JPEG_END) else None
    if plain is not None:
        _check_size(plain.width, plain.height, max_pixels)
        flag = cv2.IMREAD_GRAYSCALE if plain.channels == 1 else cv2.IMREAD_COLOR_RGB
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        except cv2.error:
            pixels = None
        # Pillow has the better words for what OpenCV cannot decode.
        if pixels is not None and pixels.shape[:2] == (plain.height, plain.width):
            return pixels.reshape(plain.height, plain.width, plain.channels)
    with _refusals(max_pixels), _opened(data, max_pixels) as image:
        image.load()
        return np.ascontiguousarray(_upright(_pixels(image), _orientation(image)))


def _plain_jpeg(data: bytes) -> Header | None:
    """The header of an 8-bit grey or YCbCr JPEG without EXIF or Adobe segments; None for what Pillow must read."""
    if data[:2] != _JPEG_START:
        return None
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            return Header("JPEG", width, height, channels) if bits == 8 and channels in (1, 3) else None
        if marker not in _JPEG_PLAIN:
            return None
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels, more than the {max_pixels:,} allowed; shrink it first")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{width} x {height} pixels, smaller than {MIN_SIDE} pixels a side")


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    if not data:
        raise ImageError("zero bytes")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(*image.size, max_pixels)
        yield image


@contextmanager
def _refusals(max_pixels: int) -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        size = re.search(r"\d{6,}", str(error))
        what = f"{int(size[0]):,} pixels" if size else "a picture of extreme size"
        raise ImageError(f"{what}, more than the {max_pixels:,} allowed; shrink it first") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"not a picture in a known format ({', '.join(FORMATS)})") from error
    except Exception as error:
        # A parser fed with damaged bytes raises nearly anything: struct.error, IndexError, SyntaxError, OSError ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot decode: {reason}") from error


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF" or "exif" not in image.info:
        return 1  # Pillow turns a TIFF upright itself
    exif = Image.Exif()
    try:
        exif.load(image.info["exif"])
        value = exif.get(ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
        return 1  # damaged EXIF says nothing about the picture, whose pixels may be whole
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(image: Image.Image) -> bool:
    return _orientation(image) >= 5


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _pixels(image: Image.Image) -> np.ndarray:
    mode = image.mode
    if mode in ("L", "RGB"):
        pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, -1)
    elif mode.startswith("I;16") or (mode == "I" and image.format != "TIFF"):
        pixels = (np.asarray(image) >> 8).astype(np.uint8)[..., None]
    elif mode == "CMYK":
        pixels = _from_cmyk(np.asarray(image))
    elif mode in ("I", "F", "LAB"):
        raise ImageError(f"cannot decode: pixels of kind {mode}, expected 8 or 16 bits of grey or RGB")
    else:
        image.info.pop("transparency", None)  # dropped like any alpha; Pillow would warn about some kinds of it
        pixels = np.asarray(image.convert("L" if mode in _GREY_MODES else "RGB")).reshape(image.height, image.width, -1)
    return pixels


def _from_cmyk(inks: np.ndarray) -> np.ndarray:
    light = 255 - inks.astype(np.uint16)
    return (light[..., :3] * light[..., 3:] // 255).astype(np.uint8)
