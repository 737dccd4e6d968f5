"""Distillation: a stage that learns from the answers of trained networks besides its labels (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotiw_keras.errors import DataError, ModelError
from emotiw_keras.heads import Head
from emotiw_keras.labels import label_columns
from emotiw_keras.runs import Run
from emotiw_keras.training.again import how_to_make
from emotiw_keras.training.stage import Stage

if TYPE_CHECKING:
    import keras

    from emotiw_keras.training.recipe import Recipe


def _parts(labels: Sequence[str] | Sequence[Head]) -> list[tuple[str, ...]]:
    """The classes of each answer that is taught: of the heads, or of the only one."""
    heads = [each.labels for each in labels if isinstance(each, Head)]
    return heads or [tuple(str(label) for label in labels)]


def _same(run: Run, classes: Sequence[str]) -> Run | None:
    """The run with the head that has these classes, in whatever order and spelling; None if it has none."""
    sides = [run.with_head(head.name) for head in run.heads] or [run]
    return next((side for side in sides if label_columns(side.labels, classes) is not None), None)


def teacher_runs(recipe: Recipe, labels: Sequence[str] | Sequence[Head], settings: Mapping[str, Any]) -> dict[str, Run]:
    """The runs that the recipe's stages name as teachers, by what the recipe calls them.

    Args:
        recipe: the training.
        labels: its class names, or its heads.
        settings: its `FaceInput` settings: a teacher sees the very pixels that the network sees.

    Raises:
        ModelError, RunError: there is no such run, or it is not finished.
        DataError: a teacher knows other classes, or prepares its pixels otherwise.
    """
    runs: dict[str, Run] = {}
    named = [(stage, name) for stage in recipe.stages if isinstance(stage, Stage) for name in stage.teachers]
    for stage, name in named:
        try:
            runs[name] = Run.open(name)
        except ModelError as error:
            by_name = [Path(each).name if each == name else each for each in stage.teachers]
            change = shlex.quote(f"{stage.name}.teachers={json.dumps(by_name, ensure_ascii=False)}")
            way = how_to_make(name, recipe.source, f"--set {change}")
            raise ModelError(f"teacher {name}: {error}{way}") from error
    for name, run in runs.items():
        if not any(_same(run, classes) for classes in _parts(labels)):
            names = [f"{each.name} ({', '.join(each.labels)})" if isinstance(each, Head) else each for each in labels]
            raise DataError(
                f"teacher {name} knows the classes {', '.join(run.labels)}, the data have {', '.join(names)}; expected the same"
            )
        for key in sorted({*settings, *run.settings}):
            found, wanted = run.settings.get(key), settings.get(key)
            if found != wanted:
                raise DataError(
                    f"teacher {name} prepares pixels with {key} = {found!r}, this training with {wanted!r}; expected the same, "
                    "as both see one image: choose another teacher, or the teacher's [preprocessing] and model.input_size"
                )
    return runs


class Teachers:
    """The mean answer of trained networks.

    Args:
        runs: the networks.
        labels: class names in the order of the answers, or the heads of the network that is taught: each learns from the
            teachers with its classes.
        like: the network that is taught; its input is theirs too.
        policy: dtype policy to compute in.

    Raises:
        RunError: damaged weights.
        ModelError: a network takes another input than `like`.

    Example:
        >>> teachers = Teachers([Run.open("fer28-face-vgg-votes")], labels, model, "float32")         # doctest: +SKIP
        >>> teachers(faces, temperature=2.0).shape                                              # doctest: +SKIP
        TensorShape([64, 7])
    """

    def __init__(self, runs: Sequence[Run], labels: Sequence[str] | Sequence[Head], like: keras.Model, policy: str) -> None:
        from emotiw_keras.data.one_channel import for_grey
        from emotiw_keras.models.normalisations import fold_normalisations

        self._parts = _parts(labels)
        self._networks = []
        for run in runs:
            network = fold_normalisations(run.build_logits(policy) if run.heads else run.build(policy))
            if network.input_shape[1:] != like.input_shape[1:]:
                network, _ = for_grey(network, run.face_input())
            if network.input_shape[1:] != like.input_shape[1:]:
                raise ModelError(
                    f"teacher {run.called} takes faces of shape {network.input_shape[1:]}, {like.name} of "
                    f"{like.input_shape[1:]}; expected the same"
                )
            network.trainable = False
            self._networks.append((network, [self._columns(run, classes) for classes in self._parts], bool(run.heads)))

    def _columns(self, run: Run, classes: Sequence[str]) -> list[int]:
        """Where a network has the answers for these classes, in their order; nothing if it has none."""
        side = _same(run, classes)
        if side is None:
            return []
        start = 0 if side.head is None else side.head.start
        return [start + column for column in label_columns(side.labels, classes) or ()]

    def __call__(self, faces: Any, temperature: float) -> Any:
        """Probabilities, float32 (batch, classes), each network's softened by the temperature before their mean is taken; of
        several heads side by side, zeros for one that nobody teaches.

        Args:
            faces: float (batch, height, width, channels), the network's input.
            temperature: divides the logits; 1 leaves the answers as they are.
        """
        import tensorflow as tf

        softened: list[list[Any]] = [[] for _ in self._parts]
        for network, places, logits in self._networks:
            answers = tf.cast(network(faces, training=False), tf.float32)
            for found, columns in zip(softened, places, strict=True):
                if columns:
                    own = tf.gather(answers, columns, axis=-1)
                    own = own if logits else tf.math.log(tf.maximum(own, 1e-12))
                    found.append(tf.nn.softmax(own / temperature))
        means = [
            tf.add_n(found) / len(found) if found else tf.zeros((tf.shape(faces)[0], len(classes)))
            for found, classes in zip(softened, self._parts, strict=True)
        ]
        return means[0] if len(means) == 1 else tf.concat(means, axis=-1)
