"""A small part of the campaign of faults; all of it is `make chaos`."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.__main__ import run_campaign
from tests.chaos.campaign import WRONG


def test_faults_give_no_wrong_answer_no_traceback_and_touch_nothing_outside(tmp_path: Path) -> None:
    campaign = run_campaign(tmp_path / "chaos", seed=1, seconds=600, small=True)
    assert not campaign.failures, campaign.failures[:3]
    parts = {part for part, _ in campaign.counts}
    prepared = {"bytes of a prepared folder", "lines of a journal"}
    assert parts == {"bytes of a run", "fields of run.json", "fields of a recipe", "a cache"} | prepared
    assert campaign.counts["bytes of a run", "refused"] and campaign.counts["fields of run.json", "refused"]
    assert not any(outcome in WRONG for _, outcome in campaign.counts)
