"""Runs a ladder's entries as ordinary runs: reuses finished runs with the same identity, and resumes stopped ones."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from engine.config.errors import RunFailed, UserError
from engine.config.files import MAX_SETTINGS_BYTES, read_regular
from engine.config.preset import EffectiveConfig
from engine.config.preset_library import preset_name, without_method
from engine.config.schema import RELOCATABLE_KEYS, UNRELATED_KEYS, UNRELATED_SECTIONS, Config
from engine.config.settings import flatten, with_settings
from engine.executors.slurm import submit_array
from engine.hardware.devices import device_settings, runs_at_once, slots_of
from engine.ladder.results import disturbance, worked_seconds
from engine.runs import start
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import Ladder, LadderEntry, Rung
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.event_log import exit_message, stream
from engine.runs.run.events import Environment, Step
from engine.runs.run.result import Result
from engine.runs.run.run_dir import LADDER_ORIGIN, RunDir, iterate
from engine.runs.start import change_configuration
from engine.runs.stopping import StopRequest, StopRequested
from engine.runs.trackers import start_trackers

_IDENTITY = re.compile(rb'^identity = "([0-9a-f]{64})"$', re.MULTILINE)


def identity(
    config: Config,
    fingerprints: dict[str, str],
    versions: dict[str, str],
    machine: dict[str, Any],
) -> str:
    """The hash by which a ladder finds runs to reuse: of everything that affects a run's numbers.

    SHA-256 of settings, data, model, library versions and machine.
    """
    executor = config.executor
    if executor.name == "slurm":  # `machine` is the login node, whose runs must not be reused
        machine = {"device": f"slurm {executor.partition} {executor.gres} {executor.constraint}"}
    settings = relevant_settings(config)
    if fingerprints:  # which have the content of the files, wherever they are
        places = [
            key for key in RELOCATABLE_KEYS if isinstance(settings[key], str) and Path(settings[key]).is_absolute()
        ]
        settings = {key: value for key, value in settings.items() if key not in places}
    parts: dict[str, Any] = {
        "settings": settings,
        "fingerprints": fingerprints,
        "versions": versions,
        "machine": {key: machine.get(key) for key in ("device", "cpu", "threads", "cuda")},
        "slots": slots_of(config.hardware.device),  # runs at the same time share caches and memory bandwidth
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def relevant_settings(config: Config) -> dict[str, Any]:
    """The settings that change the numbers of a run."""
    settings = flatten(config)
    if not settings["evaluation.benchmarks"]:
        del settings["evaluation.benchmark_limit"]
    related = (key for key in settings if key not in UNRELATED_KEYS and not key.startswith(UNRELATED_SECTIONS))
    return {key: settings[key] for key in related}


def index(runs: Path) -> dict[str, list[RunDir]]:
    """The runs in this folder that were started by a ladder, by identity, the oldest first."""
    runs_by_identity: dict[str, list[RunDir]] = {}
    for run in sorted(iterate(runs), key=lambda run: run.name):
        try:
            match = _IDENTITY.search(read_regular(run.config_file, MAX_SETTINGS_BYTES))
        except OSError:
            continue  # deleted in the meantime
        if match:
            runs_by_identity.setdefault(match.group(1).decode(), []).append(run)
    return runs_by_identity


POLL_SECONDS = 0.2
STARTUP_SECONDS = 2.0
"""How long a run may be `starting` before its worker counts as gone."""
MAX_DEATHS = 3
"""A worker that exits unexpectedly this often without a new step is not started again."""
FAILURES = ("out_of_memory", "diverged", "failed")


@dataclass
class LadderRunner:
    """A ladder's state and the runs that this process starts for it."""

    dir: LadderDir
    ladder: Ladder
    stopping: StopRequest
    fresh: bool
    """Whether runs of other ladders are not reused."""
    retime: bool = False
    """Whether finished runs with a disturbed timing are not reused."""
    runs_by_identity: dict[str, list[RunDir]] = field(default_factory=dict)
    started: set[Path] = field(default_factory=set)
    """Runs that this process started or resumed; one set for all ladders of a sweep."""
    dropped: set[Path] = field(default_factory=set)
    """Runs that were stopped because their rung was excluded."""
    workers: list[start.StartedProcess] = field(default_factory=list)
    """Processes on this machine, polled so that they do not stay zombies."""
    _saving: threading.Lock = field(default_factory=threading.Lock)
    """Guards the written state and `workers`: several threads can run entries."""

    def index_runs(self) -> None:
        """Find all runs of this and other ladders, and this ladder's timing probes."""
        self.runs_by_identity = index(self.dir.runs)
        for key, runs in index(self.dir.probes).items():
            self.runs_by_identity[key] = [*runs, *self.runs_by_identity.get(key, [])]

    def save(self) -> None:
        """Write the state; from any thread."""
        with self._saving:
            self.dir.write_state(self.ladder)

    def warn(self, code: str, text: str) -> None:
        """Add a warning to the ladder, once."""
        if text not in self.ladder.warnings:
            self.ladder.warnings.append(text)
            self.ladder.warning_codes.append(code)
        print(f"warning: {text}", flush=True)

    def entry(self, like: LadderEntry) -> LadderEntry:
        """The entry of the same rung, kind, seed and rate; added if there is none."""
        for entry in self.ladder.entries:
            if _key(entry) == _key(like):
                return entry
        self.ladder.entries.append(like)
        return like

    def run_of(self, entry: LadderEntry) -> RunDir:
        """The directory of an entry's run."""
        return RunDir(self.dir.runs / entry.run)

    def run_entry(self, entry: LadderEntry, config: Config, rung: Rung) -> Result | None:
        """The result of the entry's run, which is reused, resumed or started. None if it failed: see `entry.reason`.

        Raises StopRequested if the ladder or the run was stopped.
        """
        self.stopping.check()
        run, is_new = self._find_or_create(entry, config, rung)
        if is_new:
            self._start(entry, run)
        elif entry.run != (name := self._relative(run)):
            entry.run, entry.reused = name, True
            print(f"{entry.rung} seed {entry.seed}: reusing {name}", flush=True)
        try:
            self._run_to_end(entry, run)
        except StopRequested:
            if run.path in self.dropped:
                entry.status, entry.progress = "skipped", ""
                return None
            entry.status = "stopped" if run.state() == "stopped" else "planned"
            raise
        return self._record_outcome(entry, run, config.cost.max_other_load)

    def create_unless_exists(self, entry: LadderEntry, config: Config, rung: Rung) -> RunDir | None:
        """Create the entry's run without starting it; None if there is one to reuse or to resume."""
        run, is_new = self._find_or_create(entry, config, rung)
        return run if is_new else None

    def forget(self, entry: LadderEntry, run: RunDir) -> None:
        """Delete a run that was created and could not be started."""
        run_dir.delete(run)
        entry.run, entry.status = "", "planned"
        self.save()

    def drop(self, entry: LadderEntry, reason: str) -> None:
        """Leave out an entry; its run is stopped if this process started it and follows it."""
        entry.status, entry.reason = "skipped", reason
        run = self.run_of(entry)
        if entry.run and run.path in self.started and run.is_active():
            self.dropped.add(run.path)  # its own thread stops it
        self.save()

    def _find_or_create(self, entry: LadderEntry, config: Config, rung: Rung) -> tuple[RunDir, bool]:
        """The entry's run, and whether it was created now."""
        config = self.with_metric(config)
        key = self.identity(config)
        with locks.exclusive(self.dir.runs):  # else two ladders could both find nothing and start the same run
            self.index_runs()
            run = self._reusable(entry, key, config.cost.max_other_load)
            run = run or self._own_of_another_machine(entry, config)
            if run is not None and run.state() in ("stopped", "died"):
                _use_places(run, config)
            return (run, False) if run else (self._create(entry, config, key, rung), True)

    def with_metric(self, config: Config) -> Config:
        """The configuration with the ladder's metric, which is decided once for all runs."""
        return with_settings(config, {"evaluation.metric": self.ladder.work.metric}) if self.ladder.work else config

    def identity(self, config: Config) -> str:
        """The identity of a run with this configuration, by which finished runs are found."""
        return identity(self.with_metric(config), self._fingerprints(), self.ladder.versions, self.ladder.machine)

    def has_finished(self, entry: LadderEntry, config: Config) -> bool:
        """Whether a finished run with this configuration would be reused."""
        run = self._reusable(entry, self.identity(config), config.cost.max_other_load)
        run = run or self._own_of_another_machine(entry, config)
        return run is not None and run.state() == "finished"

    def _reusable(self, entry: LadderEntry, key: str, allowed: float) -> RunDir | None:
        """The latest run with this identity: undisturbed, else finished, running, resumable, failed."""
        own = self.dir.runs / entry.run if entry.run else None
        usable_fresh = {own, *self.started}
        runs = [run for run in self.runs_by_identity.get(key, []) if not self.fresh or run.path in usable_fresh]
        states = {run.path: run.state() for run in runs}
        finished = [run for run in runs if states[run.path] == "finished"]
        latest_first = finished[::-1]
        for run in sorted(latest_first, key=lambda run: bool(disturbance(run, allowed))):
            own_timing = run.path == own and not entry.reused
            if not self.retime or own_timing or not disturbance(run, allowed):
                return run
        for group in (run_dir.ACTIVE, ("stopped", "died"), FAILURES):
            for run in reversed(runs):
                # What failed in another ladder, or before this one was resumed, is tried again.
                usable = group != FAILURES or (
                    run.path == own and (run.path in self.started or states[own] != "failed")
                )
                if states[run.path] in group and usable:
                    return run
        return None

    def _own_of_another_machine(self, entry: LadderEntry, config: Config) -> RunDir | None:
        """The entry's own run that differs only by the machine: a ladder can be resumed on another one.

        Its scores count; timings are compared within a device only (`note_other_devices`).
        """
        if self.fresh or not entry.run:
            return None
        run = RunDir(self.dir.runs / entry.run)
        try:
            recorded = _IDENTITY.search(read_regular(run.config_file, MAX_SETTINGS_BYTES))
            logged = (event for event in stream(run.events_file, Environment) if isinstance(event, Environment))
            place = next(logged, None)
            if recorded is None or place is None or run.state() not in ("finished", "stopped", "died"):
                return None
        except OSError:
            return None  # deleted
        key = identity(self.with_metric(config), self._fingerprints(), self.ladder.versions, place.machine)
        return run if place.machine != self.ladder.machine and key == recorded.group(1).decode() else None

    def _create(self, entry: LadderEntry, config: Config, key: str, rung: Rung) -> RunDir:
        if entry.status == "finished":
            exists = (self.dir.runs / entry.run).exists()
            why = "used other data, library versions or threads" if exists else "was deleted"
            self.warn("ladder.run_not_reusable", f"{entry.run} {why}: {entry.rung} is run again")
        origins = dict.fromkeys(flatten(config), f"{LADDER_ORIGIN}{self.dir.name}")
        if self.ladder.work and self.ladder.work.metric_reason:
            origins["evaluation.metric"] += f", automatic: {self.ladder.work.metric_reason}"
        folder = self.dir.probes if entry.kind == "probe" else self.dir.runs
        preset = without_method(preset_name(self.ladder.preset))
        name = f"{preset}-{rung.name}" if rung.name != rung.method else preset
        run = run_dir.create(
            folder,
            name,
            EffectiveConfig(config, origins),
            identity=key,
            data_fingerprint=self._fingerprints().get("data", ""),
            started_in=self.ladder.started_in,
        )
        entry.run, entry.status, entry.reason, entry.reused = self._relative(run), "planned", "", False
        self.save()
        return run

    def _run_to_end(self, entry: LadderEntry, run: RunDir) -> None:
        """Start or resume the run until it has an outcome, or its worker exited unexpectedly MAX_DEATHS times."""
        deaths, last_step = 0, -1
        while (state := run.state()) not in ("finished", *FAILURES):
            self.stopping.check()
            if run.path in self.dropped and state not in run_dir.ACTIVE:
                raise StopRequested
            if state == "damaged":
                entry.status, entry.reason = "failed", f"{run.name} is damaged or was deleted"
                return
            if state not in run_dir.ACTIVE:
                if deaths >= MAX_DEATHS:
                    return
                self._start(entry, run)
            self._wait(entry, run)
            if run.state() == "died":
                steps = (event.step for event in stream(run.events_file, Step) if isinstance(event, Step))
                step = max(steps, default=0)
                deaths, last_step = (deaths + 1, last_step) if step <= last_step else (1, step)
                if deaths < MAX_DEATHS:
                    what = f"the worker of {run.name} ended unexpectedly after step {step} and was started again"
                    self.warn("ladder.worker_restarted", what)
            elif run.state() == "stopped":
                raise StopRequested(f"its run {run.name} was stopped")

    def _start(self, entry: LadderEntry, run: RunDir) -> None:
        size = run.events_size()
        entry.status, entry.started = "live", time.time()
        self.started.add(run.path)
        self.save()
        print(f"[{time.strftime('%H:%M:%S')}] {entry.kind} {entry.rung} seed {entry.seed}: {entry.run}", flush=True)
        worker = start.start_worker(run)
        if worker is not None:
            with self._saving:
                self.workers = [process for process in self.workers if process.poll() is None] + [worker]
        try:
            start.wait_for_hello(run, worker, size)
            start_trackers(run)
        except RunFailed as error:
            entry.reason = str(error)

    def _wait(self, entry: LadderEntry, run: RunDir) -> None:
        """Wait until the run's worker exits. Stopping the ladder stops only a run that it started itself."""
        forwarded, deadline = False, time.monotonic() + STARTUP_SECONDS
        if entry.status not in ("live", "skipped"):
            entry.status, entry.started = "live", time.time()  # it was running already
            self.save()
        while run.is_active() or (run.state() == "starting" and time.monotonic() < deadline):
            if self.stopping.requested and entry.reused and run.path not in self.started:
                break
            if (self.stopping.requested or run.path in self.dropped) and not forwarded:
                forwarded = start.try_to_stop(run)
            self._show_job(entry, run)
            time.sleep(POLL_SECONDS)
            for worker in self.workers:
                worker.poll()
        entry.progress = ""
        self.stopping.check()

    def _show_job(self, entry: LadderEntry, run: RunDir) -> None:
        """Record what the run's Slurm job waits for."""
        job = run.job_state()
        text = job.text if job is not None and job.is_waiting else ""
        if text != entry.progress:
            entry.progress, entry.started = text, None if text else time.time()
            self.save()

    def _record_outcome(self, entry: LadderEntry, run: RunDir, allowed: float) -> Result | None:
        try:
            result = run.result()
        except UserError as error:
            result, entry.reason = None, error.line
        if result is None:
            last = exit_message(run.log_file)
            entry.status = "died"
            entry.reason = entry.reason or f"worker exited unexpectedly {MAX_DEATHS} times. Its log ends: {last}"
        else:
            entry.status, entry.reason = result.status, result.reason
            entry.validation_loss, entry.selection = result.final_validation, result.selection
            entry.seconds = worked_seconds(result)
            entry.disturbed = disturbance(run, allowed) if entry.kind == "run" else ""
        self.save()
        return result if result and result.status == "finished" else None

    def _fingerprints(self) -> dict[str, str]:
        return self.ladder.work.fingerprints if self.ladder.work else {}

    def _relative(self, run: RunDir) -> str:
        return str(run.path.relative_to(self.dir.runs))


