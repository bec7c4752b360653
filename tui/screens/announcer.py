"""Announces what ended: since the last visit when the bench opens, then each live run when it ends."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.config.errors import UserError
from engine.config.text import visible
from engine.runs.ladder.ladder_dir import LadderDir, ladder_of_run
from engine.runs.run.run_dir import RunDir
from tui.history.endings import (
    ended_before,
    ended_since,
    has_finished,
    ladder_ending,
    last_visit,
    remember_visit,
    run_ending,
)
from tui.screens.base import BaseScreen
from tui.settings import app_keys, app_settings

BELL = "bell"
"""Value of the setting `notify` for the terminal's bell."""
TIMEOUT = 10


class Announcer:
    """Shows notifications; `notify` of config.toml also rings the bell or runs a command, which gets the sentence."""

    def __init__(self, screen: BaseScreen[Any], runs: Path, watched: Callable[[], RunDir | None]) -> None:
        """`watched`: the run on the screen, which shows its end itself."""
        self._screen, self._runs, self._watched = screen, runs, watched
        self._live: dict[str, tuple[RunDir, float]] = {}
        """Runs that were live at the last look, by name, and when they were first seen, in Unix seconds."""
        self._ladders: dict[str, LadderDir] = {}
        """Ladders whose runs have ended: they are announced when they end, instead of each run."""

    def open(self) -> None:
        """Announce what ended since the last visit, and remember this one. Reads results: in a thread."""
        keys = app_keys(self._screen)

        def read() -> None:
            since = last_visit()
            try:
                sentences = ended_since(self._runs, since, keys) if since is not None else []
            except (UserError, OSError) as error:
                sentences = [f"cannot read what ended since the last visit: {error}"]
            remember_visit()
            if sentences:
                text, title = "\n".join(sentences), "since your last visit"
                self._screen.app.call_from_thread(self._screen.tell, text, title=title, timeout=TIMEOUT)

        self._screen.run_worker(read, thread=True, group="announce")

    def look(self, live: list[RunDir]) -> None:
        """Take the runs that are live now; announce those that have ended."""
        now = {run.name: self._live.get(run.name, (run, time.time())) for run in live}
        ended = [seen for name, seen in self._live.items() if name not in now]
        self._live = now
        if ended:
            self._screen.run_worker(lambda: self._announce_ended(ended), thread=True, group="announce")

    def look_at_ladders(self) -> None:
        """Announce a ladder that has ended. Called once per second."""
        for name, ladder in list(self._ladders.items()):
            if not ladder.is_active():
                del self._ladders[name]
                self._screen.run_worker(lambda ladder=ladder: self._tell_ladder(ladder), thread=True, group="announce")

    def _tell_ladder(self, ladder: LadderDir) -> None:
        try:
            state = ladder.state()
        except UserError as error:
            self._screen.app.call_from_thread(self._announce, error.line, False)
            return
        if state is not None:
            sentence = ladder_ending(ladder.name, state)
            self._screen.app.call_from_thread(self._announce, sentence, state.status == "finished")

    def _announce_ended(self, ended: list[tuple[RunDir, float]]) -> None:
        """In a thread: a result is read, and the worker may still be writing it."""
        for run, since in ended:
            if ladder := ladder_of_run(self._runs, run.name):
                self._ladders[ladder.name] = ladder
            elif run.path.exists():
                run.wait_for_exit()
                if not ended_before(run, since):  # it was only exported or tried
                    shown = run == self._watched()
                    self._screen.app.call_from_thread(self._announce, run_ending(run), has_finished(run), shown)
        remember_visit()

    def _announce(self, sentence: str, finished: bool = True, shown: bool = False) -> None:
        """`shown`: the screen shows it already."""
        if not shown:
            self._screen.tell(sentence, severity="information" if finished else "error", timeout=TIMEOUT)
        notify = app_settings(self._screen).notify
        if notify == BELL:
            self._screen.app.bell()
        elif notify:
            try:  # the command outlives the bench
                subprocess.Popen(
                    [*shlex.split(notify), visible(sentence, 400)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                self._screen.tell(f"cannot run notify = {notify!r}: {error}", severity="error", timeout=TIMEOUT)
