"""The facts of every network: input size, channel order, mean, layer groups, weights, paper. It needs no Keras."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from emotiw_keras.errors import ModelError
from emotiw_keras.models.applications import APPLICATIONS, PREFIX, PREPROCESSING, TORCH_MEAN, TORCH_STD, Application

if TYPE_CHECKING:
    import keras

LARGEST_SIDE = 1024
"""Pixels: the largest side of a network's input. A face is cut out with 256; what is larger costs memory and says no more."""
LARGEST_WIDTH = 8.0
KRIZHEVSKY = "Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012"
WEIRD_TRICK = "Krizhevsky: One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997"
SQUEEZE = "Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer: SqueezeNet, arXiv:1602.07360"
VERY_DEEP = "Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, arXiv:1409.1556"
PATHS = (
    "Fernando, Banarse, Blundell, Zwols, Ha, Rusu, Pritzel, Wierstra: PathNet: Evolution Channels Gradient Descent in Super "
    "Neural Networks, arXiv:1701.08734"
)
VGGFACE2 = (
    "Cao, Shen, Xie, Parkhi, Zisserman: VGGFace2, FG 2018, arXiv:1710.08092; "
    "Hu, Shen, Sun: Squeeze-and-Excitation Networks, CVPR 2018"
)
DEVIL = "Chatfield, Simonyan, Vedaldi, Zisserman: Return of the Devil in the Details, BMVC 2014, arXiv:1405.3531"

CAFFE_MEAN = (104.00699, 116.66877, 122.67891)
"""Channel means (B, G, R) of Caffe's ILSVRC-2012 mean image; BVLC examples/00-classification.ipynb."""
VGG_CNN_MEAN = (102.717, 115.773, 123.509)
"""Channel means (B, G, R) of the 224x224 mean image released with the VGG-CNN models; not VGG-16's mean pixel."""
SQUEEZE_MEAN = (104.0, 117.0, 123.0)
"""Channel means (B, G, R) in the train_val.prototxt of SqueezeNet."""

PATHNET_SIZES = (3, 10, 3, 20)
"""Layers, modules in a layer, active ones and filters of a module: of the paper's MNIST (units) and of its public ports."""
VGGFACE2_MEAN = (91.4953, 103.8827, 131.0912)
"""Channel means (B, G, R) released with the VGGFace2 networks."""

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
GROUPS = tuple((layer, (layer,)) for layer in LAYERS)
FIRES = tuple((f"fire{n}", (f"fire{n}_squeeze1x1", f"fire{n}_expand1x1", f"fire{n}_expand3x3")) for n in range(2, 10))

FACE_VGG_LEVELS = ((32, 2), (64, 2), (128, 3), (256, 3))
"""Channels and convolutions of each level of FaceVGG."""
FACE_VGG_EPSILON = 1e-5
"""Of its batch normalisations."""


