"""Fine-tuning in stages, each from the best epoch of the one before (Ng et al. 2015, section 3.3)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from os import PathLike, fsdecode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotiw_keras.data.near.threshold import THRESHOLD
from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.files import local_path
from emotiw_keras.progress import Bar
from emotiw_keras.talk import Notice
from emotiw_keras.text import briefly
from emotiw_keras.training.epoch_progress import Progress, silent
from emotiw_keras.training.fit import train
from emotiw_keras.training.interrupts import Interrupted
from emotiw_keras.training.prepared_data import prepare
from emotiw_keras.training.recipe import Recipe
from emotiw_keras.training.recipe_tables import InputSettings, ModelSettings, SourceSettings
from emotiw_keras.training.run_writer import check_out
from emotiw_keras.training.sharing import join
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.workers import strategy_word

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from emotiw_keras.data.faceset import FaceSet
    from emotiw_keras.runs import Run
    from emotiw_keras.training.callback_state import Given


class StagedFineTuner:
    """Train a network through stages, into a run folder.

    Calling `fit` again after an interruption, SIGKILL included, goes on where the newest whole checkpoint stands and ends
    in the same bits (same machine, same number of threads). A `tf.data.Dataset` or `PyDataset` of the user's own is entered
    again at the end of the last whole epoch; one that shuffles needs a seed for the same bits, and a new process. What else it
    draws as batches are taken (a layer or `tf.random.Generator` in its `map`, a generator, `__getitem__`) is not kept, so that
    the run ends in other bits. A warning says so when it goes on, and of layers that draw random numbers which no checkpoint
    keeps (`tf.random`, `keras.random` without a seed).

    Args:
        model: a network of the zoo, or any `keras.Model` of one input and one output per class: functional, Sequential,
            of `keras.applications`, with nested networks; one of a subclass that says its shapes by no Input is wrapped,
            `keras.Model(x := keras.Input(shape), net(x))`. The run of a network that is none of the zoo holds its
            weights and facts; `Run.open(path, model=...)` takes the network again. Layers whose `trainable` is False stay so
            in every stage whose `rules` are the default, and are so again afterwards.
        stages: in order; each starts from the best epoch of the one before.
        data: data set name -> a path, what `load_faces` gives, arrays (x, y), a `tf.data.Dataset` or `keras.utils.PyDataset` of
            batches (x, y), or {"train": ..., "val": ...} of the last three, for every name the stages use. uint8 (batch,
            height, width, 1 or 3) are faces, which `preprocessing` makes the network's input on the device; all else goes in
            as it is.
        run_dir: the run folder.
        width: the multiplier a network of the zoo was made with.
        labels: a named label set, "folder" for any class names of faces in files, or the names in the order of the outputs;
            None is "basic7" of faces in files, else the numbers of the outputs.
        subject_patterns: data set name -> regular expression on file names that names the person.
        sources: data set name -> how else it is read, such as `SourceSettings(every=10)` for a set of videos.
        preprocessing: what happens to pixels; None takes the facts of a network of the zoo, and gives any other network its
            images as they are (put `FaceInput.of(...)` or `Rescaling` first in it).
        duplicates: "drop" leaves out of training what also stands in val or test; "keep" trains on it.
        near_duplicates: correlation from which images of files are one photograph (see `load_faces`); 0 does not look.
        keep: "last" ends with the best epoch of the last stage, "best" with that of the best of the stages that choose alike.
        seed: splits, order, crops and new layers.
        metrics: `keras.metrics.Metric` objects, scored in every stage.
        callbacks: `keras.callbacks.Callback` objects; every stage is a training to them. What they have gathered survives an
            interruption (docs/python.md).
        strategy: devices and processes that train together: a `tf.distribute.MirroredStrategy`,
            `MultiWorkerMirroredStrategy` (made before any network) or `OneDeviceStrategy`, or "none", "mirrored" or
            "auto", of one process; the network need not be made in its scope. Each global batch is cut into as many
            parts as there are replicas (docs/scale.md).
        say: takes lines for people; None prints nothing.

    Raises:
        ModelError: a network of the zoo that is not of this width; it could not be rebuilt from its run.
        UsageError, DataError: stages, data and network that do not fit together.

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
        data: Mapping[str, str | Path | FaceSet | Any],
        run_dir: str | Path,
        width: float = 1.0,
        labels: str | Sequence[str] | None = None,
        subject_patterns: Mapping[str, str] | None = None,
        sources: Mapping[str, SourceSettings] | None = None,
        preprocessing: InputSettings | None = None,
        duplicates: str = "drop",
        near_duplicates: float = THRESHOLD,
        keep: str = "last",
        seed: int = 0,
        metrics: Sequence[keras.metrics.Metric] = (),
        callbacks: Sequence[keras.callbacks.Callback] = (),
        strategy: tf.distribute.Strategy | str | None = None,
        say: Callable[[str], None] | None = print,
    ) -> None:
        from emotiw_keras.data.faceset import FaceSet
        from emotiw_keras.models.registry import model_names
        from emotiw_keras.training import given_network
        from emotiw_keras.training.given_objects import (
            beside_ours,
            check_data,
            check_network,
            check_objects,
            with_frozen,
        )
        from emotiw_keras.training.own_data import are_images_as_numbers, own_splits

        self.model, self.run_dir = model, local_path(run_dir)
        self.say = say or silent
        check_network(model)
        check_objects(stages, metrics, callbacks)
        if isinstance(strategy, str) and strategy_word(strategy) == "multi-worker":
            raise UsageError(
                f"strategy {strategy!r}: several workers are connected before any network is made, and here is one; make "
                "strategy = tf.distribute.MultiWorkerMirroredStrategy() first in the script, and pass that"
            )
        if getattr(model, "compiled", False):
            self.say(
                Notice(
                    f"{model.name}: what it was compiled with is not heeded (but by model.evaluate in a callback); optimizer, "
                    "loss and metrics are the stages'"
                )
            )
        if inside := [metric.name for layer in model._flatten_layers() for metric in layer._metrics]:
            self.say(
                Notice(
                    f"warning: {model.name}: metrics that its layers keep ({', '.join(inside)}) are neither in the history nor "
                    "in what callbacks are told; give metrics of what it returns as StagedFineTuner(metrics=...)"
                )
            )
        if not isinstance(data, Mapping):
            raise UsageError(f"data are {briefly(data)}; expected a table of names, such as data={{'faces': (x, y)}}")
        self.metrics, self.callbacks, self.strategy = beside_ours(metrics), tuple(callbacks), strategy
        files = {name: value for name, value in data.items() if isinstance(value, str | PathLike | FaceSet)}
        self.own = {name: own_splits(name, value, self.say) for name, value in data.items() if name not in files}
        self.data = {name: value if isinstance(value, FaceSet) else fsdecode(value) for name, value in files.items()}
        self.given: dict[str, Any] | None = None
        settings = ModelSettings(name="alexnet")
        if model.name in model_names() and given_network.is_of_the_zoo(model, width):
            settings = ModelSettings(name=model.name, width=width, input_size=model.input_shape[1])
        else:
            self.given = given_network.facts(model, preprocessing, self.own)
            if width != 1:
                raise UsageError(f"width = {width:g} is of a network of the zoo, which {model.name!r} is not; leave it out")
        resized = self.given is None or preprocessing is not None or given_network.holds_face_input(model)
        check_data(self.own, model, resized)
        for part in [each for splits in self.own.values() for each in splits.values() if are_images_as_numbers(each)][:1]:
            what = "cannot use a network whose inputs came as numbers; give bytes, uint8, for that"
            self.say(Notice(f"{part.name} holds images as {part.dtype}: `emotiw predict` and `emotiw evaluate` {what}"))
        self._began_with: str | None = None
        self._unfinished: Given | None = None
        if labels is not None and not isinstance(labels, str):
            labels = tuple(labels)
        elif not self.data:
            labels = given_network.labels_for(model, labels)
        self.recipe = Recipe(
            name="python",
            stages=with_frozen(model, stages),
            data=tuple(data),
            labels=Recipe.labels if labels is None else labels,
            duplicates=duplicates,
            near_duplicates=near_duplicates,
            keep=keep,
            seed=seed,
            precision=model.dtype_policy.name,
            model=settings,
            preprocessing=preprocessing or InputSettings(),
            source={
                **{name: SourceSettings(subject_pattern=pattern) for name, pattern in (subject_patterns or {}).items()},
                **(sources or {}),
            },
        )
        for name in self.recipe.source:
            if name in self.own:
                raise UsageError(f"data {name!r} is not read from files, so that no subject pattern or source is heeded")
            if isinstance(self.data[name], FaceSet):
                raise UsageError(f"data {name!r} is read already; give subject_pattern and the like to load_faces")

    def fit(self, progress: Progress | None = None, *, restart: bool = False) -> Run | None:
        """Train all stages, or those that are left.

        Args:
            progress: shows epochs under way.
            restart: as `--restart`: rename a run that is there, and begin anew with the weights that the network has now.

        Returns:
            The finished run; None on a worker that is not the chief, which holds no run folder. `model` holds its weights.

        Raises:
            DataError: data that cannot be used.
            UsageError: `run_dir` and data lie one in the other.
            DivergedError: a loss that is not finite; the best epoch so far stays.
            RunError: `run_dir` was made from other stages or data, or is damaged.
            OutputError: the run folder cannot be written.
            KeyboardInterrupt: Ctrl-C, once the step is done and saved; another `fit` goes on.
        """
        from emotiw_keras.training.callback_state import Given
        from emotiw_keras.training.given_objects import as_given, weights_hash
        from emotiw_keras.training.keras_objects import described

        check_out(self.run_dir, self.data, restart)
        if self._unfinished is not None:
            for line in self._unfinished.take_back():
                self.say(Notice(line))
        every = (*self.callbacks, *(each for stage in self.recipe.stages for each in stage.callbacks))
        given = self._unfinished = Given(list({id(each): each for each in every}.values()))
        began_with = weights_hash(self.model) if self._began_with is None or restart else self._began_with
        replicas = join(self.recipe, self.strategy, (), None, None, self.say)
        say = self.say if replicas is None or replicas.chief else silent
        with nullcontext() if replicas is None else replicas.together():
            prepared = prepare(self.recipe, self.data, say=say, own=self.own, given=self.given)
        prepared.info["metrics"] = [described(metric) for metric in self.metrics]
        if began_with:
            prepared.info["began_with"] = began_with
        self._began_with = ""  # from here on the weights are those of the run
        classes = self.model.output_shape[-1]
        if len(prepared.info["labels"]) != classes:
            found = len(prepared.info["labels"])
            raise ModelError(f"the model has {classes} outputs, the data {found} classes; make it with classes={found}")
        shown = progress or Progress(None if say is silent else Bar("images"))
        try:
            with as_given(self.model):
                run = train(
                    prepared,
                    self.run_dir,
                    self.model,
                    say,
                    shown,
                    metrics=self.metrics,
                    callbacks=self.callbacks,
                    replicas=replicas,
                    restart=restart,
                )
        except Interrupted as stop:
            if stop.exit_code == 128 + signal.SIGINT:
                raise KeyboardInterrupt(str(stop)) from None  # what Python programs expect of Ctrl-C
            raise
        finally:
            given.leave()
        self._unfinished = None
        if replicas is not None:
            replicas.spread(self.model.variables)
        return run
