"""What the runs of a ladder measured: predictions as arrays by rung, seed and test item, and tasks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import msgspec
import numpy as np

from engine.config.errors import UserError
from engine.config.method_specs import RULE_REFERENCE, method_spec
from engine.config.metric_specs import DEFAULT_MARGIN, MetricSpec, metric_spec
from engine.config.text import amount, listed
from engine.ladder.statistics import CONFIDENCE_LEVEL, Difference, ItemScores, MeanSamples, item_scores
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import BASE, BASE_4BIT, Ladder, LadderEntry, few_shot_base, is_base
from engine.runs.ladder.rung_results import (
    Comparison,
    LadderTask,
    RungResult,
    SeedRange,
    TaskRow,
    finding_of,
)
from engine.runs.run.predictions import PredictionLine, ScoredItem, Who, read_predictions
from engine.runs.run.result import TASK, Interval, Result, TaskScores, read_scores, task_fingerprint
from engine.runs.run.run_dir import RunDir

RUN_AGAIN = "delete the run, then `ftbench resume` the ladder, which runs it again"
Moment = Literal["before", "after"]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of the ladder with its result and predictions."""

    entry: LadderEntry
    result: Result
    lines: list[PredictionLine]
    """One per test item."""


@dataclass
class LadderResults:
    """Scores and losses of all finished runs by rung; seeds in the order of the ladder's entries."""

    runs: list[FinishedRun] = field(default_factory=list)
    bases: dict[str, FinishedRun] = field(default_factory=dict)
    """`base` and `base-4bit`: the run that scored it."""
    scores: dict[str, ItemScores] = field(default_factory=dict)
    losses: dict[str, ItemScores] = field(default_factory=dict)
    general: dict[str, ItemScores] = field(default_factory=dict)
    """Losses on general text, by passage."""
    items: tuple[str, set[tuple[int, str]]] | None = None
    """The first run, and the number and answer of each of its test items."""


def read_finished(folder: LadderDir, ladder: Ladder) -> list[FinishedRun]:
    """Read every finished run. Raises UserError if one is damaged."""
    entries = [entry for entry in ladder.entries if entry.kind == "run" and entry.status == "finished"]
    return [_read(RunDir(folder.runs / entry.run), entry) for entry in entries]


def read_shared_bases(folder: LadderDir, ladder: Ladder) -> dict[str, FinishedRun]:
    """The runs of other ladders that scored the base model. Raises UserError if one is damaged or was deleted."""
    bases = {}
    for name, run in ladder.base_runs.items():
        entry = LadderEntry(rung=name, kind="run", seed=0, learning_rate=0.0, run=run, status="finished")
        bases[name] = _read(RunDir(folder.runs / run), entry)
    return bases


def collect(results: LadderResults, ladder: Ladder) -> None:
    """Fill in bases, scores and losses from `results.runs`, which were checked to do the same work.

    Raises UserError if one has other test items.
    """
    metric = ladder.metric
    for name in dict.fromkeys(run.entry.rung for run in results.runs):
        runs = [run for run in results.runs if run.entry.rung == name]
        add_scores(results, name, runs, "tuned", metric)
        _add_general(results, name, runs, "after")
    for run in results.runs:
        name = BASE_4BIT if method_spec(run.result.method).quantizes_base else BASE
        if run.result.before and name not in results.bases:
            results.bases[name] = run
    # If no run scored the unquantized base, and none that is left can score it, QLoRA's 4-bit base is the base.
    quantized = {run.entry.rung for run in results.runs if method_spec(run.result.method).quantizes_base}
    pending = any(e.rung not in quantized and e.kind == "run" and not e.is_done for e in ladder.entries)
    if BASE not in results.bases and BASE_4BIT in results.bases and not pending:
        results.bases[BASE] = results.bases.pop(BASE_4BIT)
    for name, run in results.bases.items():
        add_scores(results, name, [run], "base", metric)
        _add_general(results, name, [run], "before")


