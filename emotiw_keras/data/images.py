"""One image from its bytes: its header first, and its pixels only if the header promises something sane.

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

from emotiw_keras.data.heif import HEIF_SUFFIXES, PARSER_ERRORS, NotReadable, is_heif, open_heif
from emotiw_keras.data.image_bounds import (
    MAX_PIXELS,
    Excess,
    animated_webp,
    check_work,
    gif_cut,
    png_damaged,
    png_exif,
    png_rows_missing,
    zeros_at_end,
)  # fmt: skip
from emotiw_keras.data.jpeg_scans import is_incomplete
from emotiw_keras.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "HEIC")
SUFFIXES = HEIF_SUFFIXES | frozenset(".jpg .jpeg .jpe .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .pbm .pnm".split())
MIN_SIDE = 8
# Sensors give 10 to 14 bits; an image of 16 bits without a larger value than theirs is one of them.
SENSOR_BITS = (8, 10, 12, 14)
ORIENTATION_TAG = 0x0112
_STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}

_JPEG_START = b"\xff\xd8"
# Cannot stand inside compressed data, where a byte 255 is followed by 0 or a restart marker.
_JPEG_END = b"\xff\xd9"
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive
_JPEG_PLAIN = frozenset({0xE0, 0xDB, 0xC4, 0xDD, 0xFE})  # JFIF, quantisation, Huffman, restart interval, comment
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"})
# Of a TIFF: whether white or black is 0, its largest value, what its fourth channel is.
_PHOTOMETRIC, _MAX_SAMPLE, _EXTRA_SAMPLES = 262, 281, 338
_WHITE_IS_ZERO, _PREMULTIPLIED = 0, 1
# Pillow warns of large sizes and odd metadata without naming the file; what matters of it becomes an ImageError here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.\w+ImagePlugin")


class ImageError(DataError):
    """One image that cannot be used; the text is the reason alone, without the file's name."""


@dataclass(frozen=True)
class Header:
    """What an image says of itself: width and height in pixels after EXIF orientation, 1 channel (grey) or 3."""

    format: str
    width: int
    height: int
    channels: int


