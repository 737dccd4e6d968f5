"""LayerCAM: where in a face the network found its answer.

P.-T. Jiang et al.: LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, IEEE Transactions on Image
Processing 2021. Each place of each map counts by its own gradient of the class's score before the softmax, what speaks
against the class is cut off, and the maps are summed. It shows where the evidence lies, not why it counts.

A heat is worth showing if what it covers matters. Of 200 PrivateTest faces of FER-2013, read by `fer28-face-vgg`, the hottest
15 % of the pixels were blanked with the face's mean: the answer fell by 0.33 of 0.72, by 0.03 where as much of the same shape
was blanked elsewhere (less than under the heat in 95 % of the faces), and by 0.21 under the heat of another face. Grad-CAM on
the last maps, of 6 x 6 pixels, showed nearly the same blob for every face: 0.20, and 0.18 under another's. So maps of at
least `LEAST_PIXELS` are taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from emotiw_keras.data.resize import resize, resize_weights
from emotiw_keras.errors import ModelError

if TYPE_CHECKING:
    from emotiw_keras.data.face_input import FaceInput

BATCH = 16
# Of the maps that are weighted, where there are such; and of any that can be.
LEAST_PIXELS, FEWEST_PIXELS = 100, 2
# Dark to bright, as in Matplotlib's "inferno": told apart in grey and by the colour-blind.
SHADES = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)
STRONGEST = 0.7
"""How much of the face the brightest colour covers."""


def _cut(model: keras.Model, layer: keras.layers.Layer) -> keras.Model | None:
    """The rest of a network behind a layer, or None where the output needs more than this layer's."""
    try:
        return keras.Model(layer.output, model.outputs[0])
    except (ValueError, AttributeError):  # Keras' words for more than one way, and for a layer without one output
        return None


def last_maps(model: keras.Model, least: int = LEAST_PIXELS) -> keras.layers.Layer:
    """The layer whose output are the last convolutional maps that are fine enough: found by structure, not by names.

    It is the last place where the whole network is one tensor of (batch, height, width, channels) with more than one pixel; of
    those behind the same weights the one with most pixels, which is the one before a pooling. In a residual network that is
    the last addition with its ReLU, in a fire module the concatenation.

    Args:
        model: the network.
        least: pixels that the maps should have; where none do, the last maps are taken.

    Raises:
        ModelError: no layer gives such maps.
    """
    best: keras.layers.Layer | None = None
    behind: int | None = None
    pixels = 1
    for layer in reversed(model.layers):
        shape: tuple[Any, ...] = getattr(getattr(layer, "output", None), "shape", ())
        if len(shape) != 4 or None in shape[1:] or shape[1] * shape[2] < least or isinstance(layer, keras.layers.InputLayer):
            continue
        rest = _cut(model, layer)
        if rest is None:
            continue
        weights = len(rest.weights)
        if behind is not None and weights != behind:
            break
        behind = weights
        if shape[1] * shape[2] > pixels:
            best, pixels = layer, shape[1] * shape[2]
    if best is None and least > FEWEST_PIXELS:
        return last_maps(model, FEWEST_PIXELS)
    if best is None:
        raise ModelError(f"{model.name} has no convolutional maps of more than one pixel; LayerCAM needs some")
    return best


class LayerCam:
    """LayerCAM of a network that ends in a softmax.

    Args:
        model: prepared images, float (batch, height, width, channels) -> probabilities (batch, classes).

    Attributes:
        layer: name of the layer whose maps are weighted.

    Raises:
        ModelError: there are no convolutional maps, or the network does not end in a softmax.

    Example:
        >>> cam = LayerCam(run.build())                                         # doctest: +SKIP
        >>> cam(run.face_input()(faces), classes=[3]).shape                    # doctest: +SKIP
        (1, 13, 13)
    """

    def __init__(self, model: keras.Model) -> None:
        layer, last = last_maps(model), model.layers[-1]
        self.layer = layer.name
        if getattr(last, "activation", None) is not keras.activations.softmax and not isinstance(last, keras.layers.Softmax):
            raise ModelError(f"{model.name} ends in {last.name}, which is no softmax; LayerCAM needs the scores before one")
        self._maps = keras.Model(model.inputs[0], layer.output)
        self._rest = keras.Model(layer.output, last.input) if last.input is not layer.output else None
        self._last = last

    def _scores(self, maps: Any) -> Any:
        """The scores of the classes before the softmax, (batch, classes)."""
        units = maps if self._rest is None else self._rest(maps, training=False)
        if not isinstance(self._last, keras.layers.Dense):
            return units
        scores = keras.ops.matmul(units, self._last.kernel)
        return scores if self._last.bias is None else scores + self._last.bias

    def __call__(self, images: Any, classes: np.ndarray) -> np.ndarray:
        """Heat of each image for one class each.

        Args:
            images: float (batch, height, width, channels), as the network takes them.
            classes: int (batch,).

        Returns:
            float32 (batch, rows, columns) of the maps, 0..1, each divided by its own largest value; all 0 where nothing
            speaks for the class.
        """
        import tensorflow as tf

        maps = tf.convert_to_tensor(self._maps(images, training=False))
        with tf.GradientTape() as tape:
            tape.watch(maps)
            score = tf.gather(self._scores(maps), tf.constant(classes, tf.int32), axis=1, batch_dims=1)
        weights = tf.nn.relu(tape.gradient(score, maps))
        heat = np.asarray(tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1)), np.float32)
        largest = heat.max(axis=(1, 2), keepdims=True)
        return np.divide(heat, largest, out=np.zeros_like(heat), where=largest > 0)


def heat_of_faces(cam: LayerCam, face_input: FaceInput, faces: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """LayerCAM on whole faces, by their centre crop.

    Args:
        cam: of the network.
        face_input: the layer that prepares faces for it.
        faces: uint8 (n, height, width, 1 or 3).
        classes: int (n,).

    Returns:
        float32 (n, side, side), 0..1, with the side to which `face_input` resizes; 0 outside of the crop.
    """
    side, crop, start = face_input.resize, face_input.crop, face_input.room // 2
    whole = np.zeros((len(faces), side, side), np.float32)
    for first in range(0, len(faces), BATCH):
        part = slice(first, first + BATCH)
        heat = cam(face_input(faces[part]), np.asarray(classes)[part])
        whole[part, start : start + crop, start : start + crop] = resized_heat(heat, crop)
    return whole


def resized_heat(heat: np.ndarray, side: int) -> np.ndarray:
    """Heat of another size, bilinear: float32 (n, rows, columns) -> (n, side, side)."""
    down, across = (resize_weights(size, side).astype(np.float32) for size in heat.shape[1:])
    return down @ heat @ across.T


def overlay(face: np.ndarray, heat: np.ndarray, side: int) -> np.ndarray:
    """A face with its heat laid over it, the brighter the hotter.

    Args:
        face: uint8 (height, width, 1 or 3).
        heat: float32 (rows, columns), 0..1, over the whole face.
        side: of the image, in pixels.

    Returns:
        uint8 (side, side, 3), RGB.
    """
    image = resize(face, side, side)
    image = (np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image).astype(np.float32)
    strength = np.clip(resized_heat(heat[None], side)[0], 0, 1)
    places = np.linspace(0, 1, len(SHADES))
    colour = np.stack([np.interp(strength, places, SHADES[:, channel]) for channel in range(3)], axis=-1)
    share = STRONGEST * strength[..., None]
    return np.round(image * (1 - share) + colour * share).astype(np.uint8)
