"""Time of short commands, and from a launch to the worker's `hello` and first step.

`python tests/bench/startup.py [ROUNDS]` prints a Markdown table with median and range of ROUNDS (5 by default).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from command import FTBENCH, WHOLE, as_installed, events_of


def command_seconds(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([FTBENCH, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def many_runs(folder: Path, count: int) -> None:
    """`count` finished runs: copies of a real one."""
    subprocess.run([FTBENCH, "run", "demo-lora", *WHOLE, "--runs", str(folder)], check=True, stdout=subprocess.DEVNULL)
    (real,) = folder.iterdir()
    for number in range(1, count):
        copy = folder / f"20260101-{number:06}-demo-lora-lora-{number:04x}"
        copy.mkdir()
        for name in ("run.toml", "result.json", "engine.lock"):
            (copy / name).write_bytes((real / name).read_bytes())


def launch_seconds(folder: Path) -> tuple[float, float]:
    """Seconds from the creation of the run directory to (`hello`, the end of the first step)."""
    subprocess.run(
        [FTBENCH, "run", "demo-lora", *WHOLE, "--now", "--runs", str(folder)], check=True, stdout=subprocess.DEVNULL
    )
    run = max(folder.iterdir())
    events = events_of(run)
    created = (run / "run.toml").stat().st_mtime
    step = next(event for event in events if event["type"] == "step")
    return events[0]["t"] - created, step["t"] - created


def row(name: str, seconds: list[float], bound: float | None) -> str:
    middle = statistics.median(seconds)
    verdict = "" if bound is None else "yes" if middle <= bound else f"NO, {middle / bound:.2f} ×"
    shown = "–" if bound is None else f"≤ {bound} s"
    return f"| {name} | {middle:.2f} s | {min(seconds):.2f}–{max(seconds):.2f} | {shown} | {verdict} |"


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        as_installed(Path(folder) / "bytecode")
        thousand, launches = Path(folder) / "thousand", Path(folder) / "launches"
        many_runs(thousand, 1000)
        times: dict[str, list[float]] = {"help": [], "runs": [], "hello": [], "step": []}
        measured: list[tuple[str, Callable[[], float]]] = [
            ("help", lambda: command_seconds("--help")),
            ("runs", lambda: command_seconds("runs", "--runs", str(thousand))),
        ]
        for number in range(rounds + 1):  # the first round writes the bytecode
            took = {name: measure() for name, measure in measured}
            took["hello"], took["step"] = launch_seconds(launches)
            if number:
                for name, seconds in took.items():
                    times[name].append(seconds)
    print(f"{os.cpu_count()} cores, median of {rounds}, `python tests/bench/startup.py {rounds}`\n")
    print("| what | median | range | target | met |\n|---|---|---|---|---|")
    print(row("`ftbench --help`", times["help"], 0.5))
    print(row("`ftbench runs`, 1,000 runs", times["runs"], 0.5))
    print(row("launch to `hello`", times["hello"], 0.5))
    print(row("launch to the end of the first step (embedded model, base scored on 6 rows)", times["step"], None))
    print(f"\n{json.dumps({name: [round(value, 3) for value in values] for name, values in times.items()})}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    main(parser.parse_args().rounds)
