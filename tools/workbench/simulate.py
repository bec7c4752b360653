"""Simulated runs: one that steps in real time, a long one, many finished ones.

`python tools/workbench/simulate.py RUNS RATE SECONDS` writes RATE steps per second into the real event log,
holding the real lock, as a worker does.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engine.config import preset_library
from engine.runs.queue import locks
from engine.runs.run import events, run_dir
from engine.runs.run.event_log import EventLog
from engine.runs.run.result import Interval, Score
from engine.runs.run.run_dir import RunDir

INTERVALS = {"memory": 1, "eval": 10, "checkpoint": 20}
"""Seconds between two events of a type, at ten steps per second: as a worker on a GPU."""


def make(runs: Path) -> RunDir:
    return run_dir.create(runs, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))


def opening(steps: int) -> Iterator[events.Event]:
    """Events before the first step."""
    yield events.Hello(pid=os.getpid(), host="box", version="0.1.0")
    yield events.Phase(name="data")
    yield events.DataPrepared(
        train=1600, validation=100, test=300, format="messages", format_reason="test", fingerprint="f"
    )
    yield events.Phase(name="training")
    yield events.Plan(
        steps=steps, start_step=0, batch=16, micro_batch=16, packing="packed", gradient_checkpointing=False
    )


def step(number: int, steps: int, chance: random.Random) -> Iterator[events.Event]:
    """Events of one step."""
    loss = 0.4 + 3.2 * math.exp(-number / 300) + chance.gauss(0, 0.05)
    rate = 1e-3 * (1 + math.cos(math.pi * number / steps)) / 2
    yield events.Step(
        step=number,
        steps=steps,
        epoch=number / 100,
        loss=loss,
        learning_rate=rate,
        grad_norm=abs(chance.gauss(1, 0.2)),
        tokens=1330 + number % 7,
        answer_tokens=570,
        tokens_per_second=13_300 * chance.uniform(0.95, 1.05),
        seconds=0.1,
    )
    if number % (10 * INTERVALS["memory"]) == 0:
        yield events.Memory(rss=600 << 20, rss_peak=700 << 20, load=97, power=312.0, temperature=64)
    if number % (10 * INTERVALS["eval"]) == 0:
        yield events.Eval(when="during", split="validation", step=number, rows=128, loss=loss + 0.03)
    if number % (10 * INTERVALS["checkpoint"]) == 0:
        yield events.Checkpoint(step=number, path=f"checkpoints/step-{number}", bytes=1 << 20, seconds=0.1)


def live(runs: Path, rate: float, seconds: float) -> None:
    """Simulate a run in real time; holds its lock until it ends."""
    run = make(runs)
    held = locks.acquire(run.lock_file, str(os.getpid()))
    log, chance, steps = EventLog(run.events_file), random.Random(0), int(rate * seconds)
    assert held is not None
    for event in opening(steps):
        log.write(event)
    started = time.monotonic()
    for number in range(1, steps + 1):
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        for event in step(number, steps, chance):
            log.write(event)


def long(runs: Path, count: int) -> RunDir:
    """Write a finished run of `count` events."""
    run, chance, steps = make(runs), random.Random(0), int(count / 1.115)
    encode, number = msgspec.json.Encoder().encode, 0
    with run.events_file.open("wb") as file:
        for event in _long(steps, count, chance):
            number += 1
            event.seq, event.t = number, 1.8e9 + number / 10
            file.write(encode(event) + b"\n")
    write_result(run)
    return run


def _long(steps: int, count: int, chance: random.Random) -> Iterator[events.Event]:
    made = 0
    for event in opening(steps):
        made += 1
        yield event
    for number in range(1, steps + 1):
        for event in step(number, steps, chance):
            made += 1
            yield event
    while made < count - 1:
        made += 1
        yield events.Warning(code="filling", text=f"number {made}")
    yield events.End(status="finished", reason="")


def many(runs: Path, count: int) -> None:
    """Write `count` finished runs."""
    first = make(runs)
    write_result(first)
    for number in range(1, count):
        copy = runs / f"20260101-{number:06}-demo-lora-lora-{number:04x}"
        copy.mkdir()
        for name in ("run.toml", "result.json"):
            (copy / name).write_bytes((first.path / name).read_bytes())
        (copy / "engine.lock").touch()


def write_result(run: RunDir) -> None:
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    half = Interval(mean=0.44, low=0.41, high=0.46, rows=300)
    result.status, result.seconds = "finished", {"training": 44.0}
    result.before = result.after = Score(loss=half, perplexity=1.5, metric=result.metric, score=half)
    run_dir.write_result(run, result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="runs folder")
    parser.add_argument("rate", type=float, help="steps per second")
    parser.add_argument("seconds", type=float, help="duration")
    options = parser.parse_args()
    live(options.runs, options.rate, options.seconds)
