"""A shard of `emotiw predict`: its inputs -> rows, one a face, and one for each image or frame without a face."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

from emotiw_keras.bulk.entries import SEQUENCE, Entry, Shard
from emotiw_keras.bulk.job import Job, Record, model_facts
from emotiw_keras.bulk.opening import Opener, is_film
from emotiw_keras.bulk.parts import writer
from emotiw_keras.bulk.places import Folder
from emotiw_keras.bulk.records import Tally, record_of
from emotiw_keras.data.images import ImageError
from emotiw_keras.errors import ModelError
from emotiw_keras.files import is_address
from emotiw_keras.serving.input_images import InputImage, Video
from emotiw_keras.serving.inputs import decode, read_file
from emotiw_keras.serving.pipeline import Pipeline, window
from emotiw_keras.serving.predictor import Predictor
from emotiw_keras.serving.rows import rows_of
from emotiw_keras.serving.video_inputs import looks_like_video, open_sequence, open_video


class PredictShards:
    """Does the shards of a job of `emotiw predict`.

    Raises:
        ModelError: the model here is another than where the job was begun.
        UsageError, RunError: as `Predictor`.
    """

    def __init__(self, job: Job) -> None:
        settings = job.settings
        self._job = job
        self._predictor = Predictor(
            settings["model"],
            batch_size=settings["batch_size"],
            detector=settings["detector"],
            crops=settings["crops"],
            precision=settings["precision"],
            min_face=settings["min_face"],
            engine=settings["engine"],
            head=settings["head"],
        )
        if not model_facts(self._predictor.source).items() <= settings.items():
            told = f"{settings['model']} is another model here than where the job was begun"
            raise ModelError(f"{told}; give all hosts the same one")
        self._pipeline = Pipeline(
            self._predictor,
            whole=settings["faces"] == "whole",
            every=settings["every"],
            smooth=window(settings["smooth"]),
            turned=settings["turned"],
        )
        self._opener = Opener()

    def do(self, shard: Shard, folder: Folder, at: Callable[[int], None]) -> Record:
        """Write the part of a shard."""
        name, tally = f"{shard.name}.{self._job.kind}", Tally()
        with ExitStack() as stack, folder.new(name) as path:
            with writer(path, self._job.kind, self._predictor.labels) as file:
                for reading in self._pipeline.read(self._inputs(shard, at, stack)):
                    for row in rows_of(reading):
                        file.add(row)
                        tally.rows += 1
                    tally.images += 1
                    tally.faces += len(reading.faces)
                    tally.notes += Counter(reading.image.notes)
                    if reading.failed:
                        tally.fail(reading.image.path, reading.error or "")
            return record_of(shard, tally, {name: path})

    def _inputs(self, shard: Shard, at: Callable[[int], None], stack: ExitStack) -> Iterator[InputImage | Video]:
        for entry, data in self._opener.fetched(shard.entries, at, shard.refused):
            try:
                yield self._opened(entry, data, stack)
            except ImageError as error:
                yield InputImage(entry.path, None, str(error), name=entry.name)

    def _opened(self, entry: Entry, data: bytes | ImageError | None, stack: ExitStack) -> InputImage | Video:
        if isinstance(data, ImageError):
            raise data
        if entry.kind == SEQUENCE:
            return open_sequence(entry.source, read_file)
        if is_film(entry):
            return self._film(entry, stack)
        if data is None:
            data = self._opener.data(entry)
        if looks_like_video(data[:16]) and not _is_image_with_boxes(data):
            return self._film(entry, stack)
        return decode(entry.path, data, entry.name)

    def _film(self, entry: Entry, stack: ExitStack) -> InputImage | Video:
        """A film; a copy of one that comes from a store goes when the next film has come, or the shard ends."""
        if not is_address(entry.source):
            with self._opener.film(entry) as path:
                return open_video(str(path), entry.name)
        stack.close()
        video = open_video(str(stack.enter_context(self._opener.film(entry))), entry.name)
        if isinstance(video, InputImage):
            return replace(video, path=entry.path)
        return replace(video, path=entry.path, frames=(replace(frame, path=entry.path) for frame in video.frames))


def _is_image_with_boxes(data: bytes) -> bool:
    from emotiw_keras.data.heif import is_heif

    return is_heif(data[:16])
