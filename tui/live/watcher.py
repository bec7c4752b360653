"""Watch one run in a thread: new events in batches, raw output, and whether the worker is running.

The thread touches no widget; it posts a message for each poll that found something.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

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
class RunNews(Message):
    """What one poll of the run found, in the order in which it is shown; a field is None or empty if nothing is new."""

    run: RunDir
    state: RunState | None = None
    """The state so far, to which later `events` are added. Again when a sampled state has become exact."""
    config: Config | None = None
    """Its configuration, with `state`; None where `run.toml` cannot be read."""
    ladder: Ladder | None = None
    """The ladder of the run, as its process wrote it now."""
    events: list[Event] = field(default_factory=list)
    output: OutputChunk | None = None
    live: bool | None = None
    """Whether the run is active (`RunDir.is_active`)."""
    died: bool = False
    """With `live`: its worker exited without an `end` event."""
    gone: bool = False
    """With `live`: its directory was deleted."""
    error: str = ""
    """A file that cannot be read, once until reading succeeds again."""


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
        """The state of its waiting job that was posted last, '' for none."""
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
            news = RunNews(self.watched)
            try:
                self._poll(news, events, output)
                self._read_error = ""
            except OSError as error:  # a network file system may recover
                text = f"cannot read {error.filename or self.watched.path}: {error.strerror}; retrying"
                if text != self._read_error:
                    self._read_error = news.error = text
            if news != RunNews(self.watched):
                self.post(news)
            interval = SECONDS if self._live is not False else RESTING_SECONDS
            self._stopping.wait(READING_SECONDS if events.sampled and not self._read_error else interval)

    def _poll(self, news: RunNews, events: EventLoader, output: OutputReader) -> None:
        """Fill in everything new. Raises OSError where a file cannot be read; what was found before it is kept."""
        if not self._opened:
            news.state, news.config = events.first(), self._config()
            self._opened = True
            with contextlib.suppress(UserError):  # the list of runs reports it
                ladder = ladder_of_run(self.watched.path.parent, self.watched.name)
                self._ladder = (ladder, 0.0) if ladder else None
        elif exact := events.advance():  # the events that follow it are read below
            news.state, news.config = exact, self._config()
        self._read_ladder(news)
        self._read_job(news)
        news.events += next(events.follower.portions(), [])  # of a longer backlog the rest with the next polls
        try:
            news.output = output.read()
        finally:
            self._read_liveness(news)

    def _config(self) -> Config | None:
        with contextlib.suppress(UserError):
            return read_frozen(self.watched).config
        return None

    def _read_ladder(self, news: RunNews) -> None:
        """Read the ladder each time that its process has written it."""
        if self._ladder is None:
            return
        ladder, before = self._ladder
        with contextlib.suppress(OSError, UserError):  # the ladder screen reports it
            written = ladder.state_file.stat().st_mtime
            if written != before and (state := ladder.state()):
                self._ladder = ladder, written
                news.ladder = state

    def _read_job(self, news: RunNews) -> None:
        """Read the state of a job that waits: as an event of a run that waits for its device, once per state."""
        job = self.watched.job_state()
        text = job.text if job is not None and job.is_waiting else ""
        if text == self._job_text:
            return
        self._job_text, self._last_sign = text, time.monotonic()
        if text:
            news.events.append(Phase(name="waiting", note=text, t=time.time()))

    def _read_liveness(self, news: RunNews) -> None:
        live, now = self.watched.is_active(), time.monotonic()
        if live or news.events:
            self._last_sign = now
        if not live and self._live is not False and now - self._last_sign < DEAD_SECONDS:
            return
        gone = not live and not self.watched.path.exists()
        if (live, gone) != (self._live, self._gone):
            self._live, self._gone = live, gone
            if not live and (record := self.watched.read_end()):  # not in the log: the disk was full
                news.events.append(End(status=record.status, reason=record.reason, t=record.t))
            news.live, news.died, news.gone = live, self.watched.state() == "died", gone
