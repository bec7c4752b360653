"""Play many runs on many slots through the real device queue, with workers that only sleep; print a table.

    python tests/bench/scale.py --runs 1000 --slots 64 --seconds 4 --ahead 32

Each worker is a process that waits for one of the devices with `wait_for_devices`, sleeps for about `--seconds` and
ends. At most `--slots` + `--ahead` processes exist at a time, as a ladder starts only as many runs as it has devices.
The devices are names: no GPU is needed. Printed: how long a slot was free between two runs while others waited, the CPU
time of the queue, and how much of the slots' time was used.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from engine.hardware.devices import SelectedDevice
from engine.runs.device_queue import wait_for_devices


def work(log: Path, slots: int, number: int, arrived: float, seconds: float) -> int:
    """Wait for a slot, sleep, and append one line: the slot and the times of arrival, start and end."""
    devices = [SelectedDevice(f"slot-{slot}", f"slot {slot}", "") for slot in range(slots)]
    told: list[float] = []
    """When a place in the queue was reported; before that not all tickets exist."""

    def tell(note: str) -> None:
        told.append(time.monotonic())

    taken = wait_for_devices(devices, arrived, Path("/runs", str(number)), tell, lambda: False)
    assert taken is not None
    device = taken[0]
    start = time.monotonic()
    own = time.process_time()
    time.sleep(seconds)
    times = {"began": min([*told, start]), "start": start, "end": time.monotonic(), "cpu": own, "arrived": arrived}
    line = json.dumps({"run": number, "slot": device.lock, **times}) + "\n"
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    return 0


def play(folder: Path, runs: int, slots: int, ahead: int, seconds: float, seed: int) -> list[dict[str, float]]:
    """The lines of all runs, in the order of their ends."""
    rng, log = random.Random(seed), folder / "log"
    environment = {**os.environ, "FTBENCH_LOCKS": str(folder / "locks")}
    alive: list[subprocess.Popen[bytes]] = []
    for number in range(runs):
        while len(alive) >= slots + ahead:
            time.sleep(0.02)
            alive = [process for process in alive if process.poll() is None]
        values = [str(log), str(slots), str(number), str(time.time()), str(seconds * rng.uniform(0.5, 1.5))]
        alive.append(subprocess.Popen([sys.executable, __file__, "--worker", *values], env=environment))
    for process in alive:
        process.wait()
    return [json.loads(line) for line in log.read_text().splitlines()]


def report(lines: list[dict[str, float]], slots: int) -> None:
    by_slot = defaultdict(list)
    for line in lines:
        by_slot[line["slot"]].append(line)
    gaps = []
    for used in by_slot.values():
        used.sort(key=lambda line: line["start"])
        for before, after in pairwise(used):
            assert after["start"] >= before["end"], "two runs used a slot at the same time"
            gaps.append(after["start"] - max(before["end"], after["began"]))
    order = sorted(lines, key=lambda line: line["start"])
    leads = [
        later["start"] - earlier["start"]
        for earlier, later in pairwise(order)
        if later["arrived"] < earlier["arrived"] and later["began"] < earlier["start"]
    ]
    whole = max(line["end"] for line in lines) - min(line["start"] for line in lines)
    used_time = sum(line["end"] - line["start"] for line in lines)
    rows = {
        "runs, each once": f"{len(lines)}, {len({line['run'] for line in lines}) == len(lines)}",
        "started before one that had come earlier, and by how much": f"{len(leads)}, {max(leads, default=0.0):.3f} s",
        "slot free while a run waited, median / 95th percentile / longest": " / ".join(
            f"{value:.2f} s" for value in (statistics.median(gaps), sorted(gaps)[int(0.95 * len(gaps))], max(gaps))
        ),
        "time of the slots that was used": f"{used_time / (whole * slots):.1%}",
        "CPU time of a waiting worker, imports included, median": (
            f"{statistics.median(line['cpu'] for line in lines):.2f} s"
        ),
    }
    print(f"| {len(lines)} runs on {slots} slots | |\n|---|---|")
    print("\n".join(f"| {name} | {value} |" for name, value in rows.items()))


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        log, slots, number, arrived, seconds = sys.argv[2:]
        return work(Path(log), int(slots), int(number), float(arrived), float(seconds))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--ahead", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        lines = play(Path(name), options.runs, options.slots, options.ahead, options.seconds, options.seed)
    report(lines, options.slots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
