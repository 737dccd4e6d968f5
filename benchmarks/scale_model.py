"""What a hundred million photos cost: machines by arithmetic, and a simulation of stragglers and of machines that fail.

    python -m benchmarks.scale_model --photos 1e8 --rate 150 --cores 32 --hours 1

Rates are those of `python -m benchmarks.scale_read` on your machine; nothing here is measured.
"""

from __future__ import annotations

import argparse
import heapq
import math
from dataclasses import dataclass

import numpy as np

PER_SHARD = 1_000
RECORD_BYTES = 450
"""Of a line of `_parts.jsonl`; `tests/bulk/test_scale_model.py` compares it with a real one."""
ROW_BYTES = 460
"""Of a row of JSONL with seven expressions and the eyes of a face; likewise."""
ENTRY_BYTES = 400
"""Of an input that waits in the memory of the process that lists; likewise."""
KEYS, KEYS_SECONDS = 1_000, 0.1
"""Names that an object store lists in one request, and how long that takes."""


@dataclass(frozen=True)
class Plan:
    """A job on many machines.

    Attributes:
        photos: in all.
        rate: photos a second and core.
        cores: of a machine.
        photo_bytes: of one, on average.
        gbit: of a machine's network, gigabits a second.
        per_shard: photos.
    """

    photos: float
    rate: float
    cores: int = 32
    photo_bytes: float = 100e3
    gbit: float = 10.0
    per_shard: int = PER_SHARD

    @property
    def machine_rate(self) -> float:
        """Photos a second of a machine: what its cores compute, or what its network brings, whichever is less."""
        return min(self.rate * self.cores, self.gbit * 1e9 / 8 / self.photo_bytes)

    @property
    def shards(self) -> int:
        """Shards in all."""
        return math.ceil(self.photos / self.per_shard)

    def machines(self, hours: float) -> int:
        """Machines that are done within so many hours, if none fails."""
        return math.ceil(self.photos / self.machine_rate / (3600 * hours))

    def lines(self, hours: float) -> list[str]:
        """The arithmetic, for people."""
        machines = self.machines(hours)
        network = self.gbit * 1e9 / 8 / self.photo_bytes
        listing = self.photos / KEYS * KEYS_SECONDS
        whole, rate = self.rate * self.cores, self.machine_rate
        hours_of_one, shard = self.photos / rate / 3600, self.per_shard / self.rate
        names = self.photos / listing
        held = 2 * machines * self.cores * self.per_shard * ENTRY_BYTES
        return [
            f"one machine: {self.rate:g} a second x {self.cores} cores = {whole:,.0f} photos a second",
            f"its network: {self.gbit:g} Gbit/s / 8 / {self.photo_bytes:,.0f} bytes = {network:,.0f}; so {rate:,.0f}",
            f"{self.photos:,.0f} photos / {rate:,.0f} a second = {hours_of_one:,.1f} machine hours",
            f"in {hours:g} hours: {machines} machines, {machines * self.cores:,} cores",
            f"{self.shards:,} shards of {self.per_shard:,}; one takes a core {shard:,.1f} s",
            f"rows: {self.photos * ROW_BYTES / 1e9:,.1f} GB; _parts.jsonl: {self.shards * RECORD_BYTES / 1e6:,.1f} MB",
            f"memory of the command: 2 shards a core x {self.per_shard:,} x {ENTRY_BYTES} bytes = {held / 1e6:,.0f} MB",
            f"listing a store: {self.photos / KEYS:,.0f} requests x {KEYS_SECONDS} s = {listing / 3600:,.1f} hours",
            f"that is {names:,.0f} names a second, enough for {names / rate:,.1f} machines",
        ]


@dataclass(frozen=True)
class Course:
    """How a simulated job went: hours, those without any trouble, shards done again, failures, hours with few cores busy."""

    hours: float
    ideal: float
    again: int
    failures: int
    tail: float


