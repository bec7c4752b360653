"""The reserved file stores the reason of an outcome on a full disk."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest
from textual.message import Message

from engine.config.preset_library import resolve_preset
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.event_log import EventLog
from engine.runs.run.events import End, Phase
from engine.runs.run.folder import END_BYTES, Folder
from engine.runs.run.run_dir import RunDir
from tui.history.run_list import describe
from tui.live.watcher import RunNews, Watcher

REASON = "no room for the checkpoint"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return run_dir.create(tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {}))


def test_a_new_run_has_reserved_blocks_and_no_record(run: RunDir) -> None:
    assert run.end_file.stat().st_size == END_BYTES and run.end_file.stat().st_blocks * 512 >= END_BYTES
    assert run.read_end() is None and run.result() is None


@pytest.mark.parametrize("reason", ["why", "", "x" * 100_000, "\x00" * 5000, "ü🙂" * 3000])
def test_every_reason_fits(reason: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.reserve_end()
    assert folder.record_end("failed", reason)
    assert folder.end_file.stat().st_size == END_BYTES
    end = folder.read_end()
    assert end is not None and reason.startswith(end.reason) and len(end.reason) >= min(len(reason), 500)
    before = time.time()
    assert folder.record_end("failed", REASON)
    shorter = folder.read_end()
    assert shorter is not None
    assert (shorter.status, shorter.reason) == ("failed", REASON), "a shorter one after a longer"
    assert before <= shorter.t <= time.time()
    folder.reserve_end()
    assert folder.read_end() is None


def test_the_record_is_the_result_if_there_is_no_other(run: RunDir) -> None:
    log = EventLog(run.events_file)
    log.write(Phase(name="training"))
    run.record_end("failed", REASON)
    result = run.result()
    assert result is not None and (result.status, result.reason) == ("failed", REASON)
    assert "training" not in run.state() and run.state() == "failed" and not run.is_active()
    assert describe(run).reason == REASON
    lock = locks.acquire(run.lock_file, str(os.getpid()))
    assert lock is not None
    assert run.state() == "live", "an end of an earlier life is not told of a live run"
    os.close(lock)


def test_a_ladder_with_a_record_is_not_running(tmp_path: Path) -> None:
    plan = make_plan("demo", ["lora"], {})
    folder = ladder_dir.create(tmp_path, plan)
    folder.write_state(Ladder(name=folder.name, preset="demo", command="", created=0.0))
    folder.record_end("failed", REASON)
    state = folder.state()
    assert state is not None and (state.status, state.reason) == ("failed", REASON)


def test_a_line_that_does_not_fit_leaves_no_partial_line(tmp_path: Path) -> None:
    """A file size limit accepts a part of a line, like a full disk."""
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.write(Phase(name="data"))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            log.write(Phase(name="model"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    log.write(Phase(name="model"))
    assert path.read_bytes().count(b"\n") == 2


def test_a_watcher_shows_the_record_if_the_log_has_no_end(run: RunDir) -> None:
    EventLog(run.events_file).write(Phase(name="training"))
    run.record_end("failed", REASON)
    told: list[Message] = []
    watcher = Watcher(run, told.append)
    watcher.start()
    try:
        seen = time.monotonic() + 60
        while not any(isinstance(message, RunNews) and message.events for message in told):
            assert time.monotonic() < seen, "no end is shown"
            time.sleep(0.01)
    finally:
        watcher.leave()
        watcher.join()
    (end,) = [event for message in told if isinstance(message, RunNews) for event in message.events]
    assert isinstance(end, End) and (end.status, end.reason) == ("failed", REASON)
