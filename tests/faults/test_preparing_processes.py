"""Processes that prepare rows: results are in order, and none survives Ctrl-C or its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engine.config.errors import RunFailed, UserError
from engine.data.parallel import in_order

ENDLESS = """
import itertools, os, pathlib, sys, time
from engine.data.parallel import in_order

pace, folder = sys.argv[1], pathlib.Path(sys.argv[2])

def work(number):
    (folder / str(os.getpid())).touch()
    time.sleep(0.01)
    return bytes(100_000)

signalled = None
try:
    for done in in_order(lambda: iter(itertools.count()), work, 2):
        if pace == "slow":
            time.sleep(0.5)  # the pipes are full: the processes wait for their reader
except KeyboardInterrupt:
    (folder / "interrupted").touch()
"""


def numbers(count: int) -> Callable[[], Iterator[int]]:
    return lambda: iter(range(count))


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_results_are_in_the_order_of_the_batches(count: int, processes: int) -> None:
    assert list(in_order(numbers(count), lambda n: n * n, processes)) == [n * n for n in range(count)]
    assert not children()


def test_work_is_done_in_other_processes() -> None:
    pids = list(in_order(numbers(8), lambda n: os.getpid(), 2))
    assert len(set(pids)) == 2 and os.getpid() not in pids


def test_a_user_error_is_raised_with_all_fields_and_in_order() -> None:
    def work(number: int) -> int:
        if number == 5:
            raise UserError("what", "where", "do", code="data.some")
        return number

    results = []
    with pytest.raises(UserError) as caught:
        for number in in_order(numbers(20), work, 3):
            results.append(number)
    assert results == [0, 1, 2, 3, 4]
    error = caught.value
    assert (error.problem, error.location, error.hint, error.code) == ("what", "where", "do", "data.some")
    assert not children()


def test_other_errors_have_their_traceback() -> None:
    with pytest.raises(RuntimeError, match=rf"(?s)^Traceback .*{Path(__file__).name}.*ZeroDivisionError"):
        list(in_order(numbers(4), lambda n: 1 // n, 2))
    assert not children()


def test_a_killed_process_is_an_error_and_not_a_hang() -> None:
    def work(number: int) -> int:
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(RunFailed, match="signal 9"):
        list(in_order(numbers(20), work, 2))
    assert not children()


def test_stopping_early_leaves_no_process() -> None:
    for number in in_order(numbers(10_000), lambda n: n, 2):
        if number == 10:
            break
    assert wait_until(lambda: not children())


@pytest.mark.parametrize("pace", ["fast", "slow"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_survives_its_parent(how: signal.Signals, pace: str, tmp_path: Path) -> None:
    folder = tmp_path / "processes"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, pace, str(folder)], start_new_session=True)
    try:
        assert wait_until(lambda: len(list(folder.iterdir())) == 2)
        members = [psutil.Process(int(file.name)) for file in folder.iterdir()]
    except BaseException:
        process.kill()
        raise
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal sends it: to the process group
    else:
        process.send_signal(how)
    process.wait(120)
    assert wait_until(lambda: not any(member.is_running() and member.status() != "zombie" for member in members))
    assert (folder / "interrupted").exists() == (how == signal.SIGINT)


EARLIER: set[int] = set()
"""Process ids of children that existed before the test: some of other tests may still be ending."""


@pytest.fixture(autouse=True)
def earlier_children() -> Iterator[None]:
    EARLIER.update(child.pid for child in psutil.Process().children())
    yield
    EARLIER.clear()


def children() -> list[psutil.Process]:
    """Child processes that the test has started."""
    own = (child for child in psutil.Process().children() if child.pid not in EARLIER)
    return [child for child in own if "resource_tracker" not in " ".join(child.cmdline())]


def wait_until(true: Callable[[], bool], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
