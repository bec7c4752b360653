"""Panes beside loss and log where the terminal is wide: the run's figures with its latest answers, and the runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.content import Content

from engine.config.quantities import rate
from engine.config.text import visible
from tui.format import last_part, number
from tui.widgets.pane import BenchState
from tui.widgets.text_rows import Rows

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from tui.charts.series import Series
    from tui.history.run_list import RunSummary
    from tui.live.run_state import RunState

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 18
NAME_WIDTH = 15
REFRESH_SECONDS = 2.0
"""Between two reads of the runs: their logs' ends are decoded."""
IDLE_SECONDS = 10.0
"""The same while the watched run is not running."""
MAX_RUNS = 40


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
        from tui.live.curves import sample_lines

        width, height = self.content_size
        lines = list(figure_lines(run))
        answers = sample_lines(run.samples, None, width, height - len(lines) - 1)
        self.show([*lines, Content(""), *answers] if run.samples else lines)


def figure_lines(run: RunState) -> Iterator[Content]:
    """`loss  0.412 ▁▂▃`: one line per metric that has a value."""
    series = (
        ("loss", run.loss, number),
        ("validation", run.validation, number),
        ("learning rate", run.rate, rate),
        ("gradient norm", run.grad_norm, number),
        ("tokens/s", run.speed, lambda value: f"{value:,.0f}"),
    )
    for name, values, form in series:
        if values.latest is not None:
            spark = sparkline(values, SPARK_WIDTH)
            text = f"{form(values.latest):>9}  "
            yield Content.assemble((f"{name:<{NAME_WIDTH}}", "$foreground-muted"), text, (spark, "$text-primary"))


def sparkline(series: Series, width: int) -> str:
    """The course of a series in one row of blocks.

    A block stands for the same steps until the row is full, and its scale has rounded ends: as the series grows, only
    the last block changes, and nothing else is sent to the terminal.
    """
    from tui.charts.chart import steady

    buckets = series.buckets
    if len(buckets) < 2:
        return ""
    per = 1
    while per * width < len(buckets):
        per *= 2
    groups = [buckets[at : at + per] for at in range(0, len(buckets), per)]
    means = [sum(bucket.mean for bucket in group) / len(group) for group in groups]
    scaled = means[:-1] if len(means) > 2 else means  # the last one is not complete, and may be an outlier
    low, high = min(scaled), max(scaled)
    if high > low:
        low, high = steady((low, high), False)
    heights = (min(1.0, max(0.0, (mean - low) / (high - low or 1.0))) for mean in means)
    return "".join(BLOCKS[round(height * (len(BLOCKS) - 1))] for height in heights)


class RunsPane(Rows):
    """The latest runs with their state and score. They are read in a thread: there may be many."""

    pane_name: ClassVar[str] = "latest"
    letter: ClassVar[str] = ""

    runs: Sequence[RunSummary] = ()
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
        from engine.runs.run import run_dir
        from tui.history.run_list import describe

        try:
            runs = sorted(run_dir.iterate(folder), key=lambda run: run.name, reverse=True)[:MAX_RUNS]
            self.runs = [describe(run) for run in runs]
        except (UserError, OSError):  # the screen of the runs reports it
            self.runs = ()
        self._read_at = time.monotonic()
        if self.is_attached:
            self.app.call_from_thread(self.redraw)

    def redraw(self) -> None:
        width, height = self.content_size
        self.set_titles("runs", f"{len(self.runs)}" if self.runs else "")
        if not self.runs:
            self.show([Content.styled("no run yet", "$foreground-muted")])
            return
        self.show([run_line(run, width) for run in self.runs[:height]])


def run_line(run: RunSummary, width: int) -> Content:
    """`lora-3f2a  training 12/150  tiny on tickets`, or the score of a finished run."""
    from engine.runs.run.folder import short_name
    from tui.history.run_list import SETTLED, score

    style = "" if run.state in SETTLED else "$text-success"
    what = score(run) if run.after is not None else run.state.replace("_", " ")
    data = f"{last_part(run.model)} on {last_part(run.data)}" if run.model else ""
    line = Content.assemble(
        (f"{visible(short_name(run.name), 14):<15}", style),
        f"{visible(what, 24):<25}",
        (visible(data), "$foreground-muted"),
    )
    return line.truncate(width, ellipsis=True)
