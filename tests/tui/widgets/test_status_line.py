"""The status line: every phase and every end, with what to do next."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Literal

import pytest
from made_runs import step

from engine.config import metric_specs
from engine.config.metric_specs import MetricSpec
from engine.runs.ladder.ladder_state import Ladder, LadderEntry, RungDuration
from engine.runs.run import events
from engine.runs.run.event_log import exit_message
from engine.runs.run.result import Interval, Score
from tui.commands import CommandKeys
from tui.live.event_lines import lines
from tui.live.run_state import RunState
from tui.preview.launches import FittingRun
from tui.selection import Selection
from tui.widgets.status_line import SILENT_EXIT, status


def state(*given: events.Event) -> RunState:
    made = RunState()
    made.feed(given)
    return made


def test_without_a_run_it_shows_what_to_press() -> None:
    assert "enter start" in status(None, None, None).plain
    assert "f start" in status(None, None, None, keys=CommandKeys({"bench.start": "f"})).plain


def test_training_shows_phase_step_bar_and_time_left() -> None:
    latest = step(40, 0.5)
    latest.t = time.time()  # the time left counts down from the last event
    shown = status(state(events.Phase(name="training"), latest), True, None, width=78).plain
    for part in ("TRAINING ━", "40/100", "40%", "left in training"):
        assert part in shown
    assert len(shown) == 78  # the bar fills the line


def test_a_loss_that_is_not_finite_is_shown_at_once() -> None:
    assert "loss not finite" in status(state(events.Phase(name="training"), step(1), step(2, None)), True, None).plain


@pytest.mark.parametrize("end", ["stopped", "failed", "diverged"])
def test_every_end_shows_what_happened_and_what_to_do(end: events.Status) -> None:
    reason = "the reason; try this"
    kept = events.Checkpoint(step=40, path="checkpoints/step-40", bytes=1, seconds=0.1)
    shown = status(state(step(40), kept, events.End(status=end, reason=reason)), False, None).plain
    assert shown.startswith(f"{'■' if end == 'stopped' else '✗'} {end.replace('_', ' ')}: {reason}")
    assert re.search(r"\bu resume .*\b40\b", shown) and "n new" in shown
    assert ("O worker output" in shown) == (end != "stopped")


def test_out_of_memory_offers_what_fits_and_never_the_same_again() -> None:
    ended = state(step(40), events.End(status="out_of_memory", reason="no memory"))
    offered = [FittingRun(Selection(), "micro-batch 4", 31 << 30), FittingRun(Selection(), "QLoRA", 9 << 30)]
    shown = status(ended, False, None, 80, fitting=offered).plain
    assert "enter again with micro-batch 4 (31.0 GiB fits)   m QLoRA (9.00 GiB fits)" in shown
    for fitting in (offered, []):
        assert "u re" not in status(ended, False, None, 80, fitting=fitting).plain


def scored(when: Literal["before", "after"], loss: float, metric: str, mean: float) -> events.Eval:
    nll, value = (Interval(mean=number, low=number, high=number, rows=9) for number in (loss, mean))
    score = Score(loss=nll, perplexity=None, metric=metric, score=value)
    return events.Eval(when=when, split="test", step=9, rows=9, loss=loss, score=score)


def test_a_finished_run_shows_its_scores() -> None:
    before, after = scored("before", 4.0, "json", 0.0), scored("after", 0.4, "json", 0.581)
    shown = status(state(before, after, events.End(status="finished", reason="")), False, None).plain
    assert "json 0.0% -> 58.1%" in shown and "4 -> 0.4" in shown
    assert all(key in shown for key in ("t try", "x export", "C compare", "L ladder"))


def test_a_score_that_is_no_share_is_shown_without_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    edits = MetricSpec(name="edits", title="edits", lower_is_better=True, bounds=(0.0, math.inf), unit="edits")
    monkeypatch.setattr(metric_specs, "metric_specs", lambda: {"edits": edits})
    before, after = scored("before", 4.0, "edits", 12.5), scored("after", 0.4, "edits", 3.2)
    shown = status(state(before, after, events.End(status="finished", reason="")), False, None).plain
    assert "edits 12.500 -> 3.200" in shown and "%" not in shown
    (line,) = lines(after)
    assert "edits 3.200 [3.200, 3.200]" in line and "%" not in line.partition("(95% CI)")[2]


def test_invalid_input_is_to_be_fixed_and_not_resumed() -> None:
    wrong = state(events.Error(text="no such file", user=True), events.End(status="failed", reason="no such file"))
    shown = status(wrong, False, None).plain
    assert re.search(r"\bFix .* enter ", shown) and " u " not in shown


def test_a_worker_that_died_is_shown_with_its_last_line() -> None:
    told = status(state(step(3)), False, "Killed").plain
    assert told.startswith("✗ died: ") and "log line: Killed" in told and SILENT_EXIT not in told
    silent = status(state(step(3)), False, "").plain
    assert SILENT_EXIT in silent and "u restart from" in silent
    killed = status(state(events.Phase(name="evaluation"), step(3)), False, "").plain
    assert killed.startswith("✗ died: ") and "phase evaluation" in killed and SILENT_EXIT in killed


def test_the_marker_of_a_phase_is_not_a_last_line(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("Killed by nobody\n[20:43:04] training\n")
    assert exit_message(log) == ""
    log.write_text("[20:43:04] training\nMemoryError\n")
    assert exit_message(log) == "MemoryError"


def test_at_80_columns_the_bar_is_shortened() -> None:
    long = state(events.Phase(name="training"), step(99), step(100))
    assert long.step is not None
    long.step.step, long.step.steps, long.step.tokens_per_second = 12_345, 100_000, 12_345.0
    assert status(long, True, None, width=78).cell_length <= 78


def test_a_long_reason_is_cut_before_what_to_do() -> None:
    long = state(events.End(status="failed", reason="x" * 2000))
    lines = status(long, False, None, width=78).plain.split("\n")
    assert len(lines) == 2 and len(lines[0]) <= 2 * 78 and "u restart from" in lines[1]


def test_control_characters_in_a_note_are_escaped() -> None:
    hostile = state(events.Phase(name="waiting", note="\x1b[2J[red]"))
    assert "\x1b" not in status(hostile, True, None).plain and "[red]" in status(hostile, True, None).plain


def test_a_resumed_run_is_starting_until_its_first_phase() -> None:
    earlier = [events.Phase(name="training"), step(40), events.End(status="stopped", reason="")]
    hello = events.Hello(pid=1, host="h", version="0", resumed=True)
    assert status(state(*earlier, hello), True, None).plain == "STARTING"


def test_a_run_with_the_device_is_not_shown_as_waiting() -> None:
    note = "next at the CPU; another has it"
    waiting = state(events.Phase(name="waiting", note=note))
    shown = status(waiting, True, None).plain
    assert shown.startswith("waiting ") and note in shown
    assert status(waiting, True, None, has_device=True).plain == "starting"


def test_a_run_paused_in_the_queue_claims_no_checkpoint() -> None:
    waited = state(events.Phase(name="waiting"), events.End(status="stopped", reason=""))
    shown = status(waited, False, None, paused=True).plain
    assert shown.startswith("■ paused: ") and "before the first" in shown and "checkpoint" not in shown


def test_a_run_is_shown_as_pausing_until_it_has_paused() -> None:
    assert status(state(events.Phase(name="model")), True, None, paused=True).plain == "MODEL  (pausing)"


def test_a_long_phase_shows_how_many_rows_are_done() -> None:
    state = RunState()
    state.feed([events.Phase(name="data"), events.Progress(phase="data", text="tokenizing", done=12_000, total=48_000)])
    shown = status(state, True, None, 100).plain
    assert shown.startswith("DATA ━") and shown.endswith(" tokenizing 12,000/48,000  25%")
    assert len(status(state, True, None, 60).plain) <= 60


def test_the_bar_of_a_ladder_counts_all_its_runs() -> None:
    training = state(events.Phase(name="training"), step(50, 0.5))
    training.name = "run"
    ladder = Ladder(name="l", preset="demo", command="", created=0.0)
    runs = [("full", "finished", ""), ("lora", "live", "run"), *[("lora", "planned", "")] * 4]
    ladder.entries = [
        LadderEntry(rung=rung, kind="run", seed=1, learning_rate=1e-3, run=run, status=status)
        for rung, status, run in runs
    ]
    ladder.estimates = [RungDuration(rung="lora", low=150, high=150, step_seconds=1, steps_measured=3)]
    shown = status(training, True, None, 80, ladder=ladder).plain
    assert shown.startswith("ladder 2/6 lora · TRAINING ") and shown.endswith("50/100  25%   12:30 left")
    assert len(shown) == 80
