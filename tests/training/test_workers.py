"""Several processes train one network: the same as one alone, lost workers, wrong clusters."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from emotiw_keras import Stage, StagedFineTuner
from emotiw_keras.errors import DataError, RunError, UsageError, WorkerError
from emotiw_keras.sealed import sealed_json
from emotiw_keras.talk import Notice
from emotiw_keras.training.fit import fit
from emotiw_keras.training.interrupts import Interrupted
from emotiw_keras.training.recipe import load_recipe
from emotiw_keras.training.stage_sequence import StageLoop
from emotiw_keras.training.workers import devices_of, strategy_word, workers_of
from tests import processes
from tests.training import shared_cases

LOST = 9
TWO = ["127.0.0.1:2222", "127.0.0.1:2223"]


def config(workers: list[str], index: object, job: str = "worker") -> str:
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": job, "index": index}})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{cluster", "is no JSON"),
        ("[1]", "lacks the tables"),
        ('{"cluster": {"worker": ["a:1"]}}', "lacks the tables"),
        (config(TWO, 2), "this task is worker 2, but the cluster has worker 0 to 1"),
        (config(TWO, -1), "worker -1"),
        (config(TWO, True), "worker True"),
        (config(TWO, 0, "chief"), "this task is a 'chief'"),
        (config(["a:99999"], 0), "no host:port"),
        (config(["a"], 0), "no host:port"),
        (config(["a:1", "a:1"], 0), "names a:1 twice"),
        (config([], 0), "names no worker"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}', "has jobs ps"),
        ('{"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}', "has 2 chiefs"),
        ("", "needs TF_CONFIG"),
    ],
)
def test_a_cluster_that_cannot_be_meant_is_one_line(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        workers_of({"TF_CONFIG": given})
    assert "\n" not in str(caught.value)


def test_clusters_as_kubernetes_and_slurm_name_them() -> None:
    named = {"cluster": {"chief": ["c:1"], "worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": "1"}}
    workers = workers_of({"TF_CONFIG": json.dumps(named)})
    assert (workers.number, workers.count, workers.addresses) == (2, 3, ("c:1", "a:1", "b:1"))
    step = {
        "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"
    }  # fmt: skip
    assert (workers_of(step).number, workers_of(step).count) == (1, 4)
    with pytest.raises(UsageError, match="SLURM_STEP_NODELIST"):
        workers_of({**step, "SLURM_STEP_NODELIST": ""})
    with pytest.raises(UsageError, match="expected less than"):
        workers_of({**step, "SLURM_PROCID": "4"})


def test_auto_is_several_workers_only_where_several_are_named() -> None:
    assert strategy_word("auto", {"TF_CONFIG": config(TWO, 0)}) == "multi-worker"
    assert strategy_word("auto", {"TF_CONFIG": config(TWO[:1], 0)}) == "auto"
    assert strategy_word("auto", {}) == "auto"
    with pytest.raises(UsageError, match="expected auto, none"):
        strategy_word("parameter-server")


def test_all_take_part_in_one_more_exchange_before_they_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker sends is read from it: who is gone before the others have read it takes it along."""
    from emotiw_keras.training.replicas import Replicas

    other, exchanged = b"", list[bytes]()

    def exchange(self: Replicas, message: bytes) -> list[bytes]:
        exchanged.append(message)
        if len(exchanged) == 2:
            raise WorkerError("worker 1 of 2 was lost: it has read all, and is gone")
        return [message, other]

    monkeypatch.setattr(Replicas, "exchange", exchange)
    replicas = object.__new__(Replicas)
    replicas.workers, replicas.worker = 2, 0

    def exchanges(part: Callable[[], None], error: type[BaseException] | None = None) -> int:
        exchanged.clear()
        with pytest.raises(error) if error else nullcontext():
            part()
        return len(exchanged)

    def fails() -> None:
        with replicas.together():
            raise DataError("no faces")

    def goes_well() -> None:
        with replicas.together():
            pass

    other = b'{"images": 70}'
    for images, error, count in ((70, None, 1), (49, DataError, 2)):
        assert exchanges(partial(replicas.agree, {"images": images}, "the data", DataError, "mend it"), error) == count
    other = b""
    assert exchanges(goes_well) == 1 and exchanges(fails, DataError) == 2
    other = b'{"kind": "DataError", "text": "no faces", "code": 4}'
    assert exchanges(goes_well, DataError) == 2
    assert [exchanges(partial(replicas.leave, kind)) for kind in (None, Interrupted, DataError)] == [1, 1, 0]


