"""After kills of ladders, runs and terminals, finished runs remain and the ladder finishes."""

from __future__ import annotations

import random
from pathlib import Path

from faults.kill_ladder import kill_many


def test_random_kills_lose_no_finished_run(tmp_path: Path) -> None:
    counts, lost, state = kill_many(tmp_path / "runs", 3, random.Random(3), wait=6.0)
    assert sum(counts.values()) == 3, counts
    assert lost == 0
    assert state == "finished"
