"""The graph that is served: from image bytes or pixels of any size to named probabilities.

It repeats the host's grey and resize (`emotiw_keras.data.resize`) for sizes that are known only when it runs.
Everything up to the network's input is whole numbers computed exactly, so that the served model sees the very bytes
that the network was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from emotiw_keras.data.image_bounds import MAX_PIXELS
from emotiw_keras.data.images import MIN_SIDE, SENSOR_BITS
from emotiw_keras.data.one_channel import for_grey
from emotiw_keras.data.resize import LUMA
from emotiw_keras.inference import crop_mean

if TYPE_CHECKING:
    from emotiw_keras.data.face_input import FaceInput
    from emotiw_keras.heads import Head

WEIGHT_STEPS = 2**15
# Of a JPEG and the previews in it; progressive ones have about ten.
MAX_SCANS = 40
# Of a GIF up to the end of its first frame: 8 MB as programs write them.
MAX_BLOCKS = 2**15


def resize_weights(source: tf.Tensor, target: int) -> tf.Tensor:
    """Weights of one axis as `emotiw_keras.data.resize.resize_weights` has them, for a size known only at run time.

    A weight is a rational number with small terms: it is rounded to multiples of 2^-15 in whole-number arithmetic, in
    which no order of summation and no processor can change a tie.

    Args:
        source: int64 scalar, pixels before.
        target: pixels after.

    Returns:
        float64 (target, source).
    """
    here = tf.range(source, dtype=tf.int64)[None, :]
    there = tf.range(target, dtype=tf.int64)[:, None]
    goal = tf.constant(target, tf.int64)
    reach = 2 * tf.maximum(source, goal)
    share = tf.maximum(tf.zeros((), tf.int64), reach - tf.abs((2 * here + 1) * goal - (2 * there + 1) * source))
    steps = _round_half_even(share * WEIGHT_STEPS, tf.reduce_sum(share, axis=1, keepdims=True))
    nearest = _round_half_even((2 * there + 1) * source - goal, 2 * goal)
    nearest = tf.clip_by_value(nearest, 0, source - 1)
    missing = WEIGHT_STEPS - tf.reduce_sum(steps, axis=1, keepdims=True)
    steps += tf.where(here == nearest, missing, tf.zeros((), tf.int64))
    return tf.cast(steps, tf.float64) / WEIGHT_STEPS


def _round_half_even(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    quotient = numerator // denominator
    twice = 2 * (numerator - quotient * denominator)
    up = (twice > denominator) | ((twice == denominator) & (quotient % 2 == 1))
    return quotient + tf.cast(up, tf.int64)


def resize(images: tf.Tensor, side: int) -> tf.Tensor:
    """Resize to a square exactly as `emotiw_keras.data.resize.resize` does.

    Args:
        images: uint8 0..255, (batch, height, width, channels), channels known, the other sizes not.
        side: pixels of each side of the result.

    Returns:
        uint8 (batch, side, side, channels).
    """
    size = tf.shape(images)
    # Faces that have the size already, as crops of our own do, need no products.
    there = (size[1] == side) & (size[2] == side)
    faces = tf.cond(there, lambda: images, lambda: _resized(images, side))
    return tf.ensure_shape(faces, (None, side, side, images.shape[-1]))


def _resized(images: tf.Tensor, side: int) -> tf.Tensor:
    channels = images.shape[-1]
    size = tf.shape(images, out_type=tf.int64)
    batch, height, width = size[0], size[1], size[2]
    # float64: on a GPU a product of float32 may silently be computed with 10 bits, which would spoil whole numbers.
    faces = tf.reshape(tf.cast(images, tf.float64), tf.stack([batch, height, width * channels]))
    faces = tf.round(tf.matmul(resize_weights(height, side)[None], faces))
    faces = tf.reshape(faces, tf.stack([batch, side, width, channels]))
    columns = tf.reshape(tf.transpose(faces, (0, 1, 3, 2)), tf.stack([batch * side * channels, width]))
    columns = tf.round(tf.matmul(columns, resize_weights(width, side), transpose_b=True))
    faces = tf.transpose(tf.reshape(columns, (-1, side, channels, side)), (0, 1, 3, 2))
    return tf.cast(faces, tf.uint8)


def to_grey(images: tf.Tensor) -> tf.Tensor:
    """Luma exactly as `emotiw_keras.data.resize.to_grey` has it: uint8 (..., 3) RGB -> uint8 (..., 1)."""
    weighted = tf.reduce_sum(tf.cast(images, tf.int32) * tf.constant(LUMA, tf.int32), axis=-1, keepdims=True)
    return tf.cast(tf.bitwise.right_shift(weighted + 32768, 16), tf.uint8)


def decode(data: tf.Tensor) -> tf.Tensor:
    """Decode one JPEG, PNG, BMP, GIF or WebP image: string scalar -> uint8 (height, width, 3) RGB.

    Of an animation the first frame. EXIF orientation is ignored; transparency is dropped; 16 bits become 8 as in
    `emotiw_keras.data.images`. Refused before they are decoded are images of more than `MAX_PIXELS` or of a size that is not
    told, JPEGs of many scans, which take minutes, and animated WebP, which damages TensorFlow; then those of less than
    `MIN_SIDE` pixels a side.
    """
    content = tf.io.decode_raw(data, tf.uint8)
    # Of a shorter file the decoder says that it is none.
    start = tf.cast(tf.concat([content, tf.zeros(30, tf.uint8)], axis=0)[:30], tf.int64)

    def says(kind: bytes, place: int = 0) -> tf.Tensor:
        return tf.reduce_all(start[place : place + len(kind)] == tf.constant(list(kind), tf.int64))

    jpeg, png, gif, bmp = (says(kind) for kind in (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM"))
    lossy, lossless, extended = (says(b"RIFF") & says(b"WEBP" + kind, 8) for kind in (b"VP8 ", b"VP8L", b"VP8X"))
    animated = extended & (tf.bitwise.bitwise_and(start[20], tf.constant(2, tf.int64)) > 0)
    frame, end = tf.cond(gif, lambda: _first_frame(content), lambda: (tf.zeros((), tf.int64), tf.zeros((), tf.int64)))

    def jpeg_pixels() -> tf.Tensor:
        return tf.reduce_prod(tf.cast(tf.io.extract_jpeg_shape(data)[:2], tf.int64))

    def png_pixels() -> tf.Tensor:
        return _number(start[19:15:-1]) * _number(start[23:19:-1])

    def bmp_pixels() -> tf.Tensor:
        height = _number(start[22:26])
        return _number(start[18:22]) * tf.minimum(height, 2**32 - height)  # below 0 where the first row is the top one

    def lossless_pixels() -> tf.Tensor:
        bits = _number(start[21:25])
        return (bits % 2**14 + 1) * (bits // 2**14 % 2**14 + 1)

    sizes = [
        (jpeg, jpeg_pixels),
        (png, png_pixels),
        (bmp, bmp_pixels),
        (gif, lambda: frame),
        (lossy, lambda: (_number(start[26:28]) % 2**14) * (_number(start[28:30]) % 2**14)),
        (lossless, lossless_pixels),
        (extended, lambda: (_number(start[24:27]) + 1) * (_number(start[27:30]) + 1)),
    ]
    size = tf.case(sizes, default=lambda: tf.zeros((), tf.int64))
    scans = tf.math.count_nonzero((content[:-1] == 0xFF) & (content[1:] == 0xDA), dtype=tf.int64)
    checks = [
        tf.debugging.Assert(~animated, ["an animated WebP; send its first frame"]),
        tf.debugging.Assert(size > 0, ["no JPEG, PNG, BMP, GIF or WebP that tells its size"]),
        tf.debugging.Assert(size <= MAX_PIXELS, ["an image of", size, "pixels; at most", MAX_PIXELS]),
        tf.debugging.Assert(~jpeg | (scans <= MAX_SCANS), ["a JPEG of", scans, "scans; at most", MAX_SCANS]),
    ]

    def common() -> tf.Tensor:
        # The accurate method is the one that gives OpenCV's pixels; the operation also takes PNG.
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")

    def deep() -> tf.Tensor:
        pixels = tf.cast(tf.io.decode_png(data, channels=3, dtype=tf.uint16), tf.int32)
        bits = tf.constant(SENSOR_BITS)
        # no value above those of a sensor: its bits
        held = tf.reduce_min(tf.where(tf.reduce_max(pixels) < tf.bitwise.left_shift(1, bits), bits, 16))
        return tf.cast(tf.bitwise.right_shift(pixels, held - 8), tf.uint8)

    def other() -> tf.Tensor:
        # Of a GIF TensorFlow decodes all frames that it is given, and makes room for the largest.
        first = tf.strings.join([tf.strings.substr(data, tf.zeros((), tf.int64), end), ";"])
        image = tf.io.decode_image(tf.where(gif, first, data), channels=3, expand_animations=False)
        return tf.reshape(image, tf.shape(image)[-3:])

    def webp() -> tf.Tensor:
        # Of one with transparency TensorFlow gives no three channels.
        return tf.io.decode_image(data, channels=0, expand_animations=False)[..., :3]

    with tf.control_dependencies(checks):
        kinds = [(png & (start[24] == 16), deep), (jpeg | png, common), (lossy | lossless | extended, webp)]
        image = tf.case(kinds, default=other)
    large = tf.debugging.Assert(tf.reduce_min(tf.shape(image)[:2]) >= MIN_SIDE, ["smaller than", MIN_SIDE, "pixels a side"])
    with tf.control_dependencies([large]):
        return tf.ensure_shape(image, (None, None, 3))


def _number(digits: tf.Tensor) -> tf.Tensor:
    """int64 bytes, the least first -> the number that they are."""
    return tf.reduce_sum(tf.bitwise.left_shift(digits, 8 * tf.range(tf.size(digits, tf.int64))))


def _first_frame(content: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """uint8 (bytes,) of a GIF -> pixels of its first frame, 0 where that does not come soon, and the place behind it."""
    length = tf.size(content, tf.int64)
    padded = tf.concat([content, tf.zeros(16, tf.uint8)], axis=0)

    def palette(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    # What stands at `place`: an extension or a frame, a block of an extension, a block of the frame, nothing that matters.
    outside, extension, frame, over = (tf.constant(stage, tf.int64) for stage in range(4))

    def step(place: tf.Tensor, stage: tf.Tensor, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        part = tf.cast(padded[place : place + 10], tf.int64)
        begins = (stage == outside) & (part[0] == ord(","))
        further = (stage == outside) & (part[0] == ord("!"))
        past = tf.where(begins, 11 + palette(part[9]), tf.where(further, tf.constant(2, tf.int64), 1 + part[0]))
        follows = tf.where(part[0] > 0, stage, tf.where(stage == frame, over, outside))
        opens = tf.where(begins, frame, tf.where(further, extension, over))
        pixels = tf.where(begins, _number(part[5:7]) * _number(part[7:9]), pixels)
        return place + past, tf.where(stage == outside, opens, follows), pixels

    def goes_on(place: tf.Tensor, stage: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
        return (place < length) & (stage != over)

    first = (13 + palette(tf.cast(padded[10], tf.int64)), outside, tf.zeros((), tf.int64))
    place, stage, pixels = tf.while_loop(goes_on, step, first, maximum_iterations=MAX_BLOCKS)
    whole = ~goes_on(place, stage, pixels)
    return tf.where(whole, pixels, 0), tf.minimum(place, length)


def _entropy(probabilities: tf.Tensor) -> tf.Tensor:
    """As `emotiw_keras.uncertainty.entropy`: float32 (batch, classes) -> float64 (batch,), in nats."""
    values = tf.cast(probabilities, tf.float64)
    return -tf.reduce_sum(tf.math.xlogy(values, values), axis=-1)


class ServedModel(tf.Module):
    """A run as one TensorFlow object with the signatures `serving_default` (bytes) and `pixels`.

    Args:
        net: float images (batch, crop, crop, channels) -> probabilities (batch, classes), in float32; of several heads those of
            all side by side.
        face_input: what prepares faces for it.
        labels: the classes, in the order of the probabilities.
        crops: crops of a face whose probabilities are averaged.
        heads: of the network; `probabilities_NAME` and `labels_NAME` are the answer of each, beside that of the chosen one.
        head: the chosen one; None where there is one answer.
        usable_entropy: in nats; answers with a larger one are `uncertain`, an output that there is not where it is None.
    """

    def __init__(
        self,
        net: Any,
        face_input: FaceInput,
        labels: Sequence[str],
        crops: int = 1,
        heads: Sequence[Head] = (),
        head: Head | None = None,
        usable_entropy: float | None = None,
    ) -> None:
        super().__init__(name="emotiw")
        self._side: int = face_input.resize
        self._grey = face_input.channels == "grey"
        # Behind a function, where tf.Module does not look: the saved object holds variables and graphs, not Keras
        # objects.
        computing, given = for_grey(net, face_input)
        self._net = lambda faces: crop_mean(computing, given, faces, crops)
        self.network_variables = [variable.value for variable in net.weights]
        self._labels = list(labels)
        self._heads = tuple(heads)
        self._columns = slice(None) if head is None else head.columns
        self._usable = usable_entropy

    def prepare(self, images: tf.Tensor) -> tf.Tensor:
        """uint8 (batch, height, width, 3) RGB of any size -> uint8 (batch, side, side, 1 or 3)."""
        faces = to_grey(images) if self._grey else images
        return resize(faces, self._side)

    def classify(self, faces: tf.Tensor, ok: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """uint8 (batch, side, side, channels), and which of them are any, bool (batch,) (all if None) -> a row for each.

        The batch is the first dimension of all of them: TensorFlow Serving refuses others in its rows and in its batching.
        """
        # No faces go as one black face: on some processors TensorFlow fails to concatenate empty arrays.
        count = tf.shape(faces)[0]
        ok = tf.fill(count[None], True) if ok is None else ok
        faces = tf.pad(faces, [[0, tf.cast(count == 0, tf.int32)], [0, 0], [0, 0], [0, 0]])
        whole = tf.cast(self._net(faces), tf.float32)[:count]  # type: ignore[no-untyped-call]
        probabilities = whole[:, self._columns]
        labels = tf.constant(self._labels)
        best = tf.gather(labels, tf.argmax(probabilities, axis=-1))
        unsure = {} if self._usable is None else {"uncertain": ok & (_entropy(probabilities) > self._usable)}
        return {
            "probabilities": tf.where(ok[:, None], probabilities, 0.0),
            **unsure,
            "labels": tf.tile(labels[None], [count, 1]),
            "label": tf.where(ok, best, ""),
            "ok": ok,
            **{f"probabilities_{head.name}": tf.where(ok[:, None], whole[:, head.columns], 0.0) for head in self._heads},
            **{f"labels_{head.name}": tf.tile(tf.constant(head.labels)[None], [count, 1]) for head in self._heads},
        }

    def from_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """string (batch,) of image files -> the same as `classify`; what cannot be decoded is not `ok` and has zeros."""
        side = self._side
        channels = 1 if self._grey else 3
        count = tf.shape(image_bytes)[0]

        def one(place: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return place, tf.ensure_shape(self.prepare(decode(data)[None])[0], (side, side, channels))

        # A graph cannot catch an error; a dataset can leave out the elements that raise one.
        files = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
        faces = files.map(one, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
        # One more behind all others: without any element there would be no batch.
        last = (count[None], tf.zeros((1, side, side, channels), tf.uint8))
        faces = faces.concatenate(tf.data.Dataset.from_tensor_slices(last)).batch(tf.cast(count, tf.int64) + 1)
        places, decoded = faces.get_single_element()
        every = tf.scatter_nd(places[:, None], tf.cast(decoded, tf.int32), tf.stack([count + 1, side, side, channels]))
        ok = tf.scatter_nd(places[:, None], tf.ones_like(places), count[None] + 1) > 0
        return self.classify(tf.ensure_shape(tf.cast(every[:count], tf.uint8), (None, side, side, channels)), ok[:count])

    def from_pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """uint8 (batch, height, width, 1 or 3), RGB -> the same as `classify`."""
        channels = tf.shape(pixels)[-1]
        known = tf.debugging.Assert((channels == 1) | (channels == 3), ["pixels need 1 or 3 channels, not", channels])
        with tf.control_dependencies([known]):
            # Luma of three equal channels is that channel, so that grey pixels need no way of their own.
            colour = tf.tile(pixels, tf.stack([1, 1, 1, 3 // channels]))
        return self.classify(self.prepare(tf.ensure_shape(colour, (None, None, None, 3))))

    def signatures(self) -> dict[str, Any]:
        """The concrete functions to save, by name."""
        specs: dict[str, tuple[Callable[..., Any], tf.TensorSpec]] = {
            "serving_default": (self.from_bytes, tf.TensorSpec((None,), tf.string, name="image_bytes")),
            "pixels": (self.from_pixels, tf.TensorSpec((None, None, None, None), tf.uint8, name="pixels")),
        }
        return {name: tf.function(call, jit_compile=False).get_concrete_function(spec) for name, (call, spec) in specs.items()}
