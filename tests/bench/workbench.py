"""What the workbench costs: time to the first picture, processor, bytes to the terminal, huge runs, many runs.

`python tests/bench/workbench.py [ROUNDS] [PART …]` prints a Markdown table: median of ROUNDS (5 unless given), range
beside it. Parts: paint, idle, live, million, runs, slow. Everything happens in real terminals (160 by 45) and with
files as workers write them; `workbench/` holds the simulated runs and the terminal.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent / "workbench"))

import simulate
from command import FTBENCH, as_installed
from session import Session

READY = b"ready:"
"""On the status line of a bench that watches nothing: the whole first picture is there."""
LISTED = b"SmolLM2"
"""In the list of presets."""
HERE = Path(__file__).parent / "workbench"
QUIET_SECONDS, LOOK_SECONDS = 6.0, 20.0
"""After the first picture, before one looks; and how long one looks."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    values: list[float]
    unit: str
    bound: float | None

    def __str__(self) -> str:
        middle = statistics.median(self.values)
        spread = f"{min(self.values):.2f}–{max(self.values):.2f}"
        wanted = "–" if self.bound is None else f"≤ {self.bound:g} {self.unit}"
        kept = "" if self.bound is None else "yes" if middle <= self.bound else "NO"
        return f"| {self.what} | {middle:.2f} {self.unit} | {spread} | {wanted} | {kept} |"


def bench(runs: Path, ready: bytes = READY) -> Session:
    """`ftbench` on this folder, its first picture there."""
    session = Session([FTBENCH, "--runs", str(runs)])
    session.until(ready)
    return session


def paint(rounds: int, folder: Path) -> Iterator[Row]:
    """Ours and a hello-world, taking turns; and when ours has its lists as well."""
    ours, bare, filled = [], [], []
    for number in range(rounds + 1):  # the first leaves the bytecode
        for command, mark, times in (
            ([sys.executable, str(HERE / "hello.py")], b"Hello", bare),
            ([FTBENCH, "--runs", str(folder / "none")], READY, ours),
        ):
            session = Session(command)
            seconds = session.until(mark) - session.began
            if number:
                times.append(seconds)
            if number and mark == READY:
                filled.append(session.until(LISTED) - session.began)
            session.end()
    yield Row("first picture of a Textual hello-world", bare, "s", None)
    yield Row("first picture of `ftbench`", ours, "s", None)
    yield Row("the same, with its lists filled", filled, "s", None)
    yield Row("`ftbench` over the hello-world", [a / b for a, b in zip(ours, bare, strict=True)], "×", 1.5)


def idle(rounds: int, folder: Path) -> Iterator[Row]:
    """No run at all."""
    session = bench(folder / "none")
    used, sent = zip(*(_look(session) for _ in range(rounds)), strict=True)
    session.end()
    yield Row("processor, idle", list(used), "% of a core", 1.0)
    yield Row("to the terminal, idle", list(sent), "KB/s", None)


def live(rounds: int, folder: Path) -> Iterator[Row]:
    """A run that steps ten times a second, watched from its beginning."""
    seconds = QUIET_SECONDS + rounds * LOOK_SECONDS + 30
    runs = folder / "live"
    worker = subprocess.Popen([sys.executable, str(HERE / "simulate.py"), str(runs), "10", str(seconds)])
    while not any(simulate.rundir.iterate(runs)):
        time.sleep(0.05)
    time.sleep(1.0)
    session = bench(runs, b"tokens/s")
    used, sent = zip(*(_look(session) for _ in range(rounds)), strict=True)
    session.end()
    worker.terminate()
    worker.wait()
    yield Row("processor, ten steps a second", list(used), "% of a core", 4.0)
    yield Row("to the terminal, ten steps a second", list(sent), "KB/s", 6.0)


def _look(session: Session) -> tuple[float, float]:
    """(percent of a core, kilobytes a second) over a while."""
    time.sleep(QUIET_SECONDS)
    began, used, sent = time.perf_counter(), session.processor(), session.written()
    time.sleep(LOOK_SECONDS)
    took = time.perf_counter() - began
    return 100 * (session.processor() - used) / took, (session.written() - sent) / took / 1000


def million(rounds: int, folder: Path) -> Iterator[Row]:
    """From the key that opens it to its curve; and until the samples have become the whole."""
    runs = folder / "million"
    simulate.long(runs, 1_000_000)
    opened, whole, peaks = [], [], []
    for _ in range(rounds):
        session = bench(runs)
        session.press("r")
        session.until(b"1 run in")
        time.sleep(1.0)
        since, began = session.written(), time.perf_counter()
        session.press("\r")
        opened.append(session.until(b"validation", since) - began)
        whole.append(session.until(b"let go", since) - began)  # the log has room for all that samples hold
        peaks.append(session.peak() / (1 << 20))
        session.end()
    yield Row("a run of a million events, key to curve", opened, "s", 1.5)
    yield Row("the same, until every event is in it", whole, "s", None)
    yield Row("the same, most memory", peaks, "MiB", 150 / 1.048576)


def runs(rounds: int, folder: Path) -> Iterator[Row]:
    """From the key to the list."""
    thousand = folder / "thousand"
    simulate.many(thousand, 1000)
    times = []
    for _ in range(rounds):
        session = bench(thousand)
        time.sleep(1.0)
        since, began = session.written(), time.perf_counter()
        session.press("r")
        times.append(session.until(b"1000 runs", since) - began)
        session.end()
    yield Row("1,000 runs, key to list", times, "s", 0.5)


def slow(rounds: int, folder: Path) -> Iterator[Row]:
    """Whole pictures over a line of 3,000 bytes a second."""
    some = folder / "some"
    simulate.many(some, 40)
    names = {"2": "key of a preset", "r": "runs screen", "\x1b": "back to the bench", "?": "help"}
    times: dict[str, list[float]] = {"": [], **{key: [] for key in names}}
    for _ in range(rounds):
        session = Session([FTBENCH, "--runs", str(some)], rate=3000)
        session.until(READY)
        times[""].append(session.settled(0) - session.began)
        for key in names:
            time.sleep(1.5)
            since, began = session.written(), time.perf_counter()
            session.press(key)
            times[key].append(session.settled(since) - began)
        session.end()
    yield Row("3,000 bytes a second: the bench with its lists", times[""], "s", None)
    for key, name in names.items():
        yield Row(f"the same: {name}", times[key], "s", None)


PARTS: dict[str, Callable[[int, Path], Iterator[Row]]] = {
    part.__name__: part for part in (paint, idle, live, million, runs, slow)
}


def main(rounds: int, parts: list[str]) -> None:
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, `python tests/bench/workbench.py {rounds}`\n")
    print("| what | median | range | wanted | kept |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        as_installed(Path(folder) / "bytecode")
        for name in parts or PARTS:
            os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_STATE_HOME"] = f"{folder}/own"
            for row in PARTS[name](rounds, Path(folder)):
                print(row, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:])
