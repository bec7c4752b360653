"""A killed worker loses nothing it had saved, and goes on with the numbers it would have had."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from command import events_of

from engine.runs import launch
from faults.lives import (
    DROPOUT,
    TWO_EPOCHS,
    claims_and_loads,
    kill,
    kill_at_a_random_moment,
    losses,
    resume,
    start,
    wait_for,
    wait_until_over,
)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_resuming_gives_the_uninterrupted_losses_bit_for_bit(method: str, tmp_path: Path) -> None:
    settings = TWO_EPOCHS if method == "full" else [*TWO_EPOCHS, *DROPOUT]
    whole = start(tmp_path / "whole", *settings, preset=f"demo-{method}")
    wait_until_over(whole)
    killed = start(tmp_path / "killed", *settings, preset=f"demo-{method}")
    wait_for(killed, "step", step=10)  # in the second epoch
    kill(killed)
    resume(killed)
    assert losses(killed) == losses(whole)
    assert len(losses(whole)) == 12


def test_a_few_random_kills_leave_only_whole_checkpoints(tmp_path: Path) -> None:
    rng = random.Random(7)
    run = start(tmp_path / "runs", *TWO_EPOCHS)
    for _ in range(3):
        kill_at_a_random_moment(run, rng, 1.0)
        claimed, whole = claims_and_loads(run)
        assert claimed == whole
        if run.result() is None:
            size = run.events_file.stat().st_size
            launch.wait_for_hello(run, launch.launch(run), size)
    wait_until_over(run)
    assert len(losses(run)) == 12


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_saves_and_resume_finishes(number: signal.Signals, tmp_path: Path) -> None:
    run = start(tmp_path / "runs", *TWO_EPOCHS)
    wait_for(run, "step", step=3)
    os.kill(run.pid() or 0, number)
    wait_until_over(run)
    end = events_of(run.path)[-1]
    assert (end["type"], end["status"]) == ("end", "stopped")
    assert "resume" in end["reason"]
    result = run.result()
    assert result and result.status == "stopped" and result.last_checkpoint
    resume(run)
    after = run.result()
    assert after and after.status == "finished" and len(losses(run)) == 12
