"""Images that would hold a decoder up are refused before it meets them; those that real programs write are not."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from emotiw_keras.data.image_bounds import MAX_CHUNKS, MAX_SEGMENTS, png_rows_missing, told_pixels
from emotiw_keras.data.images import ImageError, decode_image, read_header


def encode(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(1, 256, (16, 24, 3), dtype=np.uint8)
JPEG, PNG, GIF = (encode(PIXELS, kind) for kind in ("JPEG", "PNG", "GIF"))
PROGRESSIVE = encode(PIXELS, "JPEG", progressive=True)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, interlaced: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def many_scans(scans: int, side: int = 7990) -> bytes:
    """A progressive JPEG whose last scan stands in it many times, and that claims a size."""
    start = PROGRESSIVE.rindex(b"\xff\xda")
    frame = PROGRESSIVE.index(b"\xff\xc2")
    data = bytearray(PROGRESSIVE[:start] + PROGRESSIVE[start:-2] * scans + b"\xff\xd9")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def tiff(*entries: tuple[int, int, int]) -> bytes:
    """The directory of a TIFF: tag, type and number of values of each entry."""
    packed = b"".join(struct.pack("<HHII", *entry, 8) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


TABLE = 13 + 3 * (2 << (GIF[10] & 7))
BOMBS = {
    "scans": (many_scans(300), "more than 16 scans of 63,840,100 pixels"),
    "scans of a small image": (many_scans(1100, 16), "more than 1,000 scans"),
    "JPEG comments": (JPEG[:2] + b"\xff\xfe\0\2" * (MAX_SEGMENTS + 2) + JPEG[2:], "4,096 segments"),
    "JPEG fill bytes": (JPEG[:2] + b"\xff" * 9000 + JPEG[2:], "4,096 segments"),
    "JPEG rubbish": (JPEG[:20] + bytes(9000) + JPEG[20:], "4,096 segments"),
    "PNG chunks": (PNG[:33] + chunk(b"abCd", b"") * (MAX_CHUNKS + 1) + PNG[33:], "65,536 chunks"),
    "PNG chunks behind": (PNG[:-12] + chunk(b"abCd", b"") * (MAX_CHUNKS + 1) + PNG[-12:], "65,536 chunks"),
    "GIF comments": (GIF[:TABLE] + b"\x21\xfe" + b"\1x" * 2**19 + b"\0" + GIF[TABLE:], "in front of its first frame"),
    "PPM comment": (b"P5\n#" + b"x" * 5000 + b"\n8 8 255\n" + bytes(64), "header of more than 4,096 bytes"),
    "odd PPM comment": (b"PyP\n#" + b"x" * 5000 + b"\n8 8 255\n" + bytes(64), "header of more than 4,096 bytes"),
    "PPM comments": (b"P2 8 8 255\n" + b"#\n" * 5000 + b"17 " * 64, "comments between its pixels"),
    "PPM as text": (b"P3 3000 3000 255\n" + b"1 " * 100, "27,000,000 numbers written as text"),
    "BMP runs": (b"BM" + bytes(28) + struct.pack("<I", 1) + bytes(5 * 2**20), "bytes of runs"),
    "TIFF strips": (tiff((256, 4, 1), (273, 4, 100_000)), "100,000 strips"),
    "TIFF tags": (tiff(*[(700, 1, 10**6)] * 9), "tags that claim more bytes"),
    "WebP animation": (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0" + b"\x3f\x1f\0" * 2 + bytes(99), "animation of 8000 x 8000"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_costs_too_much_is_refused(name: str) -> None:
    data, reason = BOMBS[name]
    for function in (read_header, decode_image):
        with pytest.raises(ImageError, match=reason):
            function(data)


def test_many_scans_within_reason_are_read() -> None:
    assert decode_image(many_scans(60, 16)).shape == (16, 16, 3)
    assert decode_image(b"P2 # a\n8 # b\n8\n255\n" + b"17 " * 64)[0, 0, 0] == 17


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(("depth", "colour", "row"), [(8, 0, 32), (8, 2, 96), (1, 0, 4), (16, 6, 256)])
def test_a_png_without_its_last_rows_is_refused(interlaced: int, depth: int, colour: int, row: int) -> None:
    rows = (b"\0" + bytes([255]) * row) * 24
    if interlaced:
        whole = encode(Image.fromarray(np.full((24, 32), 255, np.uint8)).convert("1"), "PNG")
        bits = row // 4  # of a pixel
        sizes = [(4, 3), (4, 3), (8, 3), (8, 6), (16, 6), (16, 12), (32, 12)]
        rows = b"".join((b"\0" + b"\xff" * ((columns * bits + 7) // 8)) * lines for columns, lines in sizes)
        assert whole
    data = png(32, 24, depth, colour, rows, interlaced)
    assert not png_rows_missing(data) and decode_image(data).min() == 255
    for kept in (len(rows) - 1, len(rows) // 2, 3):
        cut = png(32, 24, depth, colour, rows[:kept], interlaced)
        assert png_rows_missing(cut)
        with pytest.raises(ImageError):
            decode_image(cut)
    black = png(32, 24, depth, colour, bytes(len(rows)), interlaced)
    assert decode_image(black).max() == 0


def test_a_large_webp_takes_no_more_than_other_formats() -> None:
    script = """