EFFICIENTNET = "Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, arXiv:1905.11946"
EFFICIENTNET_LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Of each stage of EfficientNet-Lite0: blocks, kernel, stride of the first, times as wide in the middle, channels."""


def _efficientnet_lite_groups() -> tuple[tuple[str, tuple[str, ...]], ...]:
    def normalised(*layers: str) -> tuple[str, ...]:
        return tuple(name for layer in layers for name in (layer, f"{layer}_bn"))

    wider = [stage[3] for stage in EFFICIENTNET_LITE0_STAGES for _ in range(stage[0])]
    parts = [("expand", "depthwise", "project")[times == 1 :] for times in wider]
    blocks = [(f"block{n}", normalised(*(f"block{n}_{part}" for part in names))) for n, names in enumerate(parts)]
    return (("stem", normalised("stem")), *blocks, ("head", normalised("head")), ("classifier", ("classifier",)))


def _face_vgg_groups() -> tuple[tuple[str, tuple[str, ...]], ...]:
    convolutions = [f"conv{level}_{n + 1}" for level, (_, count) in enumerate(FACE_VGG_LEVELS, 1) for n in range(count)]
    return (*((name, (name, f"{name}_bn")) for name in convolutions), ("classifier", ("classifier",)))


@dataclass(frozen=True)
class ModelSpec:
    """What is known of one network. Channel values are in `channel_order`, in units of 0..255 pixels.

    `mean_image` says where a mean image belongs: "resize", on the resized image before the crop; "crop", on the crop.
    `groups` are the layers that hold weights, from input to output; `parameters` counts those of the released network, which
    has `classes` outputs; `weights` is the key of its weights in the weights manifest, "" where none are published, and
    `trained_on` the word for them; `input_channels` is 1 for a network that reads grey faces as one channel.
    """

    name: str
    class_name: str
    module: str
    title: str
    input_size: int
    resize: int
    channel_order: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    mean_image: Literal["resize", "crop"] | None
    parameters: int
    paper: str
    weights: str
    licence: str
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    groups: tuple[tuple[str, tuple[str, ...]], ...] = GROUPS
    classifier: str = "fc8"
    input_channels: int = 3
    classes: int = 1000
    trained_on: Literal["imagenet", "vggface2"] = "imagenet"

    @property
    def is_application(self) -> bool:
        """Whether it is one of `keras.applications`, whose layers are Keras' own: it has one width, and no table of groups."""
        return self.name in APPLICATIONS


def _vgg_cnn(letter: str, parameters: int, fc7: int | None = None) -> ModelSpec:
    tail = f"-{fc7}" if fc7 else ""
    name = f"vgg_cnn_{letter.lower()}" + (f"_{fc7}" if fc7 else "")
    return ModelSpec(
        name=name,
        class_name=f"VGGCNN{letter}{fc7 or ''}",
        module="emotiw_keras.models.vgg_cnn",
        title=f"VGG-CNN-{letter}{tail}",
        input_size=224,
        resize=256,
        channel_order="bgr",
        mean=VGG_CNN_MEAN,
        mean_image="crop",
        parameters=parameters,
        paper=DEVIL,
        weights=name,
        licence="non-commercial use only",
    )


def _caffe(name: str, class_name: str, title: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        class_name=class_name,
        module="emotiw_keras.models.alexnet",
        title=title,
        input_size=227,
        resize=256,
        channel_order="bgr",
        mean=CAFFE_MEAN,
        mean_image="resize",
        parameters=60_965_224,
        paper=KRIZHEVSKY,
        weights=name,
        licence="unrestricted use",
    )


def _squeezenet(name: str, class_name: str, version: str, parameters: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        class_name=class_name,
        module="emotiw_keras.models.squeezenet",
        title=f"SqueezeNet {version}",
        input_size=227,
        resize=256,
        channel_order="bgr",
        mean=SQUEEZE_MEAN,
        mean_image=None,
        parameters=parameters,
        paper=SQUEEZE,
        weights=name,
        licence="BSD",
        groups=(("conv1", ("conv1",)), *FIRES, ("conv10", ("conv10",))),
        classifier="conv10",
    )


def _pathnet() -> ModelSpec:
    layers, _, active, _ = PATHNET_SIZES
    paths = tuple((f"layer{n}", tuple(f"layer{n}_module{m:02d}" for m in range(active))) for n in range(1, layers + 1))
    return ModelSpec(
        name="pathnet",
        class_name="PathNet",
        module="emotiw_keras.models.pathnet",
        title="PathNet: one path through layers of convolutional modules",
        input_size=128,
        resize=128,
        channel_order="rgb",
        mean=(128.0, 128.0, 128.0),
        mean_image=None,
        std=(64.0, 64.0, 64.0),
        parameters=5_144_400,
        paper=PATHS,
        weights="",
        licence="no weights are published",
        groups=(*paths, ("readout", ("readout",))),
        classifier="readout",
    )


