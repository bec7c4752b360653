"""Whatever is killed, what had finished stays, and the ladder comes to its end."""

from __future__ import annotations

import random
from pathlib import Path

from faults.kill_ladder import kill_many


def test_a_few_random_kills_lose_nothing_that_had_finished(tmp_path: Path) -> None:
    counts, lost, state = kill_many(tmp_path / "runs", 3, random.Random(3))
    assert sum(counts.values()) == 3, counts
    assert lost == 0
    assert state == "finished"
