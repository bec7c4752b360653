"""The results of a sweep: a point per rung and cell, trends along the axes, where the rule of thumb holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from engine.config.method_specs import RULE_CANDIDATE, RULE_REFERENCE
from engine.config.quantities import ABSENT, decimal, percent, ratio
from engine.config.text import amount, listed
from engine.ladder.decisions import rule_check_of_cost, rule_check_of_gain
from engine.ladder.phrases import RULE, ratio_bounds, rung_title
from engine.ladder.recommendation import cost_ratios
from engine.ladder.statistics import CONFIDENCE_LEVEL
from engine.runs.ladder.ladder_state import BASE, Ladder, is_base
from engine.runs.ladder.sweep import Check, Sweep, SweepPoint, Trend, cell_text
from engine.runs.run.result import Z_95, Interval, student_quantile

Point = tuple[float, float, float]
"""x, y, and the standard error of y; 0 if it is unknown."""


def slope(points: Sequence[Point]) -> Interval | None:
    """Slope of y on x by weighted least squares; None for fewer than three points or equal x.

    Where the points scatter more than their errors, or have none, the residuals determine the interval, with Student's
    t on n − 2 degrees of freedom (Draper and Smith, Applied Regression Analysis, 1998, ch. 1). Errors are taken as
    independent: where they are positively correlated, as for the same test items, the interval is rather too wide.
    """
    degrees = len(points) - 2
    if degrees < 1:
        return None
    known = all(error > 0 for _, _, error in points)
    weighted = [(1 / error**2 if known else 1.0, x, y) for x, y, error in points]
    total = sum(w for w, _, _ in weighted)
    x_mean, y_mean = sum(w * x for w, x, _ in weighted) / total, sum(w * y for w, _, y in weighted) / total
    spread = sum(w * (x - x_mean) ** 2 for w, x, _ in weighted)
    if spread <= 0:
        return None
    value = sum(w * (x - x_mean) * (y - y_mean) for w, x, y in weighted) / spread
    scatter = sum(w * (y - y_mean - value * (x - x_mean)) ** 2 for w, x, y in weighted) / degrees
    half = student_quantile(degrees) * math.sqrt(scatter / spread)
    if known:
        half = max(Z_95 / math.sqrt(spread), half if scatter > 1 else 0.0)
    return Interval(mean=value, low=value - half, high=value + half, rows=len(points))


MIN_TREND = 3
"""Cells with a share of the gain from which there is a trend: a line always fits two points."""


RULE_VERBS: dict[Check, str] = {
    "holds": "holds",
    "fails": "does not hold",
    "undecided": "is undecided",
    "unknown": "cannot be checked",
}


def summarize_sweep(sweep: Sweep, ladders: Sequence[Ladder | None]) -> None:
    """Fill in points, trends, headline and sentences from the states of the cells' ladders."""
    sweep.points = [
        point for number, ladder in enumerate(ladders) if ladder and ladder.summary for point in _points(number, ladder)
    ]
    _adjust(sweep.points)
    for cell, ladder in zip(sweep.cells, ladders, strict=True):
        cell.base, cell.full = (_score(ladder, name) for name in (BASE, RULE_REFERENCE))
    sweep.metric = next((ladder.work.metric for ladder in ladders if ladder and ladder.work), "")
    sweep.cost = next(
        (ladder.summary.cost for ladder in ladders if ladder and ladder.summary and ladder.summary.cost), ""
    )
    sweep.trends = list(_trends(sweep))
    sweep.headline = _headline(sweep, [ladder for ladder in ladders if ladder])
    sweep.sentences = [*map(trend_sentence, sweep.trends), *_missing(sweep), *_different_work(ladders)]


