"""The curves of a run as rows of text: loss, learning rate, gradient norm or throughput.

The loss chart also shows validation loss and the loss of an earlier run.
"""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content

from engine.config.quantities import rate
from engine.config.text import visible
from tui.charts.chart import ChartStyle, Curve, draw, line_sample, reach
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
        """What is special about the view and the chart, or a status line while there is no point yet."""
        if not self.series.buckets:
            return [Content.styled(self._empty_text(), "$foreground-muted")]
        legend = self._legend(options)
        rows = height - bool(legend.cell_length)
        chart = draw(self._curves(), width, rows, options, self.until())
        lines = [Content.assemble(*((text, COLORS.get(style, style)) for text, style in row)) for row in chart]
        return [legend, *lines] if legend.cell_length else lines

    def values(self) -> str:
        """`0.412  validation 0.455 @400`, for the pane's frame."""
        latest, validation = self.series.latest, self.state.validation
        parts = [number(latest)] if latest is not None else []
        if self.view == 0 and validation.latest is not None:
            parts.append(f"validation {number(validation.latest)} @{validation.buckets[-1].last:.0f}")
            parts += ["".join(text for text, _ in lowest_loss(self.state)).strip()]
        return "  ".join(part for part in parts if part)

    def figures(self) -> str:
        """`lr 1.6e-4  grad 0.31  3,912 tokens/s`, for the pane's frame."""
        state = self.state
        figures = [f"lr {rate(state.rate.latest)}"] if state.rate.latest is not None else []
        figures += [f"grad {number(state.grad_norm.latest)}"] if state.grad_norm.latest is not None else []
        figures += [f"{state.speed.latest:,.0f} tokens/s"] if state.speed.latest is not None else []
        return "  ".join(figures)

    def _curves(self) -> list[Curve]:
        curves = [Curve(self.series, "train")]
        if self.view == 0:
            curves.append(Curve(self.state.validation, "eval", marks=True, letter="o"))
            curves.append(Curve(self.state.best(), "best", marks=True, letter="*"))
        if self.earlier:
            curves.append(Curve(self.earlier.loss, "earlier", ghost=True, place=1))
        return curves

    def _legend(self, options: ChartStyle) -> Content:
        state, series = self.state, self.series
        parts: list[tuple[str, str]] = []
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
            sample = line_sample(1, options.ascii)
            parts.append((f"  {sample} earlier run {earlier.number}/{earlier.of}: ", "$foreground-muted"))
            parts.append((visible(name + earlier.name[TIMESTAMP:]), "$foreground-muted"))
        return Content.assemble(*parts)

    def _empty_text(self) -> str:
        if self.state.step is not None:
            return f"no finite {VIEWS[self.view]} in {self.series.absent:,} steps"
        if self.state.end is not None:
            return "ended before the first step"
        return f"{self.state.phase or 'starting'}: no step yet"
