"""The figure at the top of the page: share of gain against share of cost, with the corner of the rule of thumb."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.config.quantities import percent, ratio
from engine.ladder.phrases import RULE_GAIN
from engine.ladder.report.drawing import ReportFigure, legend, new_figure, ticks
from engine.ladder.report.palette import GRID_COLOR, MUTED, RungStyle
from engine.ladder.report.svg import inline_svg
from engine.runs.rung_results import LadderSummary, RungTradeoff
from engine.runs.tradeoff_text import COST_TICKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOWEST_SHARE, HIGHEST_SHARE = -50.0, 200.0
"""Percent at which the axis ends: a very wide interval would leave no room for the others."""
TITLE = "Share of gain vs. share of cost"


def summary_figure(summary: LadderSummary | None, styles: dict[str, RungStyle]) -> ReportFigure | None:
    """Each rung as a cross of its intervals; None if fewer than two rungs have both shares."""
    if summary is None or len(summary.tradeoffs) < 2:
        return None
    shown = summary.tradeoffs
    with new_figure(f"{summary.cost}, as a share of full fine-tuning's", "share of full's gain, %") as (figure, axes):
        _limits(axes, summary)
        _corner(axes, summary)
        for one in shown:
            _cross(axes, styles[one.rung], one)
        legend(figure, styles, [one.rung for one in shown], marker=True)
        svg = inline_svg(figure, "summary", f"{TITLE}: {_description(shown)}")
    caption = (
        "Vertical bars: pointwise 95% CI. Horizontal bars: lowest to highest ratio over the seeds. Shaded: the rule of "
        f"thumb, {RULE_GAIN} at no more than one eighth of the cost."
    )
    return ReportFigure(TITLE, svg, caption)


def _limits(axes: Axes, summary: LadderSummary) -> None:
    costs = [end for one in summary.tradeoffs for end in (one.cost.low, one.cost.high)]
    ends = [
        100 * end
        for one in summary.tradeoffs
        for end in (one.share_of_gain.low, one.share_of_gain.mean, one.share_of_gain.high)
        if end is not None
    ]
    left, right = min(0.5 * summary.rule_cost, 0.8 * min(costs)), max(1.5, 1.25 * max(costs))
    low = max(LOWEST_SHARE, min(100 * summary.rule_gain - 8, *ends))
    high = min(HIGHEST_SHARE, max(104.0, *ends))
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    _cost_ticks(axes, left, right)
    ticks(axes.yaxis, [low, high])


def _cost_ticks(axes: Axes, left: float, right: float) -> None:
    """Halves, as in the rule of thumb: 1/8, 1/4, 1/2, 1, 2."""
    from matplotlib.ticker import NullLocator  # see drawing.new_figure

    inside = [(cost, label) for cost, label in COST_TICKS if left <= cost <= right]
    axes.set_xticks([cost for cost, _ in inside], [label for _, label in inside])
    axes.xaxis.set_minor_locator(NullLocator())


def _corner(axes: Axes, summary: LadderSummary) -> None:
    """The region in which the rule of thumb holds."""
    left, top = axes.get_xlim()[0], axes.get_ylim()[1]
    share, cost = 100 * summary.rule_gain, summary.rule_cost
    axes.fill([left, cost, cost, left], [share, share, top, top], color=GRID_COLOR, linewidth=0)
    axes.plot([left, cost, cost], [share, share, top], color=MUTED, linewidth=1.0, dashes=(4, 3))
    axes.text(left, share, " rule of thumb", color=MUTED, va="bottom", ha="left")
    axes.axhline(100.0, color=GRID_COLOR, linewidth=0.8)


def _cross(axes: Axes, style: RungStyle, one: RungTradeoff) -> None:
    share, cost = one.share_of_gain, one.cost
    middle = 100 * (share.mean or 0.0)
    if share.low is not None and share.high is not None:
        axes.plot([cost.mean, cost.mean], [100 * share.low, 100 * share.high], color=style.color, linewidth=1.3)
    axes.plot([cost.low, cost.high], [middle, middle], color=style.color, linewidth=1.3)
    axes.plot([cost.mean], [middle], color=style.color, marker=style.marker, markersize=9, linestyle="")


def _description(shown: list[RungTradeoff]) -> str:
    """The values as text, for screen readers."""
    return ", ".join(
        f"{one.title} {percent(one.share_of_gain.mean)} of the gain at {ratio(one.cost.mean)} the cost" for one in shown
    )
