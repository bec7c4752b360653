"""Disturbed timings: left out of times and costs, named in the verdict, and repeated with `--retime`."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from faults.kill_ladder import SHORT
from forked import ftbench
from made_ladder import made_ladder
from simulated import row_of
from test_recommendation import holding, summary_of

from engine.ladder.aggregate import _add_times
from engine.ladder.decisions import Decisions
from engine.ladder.phrases import COST_TITLES
from engine.ladder.recommendation import NO_TIMING, OVERALL, unknown_fastest
from engine.ladder.report import page
from engine.ladder.report.page import ReportData
from engine.ladder.results import FinishedRun, note_other_devices
from engine.ladder.sentences import RETIME, conclude, verdict
from engine.runs.ladder.ladder_state import Ladder, LadderEntry
from engine.runs.ladder.rung_results import RungResult, SeedRange
from engine.runs.run.result import MeasuredPeak, Result, TrainingLoad

CAUSE = "other processes used 45% of the time of its CPUs"


def finished(seed: int, seconds: float, disturbed: str = "") -> FinishedRun:
    entry = LadderEntry(rung="lora", kind="run", seed=seed, learning_rate=1e-3, status="finished", seconds=2 * seconds)
    entry.disturbed = disturbed
    result = Result(
        status="finished",
        reason="",
        name="",
        preset="",
        method="lora",
        model="",
        data="",
        metric="",
        created=0,
        ended=0,
    )
    result.step_seconds, result.load = seconds, TrainingLoad(seconds=seconds, cpus=2, cpu_seconds=1.5 * seconds)
    return FinishedRun(entry, result, [])


def times(*runs: FinishedRun) -> RungResult:
    made = RungResult(name="lora", method="lora", status="finished")
    _add_times(made, runs)
    return made


def test_disturbed_timings_are_left_out_of_times_and_cpu_time_is_kept() -> None:
    made = times(finished(0, 60.0), finished(1, 500.0, CAUSE))
    assert made.training_seconds == SeedRange(mean=60.0, low=60.0, high=60.0) and made.disturbed == ""
    assert made.all_seconds and made.all_seconds.high == 120.0
    assert made.cpu_seconds == SeedRange(mean=420.0, low=90.0, high=750.0)


def test_a_rung_with_only_disturbed_timings_has_no_times() -> None:
    made = times(finished(0, 60.0, CAUSE))
    assert made.training_seconds is made.all_seconds is made.energy is None
    assert made.disturbed == CAUSE and made.cpu_seconds


def test_timings_of_another_device_than_most_are_not_compared_and_are_named() -> None:
    runs = [finished(seed, 60.0) for seed in range(4)]
    for run, name in zip(runs, ("GPU B", "GPU A", "GPU A", ""), strict=True):
        run.result.machine = {"device": name, "gpu_memory": 1 << 34, "cpu": name and "the same"}
    note_other_devices(runs)
    other = runs[0].entry.other_device
    assert re.fullmatch("GPU B .* GPU A", other) and [run.entry.other_device for run in runs] == [other, "", "", ""]
    assert times(runs[0]).training_seconds is times(runs[0]).cpu_seconds is None
    assert times(runs[0]).disturbed and times(*runs).training_seconds == SeedRange(
        mean=60.0, low=60.0, high=60.0, values=[60.0] * 3
    )
    ladder = holding()
    ladder.entries += [run.entry for run in runs]
    assert f"LoRA seed 0 ({other})" in text(ladder)
    for run in runs:
        del run.result.machine["gpu_memory"]
    note_other_devices(runs)
    assert not any(run.entry.other_device for run in runs)


def disturbed(ladder: Ladder, *names: str) -> Ladder:
    for name in names:
        rung = row_of(ladder, name)
        rung.training_seconds, rung.all_seconds, rung.disturbed = None, None, CAUSE
        run = LadderEntry(rung=name, kind="run", seed=0, learning_rate=1e-3, status="finished", disturbed=CAUSE)
        ladder.entries.append(run)
    return ladder


def text(ladder: Ladder) -> str:
    return " ".join(sentence.text for sentence in verdict(ladder, Decisions(ladder)))


def test_costs_of_disturbed_timings_are_not_compared_and_the_verdict_says_why() -> None:
    cost = f"{COST_TITLES['training']} 0.10×"
    assert cost in text(holding())
    ladder = disturbed(holding(), "full")
    assert f"{NO_TIMING} of full" in text(ladder) and cost not in text(ladder)
    assert f"full seed 0 ({CAUSE}); {RETIME}" in text(ladder)
    assert Decisions(ladder).rule_costs["training"] == "unknown"
    assert OVERALL["unknown"] in summary_of(ladder).headline and summary_of(ladder).tradeoffs == []


def test_cpu_time_replaces_disturbed_timings_on_a_cpu() -> None:
    ladder = disturbed(holding(), "full")
    for name, seconds in (("qlora", 10.0), ("lora", 50.0), ("full", 200.0)):
        row_of(ladder, name).cpu_seconds = SeedRange(mean=seconds, low=seconds, high=seconds)
    summary = summary_of(ladder)
    assert summary.cost == COST_TITLES["cpu"] and summary.tradeoffs[0].cost.mean == 0.05
    assert f" 0.050× {summary.reference}'s {COST_TITLES['cpu']}: {OVERALL['holds']}" in summary.headline
    assert Decisions(ladder).rule_costs["cpu"] == "holds" and f"{COST_TITLES['cpu']} 0.050×" in text(ladder)
    (caveat,) = [sentence.text for sentence in verdict(ladder, Decisions(ladder)) if RETIME in sentence.text]
    assert "CPU times" in caveat and f"full seed 0 ({CAUSE})" in caveat


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_no_method_is_the_fastest_unless_all_candidates_have_comparable_timings(count: int) -> None:
    for names in itertools.combinations(("qlora", "lora", "full"), count):
        ladder = disturbed(holding(), *names)
        decisions = Decisions(ladder)
        assert [rung.name for rung in decisions.untimed] == [row.name for row in ladder.rows if row.name in names]
        assert (decisions.prototype is None) == bool(names) == ("Prototype with" not in text(ladder))
        assert any("prototype" in row.decision for row in summary_of(ladder).rows) == (not names)
        assert (unknown_fastest(decisions) in text(ladder)) == bool(names)


def test_the_only_candidate_needs_no_timing_to_be_recommended() -> None:
    ladder = disturbed(holding(), "qlora", "lora", "full")
    for compared in ladder.comparisons:
        if compared.b == "base" and compared.a != "lora":
            compared.finding = "undecided"
    prototype = Decisions(ladder).prototype
    (said,) = [sentence.text for sentence in verdict(ladder, Decisions(ladder)) if sentence.topic == "prototype"]
    assert prototype is row_of(ladder, "lora") and "LoRA, the only" in said


def test_no_method_has_the_lowest_memory_unless_all_candidates_have_a_peak() -> None:
    ladder = holding()
    for name, size in (("qlora", 1), ("lora", 2)):
        row_of(ladder, name).peak = MeasuredPeak(rss_training=size << 30)
    assert Decisions(ladder).least_memory is None and "lowest peak memory" not in text(ladder)
    row_of(ladder, "full").peak = MeasuredPeak(rss_training=3 << 30)
    assert Decisions(ladder).least_memory is row_of(ladder, "qlora")


def test_the_report_names_the_disturbed_runs(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path)
    next(entry for entry in ladder.entries if entry.kind == "run").disturbed = CAUSE
    conclude(ladder)
    shown = page.render_markdown(ReportData(directory, ladder))
    assert f"disturbed timing: {CAUSE}" in shown and f"QLoRA seed 0 ({CAUSE}); {RETIME}" in shown


def disturb(run: Path) -> None:
    """Let a finished run look as if another process had used half of its CPUs."""
    file = run / "result.json"
    result = json.loads(file.read_text())
    assert result["load"]["cpu_seconds"] > 0 and result["load"]["cpus"] > 0
    capacity = result["load"]["seconds"] * result["load"]["cpus"]
    result["load"] |= {"cpu_seconds": 0.5 * capacity, "other_cpu_seconds": 0.5 * capacity}
    file.write_text(json.dumps(result))


def state_after(*arguments: str) -> Any:
    done = ftbench("ladder", "demo", "--rung", "lora", "--no-probe", *SHORT, *arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_retime_runs_again_what_was_disturbed_and_keeps_the_others(tmp_path: Path) -> None:
    (first,) = state_after()["entries"]
    disturb(tmp_path / "runs" / first["run"])
    state = state_after()
    (again,) = state["entries"]
    assert again["run"] == first["run"] and again["disturbed"].startswith("other processes used 50%")
    assert state["rows"][1]["training_seconds"] is None and any(
        RETIME in sentence["text"] for sentence in state["verdict"]
    )
    (retimed,) = state_after("--retime")["entries"]
    assert retimed["run"] != first["run"] and not retimed["reused"]
    accepted = state_after("--set", "cost.max_other_load=1")["entries"][0]
    assert not accepted["disturbed"]
