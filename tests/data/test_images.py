"""One image: pixels equal to TensorFlow's, odd kinds of file, and every damaged one an error."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from emotiw_keras.data.archive import ArchiveImages, open_archive
from emotiw_keras.data.images import Header, ImageError, decode_image, pixels_of, read_header

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def encode(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    opened = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    opened.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth blobs with some noise, uint8 (height, width[, 3])."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 6, channels), dtype=np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    noisy = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    return noisy[..., 0] if channels == 1 else noisy


PNG_START = b"\x89PNG\r\n\x1a\n"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def jpegs() -> list[bytes]:
    kinds = [{"subsampling": s, "progressive": p, "quality": q} for s, p, q in [(0, 0, 95), (1, 1, 60), (2, 0, 30), (2, 1, 88)]]
    exif = Image.Exif()
    exif[0x010E] = "no orientation in here"
    files = [encode(photo(31 + 9 * i, 48 - 5 * i, 3, i), "JPEG", **kind) for i, kind in enumerate(kinds)]
    files += [encode(photo(17 + 8 * i, 48, 1, i), "JPEG", quality=95 - 20 * i, progressive=bool(i % 2)) for i in range(4)]
    return [*files, encode(photo(40, 40), "JPEG", exif=exif), encode(photo(40, 40), "JPEG") + b"\0\0\0"]


def test_jpeg_pixels_equal_tensorflow_and_opencv() -> None:
    import tensorflow as tf

    for data in jpegs():
        ours = decode_image(data)
        np.testing.assert_array_equal(ours, tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE").numpy())
        flag = cv2.IMREAD_GRAYSCALE if ours.shape[2] == 1 else cv2.IMREAD_COLOR_RGB
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        assert theirs is not None
        np.testing.assert_array_equal(ours, theirs.reshape(ours.shape))


def test_png_pixels_equal_tensorflow() -> None:
    import tensorflow as tf

    rgba = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    deep = (np.arange(600, dtype=np.uint32).reshape(20, 30) * 109).astype(np.uint16)
    for image in (rgba, rgba[..., :3], rgba[..., 0], deep):
        data = encode(np.ascontiguousarray(image), "PNG")
        expected = tf.io.decode_png(data).numpy()
        np.testing.assert_array_equal(decode_image(data), expected[..., :3])


def test_real_fer_files_equal_tensorflow(shared_data: Path) -> None:
    import tensorflow as tf

    with zipfile.ZipFile(shared_data / "fer2013" / "fer2013_jpg.zip") as file:
        for name in file.namelist()[::400]:
            data = file.read(name)
            expected = tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE").numpy()
            np.testing.assert_array_equal(decode_image(data), expected)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    image = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None], 16, axis=1)
    options = {"lossless": True} if kind == "WEBP" else {}
    for mode in ("L", "RGB"):
        data = encode(Image.fromarray(image).convert(mode), kind, **options)
        decoded = decode_image(data)
        assert (decoded == image[..., None]).all()
        assert read_header(data) == Header(kind, 16, 24, decoded.shape[2])


def test_header_decides_between_grey_and_colour() -> None:
    grey = photo(20, 20, 1)
    assert decode_image(encode(grey, "JPEG")).shape == (20, 20, 1)
    assert decode_image(encode(Image.fromarray(grey).convert("RGB"), "JPEG")).shape == (20, 20, 3)
    assert decode_image(encode(Image.fromarray(grey).convert("LA"), "PNG")).shape == (20, 20, 1)
    assert decode_image(encode(Image.fromarray(grey).convert("1"), "PNG")).shape == (20, 20, 1)


def test_sixteen_bits_become_the_high_byte() -> None:
    deep = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    for kind in ("PNG", "TIFF", "PPM"):
        np.testing.assert_array_equal(decode_image(encode(deep, kind))[..., 0], deep >> 8)


def deep_tiff(pixels: np.ndarray, orientation: int) -> bytes:
    """A TIFF of 16 bits a colour, which Pillow does not write."""
    height, width, _ = pixels.shape
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 200)]
    tags += [(274, 3, 1, orientation), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, pixels.nbytes)]
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    head = b"II*\0" + struct.pack("<I", 16) + struct.pack("<HHH", 16, 16, 16) + bytes(2)
    return (head + table).ljust(200, b"\0") + pixels.astype("<u2").tobytes()


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_colours_of_a_sensor_in_sixteen_bits(bits: int) -> None:
    colours = np.random.default_rng(bits).integers(0, 1 << bits, (20, 20, 3)).astype(np.uint16)
    colours[0, 0] = (1 << bits) - 1
    opaque = np.full((20, 20, 1), 65535, np.uint16)
    kinds = (colours, np.dstack([colours, opaque]), np.dstack([colours, opaque >> (16 - bits)]))
    files = [
        cv2.imencode(suffix, each[..., [2, 1, 0, *range(3, each.shape[2])]])[1].tobytes()
        for suffix in (".png", ".tiff")
        for each in kinds
    ]
    turned = {1: colours, 3: colours[::-1, ::-1], 6: colours.swapaxes(0, 1)[:, ::-1]}
    cases = [*((data, colours) for data in files), *((deep_tiff(colours, way), turned[way]) for way in turned)]
    for data, expected in cases:
        notes: list[str] = []
        np.testing.assert_array_equal(decode_image(data, notes=notes), expected >> (bits - 8))
        assert f"of {bits} bits" in notes[0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_an_image_of_pillow_that_has_sixteen_bits_is_as_its_file(suffix: str) -> None:
    colours = np.linspace(0, 4095, 1200).astype(np.uint16).reshape(20, 20, 3)
    data = cv2.imencode(suffix, colours[..., ::-1])[1].tobytes()
    expected = decode_image(data)
    np.testing.assert_array_equal(expected, colours >> 4)
    np.testing.assert_array_equal(pixels_of(Image.open(io.BytesIO(data))), expected)


def test_another_page_of_pillow_is_that_page() -> None:
    pages = [np.full((20, 20, 3), value, np.uint16) for value in (1000, 4000)]
    data = cv2.imencodemulti(".tif", pages)[1].tobytes()
    image = Image.open(io.BytesIO(data))
    assert pixels_of(image).max() == 1000 >> 2
    image.seek(1)
    assert pixels_of(image).max() == 4000 >> 8, "Pillow's high byte, of the page that was chosen"


@pytest.mark.parametrize("bits", [12, 16])
def test_grey_with_alpha_in_sixteen_bits(bits: int) -> None:
    grey = np.linspace(0, (1 << bits) - 1, 400).astype(np.uint16).reshape(20, 20)
    rows = np.dstack([grey, np.full_like(grey, 65535)]).astype(">u2").reshape(20, -1)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = PNG_START + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 20, 16, 4, 0, 0, 0)) + png_chunk(b"IDAT", packed)
    whole = data + png_chunk(b"IEND", b"")
    expected = (grey >> (bits - 8))[..., None]
    np.testing.assert_array_equal(decode_image(whole), expected)
    assert read_header(whole) == Header("PNG", 20, 20, 1)
    np.testing.assert_array_equal(pixels_of(Image.open(io.BytesIO(whole))), expected)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("orientation", [1, 6])
def test_grey_of_a_tiff_whose_white_is_zero(bits: int, orientation: int) -> None:
    grey = np.linspace(0, (1 << bits) - 1, 600).astype("<u2").reshape(20, 30)
    tags = [(256, 3, 1, 30), (257, 3, 1, 20), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 0), (273, 4, 1, 200)]
    tags += [(274, 3, 1, orientation), (277, 3, 1, 1), (278, 3, 1, 20), (279, 4, 1, grey.nbytes)]
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    data = (b"II*\0" + struct.pack("<I", 8) + table).ljust(200, b"\0") + grey.tobytes()
    white = 255 - (grey >> (bits - 8)).astype(np.uint8)
    expected = white if orientation == 1 else white.T[:, ::-1]
    np.testing.assert_array_equal(decode_image(data)[..., 0], expected)


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency_becomes_rgb() -> None:
    image = Image.fromarray(photo(20, 20)).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_image(encode(image, "PNG", transparency=bytes(range(16)))), expected)


def test_cmyk_jpeg_is_within_a_level_of_tensorflow() -> None:
    import tensorflow as tf

    inks = Image.fromarray(photo(24, 24)).convert("CMYK")
    data = encode(inks, "JPEG", quality=95)
    expected = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    assert np.abs(decode_image(data).astype(int) - expected).max() <= 1


# Orientation -> where the stored corners (top left, top right, bottom left, bottom right) are seen. EXIF 2.3, tag 274.
SEEN = {1: "ABCD", 2: "BADC", 3: "DCBA", 4: "CDAB", 5: "ACBD", 6: "CADB", 7: "DBCA", 8: "BDAC"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    levels = {"A": 10, "B": 90, "C": 170, "D": 250}
    stored = np.zeros((16, 32), np.uint8)
    stored[:8, :16], stored[:8, 16:], stored[8:, :16], stored[8:, 16:] = levels.values()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(stored).convert("RGB"), kind, exif=exif, quality=100)
    seen = decode_image(data)
    header = read_header(data)
    height, width = (32, 16) if orientation >= 5 else (16, 32)
    assert seen.shape == (header.height, header.width, 3) == (height, width, 3)
    corners = [seen[4, 4], seen[4, -4], seen[-4, 4], seen[-4, -4]]
    expected = [levels[corner] for corner in SEEN[orientation]]
    assert np.abs(np.array(corners)[:, 0].astype(int) - expected).max() <= 3


@pytest.mark.parametrize("side", [32, 200])
def test_a_png_is_turned_by_what_stands_behind_its_pixels(side: int, tmp_path: Path) -> None:
    stored = photo(side, 2 * side)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(stored, "PNG")
    end = data.index(b"IEND") - 4
    data = data[:end] + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[end:]
    header, seen = read_header(data), decode_image(data)
    np.testing.assert_array_equal(seen, stored.swapaxes(0, 1)[:, ::-1])
    assert (header.height, header.width) == seen.shape[:2] == (2 * side, side)
    # A file of which the beginning alone is read at first.
    (tmp_path / "a.png").write_bytes(data)
    images = ArchiveImages(open_archive(tmp_path), ["a.png"])
    assert images.shape(0) == images.image(0).shape == (2 * side, side, 3)


def test_damaged_exif_leaves_the_image_upright() -> None:
    data = encode(photo(20, 30), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x12")
    assert decode_image(data).shape == (20, 30, 3)


@pytest.mark.parametrize("name", ["JPEG", "progressive", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_truncation_is_an_error_and_never_other_pixels(name: str) -> None:
    kind = "JPEG" if name == "progressive" else name
    noise = np.random.default_rng(3).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    options: dict[str, Any] = {"progressive": {"progressive": True}, "WEBP": {"lossless": True}}.get(name, {})
    data = encode(noise, kind, **options)
    whole = decode_image(data)
    refused = 0
    for length in range(0, len(data), 7):
        try:
            pixels = decode_image(data[:length])
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(pixels, whole)
    assert refused >= len(range(0, int(0.95 * len(data)), 7))


def png_header_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    start = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return PNG_START + start + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8001, 9000, 20_000, 100_000])
def test_huge_images_are_refused_by_their_header(side: int) -> None:
    jpeg = bytearray(encode(photo(16, 16), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", min(side, 65000), min(side, 65000))
    for data in (png_header_of(side, side), bytes(jpeg)):
        for function in (read_header, decode_image):
            with pytest.raises(ImageError, match="more than the 64,000,000 allowed"):
                function(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"hello, I am no image", "not an image in a known format"),
        (encode(np.zeros((1, 1), np.uint8), "PNG"), "1 x 1 pixels, smaller than 8"),
        (encode(np.zeros((40, 7), np.uint8), "JPEG"), "7 x 40 pixels, smaller than 8"),
        (encode(np.zeros((20, 20), np.float32), "TIFF"), "pixels of kind F"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + b"\0" * 40 + b"\xff\xd9", "cannot decode|not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\xaa" * 200, "cannot decode|not an image"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(data)


def test_random_damage_never_raises_anything_else() -> None:
    rng = np.random.default_rng(5)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        whole = encode(photo(24, 24), kind)
        for _ in range(40):
            data = bytearray(whole)
            for position in rng.integers(0, min(len(data), 300), 6):
                data[position] = rng.integers(0, 256)
            try:
                assert decode_image(bytes(data)).dtype == np.uint8
            except ImageError as error:
                assert "\n" not in str(error)
