"""What training starts from: TensorFlow, the precision, the network and its weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emotiw_keras import hardware
from emotiw_keras.data.layouts.listing import and_more
from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.files import check_local, expanded
from emotiw_keras.heads import Head, heads_of
from emotiw_keras.labels import class_key
from emotiw_keras.models import registry
from emotiw_keras.runs import Run
from emotiw_keras.talk import Notice
from emotiw_keras.training.again import how_to_make
from emotiw_keras.training.recipe import Recipe
from emotiw_keras.training.recipe_tables import SourceSettings
from emotiw_keras.weights.hub import is_address
from emotiw_keras.weights.shipped import shipped_folder, shipped_models

if TYPE_CHECKING:
    import keras
    import numpy as np

BFLOAT16_GAIN = 1.4
"""Where bfloat16 products are at least so much faster than float32's, it is worth its smaller precision."""


def start_tensorflow(threads: int | None = None) -> None:
    """Load TensorFlow with a number of threads; memory is kept on the host and grows on demand on a GPU."""
    hardware.keep_memory()
    import tensorflow as tf

    if threads:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError as error:
            raise UsageError(
                f"threads = {threads}: TensorFlow has computed with another number in this process already; start a new one"
            ) from error
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def resolve_precision(precision: str, threads: int | None = None) -> str:
    """The dtype policy that "auto" stands for here; loads TensorFlow only where the processor claims to know bfloat16."""
    hardware.check_precision(precision)
    if precision != "auto":
        return precision
    if not hardware.native_bfloat16():
        return "float32"
    start_tensorflow(threads)
    return "mixed_bfloat16" if bfloat16_gain() >= BFLOAT16_GAIN else "float32"


def bfloat16_gain(side: int = 1024, rounds: int = 20) -> float:
    """How many times faster than float32 a matrix product of bfloat16 is, the best of some rounds in turns.

    Measured, since a processor's word is not enough: with AVX512_BF16 alone (no AMX) some do half of float32's rate.
    """
    import tensorflow as tf

    best = {tf.float32: float("inf"), tf.bfloat16: float("inf")}
    matrices = {dtype: tf.ones((side, side), dtype) for dtype in best}
    for turn in range(rounds + 1):
        for dtype, matrix in matrices.items():
            start = time.perf_counter()
            tf.linalg.matmul(matrix, matrix)[0, 0].numpy()
            if turn:
                best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[tf.float32] / best[tf.bfloat16]


def parent_run(recipe: Recipe) -> Run | None:
    """The run whose weights start this one, if `weights` names a run; a missing file is an error before any work."""
    return named_run(recipe.model.name, recipe.model.weights, source=recipe.source)


def named_run(
    model: str, weights: str, asked: str = "--weights ", source: Mapping[str, SourceSettings] | None = None
) -> Run | None:
    """The run that `weights` names; None for "none", the word of the network's published weights, and a weight file.

    Args:
        model: registry name of the network.
        weights: as they were asked for.
        asked: how: what stands before them on the command line.
        source: how the recipe's data are read, for the advice of an error.

    Raises:
        ModelError: there is nothing of this name.
    """
    word = registry.get_spec(model).trained_on
    if weights in ("none", word):
        return None
    run = run_of(weights)
    path = expanded(weights)
    if run is None and not path.is_file():
        names = f" or one of {', '.join(shipped_models())}" if shipped_models() else ""
        way = how_to_make(weights, source)
        raise ModelError(f"{asked}{weights}: no such file; expected none, {word}, a weight file, a run folder{names}{way}")
    return run


def check_parent(recipe: Recipe, parent: Run) -> None:
    """Refuse to start a network from the run of another.

    Raises:
        ModelError: the run holds a network of another name or width.
    """
    name, width, held = registry.get_spec(recipe.model.name).name, recipe.model.width, parent.info["model"]["width"]
    if (parent.model_name, held) != (name, width):
        raise ModelError(
            f"--weights {recipe.model.weights} holds {parent.model_name} of width {held:g}, asked for is {name} of width "
            f"{width:g}; add --model {parent.model_name} --set model.width={held:g}"
        )


def _check_ending(model: keras.Model) -> None:
    """Refuse heads on a network that does not end in a linear classifier."""
    from emotiw_keras.models.features import classifier_of

    try:
        classifier_of(model)
    except ModelError as error:
        raise ModelError(
            f"model.heads needs a network that ends in a Dense layer, which {model.name} does not; leave heads away, or choose "
            "another network, such as face_vgg"
        ) from error


def run_of(weights: str) -> Run | None:
    """The run that `weights` names: a run folder, a model that ships by its name, or a run on the hub; None for a word or a
    weight file.

    Raises:
        RunError: the folder is no finished run, or damaged.
    """
    check_local(weights, "hf")
    if is_address(weights):
        return Run.open(weights)
    path = expanded(weights)
    return Run.open(path) if path.is_dir() or (not path.exists() and shipped_folder(weights) is not None) else None


