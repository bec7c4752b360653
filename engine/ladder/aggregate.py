"""Aggregates finished runs: one row per rung with its scores and costs, and all comparisons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from engine.config import gpu_prices, quantities
from engine.config.errors import UserError
from engine.config.method_specs import RULE_REFERENCE
from engine.config.metric_specs import LOSS, MetricSpec, metric_spec
from engine.config.model_files import find_model
from engine.evaluation.intervals import group_sums
from engine.ladder.added_rungs import collect_added, with_examples
from engine.ladder.artifacts import add_artifacts
from engine.ladder.decisions import RULE_GAIN_SHARE
from engine.ladder.results import (
    FinishedRun,
    LadderResults,
    add_shares,
    collect,
    collect_few_shot,
    collect_tasks,
    make_comparison,
    mean_share,
    note_other_devices,
    read_finished,
    read_shared_bases,
    reason_of,
    reference_rung,
    seed_range,
    status_of,
    worked_joules,
)
from engine.ladder.sequential import BEFORE_FIRST_LOOK, decided_comparisons, keep_shares, set_error_rates
from engine.ladder.statistics import CONFIDENCE_LEVEL, MeanSamples
from engine.memory.formula.memory_budget import listed_budget
from engine.memory.formula.method_plan import PlanQuery, quick_plan
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import (
    BASE,
    BASE_4BIT,
    ItemDependence,
    Ladder,
    LadderPlan,
    Look,
    Rung,
    is_added,
    is_base,
    shots_of,
)
from engine.runs.ladder.rung_results import Comparison, RungResult, SeedRange
from engine.runs.run.result import MeasuredPeak


def add_price(row: RungResult, rung: Rung, ladder: Ladder) -> None:
    """Fill in the row's price per run, or a note why it is unknown."""
    local = gpu_prices.find_gpu(str(ladder.machine.get("device", "")), gpu_prices.list_gpus())
    price, devices = rung.config.cost.price_per_hour, rung.config.train.devices
    row.currency = rung.config.cost.currency if price is not None else local.currency if local else row.currency
    if price is None and local:
        price, row.money_note = local.price_per_hour * devices, f"at the list price of {local.name}"
        if devices > 1:
            row.money_note += f", for {devices} of them"
    if price is None:
        row.money_note = "`--set cost.price_per_hour=PRICE`: the price of this machine is unknown"
    elif row.all_seconds:
        seconds = row.all_seconds
        row.money = SeedRange(**{at: getattr(seconds, at) * price / 3600 for at in ("mean", "low", "high")})


def memory_of_full(ladder: Ladder, plan: LadderPlan) -> str:
    """Where full fine-tuning has no score: the GPU memory that it takes, by the formula of `ftbench plan`.

    '' if it has a score, or if the model's configuration is not that of a decoder or is not on this machine.
    """
    if any(row.method == RULE_REFERENCE and row.score for row in ladder.rows):
        return ""
    rung = next((rung for rung in plan.rungs if rung.method == RULE_REFERENCE), plan.rungs[0])
    config = msgspec.structs.replace(rung.config, method=RULE_REFERENCE)
    table, known = find_model(config.model).table, gpu_prices.list_gpus()
    if table is None or not known:
        return ""
    try:
        memory_plan = quick_plan(PlanQuery(configs=[config], budget=listed_budget(known[0].name)), table)
    except UserError:
        return ""
    return f"it takes about {quantities.size(memory_plan.methods[0].best.peak)} of GPU memory (predicted)"


OUTLIER = "it has fewer seeds than other rungs, and they vary significantly more; run it with more seeds"


def aggregate(folder: LadderDir, ladder: Ladder, plan: LadderPlan, look: Look | None = None) -> MeanSamples | None:
    """Fill in rows, comparisons and tasks from the finished runs; returns the distribution of the scores.

    `look`: of a ladder that runs until its questions are decided, the look that is taken; else the last one. Runs after
    that look do not count. Raises UserError if runs did not do the same work or one is damaged.
    """
    runs = read_finished(folder, ladder)
    if plan.until_decided:
        look = look or (ladder.looks[-1] if ladder.looks else BEFORE_FIRST_LOOK)
        runs = [run for run in runs if run.entry.seed in plan.seeds[: look.seeds]]
    results = LadderResults(runs, read_shared_bases(folder, ladder))
    check_same_work(results, ladder)
    collect(results, ladder)
    note_other_devices(results.runs)
    ladder.margin = plan.margin
    ladder.rows = [_row(rung, ladder, results) for rung in plan.rungs]
    bases = [row for row in (_base_row(results, BASE), _base_row(results, BASE_4BIT)) if row]
    bases += collect_few_shot(folder, results, plan.base_shots, ladder.metric)
    added = [rung for rung, _ in with_examples(plan.added, plan.base_shots)]
    bases += collect_added(folder, results, added, ladder.metric)
    ladder.rows[:0] = bases
    samples = add_statistics(ladder, results, ladder.metric, look)
    ladder.tasks = collect_tasks(folder, ladder, results)
    add_artifacts(folder, ladder, plan, results)
    return samples


