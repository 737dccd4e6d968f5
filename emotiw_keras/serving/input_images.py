"""An image, and a video as images in the order of time, as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class InputImage:
    """One image: an input of its own, or a frame of a video.

    Attributes:
        path: as the user would name it; a zip's member as `archive.zip/name`.
        pixels: uint8 0..255, (height, width, 1) or (height, width, 3) RGB, upright; None where it cannot be read.
        error: why not, or None.
        frame: its number in the video, from 0; in a sequence of images the number in the file's name.
        name: relative name, with `/`, for what is made of it: the file's own, below the folder or zip that was named.
        seconds: of a video's frame, when it is shown, from the video's time stamps; of a camera's, since its first.
        notes: remarks on how it was read.
    """

    path: str
    pixels: np.ndarray | None
    error: str | None = None
    frame: int | None = None
    name: str = ""
    seconds: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def array(self) -> np.ndarray:
        """The pixels as detectors take them: uint8 (height, width, 3) RGB, or (height, width) grey."""
        assert self.pixels is not None, self.error
        return self.pixels[..., 0] if self.pixels.shape[-1] == 1 else self.pixels


@dataclass(frozen=True)
class Video:
    """Frames in the order of time, read as they are asked for.

    Attributes:
        path: as the user would name it.
        name: relative name, as an image's.
        rate: frames a second.
        frames: each frame, and at its place or at the end what could not be read; closing it closes the file.
        live: whether it comes from a camera: nothing waits, and it ends when the user ends it.
        stills: whether each frame is an image file of its own.
    """

    path: str
    name: str
    rate: float
    frames: Iterator[InputImage]
    live: bool = False
    stills: bool = False