def _use_places(run: RunDir, config: Config) -> None:
    """Read the files of a run that is resumed where the ladder has them now."""
    ours, theirs = flatten(config), flatten(run_dir.read_frozen(run).config)
    if moved := {key: ours[key] for key in RELOCATABLE_KEYS if ours[key] != theirs[key]}:
        change_configuration(run, moved, lambda config: None)


def _key(entry: LadderEntry) -> tuple[Any, ...]:
    trial = (entry.learning_rate, entry.steps) if entry.kind == "trial" else ()
    return (entry.rung, entry.kind, entry.seed, *trial)


@dataclass(frozen=True)
class PlannedRun:
    """A run that is to be executed."""

    entry: LadderEntry
    rung: Rung
    configure: Callable[[], Config]
    """Called when its turn comes, because settings can depend on the runs before it."""


def _known(config: Config) -> Callable[[], Config]:
    return lambda: config


class EntryQueue:
    """Executes the runs of one stage: as many at a time as they have devices, or all as jobs of Slurm.

    On this machine the device queue gives each run a device that is free; more runs would only wait for each other. In
    Slurm all runs of a stage are tasks of one job array, so that the cluster sees how many there are.
    """

    def __init__(self, runner: LadderRunner, excluded: Callable[[Rung], bool]) -> None:
        self.runner, self.excluded = runner, excluded

    def execute(self, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Result | None]]:
        """Run all and yield each with its result as it ends; runs of a rung that was excluded meanwhile are left out.

        The result is None if the run failed: see `entry.reason`. Raises StopRequested, and UserError where a run
        cannot be started.
        """
        if runs and runs[0].rung.config.executor.name == "slurm":
            yield from self._as_jobs(runs)
            return
        limit = runs_at_once(device_settings(run.rung.config) for run in runs)
        if limit > 1:
            yield from self._at_once(runs, limit)
            return
        for run in runs:
            if not self.excluded(run.rung):
                yield run, self.runner.run_entry(run.entry, run.configure(), run.rung)

    def _at_once(self, runs: Sequence[PlannedRun], limit: int) -> Iterator[tuple[PlannedRun, Result | None]]:
        """Execute up to `limit` runs at a time, in their order."""
        planned = iter(runs)
        with ThreadPoolExecutor(limit, "follow run") as threads:
            waiting: dict[Future[Result | None], PlannedRun] = {}
            try:
                while True:
                    allowed = (run for run in planned if not self.excluded(run.rung))
                    for run in islice(allowed, limit - len(waiting)):
                        config = run.configure()
                        waiting[threads.submit(self.runner.run_entry, run.entry, config, run.rung)] = run
                    if not waiting:
                        return
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield waiting.pop(future), future.result()
            except BaseException:
                self.runner.stopping.ask()  # each thread stops its run
                raise

    def _as_jobs(self, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Result | None]]:
        runs = [run for run in runs if not self.excluded(run.rung)]
        configs = [run.configure() for run in runs]
        self._submit(runs, configs)
        ready = [replace(run, configure=_known(config)) for run, config in zip(runs, configs, strict=True)]
        yield from self._at_once(ready, max(1, len(ready)))

    def _submit(self, runs: Sequence[PlannedRun], configs: Sequence[Config]) -> None:
        """Submit all runs that have to be started as one job array."""
        new: list[tuple[LadderEntry, RunDir]] = []
        for planned, config in zip(runs, configs, strict=True):
            created = self.runner.create_unless_exists(planned.entry, config, planned.rung)
            if created is not None:
                new.append((planned.entry, created))
        if not new:
            return
        try:
            jobs = submit_array(self.runner.dir.path, [run.path for _, run in new], configs[0].executor)
        except (UserError, RunFailed):
            for entry, run in new:
                self.runner.forget(entry, run)
            raise
        for (_, run), job in zip(new, jobs, strict=True):
            self.runner.started.add(run.path)
            start_trackers(run)
            print(f"submitted {run.name} as Slurm job {job.id}", flush=True)
