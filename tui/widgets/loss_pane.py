"""The loss as it falls; other curves, an earlier run behind it, log scale and smoothing on keys."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.errors import UserError
from engine.config.text import visible
from tui.welcome import welcome
from tui.widgets.rows import Rows

if TYPE_CHECKING:  # the first picture has no run
    from tui.live.earlier_runs import EarlierRun
    from tui.live.loss_rows import Losses
    from tui.live.run_state import RunState

SMOOTH = (0.0, 0.6, 0.9, 0.97)
LEAST_SECONDS, MOST_SECONDS = 2.0, 5.0
"""Between two pictures of a growing curve: a row of it is some 300 bytes over the line."""


class LossPane(Rows):
    """Redrawn when a growing curve has come a column further, and only the cells that changed."""

    def __init__(self, runs: Path, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.runs, self.ascii_only = runs, ascii_only
        self.state: RunState | None = None
        self.earlier: EarlierRun | None = None
        self.keys: Mapping[str, str] = {}
        """The user's own."""
        self.view, self.log_axis, self.smoothing = 0, False, 0.0
        self._drawn: object = None
        self._drawn_step, self._drawn_at = 0.0, 0.0

    def redraw(self) -> None:
        width, height = self.content_size.width, self.content_size.height
        if not width or not height:
            return
        if self.state is None:
            self._drawn = None
            self.show(welcome(self.keys, width, height))
            return
        from tui.charts.chart import ChartStyle
        from tui.live.loss_rows import Losses

        losses = Losses(self.state, self.view, self.earlier)
        if self._is_due(losses):
            self.show(losses.rows(width, height, ChartStyle(self.log_axis, self.smoothing, self.ascii_only)))

    def on_resize(self) -> None:
        self.redraw()

    def action_view(self) -> None:
        from tui.live.loss_rows import VIEWS

        if self._is_empty():
            return
        self.view = (self.view + 1) % len(VIEWS)
        self.redraw()

    def action_log_scale(self) -> None:
        if self._is_empty():
            return
        self.log_axis = not self.log_axis
        self.redraw()

    def action_smooth(self) -> None:
        if self._is_empty():
            return
        self.smoothing = SMOOTH[(SMOOTH.index(self.smoothing) + 1) % len(SMOOTH)]
        self.redraw()

    def action_earlier(self) -> None:
        """The next run on offer behind the loss, none after the last. Read in a thread: it may be long."""
        if self._is_empty():
            return
        name, after = self.state.name if self.state else "", self.earlier.name if self.earlier else ""

        def fetch() -> None:
            from tui.live.earlier_runs import read

            try:
                earlier = read(self.runs, name, after)
            except (UserError, OSError) as error:
                self.app.call_from_thread(self.app.notify, visible(str(error)), severity="error", markup=False)
                return
            self.app.call_from_thread(self._lay_behind, earlier)

        self.run_worker(fetch, thread=True, exclusive=True, group="earlier")

    def _is_empty(self) -> bool:
        """Whether there is no curve to draw otherwise, which is said."""
        if self.state is None:
            self.app.notify("no run is shown, so there is no curve yet")
        return self.state is None

    def _lay_behind(self, earlier: EarlierRun | None) -> None:
        if earlier is None and self.earlier is None:
            self.app.notify("no earlier run with a loss in this folder", severity="warning")
        self.earlier, self.view = earlier, 0
        self.redraw()

    def _is_due(self, losses: Losses) -> bool:
        """Whether there is enough news to send: something else to draw, a column more, or a while has gone."""
        state, now = losses.state, time.monotonic()
        step = float(state.step.step) if state.step else 0.0
        still = (id(state), state.end, state.phase, state.sampled, len(state.validation.buckets))
        drawn = (still, self.view, self.log_axis, self.smoothing, self.earlier, self.content_size)
        if drawn == self._drawn and (column := losses.column(self.content_size.width)):
            waited = now - self._drawn_at
            if waited < LEAST_SECONDS or (step - self._drawn_step < column and waited < MOST_SECONDS):
                return False
        self._drawn, self._drawn_step, self._drawn_at = drawn, step, now
        return True
