"""A finished run folder, read only: what evaluation, prediction and export start from."""

from __future__ import annotations

import csv
import io
import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotiw_keras.errors import ModelError, RunError
from emotiw_keras.files import sha256_file
from emotiw_keras.weights.shipped import shipped_folder, shipped_models

if TYPE_CHECKING:
    import keras

    from emotiw_keras.data.device import FaceInput

RUN_FORMAT = 1
DATA_COLUMNS = ("stage", "data", "path", "pixel_hash", "label", "subject", "split", "status")
# Of a set of videos, whose rows are videos: frames used, frames that were not and why, and what the labels hash to.
VIDEO_COLUMNS = (
    "frames", "skipped", "unlabelled", "missing", "unreadable", "beyond", "missing_frames", "annotation"
)  # fmt: skip
WEIGHTS_FILE = "model.weights.h5"
ROWS_FILE = "data.csv"
PACKED_ROWS_FILE = "data.csv.xz"
# Bytes of data.csv, and of memory while it is unpacked: such a file may come from strangers.
UNPACKED_LIMIT, UNPACKING_MEMORY = 1 << 30, 128 << 20
# Crops whose probabilities may be averaged: the centre; it and its mirror image; corners and centre, plain and mirrored.
CROPS = (1, 2, 10)


def fingerprint(model: keras.Model) -> list[list[Any]]:
    """[path, shape, dtype] of each weight: what a weight file must fit, which Keras itself does not check by name."""
    return [["/".join(v.path.split("/")[-2:]), list(v.shape), str(v.dtype)] for v in model.weights]


def _unnumbered(variables: list[list[Any]]) -> list[list[Any]]:
    """A fingerprint without the numbers that Keras gives to layers without a name, as they come."""
    return [[re.sub(r"_\d+(?=/|$)", "", path), *rest] for path, *rest in variables]


