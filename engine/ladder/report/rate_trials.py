"""The figure of the learning-rate trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.config.quantities import rate
from engine.ladder.report.drawing import ReportFigure, legend, new_figure, ticks, wants_log
from engine.ladder.report.palette import PAPER, RungStyle
from engine.ladder.report.svg import inline_svg
from engine.runs.ladder import Ladder, LadderEntry

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