def check_same_work(results: LadderResults, ladder: Ladder) -> None:
    """Raises UserError if data, test rows, weights, row order or tokens of a finished run differ from the ladder's."""
    expected = dict(ladder.work.fingerprints) if ladder.work else {}
    orders: dict[int, tuple[str, str, int]] = {}
    for run in results.runs:
        for field, value in expected.items():
            general = run.result.general.text if run.result.general else ""
            if (general if field == "general" else run.result.fingerprints.get(field)) != value:
                problem = f"the runs cannot be compared: the {field} fingerprint of {run.entry.run} is not the ladder's"
                hint = "the file or model changed while the ladder ran; start a new ladder"
                raise UserError(problem, field, hint, code="ladder.different_work")
        current = (run.entry.run, run.result.fingerprints.get("order", ""), run.result.tokens)
        other = orders.setdefault(run.entry.seed, current)
        for field, a, b in (("row order", current[1], other[1]), ("trained tokens", current[2], other[2])):
            if a != b:
                problem = f"the runs cannot be compared: {field} is {a} in {current[0]} and {b} in {other[0]}"
                raise UserError(problem, field, "start a new ladder", code="ladder.different_work")


def add_statistics(ladder: Ladder, results: LadderResults, metric: str, look: Look | None = None) -> MeanSamples | None:
    """Fill in intervals, shares and comparisons of the ladder's rows; returns the distribution of the scores.

    `look`: None for a ladder with a fixed number of seeds. What an earlier look decided stays.
    """
    rows, spec = {row.name: row for row in ladder.rows}, metric_spec(metric)
    losses = {name: scores for name, scores in results.losses.items() if name in rows and scores.finite}
    scores = losses if spec.is_loss else {k: v for k, v in results.scores.items() if k in rows}
    for name in results.losses.keys() & rows.keys() - losses.keys() if spec.is_loss else ():
        rows[name].status, rows[name].reason = "diverged", "the loss on the test rows is not finite"
    ladder.comparisons = []
    if not scores:
        return None
    by_loss = MeanSamples(losses, LOSS.bounds) if losses else None
    by_score = by_loss if by_loss and spec.is_loss else MeanSamples(scores, spec.bounds)
    for name in scores:
        rows[name].score = by_score.interval(name)
        rows[name].loss = by_loss.interval(name) if by_loss and name in losses else None
        rows[name].by_seed = [float(mean) for mean in scores[name].seed_means]
    general = {name: own for name, own in results.general.items() if own.finite}
    if BASE in general:
        by_passage = MeanSamples(general, LOSS.bounds)
        for name in general.keys() & rows.keys():
            rows[name].general_loss = by_passage.interval(name)
            if name != BASE:
                (rise,) = by_passage.differences([(name, BASE)])
                rows[name].forgetting = rise.interval(by_passage.items)
    for name in by_score.outliers:
        rows[name].not_compared = OUTLIER
    ladder.dependence = _dependence(by_score, results)
    by_metric = {LOSS.name: by_loss} | ({} if spec.is_loss else {spec.name: by_score})
    ladder.heavy_tails = [name for name, samples in by_metric.items() if samples and samples.has_heavy_tails]
    if look is BEFORE_FIRST_LOOK:
        return by_score
    if look and not look.error_rate:
        set_error_rates(look, ladder, by_score)
    level, share_level = (1 - look.error_rate, 1 - look.share_error_rate) if look else (CONFIDENCE_LEVEL,) * 2
    ladder.comparisons = _comparisons(by_score, by_loss, ladder.margin, spec, level, decided_comparisons(ladder))
    reference = reference_rung(ladder, scores, spec)
    is_full = any((row.name, row.method) == (reference, RULE_REFERENCE) for row in ladder.rows)
    for name in scores:
        if not is_base(name):
            add_shares(rows[name], by_score, ladder, reference, share_level)
        if is_full and rows[name].share_of_gain:
            rows[name].rule_p = by_score.share_of_gain_p(name, reference, BASE, RULE_GAIN_SHARE)
    keep_shares(ladder)
    return by_score


def _dependence(samples: MeanSamples, results: LadderResults) -> ItemDependence | None:
    """The groups of dependent test items; without any, what near-duplicates would change if they were groups.

    None if every item is alone.
    """
    if samples.n < samples.items:
        return ItemDependence(units=samples.n, effective=samples.effective)
    lines = results.runs[0].lines if results.runs else []
    keys = ["" if line.similar is None else str(line.similar) for line in lines]
    if not any(keys) or len(keys) != samples.items:
        return None
    alone, grouped = 0.0, 0.0
    rungs = [scores for scores in samples.scores.values() if not scores.untrained]
    for a, b in itertools.combinations(rungs, 2):
        gaps = (a.deviations.mean(0) - b.deviations.mean(0))[None]
        alone += float((gaps**2).sum())
        grouped += float((group_sums(gaps, np.ones(samples.items), keys)[0] ** 2).sum())
    return ItemDependence(
        units=samples.items - sum(map(bool, keys)) + len({*filter(None, keys)}),
        similar=sum(map(bool, keys)),
        widening=math.sqrt(grouped / alone) if alone else None,
    )


