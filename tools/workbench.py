"""Cost of the command and the workbench: start-up, first paint, CPU, bytes to the terminal, long runs, many runs.

`python tools/workbench.py [ROUNDS] [PART …]` prints a Markdown table with median and range of ROUNDS (5 by
default). Parts: startup, paint, keys, idle, live, grid, million, runs, slow. Screens run in real terminals (ptys of 160
by 45) and with files as workers write them; `workbench/` has the simulated runs and the terminal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent / "workbench"))

import simulate
from command import FTBENCH, WHOLE, as_installed, events_of
from session import Session

READY = b"ready:"
"""On the status line of a bench without an active run: the first paint is complete."""
LISTED = b"SmolLM2"
"""Text in the list of presets."""
HERE = Path(__file__).parent / "workbench"
SETTLE_SECONDS, SAMPLE_SECONDS = 6.0, 20.0
"""Wait after the first paint, and duration of a CPU and output sample."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    values: list[float]
    unit: str
    bound: float | None

    def __str__(self) -> str:
        middle = statistics.median(self.values)
        spread = f"{min(self.values):.2f}–{max(self.values):.2f}"
        target = "–" if self.bound is None else f"≤ {self.bound:g} {self.unit}"
        met = "" if self.bound is None else "yes" if middle <= self.bound else "NO"
        return f"| {self.name} | {middle:.2f} {self.unit} | {spread} | {target} | {met} |"


def bench(runs: Path, ready: bytes = READY) -> Session:
    """Open `ftbench` on this folder and wait for the first paint."""
    session = Session([FTBENCH, "--runs", str(runs)])
    session.until(ready)
    return session


def startup(rounds: int, folder: Path) -> Iterator[Row]:
    """Short commands, and a launch from its run directory to `hello` and to the end of the first step."""
    thousand, launches = folder / "copies", folder / "launches"
    simulate.many(thousand, 1000)
    times: dict[str, list[float]] = {"help": [], "runs": [], "hello": [], "step": []}
    for number in range(rounds + 1):  # the first round writes the bytecode
        took = {"help": _seconds("--help"), "runs": _seconds("runs", "--runs", str(thousand))}
        _seconds("run", "demo-lora", *WHOLE, "--now", "--runs", str(launches))
        run = max(launches.iterdir())
        events, created = events_of(run), (run / "run.toml").stat().st_mtime
        took["hello"] = events[0]["t"] - created
        took["step"] = next(event["t"] for event in events if event["type"] == "step") - created
        if number:
            for name, seconds in took.items():
                times[name].append(seconds)
    yield Row("`ftbench --help`", times["help"], "s", 0.5)
    yield Row("`ftbench runs`, 1,000 runs", times["runs"], "s", 0.5)
    yield Row("launch to `hello`", times["hello"], "s", 0.5)
    yield Row("launch to the end of the first step (embedded model, base scored on 6 rows)", times["step"], "s", None)


