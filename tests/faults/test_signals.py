"""Signals that end or stop a command restore the terminal."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import FTBENCH
from made_ladder import made_ladder
from screen import Terminal

from engine.config import preset_library
from engine.runs.ladder import ladder_dir
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.folder import Folder
from faults.test_leaving import modes_left_on
from tui.output.cursor import FATAL

FOLLOWERS = ("attach run", "attach ladder", "run", "plan")


@pytest.fixture
def held() -> Iterator[list[int]]:
    """Locks that this process holds, so that runs look active."""
    descriptors: list[int] = []
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def follow(tmp_path: Path, held: list[int]) -> Iterator[Callable[[str], Terminal]]:
    """A function that starts a command which hides the cursor, and returns once it is hidden."""
    terminals: list[Terminal] = []

    def start(name: str) -> Terminal:
        if name == "attach run":
            folder: Folder = run_dir.create(
                tmp_path / "runs", "demo-lora", preset_library.resolve_preset("demo-lora", None, {})
            )
            (folder.path / "events.jsonl").write_text('{"type":"phase","name":"training","v":1,"seq":1,"t":1.0}\n')
        elif name == "attach ladder":
            made_ladder(tmp_path / "runs")
            folder = next(ladder_dir.iterate(tmp_path / "runs"))
        if name.startswith("attach"):
            _hold(folder.lock_file, held)
            arguments = ["attach", str(folder.path)]
        elif name == "run":
            _hold(locks.device_lock("cpu"), held)  # the worker waits in the queue, without torch
            arguments = ["run", "demo-lora"]
        else:
            arguments = ["plan", "demo-lora"]
        terminals.append(Terminal(*arguments, cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""}))
        terminals[-1].wait(lambda: b"\x1b[?25l" in terminals[-1].bytes)
        return terminals[-1]

    yield start
    for terminal in terminals:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
    for run in run_dir.iterate(tmp_path / "runs"):
        if (pid := run.pid()) not in (None, os.getpid()):
            os.kill(pid, signal.SIGKILL)


def _hold(lock: Path, held: list[int]) -> None:
    descriptor = locks.acquire(lock, str(os.getpid()))
    assert descriptor is not None
    held.append(descriptor)


def cursor_is_hidden(terminal: Terminal) -> bool:
    terminal.read(0.1)
    return terminal.screen.cursor.hidden


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_attach_shows_the_cursor_when_a_signal_ends_it(
    number: signal.Signals, follow: Callable[[str], Terminal]
) -> None:
    terminal = follow("attach run")
    os.kill(terminal.process.pid, number)
    assert terminal.leave() == -number
    assert not terminal.screen.cursor.hidden


@pytest.mark.parametrize("name", FOLLOWERS)
def test_every_command_that_hides_the_cursor_shows_it_when_it_is_killed(
    name: str, follow: Callable[[str], Terminal]
) -> None:
    terminal = follow(name)
    os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.leave() == -signal.SIGTERM
    assert not terminal.screen.cursor.hidden


def test_ctrl_z_shows_the_cursor_and_fg_hides_it_again(tmp_path: Path, held: list[int]) -> None:
    """In a shell, because SIGTSTP only stops a process with a parent in its session."""
    run = run_dir.create(tmp_path / "runs", "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    run.events_file.write_text('{"type":"phase","name":"training","v":1,"seq":1,"t":1.0}\n')
    _hold(run.lock_file, held)
    terminal = Terminal("--norc", "--noediting", "-i", cwd=tmp_path, program="/bin/bash", env={"PS1": "> "})
    try:
        terminal.press(f"{FTBENCH} attach {run.path}\n")
        terminal.wait(lambda: terminal.screen.cursor.hidden)
        terminal.press("\x1a")
        terminal.wait("Stopped")
        assert not cursor_is_hidden(terminal)
        terminal.press("fg\n")
        terminal.wait(lambda: terminal.screen.cursor.hidden)
        terminal.press("\x03", "d\n")
        terminal.wait("detached")
        assert not cursor_is_hidden(terminal)
        terminal.press("exit\n")
        assert terminal.leave() == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()


def wait_for_state(terminal: Terminal, state: str) -> None:
    """Wait for a process state of the kernel; `T` is stopped. Its output is read: a full pty would block it."""
    stat = Path(f"/proc/{terminal.process.pid}/stat")
    terminal.wait(lambda: stat.read_text().rpartition(")")[2].split()[0] == state)


def test_a_terminal_that_is_not_read_does_not_prevent_the_end_of_attach(follow: Callable[[str], Terminal]) -> None:
    terminal = follow("attach run")
    os.set_blocking(terminal.theirs, False)
    with pytest.raises(BlockingIOError):  # until the terminal's buffer is full
        for _ in range(100_000):
            os.write(terminal.theirs, b"x" * 4096)
    os.set_blocking(terminal.theirs, True)
    os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.process.wait(120) == -signal.SIGTERM


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal("--runs", str(tmp_path / "runs"), cwd=tmp_path)
    terminal.wait("ready:")
    yield terminal
    if terminal.process.poll() is None:
        terminal.process.kill()
        terminal.process.wait()


@pytest.mark.parametrize("number", FATAL)
def test_every_fatal_signal_ends_the_bench_cleanly(number: signal.Signals, bench: Terminal) -> None:
    assert modes_left_on(bench.bytes)
    os.kill(bench.process.pid, number)
    assert bench.leave() == 128 + number
    assert modes_left_on(bench.bytes) == []


def test_ctrl_c_in_the_bench_shows_how_to_leave(bench: Terminal) -> None:
    bench.press("\x03")
    bench.wait("Press q to detach")
    bench.press("P")
    bench.wait("presets; yours")
    bench.press("\x03")
    bench.wait("Press escape, then q to detach")
    assert bench.process.poll() is None
    bench.press("escape", "q")
    assert bench.leave() == 0


def test_a_suspended_bench_restores_the_terminal_and_redraws_when_continued(bench: Terminal) -> None:
    for _ in range(3):
        os.write(bench.ours, b"m")  # the bench draws: the signal may interrupt a write
        os.kill(bench.process.pid, signal.SIGTSTP)
        wait_for_state(bench, "T")
        bench.read(0.2)
        assert modes_left_on(bench.bytes) == []
        os.kill(bench.process.pid, signal.SIGCONT)
        bench.wait(lambda: modes_left_on(bench.bytes) != [])
    bench.press("q")
    assert bench.leave() == 0
    assert modes_left_on(bench.bytes) == []
