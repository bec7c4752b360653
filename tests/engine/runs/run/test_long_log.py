"""No reader keeps `events.jsonl` in memory: memory is bounded by a few bytes per step."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from made_runs import step

from engine.config.preset_library import resolve_preset
from engine.ladder.report.material import trace
from engine.runs.run import events, run_dir
from engine.runs.run.event_log import MAX_LINE, Follower, stream
from engine.runs.run.run_dir import RunDir
from tui.cli.following import follow
from tui.cli.run import refusal
from tui.live.run_state import EventLoader

EVENTS = 40_000
BYTES_PER_EVENT = 48
"""An event object takes ten times as much."""
FIXED = 10 << 20
"""For chunks, buffers and modules."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDir]:
    """A finished run with a long log."""
    made = run_dir.create(tmp_path_factory.mktemp("runs"), "demo-lora", resolve_preset("demo-lora", None, {}))
    plan = events.Plan(
        steps=EVENTS, start_step=0, batch=4, micro_batch=3, packing="packed", gradient_checkpointing=False
    )
    encode = msgspec.json.Encoder().encode
    with made.events_file.open("wb") as file:
        file.write(encode(events.Hello(pid=1, host="h", version="0")) + b"\n" + encode(plan) + b"\n")
        for number in range(1, EVENTS * 4 // 5 + 1):
            file.write(encode(step(number, steps=EVENTS)) + b"\n")
            if number % 4 == 0:
                file.write(encode(events.Memory(rss=1, rss_peak=number, training=True, t=1000.0 + number)) + b"\n")
        file.write(encode(events.End(status="finished", reason="")) + b"\n")
    yield made


def opened_whole(run: RunDir) -> object:
    opening = EventLoader(run.events_file)
    opening.first()
    while opening.sampled:
        opening.advance()
    return opening


def known_of_earlier_workers(run: RunDir) -> object:
    from engine.worker.run_log import earlier_workers  # loads torch

    return earlier_workers(run)


READERS: dict[str, Callable[[RunDir], object]] = {
    "result": lambda run: run_dir.result_from_events(run, run_dir.read_frozen(run)),
    "earlier workers": known_of_earlier_workers,
    "attach": follow,
    "refusal": refusal,
    "report": lambda run: trace("lora", run.events_file),
    "bench": opened_whole,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "earlier workers" else ()) for name in READERS]
)
def test_a_reader_does_not_keep_the_log_in_memory(name: str, run: RunDir) -> None:
    READERS[name](run)  # what is made once is made
    tracemalloc.start()
    try:
        READERS[name](run)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < FIXED + BYTES_PER_EVENT * EVENTS


def test_no_event_is_lost(run: RunDir) -> None:
    result = run_dir.result_from_events(run, run_dir.read_frozen(run))
    assert result is not None
    assert result.steps == EVENTS * 4 // 5 and result.tokens == 100 * result.steps
    assert result.peak.rss_training == result.steps
    assert sum(isinstance(event, events.Memory) for event in stream(run.events_file, events.Memory)) == EVENTS // 5
    thin = [event for portion in Follower(run.events_file).portions(thin=True) for event in portion]
    steps = [event.step for event in thin if isinstance(event, events.Step)]
    assert steps[-1] == result.steps and len(steps) < 100
    assert isinstance(thin[0], events.Hello) and isinstance(thin[-1], events.End)


def test_a_line_without_an_end_is_skipped_and_not_kept_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with path.open("wb") as file:
        file.truncate(MAX_LINE + (5 << 20))
        file.seek(0, 2)
        file.write(b'\n{"type":"end","status":"finished","reason":"","v":1,"seq":1,"t":1.0}\n')
    follower = Follower(path)
    (event,) = follower.read()
    assert isinstance(event, events.End) and follower.damaged >= 1
