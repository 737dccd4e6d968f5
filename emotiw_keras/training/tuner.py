"""Fine-tuning in stages, each from the best epoch of the one before (Ng et al. 2015, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras

from emotiw_keras.errors import ModelError
from emotiw_keras.models import registry
from emotiw_keras.models.weights import load_strict
from emotiw_keras.runs import WEIGHTS_FILE, Run, fingerprint
from emotiw_keras.training import fit as fitting
from emotiw_keras.training.progress import Progress, silent
from emotiw_keras.training.recipe import InputSettings, ModelSettings, Recipe, SourceSettings
from emotiw_keras.training.stage import Stage


class StagedFineTuner:
    """Train a network of the zoo through stages, into a run folder.

    Calling `fit` again after an interruption, SIGKILL included, goes on where the newest whole checkpoint stands and ends
    in the same bits (same machine, same number of threads).

    Args:
        model: a network of the zoo with one output per class.
        stages: in order; each starts from the best epoch of the one before.
        data: data set name -> path, for every name the stages use.
        run_dir: the run folder.
        width: the multiplier the model was made with.
        labels: a named label set, or "folder" for any class names.
        subject_patterns: data set name -> regular expression on file names that names the person.
        sources: data set name -> how else it is read, such as `SourceSettings(every=10)` for a set of videos.
        preprocessing: what happens to pixels; the model's own facts where it is silent.
        duplicates: "drop" leaves out of training what also stands in val or test; "keep" trains on it.
        seed: splits, order, crops and new layers.
        say: takes lines for people; None prints nothing.

    Raises:
        ModelError: the model is none of the zoo, or not of this width; it could not be rebuilt from its run.
        UsageError: stages and data that do not fit together.

    Example:
        >>> from emotiw_keras.models import AlexNet
        >>> tuner = StagedFineTuner(
        ...     AlexNet(weights=None, classes=7, input_shape=(67, 67, 3), width=0.1),
        ...     [Stage("large", train=("large:train",), val=("large:val",), epochs=1)],
        ...     data={"large": "generated:large"},
        ...     run_dir="runs/large",
        ...     width=0.1,
        ... )
        >>> tuner.fit().labels  # doctest: +SKIP
        ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')
    """

    def __init__(
        self,
        model: keras.Model,
        stages: Sequence[Stage],
        *,
        data: Mapping[str, str | Path],
        run_dir: str | Path,
        width: float = 1.0,
        labels: str = "basic7",
        subject_patterns: Mapping[str, str] | None = None,
        sources: Mapping[str, SourceSettings] | None = None,
        preprocessing: InputSettings | None = None,
        duplicates: str = "drop",
        seed: int = 0,
        say: Callable[[str], None] | None = print,
    ) -> None:
        _check_rebuildable(model, width)
        self.model, self.run_dir, self.data = model, Path(run_dir), {name: str(path) for name, path in data.items()}
        self.say = say or silent
        self.recipe = Recipe(
            name="python",
            stages=tuple(stages),
            data=tuple(data),
            labels=labels,
            duplicates=duplicates,
            seed=seed,
            precision=model.dtype_policy.name,
            model=ModelSettings(name=model.name, width=width, input_size=model.input_shape[1]),
            preprocessing=preprocessing or InputSettings(),
            source={
                **{name: SourceSettings(subject_pattern=pattern) for name, pattern in (subject_patterns or {}).items()},
                **(sources or {}),
            },
        )

    def fit(self, progress: Progress | None = None) -> Run:
        """Train all stages, or those that are left.

        Returns:
            The finished run; `model` holds its weights.

        Raises:
            DataError: data that cannot be used.
            DivergedError: a loss that is not finite; the best epoch so far stays.
            RunError: `run_dir` was made from other stages or data, or is damaged.
            OutputError: the run folder cannot be written.
        """
        prepared = fitting.prepare(self.recipe, self.data, say=self.say)
        classes = self.model.output_shape[-1]
        if len(prepared.info["labels"]) != classes:
            found = len(prepared.info["labels"])
            raise ModelError(f"the model has {classes} outputs, the data {found} classes; make it with classes={found}")
        run = fitting.train(prepared, self.run_dir, self.model, self.say, progress or Progress.on_stderr())
        # A run that was finished before has not touched the model.
        load_strict(self.model, run.path / WEIGHTS_FILE)
        return run


def _check_rebuildable(model: keras.Model, width: float) -> None:
    """A run stores no architecture, only its name and size: the registry must give the same one."""
    spec = registry.get_spec(model.name)
    same = registry.build(
        spec.name, weights=None, classes=model.output_shape[-1], input_shape=model.input_shape[1:], width=width
    )
    if fingerprint(same) != fingerprint(model):
        raise ModelError(f"the model is not {spec.name} of width {width:g} as the zoo makes it; pass its own width")
