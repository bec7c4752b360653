"""`ftbench queue`: who uses a device, who waits, since when and from which directory; who else is on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from command import ftbench

from engine.config.preset_library import resolve_preset
from engine.hardware import nvml
from engine.hardware.nvml import process_name, process_user
from engine.runs.queue import device_queue, locks
from engine.runs.queue.device_queue import QueuePlace, titled_places
from engine.runs.run import run_dir
from tui.cli.monitor import queue
from tui.history import queue_table
from tui.screens.live_runs import LiveRuns


@pytest.fixture
def queued(tmp_path: Path) -> Iterator[list[Path]]:
    """A run that uses the CPU, and a chat session with another that waits."""
    runs = []
    for directory in ("first", "second"):
        chosen = resolve_preset("demo-lora", None, {})
        run = run_dir.create(tmp_path / "runs", "demo-lora", chosen, started_in=f"/home/me/{directory}")
        runs.append(run.path)
    held = locks.acquire(locks.device_lock("cpu"), f"17 {runs[0]}")
    ticket = device_queue.Ticket(locks.device_lock("cpu"), time.time() - 90, f"18 {runs[1]}/try")
    yield runs
    ticket.remove()
    assert held is not None
    os.close(held)


def test_the_queue_names_run_time_and_directory(queued: list[Path]) -> None:
    user, waiting = titled_places()
    assert (user.device, user.place, user.pid, user.name, user.what) == ("cpu", 0, 17, queued[0].name, "run")
    assert user.started_in == "/home/me/first" and user.home == queued[0].parent
    assert time.time() - user.since < 60 < 89 < time.time() - waiting.since < 150
    assert (waiting.place, waiting.what, waiting.name) == (1, "try", queued[1].name)
    assert waiting.started_in == "/home/me/second" and waiting.home == user.home


def test_an_export_in_the_queue_is_not_the_run(queued: list[Path], tmp_path: Path) -> None:
    """So that its end is not announced as the end of the run."""
    ticket = device_queue.Ticket(locks.device_lock("cpu"), time.time(), f"19 {queued[0]}/{device_queue.EXPORT}")
    try:
        entry = titled_places()[-1]
        assert (entry.name, entry.what, entry.home) == (queued[0].name, "export", queued[0].parent)
        live = LiveRuns(cast("Any", SimpleNamespace(queue=device_queue.queue_places, read_all=list)), queued[0].parent)
        live.refresh()
        assert [run.path for run in live.live()] == [queued[0]]  # which uses the device, not its export
        assert f"ftbench export {'-'.join(queued[0].name.split('-')[-2:])}" in queue_table.cells(entry, 0.0)
    finally:
        ticket.remove()


def test_the_table_and_the_json_tell_the_same(queued: list[Path]) -> None:
    shown = ftbench("queue").stdout
    first, second = (line for line in shown.splitlines() if "/home/me/" in line)
    assert first.split()[:3] == ["CPU", "running", "-".join(queued[0].name.split("-")[-2:])]
    assert "waiting, place 1" in second and "ftbench try lora-" in second and second.endswith("/home/me/second")
    told = json.loads(ftbench("queue", "--json").stdout)
    assert [entry["place"] for entry in told["queue"]] == [0, 1] and told["others"] == []
    waiting = told["queue"][1]
    assert 80 < time.time() - waiting.pop("since") < 1200
    assert waiting == {
        "device": "cpu",
        "title": "CPU",
        "place": 1,
        "run": queued[1].name,
        "what": "try",
        "pid": 18,
        "started_in": "/home/me/second",
        "home": str(queued[1].parent),
    }


def test_an_empty_queue_is_one_line() -> None:
    assert ftbench("queue").stdout == f"{queue_table.EMPTY_QUEUE}\n"


def test_an_unknown_holder_is_shown_without_a_run() -> None:
    entry = QueuePlace("0", 0, 0, Path(), title="GPU 0")
    assert queue_table.cells(entry, 100_000.0)[:3] == ["GPU 0", "running", "another program"]


class Gpu:
    """A GPU with two processes."""

    index = 1

    def __init__(self, *pids: int) -> None:
        self.pids = pids

    def processes(self) -> list[tuple[int, int | None]]:
        return [(pid, 3 << 30) for pid in self.pids]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_processes_of_other_users_are_named(
    queued: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = subprocess.Popen(["sleep", "600"], user=65534)
    try:

        class Nvml:
            def gpus(self) -> list[Any]:
                return [Gpu(17, other.pid)]

        monkeypatch.setattr(device_queue, "Nvml", Nvml)
        monkeypatch.setattr(nvml, "pids_are_local", lambda: True)
        assert process_name(other.pid) == "sleep of nobody" and process_user(other.pid) == "nobody"
        (foreign,) = device_queue.others_on_gpus(titled_places())  # process 17 is the run in the queue
        assert (foreign["gpu"], foreign["pid"], foreign["user"], foreign["bytes"]) == (1, other.pid, "nobody", 3 << 30)
        queue()
        (line,) = (line for line in capsys.readouterr().out.splitlines() if f" {other.pid} " in line)
        assert line.startswith("GPU 1 ") and "(sleep of nobody)" in line and "3.00 GiB" in line
    finally:
        other.kill()
        other.wait()


def test_an_own_process_is_named_without_its_user_and_a_hidden_one_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "pids_are_local", lambda: True)
    assert " of " not in process_name(os.getpid())
    monkeypatch.setattr(nvml, "pids_are_local", lambda: False)
    assert process_name(os.getpid()) == nvml.UNKNOWN_PROCESS and process_user(os.getpid()) == ""


def test_devices_of_the_queue_have_the_titles_of_a_launch() -> None:
    assert device_queue.device_title("cpu", None) == "CPU" and device_queue.device_title("1", None) == "GPU 1"
    assert device_queue.device_title("MIG-5c1b2a3d-0000", None) == "MIG instance 5c1b2a3d"
    assert device_queue.device_title("GPU-5c1b2a3d-0000", None) == "GPU 5c1b2a3d"
