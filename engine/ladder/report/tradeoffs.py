"""Figures of score versus cost: training time, peak memory, price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.config.metric_specs import metric_spec
from engine.ladder.phrases import rung_title
from engine.ladder.report.cost_tables import PEAKS
from engine.ladder.report.drawing import BYTES, SECONDS, ReportFigure, legend, new_figure, ticks, unit, wants_log
from engine.ladder.report.palette import BASE_COLOR, MUTED, RungStyle
from engine.ladder.report.svg import inline_svg
from engine.runs.ladder import Ladder
from engine.runs.rung_results import RungResult, SeedRange
from engine.runs.rungs import is_base
from engine.runs.score_format import score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    metric = ladder.work.metric if ladder.work else "score"
    spec = metric_spec(metric)
    title = f"{'Score' if spec.needs_answers else 'Loss'} vs. {title}"
    scale = spec.scale
    base = next((row for row in ladder.rows if row.name == "base" and row.score and row.score.mean is not None), None)
    with new_figure(axis, f"{spec.title}, {spec.unit}") as (figure, axes):
        for row, mean, low, high in points:
            _mark(axes, styles[row.name], row, (mean, low, high), scale)
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


def _mark(axes: Axes, style: RungStyle, row: RungResult, cost: tuple[float, float, float], scale: float) -> None:
    """A rung's marker with its interval (vertical) and its range over the seeds (horizontal)."""
    value = row.score
    if value is None or value.mean is None:
        return
    mean, low, high = cost
    y = value.mean * scale
    if value.low is not None and value.high is not None:
        axes.plot([mean, mean], [value.low * scale, value.high * scale], color=style.color, linewidth=1.3)
    axes.plot([low, high], [y, y], color=style.color, linewidth=1.3)
    axes.plot([mean], [y], color=style.color, marker=style.marker, markersize=9, linestyle="")


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