def _seconds(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([FTBENCH, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def paint(rounds: int, folder: Path) -> Iterator[Row]:
    """First paint of the bench and of a hello-world, alternating; and until the bench has filled its lists."""
    ours, bare, filled = [], [], []
    for number in range(rounds + 1):  # the first round writes the bytecode
        for command, mark, times in (
            ([sys.executable, str(HERE / "hello.py")], b"Hello", bare),
            ([FTBENCH, "--runs", str(folder / "none")], READY, ours),
        ):
            session = Session(command)
            seconds = session.until(mark) - session.started
            if number:
                times.append(seconds)
            if number and mark == READY:
                filled.append(session.until(LISTED) - session.started)
            session.end()
    yield Row("first paint of a Textual hello-world", bare, "s", None)
    yield Row("first paint of `ftbench`", ours, "s", None)
    yield Row("the same, with its lists filled", filled, "s", None)
    yield Row("`ftbench` ÷ the hello-world", [a / b for a, b in zip(ours, bare, strict=True)], "×", 1.4)


KEYS = (
    ("3", b"Full", "preset"),
    ("r", b"sorted by when", "runs"),
    ("q", b"ready:", "back from runs"),
    ("?", b"Half a page", "help"),
    ("q", b"ready:", "back from help"),
    ("P", b"yours are in", "presets"),
    ("q", b"ready:", "back from presets"),
    ("e", b"set by", "settings"),
    ("q", b"ready:", "back from settings"),
    ("c", b"no run to show", "charts"),
    ("q", b"ready:", "back from charts"),
    ("M", b"processes on GPUs", "processes"),
    ("q", b"ready:", "back from processes"),
    ("D", b"the CPU", "devices"),
    ("q", b"ready:", "back from devices"),
    ("i", b"models", "models"),
    ("q", b"ready:", "back from models"),
    ("l", b"No ladder yet", "ladders"),
    ("q", b"ready:", "back from ladders"),
    (":", b"Search", "commands"),
    ("\x1b", b"ready:", "back from commands"),
    ("m", b"QLoRA", "method"),
    ("\r", b"start", "launch screen"),
    ("q", b"ready:", "back from the launch screen"),
)
"""Keys that open no other process, the text that each shows, and its name; each opens its screen for the first time."""


def keys(rounds: int, folder: Path) -> Iterator[Row]:
    """Time from a key to the frame that shows its effect; the runs folder has 40 runs."""
    forty = folder / "forty"
    simulate.many(forty, 40)
    times: dict[str, list[float]] = {name: [] for *_, name in KEYS}
    for _ in range(rounds):
        session = bench(forty)
        session.until(LISTED)
        time.sleep(3.0)  # what is read after the first paint
        for key, mark, name in KEYS:
            session.text()
            since, started = session.written(), time.perf_counter()
            session.press(key)
            times[name].append(1000 * (session.until(mark, since) - started))
            session.settled(since)
            time.sleep(0.5)
        session.end()
    for name, values in sorted(times.items(), key=lambda named: -statistics.median(named[1])):
        yield Row(f"key to screen: {name}", values, "ms", 100)


def idle(rounds: int, folder: Path) -> Iterator[Row]:
    """CPU and output without a run."""
    session = bench(folder / "none")
    used, sent = zip(*(_sample(session) for _ in range(rounds)), strict=True)
    session.end()
    yield Row("CPU, idle", list(used), "% of a core", 1.0)
    yield Row("output, idle", list(sent), "KB/s", None)


def live(rounds: int, folder: Path) -> Iterator[Row]:
    """CPU and output while following a run with ten steps per second."""
    yield from _following(rounds, folder / "live", "", "a run with 10 steps/s")


def grid(rounds: int, folder: Path) -> Iterator[Row]:
    """The same with the chart grid open, and two earlier runs in it."""
    runs = folder / "grid"
    simulate.many(runs, 2)
    yield from _following(rounds, runs, "cbb", "the chart grid with 3 runs")


def _following(rounds: int, runs: Path, keys: str, scene: str) -> Iterator[Row]:
    """CPU and output of a bench on a live run, after some keys."""
    seconds = rounds * (SETTLE_SECONDS + SAMPLE_SECONDS) + 60
    worker = subprocess.Popen([sys.executable, str(HERE / "simulate.py"), str(runs), "10", str(seconds)])
    while not any(run.is_active() for run in simulate.RunDir.iterate(runs)):
        time.sleep(0.05)
    time.sleep(1.0)
    session = bench(runs, b"tokens/s")
    for key in keys:
        session.press(key)
        time.sleep(1.0)
    used, sent = zip(*(_sample(session) for _ in range(rounds)), strict=True)
    session.end()
    worker.terminate()
    worker.wait()
    yield Row(f"CPU, {scene}", list(used), "% of a core", 4.0)
    yield Row(f"output, {scene}", list(sent), "KB/s", 1.0)


def _sample(session: Session) -> tuple[float, float]:
    """(percent of a core, KB/s) over SAMPLE_SECONDS."""
    time.sleep(SETTLE_SECONDS)
    started, used, sent = time.perf_counter(), session.cpu_seconds(), session.written()
    time.sleep(SAMPLE_SECONDS)
    took = time.perf_counter() - started
    return 100 * (session.cpu_seconds() - used) / took, (session.written() - sent) / took / 1000


def million(rounds: int, folder: Path) -> Iterator[Row]:
    """Time from the key that opens a long run to its curve, and until every event is read."""
    runs = folder / "million"
    simulate.long(runs, 1_000_000)
    opened, complete, peaks = [], [], []
    for _ in range(rounds):
        session = bench(runs)
        session.press("r")
        session.until(b"1 run in")
        time.sleep(1.0)
        since, started = session.written(), time.perf_counter()
        session.press("\r")
        opened.append(session.until(b"validation", since) - started)
        complete.append(session.until(b"dropped", since) - started)  # the log pane has room for all sampled lines
        peaks.append(session.peak() / (1 << 20))
        session.end()
    yield Row("a run of a million events, key to curve", opened, "s", 1.5)
    yield Row("the same, until every event is read", complete, "s", None)
    yield Row("the same, peak memory", peaks, "MiB", 150 / 1.048576)


def runs(rounds: int, folder: Path) -> Iterator[Row]:
    """Time from the key to the list of 1,000 runs."""
    thousand = folder / "thousand"
    simulate.many(thousand, 1000)
    times = []
    for _ in range(rounds):
        session = bench(thousand)
        time.sleep(1.0)
        since, started = session.written(), time.perf_counter()
        session.press("r")
        times.append(session.until(b"1000 runs", since) - started)
        session.end()
    yield Row("1,000 runs, key to list", times, "s", 0.5)


def slow(rounds: int, folder: Path) -> Iterator[Row]:
    """Complete screens over a line of 3,000 bytes/s."""
    some = folder / "some"
    simulate.many(some, 40)
    names = {"2": "key of a preset", "r": "runs screen", "\x1b": "back to the bench", "?": "help"}
    times: dict[str, list[float]] = {"": [], **{key: [] for key in names}}
    for _ in range(rounds):
        session = Session([FTBENCH, "--runs", str(some)], rate=3000)
        session.until(READY)
        times[""].append(session.settled(0) - session.started)
        for key in names:
            time.sleep(1.5)
            since, started = session.written(), time.perf_counter()
            session.press(key)
            times[key].append(session.settled(since) - started)
        session.end()
    yield Row("at 3,000 bytes/s: the bench with its lists", times[""], "s", None)
    for key, name in names.items():
        yield Row(f"the same: {name}", times[key], "s", None)


PARTS: dict[str, Callable[[int, Path], Iterator[Row]]] = {
    part.__name__: part for part in (startup, paint, keys, idle, live, grid, million, runs, slow)
}


def main(rounds: int, parts: list[str]) -> None:
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, `python tools/workbench.py {rounds}`\n")
    print("| what | median | range | target | met |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        as_installed(Path(folder) / "bytecode")
        for name in parts or PARTS:
            os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_STATE_HOME"] = f"{folder}/own"
            for row in PARTS[name](rounds, Path(folder)):
                print(row, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: use {', '.join(PARTS)}")
    main(options.rounds, options.parts)
