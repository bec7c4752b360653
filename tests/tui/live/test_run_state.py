"""A run's state from its events: resumed, interrupted, very long."""

from __future__ import annotations

import msgspec
from made_runs import step
from message_parts import figures

from engine.runs.run import events
from engine.runs.run.result import Predicted
from tui.live.curves import lowest_loss
from tui.live.event_lines import lines
from tui.live.log_lines import MAX_LINES
from tui.live.run_state import RunState, TimeLeft


def test_time_left_is_seconds_per_step_times_remaining_steps() -> None:
    state = RunState()
    steps = [step(number) for number in range(1, 41)]  # one per second by their times
    state.feed([events.Phase(name="training", t=1000.0), *steps])
    assert state.left() == TimeLeft(60.0, "training")
    state.feed([events.End(status="finished", reason="")])
    assert state.left() is None


def test_a_resumed_run_forgets_the_end_and_the_repeated_steps() -> None:
    state = RunState()
    state.feed([events.Phase(name="training"), step(1, 5.0), step(2, 4.0), step(3, 3.0)])
    state.feed([events.End(status="stopped", reason="as asked")])
    assert state.end is not None
    state.feed([events.Hello(pid=1, host="h", version="0", resumed=True), step(3, 3.5), step(4, 2.0)])
    assert (state.end, state.phase) == (None, "")
    assert [bucket.mean for bucket in state.loss.buckets] == [5.0, 4.0, 3.5, 2.0]


def test_losses_that_are_not_finite_are_counted_and_the_last_finite_one_kept() -> None:
    state = RunState()
    state.feed([step(1, 2.0), step(2, None), step(3, float("nan"))])
    assert (state.loss.latest, state.loss.absent) == (2.0, 2)
    assert state.step is not None and state.step.step == 3


def test_the_log_is_bounded_and_counts_dropped_lines() -> None:
    state = RunState()
    state.feed(events.Warning(code="w", text=f"number {number}") for number in range(MAX_LINES + 7))
    assert len(state.log) == MAX_LINES and state.log.gone == 7
    assert f"number {MAX_LINES + 6}" in state.log[-1]


def test_a_waiting_run_shows_what_it_waits_for() -> None:
    state = RunState()
    state.feed([events.Phase(name="waiting", note="process 7 has 0")])
    assert (state.phase, state.note) == ("waiting", "process 7 has 0")


def test_the_expected_peak_is_the_predicted_one_until_the_memory_probe() -> None:
    state = RunState()
    assert state.expected_peak() is None
    planned = events.Plan(
        steps=4,
        start_step=0,
        batch=4,
        micro_batch=4,
        packing="packed",
        gradient_checkpointing=False,
        predictions=[Predicted(tier="formula", training=100, evaluation=120)],
    )

    def probed(**peaks: int) -> events.Plan:
        predictions = [*planned.predictions, Predicted(tier="probe", **peaks)]
        return msgspec.structs.replace(planned, predictions=predictions)

    state.feed([planned])
    peak = state.expected_peak()
    assert peak and (peak.bytes, peak.label) == (120 + state.overhead, "predicted peak")
    state.feed([probed(training=150, evaluation=140)])
    peak = state.expected_peak()
    assert peak and (peak.bytes, peak.label) == (150 + state.overhead, "memory probe")
    state.feed([probed(training=110)])  # a probe of training only: evaluation is predicted to need more
    peak = state.expected_peak()
    assert peak and (peak.bytes, peak.label) == (120 + state.overhead, "predicted peak")


def test_the_lowest_validation_is_marked_until_the_kept_weights_are_known() -> None:
    state = RunState()
    assert not state.best().buckets and lowest_loss(state) == ""
    losses = [(2, 3.0), (4, 1.5), (6, None), (8, 2.0)]
    state.feed(events.Eval(when="during", split="validation", step=at, rows=4, loss=loss) for at, loss in losses)
    text = lowest_loss(state)
    assert "1.5" in text and "step 4" in text and state.best().span() == (4, 4)
    state.feed([events.Selected(step=4, loss=1.5, steps=8, early=True)])
    text = lowest_loss(state)
    assert "kept" in text
    told = lines(events.Selected(step=4, loss=1.5, steps=8, early=True), 0)[0]
    assert "stopped early" in told and figures(told) == ["00:00:00", "4", "1.5", "8"]
