"""The report's figures: share of gain against cost, scores against costs, curves of the runs, learning-rate trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.config.metric_specs import metric_spec
from engine.config.quantities import percent, rate, ratio
from engine.ladder.phrases import RULE_GAIN, rung_title
from engine.ladder.report.drawing import (
    BASE_COLOR,
    BYTES,
    GRID_COLOR,
    MUTED,
    PAPER,
    SECONDS,
    TOKENS,
    ReportFigure,
    RungStyle,
    bounds_of,
    draw_point,
    inline_svg,
    legend,
    new_figure,
    ticks,
    unit,
    wants_log,
)
from engine.ladder.report.material import MEMORY_KINDS, LossCurve, Trace
from engine.ladder.report.tables import PEAKS
from engine.runs.ladder.ladder_state import Ladder, LadderEntry, is_base
from engine.runs.ladder.rung_results import LadderSummary, RungResult, RungTradeoff, SeedRange
from engine.runs.score_format import COST_TICKS, of_reference, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes


LOWEST_SHARE, HIGHEST_SHARE = -50.0, 200.0
"""Percent at which the axis ends: a very wide interval would leave no room for the others."""
SUMMARY_TITLE = "Share of gain vs. share of cost"


def summary_figure(summary: LadderSummary | None, styles: dict[str, RungStyle]) -> ReportFigure | None:
    """Each rung as a cross of its intervals; None if fewer than two rungs have both shares."""
    if summary is None or len(summary.tradeoffs) < 2:
        return None
    shown = summary.tradeoffs
    with new_figure(
        f"{summary.cost}, as a share of {of_reference(summary)}", f"share of {of_reference(summary)} gain, %"
    ) as (figure, axes):
        _limits(axes, summary)
        if summary.tests_rule:
            _corner(axes, summary)
        for tradeoff in shown:
            cost = tradeoff.cost.mean, tradeoff.cost.low, tradeoff.cost.high
            draw_point(axes, styles[tradeoff.rung], cost, bounds_of(tradeoff.share_of_gain, 100.0))
        legend(figure, styles, [tradeoff.rung for tradeoff in shown], marker=True)
        svg = inline_svg(figure, "summary", f"{SUMMARY_TITLE}: {_tradeoff_texts(shown)}")
    caption = "Bars: pointwise 95% CI."
    if summary.tests_rule:
        caption += f" Shaded: the rule of thumb, {RULE_GAIN} at no more than one eighth of the cost."
    return ReportFigure(SUMMARY_TITLE, svg, caption)


def _limits(axes: Axes, summary: LadderSummary) -> None:
    costs = [end for tradeoff in summary.tradeoffs for end in (tradeoff.cost.low, tradeoff.cost.high)]
    ends = [
        100 * end
        for tradeoff in summary.tradeoffs
        for end in (tradeoff.share_of_gain.low, tradeoff.share_of_gain.mean, tradeoff.share_of_gain.high)
        if end is not None
    ]
    left, right = min(0.5 * summary.rule_cost, 0.8 * min(costs)), max(1.5, 1.25 * max(costs))
    low = max(LOWEST_SHARE, min(100 * summary.rule_gain - 8, *ends))
    high = min(HIGHEST_SHARE, max(104.0, *ends))
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    _cost_ticks(axes, left, right)
    ticks(axes.yaxis, [low, high])


def _cost_ticks(axes: Axes, left: float, right: float) -> None:
    """Halves, as in the rule of thumb: 1/8, 1/4, 1/2, 1, 2."""
    from matplotlib.ticker import NullLocator  # see drawing.new_figure

    inside = [(cost, label) for cost, label in COST_TICKS if left <= cost <= right]
    axes.set_xticks([cost for cost, _ in inside], [label for _, label in inside])
    axes.xaxis.set_minor_locator(NullLocator())


def _corner(axes: Axes, summary: LadderSummary) -> None:
    """The region in which the rule of thumb holds."""
    left, top = axes.get_xlim()[0], axes.get_ylim()[1]
    share, cost = 100 * summary.rule_gain, summary.rule_cost
    axes.fill([left, cost, cost, left], [share, share, top, top], color=GRID_COLOR, linewidth=0)
    axes.plot([left, cost, cost], [share, share, top], color=MUTED, linewidth=1.0, dashes=(4, 3))
    axes.text(left, share, " rule of thumb", color=MUTED, va="bottom", ha="left")
    axes.axhline(100.0, color=GRID_COLOR, linewidth=0.8)


def _tradeoff_texts(shown: list[RungTradeoff]) -> str:
    """The values as text, for screen readers."""
    return ", ".join(
        f"{tradeoff.title} {percent(tradeoff.share_of_gain.mean)} of the gain at {ratio(tradeoff.cost.mean)} the cost"
        for tradeoff in shown
    )


_EDGE = {True: "bottom", False: "top"}
Point = tuple[RungResult, float, float, float]
"""A row with its cost: mean, lowest and highest seed."""


def against_time(ladder: Ladder, styles: dict[str, RungStyle]) -> ReportFigure | None:
    name, factor = unit(max((_high(row.training_seconds) for row in ladder.rows), default=0.0), SECONDS)
    points = [point for row in ladder.rows if (point := _point(row, row.training_seconds, factor))]
    return _against(ladder, styles, points, "time", f"training time, {name}", "training time")


def against_money(ladder: Ladder, styles: dict[str, RungStyle]) -> ReportFigure | None:
    currency = next((row.currency for row in ladder.rows if row.money), "")
    points = [point for row in ladder.rows if (point := _point(row, row.money, 1.0))]
    return _against(ladder, styles, points, "money", f"price per run, {currency}", "price")


def against_memory(ladder: Ladder, styles: dict[str, RungStyle]) -> ReportFigure | None:
    """By memory reserved on the GPU, or by the memory of the process on a CPU."""
    for kind in ("gpu_training", "reserved", "rss_training", "rss"):
        peaks = {row.name: getattr(row.peak, kind) for row in ladder.rows if row.peak and not is_base(row.name)}
        if any(peaks.values()):
            name, factor = unit(max(filter(None, peaks.values())), BYTES)
            measured = [(row, peaks[row.name] / factor) for row in ladder.rows if peaks.get(row.name)]
            points = [(row, peak, peak, peak) for row, peak in measured if row.score and row.score.mean is not None]
            axis = f"peak memory, {PEAKS[kind][1]} ({PEAKS[kind][0]}), {name}"
            return _against(ladder, styles, points, "memory", axis, "peak memory")
    return None


def _high(spread: SeedRange | None) -> float:
    return spread.high if spread else 0.0


def _point(row: RungResult, cost: SeedRange | None, factor: float) -> Point | None:
    if cost is None or is_base(row.name) or row.score is None or row.score.mean is None:
        return None
    return row, cost.mean / factor, cost.low / factor, cost.high / factor


def _against(
    ladder: Ladder, styles: dict[str, RungStyle], points: list[Point], what: str, axis: str, title: str
) -> ReportFigure | None:
    if not points:
        return None
    metric = ladder.metric
    spec = metric_spec(metric)
    title = f"{'Loss' if spec.is_loss else 'Score'} vs. {title}"
    scale = spec.scale
    base = next((row for row in ladder.rows if row.name == "base" and row.score and row.score.mean is not None), None)
    with new_figure(axis, f"{spec.title}, {spec.unit}") as (figure, axes):
        for row, *cost in points:
            if row.score:
                draw_point(axes, styles[row.name], (cost[0], cost[1], cost[2]), bounds_of(row.score, scale))
        costs = [cost for _, *three in points for cost in three]
        if wants_log(costs):
            axes.set_xscale("log")
            axes.set_xlim(min(costs) / 1.3, max(costs) * 1.3)
        else:
            axes.set_xlim(0, max(costs) * 1.12 or 1.0)
        ticks(axes.xaxis, costs, wants_log(costs))
        dashed = _frame(axes, [row for row, *_ in points], base, scale, metric)
        legend(figure, styles, [row.name for row, *_ in points], marker=True)
        svg = inline_svg(figure, f"against-{what}", f"{title}: {_description([row for row, *_ in points], metric)}")
    parts = ["Vertical bars: 95% CI."]
    parts += ["Horizontal bars: lowest to highest seed."] if any(low < high for _, _, low, high in points) else []
    parts += ["Dashed line: the base model."] if dashed else []
    return ReportFigure(title, svg, " ".join(parts))


def _description(rows: Sequence[RungResult], metric: str) -> str:
    """The scores as text, for screen readers."""
    return ", ".join(f"{rung_title(row.name)} {score(row.score.mean if row.score else None, metric)}" for row in rows)


def _frame(axes: Axes, rows: Sequence[RungResult], base: RungResult | None, scale: float, metric: str) -> bool:
    """Set the limits to the rungs' scores. Returns whether the base model is within them; else the edge names it."""
    ends = [end for row in rows if row.score for end in (row.score.low, row.score.high, row.score.mean)]
    values = [end * scale for end in ends if end is not None]
    low, high = min(values), max(values)
    height = max(high - low, 0.02 * scale, 1e-9)
    base_score = base.score.mean * scale if base and base.score and base.score.mean is not None else None
    near = base_score is not None and low - 2 * height <= base_score <= high + 2 * height
    if base_score is not None and near:
        axes.axhline(base_score, color=BASE_COLOR, linewidth=1.2, dashes=(4, 3))
        low, high = min(low, base_score), max(high, base_score)
    elif base_score is not None:
        below = base_score < low
        text = f"base {score(base_score / scale, metric)} {'↓' if below else '↑'}"
        axes.text(
            1.0, 0.02 if below else 0.98, text, transform=axes.transAxes, color=MUTED, ha="right", va=_EDGE[below]
        )
    pad = 0.12 * max(high - low, height)
    axes.set_ylim(low - pad, high + pad)
    ticks(axes.yaxis, [low, high])
    return near


