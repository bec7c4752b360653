"""The loss as it falls: train and validation, an earlier run behind it, other curves on a key."""

from __future__ import annotations

from textual.content import Content

from tui.chart import Curve, Look, draw, number
from tui.runstate import RunState
from tui.series import Series
from tui.widgets.rows import Rows

VIEWS = ("loss", "learning rate", "gradient norm", "tokens/s")
SMOOTH = (0.0, 0.6, 0.9, 0.97)
COLOURS = {"axis": "$foreground-muted", "train": "$primary", "eval": "$warning", "earlier": "$foreground-muted", "": ""}


class LossPane(Rows):
    """Redrawn at most once a second, and only the rows that changed."""

    def __init__(self, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.state: RunState | None = None
        self.earlier: tuple[str, Series] | None = None
        self.view = 0
        self.look = Look(ascii=ascii_only)

    def redraw(self) -> None:
        width, height = self.content_size.width, self.content_size.height
        if not width or not height:
            return
        curves = self._curves()
        if not any(curve.series.buckets for curve in curves):
            self.show([Content.styled(self._nothing(), "$foreground-muted")])
            return
        legend = self._legend()
        chart = draw(curves, width, height - 1, self.look)
        self.show([legend, *(Content.assemble(*((t, COLOURS.get(s, s)) for t, s in row)) for row in chart)])

    def action_view(self) -> None:
        self.view = (self.view + 1) % len(VIEWS)
        self.redraw()

    def action_log_scale(self) -> None:
        self.look = Look(not self.look.log, self.look.smooth, self.look.ascii)
        self.redraw()

    def action_smooth(self) -> None:
        smooth = SMOOTH[(SMOOTH.index(self.look.smooth) + 1) % len(SMOOTH)]
        self.look = Look(self.look.log, smooth, self.look.ascii)
        self.redraw()

    def _curves(self) -> list[Curve]:
        state = self.state
        if state is None:
            return []
        series = (state.loss, state.rate, state.grad_norm, state.speed)[self.view]
        curves = [Curve(series, "train")]
        if self.view == 0:
            curves.append(Curve(state.validation, "eval", marks=True))
            if self.earlier:
                curves.append(Curve(self.earlier[1], "earlier", ghost=True))
        return curves

    def _legend(self) -> Content:
        state = self.state
        assert state is not None
        series = (state.loss, state.rate, state.grad_norm, state.speed)[self.view]
        parts: list[tuple[str, str]] = [(VIEWS[self.view], "bold")]
        if series.latest is not None:
            parts.append((f" {number(series.latest)}", "$primary"))
        if self.view == 0 and state.validation.latest is not None:
            parts.append((f"  validation {number(state.validation.latest)}", "$warning"))
        if self.view == 0 and self.earlier:
            parts.append((f"  earlier: {self.earlier[0]}", "$foreground-muted"))
        if self.look.log:
            parts.append(("  log", "$foreground-muted"))
        if self.look.smooth:
            parts.append((f"  smoothed {self.look.smooth:g}", "$foreground-muted"))
        if series.absent:
            parts.append((f"  {series.absent} not finite", "$text-error"))
        return Content.assemble(*parts)

    def _nothing(self) -> str:
        if self.state is None:
            return "no run: choose with 1-9, then press enter"
        return f"{self.state.phase or 'starting'}: no step yet"
