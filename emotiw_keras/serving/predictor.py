"""Expressions of faces in memory: crops, photos and the frames of a video, by a trained run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as pillow

from emotiw_keras.arguments import whole_number
from emotiw_keras.data.images import ImageError, decode_image, pixels_of
from emotiw_keras.data.resize import as_taken
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.faces.face import MIN_FACE, MIN_FACE_OF_VIDEOS
from emotiw_keras.files import expanded
from emotiw_keras.inference import Inference, checked_crops
from emotiw_keras.serving.auto import Automatic, open_engine, run_of, settled_engine
from emotiw_keras.text import briefly

if TYPE_CHECKING:
    import keras

    from emotiw_keras.data.face_input import FaceInput
    from emotiw_keras.faces.face import Detector, Face
    from emotiw_keras.runs import Run
    from emotiw_keras.serving.exported import Exported
    from emotiw_keras.serving.readings import Reading

# An array, a file's path, its bytes, or an image of Pillow.
Image = np.ndarray | str | os.PathLike[str] | bytes | pillow.Image
BATCH_SIZE = 64
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "int8")
FEW_PHOTOS = 8
"""Photos in which OpenCV finds the faces, which begins at once, before ONNX Runtime is worth its start."""
# Pixels a side of the aligned face, as `emotiw prepare` writes it; the run's own size is made from it.
ALIGNED_SIDE = 256


def open_source(
    run_or_name: Run | str | os.PathLike[str], model: keras.Model | None = None, head: str | None = None
) -> Run | Exported:
    """A run, the run folder of a path, the model of a name, or an exported ONNX file; `model` and `head` as for `Run.open`.

    Raises:
        ModelError: there is no such folder and no such model, or the file is none that `emotiw export` wrote.
        RunError: the folder is no finished run.
        UsageError: it has no such head.
    """
    if head is not None:
        return open_source(run_or_name, model).with_head(head)
    from emotiw_keras.runs import Run

    if isinstance(run_or_name, Run):
        return run_or_name if model is None else replace(run_or_name, given=model)
    path = expanded(run_or_name)
    if path.suffix.lower() == ".onnx" and path.is_file():
        from emotiw_keras.serving.exported import Exported

        return Exported.open(path)
    return Run.open(os.fspath(run_or_name), model)


class Predictor:
    """Reads expressions with the network of a run, prepared as the run was trained. Threads may share one.

    Args:
        run: a finished run, the path of its folder, the name of a model that ships, or the path of a file that `emotiw export
            --format onnx` wrote.
        batch_size: faces computed at once.
        detector: what finds faces in photos and videos: its name, the detector itself, or None for the default one. It is
            loaded when the first photo comes.
        crops: crops of a face whose probabilities are averaged: 1, 2 or 10 (see `inference.Inference`); None for the
            run's setting.
        min_face: pixels of the smallest faces that are looked for; None for 24 in photos and 34 in videos. More is faster.
        precision: a name in `PRECISIONS`: what the network computes in. "mixed_bfloat16" is faster on processors that multiply
            bfloat16 natively, its probabilities have two to three digits. "int8" is faster still on processors
            that multiply bytes (VNNI), in ONNX Runtime and OpenVINO: for the models that ship (three times as fast as float32)
            and packed runs (`emotiw pack`), which say how many faces get the same answer (`Run.activations`).
        model: the network of a run that was trained with one of the user's own (see `Run.open`).
        engine: what computes: "tensorflow", or one that starts in a fraction of a second: "opencv", and "onnxruntime" and
            "openvino" where they are installed; they compute in float32 and know the networks of the zoo. "auto" begins with
            what starts fastest, and goes on with what computes fastest once many faces have come (`auto.Automatic`); it is
            TensorFlow where nothing else can do what is asked for. Answers for the same pixels differ by rounding, less than
            1e-5. "opencv" and "onnxruntime" compute the default detector too; with the others ONNX Runtime does where it is
            installed, and OpenCV after `expect`. Between these two eyes differ by hundredths of a pixel, and probabilities by
            up to 0.02.
        head: which answer of a network with several heads; None for the run's own choice.

    Attributes:
        source: the run, or the exported file.
        engine: as settled: "auto" where it may still change.
        labels: the classes, in the order of the probabilities.
        crops: crops of a face whose probabilities are averaged.
        usable_entropy: entropy in nats beyond which its answers are uncertain (`emotiw_keras.uncertainty`); None where the
            source does not say.

    Raises:
        ModelError: there is no such run folder and no such model.
        RunError: `run` is no finished run folder.
        UsageError: Keras is set to something else than TensorFlow and float32, a number of crops or a batch size that cannot
            be meant, an engine that is not there or cannot do what the other arguments ask for, or a head that the run does not
            have.

    Example:
        >>> predictor = Predictor("runs/first")                        # doctest: +SKIP
        >>> photo = cv2.imread("party.jpg")[..., ::-1]                 # doctest: +SKIP
        >>> [(face.box, face.label) for face in predictor.faces(photo)]        # doctest: +SKIP
        [((210.4, 88.0, 121.3, 121.3), 'happy'), ((402.7, 95.1, 97.0, 97.0), 'neutral')]
        >>> predictor.predict([photo[88:209, 210:331]]).shape          # doctest: +SKIP
        (1, 7)
    """

    def __init__(
        self,
        run: Run | str | os.PathLike[str],
        batch_size: int = BATCH_SIZE,
        detector: str | Detector | None = None,
        crops: int | None = None,
        precision: str = "float32",
        min_face: float | None = None,
        model: keras.Model | None = None,
        engine: str = "auto",
        head: str | None = None,
    ) -> None:
        self.batch_size = whole_number("batch_size", batch_size, 1)
        if precision not in PRECISIONS:
            raise UsageError(f"precision={precision!r}: expected one of {', '.join(PRECISIONS)}")
        if min_face is not None and detector is not None and not isinstance(detector, str):
            raise UsageError(f"min_face={min_face} cannot be combined with a detector of your own; leave one out")
        # A wrong path is reported before TensorFlow loads, which takes seconds.
        self.source = open_source(run, model, head)
        self.engine = settled_engine(engine, self.source, precision)
        self.crops = checked_crops(crops, self.source.crops)
        self.labels: tuple[str, ...] = tuple(self.source.labels)
        self.usable_entropy = self.source.usable_entropy
        self.channels = 1 if self.source.settings["channels"] == "grey" else 3
        self.side: int = self.source.settings["resize"]
        self._precision = precision
        self._compute = self._opened()
        self._detector = detector
        self._detector_engine = engine if engine in ("opencv", "onnxruntime") else None
        self._min_face = min_face
        self._few = False

    def _opened(self) -> Callable[[np.ndarray], np.ndarray]:
        if self.engine == "auto":
            return Automatic(self.source, self.crops, (self.side, self.side, self.channels), self._precision)
        return open_engine(self.engine, self.source, self.crops, (self.side, self.side, self.channels), self._precision)

    @property
    def run(self) -> Run:
        """The run.

        Raises:
            UsageError: the predictor was made of an exported file, which is no run.
        """
        return run_of(self.source)

    def _keras(self) -> Inference:
        if not isinstance(self._compute, Inference):
            if self._precision == "int8":
                raise UsageError("precision='int8' is computed without the Keras network, which this needs; leave it out")
            if self.engine != "auto":
                raise UsageError(f"engine={self.engine!r} knows no Keras network, which this needs; choose 'tensorflow'")
            run_of(self.source)
            self.engine = "tensorflow"
            self._compute = self._opened()
        assert isinstance(self._compute, Inference)
        return self._compute

    @property
    def net(self) -> keras.Model:
        """The network in Keras: prepared faces -> probabilities. Asking for it makes TensorFlow the engine.

        Raises:
            UsageError: another engine was asked for, or the predictor was made of an exported file.
        """
        return self._keras().net

    @property
    def face_input(self) -> FaceInput:
        """The layer that prepares faces for `net`; likewise."""
        return self._keras().face_input

    @property
    def detector(self) -> Detector:
        """What finds the faces of photos; the first use loads it.

        Raises:
            ModelError: its package or its file is missing.
            UsageError: no detector has this name.
        """
        return self._find_detector(MIN_FACE, "opencv" if self._few else None)

    def expect(self, photos: int) -> None:
        """Say how many photos come: of `FEW_PHOTOS` or less OpenCV finds the faces, which is there already, where to import
        another engine would take longer than it saves. One engine finds those of all."""
        self._few = photos <= FEW_PHOTOS

    @property
    def video_detector(self) -> Detector:
        """What finds the faces of videos, as `detector`; it looks for somewhat larger ones, unless `min_face` says
        otherwise."""
        return self._find_detector(MIN_FACE_OF_VIDEOS, None)

    def _find_detector(self, usual: float, engine: str | None) -> Detector:
        if self._detector is not None and not isinstance(self._detector, str):
            return self._detector
        from emotiw_keras.faces.detectors import DEFAULT, get_detector

        smallest = usual if self._min_face is None else self._min_face
        if self._detector not in (None, DEFAULT):
            return get_detector(self._detector, smallest)
        return get_detector(self._detector, smallest, engine=self._detector_engine or engine)

    def prepare(self, image: Image) -> np.ndarray:
        """Bring one face to the run's channels and size.

        Args:
            image: uint8 0..255, (height, width) or (height, width, 1) grey, or (height, width, 3) RGB; or an image file's path
                or bytes, or an image of Pillow.

        Returns:
            uint8 (side, side, channels).

        Raises:
            DataError: another shape or type.
        """
        return as_taken(checked(image), self.channels, self.side)

    def cut(self, image: np.ndarray, face: Face) -> np.ndarray:
        """Cut a face out of a photo, straightened by its eyes (Ng et al. 2015, section 3.1), in the run's channels and size.

        Args:
            image: uint8 0..255, (height, width) grey or (height, width, 3) RGB.
            face: where it is.

        Returns:
            uint8 (side, side, channels).
        """
        from emotiw_keras.faces.alignment import align

        return self.prepare(align(image, face.eyes, side=ALIGNED_SIDE, grey=self.channels == 1, **self.source.crop))

    def classify(self, faces: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities for faces that `prepare` or `cut` made: float32 (n, classes)."""
        result = np.zeros((len(faces), len(self.labels)), np.float32)
        for start in range(0, len(faces), self.batch_size):
            batch = np.stack(faces[start : start + self.batch_size])
            result[start : start + len(batch)] = self._compute(batch)
        return result

    def predict(self, images: Sequence[Image] | np.ndarray) -> np.ndarray:
        """Probabilities of each expression for each face.

        Args:
            images: a sequence of faces of any sizes, each as `prepare` takes it, or one array uint8 0..255 (n, height, width)
                or (n, height, width, 1 or 3). One image alone is no sequence: give `[image]`.

        Returns:
            float32 (n, classes), each row sums to 1, in the order of `labels`.

        Raises:
            DataError: an image of another shape or type, or something else than a sequence, such as a single image.
        """
        if _is_image(images):
            raise DataError(f"one image ({briefly(images)}) where several are expected; give a list, predict([image])")
        listed = all(hasattr(images, method) for method in ("__len__", "__getitem__"))
        if isinstance(images, Mapping) or not listed or getattr(images, "ndim", 1) == 0:
            raise DataError(f"images are a {type(images).__name__}; expected a list of them, such as predict(list(images))")
        result = np.zeros((len(images), len(self.labels)), np.float32)
        for start in range(0, len(images), self.batch_size):
            stop = min(start + self.batch_size, len(images))
            faces = [self.prepare(images[number]) for number in range(start, stop)]
            result[start : start + len(faces)] = self.classify(faces)
        return result

    def faces(self, image: Image) -> list[Reading]:
        """Find every face of a photo and read its expression.

        Args:
            image: as `prepare` takes it, upright.

        Returns:
            One reading per face, the largest first; none if there is no face.

        Raises:
            DataError: an image of another shape or type.
            ModelError, UsageError: as `detector`.
        """
        from emotiw_keras.serving.input_images import InputImage
        from emotiw_keras.serving.pipeline import Pipeline

        (reading,) = Pipeline(self).read([InputImage("", checked(image))])
        return list(reading.faces)

    def stream(self, frames: Iterable[Image], *, every: int = 1, smooth: int = 1, ahead: int = 1) -> Iterator[list[Reading]]:
        """Read every face of each frame of a video, in constant memory, as the frames come.

        Args:
            frames: upright, each as `faces` takes it.
            every: the detector looks at every so many frames; between, faces are carried by optical flow.
            smooth: each answer is the mean over this many frames of the same face, the present one and those before.
            ahead: frames read before their faces are computed together: 1 answers at once, more is faster.

        Yields:
            One list per frame, as from `faces`; a face keeps its number while it is tracked.

        Raises:
            DataError: an image of another shape or type, or one image instead of several.
            ModelError: as `detector`.
            UsageError: `every`, `smooth` or `ahead` is no whole number above 0, or as `detector`.

        Example:
            >>> for faces in predictor.stream(camera, every=5, smooth=10):         # doctest: +SKIP
            ...     print([(face.number, face.label) for face in faces])
        """
        from emotiw_keras.serving.input_images import InputImage, Video
        from emotiw_keras.serving.pipeline import Pipeline

        if _is_image(frames):
            raise DataError("one image where the frames of a video are expected; give them one by one, stream([image])")
        if isinstance(frames, Mapping) or not any(hasattr(frames, method) for method in ("__iter__", "__getitem__")):
            raise DataError(f"frames are a {type(frames).__name__}; expected them one by one, such as stream([image])")
        smooth = whole_number("smooth", smooth, 1)  # no time: frames that are given one by one have no time stamps
        pipeline = Pipeline(self, every=every, smooth=smooth, ahead=ahead)
        images = (InputImage("", checked(image), frame=number) for number, image in enumerate(frames))
        video = Video("", "", rate=1.0, frames=images)
        return (list(reading.faces) for reading in pipeline.read([video]))


def _is_image(images: Any) -> bool:
    """Whether something is one image, rather than several."""
    if isinstance(images, np.ndarray):
        return images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in (1, 3))
    return isinstance(images, (str, bytes, os.PathLike, pillow.Image))


def checked(image: Any) -> np.ndarray:
    """An image as uint8 (height, width, 1 or 3): an array of such, a file's path or bytes, or an image of Pillow.

    Raises:
        DataError: another shape or type, or a file that cannot be read.
    """
    if isinstance(image, pillow.Image):
        return pixels_of(image)
    if isinstance(image, (str, os.PathLike)):
        try:
            return decode_image(Path(image).read_bytes())
        except (OSError, ImageError) as error:
            raise DataError(f"cannot read {os.fspath(image)}: {getattr(error, 'strerror', None) or error}") from error
    if isinstance(image, bytes):
        return decode_image(image)
    array = np.asarray(image)
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        raise DataError(
            f"an image of shape {array.shape} and type {array.dtype}: expected uint8 of (height, width), "
            "(height, width, 1) or (height, width, 3), a file's path or bytes, or an image of Pillow"
        )
    return pixels
