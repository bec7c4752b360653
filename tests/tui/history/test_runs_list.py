"""Runs and ladders as `ftbench runs` lists them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest
from made_ladder import made_ladder

from engine.config import preset_library
from engine.runs.home import tilde
from engine.runs.queue import locks
from engine.runs.run import events, run_dir
from tui.cli import runs
from tui.history.run_list import describe


def test_ladders_are_listed_with_their_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, ladder = made_ladder(tmp_path)
    ladder.status, ladder.stage = "running", "training"
    next(entry for entry in ladder.entries if entry.kind == "run").status = "planned"
    folder.write_state(ladder)
    runs.runs(tmp_path)
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith(folder.name)]
    died = ["died", "qlora,", "lora,", "full", "8/9"]  # no process holds its lock
    assert line.split()[1:] == [*died, tilde(Path.cwd())]


def test_a_broken_ladder_is_listed_as_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = made_ladder(tmp_path)
    folder.state_file.write_text("{")
    runs.runs(tmp_path)
    assert f"{folder.name} damaged" in " ".join(capsys.readouterr().out.split())


def test_waiting_for_the_device_does_not_count_as_run_time(tmp_path: Path) -> None:
    run = run_dir.create(tmp_path, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.seconds = {"waiting": 7200.0, "data": 1.0, "training": 20.0}
    run_dir.write_result(run, result)
    assert describe(run).seconds == 21.0


def test_time_of_an_active_run_excludes_waits_and_pauses(tmp_path: Path) -> None:
    run = run_dir.create(tmp_path, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    now = time.time()
    told = [
        events.Hello(pid=1, host="h", version="0", t=now - 9000),
        events.Phase(name="waiting", t=now - 9000),
        events.Phase(name="training", t=now - 8000),
        events.End(status="stopped", reason="", t=now - 7990),
        events.Hello(pid=2, host="h", version="0", resumed=True, t=now - 5),
    ]
    run.events_file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in told))
    lock = locks.acquire(run.lock_file, "1")
    assert lock is not None
    line = describe(run, {})
    assert line.seconds is not None and 15.0 <= line.seconds < 75.0
    assert line.state == "starting"
    run.events_file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in told[:2]))
    assert (describe(run, {run.path: 1}).state, describe(run, {run.path: 1}).seconds) == ("waiting, place 1", 0.0)
    assert describe(run, {}).state == "starting"
    os.close(lock)
