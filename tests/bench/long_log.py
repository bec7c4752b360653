"""Time and memory of every reader of `events.jsonl`, on a log of five million events.

`python tests/bench/long_log.py [EVENTS]` writes such a log into a temporary folder and prints a Markdown table. Memory
is the reader's peak resident set above its peak on a log of a hundred events.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.config.preset_library import resolve_preset
from engine.runs import events, run_dir
from engine.runs.follow import stream
from engine.runs.run_dir import RunDir

TESTS = Path(__file__).parent.parent
FTBENCH = [str(Path(sys.executable).with_name("ftbench"))]
PYTHON = [sys.executable, "-c"]
RUN = """
import sys
from pathlib import Path
from engine.runs import run_dir
run = run_dir.RunDir(Path(sys.argv[1]))
"""
READERS: dict[str, list[str]] = {
    "`ftbench attach`": [*FTBENCH, "attach", "RUN"],
    "result of the run (end of a worker)": [
        *PYTHON,
        RUN + "print(run_dir.result_from_events(run, run_dir.read_frozen(run)).steps)",
        "RUN",
    ],
    "earlier parts (start of a resumed worker)": [
        *PYTHON,
        RUN + "from engine.worker.earlier_workers import earlier_workers; print(earlier_workers(run).micro_batch)",
        "RUN",
    ],
    "bench: first paint": [
        *PYTHON,
        RUN + "from tui.live.opening import EventLoader; print(EventLoader(run.events_file).first().counted)",
        "RUN",
    ],
    "bench: until every event is read": [
        *PYTHON,
        RUN
        + "from tui.live.opening import EventLoader\nopening = EventLoader(run.events_file); opening.first()\n"
        + "while opening.sampled: state = opening.advance()\nprint('exact')",
        "RUN",
    ],
    "report: curves of the run": [
        *PYTHON,
        RUN + "from engine.ladder.report.traces import trace; print(len(trace('lora', 0, run.events_file).train.loss))",
        "RUN",
    ],
    "`ftbench runs`": [*FTBENCH, "runs"],
}


class Taken(NamedTuple):
    """Time and memory of a reader."""

    first: float
    """Seconds to its first line of output."""
    first_cpu: float
    """CPU seconds until then."""
    seconds: float
    cpu: float
    """CPU seconds, including its children."""
    peak: int
    """Bytes resident."""


def measure(command: list[str], run: RunDir) -> Taken:
    """Run a reader to its end. Raises RuntimeError if it fails."""
    arguments = [str(run.path) if part == "RUN" else part for part in command]
    started = time.monotonic()
    environment = {**os.environ, "FTBENCH_RUNS": str(run.path.parent)}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    first, first_cpu = time.monotonic() - started, cpu_seconds(process.pid)
    while process.stdout.read(1 << 16):
        pass
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{arguments} ended with {process.returncode}")
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    return Taken(first, first_cpu, time.monotonic() - started, cpu, peak)


def cpu_seconds(pid: int) -> float:
    """CPU seconds used by a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_log(path: Path, count: int) -> None:
    """Write a log of `count` events: steps, a memory sample after every fourth, some losses and checkpoints."""
    hello = events.Hello(pid=1, host="box", version="0.1.0", t=1e9, seq=1)
    steps = count * 4 // 5
    plan = events.Plan(
        steps=steps, start_step=0, batch=4, micro_batch=4, packing="packed", gradient_checkpointing=False, t=1e9
    )
    encode = msgspec.json.Encoder().encode
    with path.open("wb", buffering=1 << 20) as file:
        opening: list[events.Event] = [hello, events.Phase(name="training", t=1e9), plan]
        file.writelines(encode(event) + b"\n" for event in opening)
        for step in range(1, steps + 1):
            file.writelines(encode(event) + b"\n" for event in _at(step, steps))
        file.write(encode(events.End(status="finished", reason="", t=1e9 + steps)) + b"\n")


def _at(step: int, steps: int) -> list[events.Event]:
    common = {"t": 1e9 + step, "elapsed": float(step), "seq": step}
    found: list[events.Event] = [
        events.Step(
            step=step,
            steps=steps,
            epoch=step / 1000,
            loss=1.0 + 1 / step,
            learning_rate=1e-4,
            grad_norm=0.5,
            tokens=1000,
            answer_tokens=100,
            tokens_per_second=2000.0,
            seconds=0.5,
            **common,
        )
    ]
    if step % 4 == 0:
        found.append(events.Memory(rss=1 << 30, rss_peak=1 << 30, training=True, **common))
    if step % 10_000 == 0:
        found.append(events.Eval(when="during", split="validation", step=step, rows=128, loss=1.0, **common))
        found.append(events.Checkpoint(step=step, path=f"checkpoints/step-{step}", bytes=1, seconds=0.1, **common))
    return found


def make_run(folder: Path, count: int) -> RunDir:
    """A run with such a log, and its result."""
    run = run_dir.create(folder, "demo-lora", resolve_preset("demo-lora", None, {}))
    write_log(run.events_file, count)
    # In a new process: memory of this one would be counted as initial memory of the processes that it starts.
    text = RUN + "run_dir.write_result(run, run_dir.result_from_events(run, run_dir.read_frozen(run)))"
    subprocess.run([*PYTHON, text, str(run.path)], check=True)
    return run


def resumed(folder: Path, count: int) -> Taken:
    """A real worker that resumes a run with such a log: time from `hello` to the result, and its measured peak."""
    run = RunDir(folder / "20261128-011405-demo-lora-lora-bbf5")
    shutil.copytree(TESTS / "old_runs" / "killed-0.1.0", run.path)
    own = run.events_file.read_bytes()
    write_log(run.events_file, count)
    with run.events_file.open("ab") as file:
        file.write(own)
    command = [*FTBENCH, "resume", "RUN"]
    taken = measure(command, run)
    peaks: list[int] = []
    for event in stream(run.events_file, events.Hello, events.Memory):  # of the latest worker process
        peaks = [] if isinstance(event, events.Hello) else [*peaks[-100:], getattr(event, "rss_peak", 0)]
    return taken._replace(peak=max(peaks))


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        few, many = make_run(Path(folder) / "few", 100), make_run(Path(folder) / "many", count)
        size = many.events_file.stat().st_size
        print(f"{count:,} events, {size / 1e9:.2f} GB\n")
        print("| reader | first line, s | CPU, s | total, s | CPU, s | peak above that of 100 events, MB |")
        print("|---" * 6 + "|")
        for name, command in READERS.items():
            small, large = measure(command, few), measure(command, many)
            above = (large.peak - small.peak) / 1e6
            figures = (large.first, large.first_cpu, large.seconds, large.cpu)
            print(f"| {name} | {' | '.join(f'{figure:.1f}' for figure in figures)} | {above:.0f} |", flush=True)
        shutil.rmtree(many.path)
        small, large = resumed(Path(folder) / "worker-few", 100), resumed(Path(folder) / "worker-many", count)
        more, longer = (large.peak - small.peak) / 1e6, large.seconds - small.seconds
        print(f"| a resumed worker | {large.first:.1f} | | {longer:.1f} more than with 100 | | {more:.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", nargs="?", type=int, default=5_000_000, help="events in the log")
    main(parser.parse_args().events)
