"""The chart grid: all curves of the watched run next to earlier runs, values at a step, answers as the model learns."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Grid
from textual.widgets import Static

from engine.config.errors import UserError
from tui.charts.chart import AXIS, ChartStyle
from tui.commands import bindings
from tui.live.chart_grid import MAX_EARLIER, METRICS, ChartGrid, cursor_column, step_of_column
from tui.live.earlier_runs import candidates
from tui.live.opening import EventLoader
from tui.live.run_state import RunState
from tui.live.sample_lines import sample_lines
from tui.screens.base import BaseScreen
from tui.widgets.key_line import KeyLine
from tui.widgets.rows import Rows
from tui.workbench import app_settings

MIN_SECONDS, MAX_SECONDS = 2.0, 8.0
"""Between two frames of growing curves: five charts send five times the bytes of one."""
SMOOTHING = (0.0, 0.6, 0.9, 0.97)


class ChartsScreen(BaseScreen[None]):
    """Follows the watched run; escape returns."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("charts")
    CSS = """
    ChartsScreen { layout: vertical; }
    ChartsScreen #legend { height: 1; padding: 0 1; }
    ChartsScreen Grid { height: 1fr; grid-size: 2 3; grid-gutter: 0; }
    ChartsScreen Rows { height: 1fr; }
    ChartsScreen KeyLine { height: 1; }
    """

    def __init__(self, runs: Path, watched: Callable[[], RunState | None]) -> None:
        super().__init__()
        self.runs, self.watched = runs, watched
        self.earlier: list[RunState] = []
        self.cursor: int | None = None
        self.log_axis, self.smoothing = False, 0.0
        self._drawn: object = None
        self._drawn_at = 0.0

    def compose(self) -> ComposeResult:
        yield Static(id="legend")
        with Grid():
            for number in range(len(METRICS)):
                yield Rows(id=f"chart{number}", classes="pane")
            samples = Rows(id="samples", classes="pane")
            samples.border_title = "samples"
            yield samples
        yield KeyLine()

    def on_mount(self) -> None:
        self.set_interval(1.0, self._redraw_if_due)
        self.call_after_refresh(self.redraw)

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    def grid(self) -> ChartGrid | None:
        state = self.watched()
        if state is None:
            return None
        style = ChartStyle(self.log_axis, self.smoothing, app_settings(self).ascii)
        return ChartGrid(state, self.earlier, self.cursor, style)

    def _redraw_if_due(self) -> None:
        """Redraw when the curves have reached another column, or MAX_SECONDS have passed."""
        grid = self.grid()
        if grid is None or not self.is_current:
            return
        state, waited = grid.state, time.monotonic() - self._drawn_at
        column = cursor_column(state.step.step, grid.span, self._columns()) if state.step and grid.span else 0
        drawn = (id(state), state.end, column, grid.span, len(state.samples), len(state.validation.buckets))
        if (drawn == self._drawn and waited < MAX_SECONDS) or (waited < MIN_SECONDS and state.end is None):
            return
        if state.end is None or drawn != self._drawn:
            self._drawn = drawn
            self.redraw()

    def _columns(self) -> int:
        return max(1, self.query_one("#chart0", Rows).content_size.width - AXIS)

    def redraw(self) -> None:
        """Draw all charts and the samples; only rows that changed are sent."""
        self._drawn_at = time.monotonic()
        grid = self.grid()
        if grid is None:
            self.query_one("#legend", Static).update("no run is watched: start or attach one first")
            return
        self.query_one("#legend", Static).update(grid.legend(self.size.width - 2))
        for number, metric in enumerate(METRICS):
            pane = self.query_one(f"#chart{number}", Rows)
            size = pane.content_size
            if size.width and size.height:
                pane.show(grid.rows(metric, size.width, size.height))
        pane = self.query_one("#samples", Rows)
        if pane.content_size.width:
            pane.show(sample_lines(grid.state.samples, self.cursor, pane.content_size.width, pane.content_size.height))

    def action_cursor(self, columns: int) -> None:
        """Move the cursor, which reads the values of all charts at its step."""
        grid = self.grid()
        span = grid.span if grid else None
        if span is None:
            return
        width = self._columns()
        last = grid.state.step.step if grid and grid.state.step else round(span[1])
        at = cursor_column(last if self.cursor is None else self.cursor, span, width)
        moved = at + columns
        beyond = moved > cursor_column(round(span[1]), span, width)
        self.cursor = None if beyond else step_of_column(max(0, moved), span, width)
        self.redraw()

    def action_latest(self) -> None:
        self.cursor = None
        self.redraw()

    def action_first(self) -> None:
        grid = self.grid()
        if grid and grid.span:
            self.cursor = round(grid.span[0])
            self.redraw()

    def action_log_scale(self) -> None:
        self.log_axis = not self.log_axis
        self.redraw()

    def action_smooth(self) -> None:
        self.smoothing = SMOOTHING[(SMOOTHING.index(self.smoothing) + 1) % len(SMOOTHING)]
        self.redraw()

    def action_earlier(self) -> None:
        """Add the next earlier run; those on the same data come first. Read in a thread: its log may be long."""
        state = self.watched()
        if state is None:
            return
        if len(self.earlier) >= MAX_EARLIER:
            self.tell(f"at most {MAX_EARLIER} earlier runs; B removes them")
            return
        shown = {state.name, *(one.name for one in self.earlier)}

        def fetch() -> None:
            try:
                run = next((one for one in candidates(self.runs, state.name) if one.name not in shown), None)
                found = EventLoader(run.events_file, run.name).first() if run else None
            except (UserError, OSError) as error:
                self.app.call_from_thread(self.tell, str(error), severity="error")
                return
            self.app.call_from_thread(self._add, found)

        self.run_worker(fetch, thread=True, exclusive=True, group="earlier")

    def _add(self, found: RunState | None) -> None:
        if found is None:
            self.tell("no other earlier run with a loss curve", severity="warning")
            return
        self.earlier.append(found)
        self.redraw()

    def action_remove(self) -> None:
        """Remove the earlier runs."""
        self.earlier = []
        self.redraw()

    def action_back(self) -> None:
        self.dismiss()
