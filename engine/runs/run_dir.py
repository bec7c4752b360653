"""A run is a directory: where everything in it lies, and what its files say about it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import tomli

from engine import __version__
from engine.config.errors import UserError
from engine.config.files import remove_tree, write_atomically
from engine.config.preset import Effective, Flat, flatten, nested
from engine.config.schema import Config
from engine.config.split_version import OLDEST, SPLIT_VERSION
from engine.runs import end_record, folder
from engine.runs.end_record import EndRecord
from engine.runs.events import End, Event, EventLog, decode
from engine.runs.folder import Folder
from engine.runs.follow import Follower
from engine.runs.result import Result, decode_result
from engine.runs.result_builder import ResultBuilder, read_events

STARTING_SECONDS = 20.0
"""A run without a lock and without events is `starting` this long after its creation, then `died`."""


@dataclass(frozen=True)
class RunDir(Folder):
    """The paths of one run. Owns the names; nobody else spells them."""

    @property
    def config_file(self) -> Path:
        return self.path / "run.toml"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def paused_file(self) -> Path:
        """There from a pause until the run goes on: whoever pauses writes it."""
        return self.path / "paused"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def predictions_file(self) -> Path:
        return self.path / "predictions.jsonl"

    def result(self) -> Result | None:
        """The outcome, None while there is none. Raises UserError where a file is damaged or cannot be read.

        Where the worker ended without writing it (killed at that moment, or on a full disk) it comes from the events.
        """
        return self.written_result() or self._unwritten_result()

    def written_result(self) -> Result | None:
        """What `result.json` says, None where it is missing. Raises UserError as `result` does."""
        try:
            return decode_result(self.result_file.read_bytes())
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            do = f"`ftbench resume {self.name}` writes it again from events.jsonl"
            raise UserError(f"damaged: {error}", str(self.result_file), do, code="run.result_damaged") from error
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", str(self.result_file), "check its owner") from error

    def unwritten_end(self) -> EndRecord | None:
        """How the newest worker ended, where `result.json` does not say: from the reserved file or the last event."""
        record = end_record.read(self.end_file)
        last = last_event(self.events_file) if record is None else None
        return EndRecord(status=last.status, reason=last.reason, t=last.t) if isinstance(last, End) else record

    def _unwritten_result(self) -> Result | None:
        end = self.unwritten_end()
        if end is None:
            return None
        stamp = (0, 0)
        with contextlib.suppress(OSError):
            status = self.events_file.stat()
            stamp = status.st_mtime_ns, status.st_size
        return _rebuilt(self, end, stamp)

    def is_paused(self) -> bool:
        """Whether its stop was meant for a while."""
        return self.paused_file.exists() and self.state() == "stopped"

    def state(self) -> str:
        """live, starting, died, or the outcome's status."""
        if self.is_live():
            return "live"
        try:
            outcome = self.written_result() or self.unwritten_end()
        except UserError:
            return "damaged"
        if outcome:
            return outcome.status
        return self._state_without_result()

    def _state_without_result(self) -> str:
        try:
            young = abs(time.time() - self.config_file.stat().st_mtime) < STARTING_SECONDS
        except OSError:
            return "damaged"
        return "starting" if young and not self.events_file.exists() else "died"


@dataclass(frozen=True)
class Frozen:
    """What `run.toml` holds."""

    config: Config
    origins: dict[str, str]
    preset: str
    created: float
    notes: list[str]
    wait: bool
    """False: begin although another run holds the card."""
    split_version: int = OLDEST
    """The rule that divides its rows (`engine.config.split_version`)."""
    data_fingerprint: str = ""
    """Of the rows that were checked before the launch: the run refuses other rows. '' where none were."""
    intact: bool = True
    """Whether the configuration is the one that was frozen, by its fingerprint; True for files that have none."""


class About(msgspec.Struct):
    """The section `run` of `run.toml`: what is no setting."""

    preset: str
    created: float
    notes: list[str]
    wait: bool = True
    split_version: int = OLDEST
    data_fingerprint: str = ""
    fingerprint: str = ""


def runs_folder(given: Path | None = None) -> Path:
    """`--runs DIR`, else $FTBENCH_RUNS, else ./runs."""
    return (given or Path(os.environ.get("FTBENCH_RUNS") or "runs")).absolute()


def create(
    runs: Path,
    preset: str,
    effective: Effective,
    wait: bool = True,
    work: str = "",
    split_version: int = SPLIT_VERSION,
    data_fingerprint: str = "",
) -> RunDir:
    """Make a run directory (mode 0700) with its frozen configuration in place.

    `work` is the fingerprint under which a ladder finds the run again. `split_version`: an older one only for the runs
    of a ladder that began under it. `data_fingerprint`: of the rows that a check showed, '' where there was none.
    """
    text = frozen_text(preset, effective, wait, work, split_version, data_fingerprint)
    return RunDir(folder.make(runs, preset, effective.config.method, "run.toml", text))


