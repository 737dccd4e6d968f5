"""HEIC and AVIF, the images of phones: known by their first bytes, opened by pillow-heif (an extra) and by Pillow."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image, features

from emotiw_keras.data.mp4_boxes import boxes_cut

HEIF_SUFFIXES = frozenset(".heic .heif .hif .avif".split())
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = _AVIF_BRANDS | {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}


PARSER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, EOFError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip
"""What a parser of images raises when it is fed with damaged bytes: nearly anything."""


class NotReadable(ValueError):
    """Why such an image cannot be opened."""


def is_heif(start: bytes) -> bool:
    """Whether a file's first 12 bytes are those of a HEIC or AVIF image, which begins as an MP4 video does."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def open_heif(data: bytes) -> Image.Image:
    """Open a HEIC or AVIF image; its pixels are decoded when they are asked for.

    Raises:
        NotReadable: it is cut short, or what reads it is missing.
    """
    if boxes_cut(io.BytesIO(data)):
        # libheif leaves the tiles that are missing black.
        raise NotReadable("cut short or damaged")
    if data[8:12] in _AVIF_BRANDS or (data[8:12] in (b"mif1", b"msf1") and b"avif" in data[:64]):
        if not features.check("avif"):
            raise NotReadable("an AVIF image, which this build of Pillow cannot read; install a wheel of pillow>=11.3")
        return Image.open(io.BytesIO(data), formats=("AVIF",))
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        install = "pip install 'emotiw-keras[heic]'"
        raise NotReadable(f"a HEIC image, which needs the package pillow-heif; {install}, or save it as JPEG") from error
    try:
        return HeifImageFile(io.BytesIO(data))
    except PARSER_ERRORS as error:
        raise NotReadable(f"a HEIC image that cannot be decoded ({error}); save it as JPEG") from error
