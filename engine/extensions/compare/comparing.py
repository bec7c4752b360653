"""Compare results of anyone with the statistics of a ladder: paired by item, with simultaneous intervals.

A result of one file is that model, and its interval is over items alone. Several files of one name are seeds, whose
spread is then part of the intervals, as in a ladder. Files that have only shares of all items are compared unpaired.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np

from engine.config.errors import UserError
from engine.config.metric_specs import MetricSpec, metric_spec, metric_specs
from engine.config.text import amount, listed, visible
from engine.evaluation.intervals import small_sample
from engine.extensions.compare.comparison import MAX_NAMED, ComparedFile, ComparedResult, ResultComparison
from engine.extensions.compare.result_files import LOWER_IS_BETTER, Fields, ItemResult, read_file, read_run
from engine.ladder.phrases import NO_SIGNIFICANT_DIFFERENCE, POWER, SIGNIFICANTLY, needed_sample, p_value
from engine.ladder.report import page, tables
from engine.ladder.report.tables import Cell, ReportColumn, TableLine, report_table
from engine.ladder.required_sample import SampleVariances, required_sample
from engine.ladder.results import make_comparison
from engine.ladder.statistics import CONFIDENCE_LEVEL, Difference, ItemScores, MeanSamples, item_scores
from engine.runs.ladder.rung_results import Comparison, finding_of
from engine.runs.run.result import Interval
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import difference_parts, score_parts

READING = (
    "Differences are paired by item; their 95% CIs hold simultaneously for all pairs, and the adjusted p is below 0.05 "
    "exactly where the CI excludes zero. A result of one file is this model alone, without other seeds; several files "
    "of one name are seeds. The needed items give 80% power if the true difference is the observed one."
)
UNPAIRED = (
    "The files have the share of all items, not the items: differences are those of two independent shares (Newcombe "
    "1998), simultaneous by Bonferroni. Paired by item, they would be narrower."
)


def compare(arguments: dict[str, Any], progress: Any) -> Any:
    """Read what is compared (name, and `file` or `run`), and compare it: the result, and its page and Markdown."""
    fields = Fields(*(arguments[name] for name in Fields._fields))
    read: dict[str, list[ItemResult]] = {}
    for source in arguments["sources"]:
        run, file = source.get("run"), source.get("file")
        progress(f"reading {visible(run or file, 80)}")
        result = read_run(RunDir(Path(run)), fields) if run else read_file(Path(file), fields)
        name = source["name"] or result.name
        if not source["name"] and name in read:
            problem = f"two results are named {visible(name, 80)}"
            hint = "name them NAME=FILE: the same name for seeds of one model, else different ones"
            raise UserError(problem, result.location, hint, "compare.same_name")
        read.setdefault(name, []).append(result)
    if len(read) < 2:
        hint = "name at least two: ftbench compare A.jsonl B.jsonl"
        raise UserError(f"only one result: {visible(''.join(read), 80)}", hint=hint, code="compare.one_result")
    compared = compare_results(read, arguments["margin"], arguments["lower_is_better"])
    return {
        "comparison": msgspec.to_builtins(compared),
        "page": render_page(compared, arguments["command"]),
        "markdown": render_markdown(compared),
    }


def compare_results(
    read: Mapping[str, Sequence[ItemResult]], margin: float, lower_is_better: bool = False
) -> ResultComparison:
    """Compare the results of these names. Raises UserError for different metrics, and without a common item."""
    every = [result for results in read.values() for result in results]
    shares = [result for result in every if result.share]
    if shares and len(shares) < len(every):
        other = next(result for result in every if not result.share)
        problem = (
            f"{visible(shares[0].location)} has no items, only their share, and {visible(other.location)} has items"
        )
        raise UserError(problem, hint="compare files of one kind", code="compare.no_items")
    metrics = {result.metric: name for name, results in read.items() for result in results}
    if len(metrics) > 1:
        (first, a), (second, b) = [*metrics.items()][:2]
        problem = (
            f"different metrics: {visible(a)} is scored with {visible(first)}, {visible(b)} with {visible(second)}"
        )
        raise UserError(problem, hint="choose one that both have with --score", code="compare.different_metrics")
    if shares:
        return _compare_shares(read, margin)

    known = set.intersection(*(set(result.scores) for result in every))
    common = [key for key in every[0].scores if key in known]
    if not common:
        examples = [
            f"{visible(name)} has {visible(next(iter(own[0].scores), 'none'), 60)!r}" for name, own in read.items()
        ]
        hint = "name the column of a key that all have with --key"
        raise UserError(f"no common item: {', '.join(examples)}", hint=hint, code="compare.no_common_item")
    _check_same_items(every, common)
    spec = _spec(next(iter(metrics)), every, lower_is_better)
    groups = _groups(every, common)
    scores: dict[str, ItemScores] = {}
    for name, files in read.items():
        values = np.array([[file.scores[key] for key in common] for file in files])
        weights = np.array([files[0].weights[key] for key in common]) if files[0].weights else None
        scores[name] = item_scores(values, weights, groups, untrained=len(files) == 1)
    samples = MeanSamples(scores, spec.bounds)
    pairs = [(b, a) for a, b in combinations(read, 2)]
    comparisons = []
    for difference in samples.differences(pairs):
        compared = make_comparison(difference, samples.items, spec, margin)
        if compared.finding == "undecided":
            _add_required(compared, samples.variances(difference, pairs), margin)
        comparisons.append(compared)
    results = [
        ComparedResult(
            name=name,
            files=[_compared_file(file, every) for file in files],
            score=samples.interval(name),
            standard_error=standard_error(scores[name]),
            by_seed=[float(mean) for mean in scores[name].seed_means],
        )
        for name, files in read.items()
    ]
    return _concluded(spec, margin, results, comparisons, len(common), samples.n, paired=True)


def standard_error(scores: ItemScores) -> float:
    """Of the mean over items or groups of items, as lm-evaluation-harness and Inspect compute it."""
    deviations = scores.deviations.mean(0)
    count = len(deviations)
    factor, _ = small_sample(np.ones(count) if scores.weights is None else scores.weights)
    return math.sqrt(factor * float((deviations**2).sum())) / count


def _check_same_items(every: Sequence[ItemResult], common: Sequence[str]) -> None:
    """Raises UserError where files of one format have different items under the same key."""
    first: dict[str, ItemResult] = {}
    for result in every:
        other = first.setdefault(result.format, result)
        if differing := [key for key in common if result.contents[key] != other.contents[key]]:
            problem = f"item {visible(differing[0], 60)} is another one in {visible(other.location)}"
            hint = f"{amount(len(differing), 'item')} differ: compare results on the same data"
            raise UserError(problem, visible(result.location), hint, "compare.different_items")


def _groups(every: Sequence[ItemResult], common: Sequence[str]) -> list[str]:
    """The group of each item, '' for one alone. Raises UserError where two results have different ones."""
    groups: dict[str, str] = {}
    for result in every:
        for key in common:
            own = result.groups.get(key, "")
            if own and groups.setdefault(key, own) != own:
                problem = f"item {visible(key, 60)} is in another group than in the other results"
                hint = "name a column that is the same in all with --group"
                raise UserError(problem, visible(result.location), hint, "compare.different_groups")
    return [groups.get(key, "") for key in common]


def _spec(metric: str, every: Sequence[ItemResult], lower_is_better: bool) -> MetricSpec:
    """The known metric of this name, else one whose scores are shares if all are between 0 and 1."""
    if known := metric_specs().get(metric):
        return known
    lower = lower_is_better or metric.lower() in LOWER_IS_BETTER
    is_share = not lower and all(0 <= score <= 1 for result in every for score in result.scores.values())
    bounds, unit = ((0.0, 1.0), "%") if is_share else ((-math.inf, math.inf), "")
    return MetricSpec(name=metric, title=metric_spec(metric).title, lower_is_better=lower, bounds=bounds, unit=unit)


def _compared_file(result: ItemResult, every: Sequence[ItemResult]) -> ComparedFile:
    union = dict.fromkeys(key for other in every for key in other.scores)
    lacking = [key for key in union if key not in result.scores]
    return ComparedFile(
        location=result.location,
        format=result.format,
        fields=result.fields,
        lacking=len(lacking),
        lacking_items=[visible(key, 60) for key in lacking[:MAX_NAMED]],
    )


def _add_required(compared: Comparison, known: SampleVariances | None, margin: float) -> None:
    if known:
        needed = required_sample(compared.difference.mean or 0.0, margin, known)
        compared.needed_items, compared.needed_seeds, compared.needed_for = (
            needed.items,
            needed.seeds,
            needed.needed_for,
        )


def _compare_shares(read: Mapping[str, Sequence[ItemResult]], margin: float) -> ResultComparison:
    """Compare shares of which the items are not known. Raises UserError for several files of one name."""
    spec = _spec("test accuracy", [], False)
    results, shares = [], dict[str, tuple[float, int]]()
    for name, files in read.items():
        if len(files) > 1:
            hint = "name each file differently"
            raise UserError("shares of several seeds", visible(name), hint, "compare.seeds_of_shares")
        assert files[0].share
        share, items = shares[name] = files[0].share
        low, high = wilson(share, items)
        results.append(
            ComparedResult(
                name=name,
                files=[_compared_file(files[0], files)],
                score=Interval(mean=share, low=low, high=high, rows=items),
                standard_error=math.sqrt(share * (1 - share) / items),
                by_seed=[share],
            )
        )
    pairs = [(b, a) for a, b in combinations(read, 2)]
    comparisons = []
    for a, b in pairs:
        difference = share_difference((a, *shares[a]), (b, *shares[b]), len(pairs))
        compared = make_comparison(difference, items, spec, margin)
        if compared.finding == "undecided":
            variance, critical = sum(share * (1 - share) for share, _ in (shares[a], shares[b])), _critical(len(pairs))
            known = SampleVariances(variance, np.zeros(1), items, 1, critical, critical)
            _add_required(compared, known, margin)
        comparisons.append(compared)
    return _concluded(spec, margin, results, comparisons, items, items, paired=False)


def _critical(pairs: int) -> float:
    return NormalDist().inv_cdf(1 - (1 - CONFIDENCE_LEVEL) / 2 / pairs)


def wilson(share: float, items: int, critical: float = NormalDist().inv_cdf(0.975)) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share."""
    square = critical**2 / items
    middle, reach = share + square / 2, critical * math.sqrt(share * (1 - share) / items + square / 4 / items)
    return max(0.0, (middle - reach) / (1 + square)), min(1.0, (middle + reach) / (1 + square))


