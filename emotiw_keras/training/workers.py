"""Which processes train together: read from TF_CONFIG or from Slurm's variables, and checked, before TensorFlow is loaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emotiw_keras.errors import UsageError

STRATEGIES = ("auto", "none", "mirrored", "multi-worker")
SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE")
WAIT_SECONDS = 600.0
"""How long a worker waits for the others to start."""
LONGEST_WAIT = 1_000_000_000.0
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_DEVICE = re.compile(r"(cpu|gpu):([0-9]{1,3})")
EXAMPLE = """'{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'"""


@dataclass(frozen=True)
class Workers:
    """The processes of a training, and which of them this one is.

    Attributes:
        addresses: host:port of each, the chief's first; empty where Slurm's resolver will tell them.
        number: of this process, from 0; 0 is the chief.
        count: of them all.
        source: what said so: "TF_CONFIG" or "Slurm".
    """

    addresses: tuple[str, ...]
    number: int
    count: int
    source: str


def strategy_word(strategy: str, environment: Mapping[str, str] = os.environ) -> str:
    """What "auto" is here: "multi-worker" where TF_CONFIG names several workers, else "auto" still, as GPUs are to be counted.

    Raises:
        UsageError: no such word.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"strategy {strategy!r}: expected {', '.join(STRATEGIES)}, or a tf.distribute.Strategy")
    if strategy == "auto" and environment.get("TF_CONFIG"):
        return "multi-worker" if workers_of(environment).count > 1 else strategy
    return strategy


def workers_of(environment: Mapping[str, str] = os.environ) -> Workers:
    """The workers that the environment names.

    Raises:
        UsageError: neither TF_CONFIG nor Slurm's variables are there, or they cannot be meant.

    Example:
        >>> config = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
        >>> workers_of({"TF_CONFIG": config}).number
        1
    """
    if environment.get("TF_CONFIG"):
        return _of_tf_config(environment["TF_CONFIG"])
    missing = [name for name in SLURM if not environment.get(name)]
    if len(missing) == len(SLURM):
        raise UsageError(f"--strategy multi-worker needs TF_CONFIG, such as TF_CONFIG={EXAMPLE}, or a step of Slurm's srun")
    if missing:
        raise UsageError(f"--strategy multi-worker: Slurm set no {', '.join(missing)}; start the command by srun")
    numbers = {name: environment[name] for name in SLURM[:2]}
    for name, value in numbers.items():
        if not re.fullmatch(r"[0-9]{1,6}", value):
            raise UsageError(f"{name} is {value!r}, expected a whole number; start the command by srun")
    number, count = map(int, numbers.values())
    if number >= count:
        raise UsageError(f"SLURM_PROCID is {number}, expected less than SLURM_STEP_NUM_TASKS = {count}")
    return Workers((), number, count, "Slurm")


def _of_tf_config(text: str) -> Workers:
    def refuse(what: str) -> UsageError:
        return UsageError(f"TF_CONFIG {what}; expected such as {EXAMPLE}")

    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refuse(f"is no JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("cluster"), dict) or not isinstance(config.get("task"), dict):
        raise refuse("lacks the tables cluster and task")
    cluster, task = config["cluster"], config["task"]
    unknown = sorted(set(map(str, cluster)) - {"chief", "worker"})
    if unknown:
        raise refuse(
            f"has jobs {', '.join(unknown)}, but every worker here trains alike: jobs are worker, and chief if you like"
        )
    addresses = [*_addresses(cluster, "chief", refuse), *_addresses(cluster, "worker", refuse)]
    chiefs = len(cluster.get("chief", ()))
    if not addresses:
        raise refuse("names no worker")
    if chiefs > 1:
        raise refuse(f"has {chiefs} chiefs, at most 1 can be")
    twice = [address for address in addresses if addresses.count(address) > 1]
    if twice:
        raise refuse(f"names {twice[0]} twice")
    job, index = task.get("type"), task.get("index")
    if isinstance(index, str) and re.fullmatch(r"[0-9]{1,6}", index):
        index = int(index)  # as some write it
    if job not in cluster:
        raise refuse(f"says that this task is a {job!r}, but the cluster has {' and '.join(map(str, cluster))}")
    if type(index) is not int or not 0 <= index < len(cluster[job]):
        raise refuse(f"says that this task is {job} {index!r}, but the cluster has {job} 0 to {len(cluster[job]) - 1}")
    return Workers(tuple(addresses), index + (chiefs if job == "worker" else 0), len(addresses), "TF_CONFIG")


def _addresses(cluster: Mapping[str, Any], job: str, refuse: Any) -> list[str]:
    named = cluster.get(job, [])
    if not isinstance(named, list):
        raise refuse(f"has {job} = {named!r}, a list of host:port is needed")
    for address in named:
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if match is None or not 0 < int(match[2]) < 65536:
            raise refuse(f"names the {job} {address!r}, which is no host:port")
    return named


def devices_of(devices: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """("cpu" or "gpu", number) of each device.

    Raises:
        UsageError: one is of another form or comes twice, or kinds are mixed.

    Example:
        >>> devices_of(["cpu:0", "cpu:1"])
        (('cpu', 0), ('cpu', 1))
    """
    found = []
    for device in devices:
        match = _DEVICE.fullmatch(device.strip().lower())
        if match is None:
            raise UsageError(f"--devices names {device!r}; expected such as cpu:0,cpu:1 or gpu:0,gpu:1")
        found.append((match[1], int(match[2])))
    if len(set(found)) < len(found):
        raise UsageError(f"--devices {','.join(devices)} names a device twice")
    if len({kind for kind, _ in found}) > 1:
        raise UsageError(f"--devices {','.join(devices)} mixes processors and GPUs, which would wait for each other")
    if found and found[0][0] == "cpu" and sorted(number for _, number in found) != list(range(len(found))):
        raise UsageError(f"--devices {','.join(devices)}: logical processors are numbered from cpu:0 on without a gap")
    return tuple(found)


def asked_strategy(strategy: Any, devices: Sequence[str], wait: float | None) -> str | None:
    """What `strategy_word` makes of a strategy; None where there is none, or TensorFlow's own.

    Args:
        strategy: a word of `STRATEGIES`, TensorFlow's strategy or None.
        devices: of strategy "mirrored".
        wait: seconds that a worker waits for the others; None where it was not asked for.

    Raises:
        UsageError: no such word; devices or a wait that cannot be meant, or that it does not heed.
    """
    word = strategy_word(strategy) if isinstance(strategy, str) else None
    if devices_of(devices) and word not in ("mirrored", "auto"):
        why = "; a worker takes all GPUs that CUDA_VISIBLE_DEVICES leaves it" if word == "multi-worker" else ""
        raise UsageError(f"--devices {','.join(devices)} needs --strategy mirrored{why}")
    if wait is not None:
        check_wait(wait)
        if word not in ("multi-worker", "auto"):
            raise UsageError(f"--wait {wait:g} needs --strategy multi-worker; nobody else waits for another")
    return word


def check_wait(seconds: float) -> None:
    """Raises UsageError for what no worker can wait for."""
    if not 1 <= seconds <= LONGEST_WAIT:  # also what is no number
        raise UsageError(f"a wait of {seconds:g} s for the other workers; expected 1 to {LONGEST_WAIT:,.0f}")
