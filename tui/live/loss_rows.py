"""The loss of a run as rows of text: the training curve and the validation losses."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content

from engine.config.quantities import rate
from tui.charts.chart import ChartStyle, Curve, draw, reach
from tui.format import number
from tui.live.run_state import RunState

COLORS = {
    "axis": "$foreground-muted",
    "train": "$primary",
    "eval": "$text-warning",
    "best": "$text-success",
    "": "",
}


def lowest_loss(state: RunState) -> list[tuple[str, str]]:
    """`  lowest 0.9715 at step 8`, or `kept` once training has ended; nothing before the first validation."""
    kept = state.selected or state.lowest
    if kept is None or kept.loss is None:
        return []
    return [(f"  {'kept' if state.selected else 'lowest'} {number(kept.loss)} at step {kept.step}", COLORS["best"])]


@dataclass(frozen=True)
class CurveView:
    """The loss of a run."""

    state: RunState

    def until(self) -> float | None:
        """Where the x axis ends: slightly beyond a growing curve."""
        state, span = self.state, self.state.loss.span()
        if state.step is None or state.end is not None or span is None:
            return None
        return reach(span[1], state.step.steps)

    def steps_per_column(self, width: int) -> float | None:
        """Steps per column while the curve grows; None for a finished one."""
        span, until = self.state.loss.span(), self.until()
        return (until - span[0]) / max(1, width) if span and until else None

    def rows(self, width: int, height: int, options: ChartStyle) -> list[Content]:
        """What is special about the curve and the chart, or a status line while there is no point yet."""
        if not self.state.loss.buckets:
            return [Content.styled(self._empty_text(), "$foreground-muted")]
        legend = self._legend()
        rows = height - bool(legend.cell_length)
        chart = draw(self._curves(), width, rows, options, self.until())
        lines = [Content.assemble(*((text, COLORS.get(style, style)) for text, style in row)) for row in chart]
        return [legend, *lines] if legend.cell_length else lines

    def values(self) -> str:
        """`0.412  validation 0.455 @400`, for the pane's frame."""
        latest, validation = self.state.loss.latest, self.state.validation
        parts = [number(latest)] if latest is not None else []
        if validation.latest is not None:
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
        return [
            Curve(self.state.loss, "train"),
            Curve(self.state.validation, "eval", marks=True, letter="o"),
            Curve(self.state.best(), "best", marks=True, letter="*"),
        ]

    def _legend(self) -> Content:
        parts: list[tuple[str, str]] = []
        if self.state.loss.absent:
            parts.append((f"  {self.state.loss.absent:,} not finite", "$text-error"))
        if self.state.sampled:
            parts.append(("  sampled; reading all events", "$text-warning"))
        return Content.assemble(*parts)

    def _empty_text(self) -> str:
        if self.state.step is not None:
            return f"no finite loss in {self.state.loss.absent:,} steps"
        if self.state.end is not None:
            return "ended before the first step"
        return f"{self.state.phase or 'starting'}: no step yet"
