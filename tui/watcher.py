"""Follows one run from a thread of its own: events in batches, and whether its worker lives. It touches no widget."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from textual.message import Message

from engine.contract.events import Event
from engine.contract.follow import Follower, last_line
from engine.contract.rundir import RunDir
from engine.contract.text import visible
from tui.runstate import RunState

SECONDS = 0.25
"""Between two looks: four batches a second are as good as live, and cheap over SSH."""
GONE = 3
"""Looks without a lock and without news after which a worker counts as dead."""


@dataclass
class Opened(Message):
    """The run as its file has it so far; from here on `Fresh` follows."""

    run: RunDir
    state: RunState


@dataclass
class Fresh(Message):
    """New events of the run, in order."""

    run: RunDir
    events: list[Event]


@dataclass
class Liveness(Message):
    """Whether a worker holds the run's lock; `words` are the end of its log where it went without an end."""

    run: RunDir
    live: bool
    died: bool = False
    words: str = ""


class Watcher(threading.Thread):
    """One run watched; `post` hands messages to the screen and may be called from any thread."""

    def __init__(self, run: RunDir, post: Callable[[Message], object]) -> None:
        super().__init__(daemon=True, name=f"watch {run.name}")
        self.watched, self.post = run, post
        self._leave = threading.Event()
        self._live: bool | None = None
        self._silent = 0

    def leave(self) -> None:
        """Stop watching; the run does not notice."""
        self._leave.set()

    def run(self) -> None:
        follower = Follower(self.watched.events_file)
        state = RunState(self.watched.name)
        for portion in follower.portions():
            state.feed(portion)
            if self._leave.is_set():
                return
        self.post(Opened(self.watched, state))
        while not self._leave.is_set():
            fresh = follower.read()
            if fresh:
                self.post(Fresh(self.watched, fresh))
            self._tell_liveness(bool(fresh))
            self._leave.wait(SECONDS)

    def _tell_liveness(self, news: bool) -> None:
        live = self.watched.is_live()
        self._silent = 0 if live or news else self._silent + 1
        if live and self._live is not True:
            self._live = True
            self.post(Liveness(self.watched, True))
        elif not live and self._live is not False and self._silent >= GONE:
            self._live = False
            died = self.watched.state() == "died"
            words = visible(last_line(self.watched.log_file), 300) if died else ""
            self.post(Liveness(self.watched, False, died, words))
