"""Distillation: a stage that learns from the answers of trained networks besides its labels (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emotiw_keras.errors import DataError, ModelError
from emotiw_keras.runs import Run
from emotiw_keras.training.stage import Stage

if TYPE_CHECKING:
    import keras

    from emotiw_keras.training.recipe import Recipe


def teacher_runs(recipe: Recipe, labels: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Run]:
    """The runs that the recipe's stages name as teachers, by what the recipe calls them.

    Args:
        recipe: the training.
        labels: its class names.
        settings: its `FaceInput` settings: a teacher sees the very pixels that the network sees.

    Raises:
        ModelError, RunError: there is no such run, or it is not finished.
        DataError: a teacher knows other classes, or prepares its pixels otherwise.
    """
    runs = {name: Run.open(name) for stage in recipe.stages if isinstance(stage, Stage) for name in stage.teachers}
    for name, run in runs.items():
        if set(run.labels) != set(labels):
            raise DataError(
                f"teacher {name} knows the classes {', '.join(run.labels)}, the data have {', '.join(labels)}; "
                "expected the same"
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
        labels: class names in the order of the answers.
        like: the network that is taught; its input is theirs too.
        policy: dtype policy to compute in.

    Raises:
        RunError: damaged weights.
        ModelError: a network takes another input than `like`.

    Example:
        >>> teachers = Teachers([Run.open("fer28-face-vgg")], labels, model, "float32")         # doctest: +SKIP
        >>> teachers(faces, temperature=2.0).shape                                              # doctest: +SKIP
        TensorShape([64, 7])
    """

    def __init__(self, runs: Sequence[Run], labels: Sequence[str], like: keras.Model, policy: str) -> None:
        from emotiw_keras.data.one_channel import for_grey
        from emotiw_keras.models.normalisations import fold_normalisations

        self._networks = []
        for run in runs:
            network = fold_normalisations(run.build(policy))
            if network.input_shape[1:] != like.input_shape[1:]:
                network, _ = for_grey(network, run.face_input())
            if network.input_shape[1:] != like.input_shape[1:]:
                raise ModelError(
                    f"teacher {run.called} takes faces of shape {network.input_shape[1:]}, {like.name} of "
                    f"{like.input_shape[1:]}; expected the same"
                )
            network.trainable = False
            self._networks.append((network, [run.labels.index(label) for label in labels]))

    def __call__(self, faces: Any, temperature: float) -> Any:
        """Probabilities, float32 (batch, classes), each network's softened by the temperature before their mean is taken.

        Args:
            faces: float (batch, height, width, channels), the network's input.
            temperature: divides the logits; 1 leaves the answers as they are.
        """
        import tensorflow as tf

        softened = []
        for network, order in self._networks:
            answers = tf.gather(tf.cast(network(faces, training=False), tf.float32), order, axis=-1)
            softened.append(tf.nn.softmax(tf.math.log(tf.maximum(answers, 1e-12)) / temperature))
        return tf.add_n(softened) / len(softened)
