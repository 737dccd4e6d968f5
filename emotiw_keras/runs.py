"""A finished run folder, read only: what evaluation, prediction and export start from."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotiw_keras.activations import ACTIVATIONS_FILE, Activations, read_activations
from emotiw_keras.errors import DataError, ModelError, RunError, UsageError
from emotiw_keras.files import check_local, expanded, read_regular, real, sha256_file
from emotiw_keras.heads import Head, heads_of
from emotiw_keras.keras_names import fingerprint
from emotiw_keras.packed_rows import PACKED_BY_0_1, PACKED_ROWS_FILE, unpacked
from emotiw_keras.run_facts import FINAL, FOLDS_FILE, MEAN_IMAGE_FILE, WEIGHTS_FILE, check_info, fold_name, read_folds
from emotiw_keras.sealed import read_sealed
from emotiw_keras.talk import Notice
from emotiw_keras.text import briefly
from emotiw_keras.uncertainty import UNCERTAINTY_FILE, Usable, read_usable
from emotiw_keras.weights.hub import fetch_run, is_address
from emotiw_keras.weights.shipped import shipped_folder, shipped_models

if TYPE_CHECKING:
    import keras

    from emotiw_keras.data.face_input import FaceInput

RUN_FORMAT = 1
DATA_COLUMNS = ("stage", "data", "path", "pixel_hash", "label", "subject", "split", "status")
# Of a set of videos, whose rows are videos: frames used, frames that were not and why, and what the labels hash to.
VIDEO_COLUMNS = (
    "frames", "skipped", "unlabelled", "missing", "unreadable", "beyond", "missing_frames", "annotation"
)  # fmt: skip
ROWS_FILE = "data.csv"
INFO_FILE = "run.json"
OUT_OF_FOLD_FILE = "out_of_fold.csv"
"""What a classifier that was fitted on the validation images too said of each image in the fold that it was left out of."""
BELIEVED = (
    "recipe.toml", ROWS_FILE, PACKED_ROWS_FILE, "history.csv", "search.csv", MEAN_IMAGE_FILE, UNCERTAINTY_FILE,
    ACTIVATIONS_FILE, OUT_OF_FOLD_FILE,
)  # fmt: skip
"""Files whose hashes run.json keeps; that of the weights stands beside their shapes, checkpoints are named by theirs."""
LARGEST_FILE = 1 << 30
# Crops whose probabilities may be averaged: the centre; it and its mirror image; corners and centre, plain and mirrored.
CROPS = (1, 2, 10)


def read_info(path: Path) -> dict[str, Any]:
    """run.json of a folder.

    Raises:
        RunError: it is missing, damaged, or of another version.
    """
    if not (path / INFO_FILE).is_file():
        what = f"is not a run folder: it holds no {INFO_FILE}"
        if path.is_file():
            what = "is a file, not a run folder"
        elif any((folder / "saved_model.pb").is_file() for folder in (path, path / "1")):
            what = "is a SavedModel, which TensorFlow and TensorFlow Serving take, not a run folder"
        elif (path / fold_name(0) / INFO_FILE).is_file():
            raise RunError(
                f"{path} holds runs of --folds, of which none is finished; run the `emotiw fit` that made it again, it goes on "
                "where it was"
            )
        raise RunError(
            f"{path} {what}; expected the --out of `emotiw fit` (to predict and serve also an .onnx file of `emotiw export`)"
        )
    info = read_sealed(path / INFO_FILE)
    version = info.get("format")
    if type(version) is not int or version != RUN_FORMAT:
        raise RunError(f"{path} is a run of format {version!r:.40}; this version of emotiw reads format {RUN_FORMAT}")
    check_info(info, path)
    return info


def believed_hashes(path: Path) -> dict[str, str]:
    """Name -> SHA-256 of the files of a run folder that later commands believe, as far as they are there."""
    return {name: sha256_file(path / name) for name in BELIEVED if (path / name).is_file()}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: the folder.
        info: run.json.
        given: the network of a run that was trained with a network of the user's own; None for one of the zoo.
        chosen: the name of the head that was asked for (`with_head`); None for the run's own choice.
    """

    path: Path
    info: dict[str, Any]
    given: keras.Model | None = field(default=None, compare=False, repr=False)
    chosen: str | None = None

    @classmethod
    def open(cls, path: str | Path, model: keras.Model | None = None, head: str | None = None) -> Run:
        """Open a run folder, or a model that ships by its name, where there is no such folder.

        Of a cross-validation (`fold_runs`) it is the run of all data.

        Args:
            path: the folder, the name, or the address of a run on the Hugging Face Hub, hf://user/name or
                hf://user/name@revision, which is fetched into the cache.
            head: which answer of a network with several heads; None for the run's own choice.
            model: for a run that was trained with a network of the user's own, that network, made anew by the same code: a run
                holds weights and facts, never code. When the run's weights are asked for, a copy of it takes them, or it itself
                where Keras cannot copy it (a class without `get_config`, a Lambda).

        Raises:
            UsageError: another kind of address, or a `model` that is none of Keras.
            ModelError: there is no such folder and no such model.
            RunError: not a run, unfinished, damaged, or of another version.
        """
        check_local(path, "hf")
        if model is not None:
            import keras

            if not isinstance(model, keras.Model):
                raise UsageError(
                    f"the model is {briefly(model)}; expected a keras.Model, such as keras.models.load_model(file) gives"
                )
        folder = fetch_run(str(path)) if is_address(path) else expanded(path)
        if not folder.exists():
            shipped = shipped_folder(str(path))
            if shipped is None:
                names = f", or one of {', '.join(shipped_models())}" if shipped_models() else ""
                raise ModelError(f"there is no run folder {folder}; expected the --out of `emotiw fit`{names}")
            folder = shipped
        elif (folder / FOLDS_FILE).is_file() and not (folder / INFO_FILE).exists():
            facts = read_folds(folder)
            if not facts["refit"]:
                raise RunError(
                    f"{folder} holds the runs of {facts['folds']} folds and none of all data; name one of them, such as "
                    f"{folder / fold_name(0)}, or fit again with --refit, which makes one"
                )
            folder = folder / FINAL
        info = read_info(folder)
        if not info.get("finished"):
            raise RunError(f"{folder} is not finished; run the `emotiw fit` that made it again, it goes on where it was")
        weights = folder / WEIGHTS_FILE
        if not weights.is_file():
            raise RunError(f"{folder} is damaged: {WEIGHTS_FILE} is missing")
        run = cls(folder, info, model)
        for name in info.get("files", {}):
            # A missing one is told by the command that needs it, and so is what an archive itself has to say of its damage.
            if name != PACKED_ROWS_FILE and (folder / name).exists():
                run.content(name)
        return run if head is None else run.with_head(head)

    def with_head(self, head: str) -> Run:
        """The same run, its answers those of another head.

        Raises:
            UsageError: the run has no such head.
        """
        names = [each.name for each in self.heads]
        if head not in names:
            there = f"; it has {', '.join(names)}" if names else ": its network gives one answer"
            raise UsageError(f"{self.called} has no head {head!r}{there}")
        return replace(self, chosen=head)

    @classmethod
    def from_hub(cls, name: str, revision: str = "main", model: keras.Model | None = None) -> Run:
        """Open a run on the Hugging Face Hub.

        Args:
            name: user/name, as on the hub.
            revision: a branch, a tag or a commit.
            model: as for `open`.

        Raises:
            UsageError: no such name can be.
            ModelError: the hub has no such run or cannot be asked.
            RunError: as for `open`.

        Example:
            >>> Run.from_hub("anna/faces").labels     # doctest: +SKIP
            ('angry', 'happy', 'neutral')
        """
        return cls.open(f"hf://{name}@{revision}", model)

    def content(self, name: str) -> bytes:
        """The bytes of a file of the run, once they are known to be those that were there when it was finished.

        Raises:
            RunError: it cannot be read, or has another hash than run.json says. Of runs of emotiw 0.1, which kept no hashes,
                a link out of the folder is refused.
        """
        content = self._read(name)
        self._check(name, content)
        return content

    def _read(self, name: str) -> bytes:
        path = self.path / name
        try:
            if name not in self.info.get("files", {}) and not real(path).is_relative_to(real(self.path)):
                raise RunError(f"{self.path} is damaged: {name} is a link to a place outside of it")
            return read_regular(path, LARGEST_FILE)
        except OSError as error:
            raise RunError(f"{self.path} is damaged: {name} cannot be read ({error.strerror or error})") from error

    def _check(self, name: str, content: bytes) -> None:
        said = self.info.get("files", {}).get(name)
        found = hashlib.sha256(content).hexdigest()
        if said is not None and found != said:
            raise RunError(f"{self.path} is damaged: {name} has SHA-256 {found[:16]}..., run.json says {said[:16]}...")

    def __repr__(self) -> str:
        head = "" if self.head is None else f", head {self.head.name}"
        return f"Run({self.called!r}, {self.model_name}, {len(self.labels)} classes{head})"

    def _repr_html_(self) -> str:
        """What a notebook shows: name, classes, accuracies and learning curves."""
        from emotiw_keras.run_view import run_view

        return run_view(self)

    @property
    def name(self) -> str:
        """The folder's name."""
        return real(self.path).name

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
        """Class names in the order of the answers."""
        head = self.head
        return tuple(self.info["labels"]) if head is None else head.labels

    @property
    def heads(self) -> tuple[Head, ...]:
        """The answers of a network with several heads; none of one with a single answer."""
        return heads_of(self.info)

    @property
    def head(self) -> Head | None:
        """The head whose answers these are: the one asked for, else the run's own choice; None where there is one answer."""
        name = self.chosen or self.info.get("head")
        return next((each for each in self.heads if each.name == name), None)

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
        """Crops of a face whose probabilities are averaged where nobody asks for another number: 1, 2 or 10."""
        return self.info.get("crops", 1)

    @property
    def usable(self) -> Usable | None:
        """Up to which entropy its answers, those of the chosen head, are usable; None where the folder does not say.

        Raises:
            RunError: what it says is damaged or of other weights.
        """
        other = None if self.chosen in (None, self.info.get("head")) else self.chosen
        return read_usable(self.path, self.fingerprint, len(self.labels), other)

    @property
    def activations(self) -> Activations | None:
        """How large its activations become; None where the folder does not say.

        Raises:
            RunError: what it says is damaged or of other weights.
        """
        return read_activations(self.path, self.fingerprint)

    @property
    def cautions(self) -> tuple[Notice, ...]:
        """What must be said before it answers: a file that run.json names is not there, and answers do without."""
        if UNCERTAINTY_FILE not in self.info.get("files", {}) or (self.path / UNCERTAINTY_FILE).exists():
            return ()
        lost = f"{self.called} lacks {UNCERTAINTY_FILE}, which {INFO_FILE} names"
        return (Notice(f"warning: {lost}: no answer is called uncertain; put back a whole copy"),)

    @property
    def usable_entropy(self) -> float | None:
        """That entropy, in nats."""
        return None if self.usable is None else self.usable.entropy

    def face_input(self) -> FaceInput:
        """The layer from bytes to network input.

        Raises:
            RunError: its settings contradict each other, or the mean image is damaged.
        """
        from emotiw_keras.data.face_input import FaceInput

        if self.settings.get("mean_image"):
            self.content(self.settings["mean_image"])
        try:
            return FaceInput.from_settings(self.settings, self.path)
        except DataError as error:
            raise RunError(f"{self.path} is damaged: {error}") from error

    def check_weights(self) -> None:
        """Refuse a weight file that is not the one that was there when the run was finished.

        Raises:
            RunError: it has another hash than run.json says.
        """
        found = sha256_file(self.path / WEIGHTS_FILE)
        if found != self.fingerprint:
            raise RunError(
                f"{self.path} is damaged: {WEIGHTS_FILE} has SHA-256 {found[:16]}..., run.json says {self.fingerprint[:16]}..."
            )

    def build(self, policy: str = "float32") -> keras.Model:
        """The network with the run's weights; it returns probabilities, float32 (batch, classes), of several heads those of the
        chosen one.

        Args:
            policy: dtype policy to compute in.

        Raises:
            RunError: the weight file is damaged or does not fit the network.
            ModelError: it points at other files, crashes the HDF5 library, or holds numbers that are not finite.
        """
        if self.info["model"].get("given"):
            from emotiw_keras.own_network import own_network

            self.check_weights()
            return own_network(self, policy)
        head = self.head
        if head is None:
            return self._network(policy)
        from emotiw_keras.models.heads import one_head
        from emotiw_keras.models.parts import computing_in, empty_networks

        whole = self.build_logits(policy)
        with computing_in(policy), empty_networks():
            return one_head(whole, head)

    def build_logits(self, policy: str = "float32") -> keras.Model:
        """The network before any softmax: of several heads the logits of all side by side. Args, errors: as `build`."""
        return self._network(policy, classifier_activation=None)

    def build_heads(self, policy: str = "float32") -> keras.Model:
        """The network with all its heads: their probabilities side by side, in the order of `heads`.

        Args, errors: as `build`.
        """
        from emotiw_keras.models.heads import all_heads
        from emotiw_keras.models.parts import computing_in, empty_networks

        whole = self.build_logits(policy)
        with computing_in(policy), empty_networks():
            return all_heads(whole, self.heads)

    def _network(self, policy: str, **options: Any) -> keras.Model:
        """The network of the zoo with the run's weights."""
        from emotiw_keras.models import registry
        from emotiw_keras.models.parts import computing_in, empty_networks
        from emotiw_keras.models.weights import load_strict, survives

        self.check_weights()
        settings = self.info["model"]
        with computing_in(policy), empty_networks():
            model = registry.build_described(settings, **options)
        if fingerprint(model) != self.info["weights"]["variables"]:
            raise RunError(f"{self.path}: the weights do not fit {settings['name']} as this version builds it")
        try:
            if not self.ships:
                survives(self.path / WEIGHTS_FILE)
            load_strict(model, self.path / WEIGHTS_FILE)
        except ModelError as error:
            raise ModelError(f"{self.path}: {error}") from error
        return model

    def fill_given(self) -> None:
        """Put the run's weights into the network that was given itself. Errors: as `build`."""
        from emotiw_keras.own_network import own_network

        self.check_weights()
        own_network(self, "float32", copy=False)

    def rows(self) -> list[dict[str, str]]:
        """data.csv: stage, data, path, pixel_hash, label, subject, split (as given), status (the image's role).

        A row of a set of videos is a video, its `pixel_hash` that of the video, and `VIDEO_COLUMNS` follow.

        Raises:
            RunError: it is missing or damaged.
        """
        return list(self.each_row())

    def each_row(self) -> Iterator[dict[str, str]]:
        """`rows`, one at a time; whether any are missing is known with the last."""
        count: dict[tuple[str, str], int] = {}
        try:
            text = self.data_csv().decode("utf-8")
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            if not set(DATA_COLUMNS) <= set(reader.fieldnames or ()):
                raise RunError(f"{self.path} is damaged: {ROWS_FILE} lacks the columns {', '.join(DATA_COLUMNS)}")
            whole = text.endswith("\n")
            for row in reader:
                if None in row or None in row.values() or not whole:
                    raise RunError(f"{self.path} is damaged: {ROWS_FILE} line {reader.line_num} is cut short")
                key = (row["stage"], row["data"])
                count[key] = count.get(key, 0) + 1
                yield row
        except (UnicodeDecodeError, csv.Error) as error:
            raise RunError(f"{self.path} is damaged: {ROWS_FILE} cannot be read ({error})") from error
        for stage in self.info["stages"]:
            for name, facts in self.info.get("data", {}).items():
                if ":" in name:  # a split of arrays or of a dataset, which a stage may leave alone
                    continue
                expected = facts.get("videos", facts.get("images"))
                found = count.get((stage["name"], name), 0)
                if expected is not None and found != expected:
                    raise RunError(
                        f"{self.path} is damaged: {ROWS_FILE} has {found:,} rows of {name} for stage {stage['name']}, run.json "
                        f"says {expected:,}"
                    )

    def each_row_as_trained(self) -> Iterator[dict[str, str]]:
        """`each_row`; the validation images that the classifier was fitted again on are "train", as what they became."""
        again = self.info.get("refitted", {}).get("stage")
        for row in self.each_row():
            yield row | {"status": "train"} if row["stage"] == again and row["status"] == "val" else row

    def data_csv(self) -> bytes:
        """data.csv as it is, unzipped in a packed run.

        Raises:
            RunError: it is missing or damaged.
        """
        if (self.path / ROWS_FILE).exists():
            return self.content(ROWS_FILE)
        name = next((name for name in (PACKED_ROWS_FILE, PACKED_BY_0_1) if (self.path / name).exists()), ROWS_FILE)
        packed = self._read(name)
        try:
            rows = unpacked(name, packed)
        except ValueError as error:
            raise RunError(f"{self.path} is damaged: {error}") from error
        self._check(name, packed)
        return rows

    @property
    def training_seconds(self) -> float:
        """What its epochs took, by history.csv.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            rows = csv.DictReader(io.StringIO(self.content("history.csv").decode("utf-8"), newline=""))
            return sum(float(row["seconds"]) for row in rows)
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise RunError(f"{self.path} is damaged: history.csv cannot be read ({error})") from error

    def seen(self) -> dict[str, set[str]]:
        """Pixel hashes by role: "train" (also what was dropped as a duplicate), "val" (chose an epoch), "test" (neither)."""
        roles: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
        for row in self.each_row_as_trained():
            status = row["status"]
            role = "train" if status == "train" or status.startswith("dropped") else "val" if status == "val" else "test"
            if row["pixel_hash"]:
                roles[role].add(row["pixel_hash"])
        roles["test"] -= roles["train"] | roles["val"]
        return roles

    @property
    def selected_on(self) -> set[str]:
        """Pixel hashes of the images on which the last stage chose its best epoch; a search is only measured on its own."""
        last = self.info["stages"][-1] if self.info["stages"] else {"generations": 0}
        if "generations" in last:
            return set()
        return {row["pixel_hash"] for row in self.each_row() if row["stage"] == last["name"] and row["status"] == "val"}
