"""From bytes to network input, on the device: the only place where pixels become floats.

`FaceInput` is written with `keras.ops`, so the same layer serves training, evaluation, prediction and the exported model, on
every Keras backend. A staged training draws its crops on the host (`draw_crops`, from seed, stage and epoch), which keeps
results equal everywhere and leaves nothing to checkpoint; as a layer of a model for `fit` it draws them itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from emotiw_keras.arguments import whole_or_none
from emotiw_keras.data.preprocessing_settings import check_settings, load_mean_image, settings_for
from emotiw_keras.data.resize import LUMA, resize_weights
from emotiw_keras.errors import DataError
from emotiw_keras.models.registry import get_spec


@keras.saving.register_keras_serializable(package="emotiw_keras")
class FaceInput(keras.layers.Layer):
    """Turn uint8 faces into what a network of the zoo expects.

    The steps, in order: grey or colour, resize (whole grey levels, see `emotiw_keras.data.resize`), optional min-max stretch of
    each face, crop and mirror, channel order, mean, scale. Sources: Ng et al. 2015 section 3.2 (grey, stretch), Krizhevsky et
    al. 2012 section 4.1 (random crop and mirror), Caffe's data_transformer.cpp (offsets; a mean image is subtracted where it
    lies before the mirror).

    Args:
        channels: "grey" makes luma and repeats it over the input's channels; "rgb" keeps colour (a grey face is repeated).
        resize: side of the face before the crop, in pixels, at most 2048.
        crop: side of the network's input, in pixels, at most 1024.
        min_max: stretch each face to 0..255.
        channel_order: order the network expects, "rgb" or "bgr".
        mean: subtracted per channel, in `channel_order`, in grey levels.
        std: divides after the mean, per channel, in grey levels.
        mean_image: float (side, side, 3) in `channel_order`, subtracted instead of `mean`, or None.
        mean_image_at: "resize" (the image covers the face before the crop) or "crop".
        input_channels: 3, or 1 for a network that takes grey input.
        random_crop: crop each face of a batch at a place of its own where the layer is called with `training=True` and without
            `crops`; otherwise in the centre.
        mirror: mirror half of the faces there.
        seed: of those two; None takes one that Keras draws.

    Raises:
        DataError: a setting that cannot be meant.

    Example:
        >>> FaceInput.of("alexnet", random_crop=True, mirror=True, seed=0).crop
        227
        >>> layer = FaceInput(channels="grey", resize=256, crop=227, channel_order="bgr")
        >>> tuple(layer(np.zeros((2, 48, 48, 1), np.uint8)).shape)
        (2, 227, 227, 3)
    """

    def __init__(
        self,
        *,
        channels: str = "grey",
        resize: int = 256,
        crop: int = 227,
        min_max: bool = False,
        channel_order: str = "bgr",
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
        mean_image: np.ndarray | None = None,
        mean_image_at: str = "resize",
        input_channels: int = 3,
        random_crop: bool = False,
        mirror: bool = False,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        # Whole grey levels and their means need float32 whatever the network computes in.
        super().__init__(name=name, dtype="float32", autocast=False)
        if isinstance(mean_image, str | Path):
            raise DataError(f"face input: mean_image = {str(mean_image)!r}: expected its numbers, as load_mean_image reads")
        self.mean_image = None if mean_image is None else np.asarray(mean_image, np.float32)
        seed = whole_or_none("face input: seed", seed, 0, DataError)
        check_settings(
            channels=channels,
            resize=resize,
            crop=crop,
            channel_order=channel_order,
            mean=mean,
            std=std,
            mean_image=self.mean_image,
            mean_image_at=mean_image_at,
            input_channels=input_channels,
        )
        self.channels, self.resize, self.crop, self.min_max = channels, int(resize), int(crop), bool(min_max)
        self.channel_order, self.mean_image_at, self.input_channels = channel_order, mean_image_at, int(input_channels)
        self.mean = tuple(float(value) for value in mean)[:input_channels]
        self.std = tuple(float(value) for value in std)[:input_channels]
        self.random_crop, self.mirror, self.seed = bool(random_crop), bool(mirror), seed
        # only where something is drawn: a generator is a variable, and a layer without any is the same at every step
        self._generator = keras.random.SeedGenerator(seed) if self.random_crop or self.mirror else None

    @classmethod
    def of(cls, model: str, *, crop: int | None = None, **settings: Any) -> FaceInput:
        """The layer that prepares faces for a network of the zoo: its size, channel order and mean.

        Args:
            model: registry name, such as "alexnet".
            crop: side of the network's input where it is not the published one.
            **settings: arguments of `FaceInput` that differ from the network's facts.

        Raises:
            ModelError: there is no such network.
            DataError: a setting that cannot be meant.

        Example:
            >>> FaceInput.of("alexnet", crop=67).resize
            76
        """
        facts = settings_for(get_spec(model), crop=crop)
        return cls(**{**facts, **settings})

    @property
    def room(self) -> int:
        """Largest offset of a crop, in pixels."""
        return self.resize - self.crop

    def call(self, images: Any, crops: Any = None, training: bool | None = None) -> Any:
        """Prepare a batch.

        Args:
            images: uint8 0..255, (batch, height, width, 1 or 3), RGB.
            crops: int32 (batch, 3) of top, left, mirror (0 or 1) from `draw_crops`; None for the centre crop, or in training
                for what `random_crop` and `mirror` say.
            training: whether the layer draws crops itself.

        Returns:
            float32 (batch, crop, crop, input_channels).
        """
        if crops is None and training and self._generator is not None:
            crops = self._drawn(ops.shape(images)[0])
        faces = ops.cast(images, "float32")
        if self.channels == "grey" and faces.shape[-1] == 3:
            faces = _luma(faces)
        whole = self.min_max or (self.mean_image is not None and self.mean_image_at == "resize")
        if crops is not None and not whole and self.resize not in faces.shape[1:3]:
            return self._normalised(self._ordered(self._resized_crop(faces, crops)))
        faces = _resize(faces, self.resize)
        if self.min_max:
            low = ops.min(faces, axis=(1, 2, 3), keepdims=True)
            high = ops.max(faces, axis=(1, 2, 3), keepdims=True)
            faces = (faces - low) * (255.0 / ops.maximum(high - low, 1.0))
        if self.mean_image is not None and self.mean_image_at == "resize":
            faces = self._ordered(faces) - ops.convert_to_tensor(self.mean_image)
            faces = self._cropped(faces, crops)
        else:
            return self._normalised(self._ordered(self._cropped(faces, crops)))
        return self._scaled(faces)

    def _drawn(self, count: Any) -> Any:
        """Crops of `count` faces, int32 (count, 3), as `draw_crops` makes them on the host."""

        def whole(columns: int, above: int) -> Any:
            return keras.random.randint((count, columns), 0, above, dtype="int32", seed=self._generator)

        centre = ops.full((count, 2), self.room // 2, dtype="int32")
        places = whole(2, self.room + 1) if self.random_crop else centre
        mirrored = whole(1, 2) if self.mirror else centre[:, :1] * 0
        return ops.concatenate([places, mirrored], axis=1)

    def _normalised(self, faces: Any) -> Any:
        return self._scaled(faces - ops.convert_to_tensor(self.mean if self.mean_image is None else self.mean_image, "float32"))

    def _scaled(self, faces: Any) -> Any:
        if all(value == 1.0 for value in self.std):
            return faces
        return faces / ops.convert_to_tensor(self.std, "float32")

    def _ordered(self, faces: Any) -> Any:
        if faces.shape[-1] == 1:
            return ops.repeat(faces, self.input_channels, axis=-1) if self.mean_image is not None else faces
        return ops.flip(faces, axis=-1) if self.channel_order == "bgr" else faces

    def _places(self, crops: Any) -> tuple[Any, Any]:
        """Rows and columns of the resized face that each crop takes, int32 (batch, crop)."""
        crops = ops.cast(crops, "int32")
        across = ops.arange(self.crop, dtype="int32")
        columns = ops.where(crops[:, 2:3] > 0, self.crop - 1 - across, across)
        return crops[:, 0:1] + across, crops[:, 1:2] + columns

    def _resized_crop(self, faces: Any, crops: Any) -> Any:
        """Resize no more than each crop needs: two products with rows chosen from the weights, the same bytes, sooner."""
        rows, columns = self._places(crops)
        height, width, channels = faces.shape[1:]
        down = ops.take(ops.convert_to_tensor(resize_weights(height, self.resize)), rows, axis=0)
        across = ops.take(ops.convert_to_tensor(resize_weights(width, self.resize)), columns, axis=0)
        faces = ops.round(ops.matmul(down, ops.reshape(faces, (-1, height, width * channels))))
        faces = ops.reshape(faces, (-1, self.crop, width, channels))
        if channels == 1:
            return ops.round(ops.matmul(faces[..., 0], ops.transpose(across, (0, 2, 1))))[..., None]
        return ops.round(ops.einsum("brwc,bkw->brkc", faces, across))

    def _cropped(self, faces: Any, crops: Any) -> Any:
        if crops is None:
            start = self.room // 2
            return faces[:, start : start + self.crop, start : start + self.crop, :]
        rows, columns = self._places(crops)
        batch = ops.shape(faces)[0]
        first = ops.arange(batch, dtype="int32")[:, None, None] * (self.resize * self.resize)
        index = first + rows[:, :, None] * self.resize + columns[:, None, :]
        return ops.take(ops.reshape(faces, (-1, faces.shape[-1])), index, axis=0)

    def mean_under(self, crops: Any = None) -> Any:
        """What is subtracted from faces that are cropped so, in grey levels: float32, (channels,) or (1 or batch, side, side,
        channels).

        Args:
            crops: as for a call.
        """
        if self.mean_image is None:
            return ops.convert_to_tensor(self.mean, "float32")
        whole = ops.convert_to_tensor(self.mean_image)[None]
        return whole if self.mean_image_at == "crop" else self._cropped(whole, crops)

    def compute_output_shape(self, images_shape: tuple[int | None, ...], crops_shape: Any = None) -> tuple[int | None, ...]:
        """(batch, crop, crop, input_channels)."""
        return (images_shape[0], self.crop, self.crop, self.input_channels)

    def settings(self) -> dict[str, Any]:
        """The layer as plain data, as a run stores it: without a mean image, which stands as nested lists in `get_config`, and
        without what it draws itself."""
        return {
            "channels": self.channels,
            "resize": self.resize,
            "crop": self.crop,
            "min_max": self.min_max,
            "channel_order": self.channel_order,
            "mean": list(self.mean),
            "std": list(self.std),
            "mean_image_at": self.mean_image_at,
            "input_channels": self.input_channels,
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], folder: str | Path | None = None) -> FaceInput:
        """Rebuild the layer; `settings["mean_image"]`, if any, names a `.npy` file (relative to `folder`).

        Raises:
            DataError: the mean image cannot be read or does not fit.
        """
        values = dict(settings)
        file = values.pop("mean_image", None)
        values.pop("as_given", None)  # a network that takes the faces as they are
        image = None if not file else load_mean_image(Path(folder or ".") / file)
        return cls(**values, mean_image=image)

    def get_config(self) -> dict[str, Any]:
        """Serialisable configuration."""
        image = None if self.mean_image is None else self.mean_image.tolist()
        drawn = {"random_crop": self.random_crop, "mirror": self.mirror, "seed": self.seed}
        return {"name": self.name, **self.settings(), "mean_image": image, **drawn}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FaceInput:
        """Rebuild the layer from `get_config`."""
        return cls(**config)


def _luma(faces: Any) -> Any:
    weighted = faces * ops.convert_to_tensor(LUMA, "float32")
    return ops.floor((ops.sum(weighted, axis=-1, keepdims=True) + 32768.0) / 65536.0)


def _resize(faces: Any, side: int) -> Any:
    height, width, channels = faces.shape[1:]
    if height != side:
        flat = ops.reshape(faces, (-1, height, width * channels))
        flat = ops.round(ops.matmul(ops.convert_to_tensor(resize_weights(height, side)), flat))
        faces = ops.reshape(flat, (-1, side, width, channels))
    if width != side:
        weights = ops.convert_to_tensor(resize_weights(width, side).T.copy())
        if channels == 1:
            faces = ops.round(ops.matmul(faces[..., 0], weights))[..., None]
        else:
            faces = ops.round(ops.einsum("bhwc,wv->bhvc", faces, weights))
    return faces


def draw_crops(count: int, room: int, *, mirror: bool, seed: tuple[int, ...]) -> np.ndarray:
    """Draw a crop and a mirror for each of `count` images, one and the same on every platform and backend.

    Args:
        count: images of the set.
        room: largest offset, `FaceInput.room`.
        mirror: whether half of the images are mirrored.
        seed: whole numbers that name the draw: seed, stage, epoch.

    Returns:
        int32 (count, 3): top and left uniform in 0..room, mirror 0 or 1.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    crops = np.zeros((count, 3), np.int32)
    crops[:, :2] = generator.integers(0, room + 1, size=(count, 2))
    if mirror:
        crops[:, 2] = generator.integers(0, 2, size=count)
    return crops
