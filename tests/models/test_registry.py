"""The table of networks: lookups, errors, preprocessing, and that reading it needs no Keras."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

import emotiw_keras.models as zoo
from emotiw_keras.errors import ModelError
from emotiw_keras.models import get_spec, model_names

CLASSES = {
    "alexnet": "AlexNet",
    "caffenet": "CaffeNet",
    "alexnet_owt": "AlexNetOWT",
    "vgg_cnn_f": "VGGCNNF",
    "vgg_cnn_m": "VGGCNNM",
    "vgg_cnn_m_2048": "VGGCNNM2048",
    "vgg_cnn_m_1024": "VGGCNNM1024",
    "vgg_cnn_m_128": "VGGCNNM128",
    "vgg_cnn_s": "VGGCNNS",
    "face_vgg": "FaceVGG",
    "squeezenet": "SqueezeNet",
    "squeezenet_v1_1": "SqueezeNetV1_1",
    "pathnet": "PathNet",
    "senet50": "SENet50",
    "efficientnet_lite0": "EfficientNetLite0",
}


def test_names_and_classes() -> None:
    assert {name: get_spec(name).class_name for name in model_names()} == CLASSES
    for name, class_name in CLASSES.items():
        spec = get_spec(name)
        assert spec.name == name
        assert getattr(zoo, class_name) is getattr(importlib.import_module(spec.module), class_name)
        assert class_name in dir(zoo)


def test_the_table_is_read_without_keras() -> None:
    code = (
        "import sys, emotiw_keras.models as m; m.get_spec('alexnet'); "
        "sys.exit(any(x in sys.modules for x in ('keras', 'tensorflow', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(("wrong", "near"), [("AlexNet", "alexnet"), ("vgg-cnn-m-2084", "vgg_cnn_m_2048")])
def test_an_unknown_name_gets_the_near_one_and_all(wrong: str, near: str) -> None:
    with pytest.raises(ModelError, match=f"unknown model '{wrong}': did you mean {near}\\? expected one of alexnet, "):
        get_spec(wrong)


def test_a_name_like_none_gets_no_guess() -> None:
    with pytest.raises(ModelError, match="unknown model 'zzz': expected one of alexnet, caffenet"):
        get_spec("zzz")


def test_no_other_attribute() -> None:
    with pytest.raises(AttributeError, match="ResNet"):
        _ = zoo.ResNet


@pytest.mark.parametrize("name", model_names())
def test_preprocess_input_takes_rgb_images(name: str) -> None:
    spec = get_spec(name)
    module = importlib.import_module(spec.module)
    image = np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3), np.uint8)
    got = module.preprocess_input(image)
    red, green, blue = (image[..., c].astype("float64") for c in range(3))
    if name == "alexnet_owt":
        planes = [(red / 255 - 0.485) / 0.229, (green / 255 - 0.456) / 0.224, (blue / 255 - 0.406) / 0.225]
    elif name in ("alexnet", "caffenet"):
        planes = [blue - 104.00699, green - 116.66877, red - 122.67891]
    elif name == "face_vgg":
        planes = [(plane - 129.5) / 65 for plane in (red, green, blue)]
    elif name in ("squeezenet", "squeezenet_v1_1"):
        planes = [blue - 104, green - 117, red - 123]
    elif name == "efficientnet_lite0":
        planes = [(plane - 127) / 128 for plane in (red, green, blue)]
    elif name == "pathnet":
        planes = [(plane - 128) / 64 for plane in (red, green, blue)]
    elif name == "senet50":
        planes = [blue - 91.4953, green - 103.8827, red - 131.0912]
    else:
        planes = [blue - 102.717, green - 115.773, red - 123.509]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.stack(planes, axis=-1), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(module.preprocess_input(image[0].astype("float32")), got[0])


def test_preprocess_input_refuses_grey() -> None:
    module = importlib.import_module(get_spec("alexnet").module)
    with pytest.raises(ModelError, match="got shape \\(2, 4, 5, 1\\)"):
        module.preprocess_input(np.zeros((2, 4, 5, 1)))
    with pytest.raises(ValueError, match="data_format is 'last', expected one of channels_last, channels_first"):
        module.preprocess_input(np.zeros((2, 4, 5, 3)), data_format="last")
    with pytest.raises(ValueError, match="got shape \\(2, 4, 5, 3\\), expected RGB images \\(..., 3, height, width\\)"):
        module.preprocess_input(np.zeros((2, 4, 5, 3)), data_format="channels_first")


@pytest.mark.parametrize("name", ["alexnet", "alexnet_owt"])  # BGR minus a mean, RGB and divided too
def test_preprocess_input_takes_what_keras_users_have(name: str) -> None:
    import keras
    import tensorflow as tf

    prepared = importlib.import_module(get_spec(name).module).preprocess_input
    images = np.random.default_rng(1).integers(0, 256, (4, 6, 5, 3), np.uint8)
    expected = prepared(images)

    def same(found: object) -> None:
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6, atol=1e-5)

    image = keras.Input((6, 5, 3), dtype="uint8")
    output = prepared(image)
    assert (output.shape, output.dtype) == ((None, 6, 5, 3), "float32")
    same(keras.Model(image, output).predict(images, verbose=0))
    same(keras.ops.convert_to_numpy(prepared(keras.ops.convert_to_tensor(images))))

    data = tf.data.Dataset.from_tensor_slices(images).batch(2).map(prepared)
    assert data.element_spec.shape.as_list() == [None, 6, 5, 3]
    same(np.concatenate(list(data.as_numpy_iterator())))
    unknown = tf.data.Dataset.from_generator(lambda: iter(images), output_types=tf.uint8)
    same(np.stack(list(unknown.map(prepared).as_numpy_iterator())))
    with pytest.raises(Exception, match="got shape .6, 5, 1., expected RGB images"):  # TensorFlow's, around ours
        tf.data.Dataset.from_tensor_slices(images[..., :1]).map(prepared)

    first = np.moveaxis(images, -1, 1)
    for given in (first, keras.ops.convert_to_tensor(first)):
        same(np.moveaxis(keras.ops.convert_to_numpy(prepared(given, data_format="channels_first")), 1, -1))


def test_decode_predictions() -> None:
    decode = importlib.import_module(get_spec("vgg_cnn_s").module).decode_predictions
    scores = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])
    assert decode(scores, top=2, labels=("sad", "happy", "fear")) == [
        [("happy", 0.6), ("fear", 0.3)],
        [("sad", 0.5), ("fear", 0.3)],
    ]
    assert len(decode(scores, labels=("sad", "happy", "fear"))[0]) == 3
    with pytest.raises(ModelError, match="no names for the 3 classes"):
        decode(scores)
    with pytest.raises(ModelError, match="3 labels for 1000 classes"):
        decode(np.zeros((1, 1000)), labels=("sad", "happy", "fear"))
    with pytest.raises(ModelError, match="2 labels for 3 classes"):
        decode(scores, labels=("sad", "happy"))
    with pytest.raises(ModelError, match="expected \\(batch, classes\\)"):
        decode(scores[0], labels=("sad", "happy", "fear"))


def test_decode_predictions_knows_the_imagenet_classes() -> None:
    decode = importlib.import_module(get_spec("alexnet").module).decode_predictions
    scores = np.zeros((1, 1000))
    scores[0, [285, 967]] = 0.2, 0.7
    (espresso, _), (cat, _) = decode(scores, top=2)[0]
    assert "espresso" in espresso.lower()
    assert "egyptian cat" in cat.lower()
