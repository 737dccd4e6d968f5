"""What a Keras user hands to `StagedFineTuner`: what a stage cannot honour is refused before anything is trained."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from glob import escape
from typing import Any

import keras

from emotiw_keras.errors import DataError, ModelError, UsageError
from emotiw_keras.keras_settings import check_keras
from emotiw_keras.text import briefly
from emotiw_keras.training.freezing import digests, inner_layers, weighted_layers
from emotiw_keras.training.keras_objects import is_keras, untold
from emotiw_keras.training.own_data import OwnData, are_faces
from emotiw_keras.training.schedules import rate_of
from emotiw_keras.training.stage import Stage

OWN_STEPS = (
    "train_step", "compute_loss", "compute_metrics", "test_step", "predict_step", "make_train_function", "make_test_function",
    "make_predict_function", "get_metrics_result", "fit",
)  # fmt: skip
"""Methods in which Keras lets a network train, or answer, otherwise than by its outputs, the loss and the metrics."""
COMPILED = ("evaluate", "test_on_batch")
"""Methods that callbacks may call of a network which was compiled."""
COLUMNS = (
    "stage", "epoch", "learning_rate", "loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "seconds",
    "images_per_second",
)  # fmt: skip
"""Of the history, by which the epoch is chosen among other things: no metric may write over them."""


def weights_hash(model: keras.Model) -> str:
    """What tells the weights that a training begins with from others."""
    return hashlib.sha256("".join(digests(model).values()).encode()).hexdigest()[:16]


def check_network(model: keras.Model) -> None:
    """ModelError for a network with a train step of its own: a stage has one, and calls nothing but the network. UsageError
    for what is no network, and where Keras is set to something else than TensorFlow and float32."""
    check_keras()
    if not isinstance(model, keras.Model):
        raise UsageError(f"the model is {briefly(model)}; expected a keras.Model, such as emotiw_keras.models.AlexNet()")
    for name in OWN_STEPS:
        if getattr(type(model), name) is not getattr(keras.Model, name) or name in vars(model):
            raise ModelError(
                f"the network {model.name!r} has a {name} of its own, which no stage calls; give its loss to Stage(loss=...), "
                "its metrics to StagedFineTuner(metrics=...), or what it adds to self.add_loss(...) in its call"
            )


def check_objects(
    stages: Sequence[Stage], metrics: Sequence[keras.metrics.Metric], callbacks: Sequence[keras.callbacks.Callback]
) -> None:
    """UsageError for what are no stages, metrics or callbacks, for two metrics of one name, and for weights that two would
    restore or nobody averages."""
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Stage) for stage in stages):
        raise UsageError(f"stages are {briefly(stages)}; expected a list of Stage objects, such as [Stage(...)]")
    for kind, values in (("Metric", metrics), ("Callback", callbacks)):
        if not isinstance(values, Sequence):
            raise UsageError(f"{kind.lower()}s are {briefly(values)}; expected a list of keras.{kind.lower()}s.{kind} objects")
        for value in values:
            if not is_keras(value, kind):
                raise UsageError(f"{kind.lower()}s hold {briefly(value)}; expected objects of keras.{kind.lower()}s.{kind}")
    for metric in metrics:
        _check_told(metric, f"metric {metric.name!r}")
    for stage in stages:
        _check_remade(stage.optimizer, f"optimizer of {stage.where}")
        for what, given in (
            ("loss", stage.loss),
            ("schedule", stage.schedule),
            *(("metric", metric) for metric in stage.metrics),
        ):
            _check_told(given, f"{what} of {stage.where}")
        taken = taken_column([metric.name for metric in beside_ours((*metrics, *stage.metrics))])
        if taken is not None:
            raise UsageError(
                f"stage {stage.name!r}: a metric is called {taken!r}, as another column of the history is; rename it, such as "
                f"'my_{taken}'"
            )
        for callback in (*callbacks, *stage.callbacks):
            if isinstance(callback, keras.callbacks.SwapEMAWeights) and not keeps_averages(stage.optimizer):
                raise UsageError(f"stage {stage.name!r}: SwapEMAWeights is for an optimizer with use_ema=True; give it one")
            if (
                isinstance(callback, keras.callbacks.EarlyStopping)
                and callback.restore_best_weights
                and not (
                    stage.val and callback.monitor == stage.monitor and not callback.min_delta and not callback.start_from_epoch
                )
            ):  # else both keep the same epoch
                raise UsageError(
                    f"stage {stage.name!r}: EarlyStopping(restore_best_weights=True) would restore other weights than the run "
                    f"keeps, those of the best epoch by its monitor={stage.monitor!r} on `val`; let both monitor the same"
                )


def beside_ours(metrics: Sequence[keras.metrics.Metric]) -> tuple[keras.metrics.Metric, ...]:
    """Metrics without Keras' own accuracy of that name, which is the figure that every stage has."""
    plain = (keras.metrics.CategoricalAccuracy, keras.metrics.SparseCategoricalAccuracy)
    return tuple(metric for metric in metrics if not (type(metric) in plain and metric.name == "accuracy"))


