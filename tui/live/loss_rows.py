"""The curves of a run as rows of text: loss, learning rate, gradient norm or throughput.

The loss chart also shows validation loss and the loss of an earlier run.
"""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content

from engine.config.text import visible
from tui.charts.chart import ChartStyle, Curve, draw, reach
from tui.charts.series import Series
from tui.format import number
from tui.live.earlier_runs import EarlierRun
from tui.live.run_state import RunState

VIEWS = ("loss", "learning rate", "gradient norm", "tokens/s")
COLORS = {
    "axis": "$foreground-muted",
    "train": "$primary",
    "eval": "$text-warning",
    "best": "$text-success",
    "earlier": "$foreground-muted",
    "": "",
}
TIMESTAMP = len("20260101-000000-")
"""Length of the creation time at the start of a run's name."""


def lowest_loss(state: RunState) -> list[tuple[str, str]]:
    """`  lowest 0.9715 at step 8`, or `kept` once training has ended; nothing before the first validation."""
    kept = state.selected or state.lowest
    if kept is None or kept.loss is None:
        return []
    return [(f"  {'kept' if state.selected else 'lowest'} {number(kept.loss)} at step {kept.step}", COLORS["best"])]


@dataclass(frozen=True)
class CurveView:
    """One view of a run, index `view` of VIEWS; `behind` is overlaid on the loss only, and never the run itself."""

    state: RunState
    view: int
    behind: EarlierRun | None = None

    @property
    def series(self) -> Series:
        """The curve that is drawn."""
        state = self.state
        return (state.loss, state.rate, state.grad_norm, state.speed)[self.view]

    @property
    def earlier(self) -> EarlierRun | None:
        shown = self.view == 0 and self.behind is not None and self.behind.name != self.state.name
        return self.behind if shown else None

    def until(self) -> float | None:
        """Where the x axis ends: slightly beyond a growing curve; at the last planned step with an overlay."""
        state, span = self.state, self.series.span()
        if state.step is None or state.end is not None or span is None:
            return None
        return float(state.step.steps) if self.earlier else reach(span[1], state.step.steps)

    def steps_per_column(self, width: int) -> float | None:
        """Steps per column while the curve grows; None for a finished one."""
        span, until = self.series.span(), self.until()
        return (until - span[0]) / max(1, width) if span and until else None

    def rows(self, width: int, height: int, options: ChartStyle) -> list[Content]:
        """A legend and the chart, or a status line while there is no point yet."""
        if not self.series.buckets:
            return [Content.styled(self._empty_text(), "$foreground-muted")]
        chart = draw(self._curves(), width, height - 1, options, self.until())
        lines = (Content.assemble(*((text, COLORS.get(style, style)) for text, style in row)) for row in chart)
        return [self._legend(options), *lines]

    def _curves(self) -> list[Curve]:
        curves = [Curve(self.series, "train")]
        if self.view == 0:
            curves.append(Curve(self.state.validation, "eval", marks=True))
            curves.append(Curve(self.state.best(), "best", marks=True))
        if self.earlier:
            curves.append(Curve(self.earlier.loss, "earlier", ghost=True))
        return curves

    def _legend(self, options: ChartStyle) -> Content:
        state, series = self.state, self.series
        parts: list[tuple[str, str]] = [(VIEWS[self.view], "bold")]
        if series.latest is not None:
            parts.append((f" {number(series.latest)}", "$primary"))
        if self.view == 0 and state.validation.latest is not None:
            parts.append((f"  validation {number(state.validation.latest)}", COLORS["eval"]))
            parts.extend(lowest_loss(state))
        if series.absent:
            parts.append((f"  {series.absent:,} not finite", "$text-error"))
        if state.sampled:
            parts.append(("  sampled; reading all events", "$text-warning"))
        if options.log:
            parts.append(("  log", "$foreground-muted"))
        if options.smooth:
            parts.append((f"  smoothed {options.smooth:g}", "$foreground-muted"))
        if earlier := self.earlier:
            name = f"{earlier.name[4:6]}-{earlier.name[6:8]} {earlier.name[9:11]}:{earlier.name[11:13]} "
            parts.append((f"  earlier run {earlier.number}/{earlier.of}: ", "$foreground-muted"))
            parts.append((visible(name + earlier.name[TIMESTAMP:]), "$foreground-muted"))
        return Content.assemble(*parts)

    def _empty_text(self) -> str:
        if self.state.step is not None:
            return f"no finite {VIEWS[self.view]} in {self.series.absent:,} steps"
        if self.state.end is not None:
            return "ended before the first step"
        return f"{self.state.phase or 'starting'}: no step yet"
