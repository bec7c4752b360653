"""Differences of two models' scores, paired by test item, and the gain that `ftbench gate` requires."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.evaluation.intervals import bootstrap, group_sums, paired_interval, score_interval
from engine.runs.ladder.ladder_state import Gain
from engine.runs.run.predictions import ScoredItem, recorded_groups, recorded_items, recorded_lines
from engine.runs.run.result import Interval, Result
from engine.runs.run.run_dir import RunDir, finished_result

NOT_FINISHED = "gate.not_finished"


def values_of(items: Sequence[ScoredItem], metric: str) -> list[float]:
    """The metric of each item: its score, or its mean loss."""
    if metric_spec(metric).is_loss:
        return [item.nll / item.loss_weight for item in items]
    return [(item.scores or {}).get(metric, 0.0) for item in items]


def mean_with_interval(items: Sequence[ScoredItem], metric: str, groups: Sequence[str] = ()) -> Interval | None:
    """Mean of the metric with its interval. `groups`: keys of items that depend on each other."""
    if not items:
        return None
    values = values_of(items, metric)
    if not metric_spec(metric).is_loss:
        return score_interval(values, metric_spec(metric).bounds, groups)
    weights = np.array([item.loss_weight for item in items])
    sums, weights = group_sums(np.array([values]) * weights, weights, groups)
    return bootstrap((sums[0] / weights).tolist(), weights.tolist())


def difference_of(
    items: Sequence[ScoredItem], reference: Sequence[ScoredItem] | None, metric: str, groups: Sequence[str] = ()
) -> Interval | None:
    """items − reference, with a paired interval that is also valid for few items and for equal scores.

    None for no items, or if their numbers differ. `groups`: keys of items that depend on each other.
    """
    if not items or reference is None or len(items) != len(reference):
        return None
    pairs = zip(values_of(items, metric), values_of(reference, metric), strict=True)
    weights = [item.loss_weight for item in items] if metric_spec(metric).is_loss else None
    return paired_interval([a - b for a, b in pairs], metric_spec(metric).bounds, weights, groups)


def gain_of(
    items: Sequence[ScoredItem], reference: Sequence[ScoredItem] | None, metric: str, groups: Sequence[str] = ()
) -> Interval | None:
    """`difference_of`, positive if it is an improvement."""
    difference = difference_of(items, reference, metric, groups)
    return difference.negated() if difference and metric_spec(metric).lower_is_better else difference


def gain_of_run(run: RunDir, against: RunDir | None, metric: str | None, start: bool = False) -> Gain:
    """The gain of a run's metric, by default the run's own, over `against`, or over the base model for None.

    `start`: over the run that it started from, instead of the base model.

    Positive is better, also for metrics where lower is better. Raises UserError for unfinished runs, runs that were not
    scored on the same test items, and a metric that the answers were not scored with.
    """
    result = finished_result(run, NOT_FINISHED)
    name = metric or result.metric
    tuned = recorded_items(run.predictions_file, "tuned")
    if against is None:
        _refuse_other_start(run, result, start)
        named = f"its start, {result.from_run}" if start else "the base model"
        reference = recorded_items(run.predictions_file, "base")
    else:
        _refuse_other_items(result, finished_result(against, NOT_FINISHED), against.name)
        reference, named = recorded_items(against.predictions_file, "tuned"), against.name
    if not tuned or not reference:
        _refuse_unreadable(against if tuned and against else run)
        problem = f"{run.name if not tuned else named} has no scores of test items"
        raise UserError(problem, run.name, "--set evaluation.when=both and give a test split", "gate.no_scores")
    known = {key for item in tuned for key in item.scores or {}} | {"loss"}
    if name not in known:
        problem = f"the answers were not scored with {name}"
        hint = f"use {', '.join(sorted(known))}"
        raise UserError(problem, "--metric", hint, "gate.unknown_metric")
    _refuse_incomplete(run, result, tuned, reference, name)
    groups = recorded_groups(run.predictions_file)
    gain = gain_of(tuned, reference, name, groups)
    assert gain is not None, "as many items"
    return Gain(candidate=run.name, reference=named, metric=name, gain=gain)


def _refuse_incomplete(
    run: RunDir, result: Result, tuned: list[ScoredItem], reference: list[ScoredItem], metric: str
) -> None:
    """Raise UserError if test items, or their scores, are missing; a missing score would count as 0."""
    scored = len(tuned) if result.after is None else result.after.score.rows
    is_complete = (
        metric != result.metric
        or metric_spec(metric).is_loss
        or all(metric in (item.scores or {}) for item in (*tuned, *reference))
    )
    if is_complete and len(tuned) == len(reference) == scored:
        return
    problem, hint = f"predictions.jsonl lacks scores of the {scored:,} test items", "repeat the run"
    raise UserError(problem, str(run.predictions_file), hint, "gate.no_predictions")


def _refuse_unreadable(run: RunDir) -> None:
    """Raise UserError if the run was scored, but its answers cannot be read."""
    result = run.result()
    if result is not None and result.after is not None and not recorded_lines(run.predictions_file):
        hint = "repeat the run: its scores by test item are in this file"
        problem = "predictions.jsonl is missing or damaged"
        raise UserError(problem, str(run.predictions_file), hint, "gate.no_predictions")


def _refuse_other_start(run: RunDir, result: Result, start: bool) -> None:
    """The scores before training are the base model's, or those of the run that this one started from."""
    if result.from_run and not start:
        problem = f"the base model was not scored: the run started from {result.from_run}"
        raise UserError(problem, run.name, "use --against start", "gate.no_base")
    if start and not result.from_run:
        raise UserError("the run started from the base model", run.name, "use --against base", "gate.no_start")


def _refuse_other_items(result: Result, other: Result, name: str) -> None:
    mine, theirs = result.fingerprints.get("test"), other.fingerprints.get("test")
    if mine != theirs:
        hint = "compare runs of the same data, split and number of test rows"
        raise UserError(f"{name} was scored on other test items", name, hint, "gate.other_items")
