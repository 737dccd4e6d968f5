"""The devices and processes that train one network together: what they add up, tell each other and agree on.

TensorFlow's strategies give devices, the connection, sums and the notice of a lost worker. The variables are plain ones: each
process has its own, all make the same update from the same sum of gradients, so they stay equal bit for bit.
"""

from __future__ import annotations

import json
import re
import signal
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras import errors
from emotiw_keras.errors import EmotiwError, UsageError, WorkerError
from emotiw_keras.talk import most
from emotiw_keras.text import number_of
from emotiw_keras.training.interrupts import Interrupted, hang_up
from emotiw_keras.training.workers import WAIT_SECONDS, Workers, devices_of, workers_of

PIECE = 1 << 22
"""Numbers that are sent at once between workers, outside of steps."""
LOOK_SECONDS = 5
"""Between two looks whether the other workers live."""
ANSWER_SECONDS = 10
"""How long each may take to answer, three times: what is silent for longer is lost."""
_TASK = re.compile(r"/job:(chief|worker)/(?:replica:0/)?task:(\d+)")
_LOST = (
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)  # fmt: skip


class Replicas:
    """The devices of a strategy, one replica each, in this process and in others.

    Args:
        strategy: a MirroredStrategy, MultiWorkerMirroredStrategy or OneDeviceStrategy.

    Attributes:
        count: replicas in all.
        workers, worker: processes, and the number of this one; 0 is the chief.
        local: numbers of the replicas of this process.

    Raises:
        UsageError: a strategy that does not add up what its replicas do in each step.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        kinds = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy, tf.distribute.OneDeviceStrategy)
        if not isinstance(strategy, kinds):
            names = ", ".join(kind.__name__ for kind in kinds)
            raise UsageError(
                f"strategy is a {type(strategy).__name__}; expected one of {names}: replicas whose gradients are added up in "
                "each step, from variables that are the process's own"
            )
        self.strategy = strategy
        self.count = strategy.num_replicas_in_sync
        here = len(strategy.extended.worker_devices)
        self.workers, self.worker = self.count // here, 0
        if self.workers > 1:
            resolver = strategy.cluster_resolver
            chiefs = len(resolver.cluster_spec().as_dict().get("chief", ()))
            self.worker = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
            self._chiefs = chiefs
        self.local = tuple(range(self.worker * here, (self.worker + 1) * here))
        self._adding = tf.function(self._summed, input_signature=(tf.TensorSpec((None,), tf.float32),), autograph=False)

    @property
    def chief(self) -> bool:
        """Whether this process writes the run folder."""
        return self.worker == 0

    @property
    def told(self) -> str:
        """In words for people."""
        kind = "multi-worker" if self.workers > 1 else "mirrored"
        return (
            f"{kind}: {number_of(self.workers, 'workers')}, {number_of(self.count, 'replicas')}"
            if self.workers > 1
            else f"{kind}: {number_of(self.count, 'replicas')}"
        )

    def facts(self) -> dict[str, Any]:
        """What run.json says of them."""
        return {"workers": self.workers, "replicas": self.count}

    def share(self, positions: np.ndarray) -> np.ndarray:
        """Of the positions of a global batch those that are read here: every `count`-th for each replica of this process, one
        after another. A replica without any gets the last one, which counts for nothing."""
        return np.concatenate(
            [positions[row:][:: self.count] if row < len(positions) else positions[-1:] for row in self.local]
        )

    # ---- sums

    def _summed(self, values: tf.Tensor) -> tf.Tensor:
        first = self.local[0]

        def replica(values: tf.Tensor) -> tf.Tensor:
            mine = tf.cast(tf.equal(this_replica(), first), tf.float32)
            return values * mine

        return self.strategy.reduce("SUM", self.strategy.run(replica, (values,)), axis=None)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, the loss of another worker is a WorkerError, and sums that two strategies mix up are a UsageError."""
        try:
            yield
        except tf.errors.OpError as error:
            text = str(error)
            if "Shape mismatch in the collective" in text:
                raise UsageError(
                    "another strategy has trained a network of other sizes in this process, and TensorFlow mixes up the "
                    "sums of both; start a new process, and there pass one strategy object to every training"
                ) from error
            if self.workers == 1 or not (isinstance(error, _LOST) or "ollective" in text):
                raise
            raise WorkerError(self._lost(text)) from error

    def _lost(self, text: str) -> str:
        found = {int(task) + (self._chiefs if job == "worker" else 0) for job, task in _TASK.findall(text)} - {self.worker}
        who = f"worker {min(found)}" if len(found) == 1 else "another worker"
        return (
            f"{who} of {self.workers} was lost: it ended, or cannot be reached any more; see what it said, and start all "
            "workers again with the same commands, which go on from the newest checkpoint"
        )

    # ---- messages

    def exchange(self, message: bytes) -> list[bytes]:
        """What every worker says, in the order of their numbers."""
        if self.workers == 1:
            return [message]
        sizes = np.zeros(2 * self.workers)
        sizes[2 * self.worker : 2 * self.worker + 2] = divmod(len(message), 1 << 20)
        lengths = [int(high) << 20 | int(low) for high, low in self._add(sizes).reshape(-1, 2)]
        whole = np.zeros(sum(lengths), np.uint8)
        start = sum(lengths[: self.worker])
        whole[start : start + len(message)] = np.frombuffer(message, np.uint8)
        whole = self._add_bytes(whole)
        ends = np.cumsum([0, *lengths])
        return [whole[first:end].tobytes() for first, end in zip(ends, ends[1:], strict=False)]

    def from_chief(self, value: Any = None) -> Any:
        """What the chief gives, plain data that JSON can hold; the others give nothing."""
        if self.workers == 1:
            return value
        said = self.exchange(json.dumps(value).encode() if self.chief else b"")[0]
        return value if self.chief else json.loads(said)

    def spread(self, variables: Sequence[keras.Variable]) -> None:
        """Give every worker the chief's values, bit for bit."""
        if self.workers == 1:
            return
        for variable in variables:
            value = np.asarray(variable.numpy())
            raw = np.frombuffer(value.tobytes(), np.uint8) if self.chief else np.zeros(value.nbytes, np.uint8)
            got = self._add_bytes(raw)
            if not self.chief:
                variable.assign(np.frombuffer(got.tobytes(), value.dtype).reshape(value.shape))

    def _add(self, values: np.ndarray) -> np.ndarray:
        with self.watching():
            return self._adding(tf.constant(values, tf.float32)).numpy()

    def _add_bytes(self, raw: np.ndarray) -> np.ndarray:
        """The sum of bytes that all but one worker leave at 0. Two go in a float32, which any way of adding up keeps exact."""
        padded = np.zeros(len(raw) + len(raw) % 2, np.uint8)
        padded[: len(raw)] = raw
        pairs = padded.view("<u2").astype(np.float32)
        parts = [self._add(pairs[first : first + PIECE]) for first in range(0, len(pairs), PIECE)]
        summed = np.concatenate(parts) if parts else pairs
        return summed.astype("<u2").view(np.uint8)[: len(raw)]

    # ---- agreement

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one worker does within, and others perhaps not: at its end all go on, or all end with the error of the first."""
        failed: BaseException | None = None
        try:
            yield
        except (EmotiwError, Interrupted, OSError) as error:
            if isinstance(error, WorkerError) or self.workers == 1:
                raise  # nobody would answer
            failed = error
        said = self.exchange(b"" if failed is None else json.dumps(_described(failed)).encode())
        if any(said):
            self._goodbye()
        if failed is not None:
            raise failed
        for worker, text in enumerate(said):
            if text:
                raise _raised(worker, json.loads(text))

    def leave(self, kind: type[BaseException] | None, *_: object) -> None:
        """At the end of a training that went well or was stopped at one step by all, for an `ExitStack`: wait until the others
        have read the last exchange."""
        if kind is None or issubclass(kind, Interrupted):
            self._goodbye()

    def _goodbye(self) -> None:
        """Before all end: what a worker sends is read from it, so none may be gone before the others have the last exchange.
        Who takes part in one more has it; whether this one comes through is nobody's concern."""
        with suppress(WorkerError):
            self.exchange(b"")

    def agree(self, facts: Mapping[str, Any], what: str, kind: type[EmotiwError], mend: str) -> None:
        """Compare what every worker holds with what the chief holds.

        Raises:
            EmotiwError: of `kind`: they differ.
        """
        said = [json.loads(text) for text in self.exchange(json.dumps(facts, sort_keys=True).encode())]
        if any(its != said[0] for its in said):
            self._goodbye()
        for worker, its in enumerate(said):
            if its != said[0]:
                from emotiw_keras.training.run_writer import differences

                found = [line.replace(" -> ", f" on worker 0, on worker {worker} ") for line in differences(said[0], its)]
                told = found[: most(2)]
                more = f" and {len(found) - len(told)} more" if len(told) < len(found) else ""
                raise kind(f"{what} of worker {worker} differ from those of worker 0: {'; '.join(told)}{more}; {mend}")


def _described(error: BaseException) -> dict[str, Any]:
    kind = type(error).__name__ if isinstance(error, EmotiwError) else "OutputError" if isinstance(error, OSError) else ""
    return {"kind": kind, "text": str(error), "code": getattr(error, "exit_code", 1)}


def _raised(worker: int, said: Mapping[str, Any]) -> BaseException:
    if not said["kind"]:
        return Interrupted(int(said["code"]) - 128, f"worker {worker}: {said['text']}")
    kind = getattr(errors, said["kind"], EmotiwError)
    return kind(f"worker {worker}: {said['text']}")


def this_replica() -> tf.Tensor:
    """The number of the replica that is being traced, int32."""
    context = tf.distribute.get_replica_context()
    return tf.cast(context.replica_id_in_sync_group, tf.int32)


def fingerprint(variables: Sequence[keras.Variable]) -> str:
    """A checksum of values, to tell whether two workers hold the same."""
    found = 0
    for variable in variables:
        found = zlib.crc32(np.ascontiguousarray(variable.numpy()).tobytes(), found)
    return f"{found:08x}"


def make_strategy(word: str, devices: Sequence[str] = (), wait: float = WAIT_SECONDS) -> tf.distribute.Strategy | None:
    """The strategy of a word, with all GPUs or the named devices; None where one device trains alone.

    Args:
        word: of `workers.STRATEGIES`, but not "none".
        devices: of this process, such as ("cpu:0", "cpu:1"), where the word heeds them (`workers.asked_strategy`).
        wait: seconds until all workers must have started.

    Raises:
        UsageError: devices that are not there.
        WorkerError: a worker that did not come, or an address in use.
    """
    if word == "multi-worker":
        return _connected(workers_of(), wait)
    named = devices_of(devices)
    gpus = tf.config.list_physical_devices("GPU")
    if named and named[0][0] == "cpu":
        processor = tf.config.list_physical_devices("CPU")[0]
        try:
            tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * len(named))
        except RuntimeError:
            if len(tf.config.list_logical_devices("CPU")) < len(named):
                raise UsageError(
                    f"--devices {','.join(devices)}: TensorFlow has computed in this process already; start a new one"
                ) from None
    elif named and max(number for _, number in named) >= len(gpus):
        raise UsageError(f"--devices {','.join(devices)}: this machine has {len(gpus)} GPUs")
    elif not named and len(gpus) < 2:
        if word == "auto":
            return None
        raise UsageError(
            f"--strategy mirrored: this machine has {len(gpus)} GPUs; to try it on processors add --devices cpu:0,cpu:1"
        )
    return _mirrored(tuple(f"{kind.upper()}:{number}" for kind, number in named), bool(gpus))


@cache
def _mirrored(devices: tuple[str, ...], gpus: bool) -> tf.distribute.Strategy:
    """The strategy of these devices, one for all trainings of this process: TensorFlow mixes up the sums of two."""
    ways = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(list(devices) or None, cross_device_ops=ways)


def _connected(workers: Workers, wait: float) -> tf.distribute.Strategy | None:
    """All workers, as soon as the last has come."""
    if workers.count == 1:
        return None
    if workers.source == "Slurm":
        # Slurm has given each task its own GPUs: the resolver, which would deal them out, sees one a task.
        resolver: Any = tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=workers.count, gpus_per_task=1, auto_set_gpu=False
        )
        spec = resolver.cluster_spec()
        job, number = resolver.get_task_info()
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(spec, task_type=job, task_id=number, rpc_layer="grpc")
    else:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    implementation = tf.distribute.experimental.CommunicationImplementation
    way = implementation.AUTO if tf.config.list_physical_devices("GPU") else implementation.RING
    options = tf.distribute.experimental.CommunicationOptions(implementation=way)
    _wait_no_longer_than(wait)
    started = time.monotonic()
    try:
        with _deadly_signals():
            return tf.distribute.MultiWorkerMirroredStrategy(resolver, communication_options=options)
    except (tf.errors.OpError, RuntimeError) as error:
        text, failed = str(error), error
    where = workers.addresses[workers.number] if workers.addresses else f"task {workers.number} of Slurm"
    if "could not start grpc server" in text.lower():
        raise WorkerError(
            f"worker {workers.number} cannot listen on {where}: another process has that port; end it, or name another port in "
            f"{workers.source} of all workers"
        ) from failed
    if "startup" in text:
        raise UsageError(
            "strategy multi-worker: TensorFlow has computed in this process already, as it does to make a network; in Python "
            "make strategy = tf.distribute.MultiWorkerMirroredStrategy() first, before any network, and pass that"
        ) from failed
    named = f" ({', '.join(workers.addresses)})" if workers.addresses else ""
    raise WorkerError(
        f"worker {workers.number} waited {time.monotonic() - started:.0f} s for all {workers.count} workers{named}, and "
        "not all came; start all of them, look whether their addresses can be reached from here, or set --wait"
    ) from failed


def _wait_no_longer_than(seconds: float) -> None:
    """Bound the wait for other workers, and look after them often enough that one that is silent is missed within a minute.

    TensorFlow's coordination service waits an hour, whatever it is told, and deaf to signals; the strategy's own watch is used
    in its place.
    """
    from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended
    from tensorflow.python.eager import context

    context.context().configure_coordination_service(service_type="")
    CollectiveAllReduceExtended._check_health_initial_timeout = max(1, round(seconds))
    CollectiveAllReduceExtended._check_health_interval = LOOK_SECONDS
    CollectiveAllReduceExtended._check_health_timeout = ANSWER_SECONDS


@contextmanager
def _deadly_signals() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the process: TensorFlow waits where no handler of Python's is called."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM, *hang_up())}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
