"""CPU time of a process and of others on its CPUs, from /proc or files in its form."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.hardware import cpu
from engine.hardware.cpu import read_counters

STAT = """cpu  900 0 100 5000 50 0 0 0 0 0
cpu0 {busy} 0 100 4000 40 0 0 20 0 0
cpu1 300 0 0 1000 10 0 0 0 0 0
intr 12345 0 0
"""


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "stat"
    monkeypatch.setattr(cpu, "STAT", file)
    monkeypatch.setattr(cpu, "usable_cpus", lambda: {0})
    return file


def test_only_cpus_that_this_process_may_use_count(stat: Path) -> None:
    stat.write_text(STAT.format(busy=600))
    busy = read_counters().busy
    assert busy == pytest.approx((600 + 100 + 20) / 100)  # user, system and stolen time of cpu0 in ticks of 10 ms
    stat.write_text(STAT.format(busy=700).replace("cpu1 300", "cpu1 99999"))
    assert read_counters().busy == pytest.approx(busy + 1.0)


def test_what_the_system_does_not_report_is_none(stat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_counters().busy is None
    stat.write_text(STAT.format(busy=600).replace("cpu0", "cpu7"))
    assert read_counters().busy is None
    monkeypatch.setattr(cpu, "PRESSURE", tmp_path / "nothing")
    assert read_counters().pressure is None


def test_pressure_is_the_total_of_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpu"
    file.write_text("some avg10=96.91 avg60=98.01 avg300=88.05 total=679228202\nfull avg10=0.00 total=0\n")
    monkeypatch.setattr(cpu, "PRESSURE", file)
    assert read_counters().pressure == pytest.approx(679.228202)


def test_own_cpu_time_is_that_of_this_process() -> None:
    before = read_counters()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    after = read_counters()
    assert after.own - before.own >= 0.15 and after.cpus >= 1
    assert after.wall - before.wall >= 0.15
    if before.busy is not None and after.busy is not None:
        assert after.busy - before.busy >= 0.1  # this process alone
