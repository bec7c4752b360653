"""Watch one run in a thread: new events in batches, raw output, and whether the worker is running.

The thread touches no widget; it posts messages.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from textual.message import Message

from engine.config.errors import UserError
from engine.config.schema import Config
from engine.runs.ladder.ladder_dir import LadderDir, ladder_of_run
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.run.events import End, Event, Phase
from engine.runs.run.run_dir import RunDir, read_frozen
from tui.live.log_lines import OutputChunk, OutputReader
from tui.live.run_state import EventLoader, RunState

SECONDS = 0.25
"""Poll interval: four batches per second look live and are cheap over SSH."""
RESTING_SECONDS = 1.0
"""Poll interval after the worker has exited and all is read: the run may be resumed."""
READING_SECONDS = 0.02
"""Pause between two portions of a huge log, so that the screen stays responsive."""
DEAD_SECONDS = 0.75
"""Seconds without a lock and without new events after which a worker counts as dead."""


@dataclass
class RunStateLoaded(Message):
    """The state so far; `NewEvents` follow. Posted again when a sampled state has become exact."""

    run: RunDir
    state: RunState
    config: Config | None = None
    """Its configuration; None where `run.toml` cannot be read."""


@dataclass
class LadderRead(Message):
    """The ladder of the run, as its process wrote it now."""

    run: RunDir
    ladder: Ladder


@dataclass
class NewEvents(Message):
    """New events of the run, in order."""

    run: RunDir
    events: list[Event]


@dataclass
class NewOutput(Message):
    run: RunDir
    piece: OutputChunk


@dataclass
class Liveness(Message):
    """Whether the run is active (`RunDir.is_active`); `died`: it exited without an end, `gone`: its directory was
    deleted.
    """

    run: RunDir
    live: bool
    died: bool = False
    gone: bool = False


@dataclass
class RunReadError(Message):
    run: RunDir
    text: str


class Watcher(threading.Thread):
    """Watches one run; `post` delivers messages to the screen and may be called from any thread."""

    def __init__(self, run: RunDir, post: Callable[[Message], object]) -> None:
        super().__init__(daemon=True, name=f"watch {run.name}")
        self.watched, self.post = run, post
        self._stopping = threading.Event()
        self._opened = False
        self._read_error = ""
        """The read error reported last, '' where the last read succeeded."""
        self._job_text = ""
        """The state of its Slurm job that was posted last, '' for none."""
        self._live: bool | None = None
        self._gone = False
        self._last_sign = 0.0
        """Monotonic time of the worker's last sign of life."""
        self._ladder: tuple[LadderDir, float] | None = None
        """The ladder of the run, and when its file was written that was read last."""

    def leave(self) -> None:
        """Stop watching; the run is not affected."""
        self._stopping.set()

    def run(self) -> None:
        events, output = EventLoader(self.watched.events_file, self.watched.name), OutputReader(self.watched.log_file)
        while not self._stopping.is_set():
            try:
                self._poll(events, output)
                self._read_error = ""
            except OSError as error:  # a network file system may recover
                text = f"cannot read {error.filename or self.watched.path}: {error.strerror}; retrying"
                if text != self._read_error:  # once until reading succeeds again
                    self._read_error = text
                    self.post(RunReadError(self.watched, text))
            interval = SECONDS if self._live is not False else RESTING_SECONDS
            self._stopping.wait(READING_SECONDS if events.sampled and not self._read_error else interval)

    def _poll(self, events: EventLoader, output: OutputReader) -> None:
        """Post everything new. Raises OSError where a file cannot be read."""
        if not self._opened:
            self.post(RunStateLoaded(self.watched, events.first(), self._config()))
            self._opened = True
            with contextlib.suppress(UserError):  # the list of runs reports it
                ladder = ladder_of_run(self.watched.path.parent, self.watched.name)
                self._ladder = (ladder, 0.0) if ladder else None
        self._post_ladder()
        news = self._post_job()
        for fresh in events.follower.portions():
            self.post(NewEvents(self.watched, fresh))
            news = True
        try:
            if piece := output.read():
                self.post(NewOutput(self.watched, piece))
        finally:
            self._post_liveness(news)
        if exact := events.advance():
            self.post(RunStateLoaded(self.watched, exact, self._config()))

    def _config(self) -> Config | None:
        with contextlib.suppress(UserError):
            return read_frozen(self.watched).config
        return None

    def _post_ladder(self) -> None:
        """Post the ladder each time that its process has written it."""
        if self._ladder is None:
            return
        ladder, before = self._ladder
        with contextlib.suppress(OSError, UserError):  # the ladder screen reports it
            written = ladder.state_file.stat().st_mtime
            if written != before and (state := ladder.state()):
                self._ladder = ladder, written
                self.post(LadderRead(self.watched, state))

    def _post_job(self) -> bool:
        """Post the state of a Slurm job that waits, once until it changes, as a run does that waits for its device."""
        job = self.watched.job_state()
        text = job.text if job is not None and job.is_waiting else ""
        if text == self._job_text:
            return False
        self._job_text = text
        if text:
            self.post(NewEvents(self.watched, [Phase(name="waiting", note=text, t=time.time())]))
        return True

    def _post_liveness(self, news: bool) -> None:
        live, now = self.watched.is_active(), time.monotonic()
        if live or news:
            self._last_sign = now
        if not live and self._live is not False and now - self._last_sign < DEAD_SECONDS:
            return
        gone = not live and not self.watched.path.exists()
        if (live, gone) != (self._live, self._gone):
            self._live, self._gone = live, gone
            if not live and (record := self.watched.read_end()):  # not in the log: the disk was full
                self.post(NewEvents(self.watched, [End(status=record.status, reason=record.reason, t=record.t)]))
            self.post(Liveness(self.watched, live, self.watched.state() == "died", gone))
