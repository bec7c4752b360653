"""Start, follow, kill and compare runs with real workers, for the fault tests."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import torch
from command import Execute, events_of, ftbench
from safetensors.torch import load_file

from engine.config.preset_library import resolve_preset
from engine.runs.run import run_dir
from engine.runs.run.event_log import Follower
from engine.runs.run.events import Hello, Step
from engine.runs.run.run_dir import RunDir
from engine.training.checkpoints import problem_with

TWO_EPOCHS = [
    *("--set", "train.steps=12"),
    *("--set", "data.max_rows=32"),
    *("--set", "train.batch=4"),
    *("--set", "train.micro_batch=2"),
    *("--set", "train.checkpoint_every=2"),
    *("--set", "train.evaluate_every=6"),
    *("--set", "data.validation=0.005"),
    *("--set", "evaluation.rows=2"),
    *("--set", "evaluation.max_new_tokens=4"),
]
"""Twelve steps over 32 rows: the second epoch starts at step 9, and each step has two micro-batches."""
UNPROBED = [*TWO_EPOCHS, "--set", "train.probe=false", "--set", 'evaluation.forgetting_text="none"']
"""Without dry run, probe and general text, which take almost half of the run."""
DROPOUT = ["--set", "adapter.dropout=0.1"]
"""With dropout, checkpoints must save the state of random generators."""
IN_A_THREAD = ["--set", "train.async_checkpoints=true"]
"""Checkpoints are written while training continues, as on a GPU."""
STOCHASTIC = ["--set", "train.precision=bf16", "--set", "optimizer.rounding=stochastic"]
"""bf16 weights that are rounded at random, which the state of random generators determines."""


def start(runs: Path, *arguments: str, preset: str = "demo-lora", execute: Execute = ftbench) -> RunDir:
    """Start a detached run; `execute`: `forked.ftbench` where its start is not tested."""
    done = execute("run", preset, *arguments, "--detach", "--runs", str(runs))
    assert done.returncode == 0, done.stderr
    return RunDir(max(runs.iterdir(), key=lambda path: path.name))


def create(runs: Path, *settings: str, preset: str) -> RunDir:
    """Create a run directory without starting a worker. `settings`: `--set KEY=VALUE`, as on the command line."""
    chosen = dict(setting.split("=", 1) for setting in settings if setting != "--set")
    runs.mkdir(exist_ok=True)
    return run_dir.create(runs, preset, resolve_preset(preset, None, {key: json.loads(v) for key, v in chosen.items()}))


def selecting(settings: list[str], learning_rate: float = 0.02, every: int = 2) -> list[str]:
    """These settings with the best weights selected, and a learning rate at which the loss falls and then rises."""
    changed = [f"train.evaluate_every={every}" if word == "train.evaluate_every=6" else word for word in settings]
    return [
        *changed,
        *("--set", "train.select=best"),
        *("--set", "train.schedule=constant"),
        *("--set", f"train.learning_rate={learning_rate}"),
    ]


@contextlib.contextmanager
def gated_worker(run: RunDir) -> Iterator[forked.ForkedProcess]:
    """A worker that writes the checkpoint of step 4 only once a file `go` is in the run's directory."""
    arguments = [*forked.PYTHON, "faults.gated_writer", str(run.path)]
    with run.log_file.open("ab") as log:
        worker = forked.ForkedProcess(
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield worker
    finally:
        worker.kill()


def resume(run: RunDir, execute: Execute = ftbench, *options: str) -> None:
    """Resume and wait for the end, unless the options say --detach; `execute` as in `start`."""
    done = execute("resume", str(run.path), *options)
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for(run: RunDir, kind: str, seconds: float = 600, after: int = 0, **fields: Any) -> dict[str, Any]:
    """The first event of a kind with these fields, after that number of events."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for event in events_of(run.path)[after:] if run.events_file.exists() else []:
            if event["type"] == kind and all(event[name] == value for name, value in fields.items()):
                return event
        time.sleep(0.02)
    raise AssertionError(f"no {kind} {fields} in {seconds} s")


def wait_for_end(run: RunDir, seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while run.is_active():
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.02)


def kill(run: RunDir) -> None:
    """SIGKILL, and wait until the kernel has released the lock."""
    pid = run.pid()
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    wait_for_end(run)


def stop(run: RunDir) -> None:
    """Request a stop as `ftbench stop` does, without the time that a command takes to start, and wait for the end.

    Short runs finish in less time than that.
    """
    pid = run.pid()
    assert pid is not None, "the run has ended"
    os.kill(pid, signal.SIGTERM)
    wait_for_end(run)
    result = run.result()
    assert result is not None and result.status == "stopped", result


def losses(run: RunDir, tolerance: float = 0.0) -> dict[int, float]:
    """Step -> loss; asserts that a step repeated after a kill has the same loss, within `tolerance` nats/token."""
    by_step: dict[int, float] = {}
    for event in events_of(run.path):
        if event["type"] == "step":
            before = by_step.setdefault(event["step"], event["loss"])
            assert abs(before - event["loss"]) <= tolerance, f"step {event['step']} differs"
    return by_step


def kill_at_random_moment(run: RunDir, rng: random.Random, longest: float) -> None:
    """Kill up to `longest` seconds after the first step of the current worker process, including while saving."""
    _wait_for_random_moment(run, rng, longest)
    kill(run)


def stop_at_random_moment(run: RunDir, rng: random.Random, longest: float) -> None:
    """Request a stop at a moment as of `kill_at_random_moment`, and wait for the end."""
    _wait_for_random_moment(run, rng, longest)
    if (pid := run.pid()) is not None:
        os.kill(pid, signal.SIGTERM)
    wait_for_end(run)


def _wait_for_random_moment(run: RunDir, rng: random.Random, longest: float) -> None:
    limit = time.monotonic() + 600
    while run.is_active() and not _stepping(run):
        assert time.monotonic() < limit, "no step"
        time.sleep(0.005)
    deadline = time.monotonic() + rng.uniform(0, longest)
    while time.monotonic() < deadline and run.is_active():
        time.sleep(0.001)


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    """The saved model or adapter."""
    return load_file(next(run.model.glob("*model.safetensors")))


def _stepping(run: RunDir) -> bool:
    """Whether the current worker process has completed a step; the file also has steps of earlier processes."""
    steps = 0
    for event in Follower(run.events_file).read():
        steps = 0 if isinstance(event, Hello) else steps + isinstance(event, Step)
    return steps > 0


def manifests_and_complete(run: RunDir) -> tuple[int, int]:
    """(checkpoints with a manifest, those of them with matching files and loadable tensors)."""
    folders = [folder for folder in run.checkpoints.glob("step-*") if (folder / "manifest.json").exists()]
    return len(folders), sum(problem_with(folder) is None and _loads(folder) for folder in folders)


def _loads(folder: Path) -> bool:
    weights = [load_file(path) for path in folder.glob("*.safetensors")]
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    return bool(weights and weights[0] and optimizer["state"])
