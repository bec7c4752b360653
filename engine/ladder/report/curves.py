"""Figures of the runs' curves: loss by tokens and by time, memory over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.ladder.report.cost_tables import PEAKS
from engine.ladder.report.drawing import (
    BYTES,
    SECONDS,
    TOKENS,
    ReportFigure,
    legend,
    new_figure,
    ticks,
    unit,
    wants_log,
)
from engine.ladder.report.palette import RungStyle
from engine.ladder.report.svg import inline_svg
from engine.ladder.report.traces import MEMORY_KINDS, LossCurve, Trace

Styles = dict[str, RungStyle]


def loss_by_tokens(traces: Sequence[Trace], styles: Styles) -> ReportFigure | None:
    """Training and validation loss by trained tokens; None without a finite loss."""
    return _loss(traces, styles, "tokens", TOKENS, "trained, {}", "Loss by tokens")


def loss_by_seconds(traces: Sequence[Trace], styles: Styles) -> ReportFigure | None:
    """The same by training time."""
    return _loss(traces, styles, "seconds", SECONDS, "training time, {}", "Loss by training time")


def _loss(
    traces: Sequence[Trace], styles: Styles, by: str, units: Sequence[tuple[str, float]], axis: str, title: str
) -> ReportFigure | None:
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
