"""The loss as it falls: train and validation, an earlier run behind it, other curves on a key."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from textual.content import Content

from engine.contract.text import visible
from tui.chart import Curve, Look, draw, number, reach
from tui.earlier import Earlier, read
from tui.runstate import RunState
from tui.series import Series
from tui.welcome import welcome
from tui.widgets.rows import Rows

VIEWS = ("loss", "learning rate", "gradient norm", "tokens/s")
SMOOTH = (0.0, 0.6, 0.9, 0.97)
COLOURS = {
    "axis": "$foreground-muted",
    "train": "$primary",
    "eval": "$text-warning",
    "earlier": "$foreground-muted",
    "": "",
}
LEAST_SECONDS, MOST_SECONDS = 2.0, 5.0
"""Between two pictures of a growing curve: a row of it is some 300 bytes over the line."""
STAMP = len("20260101-000000-")
"""Of a run's name: when it was made."""


class LossPane(Rows):
    """Redrawn when a growing curve has come a column further, and only the cells that changed."""

    def __init__(self, runs: Path, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.runs = runs
        self.state: RunState | None = None
        self.earlier: Earlier | None = None
        self.keys: Mapping[str, str] = {}
        """The user's own."""
        self.view = 0
        self.look = Look(ascii=ascii_only)
        self._drawn: object = None
        self._drawn_step, self._drawn_at = 0.0, 0.0

    def redraw(self) -> None:
        width, height = self.content_size.width, self.content_size.height
        if not width or not height or not self._is_due():
            return
        state = self.state
        if state is None or not self._series(state).buckets:
            self.show(self._nothing(width, height))
            return
        chart = draw(self._curves(state), width, height - 1, self.look, self._until(state))
        legend = self._legend(state)
        self.show([legend, *(Content.assemble(*((t, COLOURS.get(s, s)) for t, s in row)) for row in chart)])

    def on_resize(self) -> None:
        self.redraw()

    def action_view(self) -> None:
        self.view = (self.view + 1) % len(VIEWS)
        self.redraw()

    def action_log_scale(self) -> None:
        self.look = replace(self.look, log=not self.look.log)
        self.redraw()

    def action_smooth(self) -> None:
        smooth = SMOOTH[(SMOOTH.index(self.look.smooth) + 1) % len(SMOOTH)]
        self.look = replace(self.look, smooth=smooth)
        self.redraw()

    def action_earlier(self) -> None:
        """The next run on offer behind the loss, none after the last. Read in a thread: it may be long."""
        name, after = self.state.name if self.state else "", self.earlier.name if self.earlier else ""

        def fetch() -> None:
            self.app.call_from_thread(self._lay_behind, read(self.runs, name, after))

        self.run_worker(fetch, thread=True, exclusive=True, group="earlier")

    def _lay_behind(self, earlier: Earlier | None) -> None:
        if earlier is None and self.earlier is None:
            self.app.notify("no earlier run with a loss in this folder", severity="warning")
        self.earlier, self.view = earlier, 0
        self.redraw()

    def _is_due(self) -> bool:
        """Whether there is enough news to send: something else to draw, a column more, or a while has gone."""
        state, now = self.state, time.monotonic()
        step = float(state.step.step) if state and state.step else 0.0
        still = (id(state), state and (state.end, state.phase, state.sampled, len(state.validation.buckets)))
        drawn = (still, self.view, self.look, self.earlier, self.content_size)
        span, until = (self._series(state).span(), self._until(state)) if state else (None, None)
        if drawn == self._drawn and span and until:
            column = (until - span[0]) / max(1, self.content_size.width)
            waited = now - self._drawn_at
            if waited < LEAST_SECONDS or (step - self._drawn_step < column and waited < MOST_SECONDS):
                return False
        self._drawn, self._drawn_step, self._drawn_at = drawn, step, now
        return True

    def _series(self, state: RunState) -> Series:
        return (state.loss, state.rate, state.grad_norm, state.speed)[self.view]

    def _behind(self, state: RunState) -> Earlier | None:
        shown = self.view == 0 and self.earlier is not None and self.earlier.name != state.name
        return self.earlier if shown else None

    def _curves(self, state: RunState) -> list[Curve]:
        curves = [Curve(self._series(state), "train")]
        if self.view == 0:
            curves.append(Curve(state.validation, "eval", marks=True))
        if earlier := self._behind(state):
            curves.append(Curve(earlier.loss, "earlier", ghost=True))
        return curves

    def _until(self, state: RunState) -> float | None:
        """Where the axis ends: a little beyond a growing curve, where the plan ends if that is to be compared."""
        span = self._series(state).span()
        if state.step is None or state.end is not None or span is None:
            return None
        return float(state.step.steps) if self._behind(state) else reach(span[1], state.step.steps)

    def _legend(self, state: RunState) -> Content:
        series = self._series(state)
        parts: list[tuple[str, str]] = [(VIEWS[self.view], "bold")]
        if series.latest is not None:
            parts.append((f" {number(series.latest)}", "$primary"))
        if self.view == 0 and state.validation.latest is not None:
            parts.append((f"  validation {number(state.validation.latest)}", "$text-warning"))
        if series.absent:
            parts.append((f"  {series.absent:,} not finite", "$text-error"))
        if state.sampled:
            parts.append(("  sampled, reading the rest", "$text-warning"))
        if self.look.log:
            parts.append(("  log", "$foreground-muted"))
        if self.look.smooth:
            parts.append((f"  smoothed {self.look.smooth:g}", "$foreground-muted"))
        if earlier := self._behind(state):
            name = f"{earlier.name[4:6]}-{earlier.name[6:8]} {earlier.name[9:11]}:{earlier.name[11:13]} "
            parts.append((f"  behind {earlier.number}/{earlier.of}: ", "$foreground-muted"))
            parts.append((visible(name + earlier.name[STAMP:]), "$foreground-muted"))
        return Content.assemble(*parts)

    def _nothing(self, width: int, height: int) -> list[Content]:
        """Where there is no curve: what to press, or what is awaited."""
        state = self.state
        if state is None:
            return welcome(self.keys, width, height)
        if state.step is not None:
            text = f"no finite {VIEWS[self.view]} in {self._series(state).absent:,} steps"
        else:
            text = f"{state.phase or 'starting'}: no step yet"
        return [Content.styled(text, "$foreground-muted")]
