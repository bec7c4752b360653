"""`ftbench monitor`: the machine and the device queue, in a real terminal and in a pipe."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from command import ftbench
from screen import Terminal

from engine.config.preset_library import resolve_preset
from engine.runs.queue import locks
from engine.runs.queue.device_queue import QueuePlace
from engine.runs.run import run_dir
from tui.cli.monitor import QUEUE_LINES
from tui.history.queue_table import EMPTY_QUEUE, queue_lines


def test_it_shows_the_machine_and_the_queue_until_ctrl_c(tmp_path: Path) -> None:
    run = run_dir.create(
        tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {}), started_in="/home/me/mails"
    )
    held = locks.acquire(locks.device_lock("cpu"), f"{os.getpid()} {run.path}")
    assert held is not None
    terminal = Terminal("monitor", "--ascii", cwd=tmp_path)
    try:
        terminal.wait("/home/me/mails")
        assert "GiB" in terminal.text and "running" in terminal.text and terminal.text.isascii()
        os.close(held)
        terminal.wait(EMPTY_QUEUE)
        terminal.press("ctrl+c")
        assert terminal.leave() == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()


def test_a_pipe_gets_one_sample(tmp_path: Path) -> None:
    text = ftbench("monitor")
    assert text.returncode == 0 and "GiB" in text.stdout and "\x1b" not in text.stdout
    run = run_dir.create(tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {}))
    held = locks.acquire(locks.device_lock("cpu"), f"{os.getpid()} {run.path}")
    assert held is not None
    sample = json.loads(ftbench("monitor", "--json").stdout)
    os.close(held)
    (worker,) = sample["workers"]
    assert (worker["pid"], worker["command"]) == (os.getpid(), run.name) and worker["cpu"] is not None
    assert sample["memory_total"] > sample["memory_used"] > 0 and 0 <= sample["load"] <= 100


def test_a_long_queue_is_counted() -> None:
    now = time.time()
    entries = [QueuePlace("0", place, 7, Path(f"/r/run-{place}"), now) for place in range(9)]
    lines = queue_lines(entries, now, QUEUE_LINES).plain.splitlines()
    assert len(lines) == QUEUE_LINES and lines[-1] == "4 more waiting"
