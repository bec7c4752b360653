"""Whether the timing of a run is disturbed by other load, and how it is recorded over several workers."""

from __future__ import annotations

import pytest
from message_parts import figures

from engine.config.text import listed
from engine.runs.run import events
from engine.runs.run.events import decode
from engine.runs.run.result import TrainingLoad


def load(others: float | None, own: float = 180.0, **more: object) -> TrainingLoad:
    return TrainingLoad(seconds=100.0, cpus=2, cpu_seconds=own, other_cpu_seconds=others, **more)


def test_little_other_load_does_not_disturb() -> None:
    assert load(0.0).disturbance() == ""
    assert load(15.0).disturbance() == ""
    assert load(None).disturbance() == ""
    assert TrainingLoad().disturbance() == ""


def test_other_load_on_busy_cpus_disturbs() -> None:
    disturbance = load(100.0, own=95.0).disturbance()
    assert disturbance.startswith("other processes ") and figures(disturbance) == ["50%"]
    assert load(100.0, own=95.0).disturbance(allowed=0.6) == ""


def test_other_load_on_idle_cpus_does_not_disturb() -> None:
    assert load(40.0, own=60.0).disturbance() == ""


def test_another_process_on_the_gpu_and_throttling_disturb() -> None:
    shared = load(0.0, gpu_processes=["python", "\x1b[2Jevil"], throttled=["power cap"])
    assert "GPU" in shared.disturbance() and shared.disturbance().endswith(" python and \\x1b[2Jevil")
    hot = load(0.0, throttled=["power cap", "temperature", "power brake"])
    assert "clocks" in hot.disturbance() and hot.disturbance().endswith(f"({listed(hot.throttled[1:])})")
    assert load(0.0, throttled=["power cap"]).disturbance() == ""  # normal at full load
    assert hot.disturbance(allowed=1) == shared.disturbance(allowed=1) == ""


def test_the_loads_of_several_workers_are_added() -> None:
    total = load(10.0, clock=1000.0, gpu_processes=["a"])
    total.add(TrainingLoad(seconds=300.0, cpus=2, cpu_seconds=500.0, other_cpu_seconds=50.0, clock=1400.0,
                           gpu_processes=["a", "b"], throttled=["temperature"]))  # fmt: skip
    assert (total.seconds, total.cpu_seconds, total.other_cpu_seconds) == (400.0, 680.0, 60.0)
    assert total.clock == pytest.approx(1300.0)
    assert total.gpu_processes == ["a", "b"] and total.throttled == ["temperature"]
    total.add(load(None))
    assert total.other_cpu_seconds is None and total.other_share is None


def test_a_load_event_is_read_back() -> None:
    import msgspec

    event = events.Load(training=load(3.0, throttled=["power cap"]))
    assert decode(msgspec.json.encode(event)) == event