Styles = dict[str, RungStyle]


def loss_figure(
    traces: Sequence[Trace], styles: Styles, by: str, units: Sequence[tuple[str, float]], axis: str, title: str
) -> ReportFigure | None:
    """Training and validation loss by tokens or seconds; None without a finite loss."""
    curves = [curve for trace in traces for curve in (trace.train, trace.validation)]
    values = [value for curve in curves for value in curve.loss if math.isfinite(value)]
    if not values:
        return None
    name, factor = unit(max(max(getattr(curve, by), default=0.0) for curve in curves), units)
    with new_figure(axis.format(name), "loss, nats/token") as (figure, axes):
        for trace in traces:
            style = styles[trace.rung]
            axes.plot(*_xy(trace.train, by, factor), color=style.color, dashes=style.dashes, linewidth=1.4)
            axes.plot(*_xy(trace.validation, by, factor), color=style.color, marker=style.marker, linestyle="")
        if wants_log(values):
            axes.set_yscale("log")
        ticks(axes.yaxis, values, wants_log(values))
        axes.set_xlim(left=0)
        ticks(axes.xaxis, [])
        legend(figure, styles, list(dict.fromkeys(trace.rung for trace in traces)), marker=False)
        svg = inline_svg(figure, f"loss-by-{by}", title)
    steps = max(trace.steps_per_point for trace in traces)
    mean = f", each point is the mean of {steps} steps" if steps > 1 else ""
    return ReportFigure(title, svg, f"Lines: training loss, one line per seed{mean}. Markers: validation loss.")