def add_scores(results: LadderResults, name: str, runs: list[FinishedRun], who: Who, metric: str) -> None:
    """Add the scores and losses of one rung from its runs. Raises UserError if they have other test items."""
    for run in runs:
        check_same_items(results, run.entry.run, run.lines)
    common: dict[str, Any] = {"seeds": tuple(run.entry.seed for run in runs), "untrained": who == "base"}
    groups = [line.group for line in runs[0].lines]
    answers = [answers_of(run.lines, who) for run in runs]
    tokens = np.array([answer.loss_weight for answer in answers[0]], dtype=float)
    losses = np.array([[answer.nll for answer in of_run] for of_run in answers], dtype=float)
    results.losses[name] = item_scores(losses, tokens, groups, **common)
    if not metric_spec(metric).is_loss:
        values = np.array([[(answer.scores or {})[metric] for answer in of_run] for of_run in answers], dtype=float)
        results.scores[name] = item_scores(values, None, groups, **common)


def check_same_items(results: LadderResults, run: str, lines: Sequence[PredictionLine]) -> None:
    """Raises UserError if a run was not scored on the test items of the first one: scores are paired by item."""
    own = {(line.item, line.target) for line in lines}
    first, expected = results.items = results.items or (run, own)
    for lacking, has, other in ((run, own, expected), (first, expected, own)):
        if missing := [f"{item}" for item, _ in sorted(other - has)]:
            which = listed(missing if len(missing) <= 5 else [*missing[:4], f"{len(missing) - 4} more"])
            problem = f"the run lacks test {'item' if len(missing) == 1 else 'items'} {which} of other runs"
            raise UserError(problem, lacking, RUN_AGAIN, code="ladder.different_items")


def answers_of(lines: Sequence[PredictionLine], who: Who) -> list[ScoredItem]:
    """The answers of one model, which was scored on all items."""
    return [answer for line in lines if (answer := line.answer(who)) is not None]


def _add_general(results: LadderResults, name: str, runs: list[FinishedRun], moment: Moment) -> None:
    texts = [run.result.general for run in runs if run.result.general and getattr(run.result.general, moment)]
    if len(texts) == len(runs):
        values = np.array([getattr(general, moment) for general in texts], dtype=float)
        seeds, tokens = tuple(run.entry.seed for run in runs), np.array(texts[0].tokens, dtype=float)
        results.general[name] = ItemScores(values, tokens, seeds, untrained=moment == "before")


def _read(run: RunDir, entry: LadderEntry) -> FinishedRun:
    lines, result = read_prediction_lines(run.predictions_file, "tuned"), run.result()
    if result is None:
        raise UserError("finished run without result", str(run.path), RUN_AGAIN, code="ladder.no_predictions")
    return FinishedRun(entry, result, lines)


def read_prediction_lines(file: Path, who: Who) -> list[PredictionLine]:
    """The lines of a file of predictions. Raises UserError if it is damaged or has no scores of this model."""
    try:
        lines = list(read_predictions(file))
    except (OSError, ValueError) as error:
        problem = f"cannot read predictions ({error})"
        raise UserError(problem, str(file), RUN_AGAIN, code="ladder.unreadable_predictions") from error
    if not lines or any(line.answer(who) is None for line in lines):
        problem = "finished run without predictions"
        raise UserError(problem, str(file.parent), RUN_AGAIN, code="ladder.no_predictions")
    return lines


def collect_few_shot(folder: LadderDir, results: LadderResults, shots: list[int], metric: str) -> list[RungResult]:
    """Add the scores of the base model with examples to the results; returns their rows.

    Raises UserError if a file is damaged.
    """
    base = results.bases.get(BASE)
    rows = []
    for count in shots if base else []:
        assert base is not None
        file = RunDir(folder.runs / base.entry.run).few_shot_file(count)
        if not file.exists():  # scored without these examples
            continue
        lines = read_prediction_lines(file, "base")
        name = few_shot_base(count)
        add_scores(results, name, [FinishedRun(base.entry, base.result, lines)], "base", metric)
        row = RungResult(name=name, method=name, status="finished", runs=[base.entry.run])
        row.parameters = base.result.parameters
        add_answer_shares(row, answers_of(lines, "base"))
        rows.append(row)
    return rows