@pytest.mark.parametrize("devices", [("cpu",), ("cpu:0", "cpu:0"), ("cpu:0", "gpu:1"), ("cpu:1",), ("tpu:0",)])
def test_devices_that_cannot_be_meant(devices: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--devices"):
        devices_of(devices)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"devices": ("cpu:0",)}, "--devices cpu:0 needs --strategy mirrored"),
        ({"devices": ("cpu:0",), "strategy": "multi-worker"}, "needs --strategy mirrored; a worker takes all GPUs"),
        ({"devices": ("cpu:0",), "strategy": object()}, "needs --strategy mirrored"),
        ({"wait": 30.0}, "--wait 30 needs --strategy multi-worker"),
        ({"wait": 30.0, "strategy": "mirrored"}, "--wait 30 needs --strategy multi-worker"),
        ({"wait": 0.5, "strategy": "multi-worker"}, "a wait of 0.5 s"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_what_a_strategy_does_not_heed_is_refused_before_anything_is_read(
    options: dict[str, Any], said: str, dry_run: bool, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        fit(load_recipe("finetune"), {"data": "no-such"}, tmp_path / "run", dry_run=dry_run, **options)


def test_a_dry_run_asks_for_a_cluster_and_devices_as_a_run_does(
    recipe_file: Path, faces: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(str(recipe_file))
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UsageError, match=r"--devices gpu:99: this machine has \d+ GPUs"):
        fit(recipe, {"fer": "no-such"}, tmp_path / "run", dry_run=True, strategy="mirrored", devices=("gpu:99",))
    with pytest.raises(UsageError, match="searches for its network"):
        fit(load_recipe("pathnet"), {}, tmp_path / "run", dry_run=True, strategy="multi-worker")


def ports(count: int) -> list[str]:
    """Addresses that are free at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    found = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return found


def test_workers_are_connected_before_a_network_is_made() -> None:
    done = processes.run(shared_cases.connect_late, env={**os.environ, "TF_CONFIG": config(ports(2), 0)})
    assert "in Python make strategy = tf.distribute.MultiWorkerMirroredStrategy() first, before any network" in done.stdout


@pytest.mark.parametrize(("word", "workers"), [("multi-worker", 0), ("multi-worker", 2), ("auto", 2)])
def test_in_python_several_workers_need_the_object(word: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    monkeypatch.delenv("TF_CONFIG", raising=False)
    if workers:
        monkeypatch.setenv("TF_CONFIG", config(TWO, 0))
    net = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax")])
    with pytest.raises(UsageError, match=rf"^strategy '{word}': .* make strategy = tf.distribute.MultiWorkerMirroredStrategy"):
        StagedFineTuner(net, [Stage("s", train=("d:train",))], data={}, run_dir="run", strategy=word)


def nearly_full() -> None:
    """A file of more than 200 kB does not fit."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


class Cluster:
    """Commands `emotiw fit` of some workers on this machine; only the chief is given the run folder that is looked at."""

    def __init__(self, recipe: Path, faces: dict[str, str], run: Path, *changes: str) -> None:
        self.run, self.recipe, self.faces, self.changes = run, recipe, faces, changes

    def arguments(self, worker: int, faces: dict[str, str] | None = None) -> list[str]:
        data = [f"--data={name}={path}" for name, path in (faces or self.faces).items()]
        out = self.run if worker == 0 else self.run.with_name(f"{self.run.name}-of-worker-{worker}")
        changes = [word for change in self.changes for word in ("--set", change)]
        return ["fit", str(self.recipe), *data, f"--out={out}", "--threads=1", "--precision=float32", *changes]

    def start(
        self, count: int = 2, full: bool = False, other: dict[str, str] | None = None, wait: int = 120
    ) -> list[processes.Forked]:
        addresses = ports(count)
        return [
            processes.Forked(
                processes.emotiw, *self.arguments(worker, other if worker else None),
                "--strategy=multi-worker", f"--wait={wait}",
                env={**os.environ, "TF_CONFIG": config(addresses, worker)},
                preexec_fn=nearly_full if full and worker == 0 else None,
            )
            for worker in range(count)
        ]  # fmt: skip

    def alone(self) -> str:
        done = processes.run(processes.emotiw, *self.arguments(0))
        assert done.returncode == 0, done.stderr
        return done.stderr

    def finish(self, count: int = 2) -> list[str]:
        return end(self.start(count), [0] * count)


def end(workers: list[processes.Forked], codes: list[int], seconds: float = 200) -> list[str]:
    """What each of them said; they end with these codes within that time."""
    talks = []
    deadline = time.monotonic() + seconds
    for worker in workers:
        _, talk = worker.communicate(timeout=max(1, deadline - time.monotonic()))
        talks.append(talk)
    assert [worker.returncode for worker in workers] == codes, talks
    assert not any("Traceback" in talk for talk in talks), talks
    return talks


def wait_for(worker: processes.Forked, start: str) -> None:
    lines = []
    for line in worker.stderr:
        lines.append(line)
        if line.startswith(start):
            return
    raise AssertionError(lines)


EVERYTHING = (*shared_cases.settings("augmented"), "one.average_decay=0.9", "one.accumulate=2", "one.epochs=3", "one.noise=20")


def test_two_workers_end_as_one_process(recipe_file: Path, faces: dict[str, str], tmp_path: Path) -> None:
    one = Cluster(recipe_file, faces, tmp_path / "one", *EVERYTHING)
    two = Cluster(recipe_file, faces, tmp_path / "two", *EVERYTHING)
    one.alone()
    chief, other = two.finish()
    found = shared_cases.differences(one.run, two.run)
    assert found["weights"] < 2e-5 * found["moved"], found
    assert max(found["loss"], found["val_loss"]) < 1e-5, found
    assert "one epoch 1/3" in chief
    assert "this is worker 1" in other
    assert "one epoch" not in other
    assert not (tmp_path / "two-of-worker-1").exists(), "only the chief has a run folder"
    assert json.loads((two.run / "run.json").read_text())["strategy"] == {"workers": 2, "replicas": 2}


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_worker_ends_the_other_and_the_same_commands_go_on(
    killed: int, recipe_file: Path, faces: dict[str, str], tmp_path: Path
) -> None:
    broken = Cluster(recipe_file, faces, tmp_path / "broken", *EVERYTHING)
    whole = Cluster(recipe_file, faces, tmp_path / "whole", *EVERYTHING)
    workers = broken.start()
    wait_for(workers[0], "  one epoch 1/")
    workers[killed].kill()
    left = workers[1 - killed]
    (talk,) = end([left], [LOST], 60)
    assert f"worker {killed} of 2 was lost" in talk or "another worker of 2 was lost" in talk, talk
    assert "going on at epoch" in broken.finish()[0]
    whole.finish()
    assert shared_cases.differences(broken.run, whole.run)["weights"] == 0


def test_the_number_of_workers_may_change(recipe_file: Path, faces: dict[str, str], tmp_path: Path) -> None:
    run = Cluster(recipe_file, faces, tmp_path / "run", *EVERYTHING)
    workers = run.start()
    wait_for(workers[0], "  one epoch 1/")
    workers[1].send_signal(signal.SIGTERM)
    talks = end(workers, [143, 143])
    assert all("stopped and saved" in talk for talk in talks), talks
    talk = run.finish(3)[0]
    assert "the run went with 2 replicas on 2 workers, and goes on with 3 on 3; the global batch stays 8" in talk
    one = Cluster(recipe_file, faces, tmp_path / "one", *EVERYTHING)
    one.alone()
    found = shared_cases.differences(one.run, run.run)
    assert found["weights"] < 2e-5 * found["moved"], found


def test_one_device_that_goes_on_with_the_run_of_several_says_so(
    recipe_file: Path, faces: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out, said = load_recipe(str(recipe_file), shared_cases.settings("plain")), tmp_path / "run", list[str]()
    infos = []

    def stop(loop: StageLoop) -> None:
        infos.append(loop.run.info)
        raise KeyboardInterrupt

    def begin_or_go_on(strategy: object = None) -> None:
        if strategy is not None:
            (out / "run.json").write_text(sealed_json({**infos[0], "strategy": strategy}))
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, faces, out, say=said.append)

    monkeypatch.setattr(StageLoop, "fit", stop)
    begin_or_go_on()
    begin_or_go_on()
    assert "strategy" not in infos[1] and not [line for line in said if "goes on with" in line]
    begin_or_go_on({"workers": 1, "replicas": 2})
    assert infos[2]["strategy"] == {"workers": 1, "replicas": 1}
    (told,) = (line for line in said if isinstance(line, Notice))
    assert "went with 2 replicas on 1 worker, and goes on with 1 on 1; the global batch stays 8: last digits may differ" in told
    with pytest.raises(RunError, match="run.json says strategy = .*expected a table of workers and replicas"):
        begin_or_go_on({"replicas": "2"})


def test_a_full_disk_of_the_chief_ends_all(recipe_file: Path, faces: dict[str, str], tmp_path: Path) -> None:
    chief, other = end(Cluster(recipe_file, faces, tmp_path / "run", "model.width=0.2").start(full=True), [6, 6])
    assert "cannot write" in chief
    assert "worker 0: cannot write" in other


def test_different_data_on_one_worker_is_found_before_the_first_step(
    recipe_file: Path, faces: dict[str, str], tmp_path: Path
) -> None:
    other = {"fer": faces["target"], "target": faces["target"]}
    for talk in end(Cluster(recipe_file, faces, tmp_path / "run").start(other=other), [4, 4]):
        assert "data of worker 1 differ from those of worker 0: data.fer" in talk
    missing = {"fer": str(tmp_path / "nothing"), "target": faces["target"]}
    talks = end(Cluster(recipe_file, faces, tmp_path / "run").start(other=missing), [4, 4])
    assert "worker 1: " in talks[0]
    assert not (tmp_path / "run").exists()


def test_a_missing_worker_and_an_address_in_use(recipe_file: Path, faces: dict[str, str], tmp_path: Path) -> None:
    cluster = Cluster(recipe_file, faces, tmp_path / "run")
    first, second = cluster.start(wait=3)
    second.kill()
    (talk,) = end([first], [LOST], 60)
    assert "waited" in talk
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        addresses = [f"127.0.0.1:{taken.getsockname()[1]}", ports(1)[0]]
        done = processes.run(
            processes.emotiw, *cluster.arguments(0), "--strategy=multi-worker", "--wait=20",
            env={**os.environ, "TF_CONFIG": config(addresses, 0)},
        )  # fmt: skip
    assert done.returncode == LOST
    assert f"cannot listen on {addresses[0]}" in done.stderr
    assert "Traceback" not in done.stderr