def _xy(curve: LossCurve, by: str, factor: float) -> tuple[list[float], list[float]]:
    return [x / factor for x in getattr(curve, by)], curve.loss


def memory(traces: Sequence[Trace], styles: Styles) -> list[ReportFigure]:
    """One figure for each kind of memory that was measured, with the first seed of each rung."""
    firsts = list({trace.rung: trace for trace in reversed(traces)}.values())[::-1]
    drawn = []
    for kind in MEMORY_KINDS:
        measured = [trace for trace in firsts if kind in trace.memory]
        if measured:
            drawn.append(_memory(measured, styles, kind))
    return drawn


def _memory(traces: Sequence[Trace], styles: Styles, kind: str) -> ReportFigure:
    longest, highest = (max(max(trace.memory[kind][axis]) for trace in traces) for axis in (0, 1))
    (time_unit, seconds), (size_unit, size) = unit(longest, SECONDS), unit(highest, BYTES)
    name = PEAKS[kind][1]
    with new_figure(f"since the start of the run, {time_unit}", f"{name}, {size_unit}") as (figure, axes):
        for trace in traces:
            style = styles[trace.rung]
            x, y = trace.memory[kind]
            line = [t / seconds for t in x], [value / size for value in y]
            axes.plot(*line, color=style.color, dashes=style.dashes, linewidth=1.4)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        ticks(axes.xaxis, [])
        ticks(axes.yaxis, [])
        legend(figure, styles, [trace.rung for trace in traces], marker=False)
        svg = inline_svg(figure, f"memory-{kind.replace('_', '-')}", f"Memory over time, {name}")
    seeds = ", ".join(dict.fromkeys(str(trace.seed) for trace in traces))
    return ReportFigure(f"Memory over time: {name}", svg, f"All phases, without waiting for the GPU; seed {seeds}.")


