"""The loss curve, and on keys: other curves, an earlier run for comparison, log scale, smoothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from engine.config.errors import UserError
from engine.config.text import visible
from tui.header import welcome
from tui.settings import app_keys, app_settings
from tui.widgets.pane import BenchState
from tui.widgets.text_rows import Rows

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from tui.live.earlier_runs import EarlierRun
    from tui.live.loss_rows import CurveView
    from tui.live.run_state import RunState

SMOOTHING = (0.0, 0.6, 0.9, 0.97)
"""Weights of the exponential moving average that the key cycles through."""
MIN_SECONDS, MAX_SECONDS = 2.0, 5.0
"""Between two frames of a growing curve: each row of it sends about 300 bytes to the terminal."""


class LossPane(Rows, can_focus=True):
    """Redraws a growing curve when it has reached another column, and only the cells that changed."""

    pane_name: ClassVar[str] = "loss"

    def __init__(self, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.runs: Path | None = None
        self.state: RunState | None = None
        self.resumable: list[str] = []
        """What the welcome says of runs that can be resumed."""
        self.earlier: EarlierRun | None = None
        self.view, self.log_axis, self.smoothing = 0, False, 0.0
        self._drawn: object = None
        self._drawn_step, self._drawn_at = 0.0, 0.0

    def show_state(self, state: BenchState) -> None:
        self.runs, self.state = state.runs, state.run
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
        from tui.live.loss_rows import VIEWS, CurveView

        losses = CurveView(self.state, self.view, self.earlier)
        siblings = self.parent.query("FiguresPane") if self.parent else ()  # None while the bench is closed
        beside = any(pane.display and pane.size.width for pane in siblings)  # it has them
        self.set_titles(VIEWS[self.view], losses.values(), "" if beside else losses.figures())
        if self._is_due(losses):
            self.show(losses.rows(width, height, ChartStyle(self.log_axis, self.smoothing, app_settings(self).ascii)))

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
        self.smoothing = SMOOTHING[(SMOOTHING.index(self.smoothing) + 1) % len(SMOOTHING)]
        self.redraw()

    def action_earlier(self) -> None:
        """Compare with the next earlier run, after the last with none. Read in a thread: its log may be long."""
        if self._is_empty():
            return
        name, after = self.state.name if self.state else "", self.earlier.name if self.earlier else ""
        runs = self.runs
        assert runs is not None  # set with the state

        def fetch() -> None:
            from tui.live.earlier_runs import read

            try:
                earlier = read(runs, name, after)
            except (UserError, OSError) as error:
                self.app.call_from_thread(self.app.notify, visible(str(error)), severity="error", markup=False)
                return
            self.app.call_from_thread(self._set_earlier, earlier)

        self.run_worker(fetch, thread=True, exclusive=True, group="earlier")

    def _is_empty(self) -> bool:
        """Whether there is no curve; a notification then says so."""
        if self.state is None:
            self.app.notify("no curve: start or attach a run first")
        return self.state is None

    def _set_earlier(self, earlier: EarlierRun | None) -> None:
        if earlier is None and self.earlier is None:
            self.app.notify("no earlier run with a loss curve", severity="warning")
        self.earlier, self.view = earlier, 0
        self.redraw()

    def _is_due(self, losses: CurveView) -> bool:
        """Whether to redraw: another view, another column, or MAX_SECONDS have passed."""
        state, now = losses.state, time.monotonic()
        step = float(state.step.step) if state.step else 0.0
        view = (id(state), state.end, state.phase, state.sampled, len(state.validation.buckets))
        drawn = (view, self.view, self.log_axis, self.smoothing, self.earlier, self.content_size)
        if drawn == self._drawn and (column := losses.steps_per_column(self.content_size.width)):
            waited = now - self._drawn_at
            if waited < MIN_SECONDS or (step - self._drawn_step < column and waited < MAX_SECONDS):
                return False
        self._drawn, self._drawn_step, self._drawn_at = drawn, step, now
        return True
