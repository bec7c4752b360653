"""Blank figures in the report's style, their ticks and legends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.config.text import visible
from engine.ladder.phrases import rung_title
from engine.ladder.report.palette import GRID_COLOR, INK, MUTED, PAPER, RungStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 400, 290
"""CSS pixels, if the page shows the figure at its own width."""
SECONDS = (("s", 1.0), ("min", 60.0), ("h", 3600.0))
BYTES = (("MiB", 2.0**20), ("GiB", 2.0**30))
TOKENS = (("tokens", 1.0), ("thousand tokens", 1e3), ("million tokens", 1e6), ("billion tokens", 1e9))
LEGEND_ROW = 17
"""Height of each additional row of the legend, in pixels."""
LOG_FROM = 8.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
_STYLE: Any = {
    "figure.dpi": 72,  # so that a point is a pixel
    "font.size": 12,
    "font.family": "DejaVu Sans",  # used to measure text; the page shows its own font
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
    "grid.color": GRID_COLOR,
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
class ReportFigure:
    """A figure with its title and caption."""

    title: str
    svg: str
    caption: str = ""


@contextmanager
def new_figure(x: str, y: str) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes. The label of the y axis is horizontal, above it."""
    import matplotlib  # imported in functions: it is slow to import, and only a report needs it
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        axes = figure.add_axes(_place(HEIGHT))
        axes.set_xlabel(x)
        axes.text(-0.13 / 0.84, 1.035, y, transform=axes.transAxes, color=MUTED, va="bottom", ha="left")
        yield figure, axes


def legend(figure: Figure, styles: dict[str, RungStyle], names: Sequence[str], marker: bool) -> None:
    """A legend along the top, with markers or lines; the figure grows with its rows."""
    from matplotlib.lines import Line2D  # see new_figure

    labels = [f" {visible(rung_title(name), 22)}" for name in names]  # matplotlib leaves out labels that start with _
    columns = max(1, min(len(names), 50 // (max(map(len, labels)) + 6)))
    height = HEIGHT + LEGEND_ROW * (math.ceil(len(names) / columns) - 1)
    figure.set_size_inches(WIDTH / 72, height / 72)
    for axes in figure.axes:
        axes.set_position(_place(height))
    handles = [
        Line2D([], [], color=style.color, marker=style.marker, linestyle="")
        if marker and style.marker
        else Line2D([], [], color=style.color, linestyle=(0, style.dash) if style.dash else "-")
        for style in (styles[name] for name in names)
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
    """Position of the axes: left, bottom, width and height as shares of a figure of `height` pixels."""
    return 0.13, 45 / height, 0.84, 194 / height


def ticks(axis: Axis, values: Sequence[float], log: bool = False) -> None:
    """A few ticks at round numbers, without exponents."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator  # see new_figure

    if log:
        narrow = max(values) / min(values) < 40
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def wants_log(values: Sequence[float]) -> bool:
    """Whether the values cover a range that needs a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_FROM


def unit(largest: float, units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The largest unit in which the value is at least 2, else the smallest unit."""
    return next((u for u in reversed(units) if largest >= 2 * u[1]), units[0])
