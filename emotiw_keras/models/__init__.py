"""The zoo: `from emotiw_keras.models import AlexNet`. Keras is imported when the first network is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from emotiw_keras.models.registry import ModelSpec, build, get_spec, model_names

if TYPE_CHECKING:
    from emotiw_keras.models.alexnet import AlexNet as AlexNet
    from emotiw_keras.models.alexnet import CaffeNet as CaffeNet
    from emotiw_keras.models.alexnet_owt import AlexNetOWT as AlexNetOWT
    from emotiw_keras.models.efficientnet_lite import EfficientNetLite0 as EfficientNetLite0
    from emotiw_keras.models.face_vgg import FaceVGG as FaceVGG
    from emotiw_keras.models.pathnet import PathNet as PathNet
    from emotiw_keras.models.senet import SENet50 as SENet50
    from emotiw_keras.models.squeezenet import SqueezeNet as SqueezeNet
    from emotiw_keras.models.squeezenet import SqueezeNetV1_1 as SqueezeNetV1_1
    from emotiw_keras.models.vgg_cnn import VGGCNNF as VGGCNNF
    from emotiw_keras.models.vgg_cnn import VGGCNNM as VGGCNNM
    from emotiw_keras.models.vgg_cnn import VGGCNNM128 as VGGCNNM128
    from emotiw_keras.models.vgg_cnn import VGGCNNM1024 as VGGCNNM1024
    from emotiw_keras.models.vgg_cnn import VGGCNNM2048 as VGGCNNM2048
    from emotiw_keras.models.vgg_cnn import VGGCNNS as VGGCNNS

_CLASSES = {get_spec(name).class_name: get_spec(name).module for name in model_names()}

__all__ = ["ModelSpec", "build", "get_spec", "model_names", *_CLASSES]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