def frozen_text(
    preset: str,
    effective: Effective,
    wait: bool = True,
    work: str = "",
    split_version: int = SPLIT_VERSION,
    data_fingerprint: str = "",
) -> str:
    """The text of `run.toml`."""
    import tomli_w  # only who starts a run needs it

    values = set_values(effective.config)
    about = {
        "preset": preset,
        "created": time.time(),
        "version": __version__,
        "wait": wait,
        "work": work,
        "split_version": split_version,
        "data_fingerprint": data_fingerprint,
        "fingerprint": fingerprint(nested(values)),
        "notes": effective.notes,
    }
    return tomli_w.dumps({**nested(values), "run": about, "origins": effective.origins})


def fingerprint(table: dict[str, Any]) -> str:
    """sha256 over a configuration as `run.toml` holds it; comments and layout do not count."""
    return hashlib.sha256(json.dumps(table, sort_keys=True, default=str).encode()).hexdigest()


def set_values(config: Config) -> Flat:
    """Every value of a configuration that is set, by dotted key."""
    return {key: value for key, value in flatten(config).items() if value is not None and value != {}}


def read_frozen(run: RunDir) -> Frozen:
    """What this run was told to do. Raises UserError where `run.toml` is absent, damaged or cannot be read."""
    try:
        table: dict[str, Any] = tomli.loads(run.config_file.read_text("utf-8"))
        about = msgspec.convert(table.pop("run"), About)
        origins = msgspec.convert(table.pop("origins"), dict[str, str])
        config = msgspec.convert(table, Config)
        intact = about.fingerprint in ("", fingerprint(table))
    except FileNotFoundError as error:
        raise UserError("not a run: no run.toml", str(run.path), "`ftbench runs` lists the runs") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        what = f"damaged: {error}"
        raise UserError(what, str(run.config_file), "start a new run", code="run.config_damaged") from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", str(run.config_file), "check its owner") from error
    return Frozen(
        config,
        origins,
        about.preset,
        about.created,
        about.notes,
        about.wait,
        about.split_version,
        about.data_fingerprint,
        intact,
    )


def blank_result(run: RunDir, frozen: Frozen) -> Result:
    """A result that has everything known before the work begins."""
    config = frozen.config
    return Result(
        status="failed",
        reason="",
        name=run.name,
        preset=frozen.preset,
        method=config.method,
        model=config.model.id,
        data=config.data.id,
        metric=config.evaluation.metric,
        created=frozen.created,
        ended=time.time(),
        currency=config.cost.currency,
        split_version=frozen.split_version,
    )


def result_from_events(run: RunDir, frozen: Frozen, end: EndRecord | None = None) -> Result | None:
    """The result as the events have it; None where the newest worker has not ended, unless `end` says how it did."""
    builder, follower = ResultBuilder(blank_result(run, frozen), frozen.config), Follower(run.events_file)
    last = read_events(builder, follower)
    if end is None and last is not None:
        end = EndRecord(status=last.status, reason=last.reason, t=last.t)
    return builder.build(end, follower.damaged) if end else None


@lru_cache(maxsize=64)
def _rebuilt(run: RunDir, end: EndRecord, stamp: tuple[int, int]) -> Result | None:
    """Kept as long as the log stays the same: lists ask every second."""
    return result_from_events(run, read_frozen(run), end)


def last_event(path: Path) -> Event | None:
    """The last complete line of a log; None where that is no event."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 65536))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    return decode(lines[-2]) if len(lines) > 1 else None


def write_end(run: RunDir, frozen: Frozen, log: EventLog, end: End) -> None:
    """Write the `end` event, then the result of all events. Raises OSError where there is no room for them."""
    log.write(end)
    if result := result_from_events(run, frozen):
        write_result(run, result)


def write_result(run: RunDir, result: Result) -> None:
    """`result.json`, whole or not at all."""
    write_atomically(run.result_file, msgspec.json.format(msgspec.json.encode(result), indent=1))


def delete(run: RunDir) -> None:
    """Delete a run with its model and checkpoints; of one that is linked to, the link. Raises OSError."""
    if not run.path.is_symlink():
        run.config_file.unlink(missing_ok=True)  # first: what is half deleted is no run any more
    remove_tree(run.path)


def find(runs: Path, name: str) -> RunDir:
    """A run by its name, an unambiguous part of it, its path, or `last`."""
    if folder.has_file(Path(name), "run.toml"):
        return RunDir(Path(name).absolute())
    return folder.pick(iterate(runs), name, "run", runs, "`ftbench runs` lists the runs")


def iterate(runs: Path) -> Iterator[RunDir]:
    """Every run directory in the folder, in no order."""
    return map(RunDir, folder.holding(runs, "run.toml"))
