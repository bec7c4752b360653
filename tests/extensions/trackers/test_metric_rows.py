"""Rows of metrics from the events of a run."""

from __future__ import annotations

import pytest
from made_runs import step

from engine.extensions.trackers.metric_rows import MetricRow, RowBuilder
from engine.runs.run import events
from engine.runs.run.events import Event
from engine.runs.run.result import General, Interval, Score, TaskScores


def rows_of(*log: Event) -> list[MetricRow]:
    builder = RowBuilder()
    return [row for event in log for row in builder.add(event)] + list(builder.flush())


def score(when: str, at: int, value: float) -> events.Eval:
    interval = Interval(mean=value, low=0.0, high=1.0, rows=9)
    scored = Score(loss=interval, perplexity=None, metric="json", score=interval)
    return events.Eval(when=when, split="test", step=at, rows=9, loss=1.0, score=scored)


def test_one_row_has_step_validation_and_memory() -> None:
    memory = events.Memory(rss=2 << 30, rss_peak=0, power=250.0, allocated=None)
    first, second = rows_of(
        memory, step(1), step(2), events.Eval(when="during", split="validation", step=2, rows=8, loss=0.7)
    )
    assert (first.step, first.values["train/loss"], first.values["train/num_input_tokens_seen"]) == (1, 1.0, 100)
    assert (second.step, second.values["eval/loss"], second.values["train/num_input_tokens_seen"]) == (2, 0.7, 200)
    assert first.values["memory/process_gib"] == 2.0 and first.values["gpu/power_watts"] == 250.0
    assert "memory/gpu_allocated_gib" not in first.values and first.values["train/global_step"] == 1


def test_test_scores_are_at_step_0_and_at_the_last_step() -> None:
    before, first, last = rows_of(score("before", 0, 0.1), step(1), step(2), score("after", 2, 0.8))
    assert (before.step, before.values["test/json"]) == (0, 0.1)
    assert "test/json" not in first.values
    assert (last.step, last.values["test/json"], last.values["test/json_high"]) == (2, 0.8, 1.0)


def test_a_resumed_run_continues_its_curve_without_repeated_steps() -> None:
    hello = events.Hello(pid=1, host="h", version="0")
    first = [step(1), step(2), step(3)]
    rows = rows_of(hello, *first, events.End(status="stopped", reason=""), hello, step(2, 9.0), step(3, 9.0), step(4))
    assert [(row.step, row.values["train/loss"]) for row in rows] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]
    assert rows[-1].values["train/num_input_tokens_seen"] == 400


def test_a_run_stopped_in_its_evaluation_is_scored_in_a_further_row() -> None:
    rows = rows_of(step(1), events.End(status="stopped", reason=""), events.Hello(pid=1, host="h", version="0"),
                   score("after", 1, 0.5))  # fmt: skip
    assert [row.step for row in rows] == [1, 1] and rows[1].values["test/json"] == 0.5


def test_a_number_that_is_not_finite_is_left_out() -> None:
    (row,) = rows_of(step(1, None))
    assert "train/loss" not in row.values and row.values["train/learning_rate"] == 1e-3


def test_forgetting_is_the_rise_of_the_loss_on_general_text() -> None:
    general = General(text="t", tokens=[10, 10], before=[20.0, 20.0], after=[25.0, 25.0])
    (row,) = rows_of(events.GeneralLoss(general=general))
    assert row.values["general/loss"] == pytest.approx(2.5)
    assert row.values["general/loss_increase"] == pytest.approx(0.5)


def test_a_benchmark_is_a_metric_with_its_name() -> None:
    scores = TaskScores(
        task="arc_easy",
        metric="acc",
        higher_is_better=True,
        is_share=True,
        fingerprint="f",
        score=Interval(mean=0.5, low=0.4, high=0.6, rows=40),
    )
    (row,) = rows_of(events.TaskScored(when="before", scores=scores))
    assert row.values["benchmark/arc_easy/acc"] == 0.5 and row.step == 0