def rates(ladder: Ladder, styles: dict[str, RungStyle]) -> ReportFigure | None:
    """Validation loss by learning rate; the chosen rate is filled. None without trials."""
    tried: dict[str, list[LadderEntry]] = {}
    for entry in ladder.entries:
        if entry.kind == "trial" and entry.validation_loss is not None and entry.rung in styles:
            tried.setdefault(entry.rung, []).append(entry)
    if not tried:
        return None
    trials = [entry for entries in tried.values() for entry in entries]
    with new_figure("learning rate", "validation loss, nats/token") as (figure, axes):
        for name, entries in tried.items():
            entries[:] = _longest(entries)
            _trial(axes, styles[name], entries)
        axes.set_xscale("log")
        _rate_ticks(axes, sorted({entry.learning_rate for entry in trials}))
        losses = [entry.validation_loss or 0.0 for entry in trials]
        if wants_log(losses):
            axes.set_yscale("log")
        ticks(axes.yaxis, losses, wants_log(losses))
        legend(figure, styles, list(tried), marker=True)
        svg = inline_svg(figure, "trials", "Validation loss by learning rate")
    return ReportFigure("Learning-rate trials", svg, "Filled marker: the chosen rate, with the lowest validation loss.")


def _longest(entries: Sequence[LadderEntry]) -> list[LadderEntry]:
    """The longest trial of each rate: successive halving tries some rates several times."""
    longest: dict[float, LadderEntry] = {}
    for entry in sorted(entries, key=lambda entry: math.inf if entry.steps is None else entry.steps):
        longest[entry.learning_rate] = entry
    return [longest[rate] for rate in sorted(longest)]


def _trial(axes: Axes, style: RungStyle, entries: Sequence[LadderEntry]) -> None:
    """One rung's losses by rate: a line with hollow markers, filled for the chosen rate."""
    tried, losses = [e.learning_rate for e in entries], [e.validation_loss or math.nan for e in entries]
    axes.plot(tried, losses, color=style.color, dashes=style.dashes, linewidth=1.2)
    for entry, loss in zip(entries, losses, strict=True):
        (point,) = axes.plot([entry.learning_rate], [loss], color=style.color, marker=style.marker)
        point.set_markeredgecolor(style.color)
        point.set_markerfacecolor(style.color if entry.chosen else PAPER)


def _rate_ticks(axes: Axes, tried: Sequence[float]) -> None:
    """Ticks at the tried rates if there are at most five, else at powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator  # see drawing.new_figure

    axes.set_xlim(tried[0] / 1.6, tried[-1] * 1.6)
    axes.xaxis.set_major_locator(FixedLocator(list(tried)) if len(tried) <= 5 else LogLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(value)))
    axes.xaxis.set_minor_locator(NullLocator())


NO_TRIALS = "Learning-rate trials: none; each rung was trained at one rate."


def report_figures(
    ladder: Ladder, rung_styles: dict[str, RungStyle], traces: Sequence[Trace]
) -> tuple[list[ReportFigure], list[str]]:
    """(figures of a ladder's report, why others are missing)."""
    by_tokens = loss_figure(traces, rung_styles, "tokens", TOKENS, "trained, {}", "Loss by tokens")
    by_seconds = loss_figure(traces, rung_styles, "seconds", SECONDS, "training time, {}", "Loss by training time")
    drawn: list[ReportFigure] = []
    missing: list[str] = []
    for figure, why in (
        (against_time(ladder, rung_styles), "Score vs. training time: no rung has both yet."),
        (against_memory(ladder, rung_styles), "Score vs. peak memory: no rung has both yet."),
        (against_money(ladder, rung_styles), ""),
        (by_tokens, "Loss: no run has a finite loss yet."),
        (by_seconds, ""),
        (rates(ladder, rung_styles), NO_TRIALS),
    ):
        if figure:
            drawn.append(figure)
        elif why:
            missing.append(why)
    by_kind = memory(traces, rung_styles)
    return [*drawn, *by_kind], missing if by_kind else [*missing, "Memory over time: no run has recorded it yet."]