def simulate(
    plan: Plan,
    machines: int,
    *,
    spread: float = 0.2,
    slow_share: float = 0.02,
    slowness: float = 3.0,
    failures_an_hour: float = 0.01,
    restart_seconds: float = 300.0,
    names_a_second: float = math.inf,
    seed: int = 0,
) -> Course:
    """Shards go to whichever core is free; a machine that fails loses what its cores were at, and is replaced.

    Args:
        plan: the job.
        machines: that work on it.
        spread: of a shard's time, as the standard deviation of its logarithm.
        slow_share: of the machines that are slow, by the factor `slowness`.
        failures_an_hour: chance of a machine to fail within an hour.
        restart_seconds: until another stands in its place.
        names_a_second: that the driver lists: no shard is given out before it has been cut.
        seed: of the numbers drawn.
    """
    generator = np.random.default_rng(seed)
    cores, count = machines * plan.cores, plan.shards
    seconds = plan.per_shard / (plan.machine_rate / plan.cores)
    factor = np.where(generator.random(machines) < slow_share, slowness, 1.0)
    rate = -math.log1p(-failures_an_hour) / 3600
    falls = generator.exponential(1 / rate, machines) if rate else np.full(machines, np.inf)
    back = np.zeros(machines)
    times = seconds * np.exp(generator.normal(-(spread**2) / 2, spread, count)) if spread else np.full(count, seconds)
    free = [(0.0, core) for core in range(cores)]
    heapq.heapify(free)
    waiting, ends = list[int](), [0.0]
    given = again = failures = 0
    while waiting or given < count:
        now, core = heapq.heappop(free)
        machine = core // plan.cores
        if now >= falls[machine]:
            failures += 1
            back[machine] = falls[machine] + restart_seconds
            falls[machine] = back[machine] + generator.exponential(1 / rate)
        if now < back[machine]:
            heapq.heappush(free, (back[machine], core))
            continue
        if waiting:
            shard = waiting.pop()
        else:
            shard, given = given, given + 1
            now = max(now, (shard + 1) * plan.per_shard / names_a_second)
        end = now + times[shard] * factor[machine]
        if end > falls[machine]:
            waiting.append(shard)
            again += 1
            heapq.heappush(free, (falls[machine], core))
        else:
            ends.append(end)
            heapq.heappush(free, (end, core))
    done = np.sort(ends)
    ideal = count * seconds / cores
    tail = float(done[-1] - done[max(0, len(done) - 1 - cores // 100)])
    return Course(float(done[-1]) / 3600, ideal / 3600, again, failures, tail / 3600)


def main() -> None:
    """Print the arithmetic and a table of simulated courses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=float, default=1e8)
    parser.add_argument("--rate", type=float, required=True, help="photos a second and core, measured by benchmarks.scale_read")
    parser.add_argument("--cores", type=int, default=32)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--bytes", type=float, default=100e3)
    parser.add_argument("--gbit", type=float, default=10.0)
    given = parser.parse_args()
    plan = Plan(given.photos, given.rate, given.cores, given.bytes, given.gbit)
    print("\n".join(plan.lines(given.hours)))
    print("\n| photos a shard | failures an hour | names a second | hours | no trouble | again | last 1 % of cores, min |")
    print("|---|---|---|---|---|---|---|")
    machines = plan.machines(given.hours)
    for per_shard in (PER_SHARD, 10 * PER_SHARD, 100 * PER_SHARD):
        for failures, names in ((0.0, math.inf), (0.01, math.inf), (0.01, KEYS / KEYS_SECONDS)):
            each = Plan(given.photos, given.rate, given.cores, given.bytes, given.gbit, per_shard)
            course = simulate(each, machines, failures_an_hour=failures, names_a_second=names)
            cells = (f"{per_shard:,}", f"{failures:.0%}", f"{names:,.0f}", f"{course.hours:.2f}", f"{course.ideal:.2f}")
            print(f"| {' | '.join(cells)} | {course.again:,} | {60 * course.tail:.1f} |")


if __name__ == "__main__":
    main()
