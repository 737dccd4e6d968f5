"""A search for a path, as data: `[pathnet]`, the modules there are, and `[[search]]`, one task. It needs no Keras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from emotiw_keras.models.registry import PATHNET_SIZES
from emotiw_keras.training.checked_fields import SettingError, setting, validate
from emotiw_keras.training.stage import Part

STARTS = ("new", "transfer", "finetune")
_LAYERS, _MODULES, _ACTIVE, _FILTERS = PATHNET_SIZES


@dataclass(frozen=True)
class PathNetSettings:
    """`[pathnet]`: the modules that all searches of a recipe share; see `models.PathNet`.

    Attributes:
        layers: L.
        modules: M, in each layer.
        active: N, genes a layer; a path uses at most so many modules of it.
        filters: channels that a module puts out, before `model.width`.
        combine: how outputs of a layer's modules come together, "sum" or "average", in every layer.
        reduce: what halves the image in each layer: "pool", "stride" or "none".
    """

    layers: int = setting(_LAYERS, low=1, high=32)
    modules: int = setting(_MODULES, low=1, high=1000)
    active: int = setting(_ACTIVE, low=1, high=100)
    filters: int = setting(_FILTERS, low=1, high=4096)
    combine: str = setting("sum", choices=("sum", "average"))
    reduce: str = setting("pool", choices=("pool", "stride", "none"))

    def __post_init__(self) -> None:
        validate(self, "pathnet")
        if self.active > self.modules:
            raise SettingError(f"active of pathnet is {self.active}, more than its {self.modules} modules", "active")


@dataclass(frozen=True)
class Search(Part):
    """`[[search]]`: one task, for which paths compete.

    In each generation `tournament` paths of the population are drawn, each is trained on `minibatches` batches by plain
    gradient descent, and its fitness is its training accuracy on them. The losers become copies of the winner, each gene of
    which changes with probability 1 / (L N) by a whole number from -2 to 2, modulo M.

    Attributes:
        name: names the task in the run folder; letters, digits, `-` and `_`.
        train: sets to train on, each `NAME:SPLIT`, as of a stage.
        val: sets to measure the best path on; they choose nothing.
        start: "new": every module starts anew. "transfer": the best paths of the searches before, back to the last that was not
            "transfer", are frozen and can be used, so that no task is forgotten; all other modules start anew. A run given as
            weights is the path of its last search alone. "finetune": no search: the best path before is trained on for as many
            minibatches, with a new readout; a control.
        generations: after which the search ends.
        target: fitness at which it ends sooner; 0 never does.
        population: P, paths that compete.
        tournament: B, paths drawn for a generation.
        minibatches: T, for each of them.
        batch_size: images in a minibatch.
        learning_rate: of gradient descent, without momentum or decay.
        final_epochs: passes over the training images that the best path is trained on for after the search; the paper takes it
            as it is (0).
        random_crop: crop each training image at random, where the network's input is smaller than the face.
        mirror: mirror half of the training images.
        validate_generations: measure the best path so far on `val` every so many generations; 0 at the end alone.
        checkpoint_generations: what a kill costs at most.

    Raises:
        SettingError: a value that cannot be meant.

    Example:
        >>> Search("a", train=("fer:train",), generations=100).population
        20
    """

    table: ClassVar[str] = "search"

    start: str = setting("new", choices=STARTS)
    generations: int = setting(500, low=1, high=1_000_000)
    target: float = setting(0.0, low=0, high=1)
    population: int = setting(20, low=2, high=10_000)
    tournament: int = setting(2, low=2, high=100)
    minibatches: int = setting(50, low=1, high=100_000)
    batch_size: int = setting(16, low=1, high=65_536)
    learning_rate: float = setting(0.05, above=0, high=100)
    final_epochs: int = setting(0, low=0, high=100_000)
    random_crop: bool = setting(False)
    mirror: bool = setting(True)
    validate_generations: int = setting(25, low=0)
    checkpoint_generations: int = setting(10, low=1, high=1_000_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tournament > self.population:
            raise SettingError(
                f"tournament of {self.where} is {self.tournament}, more than its population of {self.population}", "tournament"
            )
