"""A killed worker loses no saved state, and continues with the losses of the uninterrupted run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import forked
import pytest
import torch
from command import ON_SMALL, events_of, ftbench

from engine.runs.run.run_dir import RunDir
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
    selecting,
    start,
    stop_at_random_moment,
    wait_for,
    wait_for_end,
    weights,
)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_resuming_gives_the_uninterrupted_losses_bit_for_bit(method: str, tmp_path: Path) -> None:
    # The loss of the small model falls from 2.65 to 2.52 in the first step, and rises above 3 in the second.
    others = [*ON_SMALL, *([*IN_A_THREAD, *STOCHASTIC] if method == "full" else DROPOUT)]
    # LoRA's complete run also has a probe and a general text, which change no loss and no weight.
    settings = [*selecting(TWO_EPOCHS if method == "lora" else UNPROBED, every=1), *others]
    complete = start(tmp_path / "complete", *settings, preset=f"demo-{method}", execute=forked.ftbench)
    wait_for_end(complete)
    settings = [*selecting(UNPROBED, every=1), *others]
    killed = start(tmp_path / "killed", *settings, preset=f"demo-{method}", execute=forked.ftbench)
    wait_for(killed, "step", step=9)  # with batches of 4, the first of the second epoch
    kill(killed)
    resume(killed, ftbench if method == "lora" else forked.ftbench)  # also by another interpreter, with other hashes
    assert losses(killed) == losses(complete)
    assert len(losses(complete)) == 12
    assert_same_selection(killed, complete)


def assert_same_selection(actual: RunDir, expected: RunDir) -> None:
    """Both kept the weights with the lowest validation loss: the same ones."""
    result, other = actual.result(), expected.result()
    assert result is not None and other is not None
    assert result.validation_loss == other.validation_loss
    assert (result.selected_step, result.stopped_early) == (other.selected_step, other.stopped_early)
    assert result.final_validation == other.final_validation
    lowest = min(result.validation_loss, key=lambda pair: (pair[1], pair[0]))
    assert result.selected_step == lowest[0] < result.steps == other.steps
    assert lowest[1] == pytest.approx(result.final_validation, rel=1e-3)  # bf16 autocast is off after training
    kept, others = weights(actual), weights(expected)
    assert kept.keys() == others.keys() and all(torch.equal(kept[name], others[name]) for name in kept)


def test_kills_and_stops_in_any_order_select_the_weights_of_the_uninterrupted_run(tmp_path: Path) -> None:
    """And after each of them, at a random moment, every checkpoint is complete."""
    rng = random.Random(1)
    patient = ["--set", "train.patience=8", "--set", "train.keep_checkpoints=1"]
    settings = [*selecting(UNPROBED, every=1), *ON_SMALL, *patient]
    complete = start(tmp_path / "complete", *settings, execute=forked.ftbench)
    run = start(tmp_path / "runs", *settings, execute=forked.ftbench)
    wait_for_end(complete)
    for _ in range(3):
        interrupt = rng.choice([kill_at_random_moment, stop_at_random_moment])
        interrupt(run, rng, 0.2)
        with_manifest, loadable = manifests_and_complete(run)
        assert with_manifest == loadable
        result = run.result()
        if result is not None and result.status == "finished":
            break
        resume(run, forked.ftbench, "--detach")
    wait_for_end(run)
    assert_same_selection(run, complete)
    result = run.result()
    assert result is not None and result.stopped_early and len(losses(run)) == result.steps == 9


def test_stops_by_either_signal_save_and_resume_finishes(tmp_path: Path) -> None:
    evaluating = ["train.evaluate_every=1" if word == "train.evaluate_every=6" else word for word in UNPROBED]
    run = start(tmp_path / "runs", *evaluating, *ON_SMALL, execute=forked.ftbench)
    before = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        wait_for(run, "step", after=before)
        os.kill(run.pid() or 0, number)
        wait_for_end(run)
        end = events_of(run.path)[-1]
        assert (end["type"], end["status"]) == ("end", "stopped")
        assert "resume" in end["reason"]
        result = run.result()
        assert result and result.status == "stopped" and result.last_checkpoint
        before = len(events_of(run.path))
        resume(run, forked.ftbench, *(["--detach"] if number == signal.SIGTERM else []))
    after = run.result()
    assert after and after.status == "finished" and len(losses(run)) == 12
    assert [step for step, _ in after.validation_loss] == list(range(1, 13))  # the stopped steps included


def test_a_kill_and_a_stop_while_a_checkpoint_is_written_in_a_thread(tmp_path: Path) -> None:
    run = create(tmp_path / "runs", *UNPROBED, *ON_SMALL, *IN_A_THREAD, preset="demo-full")
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
