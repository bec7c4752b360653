"""The progress line of a plain terminal: phase, how far it is, and the time left of run and ladder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_ladder import made_ladder
from made_runs import step
from message_parts import figures

from engine.runs.ladder.ladder_state import Ladder, LadderEntry, RungDuration
from engine.runs.run import events
from tui.cli.following import LadderView
from tui.cli.progress import ProgressDisplay
from tui.live.run_state import RunState, RunTimer, TimeLeft, ladder_left

BEGIN = 4e9
"""Unix seconds in the future: displays show the time left at the last event."""


def at(second: float, event: events.Event) -> events.Event:
    event.elapsed, event.t = second, BEGIN + second
    return event


def baseline(seconds: float, rows: int = 300) -> list[events.Event]:
    """Scoring the base model, reported once halfway."""
    return [
        at(0, events.Phase(name="baseline")),
        at(1, events.Progress(phase="baseline", text="test answers", done=0, total=rows)),
        at(1 + (seconds - 1) / 2, events.Progress(phase="baseline", text="test answers", done=rows // 2, total=rows)),
    ]


def fed(*fed_events: events.Event) -> ProgressDisplay:
    display = ProgressDisplay()
    display.run.feed(fed_events)
    return display


def test_baseline_and_evaluation_show_their_rows_and_time_left() -> None:
    line = fed(*baseline(41))
    assert line.text(120).startswith("BASELINE ━")
    assert line.run.left() == TimeLeft(20.0, "baseline")
    assert figures(line.text(120)) == ["150", "300", "50%", "20"] and line.text(120).endswith(f"  {line.run.left()}")
    line.run.feed([at(41, events.Phase(name="training")), at(60, events.Phase(name="evaluation"))])
    line.run.feed([at(61, events.Progress(phase="evaluation", text="loss", done=100, total=300))])
    assert str(line.run.left()) == "40 s left"  # as the baseline, which scored the same rows
    line.run.feed([at(70, events.Progress(phase="evaluation", text="test answers", done=0, total=300))])
    line.run.feed([at(80, events.Progress(phase="evaluation", text="test answers", done=200, total=300))])
    assert str(line.run.left()) == "5 s left"


def test_time_left_of_training_includes_validation_and_the_evaluation_after_it() -> None:
    line = fed(*baseline(41), at(41, events.Phase(name="training")))
    plan = events.Plan(steps=100, start_step=0, batch=4, micro_batch=4, packing="packed", gradient_checkpointing=False)
    line.run.feed([at(50, plan)])
    assert "memory probe" in line.text(120)
    line.run.feed([at(60, step(1, steps=100, seconds=1.0))])
    line.run.feed([at(80, step(11, steps=100, seconds=1.0))])  # 2 s/step, because a validation took 10 s
    assert line.run.left() == TimeLeft(2 * 89 + 41)
    assert "11/100" in line.text(120) and "3:39 left" in line.text(120)


def test_without_a_baseline_only_the_end_of_training_is_known() -> None:
    line = fed(at(0, events.Phase(name="training")), at(1, step(1, steps=9, seconds=2.0)))
    assert str(line.run.left()) == "16 s left in training"


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_the_line_fits_and_keeps_phase_and_time_left(width: int) -> None:
    line = fed(*baseline(41), at(41, events.Phase(name="training")), at(50, step(50, steps=100)))
    text = line.text(width)
    assert len(text) == width and text.startswith("TRAINING ━") and " 50/100  50% " in text
    shown = [part for part in (" left", "  loss ", " tokens/s") if part in text]  # the last is dropped first
    assert shown == [" left", "  loss ", " tokens/s"][: 1 if width < 60 else 2 if width < 80 else 3]


def test_a_loss_that_is_not_finite_is_said_in_words() -> None:
    assert "loss not finite" in fed(at(0, events.Phase(name="training")), at(1, step(1, None))).text(120)


def test_a_waiting_run_shows_what_it_waits_for() -> None:
    note = "next on GPU 0; in use by 20260101-000000-demo-lora-lora-abcd (process 17) since 14:05, started in ~/mails"
    assert fed(events.Phase(name="waiting", note=note)).text(120) == f"WAITING  {note}"


def test_other_work_shows_how_far_it_is() -> None:
    display = ProgressDisplay()
    display.show_work("reading")
    assert display.text(80) == "reading"
    display.show_work("tokenizing", 30, 120, "30 of 120 rows")
    text = display.text(80)
    assert text.startswith("tokenizing ━") and len(text) == 80 and figures(text) == ["30", "120", "25%"]


def entry(
    rung: str, status: str = "planned", seconds: float | None = None, started: float | None = None
) -> LadderEntry:
    return LadderEntry(
        rung=rung, kind="run", seed=0, learning_rate=1e-3, run=rung, status=status, seconds=seconds, started=started
    )


def test_time_left_of_a_ladder_uses_finished_runs_before_probes() -> None:
    ladder = Ladder(name="l", preset="demo", command="", created=0.0)
    ladder.entries = [entry("lora", "finished", 100.0), entry("lora"), entry("full", "live", started=1000.0)]
    assert ladder_left(ladder, 1030.0) == ""  # full was neither probed nor finished
    ladder.estimates = [
        RungDuration(rung="full", low=60, high=120, step_seconds=1, steps_measured=3),
        RungDuration(rung="lora", low=1, high=2, step_seconds=1, steps_measured=3),
    ]
    assert ladder_left(ladder, 1030.0) == "ladder 2:10 to 3:10 left"
    assert ladder_left(ladder, 1030.0, "full", TimeLeft(20.0)) == "ladder 2:00 left"
    assert ladder_left(ladder, 1030.0, "full", TimeLeft(5.0, "training")) == "ladder 2:10 to 3:10 left"
    assert ladder_left(ladder, 1110.0) == "ladder 1:45 left"
    ladder.entries = [entry("full", "live", started=1000.0)]
    assert re.fullmatch("ladder up to 20 s .*", ladder_left(ladder, 1100.0))
    ladder.entries = [entry("full", "live")]  # its Slurm job waits
    assert ladder_left(ladder, 1100.0) == "ladder 1:00 to 2:00 left"
    ladder.entries = [entry("lora", "finished", 100.0)]
    assert ladder_left(ladder, 1100.0) == ""


def test_time_left_of_several_runs_at_a_time_counts_down_to_the_last() -> None:
    ladder = Ladder(name="l", preset="demo", command="", created=0.0, runs_at_once=2)
    ladder.entries = [
        entry("lora", "finished", 100.0),
        entry("lora", "live", started=1000.0),
        entry("lora", "live", started=1050.0),
    ]
    assert ladder_left(ladder, 1060.0) == "ladder 1:30 left"  # the longest, not (40 + 90) / 2
    ladder.entries.append(entry("lora"))
    assert ladder_left(ladder, 1060.0) == "ladder 1:55 left"


def test_the_time_left_counts_down_while_no_event_arrives() -> None:
    run, ladder = RunState("full"), Ladder(name="l", preset="demo", command="", created=0.0)
    run.feed([at(0, events.Phase(name="baseline")), at(10, events.Phase(name="training")), at(20, step(40))])
    run.feed([at(30, step(50))])
    ladder.entries = [entry("full", "live", started=0.0)]
    first, later = run.left(BEGIN + 30), run.left(BEGIN + 50)
    assert first and later and first.seconds - later.seconds == 20 and run.left() == first
    assert ladder_left(ladder, BEGIN + 30, "full", first) != ladder_left(ladder, BEGIN + 50, "full", later)
    assert run.left(2 * BEGIN) == TimeLeft(0.0)


def test_a_resumed_worker_starts_its_measurement_again() -> None:
    timer = RunTimer()
    for event in (
        at(0, events.Phase(name="training")),
        at(5, step(40)),
        at(9, events.Hello(pid=1, host="h", version="0")),
    ):
        timer.add(event)
    assert timer.left() is None


def test_a_ladder_prints_the_score_of_each_finished_rung_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, state = made_ladder(tmp_path)
    view = LadderView(made, None, quiet=False)
    (last,) = [
        ladder_entry
        for ladder_entry in state.entries
        if ladder_entry.rung == "full" and ladder_entry.kind == "run" and ladder_entry.seed == 2
    ]
    last.status = "live"
    view.show(state)
    shown = capsys.readouterr().out
    base, *_, lora = (line for line in shown.splitlines() if ": exact match" in line)
    assert " base: " in base and figures(base)[-4:] == ["2.1%", "95%", "1.3", "2.9"]  # after the time of day
    assert " lora: " in lora and figures(lora)[-2:] == ["58.3%", "3"]  # the table has the interval
    assert "full: " not in shown  # its last seed is running
    last.status = "finished"
    view.show(state)
    (full,) = (line for line in capsys.readouterr().out.splitlines() if ": exact match" in line)
    assert " full: " in full and figures(full)[-2:] == ["61.2%", "3"]


def test_the_line_shows_the_active_run_of_a_ladder(tmp_path: Path) -> None:
    made, state = made_ladder(tmp_path)
    live = next(
        ladder_entry for ladder_entry in state.entries if ladder_entry.rung == "lora" and ladder_entry.kind == "run"
    )
    live.status = "live"
    display = ProgressDisplay()
    LadderView(made, display, quiet=False).show(state)
    done, count = sum(ladder_entry.is_done for ladder_entry in state.entries), len(state.entries)
    text = display.text(120)  # the run's events are complete
    assert text.startswith(f"ladder {done + 1}/{count} lora · FINISHED ━") and f"{(done + 1) / count:.0%}" in text


def test_the_bar_of_a_ladder_only_grows_and_the_runs_time_left_is_shown_if_the_ladders_is_unknown() -> None:
    display = fed(*baseline(41))
    display.run.name = "lora"
    display.ladder = Ladder(name="l", preset="demo", command="", created=0.0)
    display.ladder.entries = [entry("lora", "live"), entry("full")]
    assert "  0% " in display.text(120) and display.text(120).endswith(f"  {display.run.left()}")
    display.run.feed([at(41, events.Phase(name="training")), at(50, step(50, steps=100))])
    assert "  25% " in display.text(120)
    display.run.feed([at(60, step(100, steps=100)), at(61, events.Phase(name="evaluation"))])
    display.run.feed([at(62, events.Progress(phase="evaluation", text="loss", done=1, total=300))])
    assert "  50% " in display.text(120)
    display.ladder.entries[0].status = "finished"
    assert "  50% " in display.text(120)


def test_the_line_shows_the_active_export_of_a_ladder(tmp_path: Path) -> None:
    made, state = made_ladder(tmp_path)
    state.stage = "exporting"
    run = next(ladder_entry for ladder_entry in state.entries if ladder_entry.kind == "run")
    export = LadderEntry(rung="lora:merged", kind="export", seed=0, learning_rate=1e-3, run=run.run, status="live")
    export.progress = "test answers 12 of 40"
    state.entries.append(export)
    display = ProgressDisplay()
    LadderView(made, display, quiet=False).show(state)
    count = len(state.entries)
    text = display.text(120)
    assert text.startswith(f"ladder {count}/{count} · EXPORTING ━") and "lora:merged: test answers 12 of 40" in text
