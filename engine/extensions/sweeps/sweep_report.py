"""A sweep's results and its report: points, trends and headline; one HTML page and the same in Markdown."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from engine.config.files import write_atomically
from engine.config.method_specs import RULE_CANDIDATE, RULE_REFERENCE
from engine.config.metric_specs import LOSS, metric_spec
from engine.config.quantities import ABSENT, decimal, duration, percent, ratio
from engine.config.text import amount, listed
from engine.extensions.sweeps.sweep import Check, Sweep, SweepPoint, Trend, axis_value_text, cell_text
from engine.extensions.sweeps.sweep_dir import SweepDir
from engine.ladder.decisions import RULE_COST_RATIO, RULE_GAIN_SHARE, rule_check_of_cost, rule_check_of_gain
from engine.ladder.phrases import RULE, RULE_GAIN, metric_title, ratio_bounds, rung_title
from engine.ladder.recommendation import cost_ratios
from engine.ladder.report import page
from engine.ladder.report.figures import (
    GRID_COLOR,
    MUTED,
    Bounds,
    ReportFigure,
    draw_point,
    inline_svg,
    legend,
    new_figure,
    rung_styles,
    ticks,
)
from engine.ladder.report.record import from_anywhere
from engine.ladder.report.tables import (
    Cell,
    ReportColumn,
    ReportTable,
    TableLine,
    cell,
    noted,
    report_table,
    score_cell,
    share_cell,
)
from engine.ladder.statistics import CONFIDENCE_LEVEL
from engine.runs import score_format
from engine.runs.ladder.ladder_state import BASE, Ladder, is_base
from engine.runs.ladder.rung_results import CostRatio
from engine.runs.run.folder import short_name
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


RULE_VERBS: dict[Check, str] = {
    "holds": "holds",
    "fails": "does not hold",
    "undecided": "is undecided",
    "unknown": "cannot be checked",
}


def summarize_sweep(sweep: Sweep, ladders: Sequence[Ladder | None]) -> None:
    """Fill in points, trends, headline and sentences from the states of the cells' ladders."""
    known = [ladder for ladder in ladders if ladder]
    sweep.points = [
        point for number, ladder in enumerate(ladders) if ladder and ladder.summary for point in _points(number, ladder)
    ]
    _adjust(sweep.points)
    for swept, ladder in zip(sweep.cells, ladders, strict=True):
        scores = [(row.method, row.score) for row in (ladder.rows if ladder else []) if row.score]
        swept.base = next((score for method, score in scores if method == BASE), None)
        swept.full = next((score for method, score in scores if method == RULE_REFERENCE), None)
    sweep.metric = next((ladder.work.metric for ladder in known if ladder.work), "")
    sweep.cost = next((ladder.summary.cost for ladder in known if ladder.summary and ladder.summary.cost), "")
    sweep.trends = list(_trends(sweep))
    sweep.headline = _headline(sweep, known)

    missing: dict[str, list[str]] = {}
    for swept in sweep.cells:
        if swept.status in ("missing", "failed"):
            again = f"; `ftbench resume {sweep.name}` tries it again" if swept.status == "failed" else ""
            missing.setdefault(f"{swept.reason}{again}", []).append(cell_text(swept.values))
    sweep.sentences = [*map(trend_sentence, sweep.trends)]
    sweep.sentences += [f"Not run: {'; '.join(cells)}: {reason}." for reason, cells in missing.items()]
    if len({ladder.work.fingerprints.get("test", "") for ladder in known if ladder.work}) > 1:
        text = "The ladders were not scored on the same test rows: differences between them are partly due to that."
        sweep.sentences.append(text)


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


def _adjust(points: Sequence[SweepPoint]) -> None:
    """Leave undecided what is not significant among all ladders in which a rung has a share of the gain (Holm 1979)."""
    for rung in {point.rung for point in points}:
        own = [point for point in points if point.rung == rung and point.p is not None]
        significant = True
        for number, point in enumerate(sorted(own, key=lambda point: point.p or 0.0)):
            significant &= (point.p or 0.0) <= (1 - CONFIDENCE_LEVEL) / (len(own) - number)
            if not significant and point.quality in ("holds", "fails"):
                point.quality = "undecided"


