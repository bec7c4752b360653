"""Starting, watching, killing and comparing real workers, for the fault tests."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import torch
from command import events_of, ftbench
from safetensors.torch import load_file

from engine.runs.events import Hello, Step
from engine.runs.follow import Follower
from engine.runs.run_dir import RunDir
from engine.training.checkpoints import problem_with

TWO_EPOCHS = [
    *("--set", "train.steps=12"),
    *("--set", "data.max_rows=32"),
    *("--set", "train.batch=4"),
    *("--set", "train.micro_batch=2"),
    *("--set", "train.checkpoint_every=2"),
    *("--set", "evaluation.rows=2"),
    *("--set", "evaluation.max_new_tokens=4"),
]
"""Twelve steps over 32 rows: the second epoch begins at step 9, and each step is two passes."""
DROPOUT = ["--set", "adapter.dropout=0.1"]
"""So that random numbers are drawn, whose state a checkpoint must keep."""


def start(runs: Path, *arguments: str, preset: str = "demo-lora") -> RunDir:
    """A detached run."""
    done = ftbench("run", preset, *arguments, "--detach", "--runs", str(runs))
    assert done.returncode == 0, done.stderr
    return RunDir(max(runs.iterdir(), key=lambda path: path.name))


def resume(run: RunDir) -> None:
    """Resume and wait for the end."""
    done = ftbench("resume", str(run.path))
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for(run: RunDir, kind: str, seconds: float = 120, **fields: Any) -> dict[str, Any]:
    """The first event of a kind with these fields."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for event in events_of(run.path) if run.events_file.exists() else []:
            if event["type"] == kind and all(event[name] == value for name, value in fields.items()):
                return event
        time.sleep(0.02)
    raise AssertionError(f"no {kind} {fields} in {seconds} s")


def wait_until_over(run: RunDir, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while run.is_live():
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.02)


def kill(run: RunDir) -> None:
    """SIGKILL, and wait until the kernel has let go of the lock."""
    pid = run.pid()
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    wait_until_over(run)


def losses(run: RunDir) -> dict[int, float]:
    """Step -> loss; a step done again after a kill must have given the same."""
    found: dict[int, float] = {}
    for event in events_of(run.path):
        if event["type"] == "step":
            assert found.setdefault(event["step"], event["loss"]) == event["loss"], f"step {event['step']} differs"
    return found


def kill_at_a_random_moment(run: RunDir, rng: random.Random, longest: float) -> None:
    """Up to `longest` seconds after this life of the run has made its first step; saving included."""
    seen = time.monotonic() + 120
    while run.is_live() and not _stepping(run):
        assert time.monotonic() < seen, "never made a step"
        time.sleep(0.005)
    deadline = time.monotonic() + rng.uniform(0, longest)
    while time.monotonic() < deadline and run.is_live():
        time.sleep(0.001)
    kill(run)


def _stepping(run: RunDir) -> bool:
    """Whether the newest life has made a step; earlier lives' steps are in the same file."""
    steps = 0
    for event in Follower(run.events_file).read():
        steps = 0 if isinstance(event, Hello) else steps + isinstance(event, Step)
    return steps > 0


def claims_and_loads(run: RunDir) -> tuple[int, int]:
    """(checkpoint folders with a manifest, those of them whose every file agrees with it and whose tensors load)."""
    claimed = [folder for folder in run.checkpoints.glob("step-*") if (folder / "manifest.json").exists()]
    return len(claimed), sum(problem_with(folder) is None and _loads(folder) for folder in claimed)


def _loads(folder: Path) -> bool:
    weights = [load_file(path) for path in folder.glob("*.safetensors")]
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    return bool(weights and weights[0] and optimizer["state"])
