"""A blank figure in the report's manner, and the axes' ticks: nothing that does not carry a number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.config.text import visible
from engine.ladder.format import rung
from engine.ladder.report.palette import INK, MUTED, PAPER, RULE, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 400, 290
"""In CSS pixels where the page gives a figure exactly its own width."""
SECONDS = (("s", 1.0), ("min", 60.0), ("h", 3600.0))
BYTES = (("MiB", 2.0**20), ("GiB", 2.0**30))
TOKENS = (("tokens", 1.0), ("thousand tokens", 1e3), ("million tokens", 1e6), ("billion tokens", 1e9))
LINE = 17
"""Pixels a further row of names takes."""
LOG_FROM = 8.0
"""Largest over smallest value from which an axis is logarithmic."""
_LOOK: Any = {
    "figure.dpi": 72,  # a point is then a pixel
    "font.size": 12,
    "font.family": "DejaVu Sans",  # measured with matplotlib's own, shown in the page's
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "lines.linewidth": 1.5,
    "lines.markersize": 7,
    "lines.markeredgecolor": PAPER,
}


@dataclass(frozen=True)
class Drawn:
    """A figure and what has to be known to read it."""

    title: str
    svg: str
    caption: str = ""


@contextmanager
def blank(x: str, y: str) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes. The y axis is named above it, where it reads without turning the head."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_LOOK):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        axes = figure.add_axes(_place(HEIGHT))
        axes.set_xlabel(x)
        axes.text(-0.13 / 0.84, 1.035, y, transform=axes.transAxes, color=MUTED, va="bottom", ha="left")
        yield figure, axes


def legend(figure: Figure, styles: dict[str, Style], names: Sequence[str], marker: bool) -> None:
    """Names with their marker or line, along the top; for a second row of names the figure grows."""
    from matplotlib.lines import Line2D

    labels = [f" {visible(rung(name), 22)}" for name in names]  # a name that begins with _ would be left out
    columns = max(1, min(len(names), 50 // (max(map(len, labels)) + 6)))
    height = HEIGHT + LINE * (math.ceil(len(names) / columns) - 1)
    figure.set_size_inches(WIDTH / 72, height / 72)
    for axes in figure.axes:
        axes.set_position(_place(height))
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="")
        if marker
        else Line2D([], [], color=look.colour, linestyle=(0, look.dash) if look.dash else "-")
        for look in (styles[name] for name in names)
    ]
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(-0.02, 1 + 7 / height),
        ncols=columns,
        columnspacing=1.2,
        handlelength=1.9,
        handletextpad=0.3,
    )


def _place(height: float) -> tuple[float, float, float, float]:
    """Of the axes: left, bottom, width and height as shares of a figure `height` pixels high."""
    return 0.13, 45 / height, 0.84, 194 / height


def ticks(axis: Axis, values: Sequence[float], log: bool = False) -> None:
    """Few ticks at round numbers, written plainly."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if log:
        near = max(values) / min(values) < 40
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if near else (1.0,)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def wants_log(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_FROM


def unit(largest: float, units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The largest unit in which the value is at least 2, else the smallest."""
    return next((u for u in reversed(units) if largest >= 2 * u[1]), units[0])