def start_model(recipe: Recipe, info: Mapping[str, Any], parent: Run | None, say: Callable[[str], None]) -> keras.Model:
    """The network with the weights the recipe starts from; it returns logits."""
    from emotiw_keras.models.weights_argument import DATA_SETS, ForClasses, find

    shape = info["model"]
    weights = recipe.model.weights
    given = None if parent is not None or weights == "none" else weights
    find(given, shape["name"], none="--weights none")
    named = given is not None and given not in DATA_SETS
    stated = ForClasses(str(given), tuple(info["labels"])) if named else given
    model = registry.build_described(shape, weights=stated, classifier_activation=None)
    if heads_of(info):
        _check_ending(model)
    if parent is None:
        return model
    classifier = registry.get_spec(shape["name"]).classifier
    heads = heads_of(info)
    if heads:
        return _headed(model, classifier, heads, parent, shape, say)
    wanted = tuple(map(class_key, info["labels"]))
    if set(wanted) - _keys(parent):  # another head of the run may know them
        sides = (parent.with_head(head.name) for head in parent.heads)
        parent = next((side for side in sides if not set(wanted) - _keys(side)), parent)
    start, known = parent.build(), tuple(map(class_key, parent.labels))
    lacking = [label for label in info["labels"] if class_key(label) not in known]
    kept = not lacking
    _take_trunk(start, model, classifier, parent)
    if kept:
        last = model.get_layer(classifier)
        values = [value[..., [known.index(label) for label in wanted]] for value in start.get_layer(classifier).get_weights()]
        last.set_weights(_for_features(values, last, parent, shape))
    order = "" if wanted == known else f"; outputs of {classifier} taken by class name"
    if kept:
        say(f"weights from {weights}{order}")
    else:
        say(Notice(f"weights from {weights}; it lacks the classes {and_more(lacking)}, so {classifier} starts anew"))
    return model


def _headed(
    model: keras.Model,
    classifier: str,
    heads: Sequence[Head],
    parent: Run,
    shape: Mapping[str, Any],
    say: Callable[[str], None],
) -> keras.Model:
    """The network with several heads, its trunk that of a run, and of each head what the run knows of its classes: by the head
    of that name, else by its own answers. A class that the run does not know starts anew."""
    new = model.get_layer(classifier).get_weights()
    told = []
    for head in heads:
        side = parent.with_head(head.name) if head.name in {each.name for each in parent.heads} else parent
        start = side.build()
        if head is heads[0]:
            _take_trunk(start, model, classifier, parent)
        theirs = list(map(class_key, side.labels))
        known = [label for label in head.labels if class_key(label) in theirs]
        values = [
            value[..., [theirs.index(class_key(label)) for label in known]]
            for value in start.get_layer(classifier).get_weights()
        ]
        columns = [head.start + head.labels.index(label) for label in known]
        for value, taken in zip(new, _for_features(values, model.get_layer(classifier), parent, shape), strict=True):
            value[..., columns] = taken
        lacking = [label for label in head.labels if label not in known]
        told.append(f"{head.name} by class name" + (f", {', '.join(lacking)} anew" if lacking else ""))
    model.get_layer(classifier).set_weights(new)
    say(f"weights from {parent.called}; heads: {'; '.join(told)}")
    return model


def _keys(run: Run) -> set[str]:
    return set(map(class_key, run.labels))


def _take_trunk(start: keras.Model, model: keras.Model, classifier: str, parent: Run) -> None:
    """Give a network all weights of another but the classifier's."""
    # Layers with weights alone: the run's network may end in a softmax that this one, which gives logits, has not.
    old_layers, new_layers = ({layer.name: layer for layer in each.layers if layer.weights} for each in (start, model))
    if old_layers.keys() != new_layers.keys():
        raise ModelError(f"--weights {parent.called}: its layers of {parent.model_name} are not those that this version builds")
    for name, old in old_layers.items():
        if name != classifier:
            new_layers[name].set_weights(old.get_weights())


def _for_features(
    values: list[np.ndarray], classifier: keras.layers.Layer, parent: Run, shape: Mapping[str, Any]
) -> list[np.ndarray]:
    """A run's classifier for a network whose classifier reads more activations, with the same answers."""
    from emotiw_keras.models.features import wider

    has, wanted = parent.info["model"].get("features", 0), shape.get("features", 0)
    if has == wanted:
        return values
    if has:
        raise ModelError(
            f"--weights {parent.called} has a classifier that reads {has} activations, asked for are {wanted}; leave "
            "model.features at 0, which takes it as it is"
        )
    return wider(values, classifier.kernel.shape[0])