def _senet_groups() -> tuple[tuple[str, tuple[str, ...]], ...]:
    def normalised(layer: str) -> tuple[str, str]:
        return layer, f"{layer}_bn"

    groups: list[tuple[str, tuple[str, ...]]] = [("conv1", normalised("conv1_7x7_s2"))]
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for block in (f"conv{stage}_{number}" for number in range(1, blocks + 1)):
            convs = (*normalised(f"{block}_1x1_reduce"), *normalised(f"{block}_3x3"), *normalised(f"{block}_1x1_increase"))
            projection = normalised(f"{block}_1x1_proj") if block.endswith("_1") else ()
            groups.append((block, (*convs, f"{block}_1x1_down", f"{block}_1x1_up", *projection)))
    return (*groups, ("classifier", ("classifier",)))


def _application(name: str, facts: Application) -> ModelSpec:
    order, mean, std = PREPROCESSING[facts.mode]
    return ModelSpec(
        name=name,
        class_name=facts.name,
        module="emotiw_keras.models.keras_applications",
        title=f"{facts.name} (keras.applications)",
        input_size=facts.size,
        resize=round(facts.size * 256 / 224),
        channel_order=order,
        mean=mean,
        mean_image=None,
        std=std,
        parameters=facts.parameters,
        paper=facts.paper,
        weights="",
        licence="as published with Keras",
        groups=(),
        classifier="classifier",
    )


_SPECS = {
    spec.name: spec
    for spec in (
        _caffe("alexnet", "AlexNet", "AlexNet (BVLC: normalisation before pooling)"),
        _caffe("caffenet", "CaffeNet", "CaffeNet (BVLC reference: pooling before normalisation)"),
        ModelSpec(
            name="alexnet_owt",
            class_name="AlexNetOWT",
            module="emotiw_keras.models.alexnet_owt",
            title="AlexNet, one weird trick (torchvision)",
            input_size=224,
            resize=256,
            channel_order="rgb",
            mean=TORCH_MEAN,
            mean_image=None,
            std=TORCH_STD,
            parameters=61_100_840,
            paper=WEIRD_TRICK,
            weights="alexnet_owt",
            licence="BSD-3-Clause",
        ),
        _vgg_cnn("F", 60_834_536),
        _vgg_cnn("M", 102_908_520),
        _vgg_cnn("M", 92_469_864, fc7=2048),
        _vgg_cnn("M", 87_250_536, fc7=1024),
        _vgg_cnn("M", 82_683_624, fc7=128),
        _vgg_cnn("S", 102_908_520),
        ModelSpec(
            name="face_vgg",
            class_name="FaceVGG",
            module="emotiw_keras.models.face_vgg",
            title="FaceVGG, a small plain network for 48x48 faces",
            input_size=48,
            resize=48,
            channel_order="rgb",
            mean=(129.5, 129.5, 129.5),
            mean_image=None,
            std=(65.0, 65.0, 65.0),
            parameters=2_170_376,
            paper=VERY_DEEP,
            weights="",
            licence="MIT",
            groups=_face_vgg_groups(),
            classifier="classifier",
            input_channels=1,
        ),
        _squeezenet("squeezenet", "SqueezeNet", "v1.0", 1_248_424),
        _squeezenet("squeezenet_v1_1", "SqueezeNetV1_1", "v1.1", 1_235_496),
        _pathnet(),
        ModelSpec(
            name="senet50",
            class_name="SENet50",
            module="emotiw_keras.models.senet",
            title="SENet-50 (SE-ResNet-50, VGGFace2)",
            input_size=224,
            resize=256,
            channel_order="bgr",
            mean=VGGFACE2_MEAN,
            mean_image=None,
            parameters=43_777_063,
            paper=VGGFACE2,
            weights="senet50",
            licence="not stated",
            groups=_senet_groups(),
            classifier="classifier",
            classes=8631,
            trained_on="vggface2",
        ),
        ModelSpec(
            name="efficientnet_lite0",
            class_name="EfficientNetLite0",
            module="emotiw_keras.models.efficientnet_lite",
            title="EfficientNet-Lite0",
            input_size=224,
            resize=256,
            channel_order="rgb",
            mean=(127.0, 127.0, 127.0),
            mean_image=None,
            std=(128.0, 128.0, 128.0),
            parameters=4_694_024,
            paper=EFFICIENTNET,
            weights="efficientnet_lite0",
            licence="Apache-2.0",
            groups=_efficientnet_lite_groups(),
            classifier="classifier",
        ),
    )
}