def add_answer_shares(row: RungResult, answers: Sequence[ScoredItem]) -> None:
    """Set the share of the answers that ended, and of those without the metric's format; None if one is unknown."""
    ended, formatted = [answer.ended for answer in answers], [answer.formatted for answer in answers]
    row.ended = None if None in ended else fmean(map(bool, ended))
    row.format_errors = None if None in formatted else 1 - fmean(map(bool, formatted))


PREFIX = task_fingerprint("")


def collect_tasks(folder: LadderDir, ladder: Ladder, results: LadderResults) -> list[LadderTask]:
    """The tasks in the order of the setting, with the rungs that have finished.

    Raises UserError if the scores of a finished run are missing or damaged.
    """
    known = ladder.work.fingerprints if ladder.work else {}
    prints = {key.removeprefix(PREFIX): value for key, value in known.items() if key.startswith(PREFIX)}
    scored: list[tuple[str, FinishedRun, Moment]]
    scored = [(base, run, "before") for base, run in sorted(results.bases.items())]
    scored += [(run.entry.rung, run, "after") for run in results.runs]
    tasks = []
    for name, fingerprint in prints.items():
        stored: dict[str, list[tuple[int, TaskScores]]] = {}
        for rung, run, when in scored:
            if scores := read_scores(RunDir(folder.runs / run.entry.run).task_file(name, when), fingerprint):
                stored.setdefault(rung, []).append((run.entry.seed, scores))
            elif when == "after":
                problem = f"finished run without scores of the {TASK} {name}"
                raise UserError(problem, run.entry.run, RUN_AGAIN, code=f"ladder.no_{TASK}_scores")
        if not stored:  # before a model was scored
            continue
        values: dict[str, ItemScores] = {}
        for rung, of_rung in stored.items():
            items = np.array([scores.items for _, scores in of_rung], dtype=float)
            values[rung] = ItemScores(items, seeds=tuple(seed for seed, _ in of_rung), untrained=rung in results.bases)
        (_, first), *_ = next(iter(stored.values()))
        is_share = all(scores.is_share for of_rung in stored.values() for _, scores in of_rung)
        tasks.append(
            LadderTask(
                name=name,
                metric=first.metric,
                higher_is_better=first.higher_is_better,
                is_share=is_share,
                items=len(first.items),
                rows=_task_rows(values, is_share, first.higher_is_better, len(prints)),
            )
        )
    return tasks


def _task_rows(values: Mapping[str, ItemScores], is_share: bool, higher_is_better: bool, tasks: int) -> list[TaskRow]:
    """Scores, and differences from the base model that hold simultaneously for the rungs and all tasks."""
    samples = MeanSamples(values, (0.0, 1.0) if is_share else (-math.inf, math.inf))
    rows = {
        name: TaskRow(name=name, score=samples.interval(name), by_seed=scores.seed_means.tolist())
        for name, scores in values.items()
    }
    trained = [name for name, scores in values.items() if not scores.untrained and name not in samples.outliers]
    if BASE in values and trained:
        level = 1 - (1 - CONFIDENCE_LEVEL) / tasks  # Bonferroni over the tasks, whose items differ
        for difference in samples.differences([(name, BASE) for name in trained], level):
            row, low, high = rows[difference.a], difference.low, difference.high
            row.difference = difference.interval(samples.items)
            row.p_adjusted = min(1.0, difference.p_adjusted * tasks)
            finding = finding_of(*((low, high) if higher_is_better else (-high, -low)), None)
            row.finding = "undecided" if finding == "as_good" else finding
    return list(rows.values())


