"""LayerCAM against finite differences, and where it looks in every network of the zoo."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.errors import ModelError
from emotiw_keras.gradcam import LEAST_PIXELS, LayerCam, heat_of_faces, last_maps, overlay
from emotiw_keras.models import build, model_names
from emotiw_keras.serving.predictor import Predictor

CLASSES = 3


def plain() -> keras.Model:
    """conv, pooling, flatten, hidden units, softmax in the last Dense: the shape of AlexNet.

    Its activation is no ReLU, whose zeros tie for the maximum: there a difference is no gradient.
    """
    x = image = layers.Input((9, 9, 2))
    x = layers.Conv2D(5, 3, padding="same", activation="elu", name="conv")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(6, activation="tanh")(x)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(layers.Dropout(0.5)(x)))


def residual() -> keras.Model:
    """An addition and its ReLU behind branches, a gate of channels on one, a global mean: the shape of a residual network."""
    x = image = layers.Input((9, 9, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    y = layers.Conv2D(4, 3, padding="same", name="branch")(x)
    gate = layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D()(y))
    y = layers.Multiply()([y, layers.Reshape((1, 1, 4))(gate)])
    x = layers.ReLU(name="out")(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(layers.Dropout(0.3)(x))
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))


def of_maps() -> keras.Model:
    """Maps of the classes, their mean, a softmax layer of its own: the shape of SqueezeNet."""
    x = image = layers.Input((9, 9, 2))
    x = layers.Conv2D(CLASSES, 3, activation="relu", name="maps")(x)
    return keras.Model(image, layers.Activation("softmax")(layers.GlobalAveragePooling2D()(x)))


def heat_by_differences(model: keras.Model, name: str, scores: list[layers.Layer], image: np.ndarray, which: int) -> np.ndarray:
    """LayerCAM with central differences in the place of gradients, through NumPy versions of the last layers."""
    maps = np.asarray(keras.Model(model.input, model.get_layer(name).output)(image[None]), np.float64)[0]

    def score(maps: np.ndarray) -> float:
        x: np.ndarray = maps
        for layer in scores:
            if isinstance(layer, layers.MaxPooling2D):
                rows, columns = (size // 2 for size in x.shape[:2])
                x = x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1).max(axis=(1, 3))
            elif isinstance(layer, layers.Flatten):
                x = x.reshape(-1)
            elif isinstance(layer, layers.GlobalAveragePooling2D):
                x = x.mean(axis=(0, 1))
            elif isinstance(layer, layers.Dense):
                kernel, bias = (np.asarray(value, np.float64) for value in layer.get_weights())
                x = x @ kernel + bias
                x = np.tanh(x) if layer.activation is keras.activations.tanh else x
        return float(x[which])

    gradient, step = np.zeros_like(maps), 1e-6
    for place in np.ndindex(maps.shape):
        up, down = maps.copy(), maps.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (score(up) - score(down)) / (2 * step)
    heat = np.maximum((maps * np.maximum(gradient, 0)).sum(axis=-1), 0)
    return heat / heat.max() if heat.max() > 0 else heat


@pytest.mark.parametrize(("network", "name"), [(plain, "conv"), (residual, "out"), (of_maps, "maps")])
def test_heat_is_that_of_finite_differences(network, name: str) -> None:
    keras.utils.set_random_seed(3)
    model = network()
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(len(variable.shape)).normal(0, 0.5, variable.shape))
    cam = LayerCam(model)
    images = np.random.default_rng(1).normal(0, 1, (CLASSES, 9, 9, 2)).astype(np.float32)
    found = cam(images, np.arange(CLASSES))
    behind = [layer for layer in model.layers if model.layers.index(layer) > model.layers.index(model.get_layer(name))]
    for which in range(CLASSES):
        expected = heat_by_differences(model, name, behind, images[which], which)
        np.testing.assert_allclose(found[which], expected, atol=1e-4)
    assert cam.layer == name or cam.layer.startswith("dropout")
    assert found.max() == 1 and found.std() > 0.05, "otherwise the comparison would pass for any heat"


@pytest.mark.parametrize("name", model_names())
def test_every_network_is_looked_at_behind_its_last_convolution(name: str) -> None:
    model = build(name, weights=None, classes=7, width=0.1)
    layer = last_maps(model, least=2)
    rows, columns = layer.output.shape[1:3]
    rest = keras.Model(layer.output, model.outputs[0])
    assert min(rows, columns) > 1
    assert not [weight.path for weight in rest.weights if len(weight.shape) == 4], "a convolution lies behind the maps"
    earlier = [each for each in model.layers[: model.layers.index(layer)] if each.output.shape == layer.output.shape]
    assert any(len(weight.shape) == 4 for each in [*earlier, layer] for weight in each.weights), "no convolution made them"
    image = np.random.default_rng(2).normal(0, 50, (1, *model.input_shape[1:])).astype(np.float32)
    heat = LayerCam(model)(image, np.array([4]))
    finer = last_maps(model)
    assert finer.output.shape[1] * finer.output.shape[2] >= LEAST_PIXELS
    assert heat.shape == (1, *finer.output.shape[1:3]) and heat.min() >= 0 and heat.max() in (0, 1)


def test_alexnet_is_looked_at_before_its_last_pooling() -> None:
    assert last_maps(build("alexnet", weights=None, classes=7, width=0.1)).name == "conv5"
    assert last_maps(build("squeezenet", weights=None, classes=7, width=0.1)).name == "conv10"


def test_networks_without_maps_or_softmax_are_refused() -> None:
    image = layers.Input((5,))
    with pytest.raises(ModelError, match="no convolutional maps"):
        LayerCam(keras.Model(image, layers.Dense(2, activation="softmax")(image)))
    with pytest.raises(ModelError, match="no softmax"):
        LayerCam(build("alexnet", weights=None, classes=7, input_shape=(67, 67, 3), width=0.1, classifier_activation=None))


def test_heat_lies_where_the_crop_lay_and_colours_it() -> None:
    model = of_maps()
    face_input = FaceInput(channels="rgb", resize=13, crop=9, mean=(0.0,) * 3, std=(255.0,) * 3)
    # Two channels, as the little network wants them.
    face_input.call = lambda faces, crops=None: np.asarray(faces[:, 2:11, 2:11, :2], np.float32)  # type: ignore[method-assign]
    faces = np.random.default_rng(4).integers(0, 256, (2, 13, 13, 3), np.uint8)
    heat = heat_of_faces(LayerCam(model), face_input, faces, np.array([0, 1]))
    assert heat.shape == (2, 13, 13) and heat.max() > 0.5
    assert heat[:, :2].max() == heat[:, :, :2].max() == heat[:, 11:].max() == heat[:, :, 11:].max() == 0
    grey = np.full((13, 13, 1), 120, np.uint8)
    cold = overlay(grey, np.zeros((13, 13), np.float32), 26)
    hot = overlay(grey, np.ones((13, 13), np.float32), 26)
    assert cold.shape == hot.shape == (26, 26, 3) and (cold == 120).all()
    assert (hot == np.round(0.3 * 120 + 0.7 * np.array([252, 255, 164]))).all()


def test_what_the_heat_covers_matters_to_the_answer(shared_data: Path) -> None:
    """The figures of the module's docstring."""
    predictor = Predictor("fer28-face-vgg", batch_size=200)
    with zipfile.ZipFile(shared_data / "fer2013" / "fer2013_jpg.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("PrivateTest/") and name.endswith(".jpg"))
        generator = np.random.default_rng(0)
        names = [names[index] for index in generator.permutation(len(names))[:200]]
        faces = np.stack([predictor.prepare(archive.read(name)) for name in names])
    rows = np.arange(len(faces))
    answers = predictor.classify(list(faces))
    classes = answers.argmax(axis=1)
    heat = heat_of_faces(LayerCam(predictor.net), predictor.face_input, faces, classes)
    hottest = heat >= np.quantile(heat, 0.85, axis=(1, 2), keepdims=True)

    def fall(covered: np.ndarray) -> np.ndarray:
        blank = np.where(covered[..., None], faces.mean(axis=(1, 2, 3), keepdims=True).round(), faces).astype(np.uint8)
        return answers[rows, classes] - predictor.classify(list(blank))[rows, classes]

    def elsewhere(covered: np.ndarray) -> np.ndarray:
        moves = [np.roll(covered, generator.integers(0, len(covered), 2), (0, 1)) for _ in range(20)]
        return min(moves, key=lambda moved: int((moved & covered).sum()))

    here = fall(hottest)
    there = np.mean([fall(np.stack([elsewhere(each) for each in hottest])) for _ in range(4)], axis=0)
    others = fall(hottest[np.roll(rows, 1)])
    assert here.mean() > 4 * there.mean() and (here > there).mean() > 0.85
    assert here.mean() > 1.3 * others.mean()
