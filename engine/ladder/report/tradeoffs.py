"""Figures of quality against what it cost: time, memory, money."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.config.metric_specs import metric_spec
from engine.ladder.format import rung, score
from engine.ladder.report.cost import PEAKS
from engine.ladder.report.drawing import BYTES, SECONDS, Drawn, blank, legend, ticks, unit, wants_log
from engine.ladder.report.palette import BASE, MUTED, Style
from engine.ladder.report.svg import inline
from engine.runs.ladder import BASES, Ladder, RungResult, SeedRange

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_EDGE = {True: "bottom", False: "top"}
Point = tuple[RungResult, float, float, float]
"""A row with what it cost: mean, lowest, highest."""


def against_time(ladder: Ladder, styles: dict[str, Style]) -> Drawn | None:
    name, factor = unit(max((_high(row.training_seconds) for row in ladder.rows), default=0.0), SECONDS)
    points = [point for row in ladder.rows if (point := _point(row, row.training_seconds, factor))]
    return _against(ladder, styles, points, "time", f"training, {name}", "training time")


def against_money(ladder: Ladder, styles: dict[str, Style]) -> Drawn | None:
    currency = next((row.currency for row in ladder.rows if row.money), "")
    points = [point for row in ladder.rows if (point := _point(row, row.money, 1.0))]
    return _against(ladder, styles, points, "money", f"price of a run, {currency}", "money")


def against_memory(ladder: Ladder, styles: dict[str, Style]) -> Drawn | None:
    """By torch's pool and paged state where there is a card, else by the process's memory."""
    for meaning in ("gpu_training", "reserved", "rss_training", "rss"):
        peaks = {row.name: getattr(row.peak, meaning) for row in ladder.rows if row.peak and row.name not in BASES}
        if any(peaks.values()):
            name, factor = unit(max(filter(None, peaks.values())), BYTES)
            found = [(row, peaks[row.name] / factor) for row in ladder.rows if peaks.get(row.name)]
            points = [(row, peak, peak, peak) for row, peak in found if row.score and row.score.mean is not None]
            axis = f"peak memory ({PEAKS[meaning][1]}, {PEAKS[meaning][0]}), {name}"
            return _against(ladder, styles, points, "memory", axis, "peak memory")
    return None


def _high(spread: SeedRange | None) -> float:
    return spread.high if spread else 0.0


def _point(row: RungResult, cost: SeedRange | None, factor: float) -> Point | None:
    if cost is None or row.name in BASES or row.score is None or row.score.mean is None:
        return None
    return row, cost.mean / factor, cost.low / factor, cost.high / factor


def _against(
    ladder: Ladder, styles: dict[str, Style], points: list[Point], what: str, axis: str, title: str
) -> Drawn | None:
    if not points:
        return None
    metric = ladder.work.metric if ladder.work else "score"
    spec = metric_spec(metric)
    title = f"{'Score' if spec.needs_answers else 'Loss'} against {title}"
    scale = spec.scale
    base = next((row for row in ladder.rows if row.name == "base" and row.score and row.score.mean is not None), None)
    with blank(axis, f"{spec.title}, {spec.unit}") as (figure, axes):
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
        values = [f"{rung(row.name)} {score(row.score.mean if row.score else None, metric)}" for row, *_ in points]
        svg = inline(figure, f"against-{what}", f"{title}: {', '.join(values)}")
    parts = ["Upright bars: 95 % intervals."]
    parts += ["Level bars: lowest to highest seed."] if any(low < high for _, _, low, high in points) else []
    parts += ["Dashed: the base, before any training."] if dashed else []
    return Drawn(title, svg, " ".join(parts))


def _mark(axes: Axes, style: Style, row: RungResult, cost: tuple[float, float, float], scale: float) -> None:
    """A rung's marker with its interval upright and the range over its seeds level."""
    value = row.score
    if value is None or value.mean is None:
        return
    mean, low, high = cost
    y = value.mean * scale
    if value.low is not None and value.high is not None:
        axes.plot([mean, mean], [value.low * scale, value.high * scale], color=style.colour, linewidth=1.3)
    axes.plot([low, high], [y, y], color=style.colour, linewidth=1.3)
    axes.plot([mean], [y], color=style.colour, marker=style.marker, markersize=9, linestyle="")


def _frame(axes: Axes, rows: Sequence[RungResult], base: RungResult | None, scale: float, metric: str) -> bool:
    """Limits that keep the rungs apart. A base far away is named at the edge and does not squeeze them: then False."""
    ends = [end for row in rows if row.score for end in (row.score.low, row.score.high, row.score.mean)]
    seen = [end * scale for end in ends if end is not None]
    low, high = min(seen), max(seen)
    room = max(high - low, 0.02 * scale, 1e-9)
    own = base.score.mean * scale if base and base.score and base.score.mean is not None else None
    near = own is not None and low - 2 * room <= own <= high + 2 * room
    if own is not None and near:
        axes.axhline(own, color=BASE, linewidth=1.2, dashes=(4, 3))
        low, high = min(low, own), max(high, own)
    elif own is not None:
        below = own < low
        text = f"base {score(own / scale, metric)} {'↓' if below else '↑'}"
        axes.text(
            1.0, 0.02 if below else 0.98, text, transform=axes.transAxes, color=MUTED, ha="right", va=_EDGE[below]
        )
    pad = 0.12 * max(high - low, room)
    axes.set_ylim(low - pad, high + pad)
    ticks(axes.yaxis, [low, high])
    return near