def share_difference(a: tuple[str, float, int], b: tuple[str, float, int], pairs: int) -> Difference:
    """The difference a − b of two independent shares, (name, share, items) each, by Newcombe's method 10 (1998).

    The intervals of so many `pairs` hold simultaneously by Bonferroni; p is the level at which the interval ends at 0.
    """
    mean = a[1] - b[1]

    def reach(critical: float, above: bool) -> float:
        (low_a, high_a), (low_b, high_b) = wilson(a[1], a[2], critical), wilson(b[1], b[2], critical)
        return math.hypot(high_a - a[1], b[1] - low_b) if above else math.hypot(a[1] - low_a, high_b - b[1])

    below, above = (reach(_critical(pairs), side) for side in (False, True))
    least, most = 0.0, 40.0
    for _ in range(60):
        middle = (least + most) / 2
        least, most = (middle, most) if reach(middle, mean < 0) < abs(mean) else (least, middle)
    p = min(1.0, 2 * NormalDist().cdf(-least) * pairs)
    return Difference(a[0], b[0], mean, mean - below, mean + above, (below + above) / 2, p)


def _concluded(
    spec: MetricSpec,
    margin: float,
    results: list[ComparedResult],
    comparisons: list[Comparison],
    items: int,
    units: int,
    paired: bool,
) -> ResultComparison:
    compared = ResultComparison(
        metric=spec.name,
        is_share=spec.is_share,
        lower_is_better=spec.lower_is_better,
        margin=margin,
        items=items,
        units=units,
        paired=paired,
        results=results,
        comparisons=comparisons,
        sentences=[],
    )
    compared.sentences = [*_sentences(compared)]
    return compared


