"""What the directories of ladders and sweeps have in common: a plan, a state and a report, next to their runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from engine.config.errors import UserError
from engine.config.files import read_regular, write_atomically
from engine.runs import end_record, folder
from engine.runs.folder import Folder
from engine.runs.ladder import Outcome


class State(Protocol):
    """The content of a state file, `ladder.json` or `sweep.json`."""

    updated: float
    status: Outcome
    reason: str
    reason_code: str

    @property
    def stage(self) -> str: ...


S = TypeVar("S", bound=State)
START_SECONDS = 30.0
"""A process that was started has its lock after this time."""


@dataclass(frozen=True)
class ComparisonDir(Folder):
    """A directory with a plan, `KIND.toml`, a state, `KIND.json`, and a report."""

    @property
    def runs(self) -> Path:
        """The folder that contains it and its runs."""
        return self.path.parent

    @property
    def plan_file(self) -> Path:
        return self.path / f"{self.KIND}.toml"

    @property
    def state_file(self) -> Path:
        return self.path / f"{self.KIND}.json"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def markdown(self) -> Path:
        return self.path / "report.md"

    def state(self) -> State | None:
        """As `read_state`."""
        raise NotImplementedError

    def started_in(self) -> str:
        """The directory that it was started from, '' if its version did not record that."""
        return folder.started_in(self.plan_file)

    def status_of(self, state: State) -> str:
        """The stage while its process works, `died` if that ended unexpectedly, else how it ended."""
        if self.is_active():
            return state.stage
        return "died" if state.status == "running" else state.status

    def was_killed(self) -> bool:
        """Whether its process ended without recording how, or never started; False if it may be starting now."""
        if self.is_active():
            return False
        try:
            state = self.state()
        except UserError:
            return False  # damaged
        if state is None:
            return self.lock_file.exists() or time.time() - self.plan_file.stat().st_mtime > START_SECONDS
        return state.status == "running"

    def read_state(self, decode: Callable[[bytes], S]) -> S | None:
        """The stored state; None before the first start. Raises UserError if the file is damaged or cannot be read.

        If the disk was too full to record how it ended, that is read from the reserved `end.json`.
        """
        try:
            state = decode(read_regular(self.state_file))
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            do = f"delete it, then `ftbench resume {self.argument}` starts over and reuses finished runs"
            raise self.damaged(error, self.state_file, do) from error
        except OSError as error:
            raise self.unreadable(error, self.state_file) from error
        if state.status == "running" and (record := end_record.read(self.end_file)):
            state.status, state.reason = ("stopped" if record.status == "stopped" else "failed"), record.reason
        return state

    def write_state(self, state: State) -> None:
        """Replace the state file atomically."""
        state.updated = time.time()
        write_atomically(self.state_file, msgspec.json.format(msgspec.json.encode(state), indent=1))

    def damaged(self, error: Exception, path: Path, do: str) -> UserError:
        return UserError(f"damaged file ({error})", str(path), do, code=f"{self.KIND}.damaged")

    def unreadable(self, error: OSError, path: Path) -> UserError:
        what, do = f"cannot read file ({error.strerror})", "check its permissions"
        return UserError(what, str(path), do, code=f"{self.KIND}.unreadable")
