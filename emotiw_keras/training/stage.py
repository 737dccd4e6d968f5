"""What a recipe lists, as data: one stage of fine-tuning, and what it has in common with every other kind of entry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from emotiw_keras.labels import VOTE_MODES
from emotiw_keras.text import briefly
from emotiw_keras.training.checked_fields import SettingError, setting, validate

OPTIMIZERS = ("caffe_sgd", "adam")
SCHEDULES = ("constant", "step", "cosine")
CLASS_WEIGHTS = ("none", "balanced", "effective", "complement")
LOSSES = ("cross_entropy", "focal")
SAMPLINGS = ("all", "balanced")
MONITORS = ("val_accuracy", "val_loss", "val_macro_f1")
SPLITS = ("train", "val", "test", "all")
KINDS = ("gradient", "head")
HEADS_SETTINGS = ("votes", "entropy_weight", "head_weights", "monitor_head")
"""What counts for a network with several heads alone (`model.heads`)."""
AUGMENTATIONS = (
    "rotate", "zoom", "shift", "brightness", "contrast", "erase", "resample", "low_light", "blur", "noise", "jpeg", "occlude",
)  # fmt: skip
"""What changes training images beyond crop and mirror."""
DEGRADATIONS = ("low_light", "blur", "noise", "jpeg")
"""Those that happen to a share of the images, `Stage.degrade`."""
HEAD_SETTINGS = (
    "name", "kind", "train", "val", "train_share", "class_weight", "monitor", "mirror", "folds", "refit", "val_least",
)  # fmt: skip
"""What a stage of kind "head" goes by; the rest is of gradient descent."""
HEEDED_BY = {
    "momentum": ("optimizer", "caffe_sgd"),
    "bias_rate": ("optimizer", "caffe_sgd"),
    "step_epochs": ("schedule", "step"),
    "step_factor": ("schedule", "step"),
    "focal_gamma": ("loss", "focal"),
    "teacher_weight": ("teachers", ""),
    "temperature": ("teachers", ""),
    "monitor": ("val", ""),
    "patience": ("val", ""),
    "monitor_head": ("val", ""),
}
"""Settings that count beside one value of another alone; "" is any but an empty one."""


@dataclass(frozen=True)
class Part:
    """One entry of a recipe: a `Stage`, or what else `training.kinds` knows.

    Attributes:
        name: names it in the run folder; letters, digits, `-` and `_`.
        train: sets to train on, each `NAME:SPLIT` with SPLIT one of train, val, test, all.
        val: sets to judge on.

    Raises:
        SettingError: a value that cannot be meant.
    """

    table: ClassVar[str] = "stage"
    """The table of a recipe that holds it, and what messages call it."""

    name: str = setting()
    train: tuple[str, ...] = setting()
    val: tuple[str, ...] = setting(())

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"{self.table} {briefly(self.name)}"

    def __post_init__(self) -> None:
        for key in ("train", "val"):
            value = getattr(self, key)
            if any(hasattr(item, "shape") for item in (value, *(value if isinstance(value, list | tuple) else ()))):
                raise SettingError(
                    f"{key} of {self.where} is {briefly(value)}, expected sets such as 'mine:train'; arrays are given to "
                    "StagedFineTuner as data={'mine': (x, y)} and named here",
                    key,
                )
        validate(self, self.where)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", self.name):
            raise SettingError(f"name of {self.where} is {self.name!r}, expected letters, digits, '-' and '_'", "name")
        if not self.train:
            raise SettingError(f"train of {self.where} is empty, expected sets such as 'fer:train'", "train")
        for key in ("train", "val"):
            for reference in getattr(self, key):
                split_reference(reference, f"{key} of {self.where}", key)


@dataclass(frozen=True)
class Stage(Part):
    """One stage: which images, which variables, which steps. It starts from the best epoch of the stage before.

    The defaults are those of Ng et al. 2015, section 3.3: SGD as Caffe computes it, momentum 0.9, weight decay 0.0005, learning
    rate 0.001 divided by ten every ten epochs.

    Attributes:
        name: names the stage in the run folder; letters, digits, `-` and `_`.
        kind: "gradient", or "head": the classifier alone, fitted at once by logistic regression on what the rest of the network
            makes of each image and, with `mirror`, of its mirror image. How strongly it is held is chosen by cross-validation
            in which no person stands on two sides, images counting as `class_weight` has it; that needs no validation images.
            Of the other settings only train, val, train_share, class_weight, monitor, mirror, folds, refit and val_least mean
            something then, and callbacks of Keras are not called.
        train: sets to train on, each `NAME:SPLIT` with SPLIT one of train, val, test, all.
        val: sets that choose the best epoch; empty keeps the last epoch.
        train_share: share of the training images that are taken, of each set and class alike, chosen by the recipe's seed.
        epochs: passes over the training images.
        batch_size: images per step.
        optimizer: "caffe_sgd" (momentum form of Caffe's sgd_solver.cpp, decay on kernels only), "adam", or a
            `keras.optimizers.Optimizer`, of which each stage makes a new one: then its own rate or schedule counts, and the
            stage's settings of the same things stay as they are. Where it has `use_ema`, its averages are what is scored and
            kept.
        learning_rate: at the start of the stage.
        schedule: "constant", "step" (times `step_factor` every `step_epochs` epochs), "cosine" (to zero over the stage), or a
            `keras.optimizers.schedules.LearningRateSchedule` of the stage's steps.
        warmup_steps: steps over which the rate grows from zero.
        weight_decay: pulls kernels, never biases; part of the gradient under caffe_sgd, decoupled under adam.
        bias_rate: multiplies the learning rate of biases under caffe_sgd; Caffe's published nets use 2.
        rules: ordered (layer pattern, rate) pairs, the first match counts; 0 or "freeze" freezes; all layers must be covered.
            "classifier" is the last layer with weights.
        initialise: patterns of layers to initialise anew before the stage.
        loss: "cross_entropy", "focal" (Lin et al. 2017), which counts what is answered well already for less, or a
            `keras.losses.Loss` of what the network returns.
        focal_gamma: how much less, under "focal".
        class_weight: "balanced" weighs each image by n / (classes * n of its class); "effective" by the inverse of the
            effective number of images (1 - b^n) / (1 - b), b = 0.999, scaled to a mean of 1 (Cui et al. 2019);
            "complement" by 1 - n of its class / n.
        sampling: "all" takes each image once an epoch; "balanced" draws as many, each class as often as any other.
        cost_weight: adds so many times the expected cost of the answer to the loss: the sum over classes of probability times
            what that answer costs (`emotiw_keras.costs`), so that likenesses between expressions are forgiven first.
        costs: a TOML file of what each confusion costs, for `cost_weight`; "" takes distances on the circumplex.
        label_smoothing: share of the target spread evenly over the classes.
        teachers: finished runs, or models that ship, whose mean answer to the same augmented image is learned besides the
            labels (Hinton et al. 2015); with the same classes and the same preprocessing. What spoils the image (`resample`
            to `occlude` below) happens behind their back: the network learns to see through it what they saw without.
        teacher_weight: share of the loss that is the teachers'; the rest is the labels'.
        temperature: divides the logits of the network and of its teachers in the teachers' share, which is multiplied by its
            square.
        clip_norm: bound on the global norm of the gradient; 0 is no bound.
        accumulate: batches whose mean gradient makes one update; it goes on over the ends of epochs, and what is left when the
            stage ends makes none.
        sharpness: takes each gradient not at the weights but this far uphill from them, so that the network settles where the
            loss is flat (sharpness-aware minimisation, Foret et al. 2021, arXiv:2010.01412; their rho, 0.05 to 0.2 there);
            a step costs twice as much. 0 does without.
        average_decay: the weights that are scored and kept are a moving average over the updates, with this decay once
            10 / (1 - decay) of them are done and less before; 0 keeps the weights themselves.
        pull_to_start: adds half of this times the squared distance of the weights from where the stage began to the loss, so
            that few images do not pull them far (L2-SP, Li et al. 2018, arXiv:1802.01483; their alpha, 0.001 to 1 there); the
            history's loss is without it. Layers of `initialise` are left out. 0 does without.
        metrics: `keras.metrics.Metric` objects, scored in training and on validation, for the history and for callbacks.
        callbacks: `keras.callbacks.Callback` objects; each epoch of the stage is one to them. `SwapEMAWeights` is not called:
            what it does, a stage does by itself.
        monitor: what chooses the best epoch.
        patience: epochs without a better one after which the stage stops; 0 never stops early.
        random_crop: crop each training image at random; otherwise in the centre.
        mirror: mirror half of the training images.
        rotate, zoom, shift: turn each training image by up to so many degrees, enlarge or shrink it by up to this share, move
            it by up to this share of its side.
        brightness, contrast: add up to this share of the range of grey levels; multiply by 1 plus or minus up to this share.
        erase: share of the training images of which a rectangle, 2 to 20 % of the area, is blanked (Zhong et al. 2020).
        resample: shrink each training image by a factor of up to this and enlarge it again; 1 leaves it sharp. 48 pixels shrunk
            by 2 show what 24 did.
        low_light: take up to this share of the light away, half-tones more than what is bright.
        blur: blur by a Gaussian of up to so many pixels of the network's input.
        noise: add Gaussian noise with a standard deviation of up to so many of 255 grey levels.
        jpeg: compress as a JPEG file of a quality down to this; 100 does not.
        degrade: share of the training images that low_light happens to; likewise, drawn for each, blur, noise and jpeg.
        occlude: share of the training images of which a band from side to side, 15 to 40 % of the face, is covered.
        folds: of the cross-validation of a stage of kind "head"; fewer where there are fewer persons.
        refit: of kind "head": where the run ends with this stage, fit it again on its training and validation images together.
        val_least: leave the stage out, and say so, where it has fewer validation images than this: they could not tell whether
            it is worth anything.
        votes: how ten people's votes become the labels of the head `ferplus8` (Barsoum et al. 2016): "cross_entropy" to their
            shares; "probabilistic": a class drawn by them in each epoch; "majority"; "multi_label": any class with 30 % of them
            is right. Validation takes the majority.
        entropy_weight: a face that people disagree about counts for less: by this share of the entropy of its votes, whose
            largest value is 1.
        head_weights: ordered (head, weight) pairs: what each head counts in the loss, and in what chooses the epoch; others 1.
        monitor_head: the head whose figures choose the best epoch; "" takes the weighted mean over heads.
        crops_per_image: draw so many random crops of each image once, and each epoch one of them; 0 draws anew each epoch.
        cache_features: whether what the frozen start of the network makes of the crops is computed once and kept, instead of
            once an epoch; the results are the same. true or false; "auto" does so where it saves work and fits the disk.

    Raises:
        SettingError: a value that cannot be meant.

    Example:
        >>> Stage("fer", train=("fer:train",), val=("fer:val",), epochs=30, rules=(("conv*", 0.0), ("*", 1.0))).batch_size
        64
    """

    train_share: float = setting(1.0, above=0, high=1)
    epochs: int = setting(30, low=1, high=100_000)
    batch_size: int = setting(64, low=1, high=65_536)
    optimizer: Any = setting("caffe_sgd", choices=OPTIMIZERS, keras="Optimizer")
    learning_rate: float = setting(0.001, above=0, high=100)
    schedule: Any = setting("step", choices=SCHEDULES, keras="LearningRateSchedule")
    step_epochs: int = setting(10, low=1)
    step_factor: float = setting(0.1, above=0, high=1)
    warmup_steps: int = setting(0, low=0)
    momentum: float = setting(0.9, low=0, high=0.9999)
    weight_decay: float = setting(0.0005, low=0, high=1)
    bias_rate: float = setting(2.0, low=0, high=1000)
    rules: tuple[tuple[str, float], ...] = setting((("*", 1.0),))
    initialise: tuple[str, ...] = setting(())
    loss: Any = setting("cross_entropy", choices=LOSSES, keras="Loss")
    focal_gamma: float = setting(2.0, low=0, high=10)
    class_weight: str = setting("none", choices=CLASS_WEIGHTS)
    sampling: str = setting("all", choices=SAMPLINGS)
    cost_weight: float = setting(0.0, low=0, high=1000)
    costs: str = setting("")
    label_smoothing: float = setting(0.0, low=0, high=0.999)
    teachers: tuple[str, ...] = setting(())
    teacher_weight: float = setting(0.5, above=0, high=1)
    temperature: float = setting(2.0, low=1, high=100)
    clip_norm: float = setting(0.0, low=0)
    accumulate: int = setting(1, low=1, high=65_536)
    sharpness: float = setting(0.0, low=0, high=10)
    average_decay: float = setting(0.0, low=0, high=0.99999)
    pull_to_start: float = setting(0.0, low=0, high=1000)
    metrics: tuple[Any, ...] = setting((), keras="Metric")
    callbacks: tuple[Any, ...] = setting((), keras="Callback")
    monitor: str = setting("val_accuracy", choices=MONITORS)
    patience: int = setting(0, low=0)
    random_crop: bool = setting(True)
    mirror: bool = setting(True)
    rotate: float = setting(0.0, low=0, high=180)
    zoom: float = setting(0.0, low=0, high=0.9)
    shift: float = setting(0.0, low=0, high=0.9)
    brightness: float = setting(0.0, low=0, high=1)
    contrast: float = setting(0.0, low=0, high=1)
    erase: float = setting(0.0, low=0, high=1)
    resample: float = setting(1.0, low=1, high=64)
    low_light: float = setting(0.0, low=0, high=0.99)
    blur: float = setting(0.0, low=0, high=20)
    noise: float = setting(0.0, low=0, high=255)
    jpeg: int = setting(100, low=1, high=100)
    degrade: float = setting(0.5, above=0, high=1)
    occlude: float = setting(0.0, low=0, high=1)
    crops_per_image: int = setting(0, low=0, high=1000)
    cache_features: bool | str = setting("auto", choices=("auto", True, False))
    kind: str = setting("gradient", choices=KINDS)
    folds: int = setting(5, low=2, high=100)
    refit: bool = setting(False)
    val_least: int = setting(0, low=0)
    votes: str = setting("cross_entropy", choices=VOTE_MODES)
    entropy_weight: float = setting(0.0, low=0, high=1)
    head_weights: tuple[tuple[str, float], ...] = setting(())
    monitor_head: str = setting("")

    def __post_init__(self) -> None:
        super().__post_init__()
        where = self.where
        if not self.rules or not any(rate > 0 for _, rate in self.rules):
            raise SettingError(f"rules of {where} freeze everything; at least one rate must be above 0", "rules")
        if any(not 0 <= rate <= 1000 for _, rate in self.rules):
            raise SettingError(f"rules of {where} are {briefly(self.rules)}, expected rates from 0 to 1000", "rules")

        self._check_objects(where)
        for key, why in unheeded(vars(self)).items():
            if getattr(self, key) != getattr(type(self), key):
                raise SettingError(f"{key} of {where} is {getattr(self, key)!r}, {why}", key)
        for key in ("refit", "val_least"):
            if getattr(self, key) and not self.val:
                raise SettingError(f"{key} of {where} needs validation images; name sets in val", key)
        if self.costs and not self.cost_weight:
            raise SettingError(f"costs of {where} is {self.costs!r}, but cost_weight is 0; set it above 0, such as 1", "costs")
        if self.degrade != 0.5 and not set(DEGRADATIONS) & set(self.augmentations):
            raise SettingError(
                f"degrade of {where} is {self.degrade:g}, but nothing is set that it is the share of; set one of "
                f"{', '.join(DEGRADATIONS)}",
                "degrade",
            )
        if self.crops_per_image and not self.random_crop:
            raise SettingError(f"crops_per_image of {where} needs random_crop = true", "crops_per_image")
        kept = {
            f"its images are augmented anew each epoch; leave out {', '.join(self.augmentations)}": self.augmented,
            "its teachers need the images; set it to false": bool(self.teachers),
            "its crops are drawn anew each epoch; set crops_per_image, or random_crop = false": self.random_crop
            and not self.crops_per_image,
        }
        for why, against in kept.items():
            if self.cache_features is True and against:
                raise SettingError(f"cache_features of {where} is true, but {why}", "cache_features")

    def _check_objects(self, where: str) -> None:
        """Refuse what a Keras object decides itself."""
        taken: list[tuple[str, Any, tuple[str, ...]]] = []
        steps = ("step_epochs", "step_factor")
        if not isinstance(self.optimizer, str):
            own = ("learning_rate", "warmup_steps", "momentum", "weight_decay", "bias_rate", "clip_norm", "accumulate")
            taken.append(("optimizer", self.optimizer, (*own, *steps)))
            if self.schedule == "cosine":
                raise SettingError(
                    f"schedule of {where} is 'cosine' beside a Keras optimizer; give a keras.optimizers.schedules object, here "
                    "or as the optimizer's learning_rate",
                    "schedule",
                )
            if getattr(getattr(self.optimizer, "inner_optimizer", self.optimizer), "use_ema", False):
                taken.append(("optimizer", self.optimizer, ("average_decay",)))
        if not isinstance(self.schedule, str):
            taken.append(("schedule", self.schedule, ("learning_rate", "warmup_steps", *steps)))
        if not isinstance(self.loss, str):
            taken.append(("loss", self.loss, ("focal_gamma", "label_smoothing")))
        defaults = {field.name: field.default for field in fields(self)}
        for key, value, names in taken:
            for name in names:
                if getattr(self, name) != defaults[name]:
                    raise SettingError(
                        f"{name} of {where} is {getattr(self, name)!r}, but its {key} is a {type(value).__name__} of Keras, "
                        f"which decides that itself; leave {name} as it is",
                        name,
                    )

    @property
    def augmentations(self) -> tuple[str, ...]:
        """What of `AUGMENTATIONS` is set."""
        defaults = {field.name: field.default for field in fields(self)}
        return tuple(name for name in AUGMENTATIONS if getattr(self, name) != defaults[name])

    @property
    def augmented(self) -> bool:
        """Whether training images are changed beyond crop and mirror."""
        return bool(self.augmentations)


def unheeded(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a stage that count for nothing beside the others, and of each why, and how to mend it.

    Example:
        >>> sorted(unheeded(vars(Stage("fer", train=("fer:train",), val=("fer:val",), optimizer="adam", teachers=("large",)))))
        ['bias_rate', 'focal_gamma', 'folds', 'momentum', 'refit']
    """
    found = {}
    for name, (key, value) in HEEDED_BY.items():
        if name not in settings:  # of heads, in a recipe without
            continue
        its = settings[key]
        if value and its != value:
            found[name] = f"heeded with {key} {value!r} alone, not with {its!r}; leave it out, or set {key} to {value!r}"
        elif not its:
            found[name] = f"not heeded where {key} is empty; leave it out, or set {key}"
    kind = settings.get("kind", "gradient")
    for name in (name for name in settings if name in Stage.__dataclass_fields__):  # what is no setting is refused as that
        if name not in HEAD_SETTINGS if kind == "head" else name in ("folds", "refit"):
            found[name] = f"not heeded by a stage of kind {kind!r}; leave it as it is"
    return found


def split_reference(reference: str, what: str, key: str = "train") -> tuple[str, str]:
    """Split `NAME:SPLIT` into its parts.

    Raises:
        SettingError: it has another form.
    """
    name, _, split = reference.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or split not in SPLITS:
        raise SettingError(f"{what} names {reference!r}, expected NAME:SPLIT with SPLIT one of {', '.join(SPLITS)}", key)
    return name, split
