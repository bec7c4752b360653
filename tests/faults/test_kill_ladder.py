"""After kills of ladders, runs and terminals, finished runs remain and the ladder finishes."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from command import MICRO, ON_SMALL
from forked import ftbench

from engine.runs.ladder.ladder_dir import LadderDir
from faults.kill_ladder import finished_runs, kill_many, wait_for


def test_random_kills_lose_no_finished_run(tmp_path: Path) -> None:
    counts, lost, state = kill_many(tmp_path / "runs", 3, random.Random(3), wait=6.0, forks=True)
    assert sum(counts.values()) == 3, counts
    assert lost == 0
    assert state == "finished"


def test_a_ladder_that_is_killed_and_started_again_by_the_same_command_leaves_one_directory(tmp_path: Path) -> None:
    words = ("ladder", "demo", "--rung", "lora", "--no-probe", *MICRO, *ON_SMALL)
    for _ in range(2):
        assert ftbench(*words, "--detach").returncode == 0
        (folder,) = LadderDir.iterate(tmp_path / "runs")
        os.kill(folder.pid() or 0, signal.SIGKILL)
        wait_for(lambda folder=folder: not folder.is_active())
    done = ftbench(*words)
    (folder,) = LadderDir.iterate(tmp_path / "runs")
    state = folder.state()
    assert done.returncode == 0 and "continues" in done.stdout
    assert state and state.status == "finished" and len(finished_runs(folder)) == 1