def read_info(path: Path) -> dict[str, Any]:
    """run.json of a folder.

    Raises:
        RunError: it is missing, damaged, or of another version.
    """
    try:
        info = json.loads((path / "run.json").read_text("utf-8"))
        version = info["format"]
    except FileNotFoundError as error:
        raise RunError(f"{path} is not a run folder: it holds no run.json; expected the --out of `emotiw fit`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: run.json cannot be read ({error})") from error
    if version != RUN_FORMAT:
        raise RunError(f"{path} is a run of format {version!r}; this version of emotiw reads format {RUN_FORMAT}")
    return info


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: the folder.
        info: run.json.
        given: the network of a run that was trained with a network of the user's own; None for one of the zoo.
    """

    path: Path
    info: dict[str, Any]
    given: keras.Model | None = field(default=None, compare=False, repr=False)

    @classmethod
    def open(cls, path: str | Path, model: keras.Model | None = None) -> Run:
        """Open a run folder, or a model that ships by its name, where there is no such folder.

        Args:
            path: the folder, or the name.
            model: for a run that was trained with a network of the user's own, that network, made anew by the same code: a run
                holds weights and facts, never code. It takes the run's weights when they are asked for.

        Raises:
            ModelError: there is no such folder and no such model.
            RunError: not a run, unfinished, damaged, or of another version.
        """
        folder = Path(path).expanduser()
        if not folder.exists():
            shipped = shipped_folder(str(path))
            if shipped is None:
                names = f", or one of {', '.join(shipped_models())}" if shipped_models() else ""
                raise ModelError(f"there is no run folder {folder}; expected the --out of `emotiw fit`{names}")
            folder = shipped
        info = read_info(folder)
        if not info.get("finished"):
            raise RunError(f"{folder} is not finished; run the `emotiw fit` that made it again, it goes on where it was")
        weights = folder / WEIGHTS_FILE
        if not weights.is_file():
            raise RunError(f"{folder} is damaged: {WEIGHTS_FILE} is missing")
        return cls(folder, info, model)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def ships(self) -> bool:
        """Whether it came with the package, so that its name will do for its path."""
        return self.path == shipped_folder(self.name)

    @property
    def called(self) -> str:
        """What commands take for it: its path, or its name if it ships."""
        return self.name if self.ships else str(self.path)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the network's outputs."""
        return tuple(self.info["labels"])

    @property
    def model_name(self) -> str:
        """Registry name of the network."""
        return self.info["model"]["name"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weight file."""
        return self.info["weights"]["sha256"]

    @property
    def settings(self) -> dict[str, Any]:
        """`FaceInput` settings.

        Raises:
            ModelError: the run was trained on inputs that were no bytes.
        """
        if self.info["preprocessing"] is None:
            raise ModelError(
                f"{self.path} was trained on inputs that came as numbers, so nothing says how the bytes of a face become one; "
                "call its network yourself (Run.build), or train on uint8 faces"
            )
        return self.info["preprocessing"]

    @property
    def unrecorded(self) -> tuple[str, ...]:
        """Data sets it was trained on whose images data.csv does not know: batches as a user's dataset gave them."""
        return tuple(self.info.get("unrecorded", ()))

    @property
    def crop(self) -> dict[str, Any]:
        """How to cut a face out of a photo for this network: `reading` and `stretch` of `faces.align`."""
        return self.info.get("crop", {"reading": "B", "stretch": False})

    @property
    def crops(self) -> int:
        """Crops of a face whose probabilities are averaged where nobody asks for another number: 1, 2 or 10.

        Raises:
            RunError: run.json says another number.
        """
        crops = self.info.get("crops", 1)
        if crops not in CROPS:
            raise RunError(f"{self.path} is damaged: run.json says crops = {crops!r}; expected one of {CROPS}")
        return crops

    def face_input(self) -> FaceInput:
        """The layer from bytes to network input."""
        from emotiw_keras.data.device import FaceInput

        return FaceInput.from_settings(self.settings, self.path)

    def build(self, policy: str = "float32") -> keras.Model:
        """The network with the run's weights; it returns probabilities, float32 (batch, classes).

        Args:
            policy: dtype policy to compute in.

        Raises:
            RunError: the weight file is damaged or does not fit the network.
        """
        from emotiw_keras.models import registry
        from emotiw_keras.models.parts import computing_in, empty_networks
        from emotiw_keras.models.weights import load_strict

        found = sha256_file(self.path / WEIGHTS_FILE)
        if found != self.fingerprint:
            raise RunError(
                f"{self.path} is damaged: {WEIGHTS_FILE} has SHA-256 {found[:16]}..., run.json says {self.fingerprint[:16]}..."
            )
        settings = self.info["model"]
        if settings.get("given"):
            return self._own_network(policy)
        with computing_in(policy), empty_networks():
            model = registry.build_described(settings)
        if fingerprint(model) != self.info["weights"]["variables"]:
            raise RunError(f"{self.path}: the weights do not fit {settings['name']} as this version builds it")
        load_strict(model, self.path / WEIGHTS_FILE)
        return model

    def _own_network(self, policy: str) -> keras.Model:
        """The user's own network with the run's weights."""
        import keras

        from emotiw_keras.models.weights import load_given

        name = self.info["model"]["name"]
        if self.given is None:
            raise ModelError(
                f"{self.path} was trained with a network of its user's own, {name!r}; a run holds no code, so give the network "
                "again in Python: Run.open(path, model=...)"
            )
        if self.given.dtype_policy.name != policy and policy != "float32":
            raise ModelError(f"{name} was made in {self.given.dtype_policy.name}; make it in {policy} to compute so")
        if _unnumbered(fingerprint(self.given)) != _unnumbered(self.info["weights"]["variables"]):
            raise RunError(f"{self.path}: the weights do not fit the network {self.given.name!r}; expected {name!r} as trained")
        load_given(self.given, self.path / WEIGHTS_FILE)
        if not self.info["model"].get("logits"):
            return self.given
        outputs = keras.layers.Softmax(dtype="float32", name="probabilities")(self.given.outputs[0])
        return keras.Model(self.given.inputs, outputs, name=self.given.name)

    def rows(self) -> list[dict[str, str]]:
        """data.csv: stage, data, path, pixel_hash, label, subject, split (as given), status (the image's role).

        A row of a set of videos is a video, its `pixel_hash` that of the video, and `VIDEO_COLUMNS` follow.
        """
        return list(self.each_row())

    def each_row(self) -> Iterator[dict[str, str]]:
        """`rows`, one at a time."""
        if (self.path / ROWS_FILE).exists():
            with open(self.path / ROWS_FILE, newline="", encoding="utf-8") as file:
                yield from csv.DictReader(file)
        else:
            yield from csv.DictReader(io.StringIO(self.data_csv().decode("utf-8"), newline=""))

    def data_csv(self) -> bytes:
        """data.csv as it is, unzipped in a packed run.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            if (self.path / ROWS_FILE).exists():
                return (self.path / ROWS_FILE).read_bytes()
            unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=UNPACKING_MEMORY)
            rows = unpacker.decompress((self.path / PACKED_ROWS_FILE).read_bytes(), UNPACKED_LIMIT)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise RunError(f"{self.path} is damaged: {ROWS_FILE} cannot be read ({error})") from error
        if not unpacker.eof:
            raise RunError(f"{self.path} is damaged: {PACKED_ROWS_FILE} ends early or holds over {UNPACKED_LIMIT:,} bytes")
        return rows

    def seen(self) -> dict[str, set[str]]:
        """Pixel hashes by role: "train" (also what was dropped as a duplicate), "val" (chose an epoch), "test" (neither)."""
        roles: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
        for row in self.each_row():
            status = row["status"]
            role = "train" if status == "train" or status.startswith("dropped") else "val" if status == "val" else "test"
            if row["pixel_hash"]:
                roles[role].add(row["pixel_hash"])
        roles["test"] -= roles["train"] | roles["val"]
        return roles

    @property
    def selected_on(self) -> set[str]:
        """Pixel hashes of the images on which the last stage chose its best epoch."""
        last = self.info["stages"][-1]["name"]
        return {row["pixel_hash"] for row in self.each_row() if row["stage"] == last and row["status"] == "val"}
