"""From finished runs to the table: what each rung kept and cost, and which differences can be told apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from engine.config.errors import UserError
from engine.config.method_specs import RULE_REFERENCE
from engine.config.metric_specs import metric_spec
from engine.config.split_version import OLDEST, versions_differ
from engine.ladder.price import add_price
from engine.ladder.results import LadderResults, finished, gather
from engine.ladder.runner import worked_joules
from engine.ladder.statistics import Answers, BootstrapSamples, Difference, Floats, mcnemar, needed
from engine.ladder.verdict import verdict
from engine.runs.ladder import (
    BASE,
    BASE_4BIT,
    BASES,
    Comparison,
    Finding,
    Ladder,
    LadderPlan,
    LadderRun,
    Rung,
    RungResult,
    SeedRange,
)
from engine.runs.ladder_dir import LadderDir
from engine.runs.result import Interval, MeasuredPeak, Result

T = TypeVar("T")


def aggregate(folder: LadderDir, ladder: Ladder, plan: LadderPlan) -> None:
    """Fill in rows, comparisons and verdict from what has finished.

    Raises UserError where the work was not the same.
    """
    evidence = LadderResults(finished(folder, ladder))
    check_same_work(evidence, ladder)
    gather(evidence, ladder)
    ladder.rows = [_row(rung, ladder, evidence) for rung in plan.rungs]
    ladder.rows[:0] = [row for row in (_base_row(evidence, BASE), _base_row(evidence, BASE_4BIT)) if row]
    add_statistics(ladder, evidence, ladder.work.metric if ladder.work else "")
    ladder.verdict = verdict(ladder)


def check_same_work(evidence: LadderResults, ladder: Ladder) -> None:
    """Every finished run's data, test rows, weights, order and tokens are the ladder's own."""
    wanted = dict(ladder.work.fingerprints) if ladder.work else {}
    orders: dict[int, tuple[str, str, int]] = {}
    rule = ladder.work.split_version if ladder.work else OLDEST
    for run in evidence.runs:
        if differ := versions_differ(run.result.split_version, rule):
            raise UserError(f"not the same work: {run.entry.run}: {differ}", "split_version", "start a new ladder")
        for field, value in wanted.items():
            general = run.result.general.text if run.result.general else ""
            if (general if field == "general" else run.result.fingerprints.get(field)) != value:
                raise UserError(
                    f"not the same work: the {field} fingerprint of {run.entry.run} is not this ladder's",
                    field,
                    "the file or model changed while the ladder ran; start a new one",
                )
        mine = (run.entry.run, run.result.fingerprints.get("order", ""), run.result.tokens)
        other = orders.setdefault(run.entry.seed, mine)
        for field, a, b in (("row order", mine[1], other[1]), ("trained tokens", mine[2], other[2])):
            if a != b:
                raise UserError(
                    f"not the same work: {field} of {mine[0]} is {a}, of {other[0]} {b}", field, "start a new ladder"
                )


def add_statistics(ladder: Ladder, evidence: LadderResults, metric: str) -> None:
    """Intervals, shares and comparisons, into rows and ladder."""
    rows = {row.name: row for row in ladder.rows}
    losses = {name: answers for name, answers in evidence.losses.items() if name in rows and answers.finite}
    spec = metric_spec(metric)
    scores = losses if not spec.needs_answers else {k: v for k, v in evidence.scores.items() if k in rows}
    for name in evidence.losses.keys() & rows.keys() - losses.keys() if not spec.needs_answers else ():
        rows[name].status, rows[name].reason = "diverged", "its loss on the test rows is not a finite number"
    ladder.comparisons = []
    if not scores:
        return
    by_loss = BootstrapSamples(losses, bounded=False) if losses else None
    by_score = by_loss if by_loss and not spec.needs_answers else BootstrapSamples(scores, bounded=spec.is_share)
    for name in scores:
        rows[name].score = by_score.interval(name)
        rows[name].loss = by_loss.interval(name) if by_loss and name in losses else None
        rows[name].by_seed = [float(mean) for mean in scores[name].seed_means]
    _forgetting(rows, evidence)
    tuned = [name for name in scores if name not in BASES]
    pairs = [(name, BASE) for name in tuned if BASE in scores]
    pairs += [(a, b) for number, b in enumerate(tuned[::-1]) for a in tuned[::-1][number + 1 :]]
    if pairs:
        sign = -1.0 if metric_spec(metric).lower_is_better else 1.0
        with_loss = [pair for pair in pairs if set(pair) <= losses.keys()]
        by_pair = dict(zip(with_loss, by_loss.differences(with_loss), strict=True)) if by_loss and with_loss else {}
        ladder.comparisons = [
            _comparison(one, by_pair.get((one.a, one.b)), scores, sign) for one in by_score.differences(pairs)
        ]
    reference = next((row.name for row in ladder.rows if row.method == RULE_REFERENCE and row.name in tuned), "")
    for name in tuned:
        _shares(rows[name], reference, by_score, ladder.comparisons, metric)


def _shares(
    row: RungResult, reference: str, draws: BootstrapSamples, comparisons: Sequence[Comparison], metric: str
) -> None:
    """Of full's score and of its gain, or in words why not."""
    if not reference:
        row.no_share = "full fine-tuning has no score here"
        return
    gain = next((one for one in comparisons if (one.a, one.b) == (reference, BASE)), None)
    if not metric_spec(metric).lower_is_better and draws.interval(reference).low:
        row.share_of_score = draws.share(row.name, reference)
    if gain is None:
        row.no_share = "the base has no score here"
    elif gain.finding != "better":
        row.no_share = "full did not gain over the base beyond chance: nothing to divide by"
    else:
        row.share_of_gain = draws.share_of_gain(row.name, reference, BASE)


