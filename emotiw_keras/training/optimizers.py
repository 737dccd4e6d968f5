"""Caffe's stochastic gradient descent, AdamW, layer rates for any Keras optimizer, and the optimizer that a stage asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from emotiw_keras.errors import UsageError
from emotiw_keras.models.kernels import fused
from emotiw_keras.training.schedules import rate_of
from emotiw_keras.training.stage import Stage

LARGE = 1 << 20
"""From so many elements of a variable on it pays to compile its update."""


@keras.saving.register_keras_serializable(package="emotiw_keras")
class CaffeSGD(keras.optimizers.Optimizer):
    """SGD in the momentum form of Caffe (sgd_solver.cpp).

    h = momentum * h + rate * multiplier * (gradient + decay * w);  w = w - h

    The learning rate stands inside the history, so a step down takes effect through the history over the next steps. The decay
    travels through the momentum, unlike the decoupled `weight_decay` of Keras' optimizers.

    Args:
        learning_rate: the base rate.
        momentum: share of the history kept.
        decay: weight decay of variables whose path has no entry in `decays`.
        multipliers: variable path -> factor on the learning rate; 1 where absent.
        decays: variable path -> its own weight decay.
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        decay: float = 0.0,
        multipliers: Mapping[str, float] | None = None,
        decays: Mapping[str, float] | None = None,
        name: str = "caffe_sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = float(momentum)
        self.decay = float(decay)
        self.multipliers = dict(multipliers or {})
        self.decays = dict(decays or {})

    def build(self, variables: list[keras.Variable]) -> None:
        """Make one history per variable."""
        if self.built:
            return
        super().build(variables)
        self._rates = [self.multipliers.get(variable.path, 1.0) for variable in variables]
        self._decays = [self.decays.get(variable.path, self.decay) for variable in variables]
        self.histories = [self.add_variable_from_reference(variable, name="history") for variable in variables]

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: Any) -> None:
        """One update in place; no kernel writes an array of the gradient's size that it does not own."""
        index = self._get_variable_index(variable)
        history, decay = self.histories[index], self._decays[index]
        rate = tf.cast(learning_rate, variable.dtype) * self._rates[index]
        if fused.suits(variable.shape, LARGE):

            @fused.compiled
            def update(gradient: tf.Tensor, rate: tf.Tensor) -> None:
                gradient = tf.cast(gradient, variable.dtype)
                if decay:
                    gradient += decay * variable
                step = self.momentum * history.value - rate * gradient
                history.assign(step)
                variable.assign_add(step)

            update(gradient, rate)
            return
        gradient = tf.cast(gradient, variable.dtype)
        if decay and self.momentum:
            # into the history before the momentum shrinks it: momentum * (h + rate * decay / momentum * w)
            tf.raw_ops.ResourceApplyGradientDescent(
                var=history.value.handle, alpha=rate * (decay / self.momentum), delta=variable.read_value()
            )
        elif decay:
            gradient = gradient + decay * variable
        # accum = momentum * accum - lr * grad; var += accum: Caffe's update with the sign of the history turned.
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=history.value.handle,
            lr=rate,
            grad=gradient,
            momentum=tf.constant(self.momentum, variable.dtype),
        )

    def get_config(self) -> dict[str, Any]:
        """Serialisable configuration."""
        config = super().get_config()
        own = {"momentum": self.momentum, "decay": self.decay, "multipliers": self.multipliers, "decays": self.decays}
        return {**config, **own}