def taken_column(names: Sequence[str]) -> str | None:
    """The first name among those of metrics of which a column, that of training or that of validation, is another's."""
    columns = Counter(column for name in names for column in (name, f"val_{name}"))
    return next((name for name in names if any(each in COLUMNS or columns[each] > 1 for each in (name, f"val_{name}"))), None)


def _check_remade(value: Any, what: str) -> None:
    """UsageError for an optimizer that cannot be made anew from its `get_config`, as a stage does: what is not told there would
    be the default. So for one that sets weights at the end: a stage keeps those that it has scored."""
    if isinstance(value, str):
        return
    value = getattr(value, "inner_optimizer", value)
    kind = type(value)
    ends = "finalize_variable_values"
    if next(base for base in kind.__mro__ if ends in vars(base)).__module__.partition(".")[0] != "keras":
        raise UsageError(
            f"{what}: {kind.__name__} has a {ends} of its own, which no stage calls; set weights at the end in a "
            "callback's on_train_end"
        )
    rate = rate_of(value)
    if not isinstance(rate, float) and not is_keras(rate, "LearningRateSchedule"):
        raise UsageError(
            f"{what}: the learning_rate of {kind.__name__} is a {type(rate).__name__}; give a LearningRateSchedule of "
            "keras.optimizers.schedules, or one of your own with a get_config"
        )
    try:
        told = value.get_config()
        if not isinstance(rate, float):
            _check_tells(rate, what)
            told["learning_rate"] = 0.5  # the stage computes the schedule's, and makes an optimizer with a number
    except NotImplementedError as error:
        raise UsageError(
            f"{what}: the schedule in {kind.__name__} has no get_config; give it one, or a rate here and the schedule as "
            "Stage(schedule=...)"
        ) from error
    try:
        again = kind.from_config(dict(told)).get_config()
    except Exception as error:  # whatever a user's class raises
        raise UsageError(f"{what}: {kind.__name__} cannot be made anew from its get_config: {error}") from error
    untold = [name for name in told if repr(again.get(name)) != repr(told[name])]
    if getattr(kind.from_config, "__func__", None) is keras.optimizers.Optimizer.from_config.__func__:  # not one of its own
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        takes = [each.name for each in inspect.signature(kind).parameters.values() if each.kind in kinds]
        untold += [name for name in takes if name not in told]
    if untold and kind.__module__.partition(".")[0] != "keras":
        raise UsageError(
            f"{what}: the get_config of {kind.__name__} does not tell {', '.join(untold)}, so no other can be made like it; "
            "return it there beside what super().get_config() does"
        )


def _check_tells(schedule: Any, what: str) -> None:
    """UsageError for a schedule in an optimizer with more arguments than its `get_config`: only these are written down."""
    told = ("name", *schedule.get_config())
    taken = inspect.signature(type(schedule)).parameters.values()
    lost = [each.name for each in taken if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) and each.name not in told]
    if lost:
        raise UsageError(
            f"{what}: the get_config of {type(schedule).__name__} does not tell {', '.join(lost)}, so that a run could go on "
            "with another unseen; return it there"
        )


