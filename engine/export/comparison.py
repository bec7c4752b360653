"""Differences of two models' scores, paired by test item, and the gain that `ftbench gate` requires."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.evaluation.intervals import paired_interval, score_interval
from engine.runs.ladder.ladder_state import Gain
from engine.runs.run.predictions import ScoredItem, damage_of, recorded_groups, recorded_items
from engine.runs.run.result import Interval
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
    weights = [item.loss_weight for item in items] if metric_spec(metric).is_loss else None
    return score_interval(values_of(items, metric), metric_spec(metric).bounds, groups, weights)


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
    result, file = finished_result(run, NOT_FINISHED), run.predictions_file
    name = metric or result.metric
    tuned = recorded_items(file, "tuned")
    if against is None:  # the scores before training are the base model's, or those of the run that it started from
        if result.from_run and not start:
            problem = f"the base model was not scored: the run started from {result.from_run}"
            raise UserError(problem, run.name, "use --against start", "gate.no_base")
        if start and not result.from_run:
            raise UserError("the run started from the base model", run.name, "use --against base", "gate.no_start")
        named = f"its start, {result.from_run}" if start else "the base model"
        reference = recorded_items(file, "base")
    else:
        named, other = against.name, finished_result(against, NOT_FINISHED)
        if result.fingerprints.get("test") != other.fingerprints.get("test"):
            hint = "compare runs of the same data, split and number of test rows"
            raise UserError(f"{named} was scored on other test items", named, hint, "gate.other_items")
        reference = recorded_items(against.predictions_file, "tuned")

    if not tuned or not reference:
        lacking = against if tuned and against else run
        scored_result = lacking.result()
        was_scored = scored_result is not None and scored_result.after is not None
        if was_scored and (damage := damage_of(lacking.predictions_file)):
            hint = "repeat the run: its scores by test item are in this file"
            problem = f"cannot read predictions ({damage})"
            raise UserError(problem, str(lacking.predictions_file), hint, "gate.no_predictions")
        problem = f"{run.name if not tuned else named} has no scores of test items"
        raise UserError(problem, run.name, "--set evaluation.when=both and give a test split", "gate.no_scores")
    known = {key for item in tuned for key in item.scores or {}} | {"loss"}
    if name not in known:
        problem = f"the answers were not scored with {name}"
        hint = f"use {', '.join(sorted(known))}"
        raise UserError(problem, "--metric", hint, "gate.unknown_metric")
    scored = len(tuned) if result.after is None else result.after.score.rows
    has_scores = (  # a missing score would count as 0
        name != result.metric
        or metric_spec(name).is_loss
        or all(name in (item.scores or {}) for item in (*tuned, *reference))
    )
    if not has_scores or not len(tuned) == len(reference) == scored:
        problem, hint = f"predictions.jsonl lacks scores of the {scored:,} test items", "repeat the run"
        raise UserError(problem, str(file), hint, "gate.no_predictions")
    gain = gain_of(tuned, reference, name, recorded_groups(file))
    assert gain is not None, "as many items"
    return Gain(candidate=run.name, reference=named, metric=name, gain=gain)
