"""A sweep's report: one HTML page and the same in Markdown, next to `sweep.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from engine.config.files import write_atomically
from engine.config.method_specs import RULE_REFERENCE
from engine.config.metric_specs import LOSS, metric_spec
from engine.config.quantities import duration, percent, ratio
from engine.config.text import amount
from engine.ladder.decisions import RULE_COST_RATIO, RULE_GAIN_SHARE
from engine.ladder.phrases import RULE_GAIN, metric_title, rung_title
from engine.ladder.report import page
from engine.ladder.report.drawing import (
    GRID_COLOR,
    MUTED,
    Bounds,
    ReportFigure,
    RungStyle,
    draw_point,
    inline_svg,
    legend,
    new_figure,
    styles,
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
from engine.ladder.sweep_results import cost_texts, rule_text
from engine.runs import score_format
from engine.runs.ladder.ladder_dir import SweepDir
from engine.runs.ladder.ladder_state import BASE
from engine.runs.ladder.rung_results import CostRatio
from engine.runs.ladder.sweep import Sweep, SweepPoint, cell_text, value_text
from engine.runs.run.folder import short_name
from engine.runs.run.result import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Measure(NamedTuple):
    """What a figure shows, and the limit of the rule of thumb for it; None without one."""

    value: Callable[[SweepPoint], Bounds | None]
    text: Callable[[float], str]
    limit: float | None
    bars: str
    rule: str


BARS = "Bars: pointwise 95% CI."
SHADED = f"Shaded: QLoRA's share of the gain is at least {RULE_GAIN_SHARE:.0%} at no more than one eighth of the cost."


def sweep_figures(sweep: Sweep) -> list[ReportFigure]:
    """Three figures for each value of the second axis: scores, share of the gain, and cost ratio."""
    second, spec = sweep.axes[1] if len(sweep.axes) > 1 else None, metric_spec(sweep.metric or LOSS.name)
    name = f"{spec.title[:1].upper()}{spec.title[1:]}"
    measure = Measure(
        lambda point: _bounds(point.score, spec.scale),
        lambda value: score_format.score(value / spec.scale, spec.name),
        None,
        BARS,
        "",
    )
    figures: list[ReportFigure] = []
    for at in [{second.key: value} for value in second.values] if second else [{}]:
        points = [p for p in sweep.points if at.items() <= sweep.cells[p.cell].values.items()]
        where = f" at {cell_text(at)}" if at else ""
        scores = [*points, *_references(sweep, {point.cell for point in points})]
        figures += _figure(sweep, scores, f"{name}{where}", f"{spec.title}, {spec.unit}", measure)
        figures += _figure(sweep, points, f"Share of full’s gain{where}", "share of full's gain, %", SHARE)
        cost = sweep.cost or "cost"
        figures += _figure(sweep, points, f"Share of full’s {cost}{where}", f"share of full's {cost}", COST_RATIO)
    return figures


def _references(sweep: Sweep, cells: Iterable[int]) -> list[SweepPoint]:
    """Points of full fine-tuning and of the base model, which have no shares."""
    return [
        SweepPoint(cell=cell, rung=name, title=rung_title(name), score=score)
        for cell in sorted(cells)
        for name, score in ((RULE_REFERENCE, sweep.cells[cell].full), (BASE, sweep.cells[cell].base))
        if score is not None
    ]


def _bounds(interval: Interval | CostRatio | None, scale: float = 1.0) -> Bounds | None:
    """Mean, low and high; None if one of them is unknown."""
    if interval is None or interval.mean is None or interval.low is None or interval.high is None:
        return None
    return interval.mean * scale, interval.low * scale, interval.high * scale


SHARE = Measure(
    lambda point: _bounds(point.share_of_gain, 100.0),
    lambda value: percent(value / 100),
    100 * RULE_GAIN_SHARE,
    BARS,
    f"Dashed: {RULE_GAIN}.",
)
COST_RATIO = Measure(
    lambda point: _bounds(point.cost),
    ratio,
    RULE_COST_RATIO,
    "Bars: 95% CI.",
    "Dashed: one eighth of the cost.",
)


def _figure(
    sweep: Sweep,
    points: Sequence[SweepPoint],
    title: str,
    label: str,
    measure: Measure,
) -> list[ReportFigure]:
    shown = [(point, bounds) for point in points if (bounds := measure.value(point)) is not None]
    if not shown:
        return []
    axis = sweep.axes[0]
    rungs = list(dict.fromkeys(point.rung for point, _ in shown))
    rung_styles = styles((name, name) for name in rungs)
    with new_figure(axis.key, label) as (figure, axes):
        is_shaded = measure.limit is not None and _shade(axes, sweep, points)
        for order, name in enumerate(rungs):
            own = [(_place(sweep, point), bounds) for point, bounds in shown if point.rung == name]
            _rung_line(axes, rung_styles[name], own, 0.06 * (order - (len(rungs) - 1) / 2))
        if measure.limit is not None:
            axes.axhline(measure.limit, color=MUTED, linewidth=1.0, dashes=(4, 3))
        axes.set_xlim(-0.5, len(axis.values) - 0.5)
        axes.set_xticks(range(len(axis.values)), [value_text(value)[:16] for value in axis.values])
        ends = [end for _, bounds in shown for end in bounds] + [
            value for value in [measure.limit] if value is not None
        ]
        low, high = min(ends), max(ends)
        pad = 0.06 * (high - low or 1.0)
        axes.set_ylim(low - pad, high + pad)
        ticks(axes.yaxis, [low, high])
        legend(figure, rung_styles, rungs, marker=True)
        name = "".join(c for c in title.lower().replace(" ", "-") if c.isascii() and (c.isalnum() or c == "-"))
        svg = inline_svg(figure, f"sweep-{name}", f"{title}: {_description(sweep, shown, measure)}")
    return [ReportFigure(title, svg, " ".join(filter(None, [measure.bars, measure.rule, SHADED if is_shaded else ""])))]


def _place(sweep: Sweep, point: SweepPoint) -> int:
    """Where the value of the first axis is: values are equally spaced, in the order of the command line."""
    axis = sweep.axes[0]
    return axis.values.index(sweep.cells[point.cell].values[axis.key])


def _shade(axes: Axes, sweep: Sweep, points: Sequence[SweepPoint]) -> bool:
    """Shade the values at which the rule of thumb holds; returns whether there are any."""
    places = {_place(sweep, point) for point in points if point.rule == "holds"}
    for place in places:
        axes.axvspan(place - 0.5, place + 0.5, color=GRID_COLOR, linewidth=0)
    return bool(places)


def _rung_line(axes: Axes, style: RungStyle, own: Sequence[tuple[int, Bounds]], shift: float) -> None:
    """A rung along the axis, with a bar at each value; bars of several rungs are shifted to stay visible."""
    own = sorted(own)
    places = [place + shift for place, _ in own]
    axes.plot(places, [mean for _, (mean, _, _) in own], color=style.color, dashes=style.dashes)
    for place, (_, bounds) in zip(places, own, strict=True):
        draw_point(axes, style, (place, place, place), bounds)


def _description(sweep: Sweep, shown: Sequence[tuple[SweepPoint, Bounds]], measure: Measure) -> str:
    """The values as text, for screen readers."""
    texts = []
    for point, (mean, _, _) in shown:
        texts.append(f"{point.title} {measure.text(mean)} at {cell_text(sweep.cells[point.cell].values)}")
    return ", ".join(texts)


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
        head = cell(value_text(swept.values[keys[0]]), cell_text({key: swept.values[key] for key in keys[1:]}))
        return TableLine(head, instead="" if point.rung else ": ".join(filter(None, [swept.status, swept.reason])))

    def ladder(point: SweepPoint) -> Cell:
        swept = sweep.cells[point.cell]
        link = f"../{quote(swept.ladder)}/report.html" if swept.status == "finished" else ""
        return Cell(short_name(swept.ladder), link=link)

    columns: list[ReportColumn[SweepPoint]] = [
        ReportColumn("rung", lambda point: point.title, words=True),
        ReportColumn("rung", lambda point: score_cell(point.score, sweep.metric), metric),
        ReportColumn("full", lambda point: score_cell(sweep.cells[point.cell].full, sweep.metric), metric),
        ReportColumn("base", lambda point: score_cell(sweep.cells[point.cell].base, sweep.metric), metric),
        ReportColumn("gain", lambda point: share_cell(point.share_of_gain), "share of full’s"),
        ReportColumn(sweep.cost or "cost", lambda point: cell(*cost_texts(point)), "share of full’s"),
        ReportColumn("rule of thumb", rule_text, words=True),
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
    """The report as Markdown."""
    parts = [f"# {page.escape_inline(title(sweep))}", page.escape_inline(" · ".join(facts(sweep)))]
    parts += [f"**{page.escape_inline(sweep.headline)}**"] if sweep.headline else []
    parts += [page.bullets(map(page.escape_inline, sweep.sentences))] if sweep.sentences else []
    parts += [page.markdown_table(results(sweep)), page.escape_inline(READING)]
    parts += ["Run the sweep:", page.fenced(from_anywhere(sweep))] if sweep.command else []
    return "\n\n".join(parts) + "\n"


def html(sweep: Sweep) -> str:
    """The report as a page without scripts and requests."""
    return (
        page.environment()
        .get_template("page.html.jinja")
        .render(
            sweep=sweep,
            title=title(sweep),
            facts=facts(sweep),
            unfinished="" if sweep.status == "finished" else f"Partial report: {sweep.status}. {sweep.reason}",
            results=results(sweep),
            figures=sweep_figures(sweep),
            reading=READING,
            styles={},
            command=from_anywhere(sweep),
        )
    )
