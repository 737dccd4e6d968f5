"""The arithmetic of many machines: what it says where the answer is known, and its constants beside a real job."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.scale_model import ENTRY_BYTES, RECORD_BYTES, ROW_BYTES, Plan, simulate
from emotiw_keras.bulk.entries import Entry, shards
from emotiw_keras.bulk.job import Job
from emotiw_keras.bulk.run import run
from tests.bulk.conftest import in_process


def test_machines_are_photos_by_what_a_machine_reads() -> None:
    plan = Plan(1e8, rate=50, cores=32, photo_bytes=100e3, gbit=10)
    assert plan.machine_rate == 1600 and plan.shards == 100_000
    assert plan.machines(1) == math.ceil(1e8 / 1600 / 3600) == 18
    assert Plan(1e8, rate=50, cores=32, photo_bytes=2e6, gbit=10).machine_rate == 625  # the network brings no more


def test_a_simulation_without_trouble_is_the_division() -> None:
    plan = Plan(64_000, rate=10, cores=4, gbit=1000)
    course = simulate(plan, 2, spread=0, slow_share=0, failures_an_hour=0)
    assert course.hours == pytest.approx(64_000 / 10 / 8 / 3600) == course.ideal and course.again == course.failures == 0


def test_failures_cost_what_is_lost_and_slow_listing_decides() -> None:
    plan = Plan(2_000_000, rate=10, cores=4, gbit=1000)
    calm = simulate(plan, 10, spread=0, slow_share=0, failures_an_hour=0)
    rough = simulate(plan, 10, spread=0, slow_share=0, failures_an_hour=0.2, restart_seconds=600)
    assert rough.failures > 3 and rough.again <= 4 * rough.failures
    # Each failure takes four cores away for ten minutes, and half a shard of each again.
    lost = rough.failures * 4 * (600 + 50) / 3600 / 40
    assert calm.hours < rough.hours < calm.hours + 2 * lost + 0.1
    slow = simulate(plan, 10, spread=0, slow_share=0, failures_an_hour=0, names_a_second=100)
    assert slow.hours == pytest.approx(2_000_000 / 100 / 3600, rel=0.02)


def test_the_constants_are_near_a_real_job(photos: Path, job_for: Callable[..., Job]) -> None:
    (photos / "bad.png").unlink()
    run(job_for("out", ["photos"], shard=10), ["photos"], in_process, lambda line: None)
    records = Path("out/_parts.jsonl").stat().st_size / 2
    rows = sum(path.stat().st_size for path in Path("out").glob("part-*")) / 20
    assert pytest.approx(records, rel=0.3) == RECORD_BYTES and pytest.approx(rows, rel=0.3) == ROW_BYTES
    names = [f"s3://bucket/photos/2026/11/{number:08d}.jpg" for number in range(2000)]
    tracemalloc.start()
    stream = (Entry(name, name[12:], "file", name, number, f"{number:032x}") for number, name in enumerate(names))
    (shard,) = shards(stream, 2000)
    size = tracemalloc.get_traced_memory()[0] / len(shard.entries)
    tracemalloc.stop()
    assert pytest.approx(size, rel=0.5) == ENTRY_BYTES, size
