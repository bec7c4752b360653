"""A run is a directory: the paths of its files, and what the files record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, Unpack

import msgspec

from engine.config.errors import UserError
from engine.config.files import read_json, read_tail, remove_tree, unusable_file, write_atomically
from engine.config.preset import EffectiveConfig
from engine.config.preset_library import preset_name, without_method
from engine.executors.slurm import UNKNOWN, Job, JobState, queue, read_job
from engine.runs.run import end_record, folder
from engine.runs.run.end_record import EndRecord
from engine.runs.run.event_log import OUTPUT_TAIL_BYTES, EventLog, Follower
from engine.runs.run.events import End, Event, decode
from engine.runs.run.folder import Folder
from engine.runs.run.frozen_config import FrozenRun, LaunchFields, frozen_text, read_file
from engine.runs.run.result import Result, file_stem
from engine.runs.run.result_builder import ResultBuilder, read_events

ACTIVE = ("live", "starting", "pending")
"""States of a run whose worker runs or will."""
STARTING_SECONDS = 20.0
"""A run without a lock and without events counts as `starting` this long after its creation, then as `died`."""


@dataclass(frozen=True)
class RunDir(Folder):
    """The paths of one run."""

    KIND: ClassVar[str] = "run"

    @property
    def config_file(self) -> Path:
        return self.path / "run.toml"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    def events_size(self) -> int:
        """Bytes in the event log, 0 without one: what follows belongs to the next worker."""
        try:
            return self.events_file.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def paused_file(self) -> Path:
        """Exists from a pause until the run is resumed; written by whoever pauses."""
        return self.path / "paused"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def start_model(self) -> Path:
        """The adapter or model that it starts from, kept from the run that `model.from_run` names."""
        return self.path / "start"

    @property
    def initial_adapter(self) -> Path:
        """The adapter of PiSSA before training, which the saved one is relative to."""
        return self.path / "initial_adapter"

    def few_shot_file(self, shots: int) -> Path:
        """The answers of the base model with this many examples in the prompt, in the form of `predictions.jsonl`."""
        return self.path / f"predictions-{shots}-shot.jsonl"

    def few_shot_examples_file(self, shots: int) -> Path:
        """The places of the training rows in these prompts, as a JSON list."""
        return self.path / f"examples-{shots}-shot.json"

    def benchmark_file(self, benchmark: str, when: Literal["before", "after"]) -> Path:
        """The scores of each item of a benchmark, before or after training (`engine.runs.run.result`)."""
        return self.path / "benchmarks" / f"{file_stem(benchmark)}.{when}.json"

    @property
    def predictions_file(self) -> Path:
        return self.path / "predictions.jsonl"

    def result(self) -> Result | None:
        """The result, None while the run has none. Raises UserError where a file is damaged or cannot be read.

        Built from the events where the worker ended without writing it (killed at that moment, or on a full disk).
        """
        return self.written_result() or self._unwritten_result()

    def written_result(self) -> Result | None:
        """The content of `result.json`, None where it is missing. Raises UserError as `result` does."""
        hint = f"run `ftbench resume {self.argument}` to write it again from events.jsonl"
        return read_json(self.result_file, Result, hint, "run.result_damaged")

    def unwritten_end(self) -> EndRecord | None:
        """How the latest worker ended according to the reserved file or the last event, for runs without a result."""
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
        try:
            return _rebuilt(self, end, stamp)
        except OSError as error:
            raise unusable_file(self.events_file, error, "", "run.events") from error

    def job(self) -> Job | None:
        """Its latest job, None for a run on this machine. Raises UserError where the record is damaged."""
        return read_job(self.path)

    def job_state(self) -> JobState | None:
        """What Slurm says of its job, None for a run on this machine and for one that has finished or failed.

        A stopped run can have an active job: after its time limit it is queued again.
        """
        job = self.job()
        if job is None:
            return None
        with contextlib.suppress(UserError):  # a damaged result tells nothing
            result = self.written_result()
            if result is not None and result.status != "stopped":
                return None
        return queue.state(job)

    def is_active(self) -> bool:
        """Whether a worker runs, or its job runs or waits."""
        if self.is_locked():
            return True
        with contextlib.suppress(UserError):  # `state` tells that it is damaged
            state = self.job_state()
            return state is not None and state.is_active
        return False

    def state(self) -> str:
        """`live`, `starting`, `pending` (its job waits), `died`, `damaged`, or the status of its result."""
        if self.is_locked():
            return "live"
        if self.irregular_file():
            return "damaged"
        try:
            job = self.job_state()
            if job is not None and job.is_active:
                return "pending" if job.is_waiting or job.state == UNKNOWN else "starting"
            end = self.written_result() or self.unwritten_end()
        except UserError:
            return "damaged"
        return end.status if end else "died" if job is not None else self._state_without_result()

    def _state_without_result(self) -> str:
        try:
            is_new = abs(time.time() - self.config_file.stat().st_mtime) < STARTING_SECONDS
        except OSError:
            return "damaged"
        return "starting" if is_new and not self.events_file.exists() else "died"


def create(runs: Path, preset: str, effective: EffectiveConfig, **launch: Unpack[LaunchFields]) -> RunDir:
    """Create a run directory (mode 0700) with its frozen configuration."""
    text = frozen_text(preset, effective, **launch)
    method = effective.config.method
    return RunDir(folder.make(runs, without_method(preset_name(preset)), method, "run.toml", text))


def read_frozen(run: RunDir) -> FrozenRun:
    """Read `run.toml`. Raises UserError where it is missing, damaged or cannot be read."""
    return read_file(run.config_file)


def finished_result(run: RunDir, code: str) -> Result:
    """The result of a run that has a model to use. Raises UserError with this code for a run that is not finished."""
    result = run.result()
    if result is not None and result.status == "finished":
        return result
    state = result.status if result else run.state()
    hint = "wait until it has finished" if run.is_active() else f"run `ftbench resume {run.argument}` first"
    raise UserError(f"the run is not finished: {state}", run.name, hint, code)


def blank_result(run: RunDir, frozen: FrozenRun) -> Result:
    """A result with everything that is known before the run starts."""
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
        from_run=Path(config.model.from_run).name if config.model.from_run else "",
    )


def result_from_events(run: RunDir, frozen: FrozenRun, end: EndRecord | None = None) -> Result | None:
    """Build the result from the events; None where the latest worker has not ended, unless `end` tells how it did."""
    builder, follower = ResultBuilder(blank_result(run, frozen), frozen.config), Follower(run.events_file)
    last = read_events(builder, follower)
    if end is None and last is not None:
        end = EndRecord(status=last.status, reason=last.reason, t=last.t)
    return builder.build(end, follower.damaged) if end else None


@lru_cache(maxsize=64)
def _rebuilt(run: RunDir, end: EndRecord, stamp: tuple[int, int]) -> Result | None:
    """Cached as long as the log does not change: lists need it every second."""
    return result_from_events(run, read_frozen(run), end)


def last_event(path: Path) -> Event | None:
    """The event in the last complete line of a log; None where that line is not an event."""
    try:
        lines = read_tail(path, OUTPUT_TAIL_BYTES).split(b"\n")
    except OSError:
        return None
    return decode(lines[-2]) if len(lines) > 1 else None


def write_end(run: RunDir, frozen: FrozenRun, log: EventLog, end: End) -> None:
    """Write the `end` event, then the result of all events. Raises OSError where the disk is full."""
    log.write(end)
    if result := result_from_events(run, frozen):
        write_result(run, result)


def write_result(run: RunDir, result: Result) -> None:
    """Write `result.json` atomically."""
    write_atomically(run.result_file, msgspec.json.format(msgspec.json.encode(result), indent=1))


def delete(run: RunDir) -> None:
    """Delete a run with its model and checkpoints; of a symbolic link only the link. Raises OSError."""
    if not run.path.is_symlink():
        remove_tree(run.config_file)  # first: a partly deleted directory must not be listed as a run
    remove_tree(run.path)


def find(runs: Path, name: str) -> RunDir:
    """Find a run by its name, an unambiguous part of it, its path, or `last`."""
    if folder.has_file(Path(name), "run.toml"):
        return RunDir(folder.real_path(Path(name)))
    return folder.pick(iterate(runs), name, "run", runs, "run `ftbench runs` to list the runs")


def iterate(runs: Path) -> Iterator[RunDir]:
    """The run directories in `runs`, in no order."""
    return map(RunDir, folder.directories_with_file(runs, "run.toml"))