_APPLICATION_SPECS = {name: _application(name, facts) for name, facts in APPLICATIONS.items()}


def model_names() -> list[str]:
    """The registry names of all networks of the zoo, in the order of the table."""
    return list(_SPECS)


def application_names() -> list[str]:
    """The registry names of the networks of `keras.applications`, such as "keras:MobileNetV2"."""
    return list(_APPLICATION_SPECS)


def near_name(name: str) -> str | None:
    """The known name that `name` likely means."""
    known = {key.lower(): key for key in _APPLICATION_SPECS} | {key: key for key in _SPECS}
    wanted = name.lower().replace("-", "_")
    # Keras' networks are called without the prefix by everyone.
    for spelling in (wanted, f"{PREFIX}{wanted}".replace("_", "")):
        near = difflib.get_close_matches(spelling, known, n=1, cutoff=0.6 if spelling == wanted else 0.9)
        if near:
            return known[near[0]]
    return None


def known_names() -> str:
    """What may stand for a network, in words."""
    return f"{', '.join(_SPECS)}, or {PREFIX} and a name of keras.applications, such as {PREFIX}MobileNetV2"


def get_spec(name: str) -> ModelSpec:
    """The facts of the network `name`: of the zoo, or "keras:" and the name of one of `keras.applications`.

    Raises ModelError naming the known networks, and the likely one, for any other name.

    Example:
        >>> get_spec("alexnet").input_size, get_spec("keras:MobileNetV2").mean
        (227, (127.5, 127.5, 127.5))
    """
    spec = _SPECS.get(name) or _APPLICATION_SPECS.get(name)
    if spec is not None:
        return spec
    near = near_name(name)
    hint = f"did you mean {near}? " if near else ""
    raise ModelError(f"unknown model {name!r}: {hint}expected one of {known_names()}")


def build(name: str, **kwargs: Any) -> keras.Model:
    """The network `name` as a Keras model; keyword arguments as for its function, e.g. `AlexNet(**kwargs)`.

    Those of `keras.applications` take the arguments of `models.keras_applications.application`.
    Raises ModelError for an unknown name or weights that are not at hand.

    Example:
        >>> build("alexnet", weights=None, classes=7, input_shape=(67, 67, 1), width=0.1).output_shape
        (None, 7)
    """
    spec = get_spec(name)
    module = importlib.import_module(spec.module)
    if spec.is_application:
        model: keras.Model = module.application(spec, **kwargs)
        return model
    return getattr(module, spec.class_name)(**kwargs)


def build_described(settings: Mapping[str, Any], **options: Any) -> keras.Model:
    """The network that the table `model` of a run.json describes, as `build` makes it; without weights unless `options` say so.

    Args:
        settings: name, classes, input_shape (height, width, channels), width, options of the network if it has any, and
            `features` where its classifier reads so many activations instead of the last alone.
        **options: further arguments of `build`.
    """
    model = build(
        settings["name"],
        classes=settings["classes"],
        input_shape=tuple(settings["input_shape"]),
        width=settings["width"],
        **{**settings.get("options", {}), "weights": None, **options},
    )
    if "features" not in settings:
        return model
    from emotiw_keras.models.features import with_features

    return with_features(model, settings["features"])