def _comparisons(
    by_score: MeanSamples,
    by_loss: MeanSamples | None,
    margin: float | None,
    spec: MetricSpec,
    level: float,
    kept: Mapping[tuple[str, str], Comparison],
) -> list[Comparison]:
    """Every rung with the base model, also with examples in the prompt, then every pair, the later rung first.

    `kept`: decisions of earlier looks. Those that two rungs differ leave their part of the error rate to the others.
    """
    tuned = [name for name in by_score.scores if not is_base(name) and name not in by_score.outliers]
    bases = [name for name in by_score.scores if name == BASE or shots_of(name) or is_added(name)]
    pairs = [(name, base) for base in bases for name in tuned]
    pairs += [(a, b) for number, b in enumerate(tuned[::-1]) for a in tuned[::-1][number + 1 :]]
    every = [*pairs, *(pair for pair in kept if pair not in pairs)]
    pairs = [pair for pair in pairs if pair not in kept or kept[pair].finding == "as_good"]
    if not pairs:
        return [*kept.values()]
    with_loss = [pair for pair in pairs if by_loss and set(pair) <= by_loss.scores.keys() - {*by_loss.outliers}]
    loss_of = dict(zip(with_loss, by_loss.differences(with_loss), strict=True)) if by_loss and with_loss else {}
    comparisons = []
    for difference in by_score.differences(pairs, level):
        compared = make_comparison(difference, by_score.items, spec, margin, loss_of.get((difference.a, difference.b)))
        if compared.finding == "undecided":
            # Against a base model the question is whether there is a gain, however small.
            needed = by_score.required_sample(difference, pairs, None if is_base(difference.b) else margin)
            compared.needed_items, compared.needed_seeds = needed.items, needed.seeds
            compared.needed_for = needed.needed_for
        comparisons.append(compared)
    by_pair = {(comparison.a, comparison.b): comparison for comparison in comparisons} | dict(kept)
    return [by_pair[pair] for pair in every]


def _base_row(results: LadderResults, name: str) -> RungResult | None:
    run = results.bases.get(name)
    if run is None:
        return None
    row = RungResult(name=name, method=name, status="finished", runs=[run.entry.run], parameters=run.result.parameters)
    before = run.result.before
    row.extra = {view: value.mean for view, value in before.extra.items() if value.mean is not None} if before else {}
    if before:
        row.ended, row.format_errors = mean_share([before.ended]), mean_share([before.format_errors])
    return row


def _row(rung: Rung, ladder: Ladder, results: LadderResults) -> RungResult:
    entries = [entry for entry in ladder.entries if entry.rung == rung.name and entry.kind == "run"]
    runs = [run for run in results.runs if run.entry.rung == rung.name]
    row = RungResult(name=rung.name, method=rung.method, status=status_of(entries), reason=reason_of(entries))
    if not runs:
        return row
    outcomes = [run.result for run in runs]
    last = outcomes[-1]
    row.learning_rate = runs[0].entry.learning_rate
    tried = any(entry.chosen for entry in ladder.entries if entry.rung == rung.name)
    row.learning_rate_origin = "learning-rate trials" if tried else rung.rate_origin
    row.seeds, row.runs = [run.entry.seed for run in runs], [run.entry.run for run in runs]
    scores = [result.after for result in outcomes if result.after]
    names = set.intersection(*(set(score.extra) for score in scores)) if scores else set()
    row.extra = {name: float(np.mean([score.extra[name].mean or 0.0 for score in scores])) for name in sorted(names)}
    row.ended, row.format_errors = mean_share(s.ended for s in scores), mean_share(s.format_errors for s in scores)
    peaks = {
        kind: [used for result in outcomes if (used := getattr(result.peak, kind)) is not None]
        for kind in MeasuredPeak.__struct_fields__
    }
    row.peak = MeasuredPeak(**{kind: max(used, default=None) for kind, used in peaks.items()})
    _add_times(row, runs)
    row.trainable, row.parameters, row.artifact_bytes = last.trainable, last.parameters, last.artifact_bytes
    row.account, row.automatic = last.account, last.automatic
    add_price(row, rung, ladder)
    return row


def _add_times(row: RungResult, runs: Sequence[FinishedRun]) -> None:
    """Times and energy of the runs whose timing is comparable, and the CPU time also of those that were disturbed."""
    alike = [run for run in runs if not run.entry.other_device]
    timed = [run for run in alike if not run.entry.disturbed]
    outcomes = [run.result for run in timed]
    first = runs[0].entry
    row.disturbed = "" if timed else first.disturbed or first.other_device
    row.training_seconds = seed_range(result.training_seconds for result in outcomes)
    row.all_seconds = seed_range(run.entry.seconds for run in timed)
    row.tokens_per_second = seed_range(result.tokens_per_second for result in outcomes)
    row.computed_tokens_per_second = seed_range(result.computed_tokens_per_second for result in outcomes)
    row.energy = seed_range(map(worked_joules, outcomes))
    loads = [run.result.load for run in alike if not run.result.peak.reserved]
    row.cpu_seconds = seed_range(load.cpu_seconds if load and load.complete else None for load in loads)
