"""A training on several devices and processes: who takes part, whether all hold the same, what a resumed run says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.files import expanded
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of
from emotiw_keras.training.start import start_tensorflow
from emotiw_keras.training.workers import WAIT_SECONDS, asked_strategy, workers_of

if TYPE_CHECKING:
    import tensorflow as tf

    from emotiw_keras.training.prepared_data import Prepared
    from emotiw_keras.training.recipe import Recipe
    from emotiw_keras.training.replicas import Replicas

ALONE = {"workers": 1, "replicas": 1}
"""What run.json says of one device, where another number trained before."""


def join(
    recipe: Recipe,
    strategy: str | tf.distribute.Strategy | None,
    devices: Sequence[str],
    wait: float | None,
    threads: int | None,
    say: Callable[[str], None],
    dry_run: bool = False,
) -> Replicas | None:
    """The replicas that train together, once all workers are there; None where one device trains alone, as without a strategy.

    Args:
        recipe: the training.
        strategy: a word of `workers.STRATEGIES`, or TensorFlow's strategy.
        devices: of strategy "mirrored".
        wait: seconds until all workers must have started; None is `WAIT_SECONDS`.
        threads: processor threads of this process; None takes all.
        say: takes lines for people.
        dry_run: wait for nobody; None where several workers would train.

    Raises:
        UsageError: a strategy that cannot be meant here, or a recipe that one device trains alone.
        WorkerError: another worker did not come.
    """
    word = asked_strategy(strategy, devices, wait)
    if strategy is None or word == "none":
        return None
    longest = WAIT_SECONDS if wait is None else wait
    if not recipe.kind.shared:
        raise UsageError(f"recipe {recipe.name} searches for its network, which one device does; leave out --strategy")
    if isinstance(strategy, str):
        assert word is not None
        if word == "multi-worker":
            workers = workers_of()
            if dry_run:
                where = f": {', '.join(workers.addresses)}" if workers.addresses else ""
                count = number_of(workers.count, "workers")
                say(f"strategy multi-worker: {count}{where}, this is number {workers.number} ({workers.source})")
                return None
            if workers.count > 1:
                which = f"worker {workers.number} of {workers.count} ({workers.source})"
                say(f"{which}: waits for the others, {longest:g} s at most")
        start_tensorflow(threads)
        from emotiw_keras.training.replicas import make_strategy

        made = make_strategy(word, devices, longest)
        if made is None:
            say(
                "--strategy auto: one device, which trains alone" if word == "auto" else f"--strategy {word}: one worker, alone"
            )
            return None
    else:
        made = strategy
    from emotiw_keras.training.replicas import Replicas

    replicas = Replicas(made)
    chief = "" if replicas.workers == 1 else ", this is the chief" if replicas.chief else f", this is worker {replicas.worker}"
    say(f"strategy {replicas.told}{chief}; a global batch is cut into {replicas.count}")
    return replicas


def compare(prepared: Prepared, replicas: Replicas) -> None:
    """See to it, before the first step, that every worker has the same recipe, data, versions and precision.

    Raises:
        UsageError, DataError: one has not.
    """
    info, same = prepared.info, "give every worker the same"
    recipe = prepared.recipe.to_toml()
    held: list[tuple[str, Mapping[str, Any], Any, str]] = [
        ("versions of packages", info["versions"], UsageError, "install the same on all"),
        ("the recipe's settings", _settings(recipe), UsageError, f"{same} recipe and options"),
        ("the precision or network", {key: info[key] for key in ("precision", "model", "seed", "labels")}, UsageError,
         f"name --precision, and {same} options"),
        ("data", {"data": info["data"]}, DataError, same + " files"),
        ("weights", {"start": _start(prepared), **info.get("teachers", {})}, DataError, same + " files to start from"),
        ("the devices", {"replicas here": len(replicas.local)}, UsageError, "give every worker as many GPUs"),
    ]  # fmt: skip
    for what, facts, kind, mend in held:
        replicas.agree(facts, what, kind, mend)


def _settings(recipe: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(recipe)


def _start(prepared: Prepared) -> str:
    """What tells the weights that the training starts from."""
    if prepared.parent is not None:
        return str(prepared.parent.fingerprint)
    weights = prepared.recipe.model.weights

    path = expanded(weights)
    if not path.is_file():
        return weights
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def going_on(info: Mapping[str, Any], replicas: Replicas | None, recipe: Recipe) -> str | None:
    """What a resumed run says of its workers; None where one device trains it, as before."""
    before, now = info.get("strategy", ALONE), ALONE if replicas is None else replicas.facts()
    if before == now:
        return None if replicas is None else f"going on with {number_of(replicas.count, 'replicas')}, as before"
    batches = ", ".join(dict.fromkeys(str(getattr(stage, "batch_size", "?")) for stage in recipe.stages))
    return Notice(
        f"the run went with {number_of(before['replicas'], 'replicas')} on "
        f"{number_of(before['workers'], 'workers')}, and goes on with {now['replicas']} on "
        f"{now['workers']}; the global batch stays {batches}: last digits may differ"
    )