def finding_text(compared: ResultComparison, pair: Comparison) -> str:
    """`A is significantly better than B`, or what would decide it."""
    a, b = visible(pair.a), visible(pair.b)
    if pair.finding in SIGNIFICANTLY:
        return f"{a} is {SIGNIFICANTLY[pair.finding]} than {b}"
    points = f"{100 * compared.margin:g} points" if compared.is_share else f"{compared.margin:g}"
    within = f"within the margin of {points}"
    low, high = pair.difference.low, pair.difference.high
    if low is not None and high is not None:
        low, high = (-high, -low) if compared.lower_is_better else (low, high)
        for first, second, bounds in ((a, b, (low, high)), (b, a, (-high, -low))):
            if finding_of(*bounds, compared.margin) == "as_good":
                return f"{first} is as good as {second} {within}"
    text = f"{NO_SIGNIFICANT_DIFFERENCE} with {amount(compared.items, 'item')}"
    goal = f" to show that each is as good as the other {within}" if pair.needed_for == "as_good" else ""
    needed = needed_sample(pair)
    return f"{text}; {needed} {POWER}{goal}" if needed else text


def _sentences(compared: ResultComparison) -> Iterator[str]:
    """The finding on each pair, then what is left out."""
    for pair in compared.comparisons:
        finding = finding_text(compared, pair)
        subject = (
            f"{visible(pair.a)} against {visible(pair.b)}: " if finding.startswith(NO_SIGNIFICANT_DIFFERENCE) else ""
        )
        yield f"{subject}{finding}."
    for result in compared.results:
        for file in result.files:
            if file.lacking:
                more = [f"{file.lacking - MAX_NAMED:,} more"] if file.lacking > MAX_NAMED else []
                named = listed([*file.lacking_items, *more])
                yield f"{visible(file.location)} has no score of {amount(file.lacking, 'item')}, left out: {named}."
    if compared.units < compared.items:
        yield f"{amount(compared.items, 'item')} in {amount(compared.units, 'group')}, the units of the intervals."


