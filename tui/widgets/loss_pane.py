"""The loss curve of the watched run, or how to start one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from tui.header import welcome
from tui.settings import app_keys, app_settings
from tui.widgets.pane import BenchState
from tui.widgets.text_rows import Rows

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from tui.live.curves import CurveView
    from tui.live.run_state import RunState

MIN_SECONDS, MAX_SECONDS = 2.0, 5.0
"""Between two frames of a growing curve: each row of it sends about 300 bytes to the terminal."""


class LossPane(Rows, can_focus=True):
    """Redraws a growing curve when it has reached another column, and only the cells that changed."""

    pane_name: ClassVar[str] = "loss"
    letter: ClassVar[str] = "l"

    state: RunState | None = None
    resumable: Sequence[str] = ()
    """What the welcome says of runs that can be resumed."""
    _drawn: object = None
    _drawn_step, _drawn_at = 0.0, 0.0

    def show_state(self, state: BenchState) -> None:
        self.state = state.run
        self.resumable = [run.text for run in state.resumable]
        self.redraw()

    def redraw(self) -> None:
        width, height = self.content_size.width, self.content_size.height
        if not width or not height:
            return
        if self.state is None:
            self.set_titles("start" if not self.resumable else "start, or resume")
            if self._drawn != (self.content_size, self.resumable):
                self._drawn = (self.content_size, self.resumable)
                self.show(welcome(app_keys(self), width, height, self.resumable))
            return
        from tui.charts.chart import ChartStyle
        from tui.live.curves import CurveView

        losses = CurveView(self.state)
        siblings = self.parent.query("FiguresPane") if self.parent else ()  # None while the bench is closed
        beside = any(pane.display and pane.size.width for pane in siblings)  # it has them
        self.set_titles("loss", losses.values(), "" if beside else losses.figures())
        if self._is_due(losses):
            self.show(losses.rows(width, height, ChartStyle(ascii=app_settings(self).ascii)))

    def _is_due(self, losses: CurveView) -> bool:
        """Whether to redraw: another run or size, another column, or MAX_SECONDS have passed."""
        state, now = losses.state, time.monotonic()
        step = float(state.step.step) if state.step else 0.0
        view = (id(state), state.end, state.phase, state.sampled, len(state.validation.buckets))
        drawn = (view, self.content_size)
        if drawn == self._drawn and (column := losses.steps_per_column(self.content_size.width)):
            waited = now - self._drawn_at
            if waited < MIN_SECONDS or (step - self._drawn_step < column and waited < MAX_SECONDS):
                return False
        self._drawn, self._drawn_step, self._drawn_at = drawn, step, now
        return True
