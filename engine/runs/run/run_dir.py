"""A run is a directory: the paths of its files, what they record, and `run.toml`, its frozen configuration."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shlex
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import tomli
from msgspec.structs import replace

from engine import __version__
from engine.config.errors import UserError
from engine.config.files import (
    MAX_SETTINGS_BYTES,
    read_json,
    read_regular,
    read_tail,
    remove_tree,
    unusable_file,
    write_atomically,
)
from engine.config.method_specs import method_title, reads
from engine.config.preset import EffectiveConfig
from engine.config.preset_library import preset_name, without_method
from engine.config.schema import DEVICE_KEYS, RELOCATABLE_KEYS, SAME_AS_STARTING_RUN, Config
from engine.config.settings import Flat, flatten, nested, setting_text, with_settings
from engine.executors.jobs import Job, JobState, read_job, system_of
from engine.runs.origin import LADDER_ORIGIN, NUMBER, STARTED_IN
from engine.runs.run import folder
from engine.runs.run.event_log import OUTPUT_TAIL_BYTES, EventLog, Follower, stream
from engine.runs.run.events import End, Event, Hello, decode
from engine.runs.run.folder import EndRecord, Folder, FolderEntry
from engine.runs.run.result import TASKS, Result, file_stem
from engine.runs.run.result_builder import ResultBuilder, read_events

ACTIVE = ("live", "starting", "pending")
"""States of a run whose worker runs or will."""
STARTING_SECONDS = 20.0
"""A run without a lock and without events counts as `starting` this long after its creation, then as `died`."""


@dataclass(frozen=True)
class RunDir(Folder):
    """The paths of one run."""

    KIND: ClassVar[str] = "run"
    HOW_TO_LIST: ClassVar[str] = "run `ftbench runs` to list the runs"
    config_file = FolderEntry("run.toml")
    events_file = FolderEntry("events.jsonl")
    result_file = FolderEntry("result.json")
    predictions_file = FolderEntry("predictions.jsonl")
    checkpoints = FolderEntry("checkpoints")
    model = FolderEntry("model")
    exports = FolderEntry("exports")
    start_model = FolderEntry("start")
    """The adapter or model that it starts from, kept from the run that `model.from_run` names."""
    initial_adapter = FolderEntry("initial_adapter")
    """The adapter of PiSSA before training, which the saved one is relative to."""
    paused_file = FolderEntry("paused")
    """Exists from a pause until the run is resumed; written by whoever pauses."""

    def events_size(self) -> int:
        """Bytes in the event log, 0 without one: what follows belongs to the next worker."""
        try:
            return self.events_file.stat().st_size
        except FileNotFoundError:
            return 0

    def few_shot_file(self, shots: int) -> Path:
        """The answers of the base model with this many examples in the prompt, in the form of `predictions.jsonl`."""
        return self.path / f"predictions-{shots}-shot.jsonl"

    def few_shot_examples_file(self, shots: int) -> Path:
        """The places of the training rows in these prompts, as a JSON list."""
        return self.path / f"examples-{shots}-shot.json"

    def task_file(self, task: str, when: Literal["before", "after"]) -> Path:
        """The scores of each item of a task, before or after training (`engine.runs.run.result`)."""
        return self.path / TASKS / f"{file_stem(task)}.{when}.json"

    def result(self) -> Result | None:
        """The result, None while the run has none. Raises UserError where a file is damaged or cannot be read.

        Built from the events where the worker ended without writing it (killed at that moment, or on a full disk).
        """
        if (written := self.written_result()) is not None or (end := self.unwritten_end()) is None:
            return written
        stamp = (0, 0)
        with contextlib.suppress(OSError):
            status = self.events_file.stat()
            stamp = status.st_mtime_ns, status.st_size
        try:
            return _rebuilt(self, end, stamp)
        except OSError as error:
            raise unusable_file(self.events_file, error, "", "run.events") from error

    def written_result(self) -> Result | None:
        """The content of `result.json`, None where it is missing. Raises UserError as `result` does."""
        hint = f"run `ftbench resume {self.argument}` to write it again from events.jsonl"
        return read_json(self.result_file, Result, hint, "run.result_damaged")

    def unwritten_end(self) -> EndRecord | None:
        """How the latest worker ended according to the reserved file or the last event, for runs without a result."""
        record = self.read_end()
        last = last_event(self.events_file) if record is None else None
        return EndRecord(status=last.status, reason=last.reason, t=last.t) if isinstance(last, End) else record

    def job(self) -> Job | None:
        """Its latest job, None for a run on this machine. Raises UserError where the record is damaged."""
        return read_job(self.path)

    def job_state(self) -> JobState | None:
        """What the batch system says of its job; None for a run on this machine, or that has finished or failed.

        A stopped run can have an active job: after its time limit it is queued again.
        """
        job = self.job()
        if job is None:
            return None
        with contextlib.suppress(UserError):  # a damaged result tells nothing
            result = self.written_result()
            if result is not None and result.status != "stopped":
                return None
        return system_of(job).state(job)

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
                return "pending" if job.is_waiting or job.is_unknown else "starting"
            end = self.written_result() or self.unwritten_end()
        except UserError:
            return "damaged"
        if end is not None:
            return end.status
        if job is not None:
            return "died"
        try:
            is_new = abs(time.time() - self.config_file.stat().st_mtime) < STARTING_SECONDS
        except OSError:
            return "damaged"
        return "starting" if is_new and not self.events_file.exists() else "died"


class FrozenRun(msgspec.Struct, kw_only=True, frozen=True):
    """The content of `run.toml`: the configuration, and what its section `run` says of the launch."""

    config: Config
    origins: dict[str, str]
    preset: str
    created: float
    notes: list[str]
    wait: bool = True
    """False: start immediately, even if another run uses the GPU."""
    data_fingerprint: str = ""
    """Fingerprint of the rows that were checked before the launch: the run refuses other rows. '' for no check."""
    key_fingerprints: dict[str, str] = {}
    """Of each value of the configuration as it was written; `edited_keys` compares them."""
    started_in: str = ""
    command: str = ""
    """The command line that started it, or one that is equivalent to what was selected on the bench; '' if unknown."""

    @property
    def ladder(self) -> str:
        """The ladder that started the run, '' for a run that was started alone."""
        origins = self.origins.values()
        return next((origin.removeprefix(LADDER_ORIGIN) for origin in origins if origin.startswith(LADDER_ORIGIN)), "")

    def with_metric(self, metric: str) -> FrozenRun:
        """The same with the metric that was decided for `auto`, which the run's result names."""
        return replace(self, config=with_settings(self.config, {"evaluation.metric": metric}))


