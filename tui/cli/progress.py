"""The progress line of the command line: how far a run or ladder is, and the time left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.live import Live  # noqa: TID251 - it gets the console of tui.output
from rich.text import Text

from engine.config.quantities import ABSENT
from engine.config.text import visible
from engine.runs.rpc_client import Counted, rows_done
from engine.runs.run import events
from tui.charts import bar
from tui.live.run_state import RunTimer, TimeLeft
from tui.output.console import console

MAX_BAR, MIN_BAR = 28, 8


@dataclass
class ProgressLine:
    """What the line shows of the active run; updated by its events."""

    where: str = ""
    """Position and rung of a ladder's run: `2/6 lora`."""
    phase: str = "starting"
    done: int = 0
    total: int | None = None
    rows: str = ""
    """Rows of the current work, `test answers 120 of 300 rows`, or what the run waits for."""
    loss: str = ""
    speed: str = ""
    ladder_left: str = ""
    timer: RunTimer = field(default_factory=RunTimer)

    def start(self, where: str) -> None:
        """Start with another run of a ladder."""
        self.where, self.timer = where, RunTimer()
        self._enter("starting")

    def show_stage(self, where: str, stage: str) -> None:
        """Show what a ladder does between runs."""
        self.start(where)
        self.phase = stage

    def show_work(self, work: str, done: int = 0, total: int | None = None, rows: str = "") -> None:
        """Show work that is no run: preparing data, exporting."""
        self.phase, self.done, self.total, self.rows = work, done, total, rows

    def add(self, event: events.Event) -> None:
        """Update with the next event of the run."""
        self.timer.add(event)
        match event:
            case events.Hello():
                self._enter("starting")
            case events.Phase():
                self._enter(event.name)
                self.rows = event.note
            case events.Progress():
                self.done, self.total = event.done, event.total
                self.rows = f"{event.text} {rows_done(event.done, event.total)}"
            case events.Plan():
                self.done, self.total = event.start_step, event.steps
                self.rows = "memory probe" if event.measured is None and self.phase == "training" else ""
            case events.Step():
                self.done, self.total, self.rows = event.step, event.steps, ""
                self.loss = "loss not finite" if event.loss is None else f"loss {event.loss:.4f}"
                self.speed = f"{event.tokens_per_second:,.0f} tokens/s" if event.tokens_per_second else ABSENT
            case events.End():
                self._enter(event.status.replace("_", " "))

    @property
    def left(self) -> TimeLeft | None:
        return self.timer.left()

    def text(self, width: int) -> str:
        """The line in at most `width` columns: the throughput is omitted first, then the loss, then the bar."""
        head = f"{self.where} {self.phase}".strip()
        steps = f"{self.done}/{self.total}" if self.total and not self.rows else ""
        known = self.left
        hidden = known is None or known.seconds < 0.5 or (known.phase and self.ladder_left)
        left = "" if hidden else str(known)
        share = min(1.0, self.done / self.total) if self.total else None
        for parts in (
            (steps, self.rows, self.loss, self.speed, left, self.ladder_left),
            (steps, self.rows, self.loss, left, self.ladder_left),
            (steps, self.rows, left, self.ladder_left),
        ):
            texts = [head, *filter(None, parts)]
            room = width - len("  ".join(texts)) - 2
            if share is not None and room >= MIN_BAR:
                drawn = "".join(part for part, _ in bar(share, min(MAX_BAR, room)))
                return "  ".join([head, drawn, *texts[1:]])
            if share is None and room >= -2:
                break
        line = "  ".join(texts)
        return line if len(line) <= width else f"{line[: max(1, width) - 1]}…"

    def _enter(self, phase: str) -> None:
        self.phase, self.done, self.total = phase, 0, None
        self.rows = self.loss = self.speed = ""


class ProgressDisplay(NamedTuple):
    """A progress line at the bottom of the terminal."""

    line: ProgressLine
    live: Live
    """Draws the line; stopped while a question is asked."""


@contextlib.contextmanager
def progress_display(quiet: bool) -> Iterator[ProgressDisplay | None]:
    """A progress line on a terminal, None in a pipe."""
    if quiet or not console.is_terminal:
        yield None
        return
    line = ProgressLine()

    def shown() -> Text:
        return Text(visible(line.text(console.width - 1)), no_wrap=True, overflow="ellipsis")

    with Live(get_renderable=shown, console=console, refresh_per_second=4, transient=True) as live:
        yield ProgressDisplay(line, live)


@contextlib.contextmanager
def shown_progress(quiet: bool) -> Iterator[tuple[Callable[[str], None], Counted]]:
    """Yield (progress, counted) callbacks that update a progress line; without a terminal they do nothing."""
    with progress_display(quiet) as display:

        def progress(text: str) -> None:
            if display:
                display.line.show_work(visible(text, 60))

        def counted(text: str, done: int, total: int | None) -> None:
            if display:
                display.line.show_work(visible(text, 30), done, total, rows_done(done, total))

        yield progress, counted
