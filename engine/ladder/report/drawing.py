"""How the report's figures look: a color, marker and dash for each rung, blank axes, and inline SVG.

A rung never differs by color alone. The hues are from Okabe and Ito's palette for color-blind readers, darker on white
and lighter on a dark screen (see `page.css`). Figures are drawn in placeholder colors, which are replaced with CSS
variables.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from engine.config.method_specs import method_names
from engine.config.text import visible
from engine.ladder.phrases import rung_title
from engine.runs.ladder.ladder_state import is_base
from engine.runs.run.result import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


INK, MUTED, GRID_COLOR, PAPER, BASE_COLOR = "#010101", "#020202", "#030303", "#040404", "#050505"
COLORS = 6
_MARKERS = "osD^vPX*"
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.6), (1.4, 1.4), (6, 1.6, 1.4, 1.6), (3, 1.4), (8, 2.5))

VARIABLES = {INK: "--ink", MUTED: "--muted", GRID_COLOR: "--rule", PAPER: "--paper", BASE_COLOR: "--base"}
VARIABLES |= {f"#0a000{number}": f"--rung-{number}" for number in range(1, COLORS + 1)}
"""Placeholder color -> CSS variable."""


@dataclass(frozen=True)
class RungStyle:
    """Color, marker and dash of a rung."""

    number: int
    """Number of the CSS variable, 1 to COLORS; 0 for the base model."""
    marker: str
    dash: tuple[float, ...]

    @property
    def dashes(self) -> tuple[float | None, ...]:
        """In matplotlib's form, (None, None) for a solid line."""
        return self.dash or (None, None)

    @property
    def color(self) -> str:
        return f"#0a000{self.number}" if self.number else BASE_COLOR


def styles(rungs: Iterable[tuple[str, str]]) -> dict[str, RungStyle]:
    """A style for every (name, method). The first rung of a method always has the same one, in all reports."""
    given = dict(rungs)
    fixed = {name: number for number, name in enumerate(method_names())}
    taken: dict[str, int] = {}
    for name, method in given.items():
        if fixed.get(method, -1) not in (-1, *taken.values()):
            taken[name] = fixed[method]
    free = (number for number in range(len(given) + len(fixed)) if number not in set(taken.values()))
    bases = {name: RungStyle(0, "", (4, 3)) for name in ("base", *given) if is_base(name)}
    numbers = {name: taken[name] if name in taken else next(free) for name in given if not is_base(name)}
    return {**bases, **{name: _style(number) for name, number in numbers.items()}}


def _style(number: int) -> RungStyle:
    return RungStyle(number % COLORS + 1, _MARKERS[number % len(_MARKERS)], _DASHES[number % len(_DASHES)])


NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""Left out, so that the same numbers give the same bytes."""


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure's `<svg>` element. `name` (letters and dashes) makes its ids unique on the page."""
    from matplotlib import rc_context  # see drawing.new_figure

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=NO_METADATA)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for unwanted in (
        r"<!--.*?-->",
        r"<metadata>.*?</metadata>",
        r"<style\b.*?</style>",
    ):  # a style would apply to the whole page
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    text = _prefix_ids(text, name)
    text = re.sub("|".join(VARIABLES), lambda match: f"var({VARIABLES[match[0]]})", text)
    # Keep the size only: a font in the attribute would override the page's font.
    text = re.sub(r"font: (?:[a-z]+ |\d+ )*([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"\n\s*", "\n", text)
    return _with_root(text, description).strip()


def _prefix_ids(text: str, name: str) -> str:
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    return re.sub(r'xlink:href="#', f'href="#{name}-', text)


def _with_root(text: str, description: str) -> str:
    """The root element with a text for screen readers and without a fixed width."""
    box = re.search(r'viewBox="[^"]*"', text)
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    return re.sub(
        r"<svg\b[^>]*>",
        lambda _: f'<svg {box[0]} role="img" aria-label="{escape(visible(description))}">',
        text,
        count=1,
    )


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


Bounds = tuple[float, float, float]
"""Mean, low and high."""


def bounds_of(interval: Interval, scale: float) -> Bounds:
    """Mean, low and high as they are drawn; an interval without bounds is drawn as its mean."""
    mean = (interval.mean or 0.0) * scale
    low, high = (mean if end is None else end * scale for end in (interval.low, interval.high))
    return mean, low, high


def draw_point(axes: Axes, style: RungStyle, x: Bounds, y: Bounds) -> None:
    """A rung's marker at the means, with a horizontal and a vertical bar from the lowest to the highest value."""
    axes.plot([x[0], x[0]], y[1:], color=style.color, linewidth=1.3)
    axes.plot(x[1:], [y[0], y[0]], color=style.color, linewidth=1.3)
    axes.plot([x[0]], [y[0]], color=style.color, marker=style.marker, markersize=9, linestyle="")


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
