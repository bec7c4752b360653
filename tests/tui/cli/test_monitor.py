"""`ftbench monitor`: the machine pane alone, in a real terminal and in a pipe."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from command import ftbench
from screen import Terminal

from engine.config.preset_library import resolve_preset
from engine.runs.queue import locks
from engine.runs.queue.device_queue import QueueEntry
from engine.runs.run import run_dir
from tui.history.queue_table import queue_lines
from tui.monitor import MAX_LINES


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_it_shows_the_machine_and_the_queue_until_q(size: tuple[int, int], tmp_path: Path) -> None:
    run = run_dir.create(
        tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {}), started_in="/home/me/mails"
    )
    held = locks.acquire(locks.device_lock("cpu"), f"{os.getpid()} {run.path}")
    assert held is not None
    terminal = Terminal("monitor", cwd=tmp_path, size=size)
    try:
        terminal.wait("/home/me/mails")
        terminal.wait("GiB")
        assert "memory" in terminal.text and "running" in terminal.text
        assert all(len(line) <= size[0] for line in terminal.text.splitlines())
        os.close(held)
        terminal.wait("no run uses or waits for a device")
        terminal.press("q")
        assert terminal.leave() == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_restores_the_terminal(number: signal.Signals, tmp_path: Path) -> None:
    terminal = Terminal("monitor", cwd=tmp_path)
    try:
        terminal.wait("GiB")
        terminal.process.send_signal(number)
        assert terminal.leave() == 128 + number
        assert terminal.bytes.rindex(b"\x1b[?1049l") > terminal.bytes.rindex(
            b"\x1b[?1049h"
        )  # left the alternate screen
    finally:
        terminal.process.kill()
        terminal.process.wait()


def test_ctrl_c_leaves(tmp_path: Path) -> None:
    terminal = Terminal("monitor", cwd=tmp_path)
    try:
        terminal.wait("GiB")
        terminal.press("ctrl+c")
        assert terminal.leave() == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()


def test_a_pipe_gets_one_sample() -> None:
    text = ftbench("monitor")
    assert text.returncode == 0 and "GiB" in text.stdout and "\x1b" not in text.stdout
    sample = json.loads(ftbench("monitor", "--json").stdout)
    assert sample["memory_total"] > sample["memory_used"] > 0 and 0 <= sample["load"] <= 100


def test_a_long_queue_is_counted() -> None:
    now = time.time()
    entries = [QueueEntry("0", "GPU 0", place, f"run-{place}", "run", 7, now, "/d", "/r") for place in range(9)]
    lines = queue_lines(entries, now, MAX_LINES).plain.splitlines()
    assert len(lines) == MAX_LINES and lines[-1] == "4 more waiting"
