"""The device queue is first in, first out, also after processes are killed or leave tickets behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.config.preset_library import resolve_preset
from engine.runs import start
from engine.runs.queue import device_queue, locks
from engine.runs.run import run_dir

WAITER = """
import sys, time
from pathlib import Path
from engine.hardware.devices import SelectedDevice, select_devices
from engine.runs.queue.device_queue import wait_for_devices
device, came, run, folder, count = sys.argv[1:]
def tell(note):
    with open(f"{folder}/{run}.notes", "a") as file:
        print(note, file=file)
stop = Path(folder, f"{run}.stop")
gpus = [SelectedDevice(name, name, name) for name in device.split(",")]
devices = gpus if "GPU" in device else select_devices(device)
exists = lambda device: not Path(folder, f"{device.lock}.lost").exists()
got = wait_for_devices(devices, float(came), Path("/runs", run), tell, stop.exists, 0.02, exists, int(count))
if not got:
    Path(folder, f"{run}.left").touch()
    sys.exit()
with open(f"{folder}/order", "a") as file:
    print(run, file=file)
Path(folder, f"{run}.device").write_text(" ".join(device.lock for device in got))
while not Path(folder, f"{run}.done").exists():
    time.sleep(0.01)
"""
Come = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def come(tmp_path: Path) -> Iterator[Come]:
    """Starts a process that waits for the device, as a run of this name and arrival time."""
    started: list[subprocess.Popen[bytes]] = []

    def start(run: str, came: float, device: str = "cpu", count: int = 1) -> subprocess.Popen[bytes]:
        arguments = [device, str(came), run, str(tmp_path), str(count)]
        started.append(subprocess.Popen([sys.executable, "-c", WAITER, *arguments]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def order(folder: Path) -> list[str]:
    file = folder / "order"
    return file.read_text().split() if file.exists() else []


def notes(folder: Path, run: str) -> str:
    """What a run has reported so far."""
    file = folder / f"{run}.notes"
    return file.read_text() if file.exists() else ""


def places() -> list[tuple[int, str]]:
    return [(turn.place, turn.run.name) for turn in device_queue.queue_places() if turn.device == "cpu"]


def test_runs_get_the_device_in_order_of_arrival(come: Come, tmp_path: Path) -> None:
    come("first", 1)
    until(lambda: order(tmp_path) == ["first"])
    for name, came in (("fourth", 4), ("second", 2), ("third", 3)):
        come(name, came)
    until(lambda: len(places()) == 4)
    assert places() == [(0, "first"), (1, "second"), (2, "third"), (3, "fourth")]
    for done, served in ((1, "first"), (2, "second"), (3, "third"), (4, "fourth")):
        until(lambda done=done: len(order(tmp_path)) == done)
        (tmp_path / f"{served}.done").touch()
    assert order(tmp_path) == ["first", "second", "third", "fourth"]
    until(lambda: places() == [])


def used_device(folder: Path, run: str) -> str:
    """The lock of the device that a run got, once it has one."""
    file = folder / f"{run}.device"
    until(lambda: file.exists() and file.read_text())
    return file.read_text()


def test_a_run_on_two_devices_takes_both_at_once_and_is_not_overtaken(come: Come, tmp_path: Path) -> None:
    come("first", 1, "GPU-0")
    assert used_device(tmp_path, "first") == "GPU-0"
    come("both", 2, "GPU-0,GPU-1", 2)
    until(lambda: "2 of GPU-0 or GPU-1" in notes(tmp_path, "both"))
    come("third", 3, "GPU-1")
    until(lambda: notes(tmp_path, "third"))
    assert order(tmp_path) == ["first"]  # GPU 1 is free, and the run that waits for both came before
    (tmp_path / "first.done").touch()
    assert used_device(tmp_path, "both") == "GPU-0 GPU-1"
    (tmp_path / "both.done").touch()
    assert used_device(tmp_path, "third") == "GPU-1"


def test_a_run_on_two_devices_of_which_one_is_lost_ends(come: Come, tmp_path: Path) -> None:
    (tmp_path / "GPU-1.lost").touch()
    process = come("both", 1, "GPU-0,GPU-1", 2)
    assert process.wait(60) == 1 and order(tmp_path) == []
    assert [note for note in notes(tmp_path, "both").splitlines() if note.startswith("GPU-1 ") and "available" in note]


def test_runs_use_the_slots_of_the_cpu_at_the_same_time_and_the_whole_cpu_alone(come: Come, tmp_path: Path) -> None:
    come("first", 1, "cpu:2")
    come("second", 2, "cpu:2")
    assert {used_device(tmp_path, "first"), used_device(tmp_path, "second")} == {"cpu-1of2", "cpu-2of2"}
    come("whole", 3, "cpu")
    until(lambda: places() == [(1, "whole")])
    come("third", 4, "cpu:2")
    until(lambda: places() == [(1, "whole"), (2, "third")])
    (tmp_path / "first.done").touch()  # a free slot: the whole CPU has waited for longer than the third run
    until(lambda: len(device_queue.queue_places()) == 3)
    assert places() == [(1, "whole"), (2, "third")]
    (tmp_path / "second.done").touch()
    assert used_device(tmp_path, "whole") == "cpu"
    until(lambda: "next on a slot of the CPU; in use by whole" in notes(tmp_path, "third"))
    (tmp_path / "whole.done").touch()
    assert used_device(tmp_path, "third").endswith("of2")


def test_a_run_takes_the_first_of_its_gpus_that_is_free(come: Come, tmp_path: Path) -> None:
    come("first", 1, "GPU-a")
    assert used_device(tmp_path, "first") == "GPU-a"
    come("second", 2, "GPU-a,GPU-b")
    assert used_device(tmp_path, "second") == "GPU-b"
    come("third", 3, "GPU-a,GPU-b")
    until(lambda: "next on GPU-a or GPU-b; in use by first" in notes(tmp_path, "third"))
    come("fourth", 4, "GPU-b")
    until(lambda: (2, "fourth") in [(turn.place, turn.run.name) for turn in device_queue.queue_places()])
    (tmp_path / "second.done").touch()
    assert used_device(tmp_path, "third") == "GPU-b"  # it came before the fourth, and leaves the queue of the other
    (tmp_path / "third.done").touch()
    assert used_device(tmp_path, "fourth") == "GPU-b"


def test_a_gpu_that_is_lost_while_a_run_waits_is_given_up(come: Come, tmp_path: Path) -> None:
    come("first", 1, "GPU-a")
    assert used_device(tmp_path, "first") == "GPU-a"
    (tmp_path / "GPU-b.lost").touch()
    come("second", 2, "GPU-a,GPU-b")
    until(lambda: "GPU-b is no longer available" in notes(tmp_path, "second"))
    third = come("third", 3, "GPU-b")
    assert third.wait(120) == 1  # UserError device.lost: none is left
    (tmp_path / "first.done").touch()
    assert used_device(tmp_path, "second") == "GPU-a"


def test_each_change_of_place_is_reported_once(come: Come, tmp_path: Path) -> None:
    come("first", 1)
    until(lambda: places() == [(0, "first")])
    come("second", 2)
    until(lambda: len(places()) == 2)
    come("third", 3)
    notes = tmp_path / "third.notes"
    until(lambda: notes.exists() and "place 2 on the CPU, behind second; in use by first" in notes.read_text())
    (tmp_path / "first.done").touch()
    until(lambda: "next on the CPU; in use by second" in notes.read_text())
    assert len(notes.read_text().splitlines()) <= 3  # between the two holders it may have been told once more


def test_a_killed_or_stopped_waiting_run_does_not_block_the_queue(come: Come, tmp_path: Path) -> None:
    come("first", 1)
    until(lambda: places() == [(0, "first")])
    killed = come("second", 2)
    come("third", 3)
    come("fourth", 4)
    until(lambda: len(places()) == 4)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (tmp_path / "third.stop").touch()
    until(lambda: (tmp_path / "third.left").exists())
    assert places() == [(0, "first"), (1, "fourth")]
    (tmp_path / "first.done").touch()
    until(lambda: order(tmp_path) == ["first", "fourth"])


def test_a_run_deleted_while_waiting_leaves_the_queue(come: Come, tmp_path: Path) -> None:
    come("first", 1)
    until(lambda: places() == [(0, "first")])
    run = run_dir.create(tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {}))
    worker = start.start_worker(run)
    start.wait_for_hello(run, worker)
    until(lambda: (1, run.name) in places())
    shutil.rmtree(run.path)
    until(lambda: worker.poll() == 0)
    assert places() == [(0, "first")] and not run.path.exists()


def test_old_tickets_of_killed_processes_are_deleted(come: Come) -> None:
    come("first", 1)
    until(lambda: places() == [(0, "first")])
    queue = locks.device_lock("cpu").with_suffix(".queue")
    old, young = queue / "00000000000000000000-1", queue / "00000000000000000000-2"
    for ticket in (old, young):
        ticket.touch()
    os.utime(old, (0, 0))
    assert places() == [(0, "first")]
    assert not old.exists() and young.exists()


def test_a_reader_that_is_suspended_does_not_make_a_lock_look_held(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        threading.Timer(0.3, lambda: fcntl.flock(reader, fcntl.LOCK_UN)).start()
        held = locks.acquire(tmp_path / "lock", "1")
    assert held is not None and locks.acquire(tmp_path / "lock") is None
    os.close(held)


def test_reading_the_holder_never_blocks_acquiring_the_lock(tmp_path: Path) -> None:
    asking = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from engine.runs import locks\n"
            "while True: locks.acquireer(Path(sys.argv[1]))",
            str(tmp_path / "lock"),
        ]
    )
    try:
        (tmp_path / "lock").touch()
        for _ in range(300):
            held = locks.acquire(tmp_path / "lock", "1")
            assert held is not None
            os.close(held)
    finally:
        asking.kill()
        asking.wait()


def test_a_waiting_run_is_told_since_when_and_from_where_the_device_is_used(tmp_path: Path, come: Come) -> None:
    run = run_dir.create(
        tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {}), started_in="/home/me/mails"
    )
    lock = locks.device_lock("cpu")
    held = locks.acquire(lock, f"17 {run.path}")
    assert held is not None
    try:
        come("next", 1)
        notes = tmp_path / "next.notes"
        clock = time.strftime("%H:%M", time.localtime(lock.stat().st_mtime))
        told = f"next on the CPU; in use by {run.name} (process 17) since {clock}, started in /home/me/mails"
        until(lambda: notes.exists() and told in notes.read_text())
    finally:
        os.close(held)
    user = device_queue.QueuePlace("0", 0, 17, run.path, 1e9)
    assert " since 2001-09-09 " in device_queue._note("GPU 0", [], user)