def _trends(sweep: Sweep) -> Iterator[Trend]:
    """A trend per rung and numeric axis, at each value of the other axis; needs three cells, as `slope` does."""
    rungs = dict.fromkeys((point.rung, point.title) for point in sweep.points)
    for axis in sweep.axes:
        others = [other for other in sweep.axes if other is not axis]
        fixed: list[dict[str, Any]] = [{other.key: value} for other in others for value in other.values] or [{}]
        for at, (rung, title) in itertools.product(fixed if axis.is_numeric else [], rungs):
            points = [
                (math.log2(float(sweep.cells[point.cell].values[axis.key])), point)
                for point in sweep.points
                if point.rung == rung and at.items() <= sweep.cells[point.cell].values.items()
            ]
            trend = Trend(rung=rung, title=title, key=axis.key, at=at)
            trend.share_of_gain = slope(
                [
                    (x, share.mean, (share.high - share.low) / (2 * Z_95))
                    for x, point in points
                    if (share := point.share_of_gain)
                    and share.mean is not None
                    and share.low is not None
                    and share.high is not None
                    and share.high > share.low
                ]
            )
            # The factor of the cost ratio, from its logarithm; all cells count the same.
            costs = [(x, point.cost.mean) for x, point in points if point.cost and point.cost.mean > 0]
            change = slope([(x, math.log2(cost), 0.0) for x, cost in costs])
            if change and change.mean is not None and change.low is not None and change.high is not None:
                low, high = 2**change.low, 2**change.high
                trend.cost = Interval(mean=2**change.mean, low=low, high=high, rows=change.rows)
            if trend.share_of_gain or trend.cost:
                yield trend


def trend_sentence(trend: Trend) -> str:
    """`QLoRA: per doubling of adapter.rank, its share of the gain changes by +3.1 points, 95% CI [1.0, 5.2].`"""
    at = f" at {cell_text(trend.at)}" if trend.at else ""
    parts = []
    if share := trend.share_of_gain:
        mean, low, high = (
            decimal(None if end is None else 100 * end, 1, signed=True) for end in (share.mean, share.low, share.high)
        )
        sure = share.low is not None and share.high is not None and (share.low > 0 or share.high < 0)
        text = f"its share of the gain changes by {mean} points, 95% CI [{low}, {high}]"
        parts.append(text if sure else f"{text}, no significant trend")
    if cost := trend.cost:
        mean, low, high = (decimal(end, 2) for end in (cost.mean, cost.low, cost.high))
        parts.append(f"its cost ratio changes by a factor of {mean}, 95% CI [{low}, {high}]")
    return f"{trend.title}{at}: per doubling of {trend.key}, {'; '.join(parts)}."


def _headline(sweep: Sweep, ladders: Sequence[Ladder]) -> str:
    """In which ladders the rule of thumb holds; without QLoRA, the range of the shares of the gain."""
    done = {point.cell for point in sweep.points}
    if not done:
        return ""
    methods = {row.name: row.method for ladder in ladders for row in ladder.rows}
    candidates = [point for point in sweep.points if methods.get(point.rung) == RULE_CANDIDATE]
    of = amount(len(done), "ladder") + (f" of {len(sweep.cells)} planned" if len(done) < len(sweep.cells) else "")
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


class Measure(NamedTuple):
    """What a figure shows, and the limit of the rule of thumb for it; None without one."""

    value: Callable[[SweepPoint], Bounds | None]
    text: Callable[[float], str]
    limit: float | None
    caption: str


BARS = "Bars: pointwise 95% CI."
SHADED = f"Shaded: QLoRA's share of the gain is at least {RULE_GAIN_SHARE:.0%} at no more than one eighth of the cost."


def _bounds(interval: Interval | CostRatio | None, scale: float = 1.0) -> Bounds | None:
    """Mean, low and high; None if one of them is unknown."""
    if interval is None or interval.mean is None or interval.low is None or interval.high is None:
        return None
    return interval.mean * scale, interval.low * scale, interval.high * scale


SHARE = Measure(
    lambda point: _bounds(point.share_of_gain, 100.0),
    lambda value: percent(value / 100),
    100 * RULE_GAIN_SHARE,
    f"{BARS} Dashed: {RULE_GAIN}.",
)
COST_RATIO = Measure(
    lambda point: _bounds(point.cost), ratio, RULE_COST_RATIO, "Bars: 95% CI. Dashed: one eighth of the cost."
)


