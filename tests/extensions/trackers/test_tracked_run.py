"""A real run that is logged while it trains, stopped, and resumed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from command import MICRO, ON_SMALL, events_of, only_run, with_steps
from faults.worker_runs import stop
from forked import ftbench
from tracker_files import tensorboard_scalars

from engine.extensions.trackers.trackers import TrackerFiles
from engine.runs.queue import locks
from engine.runs.run.run_dir import RunDir

STEPS = 40
"""Enough for a stop to reach the run before its end, also on a busy machine."""


def wait_for_tracker(run: Path, rows: int) -> None:
    files = TrackerFiles(RunDir(run), "tensorboard")
    deadline = time.monotonic() + 120
    while files.state().rows < rows or locks.holder(files.lock_file) is not None:
        assert time.monotonic() < deadline, files.log_file.read_text()
        time.sleep(0.1)


def test_a_real_run_is_logged_and_its_curve_continues_after_a_resume(tmp_path: Path) -> None:
    tracked = ["--set", 'track.to=["tensorboard"]']
    done = ftbench("run", "demo-lora", *with_steps(MICRO, STEPS), *ON_SMALL, *tracked, "--detach")
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    deadline = time.monotonic() + 300
    while not any(event["type"] == "step" and event["step"] >= 3 for event in events_of(run)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stop(RunDir(run))
    done = ftbench("resume", run.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "track.failed" not in done.stderr
    wait_for_tracker(run, STEPS)
    losses = {event["step"]: event["loss"] for event in events_of(run) if event["type"] == "step"}
    scalars = tensorboard_scalars(run / "tracking")
    assert [step for step, _ in scalars["train/loss"]] == list(range(1, STEPS + 1))
    assert dict(scalars["train/loss"]) == pytest.approx(losses, rel=1e-5)
    assert {step for step, _ in scalars["test/json"]} == {0, STEPS}  # before and after training
    assert scalars["memory/process_gib"][-1][1] > 0.1
