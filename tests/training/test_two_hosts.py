"""Two workers in network namespaces of their own, as on two hosts; one is cut off in the middle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training import shared_cases
from tests.training.test_workers import EVERYTHING, LOST, Cluster, config

ADDRESSES = ["10.231.77.1:2222", "10.231.77.2:2222"]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of two namespaces with a cable between them."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command ip")
    names = [f"emotiw{os.getpid()}{letter}" for letter in "ab"]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.decode().strip()}")
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address.partition(':')[0]}/24", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def start(cluster: Cluster, hosts: list[str], folder: Path) -> list[subprocess.Popen]:
    found = []
    for worker, host in enumerate(hosts):
        command = [sys.executable, "-P", "-m", "emotiw_keras.cli.main", *cluster.arguments(worker)]
        with open(folder / f"said-{worker}", "w") as said:
            found.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", host, *command, "--strategy=multi-worker", "--wait=120"],
                    env={**os.environ, "TF_CONFIG": config(ADDRESSES, worker)}, stdout=subprocess.DEVNULL, stderr=said,
                )
            )  # fmt: skip
    return found


def received(host: str) -> int:
    """Bytes that came through the cable."""
    path = "/sys/class/net/cable/statistics/rx_bytes"
    return int(subprocess.run(["ip", "netns", "exec", host, "cat", path], check=True, capture_output=True, text=True).stdout)


def test_one_of_two_hosts_is_cut_off_and_both_say_so(
    hosts: list[str], recipe_file: Path, faces: dict[str, str], tmp_path: Path
) -> None:
    cluster = Cluster(recipe_file, faces, tmp_path / "run", *EVERYTHING, "one.epochs=2000")
    workers = start(cluster, hosts, tmp_path)
    try:
        deadline = time.monotonic() + 150
        while "one epoch 2/" not in (tmp_path / "said-0").read_text():
            assert time.monotonic() < deadline, (tmp_path / "said-0").read_text()
            time.sleep(0.2)
        ip("-n", hosts[1], "link", "set", "cable", "down")
        cut = time.monotonic()
        for number, worker in enumerate(workers):
            assert worker.wait(60) == LOST, (tmp_path / f"said-{number}").read_text()
            assert time.monotonic() - cut < 60
            said = (tmp_path / f"said-{number}").read_text()
            assert "of 2 was lost: it ended, or cannot be reached any more" in said
            assert "Traceback" not in said
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def test_two_hosts_end_as_one_process(hosts: list[str], recipe_file: Path, faces: dict[str, str], tmp_path: Path) -> None:
    one = Cluster(recipe_file, faces, tmp_path / "one", *EVERYTHING)
    two = Cluster(recipe_file, faces, tmp_path / "two", *EVERYTHING)
    one.alone()
    workers = start(two, hosts, tmp_path)
    assert [worker.wait(200) for worker in workers] == [0, 0], (tmp_path / "said-0").read_text()
    found = shared_cases.differences(one.run, two.run)
    assert found["weights"] < 2e-5 * found["moved"], found
    assert received(hosts[0]) > 0