UNCOUNTED_PHASES = ("waiting", "baseline")
"""Phases that not every rung has; they do not count as work."""


def worked_seconds(result: Result) -> float:
    """Seconds of all phases except waiting for the GPU and scoring the base model."""
    return sum(seconds for phase, seconds in result.seconds.items() if phase not in UNCOUNTED_PHASES)


def worked_joules(result: Result) -> float | None:
    """Energy that the GPU used in the same phases; None if it was not measured."""
    joules = [value for phase, value in result.joules.items() if phase not in UNCOUNTED_PHASES]
    return sum(joules) if joules else None


def disturbance(run: RunDir, allowed: float) -> str:
    """Why the timing of this finished run is disturbed; '' if it is not, or if the run did not record its load."""
    result = run.result()
    return result.load.disturbance(allowed) if result and result.load else ""


def note_other_devices(runs: Sequence[FinishedRun]) -> None:
    """Set `other_device` of the runs that used another device than most runs, or than the first one if equally many."""
    devices = [_device(run.result) for run in runs]
    known = Counter(filter(None, devices)).most_common(1)
    usual = known[0][0] if known else ""
    for run, device in zip(runs, devices, strict=True):
        run.entry.other_device = f"{device} instead of {usual}" if device not in ("", usual) else ""


def _device(result: Result) -> str:
    """The model of the GPU, or of the CPU and how many threads used it, as a run's environment event recorded them."""
    if "gpu_memory" in result.machine:
        return str(result.machine.get("device") or "")
    cpu, threads = str(result.machine.get("cpu") or ""), result.machine.get("threads")
    return f"{cpu}, {amount(threads, 'thread')}" if cpu and threads else cpu


NO_RESULT_YET = ("planned", "live", "skipped", "finished")


def status_of(entries: Sequence[LadderEntry]) -> str:
    """`finished`, `partly`, the first failure, `skipped` or `planned`."""
    statuses = [entry.status for entry in entries]
    if "finished" in statuses:
        return "finished" if set(statuses) == {"finished"} else "partly"
    wrong = [status for status in statuses if status not in NO_RESULT_YET]
    return wrong[0] if wrong else "skipped" if set(statuses) == {"skipped"} else "planned"


def reason_of(entries: Sequence[LadderEntry]) -> str:
    """Why an entry is not finished; '' if none says."""
    return next((entry.reason for entry in entries if entry.status != "finished" and entry.reason), "")


def mean_share(values: Iterable[Interval | None]) -> float | None:
    """The mean of the shares; None if one is not known."""
    known = list(values)
    means = [value.mean for value in known if value is not None and value.mean is not None]
    return fmean(means) if means and len(means) == len(known) else None


def seed_range(values: Iterable[float | None]) -> SeedRange | None:
    """Mean, lowest and highest of the values that are known; None without any."""
    known = [value for value in values if value is not None]
    return SeedRange(mean=fmean(known), low=min(known), high=max(known), values=known) if known else None


CLEAR_GAIN = 0.25
"""A share of a gain is only computed if the gain's lower bound is at least this part of it. With a larger part, shares
of small gains are computed where the gain is overestimated, and the share is then too low (tools/RESULTS.md)."""


def comparison(ladder: Ladder, a: str, b: str) -> Comparison | None:
    """The comparison a − b, negated if the ladder has b − a; None if they were not compared."""
    for stored in ladder.comparisons:
        if (stored.a, stored.b) == (a, b):
            return stored
        if (stored.a, stored.b) == (b, a):
            bounds = oriented_bounds(ladder, stored)
            return msgspec.structs.replace(
                stored,
                a=a,
                b=b,
                difference=stored.difference.negated(),
                finding=finding_of(-bounds[1], -bounds[0], ladder.margin) if bounds else "undecided",
                loss_difference=stored.loss_difference.negated() if stored.loss_difference else None,
            )
    return None


