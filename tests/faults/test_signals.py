"""A signal that ends a command leaves the terminal as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_ladder import made_ladder
from screen import Terminal

from engine.config import preset_library
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.folder import Folder
from engine.runs.run.run_dir import RunDir

FOLLOWERS = {"attach run": "TRAINING", "attach ladder": "STARTING", "run": "waiting"}
"""Command -> a word of its output."""
HIDE_CURSOR = b"\x1b[?25l"


@pytest.fixture
def held() -> Iterator[list[int]]:
    """Locks that this process holds, so that runs look active."""
    descriptors: list[int] = []
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def follow(tmp_path: Path, held: list[int]) -> Iterator[Callable[[str], Terminal]]:
    """A function that starts a command with a progress line, and returns once it has written."""
    terminals: list[Terminal] = []

    def start(name: str) -> Terminal:
        if name == "attach run":
            folder: Folder = run_dir.create(
                tmp_path / "runs", "demo-lora", preset_library.resolve_preset("demo-lora", None, {})
            )
            (folder.path / "events.jsonl").write_text('{"type":"phase","name":"training","v":1,"seq":1,"t":1.0}\n')
        elif name == "attach ladder":
            made_ladder(tmp_path / "runs")
            folder = next(LadderDir.iterate(tmp_path / "runs"))
        if name.startswith("attach"):
            _hold(folder.lock_file, held)
            arguments = ["attach", str(folder.path)]
        else:
            _hold(locks.device_lock("cpu"), held)  # the worker waits in the queue, without torch
            arguments = ["run", "demo-lora"]
        terminals.append(Terminal(*arguments, cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""}))
        terminals[-1].wait(FOLLOWERS[name])
        return terminals[-1]

    yield start
    for terminal in terminals:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
    for run in RunDir.iterate(tmp_path / "runs"):
        if (pid := run.pid()) not in (None, os.getpid()):
            os.kill(pid, signal.SIGKILL)


def _hold(lock: Path, held: list[int]) -> None:
    descriptor = locks.acquire(lock, str(os.getpid()))
    assert descriptor is not None
    held.append(descriptor)


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_command_that_is_killed_leaves_the_cursor_visible(name: str, follow: Callable[[str], Terminal]) -> None:
    terminal = follow(name)
    os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.leave() == -signal.SIGTERM
    assert HIDE_CURSOR not in terminal.bytes


def test_a_terminal_that_is_not_read_does_not_prevent_the_end_of_attach(follow: Callable[[str], Terminal]) -> None:
    terminal = follow("attach run")
    os.set_blocking(terminal.theirs, False)
    with pytest.raises(BlockingIOError):  # until the terminal's buffer is full
        for _ in range(100_000):
            os.write(terminal.theirs, b"x" * 4096)
    os.set_blocking(terminal.theirs, True)
    os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.process.wait(120) == -signal.SIGTERM