import io, resource, sys
from PIL import Image
from emotiw_keras.data.images import decode_image
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode_image(data)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    data = encode(Image.new("RGB", (6000, 4000), (90, 120, 40)), "WEBP")
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    # 72 MB of pixels; Pillow, which decodes it as an animation, takes 400 MB.
    assert int(done.stdout) < 220


def test_ten_and_twelve_bits_in_sixteen_are_not_dark() -> None:
    ramp = np.linspace(0, 1, 400).reshape(20, 20)
    for bits in (10, 12):
        deep = np.rint(ramp * ((1 << bits) - 1)).astype(np.uint16)
        for kind in ("PNG", "TIFF"):
            notes: list[str] = []
            np.testing.assert_array_equal(decode_image(encode(deep, kind), notes=notes)[..., 0], deep >> (bits - 8))
            assert notes == [f"16 bits with no value above {(1 << bits) - 1:,}; read as an image of {bits} bits"]
        colour = struct.pack(">1200H", *np.repeat(deep.ravel(), 3).tolist())
        rows = b"".join(b"\0" + colour[line : line + 120] for line in range(0, 2400, 120))
        np.testing.assert_array_equal(decode_image(png(20, 20, 16, 2, rows)), np.repeat(deep[..., None] >> (bits - 8), 3, 2))
    # What the file says comes first.
    notes = []
    dim = np.full((20, 20), 800, np.uint16)
    np.testing.assert_array_equal(decode_image(encode(dim, "TIFF", tiffinfo={281: 4095}), notes=notes), (dim >> 4)[..., None])
    assert not notes


def test_the_first_of_several_images_is_said() -> None:
    frames = [Image.fromarray(np.roll(PIXELS, step, axis=0)) for step in range(3)]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        for more, said in ((frames[1:], ["holds several images; the first is read"]), ([], [])):
            notes: list[str] = []
            decode_image(encode(frames[0], kind, save_all=bool(more), append_images=more), notes=notes)
            assert notes == said


@pytest.mark.skipif(not features.check("avif"), reason="this build of Pillow reads no AVIF")
def test_avif_is_read_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (64, 32), (200, 30, 90)), "AVIF", exif=exif)
    assert read_header(data).format == "AVIF"
    seen = decode_image(data)
    assert seen.shape == (64, 32, 3) and np.abs(seen.astype(int) - (200, 30, 90)).max() < 8


def test_a_cut_avif_is_an_error() -> None:
    if not features.check("avif"):
        pytest.skip("this build of Pillow reads no AVIF")
    data = encode(PIXELS, "AVIF")
    for length in range(20, len(data), 40):
        with pytest.raises(ImageError):
            decode_image(data[:length])


def test_heic_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"needs the package pillow-heif; pip install 'emotiw-keras\[heic\]'"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


def test_heic_is_read_whole_or_not_at_all() -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif, the extra `heic`")
    pillow_heif.register_heif_opener()
    try:
        data = encode(Image.new("RGB", (64, 32), (200, 30, 90)), "HEIF")
    except (KeyError, OSError, RuntimeError) as error:
        pytest.skip(f"this pillow-heif writes no HEIC: {error}")
    seen = decode_image(data)
    assert seen.shape == (32, 64, 3) and np.abs(seen.astype(int) - (200, 30, 90)).max() < 8
    with pytest.raises(ImageError):
        decode_image(data[:-20])


def test_a_heic_of_tiles_is_read_as_one_image(shared_data: Path) -> None:
    pytest.importorskip("pillow_heif", reason="needs pillow-heif, the extra `heic`")
    data = (shared_data.parent / "cases" / "heic-grid-one-tile" / "grid.heic").read_bytes()
    assert decode_image(data).shape == (2048, 2560, 3)
    with pytest.raises(ImageError, match="cut short"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_pixels_are_told_by_a_beginning_where_the_format_is_simple(kind: str) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(file, kind, **({} if kind == "GIF" else {"exif": exif}))
    data = file.getvalue()
    assert told_pixels(data) == (1200 if kind in ("PNG", "JPEG") else None)
    assert {told_pixels(data[:length]) for length in range(len(data))} <= {None, 1200}
    assert told_pixels(b"\xff\xd8" + b"\xff\xfe\0\0" * 2**20) is None
