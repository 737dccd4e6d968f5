"""Tables of a recipe: `[model]`, `[preprocessing]` and `[source.NAME]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from emotiw_keras.heads import NAME, Head, side_by_side
from emotiw_keras.labels import LABEL_SETS
from emotiw_keras.models.registry import LARGEST_SIDE, LARGEST_WIDTH
from emotiw_keras.run_facts import MOST_FEATURES
from emotiw_keras.training.checked_fields import SettingError, setting, validate


@dataclass(frozen=True)
class ModelSettings:
    """`[model]`: which network, from which weights.

    Attributes:
        name: registry name of the zoo, or "keras:" and a name of keras.applications.
        weights: "none" (random), "imagenet" (senet50: "vggface2"), a weight file, or a run folder.
        width: multiplier of channels and units; 1 for a network of keras.applications.
        input_size: side of the network's input in pixels; 0 is the published one.
        features: how many of the last activations the classifier reads (`models.features`); 0 leaves the network as it is, or
            as the run is that gives the weights.
        heads: name -> label set: several answers from one trunk, such as {fer = "basic7", votes = "ferplus8"}. The labels of
            the data go to the head with `labels` of the recipe, votes (`source.NAME.votes`) to the one with "ferplus8".
        head: the one whose answers the run gives unless another is asked for; "" is the first.
    """

    name: str = setting("alexnet")
    weights: str = setting("none")
    width: float = setting(1.0, above=0, high=LARGEST_WIDTH)
    input_size: int = setting(0, low=0, high=LARGEST_SIDE)
    features: int = setting(0, low=0, high=MOST_FEATURES)
    heads: tuple[tuple[str, str], ...] = setting(())
    head: str = setting("")

    def __post_init__(self) -> None:
        validate(self, "model")
        names = [name for name, _ in self.heads]
        for name, labels in self.heads:
            if not NAME.fullmatch(name):
                raise SettingError(f"heads of model names {name!r}, expected letters, digits and '_', a letter first", "heads")
            if labels not in LABEL_SETS:
                raise SettingError(
                    f"heads of model gives {name!r} the labels {labels!r}; known are {', '.join(LABEL_SETS)}", "heads"
                )
        if len(set(names)) < len(names):
            raise SettingError(f"heads of model names a head twice: {', '.join(names)}", "heads")
        if self.head and self.head not in names:
            there = f"its heads are {', '.join(names)}" if names else "it has no heads"
            raise SettingError(f"head of model is {self.head!r}; {there}", "head")

    def sides(self) -> tuple[Head, ...]:
        """The heads in order; none for a network with one answer."""
        return side_by_side({name: LABEL_SETS[labels].labels for name, labels in self.heads})


@dataclass(frozen=True)
class InputSettings:
    """`[preprocessing]`: what happens to pixels; the rest (size, channel order, mean) is the model's own.

    Attributes:
        channels: "grey" or "rgb".
        min_max: stretch each face to 0..255.
        mean_image: "" for the model's mean pixel, or a `.npy` file with a mean image in the network's channel order.
        mean: mean per channel in the network's order, in grey levels; empty is the model's.
        std: divides after the mean, in grey levels; empty is the model's (1 for Caffe's nets).
    """

    channels: str = setting("grey", choices=("grey", "rgb"))
    min_max: bool = setting(False)
    mean_image: str = setting("")
    mean: tuple[float, ...] = setting(())
    std: tuple[float, ...] = setting((), above=0)

    def __post_init__(self) -> None:
        validate(self, "preprocessing")
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in (0, 3):
                raise SettingError(f"{key} of preprocessing is {getattr(self, key)!r}, expected three numbers or none", key)

    def unlike(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What is set here and is not so in the `FaceInput` settings of a run: name -> the default in its place."""
        found = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and (list(value) if isinstance(value, tuple) else value) != settings.get(field.name):
                found[field.name] = field.default
        return found


@dataclass(frozen=True)
class SourceSettings:
    """`[source.NAME]`: how one data set is read.

    Attributes:
        path: what is read when the command line gives no `--data` for it; "generated:large" and "generated:small" are
            faces that the package draws.
        subject_pattern: regular expression on file names, or on paths if it holds a "/"; its first group (or the whole match)
            names the person. It overrides what names of folders look like; "none" reads nobody from them.
        leave_out: classes that are not read, in any of their usual spellings.
        folds: cut a set without splits of its own into so many folds: by person where every image's is known, else stratified,
            duplicates and near duplicates together; 0 cuts images 80/10/10.
        fold: the fold that is test, from 0; the one after it is val, all others train.
        held_out: false makes no fold test: `fold` is val, all others train, for a model to be used when folds have told what
            it is worth.
        val_share: share of train that becomes val where the source names train and no val, by person where known; 0 is none.
        train_folds: of those others, the folds that train, counted from `fold`: 2 is the one behind val; empty takes all.
        every: of a set of videos, the frames of every so manieth number; from which on, the seed and the video decide.
        frames_per_video: of a set of videos, at most so many of each, drawn from the seed; 0 takes all.
        check: of a set of videos, decode each file once before it is used; otherwise a broken one ends the run that meets it.
        votes: of a set that is FER-2013, FER+'s `fer2013new.csv`: ten people's votes for each image, beside its own label.
        votes_rows: a table file,row that says which row of `votes` an image is, where neither order nor names tell it.
    """

    path: str = setting("")
    subject_pattern: str = setting("")
    leave_out: tuple[str, ...] = setting(())
    folds: int = setting(0, low=0, high=10_000)
    fold: int = setting(0, low=0)
    train_folds: tuple[int, ...] = setting((), low=0)
    held_out: bool = setting(True)
    val_share: float = setting(0.1, low=0, high=0.9)
    every: int = setting(1, low=1)
    frames_per_video: int = setting(0, low=0)
    check: bool = setting(True)
    votes: str = setting("")
    votes_rows: str = setting("")

    def __post_init__(self) -> None:
        validate(self, "source")
        if self.votes_rows and not self.votes:
            raise SettingError(
                f"votes_rows of source is {self.votes_rows!r}, but votes is empty; name FER+'s table", "votes_rows"
            )
        try:
            re.compile(self.subject_pattern)
        except re.error as error:
            message = f"subject_pattern of source is {self.subject_pattern!r}, no regular expression: {error}"
            raise SettingError(message, "subject_pattern") from error
        if self.folds in (1, 2) or (self.folds and self.fold >= self.folds) or (self.fold and not self.folds):
            raise SettingError(
                f"fold of source is {self.fold} of {self.folds} folds; expected 3 folds or more, and a fold below their number",
                "fold",
            )
        if any(not 2 <= number < self.folds for number in self.train_folds):
            raise SettingError(
                f"train_folds of source are {list(self.train_folds)}, counted from fold; expected numbers from 2 (0 is test, 1 "
                f"val) to below folds, which is {self.folds}",
                "train_folds",
            )

        if not self.held_out and (not self.folds or self.train_folds):
            raise SettingError(
                f"held_out of source is false with folds = {self.folds} and train_folds = {list(self.train_folds)}; expected "
                "folds, of which all but one train",
                "held_out",
            )

    def reading(self) -> dict[str, Any]:
        """The arguments of `load_faces` that the table sets."""
        keys = ("leave_out", "every", "frames_per_video", "check", "val_share")
        words = ("subject_pattern", "votes", "votes_rows")
        return {key: getattr(self, key) for key in keys} | {key: getattr(self, key) or None for key in words}