def create(
    runs: Path,
    preset: str,
    effective: EffectiveConfig,
    *,
    wait: bool = True,
    identity: str = "",
    data_fingerprint: str = "",
    started_in: str | None = None,
    command: str = "",
) -> RunDir:
    """Create a run directory (mode 0700) with its frozen configuration.

    `wait`: whether the run waits in the device queue. `identity`: hash by which a ladder finds the run again
    (`engine/ladder/runner.py`). `started_in`: the directory to record, by default the working directory.
    """
    import tomli_w  # only needed to start a run

    values = values_that_are_set(effective.config)
    section = {
        "preset": preset,
        "created": time.time(),
        "version": __version__,
        "wait": wait,
        "identity": identity,
        "data_fingerprint": data_fingerprint,
        "command": command,
        "key_fingerprints": _key_fingerprints(values),
        STARTED_IN: folder.current_directory() if started_in is None else started_in,
        "notes": [notice.text for notice in effective.notices],
    }

    def text(number: int) -> str:
        facts = {**section, NUMBER: number}
        return tomli_w.dumps({**nested(values), "run": facts, "origins": effective.origins})

    return RunDir(folder.make(runs, without_method(preset_name(preset)), effective.config.method, "run.toml", text))


def read_frozen(run: RunDir) -> FrozenRun:
    """Read `run.toml`. Raises UserError where it is missing, damaged or cannot be read."""
    path = run.config_file
    try:
        table: dict[str, Any] = tomli.loads(read_regular(path, MAX_SETTINGS_BYTES).decode())
        for key, value in _flat(table).items():
            if isinstance(value, float) and not math.isfinite(value):  # JSON has no such numbers, and NaN != NaN
                raise ValueError(f"{key} is {value}")
        facts, origins = table.pop("run"), table.pop("origins")
        return msgspec.convert({**facts, "origins": origins, "config": table}, FrozenRun)
    except FileNotFoundError as error:
        hint = "run `ftbench runs` to list the runs"
        raise UserError("not a run: no run.toml", str(run.path), hint, "run.not_a_run") from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise unusable_file(path, error, "start a new run", "run.config_damaged") from error


def _key_fingerprints(values: Flat) -> dict[str, str]:
    """By dotted key, independent of comments and layout of the file."""
    texts = {key: json.dumps(value, sort_keys=True, default=str) for key, value in values.items()}
    return {key: hashlib.sha256(text.encode()).hexdigest()[:8] for key, text in texts.items()}


