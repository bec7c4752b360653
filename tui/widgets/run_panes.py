"""The panes that draw runs. The loss pane draws the watched run's loss, or how to start a run. On a wide terminal, the
figures pane has the watched run's metrics and latest answers, and the runs pane lists the latest runs.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.content import Content

from engine.config.text import visible
from tui.commands import CommandKeys
from tui.format import last_part, number
from tui.settings import app_keys, app_settings
from tui.widgets.pane import BenchState
from tui.widgets.text_rows import Rows

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from tui.history.run_list import RunSummary
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
        width, height = self.content_size
        if not width or not height:
            return
        if self.state is None:
            self.set_titles("start" if not self.resumable else "start, or resume")
            if self._drawn != (self.content_size, self.resumable):
                self._drawn = (self.content_size, self.resumable)
                self.show(welcome(app_keys(self), width, height, self.resumable))
            return
        from tui.charts import ChartStyle
        from tui.live.curves import loss_end, loss_rows, loss_values, rate_values

        state, now = self.state, time.monotonic()
        siblings = self.parent.query("FiguresPane") if self.parent else ()  # None while the bench is closed
        figures_shown = any(pane.display and pane.size.width for pane in siblings)
        self.set_titles("loss", loss_values(state), "" if figures_shown else rate_values(state))

        # draw again for another run or size, when the curve has reached another column, or after MAX_SECONDS
        step = float(state.step.step) if state.step else 0.0
        view = (id(state), state.end, state.phase, state.sampled, len(state.validation.buckets))
        drawn, span, end = (view, self.content_size), state.loss.span(), loss_end(state)
        if drawn == self._drawn and span and end:
            steps_per_column, waited = (end - span[0]) / width, now - self._drawn_at
            if waited < MIN_SECONDS or (step - self._drawn_step < steps_per_column and waited < MAX_SECONDS):
                return
        self._drawn, self._drawn_step, self._drawn_at = drawn, step, now
        self.show(loss_rows(state, width, height, ChartStyle(ascii=app_settings(self).ascii)))


STEPS = (
    ("presets", "preset: model, method, settings", "{presets} lists all presets."),
    ("bench.data", "data: a file, a folder, a Hub id", "Try it on the embedded tickets first."),
    ("bench.start", "preview the run, then start it", "Memory, time, steps, problems."),
    ("app.quit", "detach: the run continues", "Reattach later from any terminal."),
)
"""(command, or `presets` for the keys of the presets; purpose; details if there is room).

Each fits into 50 columns, the pane's width at 120.
"""
MORE = (
    ("bench.run_ladder", "ladder: every method on the same data"),
    ("bench.runs", "earlier runs: compare, resume, run again"),
    ("app.palette", "search commands, presets, runs and data"),
    ("app.help", "show all keys"),
)
ROOMY = 15
"""Height from which there is room for more than the four steps."""


def welcome(keys: CommandKeys, width: int, height: int, resumable: Sequence[str] = ()) -> list[Content]:
    """The help text for the given size; first the runs that can be resumed."""
    if resumable:
        lines = [Content.assemble(("Can be resumed", "bold"), f" with {keys.of('bench.resume')}, the first one:")]
        lines += [Content.assemble(("  ", ""), visible(text)) for text in resumable]
        return [*lines[: height - 2], *welcome(keys, width, max(2, height - len(lines)))][:height]
    if height < ROOMY:
        ask = f"{keys.of('app.help')} all keys"
        title = Content.styled("To start a run, press", "bold")
        gap = width - title.cell_length - len(ask)
        head = Content.assemble(title, " " * gap, (ask, "$foreground-muted")) if gap > 1 else title
        if height <= len(STEPS):
            steps = (_row(key, re.split("[:,]", what)[0], keys, 0) for key, what, _ in STEPS)
            return [head, Content("  ").join(steps)][:height]
        return [head, *(_row(key, what, keys) for key, what, _ in STEPS)]
    lines = [Content(""), Content.styled("Train on your data; see what each method costs.", "bold")]
    for key, what, more in STEPS:
        details = more.format(presets=keys.of("bench.presets"))
        lines += [Content(""), _row(key, what, keys), Content.styled(f"{'':9}{details}", "$foreground-muted")]
    rest = [Content(""), *(_row(key, what, keys) for key, what in MORE)]
    return [*lines, *rest[: max(0, height - len(lines))]]


def _row(command: str, what: str, keys: CommandKeys, key_width: int = 7) -> Content:
    key = keys.presets if command == "presets" else keys.of(command)
    return Content.assemble((f"  {f'{key} ':<{key_width}}", "bold $primary"), what)


SPARK_WIDTH = 18
NAME_WIDTH = 15


class FiguresPane(Rows):
    """Current metrics with their course, then the model's latest answers."""

    pane_name: ClassVar[str] = "figures"
    letter: ClassVar[str] = ""
    run: RunState | None = None

    def show_state(self, state: BenchState) -> None:
        self.run = state.run
        self.redraw()

    def redraw(self) -> None:
        run = self.run
        if run is None or not self.content_size.width:
            self.show([])
            return
        from tui.charts import sparkline
        from tui.live.curves import METRICS, sample_lines

        (width, height), lines = self.content_size, list[Content]()
        metrics = [(metric.name, metric.series(run), metric.shown) for metric in METRICS if metric.name != "memory"]
        metrics.insert(1, ("validation", run.validation, number))
        for name, series, shown in metrics:
            if series.latest is not None:
                text, spark = f"{shown(series.latest):>9}  ", (sparkline(series, SPARK_WIDTH), "$text-primary")
                lines.append(Content.assemble((f"{name:<{NAME_WIDTH}}", "$foreground-muted"), text, spark))
        answers = sample_lines(run.samples, None, width, height - len(lines) - 1)
        self.show([*lines, Content(""), *answers] if run.samples else lines)


