"""A campaign of faults, `make chaos`: damage, hostile values, kills and full disks, in every file that is believed later.

Each trial damages one thing and runs what reads it. It may be refused in one line, or answer as if nothing had happened; a
traceback, another answer, or a file touched outside of the folder is counted as what it is. Each kind of fault has a share of
the time, and what one leaves is for those behind it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.campaign import WRONG, Campaign, make_faces, make_run
from tests.chaos.damage import damaged_features, damaged_prepared, damaged_runs, hostile_facts, hostile_recipes
from tests.chaos.kills import Commands, full_disks, kills
from tests.chaos.others import damaged_others

ALL = 1 << 30


def run_campaign(folder: Path, seed: int, seconds: float, small: bool = False) -> Campaign:
    """All parts, each with its share of the time that is left; `small` ones of a few trials, and without commands."""
    campaign = Campaign(folder, seed, seconds)
    faces = make_faces(folder / "faces")
    run = make_run(folder / "run", faces)
    most = (100, 100, 30, 4, 10) if small else (ALL,) * 5
    parts: list[tuple[float, Callable[[], None]]] = [
        (0.03, lambda: hostile_recipes(campaign, most[0])),
        (0.04, lambda: hostile_facts(campaign, run, most[1])),
        (0.01, lambda: damaged_features(campaign, most[2])),
        (0.05, lambda: damaged_prepared(campaign, most[3])),
        (0.07, lambda: damaged_runs(campaign, run, most[4])),
    ]
    if not small:
        parts.append((0.05, lambda: damaged_others(campaign, run, faces)))
        commands = Commands(campaign, folder)
        parts += [(0.50, lambda: kills(commands, campaign)), (0.25, lambda: full_disks(commands, campaign))]
    end = campaign.end
    for number, (share, part) in enumerate(parts):
        left = sum(share for share, _ in parts[number:])
        campaign.end = time.monotonic() + (end - time.monotonic()) * share / left
        part()
    return campaign


def main() -> None:
    """Run the campaign; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="after which no trial begins")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        campaign = run_campaign(Path(folder).resolve() / "chaos", chosen.seed, chosen.seconds)
    for (part, outcome), count in sorted(campaign.counts.items()):
        print(f"{part:32} {outcome:16} {count:8,}")
    failed = sum(count for (_, outcome), count in campaign.counts.items() if outcome in WRONG)
    print(f"{sum(campaign.counts.values()):,} trials, {failed} failures (seed {chosen.seed})")
    for line in campaign.failures[:10]:
        print(line)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
