"""The report's figures: share of gain against cost, losses of the runs, learning-rate trials.

Each rung has a color, a marker and a dash, so that it never differs by color alone. The hues are from Okabe and Ito's
palette for color-blind readers, darker on white and lighter on a dark screen (see `page.css`). Figures are drawn in
placeholder colors, which are replaced with CSS variables, and are inline SVG.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from engine.config.quantities import percent, rate, ratio
from engine.config.text import visible
from engine.ladder.phrases import RULE_GAIN, rung_title
from engine.ladder.report.material import Curve, Trace
from engine.runs.ladder.ladder_state import RUNG_COLORS, Ladder, LadderEntry, is_base, rung_numbers
from engine.runs.ladder.rung_results import LadderSummary
from engine.runs.ladder.summary_drawing import COST_TICKS, of_reference
from engine.runs.run.result import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


INK, MUTED, GRID_COLOR, PAPER, BASE_COLOR = "#010101", "#020202", "#030303", "#040404", "#050505"

_MARKERS = "osD^vPX*"
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.6), (1.4, 1.4), (6, 1.6, 1.4, 1.6), (3, 1.4), (8, 2.5))

VARIABLES = {INK: "--ink", MUTED: "--muted", GRID_COLOR: "--rule", PAPER: "--paper", BASE_COLOR: "--base"}
VARIABLES |= {f"#0a000{number}": f"--rung-{number}" for number in range(1, RUNG_COLORS + 1)}
"""Placeholder color -> CSS variable."""


@dataclass(frozen=True)
class RungStyle:
    """Color, marker and dash of a rung."""

    number: int
    """Number of the CSS variable, 1 to RUNG_COLORS; 0 for the base model."""
    marker: str
    dash: tuple[float, ...]

    @property
    def dashes(self) -> tuple[float | None, ...]:
        """In matplotlib's form, (None, None) for a solid line."""
        return self.dash or (None, None)

    @property
    def color(self) -> str:
        return f"#0a000{self.number}" if self.number else BASE_COLOR


Styles = dict[str, RungStyle]


def rung_styles(given: Mapping[str, str]) -> Styles:
    """A style for every rung, by its method. The first rung of a method always has the same one, in all reports."""
    bases = {name: RungStyle(0, "", (4, 3)) for name in ("base", *given) if is_base(name)}
    trained = {
        name: RungStyle(number % RUNG_COLORS + 1, _MARKERS[number % len(_MARKERS)], _DASHES[number % len(_DASHES)])
        for name, number in rung_numbers(given).items()
    }
    return {**bases, **trained}


NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""Left out, so that the same numbers give the same bytes."""


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure's `<svg>` element. `name` (letters and dashes) makes its ids unique on the page."""
    from matplotlib import rc_context  # see new_figure

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=NO_METADATA)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # A style would apply to the whole page.
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style\b.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = re.sub("|".join(VARIABLES), lambda match: f"var({VARIABLES[match[0]]})", text)
    # Keep the size only: a font in the attribute would override the page's font.
    text = re.sub(r"font: (?:[a-z]+ |\d+ )*([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"\n\s*", "\n", text)
    # The root element has a text for screen readers and no fixed width.
    box = re.search(r'viewBox="[^"]*"', text)
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    root = f'<svg {box[0]} role="img" aria-label="{escape(visible(description))}">'
    return re.sub(r"<svg\b[^>]*>", lambda _: root, text, count=1).strip()


WIDTH, HEIGHT = 400, 290
"""CSS pixels, if the page shows the figure at its own width."""
TOKENS = (("tokens", 1.0), ("thousand tokens", 1e3), ("million tokens", 1e6), ("billion tokens", 1e9))
"""Units of the axis: the largest one in which the longest curve has at least 2."""
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


def legend(figure: Figure, styles: Styles, names: Sequence[str], marker: bool) -> None:
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


LOWEST_SHARE, HIGHEST_SHARE = -50.0, 200.0
"""Percent at which the axis ends: a very wide interval would leave no room for the others."""
SUMMARY_TITLE = "Share of gain vs. share of cost"


def summary_figure(summary: LadderSummary | None, styles: Styles) -> ReportFigure | None:
    """Each rung as a cross of its intervals; None if fewer than two rungs have both shares."""
    if summary is None or len(summary.tradeoffs) < 2:
        return None
    from matplotlib.ticker import NullLocator  # see new_figure

    shown = summary.tradeoffs
    costs = [end for tradeoff in shown for end in (tradeoff.cost.low, tradeoff.cost.high)]
    shares = [tradeoff.share_of_gain for tradeoff in shown]
    ends = [100 * end for share in shares for end in (share.low, share.mean, share.high) if end is not None]
    left, right = min(0.5 * summary.rule_cost, 0.8 * min(costs)), max(1.5, 1.25 * max(costs))
    low = max(LOWEST_SHARE, min(100 * summary.rule_gain - 8, *ends))
    high = min(HIGHEST_SHARE, max(104.0, *ends))
    bottom, top = low - 0.05 * (high - low), high + 0.05 * (high - low)
    of = of_reference(summary)
    with new_figure(f"{summary.cost}, as a share of {of}", f"share of {of} gain, %") as (figure, axes):
        axes.set_xscale("log")
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        # Halves, as in the rule of thumb: 1/8, 1/4, 1/2, 1, 2.
        inside = [(cost, label) for cost, label in COST_TICKS if left <= cost <= right]
        axes.set_xticks([cost for cost, _ in inside], [label for _, label in inside])
        axes.xaxis.set_minor_locator(NullLocator())
        ticks(axes.yaxis, [low, high])
        if summary.tests_rule:  # the region in which the rule of thumb holds
            share, cost = 100 * summary.rule_gain, summary.rule_cost
            axes.fill([left, cost, cost, left], [share, share, top, top], color=GRID_COLOR, linewidth=0)
            axes.plot([left, cost, cost], [share, share, top], color=MUTED, linewidth=1.0, dashes=(4, 3))
            axes.text(left, share, " rule of thumb", color=MUTED, va="bottom", ha="left")
            axes.axhline(100.0, color=GRID_COLOR, linewidth=0.8)
        for tradeoff in shown:
            bounds = tradeoff.cost.mean, tradeoff.cost.low, tradeoff.cost.high
            draw_point(axes, styles[tradeoff.rung], bounds, bounds_of(tradeoff.share_of_gain, 100.0))
        legend(figure, styles, [tradeoff.rung for tradeoff in shown], marker=True)
        texts = ", ".join(
            f"{point.title} {percent(point.share_of_gain.mean)} of the gain at {ratio(point.cost.mean)} the cost"
            for point in shown
        )
        svg = inline_svg(figure, "summary", f"{SUMMARY_TITLE}: {texts}")
    caption = "Bars: pointwise 95% CI."
    if summary.tests_rule:
        caption += f" Shaded: the rule of thumb, {RULE_GAIN} at no more than one eighth of the cost."
    return ReportFigure(SUMMARY_TITLE, svg, caption)


def loss_figure(traces: Sequence[Trace], styles: Styles) -> ReportFigure | None:
    """Training and validation loss by tokens; None without a finite loss."""
    curves = [curve for trace in traces for curve in (trace.train, trace.validation)]
    values = [value for _, losses in curves for value in losses if math.isfinite(value)]
    if not values:
        return None
    longest = max(max(tokens, default=0.0) for tokens, _ in curves)
    name, factor = next((unit for unit in reversed(TOKENS) if longest >= 2 * unit[1]), TOKENS[0])
    title = "Loss by tokens"

    def xy(curve: Curve) -> Curve:
        return [tokens / factor for tokens in curve[0]], curve[1]

    with new_figure(f"trained, {name}", "loss, nats/token") as (figure, axes):
        for trace in traces:
            style = styles[trace.rung]
            axes.plot(*xy(trace.train), color=style.color, dashes=style.dashes, linewidth=1.4)
            axes.plot(*xy(trace.validation), color=style.color, marker=style.marker, linestyle="")
        if wants_log(values):
            axes.set_yscale("log")
        ticks(axes.yaxis, values, wants_log(values))
        axes.set_xlim(left=0)
        ticks(axes.xaxis, [])
        legend(figure, styles, list(dict.fromkeys(trace.rung for trace in traces)), marker=False)
        svg = inline_svg(figure, "loss-by-tokens", title)
    steps = max(trace.steps_per_point for trace in traces)
    mean = f", each point is the mean of {steps} steps" if steps > 1 else ""
    return ReportFigure(title, svg, f"Lines: training loss, one line per seed{mean}. Markers: validation loss.")


def rates(ladder: Ladder, styles: Styles) -> ReportFigure | None:
    """Validation loss by learning rate; the chosen rate is filled. None without trials."""
    tried: dict[str, dict[float, LadderEntry]] = {}
    trials = [entry for entry in ladder.entries if entry.kind == "trial" and entry.validation_loss is not None]
    # Successive halving tries some rates several times: the longest trial of each is shown.
    for entry in sorted(trials, key=lambda entry: math.inf if entry.steps is None else entry.steps):
        if entry.rung in styles:
            tried.setdefault(entry.rung, {})[entry.learning_rate] = entry
    if not tried:
        return None
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator  # see new_figure

    names = [name for name in dict.fromkeys(entry.rung for entry in trials) if name in tried]
    grid = sorted({entry.learning_rate for entries in tried.values() for entry in entries.values()})
    losses = [entry.validation_loss or 0.0 for entry in trials if entry.rung in tried]
    with new_figure("learning rate", "validation loss, nats/token") as (figure, axes):
        for name in names:
            style, entries = styles[name], [tried[name][x] for x in sorted(tried[name])]
            line = [e.learning_rate for e in entries], [e.validation_loss or math.nan for e in entries]
            axes.plot(*line, color=style.color, dashes=style.dashes, linewidth=1.2)
            for entry, x, y in zip(entries, *line, strict=True):
                (point,) = axes.plot([x], [y], color=style.color, marker=style.marker)
                point.set_markeredgecolor(style.color)
                point.set_markerfacecolor(style.color if entry.chosen else PAPER)
        axes.set_xscale("log")
        axes.set_xlim(grid[0] / 1.6, grid[-1] * 1.6)
        axes.xaxis.set_major_locator(FixedLocator(grid) if len(grid) <= 5 else LogLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        if wants_log(losses):
            axes.set_yscale("log")
        ticks(axes.yaxis, losses, wants_log(losses))
        legend(figure, styles, names, marker=True)
        svg = inline_svg(figure, "trials", "Validation loss by learning rate")
    return ReportFigure("Learning-rate trials", svg, "Filled marker: the chosen rate, with the lowest validation loss.")


NO_LOSS = "Loss: no run has a finite loss yet."
NO_TRIALS = "Learning-rate trials: none; each rung was trained at one rate."


def report_figures(ladder: Ladder, styles: Styles, traces: Sequence[Trace]) -> tuple[list[ReportFigure], list[str]]:
    """(figures of a ladder's report below its summary, why others are missing)."""
    figures = [(loss_figure(traces, styles), NO_LOSS), (rates(ladder, styles), NO_TRIALS)]
    return [figure for figure, _ in figures if figure], [why for figure, why in figures if not figure]
