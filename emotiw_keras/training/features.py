"""Features of a frozen prefix: computed once, kept as files, read back in any order.

Features lie in blocks of some 64 MB, each a file that is written aside and renamed, and named by its own hash. So what a kill
leaves is whole blocks, which are used again, and a damaged block is computed anew. The last bits of a feature depend on which
images are computed in one batch with it (libraries choose an algorithm by the batch's size, and compute the rest at its
end otherwise), so the batches are a matter of the data alone: image 0 to `BATCH` - 1, and so on. A block is some whole batches.
The folder is named by a fingerprint of all that the features depend on. It lies in the run folder and goes when its stage is
done; where EMOTIW_CACHE is set, it lies there and stays, for other runs that freeze the same weights over the same data:
trials of rates.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras import hardware
from emotiw_keras.data.batches import Pool, batches
from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.data.one_channel import for_grey
from emotiw_keras.files import expanded, replace_flushed, sha256_file, walk, writing
from emotiw_keras.talk import Notice

FORMAT = 2
BLOCK_BYTES = 64 << 20
"""What a block holds about, and at least one batch."""
BATCH = 128
"""Images computed at once."""
SHARED_BYTES = 32 << 30
"""What sets of features may take in a shared folder."""
SECONDS_OF_A_BLOCK = 3600.0
"""No block takes so long to write: an unfinished one that old was left by a process that is gone."""
_NAME = re.compile(r"(\d{6})-([0-9a-f]{16})\.features")


def features_root(run_dir: Path) -> Path:
    """Where the features of a run lie."""
    shared = os.environ.get("EMOTIW_CACHE")
    return expanded(shared) / "features" if shared else run_dir / "features"


def discard(run_dir: Path) -> None:
    """Remove the features that a run keeps for itself; shared ones stay."""
    folder = run_dir / "features"
    if folder.exists():
        with writing(folder):
            shutil.rmtree(folder)


def trim(root: Path, keep: set[str]) -> None:
    """Bound a shared folder: remove the sets that were used longest ago, but none of the last day.

    Args:
        root: holds sets of features.
        keep: names of sets in use; they count as used now.
    """
    sets = []
    for folder in root.iterdir():
        # Other processes write and trim here, too: what is gone meanwhile counts for nothing. Other things are left alone.
        with suppress(FileNotFoundError):
            if not folder.is_dir() or not all(_NAME.fullmatch(path.name) or path.name[0] == "." for path in folder.iterdir()):
                continue
            if folder.name in keep:
                os.utime(folder)
            sets.append((folder.stat().st_mtime, stored_bytes(folder), folder))
    total = sum(size for _, size, _ in sets)
    for used, size, folder in sorted(sets):
        if total <= SHARED_BYTES or time.time() - used < 86_400:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


def stored_bytes(folder: Path) -> int:
    """What the files below a folder take; those that other processes remove meanwhile take nothing."""
    total = 0
    for place, _, names in walk(os.fspath(folder)):  # passes over what is gone
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder that another process may remove meanwhile."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def fingerprint(
    prefix: keras.Model, face_input: FaceInput, pool: Pool, crops: np.ndarray | None, facts: Mapping[str, Any]
) -> str:
    """The name of a set of features: the same for two runs only if their features are.

    Args:
        prefix: its layers, precision and weights count.
        face_input: the preprocessing.
        pool: the pixels.
        crops: int32 (per image, images, 3), or None for the centre crop.
        facts: what else may change the last bit: versions, threads.
    """
    said = {
        "format": (FORMAT, BLOCK_BYTES, BATCH),
        "facts": dict(facts),
        "processor": hardware.processor_flags(),
        "layers": [keras.saving.serialize_keras_object(layer) for layer in prefix.layers],
        "input": face_input.get_config() | {"name": ""},
        "pool": pool.fingerprint(),
        "crops": "centre" if crops is None else hashlib.sha256(np.ascontiguousarray(crops).tobytes()).hexdigest(),
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for variable in prefix.variables:
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()[:32]


def feature_bytes(prefix: keras.Model, crops: int) -> int:
    """Bytes that the features of so many crops take."""
    return crops * _item(prefix)[1]


def _item(prefix: keras.Model) -> tuple[np.dtype, int]:
    dtype = np.dtype(tf.as_dtype(prefix.outputs[0].dtype).as_numpy_dtype)
    return dtype, math.prod(prefix.output_shape[1:]) * dtype.itemsize


class Features:
    """What a frozen prefix makes of the crops of a pool; a `Source` of batches in place of the pool.

    Args:
        folder: of this set alone, named by its `fingerprint`.
        prefix: frozen and deterministic, from network input to (batch, ...).
        face_input: bytes to network input.
        pool: the images.
        crops: int32 (per image, images, 3), or None for the centre crop.
    """

    def __init__(self, folder: Path, prefix: keras.Model, face_input: FaceInput, pool: Pool, crops: np.ndarray | None) -> None:
        self.folder, self.prefix, self.face_input, self.pool, self.crops = folder, prefix, face_input, pool, crops
        self.shape: tuple[int, ...] = tuple(prefix.output_shape[1:])
        self.labels, self.label_spec, self.drawn = pool.labels, pool.label_spec, pool.drawn
        self.dtype, item = _item(prefix)
        self._rows = BATCH * max(1, BLOCK_BYTES // (item * BATCH))
        self._per_crop = math.ceil(len(pool) / self._rows)
        self._blocks: list[np.ndarray] = []
        self._chosen = np.zeros(len(pool), np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def choose(self, chosen: np.ndarray) -> None:
        """Take crop number `chosen[i]` of image i from now on."""
        self._chosen = np.asarray(chosen, np.int64)

    def gather(self, positions: np.ndarray) -> np.ndarray:
        """The features of the chosen crops of the images at `positions`: `dtype` (n, *shape)."""
        result = np.empty((len(positions), *self.shape), self.dtype)
        for row, (crop, position) in enumerate(zip(self._chosen[positions], positions, strict=True)):
            result[row] = self._blocks[crop * self._per_crop + position // self._rows][position % self._rows]
        return result

    def prepare(self, say: Callable[[str], None], stop: Callable[[], None]) -> int:
        """Compute the blocks that are not there, and open them all.

        Args:
            say: takes a line on a damaged block.
            stop: called between batches; raises to stop. Whole blocks stay.

        Returns:
            How many crops were computed.

        Raises:
            OutputError: the folder cannot be written, or the disk is full.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            os.utime(self.folder)  # in use: another process must not trim it
        there = self._whole_blocks(say)
        computed = 0
        predict = self._predict_function()
        for number in range(self._per_crop * (1 if self.crops is None else len(self.crops))):
            crop, block = divmod(number, self._per_crop)
            positions = np.arange(block * self._rows, min((block + 1) * self._rows, len(self.pool)))
            if number not in there:
                crops = None if self.crops is None else self.crops[crop]
                there[number] = self._write(number, positions, crops, predict, stop)
                computed += len(positions)
        self._blocks = [np.memmap(there[number], self.dtype, "r").reshape(-1, *self.shape) for number in range(len(there))]
        return computed

    def _predict_function(self) -> Callable[..., tf.Tensor]:
        centre = self.crops is None
        net, given = for_grey(self.prefix, self.face_input)

        def predict(images: tf.Tensor, crops: tf.Tensor) -> tf.Tensor:
            return net(given(images) if centre else given(images, crops), training=False)

        images = tf.TensorSpec((None, *self.pool.shape), tf.uint8)
        crops = tf.TensorSpec((None, 3), tf.int32)
        return tf.function(predict, input_signature=(images, crops)).get_concrete_function()

    def _write(
        self,
        number: int,
        positions: np.ndarray,
        crops: np.ndarray | None,
        predict: Callable[..., tf.Tensor],
        stop: Callable[[], None],
    ) -> Path:
        """Compute one block."""
        aside = self.folder / f".{os.getpid()}.{number:06d}"
        with writing(aside):
            try:
                with open(aside, "wb") as file:
                    for images, draws, _ in batches(self.pool, positions, crops, BATCH):
                        file.write(predict(images, draws).numpy().tobytes())
                        stop()
                final = self.folder / f"{number:06d}-{sha256_file(aside)[:16]}.features"
                replace_flushed(aside, final)
            finally:
                aside.unlink(missing_ok=True)
        return final

    def _whole_blocks(self, say: Callable[[str], None]) -> dict[int, Path]:
        """Number -> file of the blocks that are there and undamaged; damaged ones are removed."""
        there = _inside(self.folder)
        for path in there:
            if path.name[0] != ".":
                continue
            with suppress(FileNotFoundError):  # another process has given it its name meanwhile
                if time.time() - path.stat().st_mtime > SECONDS_OF_A_BLOCK:
                    path.unlink()
        found: dict[int, Path] = {}
        for path in there:
            if path.suffix != ".features":
                continue
            match = _NAME.fullmatch(path.name)
            try:
                whole = match is not None and sha256_file(path)[:16] == match[2]
            except FileNotFoundError:
                continue
            except OSError:  # a folder, or what else is no file of ours
                whole = False
            if match and whole:
                found[int(match[1])] = path
            else:
                say(Notice(f"features {path} are damaged; computing them anew"))
                with suppress(OSError):
                    path.unlink()
        return found