def _adjust(points: Sequence[SweepPoint]) -> None:
    """Leave undecided what is not significant among all ladders in which a rung has a share of the gain (Holm 1979)."""
    for rung in {point.rung for point in points}:
        own = [point for point in points if point.rung == rung and point.p is not None]
        significant = True
        for number, point in enumerate(sorted(own, key=lambda point: point.p or 0.0)):
            significant &= (point.p or 0.0) <= (1 - CONFIDENCE_LEVEL) / (len(own) - number)
            if not significant and point.quality in ("holds", "fails"):
                point.quality = "undecided"


def _score(ladder: Ladder | None, method: str) -> Interval | None:
    """The score of the first rung of a method, or of the base model."""
    return next((row.score for row in ladder.rows if row.method == method and row.score), None) if ladder else None


def _points(number: int, ladder: Ladder) -> Iterator[SweepPoint]:
    """Every trained rung except full fine-tuning."""
    costs = cost_ratios(ladder)
    for row in ladder.rows:
        if is_base(row.name) or row.source or row.method == RULE_REFERENCE or row.score is None:
            continue
        point = SweepPoint(cell=number, rung=row.name, title=rung_title(row.name), score=row.score, why=row.no_share)
        if row.share_of_gain and row.share_of_gain.mean is not None:
            point.share_of_gain = row.share_of_gain
            point.quality, point.p = rule_check_of_gain(row.share_of_gain), row.rule_p
        if cost := costs.get(row.name):
            point.cost = cost
            point.cheap = rule_check_of_cost(cost.low, cost.high)
        yield point


def _trends(sweep: Sweep) -> Iterator[Trend]:
    """A trend per rung and numeric axis, at each value of the other axis."""
    rungs = dict.fromkeys((point.rung, point.title) for point in sweep.points)
    for axis in sweep.axes:
        others = [other for other in sweep.axes if other is not axis]
        fixed: list[dict[str, Any]] = [{other.key: value} for other in others for value in other.values] or [{}]
        for at in fixed if axis.is_numeric else []:
            for rung, title in rungs:
                points = [
                    (float(sweep.cells[point.cell].values[axis.key]), point)
                    for point in sweep.points
                    if point.rung == rung and at.items() <= sweep.cells[point.cell].values.items()
                ]
                trend = Trend(rung=rung, title=title, key=axis.key, at=at)
                trend.share_of_gain = _share_trend(points)
                trend.cost = _cost_trend(points)
                if trend.share_of_gain or trend.cost:
                    yield trend


def _share_trend(points: Sequence[tuple[float, SweepPoint]]) -> Interval | None:
    """Change of the share of the gain per doubling."""
    shares = [
        (math.log2(x), share.mean, (share.high - share.low) / (2 * Z_95))
        for x, point in points
        if (share := point.share_of_gain)
        and share.mean is not None
        and share.low is not None
        and share.high is not None
        and share.high > share.low
    ]
    return slope(shares) if len(shares) >= MIN_TREND else None


def _cost_trend(points: Sequence[tuple[float, SweepPoint]]) -> Interval | None:
    """Factor of the cost ratio per doubling, from its logarithm; all cells count the same."""
    costs = [(x, point.cost.mean) for x, point in points if point.cost and point.cost.mean > 0]
    ratios = [(math.log2(x), math.log2(cost), 0.0) for x, cost in costs]
    change = slope(ratios) if len(ratios) >= MIN_TREND else None
    if change is None or change.mean is None or change.low is None or change.high is None:
        return None
    return Interval(mean=2**change.mean, low=2**change.low, high=2**change.high, rows=change.rows)


