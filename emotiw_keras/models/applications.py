"""The networks of `keras.applications` that can be trained as `keras:NAME`: sizes, preprocessing, papers. It needs no Keras.

What stands here is Keras 3.15's own: the sizes of each network's function, the preprocessing of its `preprocess_input`, or of
the layers it begins with. Those are left out of the network (`models.keras_applications`): preprocessing is `FaceInput`'s
alone, so that a recipe can change it and an export fold it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

PREFIX = "keras:"
"""What a registry name of these begins with; the name of Keras' function follows, as in `keras:MobileNetV2`."""

CAFFE_MEAN = (103.939, 116.779, 123.68)
TORCH_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
TORCH_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

Channels = tuple[float, float, float]
PREPROCESSING: dict[str, tuple[Literal["rgb", "bgr"], Channels, Channels]] = {
    "tf": ("rgb", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "caffe": ("bgr", CAFFE_MEAN, (1.0, 1.0, 1.0)),
    "torch": ("rgb", TORCH_MEAN, TORCH_STD),
    "tf128": ("rgb", (128.0, 128.0, 128.0), (128.0, 128.0, 128.0)),
}
"""Channel order, mean and deviation by the mode's name in Keras' `imagenet_utils`; "tf128" is EfficientNetV2's own."""

_CONVNEXT = "Liu, Mao, Wu, Feichtenhofer, Darrell, Xie: A ConvNet for the 2020s, CVPR 2022, arXiv:2201.03545"
_DENSENET = "Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, CVPR 2017, arXiv:1608.06993"
_EFFICIENTNET = "Tan, Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, arXiv:1905.11946"
_EFFICIENTNET_V2 = "Tan, Le: EfficientNetV2: Smaller Models and Faster Training, ICML 2021, arXiv:2104.00298"
_INCEPTION_RESNET = (
    "Szegedy, Ioffe, Vanhoucke, Alemi: Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning, AAAI "
    "2017, arXiv:1602.07261"
)
_INCEPTION = (
    "Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception Architecture for Computer Vision, CVPR 2016, "
    "arXiv:1512.00567"
)
_MOBILENET = "Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam: MobileNets, arXiv:1704.04861"
_MOBILENET_V2 = (
    "Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, arXiv:1801.04381"
)
_MOBILENET_V3 = "Howard, Sandler, Chu, Chen et al.: Searching for MobileNetV3, ICCV 2019, arXiv:1905.02244"
_NASNET = (
    "Zoph, Vasudevan, Shlens, Le: Learning Transferable Architectures for Scalable Image Recognition, CVPR 2018, "
    "arXiv:1707.07012"
)
_RESNET = "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385"
_RESNET_V2 = "He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv:1603.05027"
_VGG = "Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, arXiv:1409.1556"
_XCEPTION = "Chollet: Xception: Deep Learning with Depthwise Separable Convolutions, CVPR 2017, arXiv:1610.02357"


@dataclass(frozen=True)
class Application:
    """One network: side of its published input and of the smallest, key of `PREPROCESSING`, parameters with 1000 classes."""

    name: str
    size: int
    smallest: int
    mode: str
    parameters: int
    paper: str


def _table() -> Iterator[Application]:
    for name, parameters in (
        ("ConvNeXtTiny", 28_589_128), ("ConvNeXtSmall", 50_223_688), ("ConvNeXtBase", 88_591_464),
        ("ConvNeXtLarge", 197_767_336), ("ConvNeXtXLarge", 350_196_968),
    ):  # fmt: skip
        yield Application(name, 224, 32, "torch", parameters, _CONVNEXT)
    for name, parameters in (("DenseNet121", 8_062_504), ("DenseNet169", 14_307_880), ("DenseNet201", 20_242_984)):
        yield Application(name, 224, 32, "torch", parameters, _DENSENET)
    for name, size, parameters in (
        ("EfficientNetB0", 224, 5_330_571), ("EfficientNetB1", 240, 7_856_239), ("EfficientNetB2", 260, 9_177_569),
        ("EfficientNetB3", 300, 12_320_535), ("EfficientNetB4", 380, 19_466_823), ("EfficientNetB5", 456, 30_562_527),
        ("EfficientNetB6", 528, 43_265_143), ("EfficientNetB7", 600, 66_658_687),
    ):  # fmt: skip
        yield Application(name, size, 32, "torch", parameters, _EFFICIENTNET)
    for name, size, mode, parameters in (
        ("EfficientNetV2B0", 224, "torch", 7_200_312), ("EfficientNetV2B1", 240, "torch", 8_212_124),
        ("EfficientNetV2B2", 260, "torch", 10_178_374), ("EfficientNetV2B3", 300, "torch", 14_467_622),
        ("EfficientNetV2S", 384, "tf128", 21_612_360), ("EfficientNetV2M", 480, "tf128", 54_431_388),
        ("EfficientNetV2L", 480, "tf128", 119_027_848),
    ):  # fmt: skip
        yield Application(name, size, 32, mode, parameters, _EFFICIENTNET_V2)
    yield Application("InceptionResNetV2", 299, 75, "tf", 55_873_736, _INCEPTION_RESNET)
    yield Application("InceptionV3", 299, 75, "tf", 23_851_784, _INCEPTION)
    yield Application("MobileNet", 224, 32, "tf", 4_253_864, _MOBILENET)
    yield Application("MobileNetV2", 224, 32, "tf", 3_538_984, _MOBILENET_V2)
    yield Application("MobileNetV3Small", 224, 32, "tf", 2_554_968, _MOBILENET_V3)
    yield Application("MobileNetV3Large", 224, 32, "tf", 5_507_432, _MOBILENET_V3)
    yield Application("NASNetMobile", 224, 32, "tf", 5_326_716, _NASNET)
    yield Application("NASNetLarge", 331, 32, "tf", 88_949_818, _NASNET)
    for name, parameters in (("ResNet50", 25_636_712), ("ResNet101", 44_707_176), ("ResNet152", 60_419_944)):
        yield Application(name, 224, 32, "caffe", parameters, _RESNET)
    for name, parameters in (("ResNet50V2", 25_613_800), ("ResNet101V2", 44_675_560), ("ResNet152V2", 60_380_648)):
        yield Application(name, 224, 32, "tf", parameters, _RESNET_V2)
    for name, parameters in (("VGG16", 138_357_544), ("VGG19", 143_667_240)):
        yield Application(name, 224, 32, "caffe", parameters, _VGG)
    yield Application("Xception", 299, 71, "tf", 22_910_480, _XCEPTION)


APPLICATIONS = {f"{PREFIX}{each.name}": each for each in _table()}
"""Registry name -> facts."""