@keras.saving.register_keras_serializable(package="emotiw_keras")
class AdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`; on a processor decay and update of a large variable are compiled together."""

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        if self.weight_decay:
            super()._apply_weight_decay([v for v in variables if not fused.suits(v.shape, LARGE)])

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: Any) -> None:
        """One update in place."""
        adam = super().update_step
        rate = tf.cast(learning_rate, variable.dtype)
        if not fused.suits(variable.shape, LARGE):
            adam(gradient, variable, rate)
            return

        @fused.compiled
        def update(gradient: tf.Tensor, rate: tf.Tensor) -> None:
            if self.weight_decay and self._use_weight_decay(variable):
                variable.assign_sub(variable * self.weight_decay * rate)
            adam(gradient, variable, rate)

        update(gradient, rate)


def as_computed(gradients: list[tf.Tensor], optimizer: keras.optimizers.Optimizer) -> list[tf.Tensor]:
    """Gradients as they were before they were widened to float32, where `optimizer` widens them in its own loop.

    Args:
        gradients: of a graph.
        optimizer: what they are for; those that clip or sum gradients need them in float32.
    """
    settings = ("global_clipnorm", "clipnorm", "clipvalue", "gradient_accumulation_steps")
    if not isinstance(optimizer, (CaffeSGD, AdamW)) or any(getattr(optimizer, setting) for setting in settings):
        return gradients
    widened = [gradient.op.type == "Cast" and gradient.op.inputs[0].dtype == tf.bfloat16 for gradient in gradients]
    return [gradient.op.inputs[0] if cast else gradient for gradient, cast in zip(gradients, widened, strict=True)]


def is_kernel(variable: keras.Variable) -> bool:
    """Whether a variable is the weights of a layer, which decay, not a bias or a normalisation's parameter, which do not."""
    return bool(re.search(r"(^|/|_)kernel$", variable.path))


class _LayerRates:
    """Stands before an optimizer's class: each variable is updated at its own multiple of the learning rate, which is also that
    of a decay that is a share of the rate."""

    layer_rates: dict[str, float] = {}
    _factor = 1.0

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)  # type: ignore[misc]
        self._factors = [self.layer_rates.get(variable.path, 1.0) for variable in variables]

    def _get_current_learning_rate(self) -> Any:
        rate = super()._get_current_learning_rate()  # type: ignore[misc]
        return rate if self._factor == 1.0 else rate * self._factor

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        factors = [self._factors[self._get_variable_index(variable)] for variable in variables]  # type: ignore[attr-defined]
        for factor in dict.fromkeys(factors):
            self._factor = factor
            try:
                mine = [variable for variable, its in zip(variables, factors, strict=True) if its == factor]
                super()._apply_weight_decay(mine)  # type: ignore[misc]
            finally:
                self._factor = 1.0

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        factor = self._factors[self._get_variable_index(variable)]  # type: ignore[attr-defined]
        super().update_step(gradient, variable, learning_rate if factor == 1.0 else learning_rate * factor)  # type: ignore[misc]


def with_layer_rates(optimizer: keras.optimizers.Optimizer, rates: Mapping[str, float]) -> keras.optimizers.Optimizer:
    """An optimizer, not built yet, that updates each variable at its own multiple of the learning rate.

    Args:
        optimizer: any of Keras, or a user's own that updates variables in `update_step`.
        rates: variable path -> factor; 1 where absent. Without others the optimizer stays as it is.

    Raises:
        UsageError: it hands its updates to another optimizer, where no factor reaches them.

    Example:
        >>> slow = with_layer_rates(keras.optimizers.Adam(0.1), {"fc6/kernel": 0.01})
        >>> isinstance(slow, keras.optimizers.Adam)
        True
    """
    if all(rate == 1.0 for rate in rates.values()):
        return optimizer
    kind = type(optimizer)
    if hasattr(optimizer, "inner_optimizer") or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise UsageError(f"rules give layers rates of their own, which {kind.__name__} does not pass on; give what it wraps")
    optimizer.__class__ = type(kind.__name__, (_LayerRates, kind), {"layer_rates": dict(rates)})
    return optimizer


_EXCLUDED = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")
"""Where Keras keeps what `exclude_from_weight_decay` was told."""


def _of_keras(given: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """A new optimizer like one that a user gave; its rate is set anew at each step, so it starts with a plain number."""
    if isinstance(given, keras.optimizers.LossScaleOptimizer):
        inner = given.inner_optimizer
        return keras.optimizers.LossScaleOptimizer(
            _of_keras(inner), initial_scale=given.initial_scale, dynamic_growth_steps=given.dynamic_growth_steps
        )
    rate = rate_of(given)
    config = {**given.get_config(), "learning_rate": rate if isinstance(rate, float) else float(rate(0))}
    like = type(given).from_config(config)
    for name in _EXCLUDED:  # no configuration holds them
        if hasattr(given, name):
            setattr(like, name, getattr(given, name))
    return like


def make_optimizer(
    stage: Stage, variables: Iterable[keras.Variable], rates: Mapping[str, float], scale_loss: bool = False
) -> keras.optimizers.Optimizer:
    """A new optimizer for a stage.

    Args:
        stage: rates, momentum, decay; or an optimizer of Keras.
        variables: what will be trained.
        rates: variable path -> factor on the learning rate, from the stage's rules.
        scale_loss: keep small gradients from vanishing in float16 by a loss scale that adapts itself.

    Returns:
        A built optimizer.

    Raises:
        UsageError: rates that the optimizer cannot heed.
    """
    variables = list(variables)
    common: dict[str, Any] = {"global_clipnorm": stage.clip_norm} if stage.clip_norm else {}
    if stage.accumulate > 1:
        common["gradient_accumulation_steps"] = stage.accumulate
    optimizer: keras.optimizers.Optimizer
    if not isinstance(stage.optimizer, str):
        optimizer = with_layer_rates(_of_keras(stage.optimizer), rates)
    elif stage.optimizer == "caffe_sgd":
        bias = {v.path: stage.bias_rate for v in variables if v.path.endswith("bias")}
        optimizer = CaffeSGD(
            learning_rate=stage.learning_rate,
            momentum=stage.momentum,
            multipliers={v.path: rates.get(v.path, 1.0) * bias.get(v.path, 1.0) for v in variables},
            decays={v.path: stage.weight_decay if is_kernel(v) else 0.0 for v in variables},
            **common,
        )
    else:
        adam = AdamW(learning_rate=stage.learning_rate, weight_decay=stage.weight_decay, **common)
        adam.exclude_from_weight_decay([v for v in variables if not is_kernel(v)])
        optimizer = with_layer_rates(adam, rates)
    if scale_loss and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer
