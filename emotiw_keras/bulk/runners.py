"""Who does the shards: processes of this machine, or Ray's tasks wherever a cluster has room. The bytes are the same."""

from __future__ import annotations

import importlib.util
import queue
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from emotiw_keras import errors
from emotiw_keras.bulk.entries import Shard, shard_of
from emotiw_keras.bulk.job import Job, Record, job_of
from emotiw_keras.bulk.worker import Worker
from emotiw_keras.errors import EmotiwError, UsageError
from emotiw_keras.hardware import processor_threads

LOCAL, RAY = "local", "ray"
RUNNERS = (LOCAL, RAY)
Runner = Callable[[Job, Iterable[Shard]], Iterator[Record]]
IN_FLIGHT = 2
"""Shards a worker that are cut: no worker waits for the listing, and no more of it stands in memory."""
RETRIES = 20
_SECONDS = 5.0


def runner(name: str, jobs: int | None, address: str | None) -> Runner:
    """What does shards.

    Args:
        name: "local" or "ray".
        jobs: processes, or Ray's tasks at once; None for one a processor, of this machine or of the cluster.
        address: of a Ray cluster: "auto" for the one that this machine belongs to, or "host:port"; None starts Ray here.

    Raises:
        UsageError: an address without Ray, Ray is not installed, or no cluster answers.
    """
    if name not in RUNNERS:
        raise UsageError(f"runner={name!r}: expected one of {', '.join(RUNNERS)}")
    if name == LOCAL:
        if address is not None:
            raise UsageError(f"--address {address} names a Ray cluster, which --runner local does not use; add --runner ray")
        return lambda job, shards: _locally(job, shards, jobs or processor_threads())
    return _ray_runner(jobs, address)


def _locally(job: Job, shards: Iterable[Shard], jobs: int) -> Iterator[Record]:
    crew = [Worker(job) for _ in range(jobs)]
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in crew:
        idle.put(worker)

    def work(shard: Shard) -> Record:
        worker = idle.get()
        try:
            return worker.do(shard)
        finally:
            idle.put(worker)

    pending: set[Future[Record]] = set()
    with ThreadPoolExecutor(jobs, thread_name_prefix="emotiw-shard") as pool:
        try:
            for shard in shards:
                pending.add(pool.submit(work, shard))
                while len(pending) >= IN_FLIGHT * jobs:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            for future in pending:
                future.cancel()
            for worker in crew:
                worker.stop()
    for worker in crew:
        worker.close()


def _ray_runner(jobs: int | None, address: str | None) -> Runner:
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--runner ray needs Ray; `pip install 'emotiw-keras[ray]'`, or use --runner local")
    if address not in (None, "auto", "local"):
        _reach(str(address))
    ray: Any = importlib.import_module("ray")
    try:
        ray.init(
            address=address,
            num_cpus=(jobs or processor_threads()) if address is None else None,
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if address is None else None,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        where = "this machine" if address is None else address
        reason = " ".join(str(error).split())[:200]
        told = f"no Ray cluster can be used at {where} ({reason})"
        raise UsageError(f"{told}; `ray start --head`, then --address auto") from error
    slots = jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
    return lambda job, shards: _on_ray(ray, job, shards, slots)


def _reach(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--address {address}: expected 'auto', or HOST:PORT of a Ray cluster")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        told = f"no Ray cluster answers at {address} ({reason})"
        raise UsageError(f"{told}; `ray start --head` there, or check the address") from error


def _on_ray(ray: Any, job: Job, shards: Iterable[Shard], slots: int) -> Iterator[Record]:
    """Ray places the tasks, and does them again where a worker or a host is lost."""
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(do_shard)
    described, pending = ray.put(job.as_dict()), list[Any]()

    def first() -> Record:
        nonlocal pending
        (done,), pending = ray.wait(pending, num_returns=1)
        try:
            answer = ray.get(done)
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise EmotiwError(f"Ray gave a shard up after {RETRIES} tries ({reason}); run the same command again") from error
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["text"])
        return answer["record"]

    try:
        for shard in shards:
            pending.append(task.remote(described, shard.as_json()))
            while len(pending) >= IN_FLIGHT * slots:
                yield first()
        while pending:
            yield first()
    finally:
        for each in pending:
            ray.cancel(each, force=True)
        ray.shutdown()


_here: dict[str, Worker] = {}


def do_shard(job: dict[str, Any], shard: dict[str, Any]) -> dict[str, Any]:
    """One shard, in a process of Ray, which keeps its worker for the next one."""
    wanted = job_of(job)
    key = wanted.fingerprint + wanted.out
    for other in _here.keys() - {key}:
        _here.pop(other).close()
    worker = _here.setdefault(key, Worker(wanted))
    try:
        return {"record": worker.do(shard_of(shard))}
    except EmotiwError as error:
        return {"error": type(error).__name__, "text": str(error)}