REFRESH_SECONDS = 2.0
"""Between two reads of the runs: their logs' ends are decoded."""
IDLE_SECONDS = 10.0
"""The same while the watched run is not running."""
MAX_RUNS = 40


class RunsPane(Rows):
    """The latest runs with their state and score. They are read in a thread: there may be many."""

    pane_name: ClassVar[str] = "latest"
    letter: ClassVar[str] = ""

    runs: Sequence[RunSummary] = ()
    total = 0
    """Runs in the folder; only the latest are read."""
    _reading: threading.Thread | None = None
    _read_at = 0.0
    _was_live = False

    def show_state(self, state: BenchState) -> None:
        if not self.content_size.width:
            return
        resting = self._reading is None or not self._reading.is_alive()
        pause = REFRESH_SECONDS if state.live or self._was_live else IDLE_SECONDS  # a worker may be killed
        if resting and time.monotonic() - self._read_at > pause:
            self._reading = threading.Thread(target=self._read, args=(state.runs,), daemon=True, name="latest runs")
            self._reading.start()
            self._was_live = bool(state.live)
        self.redraw()

    def _read(self, folder: Path) -> None:
        from engine.config.errors import UserError
        from engine.runs.run.folder import sort_by_start
        from engine.runs.run.run_dir import RunDir
        from tui.history.run_list import describe

        try:
            runs = sort_by_start(RunDir.iterate(folder), latest_first=True)
            self.runs, self.total = [describe(run) for run in runs[:MAX_RUNS]], len(runs)
        except (UserError, OSError):  # the screen of the runs reports it
            self.runs, self.total = (), 0
        self._read_at = time.monotonic()
        if self.is_attached:
            self.app.call_from_thread(self.redraw)

    def redraw(self) -> None:
        width, height = self.content_size
        self.set_titles("runs", f"{self.total:,}" if self.runs else "")
        if not self.runs:
            self.show([Content.styled("no run yet", "$foreground-muted")])
            return
        from engine.runs.run.folder import short_name
        from tui.history.run_list import SETTLED, score

        lines = []
        for run in self.runs[:height]:  # its state, or the score of a finished run
            style = "" if run.state in SETTLED else "$text-success"
            what = score(run) if run.after is not None else run.state.replace("_", " ")
            data = f"{last_part(run.model)} on {last_part(run.data)}" if run.model else ""
            line = Content.assemble(
                (f"{visible(short_name(run.name), 14):<15}", style),
                f"{visible(what, 24):<25}",
                (visible(data), "$foreground-muted"),
            )
            lines.append(line.truncate(width, ellipsis=True))
        self.show(lines)