def _comparison(found: Difference, by_loss: Difference | None, scores: dict[str, Answers], sign: float) -> Comparison:
    a, b = scores[found.a], scores[found.b]
    rows = a.values.shape[1]
    finding: Finding = "undecided" if not found.told_apart else "better" if found.mean * sign > 0 else "worse"
    fewest = min(len(one.values) for one in (a, b) if not one.untrained)
    items, seeds = needed(found, rows, fewest) if finding == "undecided" else (None, None)
    yes_no = set(np.unique(np.concatenate([a.values, b.values]))) <= {0.0, 1.0}
    return Comparison(
        a=found.a,
        b=found.b,
        difference=_interval(found, rows),
        p=found.p,
        p_adjusted=found.adjusted,
        finding=finding,
        mcnemar=[mcnemar(x, y) for x, y in _same_seed(a, b)] if yes_no and a.weights is None else [],
        needed_items=items,
        needed_seeds=seeds,
        loss_difference=_interval(by_loss, rows) if by_loss else None,
    )


def _interval(found: Difference, rows: int) -> Interval:
    known = math.isfinite(found.low) and math.isfinite(found.high)
    return Interval(mean=found.mean, low=found.low if known else None, high=found.high if known else None, rows=rows)


def _same_seed(a: Answers, b: Answers) -> list[tuple[Floats, Floats]]:
    """The answers of the seeds that both have; the base stands beside every seed."""
    mine, other = a.by_seed(), b.by_seed()
    if b.untrained:
        return [(values, b.values[0]) for values in mine.values()]
    return [(values, other[seed]) for seed, values in mine.items() if seed in other]


def _forgetting(rows: dict[str, RungResult], evidence: LadderResults) -> None:
    """Loss on general text, and how much higher it is than the base's, paired by passage."""
    general = {name: answers for name, answers in evidence.general.items() if answers.finite}
    if BASE not in general:
        return
    draws = BootstrapSamples(general, bounded=False)
    for name in general:
        if name in rows:
            rows[name].general_loss = draws.interval(name)
        if name in rows and name != BASE:
            (found,) = draws.differences([(name, BASE)])
            rows[name].forgetting = _interval(found, draws.n)


def _base_row(evidence: LadderResults, name: str) -> RungResult | None:
    run = evidence.bases.get(name)
    if run is None:
        return None
    row = RungResult(name=name, method=name, status="finished", runs=[run.entry.run], parameters=run.result.parameters)
    before = run.result.before
    row.extra = {view: value.mean for view, value in before.extra.items() if value.mean is not None} if before else {}
    return row


def _row(rung: Rung, ladder: Ladder, evidence: LadderResults) -> RungResult:
    entries = [entry for entry in ladder.entries if entry.rung == rung.name and entry.kind == "run"]
    runs = [run for run in evidence.runs if run.entry.rung == rung.name]
    row = RungResult(name=rung.name, method=rung.method, status=_status(entries), reason=_reason(entries))
    if not runs:
        return row
    results = [run.result for run in runs]
    last = results[-1]
    row.learning_rate = runs[0].entry.learning_rate
    row.seeds, row.runs = [run.entry.seed for run in runs], [run.entry.run for run in runs]
    row.extra = _extra(results)
    row.peak = _highest([result.peak for result in results])
    row.training_seconds = _spread(results, lambda result: result.step_seconds)
    row.all_seconds = _spread(runs, lambda run: run.entry.seconds)
    row.tokens_per_second = _spread(results, lambda result: result.tokens_per_second)
    row.energy = _spread(results, worked_joules)
    row.trainable, row.parameters, row.artifact_bytes = last.trainable, last.parameters, last.artifact_bytes
    add_price(row, rung, ladder)
    return row


def _status(entries: Sequence[LadderRun]) -> str:
    states = {entry.status for entry in entries}
    if "finished" in states:
        return "finished" if states == {"finished"} else "partly"
    wrong = [entry.status for entry in entries if entry.status not in ("planned", "live", "skipped", "finished")]
    return wrong[0] if wrong else "skipped" if states == {"skipped"} else "planned"


def _reason(entries: Sequence[LadderRun]) -> str:
    return next((entry.reason for entry in entries if entry.status != "finished" and entry.reason), "")


def _extra(results: Sequence[Result]) -> dict[str, float]:
    """Means over the seeds of the further views that all of them have."""
    views = [result.after.extra for result in results if result.after]
    names = set.intersection(*map(set, views)) if views else set()
    return {name: float(np.mean([view[name].mean or 0.0 for view in views])) for name in sorted(names)}


def _highest(peaks: Sequence[MeasuredPeak]) -> MeasuredPeak:
    """The highest of each meaning over the seeds."""
    seen = {
        name: [v for peak in peaks if (v := getattr(peak, name)) is not None] for name in MeasuredPeak.__struct_fields__
    }
    return MeasuredPeak(**{name: max(values, default=None) for name, values in seen.items()})


def _spread(things: Sequence[T], of: Callable[[T], float | None]) -> SeedRange | None:
    values = [value for thing in things if (value := of(thing)) is not None]
    if not values:
        return None
    return SeedRange(mean=float(np.mean(values)), low=min(values), high=max(values))