def best_rung(rows: Iterable[RungResult], lower_is_better: bool) -> RungResult | None:
    """The rung with the best observed score; None without one."""
    scored = [row for row in rows if row.score and row.score.mean is not None]
    sign = 1 if lower_is_better else -1
    return min(scored, key=lambda row: sign * ((row.score.mean if row.score else None) or 0.0), default=None)


def why_no_share(gain: Comparison | None, noun: str) -> str:
    """Why no share of the reference's gain can be computed; '' if it can.

    `gain`: the comparison of the reference with the base model. `noun`: the reference in a sentence.
    """
    if gain is None:
        return "the base model has no score"
    if gain.finding != "better":
        return f"{noun} is not significantly better than the base model"
    bounds = [abs(bound) for bound in (gain.difference.low, gain.difference.high) if bound is not None]
    if not bounds or min(bounds) < CLEAR_GAIN * abs(gain.difference.mean or 0.0):
        return f"{noun}'s gain is too uncertain for a ratio: the lower bound of its CI is below {CLEAR_GAIN:.0%} of it"
    return ""


def margin_of(ladder: Ladder) -> float:
    """The ladder's margin; the default before its rows are aggregated."""
    return DEFAULT_MARGIN if ladder.margin is None else ladder.margin


def oriented_bounds(ladder: Ladder, compared: Comparison) -> tuple[float, float] | None:
    """The bounds of the difference so that higher is better."""
    low, high = compared.difference.low, compared.difference.high
    if low is None or high is None:
        return None
    return (-high, -low) if metric_spec(ladder.metric).lower_is_better else (low, high)


def make_comparison(
    difference: Difference,
    items: int,
    spec: MetricSpec,
    margin: float | None,
    of_loss: Difference | None = None,
    b: str | None = None,
) -> Comparison:
    """The comparison of a difference on this many test items; `b`: the rung that it is from, if it has another name."""
    low, high = difference.low, difference.high
    return Comparison(
        a=difference.a,
        b=difference.b if b is None else b,
        difference=difference.interval(items),
        p_adjusted=difference.p_adjusted,
        finding=finding_of(-high, -low, margin) if spec.lower_is_better else finding_of(low, high, margin),
        loss_difference=of_loss.interval(items) if of_loss else None,
    )


def add_shares(
    row: RungResult,
    samples: MeanSamples,
    ladder: Ladder,
    reference: str,
    level: float = CONFIDENCE_LEVEL,
) -> None:
    """Fill in a rung's share of the reference's gain, or why it is missing.

    `reference`: full fine-tuning's rung, or without its score the one with the best score; '' for none.
    """
    other = next((other for other in ladder.rows if other.name == reference and other.name in samples.scores), None)
    if other is None:
        row.no_share = "full fine-tuning has no score"
        return
    noun = "full fine-tuning" if other.method == RULE_REFERENCE else "the best rung"
    row.no_share = row.not_compared or why_no_share(comparison(ladder, other.name, BASE), noun)
    if row.no_share:
        return
    if other.method == RULE_REFERENCE or row.source:
        row.share_of_gain = samples.share_of_gain(row.name, other.name, BASE, level)
        return
    compared = [own.name for own in ladder.rows if not (is_base(own.name) or own.source or own.not_compared)]
    rungs = [name for name in compared if name in samples.scores]
    row.share_of_gain = samples.share_of_best(row.name, rungs, BASE, other.name, level)


def reference_rung(ladder: Ladder, scored: Iterable[str], spec: MetricSpec) -> str:
    """The rung that shares refer to: full fine-tuning, else the compared rung with the best score; '' for none."""
    names = set(scored)
    rows = [row for row in ladder.rows if row.name in names and not is_base(row.name) and not row.source]
    if full := next((row for row in rows if row.method == RULE_REFERENCE), None):
        return full.name
    best = best_rung((row for row in rows if not row.not_compared), spec.lower_is_better)
    return best.name if best else ""