def _check_told(value: Any, what: str) -> None:
    """UsageError for an object that keeps to itself what it was made with: a run could go on with another, and mix them."""
    if isinstance(value, str):
        return
    try:
        _, lost = untold(value, value.get_config())
    except NotImplementedError:  # a schedule of which all that it keeps is written down
        return
    if lost:
        raise UsageError(
            f"{what}: neither the get_config of {type(value).__name__} nor the object tells {', '.join(lost)}, so that a run "
            f"could go on with another unseen; keep it, self.{lost[0]} = {lost[0]}, or return it in get_config"
        )


def check_data(own: OwnData, model: keras.Model, resized: bool) -> None:
    """DataError for labels that no output stands for, and for inputs that the network does not take; where faces are not
    `resized`, for those of another size."""
    classes, shape = model.output_shape[-1], model.input_shape[1:]
    for name, splits in own.items():
        for split, part in splits.items():
            low, high = part.ends
            if low < 0 or high >= classes or (part.label_spec.shape.rank == 2 and high != classes - 1):
                raise DataError(
                    f"data {name}:{split} has labels from {low} to {high}, the network {classes} outputs; expected 0 to "
                    f"{classes - 1}, an output for each class"
                )
            fits = len(part.shape) == len(shape) and all(
                None in pair or len(set(pair)) == 1 for pair in zip(part.shape, shape, strict=True)
            )
            faces = are_faces(part.shape, part.dtype)
            if not fits and not (faces and (resized or part.shape[:2] == shape[:2])):
                way = "; pass preprocessing=InputSettings(...), which resizes faces" if faces else ""
                raise DataError(
                    f"data {name}:{split} has inputs {part.shape}, but the network {model.name!r} takes {tuple(shape)}{way}"
                )


def keeps_averages(optimizer: Any) -> bool:
    """Whether an optimizer of Keras keeps moving averages of the weights."""
    return bool(getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False))


def with_frozen(model: keras.Model, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Stages whose `rules` are the default, all layers at the full rate, in which the layers that the user froze stay so."""
    layers = weighted_layers(model)
    if all(layer.trainable for layer in layers.values()):
        return tuple(stages)
    # nested ones first: a pattern means those that are called so in their network, too
    names = sorted(layers, key=lambda name: -name.count("/"))
    rules = tuple((escape(name), float(layers[name].trainable)) for name in names if "/" in name or not layers[name].trainable)
    rules = (*rules, *Stage.rules)
    default = [stage.kind != "head" and stage.rules == Stage.rules for stage in stages]
    if not model.trainable and any(default) and any(layer.trainable for layer in layers.values()):
        raise UsageError(
            f"the network {model.name!r} has trainable = False, by which Keras trains none of its layers, whatever they say "
            "themselves; set it to True and freeze layers one by one, or give rules to the stages"
        )
    return tuple(replace(stage, rules=rules) if so else stage for stage, so in zip(stages, default, strict=True))


def _once_compiled(model: keras.Model, name: str, *arguments: Any, **named: Any) -> Any:
    """Call a method of a network, or say how it can be."""
    if not model.compiled:
        raise UsageError(
            f"a callback calls {name} of the network {model.name!r}, which is not compiled: stages do not need it; give "
            "what is to be scored to Stage(metrics=...) and read it in the logs, or compile(loss=..., metrics=...) the network "
            "before StagedFineTuner takes it"
        )
    return getattr(type(model), name)(model, *arguments, **named)


@contextmanager
def as_given(model: keras.Model) -> Iterator[None]:
    """Afterwards the same layers are frozen as before, whatever the stages' rules were, and the network has the optimizer that
    it was compiled with, not the one that callbacks saw. Meanwhile what needs `compile` says how a callback may use it."""
    given: list[tuple[Any, bool]] = [(layer, layer.trainable) for _, layer in inner_layers(model)]
    seen = {name: getattr(model, name) for name in ("optimizer", "stop_training") if hasattr(model, name)}
    said = [name for name in COMPILED if getattr(type(model), name) is getattr(keras.Model, name) and name not in vars(model)]
    for name in said:
        setattr(model, name, partial(_once_compiled, model, name))
    try:
        yield
    finally:
        for name in said:
            delattr(model, name)
        for layer, trainable in given:
            layer.trainable = trainable
        for name in ("optimizer", "stop_training"):
            if name in seen:
                setattr(model, name, seen[name])
            elif hasattr(model, name):
                delattr(model, name)
