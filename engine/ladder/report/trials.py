"""The figure of the learning-rate trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.ladder.format import rate
from engine.ladder.report.drawing import Drawn, blank, legend, ticks, wants_log
from engine.ladder.report.palette import PAPER, Style
from engine.ladder.report.svg import inline
from engine.runs.ladder import Ladder, LadderRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def rates(ladder: Ladder, styles: dict[str, Style]) -> Drawn | None:
    """Validation loss by learning rate; the rate that won is filled."""
    tried: dict[str, list[LadderRun]] = {}
    for entry in ladder.entries:
        if entry.kind == "trial" and entry.validation_loss is not None and entry.rung in styles:
            tried.setdefault(entry.rung, []).append(entry)
    if not tried:
        return None
    everything = [entry for entries in tried.values() for entry in entries]
    with blank("learning rate", "validation loss, nats a token") as (figure, axes):
        for name, entries in tried.items():
            entries.sort(key=lambda entry: entry.learning_rate)
            _trial(axes, styles[name], entries)
        axes.set_xscale("log")
        _rate_ticks(axes, sorted({entry.learning_rate for entry in everything}))
        losses = [entry.validation_loss or 0.0 for entry in everything]
        if wants_log(losses):
            axes.set_yscale("log")
        ticks(axes.yaxis, losses, wants_log(losses))
        legend(figure, styles, list(tried), marker=True)
        svg = inline(figure, "trials", "Validation loss by learning rate")
    return Drawn("Learning-rate trials", svg, "Filled: the rate that was chosen, by the validation rows.")


def _trial(axes: Axes, style: Style, entries: Sequence[LadderRun]) -> None:
    """A rung's rates joined by its line, hollow markers but for the one that won."""
    tried, losses = [e.learning_rate for e in entries], [e.validation_loss or math.nan for e in entries]
    axes.plot(tried, losses, color=style.colour, dashes=style.dashes, linewidth=1.2)
    for entry, loss in zip(entries, losses, strict=True):
        (point,) = axes.plot([entry.learning_rate], [loss], color=style.colour, marker=style.marker)
        point.set_markeredgecolor(style.colour)
        point.set_markerfacecolor(style.colour if entry.chosen else PAPER)


def _rate_ticks(axes: Axes, tried: Sequence[float]) -> None:
    """The rates that were tried where they are few, else powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axes.set_xlim(tried[0] / 1.6, tried[-1] * 1.6)
    axes.xaxis.set_major_locator(FixedLocator(list(tried)) if len(tried) <= 5 else LogLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(value)))
    axes.xaxis.set_minor_locator(NullLocator())