def sweep_figures(sweep: Sweep) -> list[ReportFigure]:
    """Three figures for each value of the second axis: scores, share of the gain, and cost ratio."""
    second, spec = sweep.axes[1] if len(sweep.axes) > 1 else None, metric_spec(sweep.metric or LOSS.name)
    name = f"{spec.title[:1].upper()}{spec.title[1:]}"
    measure = Measure(
        lambda point: _bounds(point.score, spec.scale),
        lambda value: score_format.score(value / spec.scale, spec.name),
        None,
        BARS,
    )
    figures: list[ReportFigure] = []
    for at in [{second.key: value} for value in second.values] if second else [{}]:
        points = [p for p in sweep.points if at.items() <= sweep.cells[p.cell].values.items()]
        where = f" at {cell_text(at)}" if at else ""
        references = [  # full fine-tuning and the base model, which have no shares
            SweepPoint(cell=number, rung=rung, title=rung_title(rung), score=score)
            for number in sorted({point.cell for point in points})
            for rung, score in ((RULE_REFERENCE, sweep.cells[number].full), (BASE, sweep.cells[number].base))
            if score is not None
        ]
        cost = sweep.cost or "cost"
        figures += _figure(sweep, [*points, *references], f"{name}{where}", f"{spec.title}, {spec.unit}", measure)
        figures += _figure(sweep, points, f"Share of full’s gain{where}", "share of full's gain, %", SHARE)
        figures += _figure(sweep, points, f"Share of full’s {cost}{where}", f"share of full's {cost}", COST_RATIO)
    return figures


def _figure(sweep: Sweep, points: Sequence[SweepPoint], title: str, label: str, measure: Measure) -> list[ReportFigure]:
    """A measure along the first axis, whose values are equally spaced, in the order of the command line."""
    shown = [(point, bounds) for point in points if (bounds := measure.value(point)) is not None]
    if not shown:
        return []
    axis, caption = sweep.axes[0], measure.caption
    places = [axis.values.index(swept.values[axis.key]) for swept in sweep.cells]
    rungs = list(dict.fromkeys(point.rung for point, _ in shown))
    styles = rung_styles({name: name for name in rungs})
    ends = [end for _, bounds in shown for end in bounds]
    with new_figure(axis.key, label) as (figure, axes):
        if measure.limit is not None:
            shaded = {places[point.cell] for point in points if point.rule == "holds"}
            for place in shaded:
                axes.axvspan(place - 0.5, place + 0.5, color=GRID_COLOR, linewidth=0)
            caption += f" {SHADED}" if shaded else ""
        for order, name in enumerate(rungs):
            style, shift = styles[name], 0.06 * (order - (len(rungs) - 1) / 2)  # so that all bars are visible
            own = sorted((places[point.cell], bounds) for point, bounds in shown if point.rung == name)
            xs = [place + shift for place, _ in own]
            axes.plot(xs, [mean for _, (mean, _, _) in own], color=style.color, dashes=style.dashes)
            for x, (_, bounds) in zip(xs, own, strict=True):
                draw_point(axes, style, (x, x, x), bounds)
        if measure.limit is not None:
            axes.axhline(measure.limit, color=MUTED, linewidth=1.0, dashes=(4, 3))
            ends.append(measure.limit)
        axes.set_xlim(-0.5, len(axis.values) - 0.5)
        axes.set_xticks(range(len(axis.values)), [axis_value_text(value)[:16] for value in axis.values])
        low, high = min(ends), max(ends)
        pad = 0.06 * (high - low or 1.0)
        axes.set_ylim(low - pad, high + pad)
        ticks(axes.yaxis, [low, high])
        legend(figure, styles, rungs, marker=True)
        name = "".join(c for c in title.lower().replace(" ", "-") if c.isascii() and (c.isalnum() or c == "-"))
        description = ", ".join(
            f"{point.title} {measure.text(bounds[0])} at {cell_text(sweep.cells[point.cell].values)}"
            for point, bounds in shown
        )
        svg = inline_svg(figure, f"sweep-{name}", f"{title}: {description}")
    return [ReportFigure(title, svg, caption)]


READING = (
    "Each row is a rung of one ladder, whose report is linked. Brackets are pointwise 95% confidence intervals. Costs "
    "are ratios to full fine-tuning's in the same ladder, with 95% CIs. "
    "Trends are slopes of weighted least squares on the logarithm of the setting; all ladders have the same test "
    "items, which makes their intervals conservative (too wide)."
)


def write(folder: SweepDir, sweep: Sweep) -> None:
    """Write `report.html` and `report.md`, each atomically. Raises OSError if they cannot be written."""
    write_atomically(folder.page, html(sweep).encode())
    write_atomically(folder.markdown, text(sweep).encode())