def read_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read an image's header without decoding a pixel; the format is what the bytes say, whatever the file is called.

    Args:
        data: the file's bytes; its beginning is enough for most files, but what turns a PNG may stand at its end.
        max_pixels: width times height above which the image is refused.

    Raises:
        ImageError: no image, a format not in `FORMATS`, smaller than 8 pixels a side, or above `max_pixels`.
    """
    _check_work(data)
    plain = _plain_jpeg(data)
    if plain is not None:
        _check_size(plain.width, plain.height, max_pixels)
        return plain
    with _refusals(max_pixels, data), _opened(data, max_pixels) as image:
        width, height = image.size
        if _orientation(image, data) >= 5:
            width, height = height, width
        # A phone's JPEG with a second image behind it opens as MPO.
        kind = {"MPO": "JPEG", "HEIF": "HEIC"}.get(str(image.format), str(image.format))
        return Header(kind, width, height, _channels(image))


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, notes: list[str] | None = None) -> np.ndarray:
    """Decode one image (the first frame of an animation), upright by its EXIF orientation.

    Alpha is dropped, 16 bits become 8 by their high byte (10, 12 or 14 bits in 16: by theirs), palettes and CMYK become RGB.

    Args:
        data: the whole file: JPEG, PNG, BMP, GIF, WebP, TIFF, PPM, AVIF, or HEIC with the package pillow-heif.
        max_pixels: width times height above which the image is refused before it is decoded.
        notes: gets a remark where one image of several was read, or where the depth was told by the largest value.

    Returns:
        uint8 0..255: (height, width, 1) if the header says grey, else (height, width, 3) RGB.

    Raises:
        ImageError: as `read_header`, or the bytes are truncated or damaged.

    Example:
        >>> decode_image(b"P5 8 8 255 " + bytes(range(64))).shape
        (8, 8, 1)
    """
    _check_work(data)
    plain = _plain_jpeg(data) if data.endswith(_JPEG_END) else None
    if plain is not None:
        _check_size(plain.width, plain.height, max_pixels)
        flag = cv2.IMREAD_GRAYSCALE if plain.channels == 1 else cv2.IMREAD_COLOR_RGB
        pixels = _by_opencv(data, flag)
        # Pillow has the better words for what OpenCV cannot decode.
        if pixels is not None and pixels.shape[:2] == (plain.height, plain.width):
            pixels = pixels.reshape(plain.height, plain.width, plain.channels)
            _refuse_filled(data, pixels)
            return pixels
    remarks: list[str] = []
    with _refusals(max_pixels, data), _opened(data, max_pixels) as image:
        pixels = None
        packed = image.format in ("WEBP", "AVIF", "HEIF") or image.info.get("compression", "raw") not in ("raw", 0)
        if (packed and zeros_at_end(data)) or (image.format == "GIF" and gif_cut(data)):
            raise ImageError("cannot decode: cut short, and zeros stand in the place of its end")
        if image.format == "WEBP" and not animated_webp(data):
            # Pillow decodes it as an animation, in three times the memory.
            pixels = _by_opencv(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            pixels = _pixels(image, data, remarks)
            if image.format == "PNG" and png_damaged(data):
                raise ImageError("cannot decode: its last chunk of pixels is cut or damaged")
            if image.format == "PNG" and not pixels[-2:].any(axis=(1, 2)).all() and png_rows_missing(data):
                raise ImageError("cannot decode: rows of pixels are missing at its end")
            if image.format in ("JPEG", "MPO"):
                _refuse_filled(data, np.asarray(image) if image.mode == "CMYK" else pixels)
        upright = np.ascontiguousarray(_upright(pixels, _orientation(image, data)))
        if notes is not None:
            notes += remarks
            if image.format != "MPO" and _animated(image):
                notes.append("holds several images; the first is read")
    return upright


def pixels_of(image: Image.Image) -> np.ndarray:
    """The pixels of an image of Pillow as `decode_image` would give them.

    Returns:
        uint8 0..255, (height, width, 1) or (height, width, 3) RGB, upright by its EXIF orientation.

    Raises:
        ImageError: it has pixels of a kind that no file has, or its file is damaged.

    Example:
        >>> pixels_of(Image.new("P", (9, 8))).shape
        (8, 9, 3)
    """
    with _refusals(MAX_PIXELS):
        return np.ascontiguousarray(_upright(_pixels(image, _deep_file(image), []), _orientation(image, b"")))


def _deep_file(image: Image.Image) -> bytes:
    """The file of an image that is not loaded yet and has 16 bits, of which Pillow leaves 8; else nothing."""
    file = getattr(image, "fp", None)
    loaded = vars(image).get("_im", vars(image).get("im")) is not None  # whoever has it may have changed it
    deep = any(";16" in str(part[3]) for part in getattr(image, "tile", ()))
    if file is None or loaded or image.tell() or not deep or image.format not in ("PNG", "TIFF"):
        return b""
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return bytes(data)


def _check_work(data: bytes) -> None:
    try:
        check_work(data)
    except Excess as error:
        raise ImageError(str(error)) from error


def _by_opencv(data: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _refuse_filled(data: bytes, pixels: np.ndarray) -> None:
    if is_incomplete(data, pixels):
        raise ImageError("cannot decode: a part of the image is missing before its end")


def _animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except PARSER_ERRORS:  # a damaged second image says nothing of the first, which has been read
        return False


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
    with open_heif(data) if is_heif(data) else Image.open(io.BytesIO(data), formats=FORMATS[:-2]) as image:
        _check_size(*image.size, max_pixels)
        yield image


@contextmanager
def _refusals(max_pixels: int, data: bytes = b"") -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except NotReadable as error:
        raise ImageError(str(error)) from error
    except Image.DecompressionBombError as error:
        size = re.search(r"\d{6,}", str(error))
        what = f"{int(size[0]):,} pixels" if size else "an image of extreme size"
        raise ImageError(f"{what}, more than the {max_pixels:,} allowed; shrink it first") from error
    except UnidentifiedImageError as error:
        begins = next((name for start, name in _STARTS.items() if data.startswith(start)), None)
        if begins is not None:
            why = "is cut short, damaged or of a kind that is not read"
            raise ImageError(f"cannot decode: it begins as {begins}, but {why}") from error
        raise ImageError(f"not an image in a known format ({', '.join(FORMATS)})") from error
    except PARSER_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot decode: {reason}") from error


def _orientation(image: Image.Image, data: bytes) -> int:
    # In a PNG it may stand behind the pixels, where Pillow finds it once they are loaded.
    told = png_exif(data) if image.format == "PNG" and data else image.info.get("exif")
    if image.format == "TIFF" or not told:
        return 1  # Pillow turns a TIFF upright itself
    exif = Image.Exif()
    try:
        exif.load(told)
        value = exif.get(ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
        return 1  # damaged EXIF says nothing about the image, whose pixels may be whole
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _channels(image: Image.Image) -> int:
    """1 of a grey image, 3 of another, before its pixels are loaded: grey with alpha of 16 bits, Pillow makes RGBA of 8."""
    return 1 if image.mode in _GREY_MODES or any(part[3] == "LA;16B" for part in getattr(image, "tile", ())) else 3


def _pixels(image: Image.Image, data: bytes, notes: list[str]) -> np.ndarray:
    channels = _channels(image)
    image.load()
    mode = image.mode
    if mode in ("L", "RGB", "RGBA", "RGBX"):
        samples = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, -1)
        pixels = samples[..., :channels]
        # Pillow takes the high byte of 16; a small one is that of a sensor's bits.
        small = image.format in ("PNG", "TIFF") and pixels.max() < 1 << SENSOR_BITS[-1] - 8
        # Colours times their alpha, which Pillow takes apart, are small for another reason where that is.
        whole = _tag(image, _EXTRA_SAMPLES) != _PREMULTIPLIED or samples[..., 3:].min(initial=255) == 255
        if small and whole:
            # As BGR: some versions of OpenCV give other values where they are to turn a TIFF's order.
            deep = _by_opencv(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if deep is not None and deep.dtype == np.uint16 and deep.shape[:2] == pixels.shape[:2]:
                pixels = _of_deep(image, deep[..., 2 - np.arange(channels)], notes)
    elif mode.startswith("I;16") or (mode == "I" and image.format != "TIFF"):
        pixels = _of_deep(image, np.asarray(image)[..., None], notes)
    elif mode == "CMYK":
        pixels = _from_cmyk(np.asarray(image))
    elif mode in ("I", "F", "LAB"):
        raise ImageError(f"cannot decode: pixels of kind {mode}, expected 8 or 16 bits of grey or RGB")
    else:
        image.info.pop("transparency", None)  # dropped like any alpha; Pillow would warn about some kinds of it
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(image.height, image.width, -1)
    return pixels


def _of_deep(image: Image.Image, pixels: np.ndarray, notes: list[str]) -> np.ndarray:
    """8 bits from up to 16: by the largest value that a TIFF names, else by the largest there is, if it is a sensor's."""
    most = int(pixels.max())
    said = _tag(image, _MAX_SAMPLE) or 0
    bits = 16
    if said >= most and said.bit_length() in range(8, 16):
        bits = said.bit_length()
    elif 0 < most < 1 << SENSOR_BITS[-1] and image.format != "PPM":
        bits = next(each for each in SENSOR_BITS if most < 1 << each)
        notes.append(f"16 bits with no value above {most:,}; read as an image of {bits} bits")
    eight = (pixels >> (bits - 8)).astype(np.uint8)
    # Pillow sees to it in 8 bits and less.
    return 255 - eight if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO else eight


def _tag(image: Image.Image, number: int) -> int | None:
    """A number that a TIFF says, of several the largest; None if it does not, or is none."""
    said = getattr(image, "tag_v2", {}).get(number)
    said = max(said, default=None) if isinstance(said, tuple) else said
    return said if isinstance(said, int) else None


def _from_cmyk(inks: np.ndarray) -> np.ndarray:
    light = 255 - inks.astype(np.uint16)
    return (light[..., :3] * light[..., 3:] // 255).astype(np.uint8)
