"""The chart grid: all curves of the watched run next to earlier runs, values at a step, answers as the model learns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Grid
from textual.widgets import Static

from engine.config.errors import UserError
from engine.config.files import open_regular
from engine.runs.run import run_dir
from engine.runs.run.folder import sort_by_start
from engine.runs.run.run_dir import RunDir
from tui.charts import AXIS, ChartStyle
from tui.commands import bindings
from tui.live.curves import MAX_EARLIER, METRICS, ChartGrid, cursor_column, sample_lines, step_of_column
from tui.live.run_state import HEAD, EventLoader, RunState
from tui.screens.base import BaseScreen
from tui.settings import app_keys, app_settings
from tui.widgets.text_rows import KeyLine, Rows

SMOOTHING = (0.0, 0.6, 0.9, 0.97)
MAX_SEARCHED = 300
"""Number of latest runs that are searched for runs on the same data."""


class ChartsScreen(BaseScreen[None]):
    """Follows the watched run; escape returns."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("charts")
    CSS = """
    ChartsScreen #legend { height: 1; padding: 0 1; }
    ChartsScreen Grid { height: 1fr; grid-size: 2 3; grid-gutter: 0; }
    """

    def __init__(self, runs: Path, watched: Callable[[], RunState | None]) -> None:
        super().__init__()
        self.runs, self.watched = runs, watched
        self.earlier: list[RunState] = []
        self.cursor: int | None = None
        self.log_axis, self.smoothing = False, 0.0
        self._shown: tuple[int, object, int] | None = None
        """State, end and number of events of the last complete frame."""
        self._next = 0
        """The pane that is drawn next."""

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
        self.set_interval(1.0, self._redraw_next)
        if self.watched() is None:
            self.redraw()  # for the first frame; charts need to know their size

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    def grid(self) -> ChartGrid | None:
        state = self.watched()
        if state is None:
            return None
        style = ChartStyle(self.log_axis, self.smoothing, app_settings(self).ascii)
        return ChartGrid(state, self.earlier, self.cursor, style)

    def _redraw_next(self) -> None:
        """Once per second one pane of a growing run in turn: drawing all of them takes six times as long."""
        grid = self.grid()
        if grid is None or not self.is_current:
            return
        state = grid.state
        shown = (id(state), state.end, state.counted)
        if shown == self._shown:
            return
        if state.end is not None or self._shown is None or self._shown[0] != id(state):
            self.redraw()
            return
        if self._next == 0:
            self._shown = shown
        self._draw(grid, self._next)
        self._next = (self._next + 1) % (len(METRICS) + 1)

    def redraw(self) -> None:
        """Draw all charts and the samples; only rows that changed are sent."""
        grid = self.grid()
        if grid is None:
            self.set_text("legend", "no run to show; start a run or attach to one")
            return
        self._shown, self._next = (id(grid.state), grid.state.end, grid.state.counted), 0
        self.set_text("legend", grid.legend(self.size.width - 2))
        for number in range(len(METRICS) + 1):
            self._draw(grid, number)

    def _draw(self, grid: ChartGrid, number: int) -> None:
        """Draw one chart, or the samples, which are the last pane."""
        is_chart = number < len(METRICS)
        pane = self.query_one(f"#chart{number}" if is_chart else "#samples", Rows)
        width, height = pane.content_size
        if width and height:
            samples = grid.state.samples
            rows = grid.rows(METRICS[number], width, height) if is_chart else None
            pane.show(rows or sample_lines(samples, self.cursor, width, height))

    def action_cursor(self, columns: int) -> None:
        """Move the cursor, which reads the values of all charts at its step."""
        grid = self.grid()
        span = grid.span if grid else None
        if span is None:
            return
        width = max(1, self.query_one("#chart0", Rows).content_size.width - AXIS)
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
            self.tell(f"at most {MAX_EARLIER} earlier runs; {app_keys(self).of('charts.remove')} removes them")
            return
        shown = {state.name, *(run.name for run in self.earlier)}

        def add(earlier: RunState | None) -> None:
            if earlier is None:
                self.tell("no other earlier run with a loss curve", severity="warning")
                return
            self.earlier.append(earlier)
            self.redraw()

        def fetch() -> None:
            try:
                run = earlier_run(self.runs, state.name, shown)
                loaded = EventLoader(run.events_file, run.name).first() if run else None
            except (UserError, OSError) as error:
                self.app.call_from_thread(self.tell, str(error), severity="error")
                return
            self.app.call_from_thread(add, loaded)

        self.run_worker(fetch, thread=True, exclusive=True, group="earlier")

    def action_remove(self) -> None:
        self.earlier = []
        self.redraw()


def earlier_run(runs: Path, name: str, shown: Collection[str]) -> RunDir | None:
    """The latest run with a step that is not `shown`: one on the same data as the named run, if there is any."""

    def data(run: RunDir) -> str | None:
        with contextlib.suppress(UserError):
            return run_dir.read_frozen(run).config.data.id
        return None

    def has_steps(run: RunDir) -> bool:
        with contextlib.suppress(OSError), open_regular(run.events_file) as file:
            return b'{"type":"step"' in file.read(HEAD)
        return False

    latest = sort_by_start(RunDir.iterate(runs), latest_first=True)[:MAX_SEARCHED]
    others = [run for run in latest if run.name not in shown]
    if (own := data(RunDir(runs / name)) if name else None) is not None:
        others.sort(key=lambda run: data(run) != own)
    return next(filter(has_steps, others), None)
