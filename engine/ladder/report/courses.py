"""Figures of the course of the runs: losses by tokens and by seconds, memory over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.ladder.report.cost import PEAKS
from engine.ladder.report.drawing import BYTES, SECONDS, TOKENS, Drawn, blank, legend, ticks, unit, wants_log
from engine.ladder.report.palette import Style
from engine.ladder.report.svg import inline
from engine.ladder.report.traces import MEANINGS, Curve, Trace

Styles = dict[str, Style]


def loss_by_tokens(traces: Sequence[Trace], styles: Styles) -> Drawn | None:
    return _loss(traces, styles, "tokens", TOKENS, "trained, {}", "Loss by tokens")


def loss_by_seconds(traces: Sequence[Trace], styles: Styles) -> Drawn | None:
    return _loss(traces, styles, "seconds", SECONDS, "training, {}", "Loss by seconds of training")


def _loss(
    traces: Sequence[Trace], styles: Styles, by: str, units: Sequence[tuple[str, float]], axis: str, title: str
) -> Drawn | None:
    curves = [curve for trace in traces for curve in (trace.train, trace.validation)]
    values = [value for curve in curves for value in curve.loss if math.isfinite(value)]
    if not values:
        return None
    name, factor = unit(max(max(getattr(curve, by), default=0.0) for curve in curves), units)
    with blank(axis.format(name), "loss, nats a token") as (figure, axes):
        for trace in traces:
            style = styles[trace.rung]
            axes.plot(*_xy(trace.train, by, factor), color=style.colour, dashes=style.dashes, linewidth=1.4)
            axes.plot(*_xy(trace.validation, by, factor), color=style.colour, marker=style.marker, linestyle="")
        if wants_log(values):
            axes.set_yscale("log")
        ticks(axes.yaxis, values, wants_log(values))
        axes.set_xlim(left=0)
        ticks(axes.xaxis, [])
        legend(figure, styles, list(dict.fromkeys(trace.rung for trace in traces)), marker=False)
        svg = inline(figure, f"loss-by-{by}", title)
    portion = max(trace.portion for trace in traces)
    mean = f", each point the mean of {portion} steps" if portion > 1 else ""
    return Drawn(title, svg, f"Lines: training loss, one a seed{mean}. Markers: loss on the validation rows.")


def _xy(curve: Curve, by: str, factor: float) -> tuple[list[float], list[float]]:
    return [x / factor for x in getattr(curve, by)], curve.loss


def memory(traces: Sequence[Trace], styles: Styles) -> list[Drawn]:
    """One figure for each meaning that this machine knows; the first seed of each rung."""
    firsts = list({trace.rung: trace for trace in reversed(traces)}.values())[::-1]
    drawn = []
    for meaning in MEANINGS:
        known = [trace for trace in firsts if meaning in trace.memory]
        if known:
            drawn.append(_memory(known, styles, meaning))
    return drawn


def _memory(traces: Sequence[Trace], styles: Styles, meaning: str) -> Drawn:
    longest, highest = (max(max(trace.memory[meaning][part]) for trace in traces) for part in (0, 1))
    (span, seconds), (size, count) = unit(longest, SECONDS), unit(highest, BYTES)
    name = PEAKS[meaning][1]
    with blank(f"since the run began, {span}", f"{name}, {size}") as (figure, axes):
        for trace in traces:
            style = styles[trace.rung]
            x, y = trace.memory[meaning]
            line = [t / seconds for t in x], [value / count for value in y]
            axes.plot(*line, color=style.colour, dashes=style.dashes, linewidth=1.4)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        ticks(axes.xaxis, [])
        ticks(axes.yaxis, [])
        legend(figure, styles, [trace.rung for trace in traces], marker=False)
        svg = inline(figure, f"memory-{meaning.replace('_', '-')}", f"{name} over time")
    seeds = ", ".join(dict.fromkeys(str(trace.seed) for trace in traces))
    return Drawn(f"Memory over time: {name}", svg, f"All phases, without waiting for the card; seed {seeds}.")
