"""Energy by phase: the counter of every worker of a run starts at 0."""

from __future__ import annotations

from pathlib import Path

from engine.config.schema import Config
from engine.ladder.results import worked_joules
from engine.runs.run import events
from engine.runs.run.event_log import EventLog, Follower
from engine.runs.run.folder import EndRecord
from engine.runs.run.result import Result
from engine.runs.run.result_builder import ResultBuilder, read_events


def memory(energy: float | None) -> events.Memory:
    return events.Memory(rss=1, rss_peak=1, energy=energy)


def log(folder: Path, *logged: events.Event) -> Path:
    written = EventLog(folder / "events.jsonl")
    for event in logged:
        written.write(event)
    return folder / "events.jsonl"


def built(file: Path) -> Result:
    """The result of a run with this log."""
    blank = Result(
        status="finished", reason="", name="", preset="", method="", model="", data="", metric="", created=0, ended=0
    )
    builder = ResultBuilder(blank, Config())
    read_events(builder, Follower(file))
    return builder.build(EndRecord(status="finished", reason="", t=0.0))


def test_a_resumed_run_has_the_energy_of_all_its_workers(tmp_path: Path) -> None:
    hello = events.Hello(pid=1, host="h", version="0")
    file = log(
        tmp_path,
        *(hello, memory(1), events.Phase(name="baseline"), memory(5), memory(11)),
        *(events.Phase(name="training"), memory(20), events.End(status="stopped", reason="")),
        *(hello, events.Phase(name="training"), memory(4), events.Phase(name="evaluation"), memory(6)),
    )
    result = built(file)
    assert result.joules == {"starting": 1, "baseline": 10, "training": 13, "evaluation": 2}
    assert worked_joules(result) == 16


def test_without_energy_counter_there_is_no_energy(tmp_path: Path) -> None:
    result = built(log(tmp_path, events.Phase(name="training"), memory(None)))
    assert result.joules == {} and worked_joules(result) is None