def title(sweep: Sweep) -> str:
    """`demo by adapter.rank and data.max_rows`."""
    return f"{sweep.preset} by {' and '.join(axis.key for axis in sweep.axes)}"


def facts(sweep: Sweep) -> list[str]:
    """The line below the title."""
    done = sum(cell.status == "finished" for cell in sweep.cells)
    spent = f"{duration(sweep.spent)} spent" + (f" of {duration(sweep.budget)}" if sweep.budget else "")
    return [f"{done} of {amount(len(sweep.cells), 'ladder')} finished", spent, page.date_text(sweep.created)]


def results(sweep: Sweep) -> ReportTable:
    """One line per rung and cell; a cell without points has its status instead."""
    keys = [axis.key for axis in sweep.axes]
    metric = metric_title(sweep.metric) if sweep.metric else "score"

    def line(point: SweepPoint) -> TableLine:
        """The value of the first axis, with that of the other one."""
        swept = sweep.cells[point.cell]
        head = cell(axis_value_text(swept.values[keys[0]]), cell_text({key: swept.values[key] for key in keys[1:]}))
        return TableLine(head, instead="" if point.rung else ": ".join(filter(None, [swept.status, swept.reason])))

    def ladder(point: SweepPoint) -> Cell:
        swept = sweep.cells[point.cell]
        link = f"../{quote(swept.ladder)}/report.html" if swept.status == "finished" else ""
        return Cell(short_name(swept.ladder), link=link)

    def cost(point: SweepPoint) -> Cell:
        return cell(ratio(point.cost.mean), ratio_bounds(point.cost)) if point.cost else Cell(ABSENT)

    def rule(point: SweepPoint) -> str:
        """`holds`, `does not hold (cost)`, `undecided (quality)`, `cannot be checked (quality)`."""
        because = [name for name, check in (("quality", point.quality), ("cost", point.cheap)) if check == point.rule]
        text = RULE_VERBS[point.rule].removeprefix("is ")
        return text if point.rule == "holds" else f"{text} ({' and '.join(because)})"

    columns: list[ReportColumn[SweepPoint]] = [
        ReportColumn("rung", lambda point: point.title, words=True),
        ReportColumn("rung", lambda point: score_cell(point.score, sweep.metric), metric),
        ReportColumn("full", lambda point: score_cell(sweep.cells[point.cell].full, sweep.metric), metric),
        ReportColumn("base", lambda point: score_cell(sweep.cells[point.cell].base, sweep.metric), metric),
        ReportColumn("gain", lambda point: share_cell(point.share_of_gain), "share of full’s"),
        ReportColumn(sweep.cost or "cost", cost, "share of full’s"),
        ReportColumn("rule of thumb", rule, words=True),
        ReportColumn("ladder", ladder),
    ]
    rows = []
    for number in range(len(sweep.cells)):
        points = [point for point in sweep.points if point.cell == number]
        rows += points or [SweepPoint(cell=number, rung="", title="")]
    missing = [(f"{point.title} at {cell_text(sweep.cells[point.cell].values)}", point.why) for point in sweep.points]
    notes = noted("No share of full’s gain", [(where, why) for where, why in missing if why])
    return report_table("Results", keys[0], rows, line, columns, notes)


def text(sweep: Sweep) -> str:
    parts = [f"# {page.escape_inline(title(sweep))}", page.escape_inline(" · ".join(facts(sweep)))]
    parts += [f"**{page.escape_inline(sweep.headline)}**"] if sweep.headline else []
    parts += [page.bullets(map(page.escape_inline, sweep.sentences))] if sweep.sentences else []
    parts += [page.markdown_table(results(sweep)), page.escape_inline(READING)]
    parts += ["Run the sweep:", page.fenced(from_anywhere(sweep))] if sweep.command else []
    return "\n\n".join(parts) + "\n"


def html(sweep: Sweep) -> str:
    """The report as a page without scripts and requests."""
    return page.OverviewPage(
        kind="sweep",
        name=sweep.name,
        title=title(sweep),
        facts=facts(sweep),
        results=[results(sweep)],
        sentences=sweep.sentences,
        headline=sweep.headline,
        figures=sweep_figures(sweep),
        reading=READING,
        unfinished="" if sweep.status == "finished" else f"Partial report: {sweep.status}. {sweep.reason}",
        command=from_anywhere(sweep) if sweep.command else "",
    ).render()
