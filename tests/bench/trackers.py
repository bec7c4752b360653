"""CPU time and memory of each tracker's process while it follows a live run: `python tests/bench/trackers.py`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from made_runs import STEPS, write_events

from engine.config.preset_library import resolve_preset
from engine.config.trackers import TRACKERS
from engine.runs import locks, run_dir
from engine.runs.tracking import TrackerFiles, start_tracker

SECONDS = 20.0
"""How long each process is watched after it has logged the rows of the run."""


def measure(name: str, runs: Path) -> str:
    """One line of the table."""
    run = run_dir.create(runs, "demo-lora", resolve_preset("demo-lora", "lora", {}))
    write_events(run, "lora", 0)
    lock = locks.acquire(run.lock_file, str(os.getpid()))
    assert lock is not None
    started = start_tracker(run, name)
    while not TrackerFiles(run, name).state().rows:
        time.sleep(0.1)
    time.sleep(2)  # what its threads still write
    process = psutil.Process(started.pid)
    processes = [process, *process.children(recursive=True)]

    def used() -> float:
        return sum(sum(one.cpu_times()[:2]) for one in processes)

    before = used()
    time.sleep(SECONDS)
    share, memory = (used() - before) / SECONDS, sum(one.memory_info().rss for one in processes)
    os.close(lock)
    started.wait()
    return f"| {name} | {before:.2f} | {share:.2%} | {memory / 2**20:.0f} |"


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "FTBENCH_LOCKS", "TRACKIO_DIR"):
            os.environ[name] = f"{place}/{name.lower()}"
            Path(os.environ[name]).mkdir()
        print(f"| tracker | CPU s to start and log {STEPS} rows | of a core while it waits | MiB |")
        print("|---|---:|---:|---:|")
        for name in TRACKERS:
            print(measure(name, Path(place) / "runs"), flush=True)


if __name__ == "__main__":
    main()
