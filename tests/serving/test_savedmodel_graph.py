"""The served graph sees the same bytes as training does."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from emotiw_keras.data import resize as host
from emotiw_keras.data.images import decode_image
from emotiw_keras.serving import savedmodel_graph as graph

SIDES = (
    1,
    2,
    3,
    47,
    48,
    61,
    96,
    97,
    128,
    200,
    255,
    256,
    257,
    300,
    350,
    511,
    512,
    640,
    768,
    1000,
    1024,
    1080,
    1920,
    2048,
)


@pytest.mark.parametrize("target", (48, 76, 224, 256))
def test_weights_are_the_hosts_at_every_size(target: int) -> None:
    compute = tf.function(lambda source: graph.resize_weights(source, target), input_signature=[tf.TensorSpec((), tf.int64)])
    for source in [*range(1, 400, 7), *SIDES]:
        found = compute(source).numpy()
        np.testing.assert_array_equal(found, host.resize_weights(source, target), err_msg=f"{source} -> {target}")


@pytest.mark.parametrize("channels", (1, 3))
def test_resize_is_the_hosts_bit_for_bit(channels: int) -> None:
    generator = np.random.default_rng(channels)
    spec = tf.TensorSpec((None, None, None, channels), tf.uint8)
    compute = tf.function(lambda images: graph.resize(images, 256), input_signature=[spec])
    for height, width in [
        (1, 1),
        (48, 48),
        (256, 256),
        (256, 31),
        (97, 61),
        (300, 411),
        (1023, 257),
        (640, 480),
        (8, 2000),
    ]:
        image = generator.integers(0, 256, (height, width, channels), np.uint8)
        expected = host.resize(image, 256, 256)
        np.testing.assert_array_equal(compute(image[None]).numpy()[0], expected, err_msg=f"{height} x {width}")


def test_a_batch_is_resized_as_its_images_are() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 30, 70, 3), np.uint8)
    expected = [host.resize(image, 64, 64) for image in images]
    np.testing.assert_array_equal(graph.resize(tf.constant(images), 64).numpy(), expected)


def test_grey_is_the_hosts_for_every_level() -> None:
    generator = np.random.default_rng(0)
    colour = generator.integers(0, 256, (64, 64, 3), np.uint8)
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=-1)
    np.testing.assert_array_equal(graph.to_grey(tf.constant(colour)).numpy(), host.to_grey(colour))
    np.testing.assert_array_equal(graph.to_grey(tf.constant(levels)).numpy(), levels[..., :1])


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("kind", ("JPEG", "PNG", "BMP", "GIF", "WEBP"))
def test_bytes_decode_as_the_reader_decodes_them(kind: str, channels: int) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (37, 53, channels), np.uint8)
    pixels = host.resize(pixels[:6, :9], 37, 53)
    data = encoded(pixels, kind, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.broadcast_to(decode_image(data), (37, 53, 3))
    np.testing.assert_array_equal(graph.decode(tf.constant(data)).numpy(), expected)


@pytest.mark.parametrize("bits", (8, 10, 12, 14, 16))
@pytest.mark.parametrize("channels", (1, 3, 4))
def test_bits_of_a_sensor_in_sixteen_are_as_bright_as_the_reader_has_them(channels: int, bits: int) -> None:
    pixels = np.random.default_rng(3).integers(0, 1 << bits, (37, 53, channels)).astype(np.uint16)
    pixels[..., 3:] = 0xFFFF
    data = cv2.imencode(".png", pixels)[1].tobytes()
    expected = np.broadcast_to(decode_image(data), (37, 53, 3))
    assert expected.max() > 250
    np.testing.assert_array_equal(graph.decode(tf.constant(data)).numpy(), expected)


@pytest.mark.parametrize("lossless", [True, False])
def test_the_transparency_of_webp_is_dropped(lossless: bool) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (37, 53, 4), np.uint8)
    data = encoded(pixels, "WEBP", lossless=lossless)
    decode = tf.function(graph.decode, input_signature=[tf.TensorSpec((), tf.string)])
    np.testing.assert_array_equal(decode(data), decode_image(data))


def test_what_is_too_small_for_the_reader_is_refused() -> None:
    for shape in ((7, 9, 3), (9, 7, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="smaller than"):
            graph.decode(tf.constant(encoded(np.zeros(shape, np.uint8), "PNG")))


def test_an_animation_gives_its_first_image() -> None:
    first, second = np.full((9, 9, 3), 40, np.uint8), np.full((9, 9, 3), 200, np.uint8)
    for kind in ("GIF", "PNG"):
        file = io.BytesIO()
        Image.fromarray(first).save(file, kind, save_all=True, append_images=[Image.fromarray(second)])
        np.testing.assert_array_equal(graph.decode(tf.constant(file.getvalue())).numpy(), np.full((9, 9, 3), 40))


def test_the_size_of_each_kind_is_read_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MAX_BLOCKS", 200)
    pixels = np.random.default_rng(3).integers(0, 256, (37, 53, 3), np.uint8)
    bitmap, moving = bytearray(encoded(pixels, "BMP")), encoded(pixels, "GIF")
    lossy, exif = encoded(pixels, "WEBP"), encoded(pixels, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    bitmap[22:26] = struct.pack("<i", -37)
    frame = moving.index(b",", 13 + 3 * 256)
    end = b"," + struct.pack("<HHHHB", 0, 0, 60000, 60000, 0) + b"\x08\x02\0\x01\0;"
    decode = tf.function(graph.decode, input_signature=[tf.TensorSpec((), tf.string)])
    np.testing.assert_array_equal(decode(bytes(bitmap)), np.flipud(pixels))
    np.testing.assert_array_equal(decode(moving[:-1] + end), decode(moving))
    assert decode(lossy).shape == decode(exif).shape == (37, 53, 3)
    bitmap[18:26] = struct.pack("<ii", 8001, -8001)
    huge = [
        bytes(bitmap),
        moving[: frame + 5] + struct.pack("<HH", 60000, 60000) + moving[frame + 9 :],
        lossy[:26] + struct.pack("<HH", 16000, 16000) + lossy[30:],
        exif[:24] + b"\xff\xff\0" * 2 + exif[30:],
        b"RIFF"
        + struct.pack("<I", 26)
        + b"WEBPVP8L"
        + struct.pack("<I", 14)
        + b"/"
        + struct.pack("<I", 15999 * (2**14 + 1))
        + bytes(9),
    ]
    for data in huge:
        with pytest.raises(tf.errors.InvalidArgumentError, match="an image of"):
            decode(data)
    blocks = moving[:frame] + b"!\xfe" + b"\x01a" * 300 + b"\0" + moving[frame:]
    for data in (b"RIFF\x20\0\0\0WEBPXXXX" + bytes(30), blocks, moving[:frame], moving[:6]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="that tells its size"):
            decode(data)


def test_what_would_hold_the_decoder_up_is_refused() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8)
    progressive = encoded(pixels, "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    scans = progressive[:last] + progressive[last:-2] * 60 + b"\xff\xd9"
    frame = progressive.index(b"\xff\xc2")
    huge = progressive[: frame + 5] + b"\xf0\0\xf0\0" + progressive[frame + 9 :]
    png = encoded(pixels, "PNG")
    moving = encoded(pixels, "WEBP", save_all=True, append_images=[Image.fromarray(pixels[::-1])])
    wide = png[:16] + b"\0\1\0\0" * 2 + png[24:]
    decode = tf.function(graph.decode, input_signature=[tf.TensorSpec((), tf.string)])
    np.testing.assert_array_equal(decode(progressive), decode_image(progressive))
    for data, reason in ((scans, "a JPEG of"), (huge, "an image of"), (wide, "an image of"), (moving, "an animated WebP")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=reason):
            decode(data)
    for data in (b"", b"\xff", b"RIFF", b"no image"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(data)


@pytest.mark.parametrize("quality", (50, 75, 95))
def test_jpeg_pixels_are_opencvs_too(quality: int) -> None:
    import cv2

    pixels = host.resize(np.random.default_rng(4).integers(0, 256, (8, 8, 1), np.uint8), 48, 48)
    data = encoded(pixels, "JPEG", quality=quality)
    opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(graph.decode(tf.constant(data)).numpy()[..., 0], opencv)
