"""The network of a run that was trained with one of the user's own: given again, as a run holds no code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from emotiw_keras.errors import ModelError, RunError
from emotiw_keras.keras_names import fingerprint, unnumbered
from emotiw_keras.models.architecture import answers_to_noise, apart, architecture, copied
from emotiw_keras.models.weights import load_given
from emotiw_keras.run_facts import WEIGHTS_FILE

if TYPE_CHECKING:
    from emotiw_keras.runs import Run


def own_network(run: Run, policy: str, copy: bool = True) -> keras.Model:
    """The network that was given to a run, or a copy of it where one can be made, with the run's weights.

    Args:
        run: of a network of the user's own.
        policy: dtype policy to compute in.
        copy: else it is the given one itself.

    Raises:
        ModelError: no network was given, or one of another policy.
        RunError: it is not the one that was trained.
    """
    name, same_code = run.info["model"]["name"], "make it by the same code"
    if run.given is None:
        raise ModelError(
            f"{run.path} was trained with a network of its user's own, {name!r}; a run holds no code, so give the network "
            "again in Python: Run.open(path, model=...)"
        )
    if run.given.dtype_policy.name != policy and policy != "float32":
        raise ModelError(f"{name} was made in {run.given.dtype_policy.name}; make it in {policy} to compute so")
    if _unnumbered(fingerprint(run.given)) != _unnumbered(run.info["weights"]["variables"]):
        raise RunError(f"{run.path}: the weights do not fit the network {run.given.name!r}; expected {name!r} as trained")
    said, found = run.info["model"].get("architecture"), architecture(run.given)
    if said not in (None, found):  # runs of emotiw 0.1 say none
        raise RunError(f"{run.path}: {run.given.name!r} computes otherwise than the network that was trained; {same_code}")
    # that a copy computes the same is known by what it answers
    net = copied(run.given) if copy and run.info["model"].get("answers") else None
    if net is None or fingerprint(net) != fingerprint(run.given) or _filled(run, net):
        net, difference = run.given, _filled(run, run.given)
        if difference:
            raise RunError(
                f"{run.path}: with the weights of the run {net.name!r} answers noise otherwise than the network that was "
                f"trained, by up to {difference:.3f} of probability: its layers are alike, their connections or code (such "
                f"as that of a Lambda) are not; {same_code}"
            )
    if not run.info["model"].get("logits"):
        return net
    outputs = keras.layers.Softmax(dtype="float32", name="probabilities")(net.outputs[0])
    return keras.Model(net.inputs, outputs, name=net.name)


def _filled(run: Run, net: keras.Model) -> float:
    """Put the run's weights into a network; by how much of probability it then answers noise otherwise than as trained."""
    load_given(net, run.path / WEIGHTS_FILE)
    about = run.info["model"]
    return apart(about["answers"], answers_to_noise(net, about)) if "answers" in about else 0.0


def _unnumbered(variables: list[list[Any]]) -> list[list[Any]]:
    """A fingerprint without the numbers that Keras gives to layers without a name, as they come."""
    return [[unnumbered(path), *rest] for path, *rest in variables]