def edited_keys(path: Path) -> set[str]:
    """Dotted keys whose values were edited since a `run.toml`, which `read_frozen` accepts, was written."""
    table: dict[str, Any] = tomli.loads(read_regular(path, MAX_SETTINGS_BYTES).decode())
    recorded = table.pop("run").get("key_fingerprints", {})
    table.pop("origins")
    return {key for key, _ in _key_fingerprints(_flat(table)).items() ^ recorded.items()}


def _flat(table: dict[str, Any], prefix: str = "") -> Flat:
    """Values by dotted key; a table that is the value of a key (`data.map`) is one value, as in `flatten`."""
    flat: Flat = {}
    for name, value in table.items():
        if isinstance(value, dict) and not prefix:
            flat |= _flat(value, f"{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def values_that_are_set(config: Config) -> Flat:
    return {key: value for key, value in flatten(config).items() if value is not None and value != {}}


def check_unchanged(run: RunDir, frozen: FrozenRun) -> None:
    """Raise UserError if `run.toml` was edited since the run was created: `train.batch was 16 and is 8`.

    Devices and locations of files may change. A key that the recorded configuration lacks may have its default value.
    """
    hellos = (event for event in stream(run.events_file, Hello) if isinstance(event, Hello))
    recorded = next((hello.config for hello in hellos if hello.config), None)
    may_change = {*DEVICE_KEYS, *RELOCATABLE_KEYS}
    if recorded is None:
        changes = sorted(edited_keys(run.config_file) - may_change)
    else:
        now, defaults, changes = values_that_are_set(frozen.config), values_that_are_set(Config()), []
        for key in sorted({*recorded, *now} - may_change):
            was, value = recorded.get(key), now.get(key)
            if was != value and not (key not in recorded and value == defaults.get(key)):
                before, after = ("unset" if setting is None else repr(setting) for setting in (was, value))
                changes.append(f"{key} was {before} and is {after}")
    if changes:
        when = "was created" if recorded is None else "started"
        problem = f"the configuration changed after the run {when}: {', '.join(changes)}"
        hint = "restore it, or start a new run with `ftbench run PRESET --set KEY=VALUE`"
        raise UserError(problem, str(run.config_file), hint, code="run.config_changed")


def continued_run_name(config: Config) -> str:
    """The name of the run that this configuration starts from, '' for none; the run may have been deleted."""
    return Path(config.model.from_run).name if config.model.from_run else ""


def find_continued_run(config: Config) -> tuple[RunDir, Result] | None:
    """The finished run that this configuration starts from, None if it starts from the base model.

    Raises UserError if the run was deleted, has no finished model, or was trained with another method, base model or
    adapter.
    """
    if config.model.from_run is None:
        return None
    run = RunDir(Path(config.model.from_run))
    if not run.config_file.is_file():
        hint = "`ftbench runs` lists the runs; choose another with --from"
        raise UserError("the run to start from was not found", str(run.path), hint, "run.start_missing")
    other, result = read_frozen(run).config, run.result()
    if result is None or result.status != "finished" or not any(run.model.glob("*.safetensors")):
        state = run.state()
        problem = f"the run to start from has no {'model' if state == 'finished' else 'finished model'}: {state}"
        hint = "wait until it has finished" if run.is_active() else "choose a finished run with --from"
        raise UserError(problem, run.name, hint, "run.start_not_finished")
    if config.method != other.method:
        titles = method_title(other.method), method_title(config.method)
        problem = f"{run.name} was trained with {titles[0]}, this run uses {titles[1]}"
        raise UserError(problem, "--from", f"use --method {other.method}", "run.start_method")
    ours, theirs = flatten(config), flatten(other)
    for key in SAME_AS_STARTING_RUN:
        if reads(config.method, key) and ours[key] != theirs[key]:
            was, now = setting_text(theirs[key]), setting_text(ours[key])
            problem = f"{run.name} was trained with {key} = {was or 'unset'}, this run has {now or 'unset'}"
            hint = f"use --set {shlex.quote(f'{key}={was}')}" if was else f"remove {key}"
            raise UserError(problem, "--from", hint, "run.start_setting")
    return run, result


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
        from_run=continued_run_name(config),
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
    write_atomically(run.result_file, msgspec.json.format(msgspec.json.encode(result), indent=1))


def delete(run: RunDir) -> None:
    """Delete a run with its model and checkpoints; of a symbolic link only the link. Raises OSError."""
    if not run.path.is_symlink():
        remove_tree(run.config_file)  # first: a partly deleted directory must not be listed as a run
    remove_tree(run.path)
