"""Energy belongs to the phase that drew it; every life of a run counts its own from nothing."""

from __future__ import annotations

from pathlib import Path

from engine.ladder.runner import worked_joules
from engine.runs import events
from engine.runs.energy import phase_joules
from engine.runs.follow import stream
from engine.runs.result import Result


def memory(joules: float | None) -> events.Memory:
    return events.Memory(rss=1, rss_peak=1, energy=joules)


def log(folder: Path, *said: events.Event) -> Path:
    written = events.EventLog(folder / "events.jsonl")
    for event in said:
        written.write(event)
    return folder / "events.jsonl"


def test_a_stopped_run_has_drawn_what_all_its_lives_drew(tmp_path: Path) -> None:
    hello = events.Hello(pid=1, host="h", version="0")
    file = log(
        tmp_path,
        *(hello, memory(1), events.Phase(name="baseline"), memory(5), memory(11)),
        *(events.Phase(name="training"), memory(20), events.End(status="stopped", reason="")),
        *(hello, events.Phase(name="training"), memory(4), events.Phase(name="evaluation"), memory(6)),
    )
    assert phase_joules(stream(file)) == {"starting": 1, "baseline": 10, "training": 13, "evaluation": 2}
    result = Result(
        status="finished", reason="", name="", preset="", method="", model="", data="", metric="", created=0, ended=0
    )
    assert worked_joules(result) is None
    result.joules = phase_joules(stream(file))
    assert worked_joules(result) == 16


def test_without_a_meter_there_is_nothing(tmp_path: Path) -> None:
    assert phase_joules(stream(log(tmp_path, events.Phase(name="training"), memory(None)))) == {}
