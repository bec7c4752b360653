"""A killed worker loses no saved state, and continues with the losses of the uninterrupted run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import forked
import pytest
from command import events_of

from engine.runs import launch
from faults.worker_runs import (
    DROPOUT,
    IN_A_THREAD,
    STOCHASTIC,
    TWO_EPOCHS,
    UNPROBED,
    create,
    gated_worker,
    kill,
    kill_at_random_moment,
    losses,
    manifests_and_complete,
    resume,
    small_batches,
    start,
    wait_for,
    wait_for_end,
)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_resuming_gives_the_uninterrupted_losses_bit_for_bit(method: str, tmp_path: Path) -> None:
    settings = [*(TWO_EPOCHS if method == "lora" else UNPROBED), *DROPOUT]
    if method == "full":
        settings = [*small_batches(UNPROBED), *IN_A_THREAD, *STOCHASTIC]
    complete = start(tmp_path / "complete", *settings, preset=f"demo-{method}", execute=forked.ftbench)
    wait_for_end(complete)
    killed = start(tmp_path / "killed", *settings, preset=f"demo-{method}")
    wait_for(killed, "step", step=9)  # with batches of 4, the first of the second epoch
    kill(killed)
    resume(killed)
    assert losses(killed) == losses(complete)
    assert len(losses(complete)) == 12


def test_random_kills_leave_only_complete_checkpoints(tmp_path: Path) -> None:
    rng = random.Random(7)
    run = start(tmp_path / "runs", *UNPROBED)
    for _ in range(3):
        kill_at_random_moment(run, rng, 1.0)
        with_manifest, complete = manifests_and_complete(run)
        assert with_manifest == complete
        if run.result() is None:
            size = run.events_file.stat().st_size
            launch.wait_for_hello(run, launch.launch(run), size)
    wait_for_end(run)
    assert len(losses(run)) == 12


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_saves_and_resume_finishes(number: signal.Signals, tmp_path: Path) -> None:
    evaluating = ["train.evaluate_every=1" if word == "train.evaluate_every=6" else word for word in UNPROBED]
    run = start(tmp_path / "runs", *evaluating)
    wait_for(run, "step", step=3)
    os.kill(run.pid() or 0, number)
    wait_for_end(run)
    end = events_of(run.path)[-1]
    assert (end["type"], end["status"]) == ("end", "stopped")
    assert "resume" in end["reason"]
    result = run.result()
    assert result and result.status == "stopped" and result.last_checkpoint
    resume(run, forked.ftbench)
    after = run.result()
    assert after and after.status == "finished" and len(losses(run)) == 12
    assert [step for step, _ in after.validation_loss] == list(range(1, 13))  # the stopped step included


def test_a_kill_and_a_stop_while_a_checkpoint_is_written_in_a_thread(tmp_path: Path) -> None:
    run = create(tmp_path / "runs", *UNPROBED, *IN_A_THREAD, preset="demo-full")
    with gated_worker(run):
        wait_for(run, "step", step=5)  # while the checkpoint of step 4 is written
        kill(run)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [".writing-4", "step-2"]
    before = len(events_of(run.path))
    with gated_worker(run) as worker:
        wait_for(run, "step", after=before, step=5)
        os.kill(worker.pid, signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(1)
        (run.path / "go").touch()
        assert worker.wait(60) == 0
    saved = [event["step"] for event in events_of(run.path) if event["type"] == "checkpoint"]
    assert saved[:2] == [2, 4] and len(saved) == 3  # and that of the stop
    assert manifests_and_complete(run) == (2, 2)
    assert events_of(run.path)[-1]["status"] == "stopped"
    resume(run, forked.ftbench)
    assert len(losses(run)) == 12
