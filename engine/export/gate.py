"""The gain of a run over its base model or another run, paired by test item."""

from __future__ import annotations

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.evaluation.predictions import ScoredItem, read_lines, recorded_groups, recorded_items
from engine.export.comparison import gain_of
from engine.runs.ladder.ladder_state import Gain
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir


def gain_of_run(run: RunDir, against: RunDir | None, metric: str | None, start: bool = False) -> Gain:
    """The gain of a run's metric, by default the run's own, over `against`, or over the base model for None.

    `start`: over the run that it started from, instead of the base model.

    Positive is better, also for metrics where lower is better. Raises UserError for unfinished runs, runs that were not
    scored on the same test items, and a metric that the answers were not scored with.
    """
    result = _finished(run)
    name = metric or result.metric
    tuned = recorded_items(run.predictions_file, "tuned")
    if against is None:
        _refuse_other_start(run, result, start)
        named = f"its start, {result.from_run}" if start else "the base model"
        reference = recorded_items(run.predictions_file, "base")
    else:
        _refuse_other_items(result, _finished(against), against.name)
        reference, named = recorded_items(against.predictions_file, "tuned"), against.name
    if not tuned or not reference:
        _refuse_unreadable(against if tuned and against else run)
        what = f"{run.name if not tuned else named} has no scores of test items"
        raise UserError(what, run.name, 'set evaluation.when = "both" and give a test split', "gate.no_scores")
    known = {key for item in tuned for key in item.scores or {}} | {"loss"}
    if name not in known:
        what = f"the answers were not scored with {name}"
        do = f"use {', '.join(sorted(known))}"
        raise UserError(what, "--metric", do, "gate.unknown_metric")
    _refuse_incomplete(run, result, tuned, reference, name)
    groups = recorded_groups(run.predictions_file)
    return Gain(candidate=run.name, reference=named, metric=name, gain=gain_of(tuned, reference, name, groups))


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
    what, do = f"predictions.jsonl lacks scores of the {scored:,} test items", "repeat the run"
    raise UserError(what, str(run.predictions_file), do, "gate.no_predictions")


def _refuse_unreadable(run: RunDir) -> None:
    """Raise UserError if the run was scored, but its answers cannot be read."""
    result = run.result()
    if result is not None and result.after is not None and not read_lines(run.predictions_file):
        what, do = "predictions.jsonl is missing or damaged", "repeat the run: its scores by test item are in this file"
        raise UserError(what, str(run.predictions_file), do, "gate.no_predictions")


def _refuse_other_start(run: RunDir, result: Result, start: bool) -> None:
    """The scores before training are the base model's, or those of the run that this one started from."""
    if result.from_run and not start:
        what = f"the base model was not scored: the run started from {result.from_run}"
        raise UserError(what, run.name, "use --against start", "gate.no_base")
    if start and not result.from_run:
        raise UserError("the run started from the base model", run.name, "use --against base", "gate.no_start")


def _finished(run: RunDir) -> Result:
    result = run.result()
    if result is None or result.status != "finished":
        state = result.status if result else run.state()
        do = "wait until it finishes, or resume it if it was stopped"
        raise UserError(f"the run is not finished ({state})", run.name, do, "gate.not_finished")
    return result


def _refuse_other_items(result: Result, other: Result, name: str) -> None:
    mine, theirs = result.fingerprints.get("test"), other.fingerprints.get("test")
    if mine != theirs:
        do = "compare runs of the same data, split and number of test rows"
        raise UserError(f"{name} was scored on other test items", name, do, "gate.other_items")