def trend_sentence(trend: Trend) -> str:
    """`QLoRA: per doubling of adapter.rank, its share of the gain changes by +3.1 points, 95% CI [1.0, 5.2].`"""
    at = f" at {cell_text(trend.at)}" if trend.at else ""
    parts = []
    if share := trend.share_of_gain:
        bounds = f"[{_points_text(share.low)}, {_points_text(share.high)}]"
        sure = share.low is not None and share.high is not None and (share.low > 0 or share.high < 0)
        text = f"its share of the gain changes by {_points_text(share.mean)} points, 95% CI {bounds}"
        parts.append(text if sure else f"{text}, no significant trend")
    if cost := trend.cost:
        bounds = f"[{_factor(cost.low)}, {_factor(cost.high)}]"
        parts.append(f"its cost ratio changes by a factor of {_factor(cost.mean)}, 95% CI {bounds}")
    return f"{trend.title}{at}: per doubling of {trend.key}, {'; '.join(parts)}."


def _points_text(value: float | None) -> str:
    return decimal(None if value is None else 100 * value, 1, signed=True)


def _factor(value: float | None) -> str:
    return decimal(value, 2)


def _headline(sweep: Sweep, ladders: Sequence[Ladder]) -> str:
    """In which ladders the rule of thumb holds; without QLoRA, the range of the shares of the gain."""
    done = {point.cell for point in sweep.points}
    if not done:
        return ""
    methods = {row.name: row.method for ladder in ladders for row in ladder.rows}
    candidates = [point for point in sweep.points if methods.get(point.rung) == RULE_CANDIDATE]
    of = f"{amount(len(done), 'ladder')}" + (f" of {len(sweep.cells)} planned" if len(done) < len(sweep.cells) else "")
    if not candidates:
        shares = [
            point.share_of_gain.mean for point in sweep.points if point.share_of_gain and point.share_of_gain.mean
        ]
        if not shares:
            return f"No rung has a share of full fine-tuning's gain in {of}."
        return f"Rungs keep {percent(min(shares))} to {percent(max(shares))} of full fine-tuning's gain in {of}."
    names = listed(list(dict.fromkeys(point.title for point in candidates)))
    parts = []
    for check, verb in RULE_VERBS.items():
        where = [cell_text(sweep.cells[point.cell].values) for point in candidates if point.rule == check]
        if where:
            parts.append(f"{verb} in {len(where)}" + (f" ({'; '.join(where)})" if check == "holds" else ""))
    tested = len({point.cell for point in candidates if point.p is not None})
    adjusted = f", at an error rate of 5% for all {tested} ladders together" if tested > 1 else ""
    return f"{names}: of {of}, {RULE} {listed(parts)}{adjusted}."


def _missing(sweep: Sweep) -> list[str]:
    """Which cells are missing, and why."""
    by_reason: dict[str, list[str]] = {}
    for cell in sweep.cells:
        if cell.status in ("missing", "failed"):
            again = f"; `ftbench resume {sweep.name}` tries it again" if cell.status == "failed" else ""
            by_reason.setdefault(f"{cell.reason}{again}", []).append(cell_text(cell.values))
    return [f"Not run: {'; '.join(cells)}: {reason}." for reason, cells in by_reason.items()]


def _different_work(ladders: Sequence[Ladder | None]) -> list[str]:
    """Whether the cells were scored on different test rows, so that a trend is partly due to them."""
    tests = {ladder.work.fingerprints.get("test", "") for ladder in ladders if ladder and ladder.work}
    if len(tests) > 1:
        return ["The ladders were not scored on the same test rows: differences between them are partly due to that."]
    return []


def rule_text(point: SweepPoint) -> str:
    """`holds`, `does not hold (cost)`, `undecided (quality)`, `cannot be checked (quality)`."""
    names = {"quality": point.quality, "cost": point.cheap}
    because = [name for name, check in names.items() if check == point.rule]
    text = RULE_VERBS[point.rule].removeprefix("is ")
    return text if point.rule == "holds" else f"{text} ({' and '.join(because)})"


def cost_texts(point: SweepPoint) -> tuple[str, str]:
    """`0.42×` and `[0.40, 0.45]`: the ratio and its 95% interval, which full fine-tuning's own has not."""
    if point.cost is None:
        return ABSENT, ""
    return ratio(point.cost.mean), ratio_bounds(point.cost)