def _tables(compared: ResultComparison) -> list[tables.ReportTable]:
    is_share = compared.is_share

    def difference(pair: Comparison) -> Cell:
        return tables.cell(*difference_parts(pair.difference, is_share))

    def score(result: ComparedResult) -> Cell:
        return tables.cell(*score_parts(result.score, is_share))

    def read_as(result: ComparedResult) -> str:
        return ", ".join(dict.fromkeys(f"{file.format}: {file.fields}" for file in result.files))

    of_results: list[ReportColumn[ComparedResult]] = [
        ReportColumn(metric_spec(compared.metric).title, score),
        ReportColumn("standard error", lambda result: f"{result.standard_error:.3g}"),
        ReportColumn("files", lambda result: f"{len(result.files)}"),
        ReportColumn("read as", read_as, words=True),
    ]
    of_pairs: list[ReportColumn[Comparison]] = [
        ReportColumn("difference", difference),
        ReportColumn("adjusted p", lambda pair: p_value(pair.p_adjusted)),
        ReportColumn("finding", lambda pair: finding_text(compared, pair), words=True),
    ]
    results = report_table(
        "Results", "result", compared.results, lambda result: TableLine(Cell(visible(result.name))), of_results
    )
    comparisons = report_table(
        "Pairwise comparisons",
        "pair",
        compared.comparisons,
        lambda pair: TableLine(Cell(f"{visible(pair.a)} − {visible(pair.b)}")),
        of_pairs,
        [READING if compared.paired else UNPAIRED],
    )
    return [results, comparisons]


def _title(compared: ResultComparison) -> str:
    return " · ".join(visible(result.name) for result in compared.results)


def _facts(compared: ResultComparison) -> list[str]:
    kind = "paired" if compared.paired else "unpaired"
    direction = ", lower is better" if compared.lower_is_better else ""
    return [f"{amount(compared.items, 'item')}, {kind}", f"metric: {metric_spec(compared.metric).title}{direction}"]


def render_page(compared: ResultComparison, command: str) -> str:
    """The comparison as a page."""
    return page.OverviewPage(
        kind="comparison",
        name="",
        title=_title(compared),
        facts=_facts(compared),
        results=_tables(compared),
        sentences=compared.sentences,
        command=command,
    ).render()


def render_markdown(compared: ResultComparison) -> str:
    """The same in Markdown."""
    facts = page.escape_inline(" · ".join(_facts(compared)))
    sentences = page.bullets(map(page.escape_inline, compared.sentences))
    shown = map(page.markdown_table, _tables(compared))
    return "\n\n".join([f"# {page.escape_inline(_title(compared))}", facts, sentences, *shown]) + "\n"
