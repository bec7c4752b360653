"""Follows one run from a thread of its own: events in batches, and whether its worker lives. It touches no widget."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from textual.message import Message

from engine.runs import end_record
from engine.runs.events import End, Event
from engine.runs.run_dir import RunDir
from tui.live.log_lines import Output, Piece
from tui.live.opening import Opening
from tui.live.run_state import RunState

SECONDS = 0.25
"""Between two looks: four batches a second are as good as live, and cheap over SSH."""
RESTING_SECONDS = 1.0
"""The same where no worker lives and all is read: somebody may resume it."""
READING_SECONDS = 0.02
"""Between two portions of a huge log: the screen comes first."""
GONE_SECONDS = 0.75
"""Without a lock and without news after which a worker counts as dead."""


@dataclass
class Opened(Message):
    """The run up to now; `NewEvents` follows. Posted again once sampled reading became exact."""

    run: RunDir
    state: RunState


@dataclass
class NewEvents(Message):
    """New events of the run, in order."""

    run: RunDir
    events: list[Event]


@dataclass
class NewOutput(Message):
    """New raw output of the worker."""

    run: RunDir
    piece: Piece


@dataclass
class Liveness(Message):
    """Whether a worker holds the run's lock; `died` where it went without an end, `gone` with its directory."""

    run: RunDir
    live: bool
    died: bool = False
    gone: bool = False


@dataclass
class Unreadable(Message):
    """A file of the run cannot be read."""

    run: RunDir
    text: str


class Watcher(threading.Thread):
    """One run watched; `post` hands messages to the screen and may be called from any thread."""

    def __init__(self, run: RunDir, post: Callable[[Message], object]) -> None:
        super().__init__(daemon=True, name=f"watch {run.name}")
        self.watched, self.post = run, post
        self._leave = threading.Event()
        self._opened = False
        self._wrong = ""
        """What could not be read at the last look."""
        self._live: bool | None = None
        self._gone = False
        self._news = 0.0
        """When the worker last gave a sign of life."""

    def leave(self) -> None:
        """Stop watching; the run does not notice."""
        self._leave.set()

    def run(self) -> None:
        events, output = Opening(self.watched.events_file, self.watched.name), Output(self.watched.log_file)
        while not self._leave.is_set():
            try:
                self._look(events, output)
                self._wrong = ""
            except OSError as error:  # a network disk that stalls comes back
                self._tell_wrong(error)
            resting = SECONDS if self._live is not False else RESTING_SECONDS
            self._leave.wait(READING_SECONDS if events.sampled and not self._wrong else resting)

    def _look(self, events: Opening, output: Output) -> None:
        """Whatever is new. Raises OSError where the files cannot be read."""
        if not self._opened:
            self.post(Opened(self.watched, events.first()))
            self._opened = True
        news = False
        for fresh in events.follower.portions():
            self.post(NewEvents(self.watched, fresh))
            news = True
        try:
            if piece := output.read():
                self.post(NewOutput(self.watched, piece))
        finally:
            self._tell_liveness(news)
        if whole := events.advance():
            self.post(Opened(self.watched, whole))

    def _tell_unwritten_end(self) -> None:
        """The end of a run whose disk was too full to log it."""
        if record := end_record.read(self.watched.end_file):
            self.post(NewEvents(self.watched, [End(status=record.status, reason=record.reason, t=record.t)]))

    def _tell_wrong(self, error: OSError) -> None:
        """Once, until it has been well again."""
        text = f"{error.filename or self.watched.path}: cannot be read: {error.strerror}; it is tried again"
        if text != self._wrong:
            self._wrong = text
            self.post(Unreadable(self.watched, text))

    def _tell_liveness(self, news: bool) -> None:
        live, now = self.watched.is_live(), time.monotonic()
        if live or news:
            self._news = now
        if not live and self._live is not False and now - self._news < GONE_SECONDS:
            return
        gone = not live and not self.watched.path.exists()
        if (live, gone) != (self._live, self._gone):
            self._live, self._gone = live, gone
            if not live:
                self._tell_unwritten_end()
            self.post(Liveness(self.watched, live, self.watched.state() == "died", gone))
