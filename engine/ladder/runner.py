"""Runs a ladder's entries as ordinary runs: reuses finished runs with the same identity, and resumes stopped ones."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from engine.config.errors import RunFailed, UserError
from engine.config.files import MAX_SETTINGS_BYTES, read_regular
from engine.config.preset import EffectiveConfig
from engine.config.preset_library import preset_name, without_method
from engine.config.schema import OPTIONAL_KEYS, RELOCATABLE_KEYS, UNRELATED_KEYS, Config
from engine.config.settings import flatten, with_settings
from engine.executors.jobs import batch_system
from engine.hardware.devices import device_settings, runs_at_once, slots_of
from engine.ladder.results import disturbance, worked_seconds
from engine.runs import run_hooks, start
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import Kind, Ladder, LadderEntry, Rung
from engine.runs.origin import LADDER_ORIGIN
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.event_log import exit_message, stream
from engine.runs.run.events import Environment, Step
from engine.runs.run.folder import sort_by_start
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir
from engine.runs.start import change_configuration
from engine.runs.stopping import StopRequest, StopRequested

_IDENTITY = re.compile(rb'^identity = "([0-9a-f]{64})"$', re.MULTILINE)


def identity(config: Config, fingerprints: dict[str, str], versions: dict[str, str], machine: dict[str, Any]) -> str:
    """The hash by which a ladder finds runs to reuse: of everything that affects a run's numbers.

    SHA-256 of settings, data, model, library versions and machine.
    """
    if (system := batch_system(config.executor.name)) is not None:  # `machine` only submits: its runs are no match
        machine = {"device": system.machine(config.executor)}
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
    unset = {key for key in OPTIONAL_KEYS if settings[key] is None}
    related = (key for key in settings if key not in UNRELATED_KEYS and key not in unset)
    return {key: settings[key] for key in related}


def index(runs: Path) -> dict[str, list[RunDir]]:
    """The runs in this folder that were started by a ladder, by identity, the oldest first."""
    runs_by_identity: dict[str, list[RunDir]] = {}
    for run in sort_by_start(RunDir.iterate(runs)):
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

PlannedRun = tuple[Rung, LadderEntry]


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
    """Runs that this process started or resumed; one set for ladders that are started together."""
    excluded: dict[str, str] = field(default_factory=dict)
    """Rung -> why it is no longer run."""
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

    def entry(self, rung: str, kind: Kind, seed: int, rate: float, steps: int | None = None) -> LadderEntry:
        """The entry of this rung, kind and seed, of a trial also of this rate and length; added if there is none."""
        for entry in self.ladder.entries:
            same_trial = kind != "trial" or (entry.learning_rate, entry.steps) == (rate, steps)
            if (entry.rung, entry.kind, entry.seed) == (rung, kind, seed) and same_trial:
                return entry
        self.ladder.entries.append(LadderEntry(rung=rung, kind=kind, seed=seed, learning_rate=rate, steps=steps))
        return self.ladder.entries[-1]

    def run_of(self, entry: LadderEntry) -> RunDir:
        return RunDir(self.dir.runs / entry.run)

    def execute(
        self, runs: Sequence[PlannedRun], configure: Callable[[Rung, LadderEntry], Config]
    ) -> Iterator[tuple[PlannedRun, Result | None]]:
        """Run all and yield each with its result as it ends: as many at a time as they have devices.

        On this machine the device queue gives each run a device that is free; more runs would only wait for each other.
        In a batch system all are tasks of one job array, so that the cluster sees how many there are. Runs of a rung
        that was excluded meanwhile are left out. The result is None if the run failed: see `entry.reason`.
        Raises StopRequested, and UserError where a run cannot be started.

        Args:
            configure: Called when a run's turn comes, because settings can depend on the runs before it.
        """
        turns: Iterator[tuple[PlannedRun, Config]] = (
            ((rung, entry), configure(rung, entry)) for rung, entry in runs if rung.name not in self.excluded
        )
        if runs and runs[0][0].config.executor.name != "local":
            submitted = list(turns)
            self._submit(submitted)
            turns, limit = iter(submitted), max(1, len(submitted))
        else:
            limit = runs_at_once(device_settings(rung.config) for rung, _ in runs)
        with ThreadPoolExecutor(limit, "follow run") as threads:
            waiting: dict[Future[Result | None], PlannedRun] = {}
            try:
                while True:
                    for run, config in islice(turns, limit - len(waiting)):
                        waiting[threads.submit(self.run_entry, run[1], config)] = run
                    if not waiting:
                        return
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield waiting.pop(future), future.result()
            except BaseException:
                self.stopping.ask()  # each thread stops its run
                raise

    def _submit(self, runs: Sequence[tuple[PlannedRun, Config]]) -> None:
        """Submit all runs that have to be started as one job array."""
        new: list[tuple[LadderEntry, RunDir]] = []
        for (_, entry), config in runs:
            run, is_new = self._find_or_create(entry, config)
            if is_new:
                new.append((entry, run))
        executor = runs[0][1].executor
        if not new or (system := batch_system(executor.name)) is None:
            return
        try:
            jobs = system.submit_array(self.dir.path, [run.path for _, run in new], executor)
        except (UserError, RunFailed):
            for entry, run in new:
                run_dir.delete(run)
                entry.run, entry.status = "", "planned"
                self.save()
            raise
        for (_, run), job in zip(new, jobs, strict=True):
            self.started.add(run.path)
            run_hooks.started(run)
            print(f"submitted {run.name} as job {job.id} of {executor.name}", flush=True)

    def run_entry(self, entry: LadderEntry, config: Config) -> Result | None:
        """The result of the entry's run, which is reused, resumed or started. None if it failed: see `entry.reason`.

        Raises StopRequested if the ladder or the run was stopped.
        """
        self.stopping.check()
        run, is_new = self._find_or_create(entry, config)
        if is_new:
            self._start(entry, run)
        elif entry.run != (name := str(run.path.relative_to(self.dir.runs))):
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
            entry.disturbed = disturbance(run, config.cost.max_other_load) if entry.kind == "run" else ""
        self.save()
        return result if result and result.status == "finished" else None

    def exclude(self, entry: LadderEntry) -> None:
        """Exclude the rung of an entry that failed: drop its other entries of the same kind, and run no later ones."""
        reason = self.excluded[entry.rung] = f"{entry.status.replace('_', ' ')}: {entry.reason}"
        for other in self.ladder.entries:
            if (other.rung, other.kind) == (entry.rung, entry.kind) and other is not entry and not other.is_done:
                self.drop(other, reason)
        self.warn("ladder.rung_excluded", f"{entry.rung} is not run: {reason}")

    def drop(self, entry: LadderEntry, reason: str) -> None:
        """Leave out an entry; its run is stopped if this process started it and follows it."""
        entry.status, entry.reason = "skipped", reason
        run = self.run_of(entry)
        if entry.run and run.path in self.started and run.is_active():
            self.dropped.add(run.path)  # its own thread stops it
        self.save()

    def _find_or_create(self, entry: LadderEntry, config: Config) -> tuple[RunDir, bool]:
        """The entry's run, and whether it was created now."""
        config, work = self.with_metric(config), self.ladder.work
        with locks.exclusive(self.dir.runs):  # else two ladders could both find nothing and start the same run
            self.index_runs()
            if run := self._existing(entry, config):
                if run.state() in ("stopped", "died"):  # when resumed, it reads files from the ladder's current paths
                    ours, theirs = flatten(config), flatten(run_dir.read_frozen(run).config)
                    if moved := {key: ours[key] for key in RELOCATABLE_KEYS if ours[key] != theirs[key]}:
                        change_configuration(run, moved, lambda config: None)
                return run, False

            if entry.status == "finished":
                exists = (self.dir.runs / entry.run).exists()
                why = "used other data, library versions or threads" if exists else "was deleted"
                self.warn("ladder.run_not_reusable", f"{entry.run} {why}: {entry.rung} is run again")
            origins = dict.fromkeys(flatten(config), f"{LADDER_ORIGIN}{self.dir.name}")
            if work and work.metric_reason:
                origins["evaluation.metric"] += f", automatic: {work.metric_reason}"
            preset = without_method(preset_name(self.ladder.preset))
            run = run_dir.create(
                self.dir.probes if entry.kind == "probe" else self.dir.runs,
                f"{preset}-{entry.rung}" if entry.rung != config.method else preset,
                EffectiveConfig(config, origins),
                identity=self.identity(config),
                data_fingerprint=work.fingerprints.get("data", "") if work else "",
                started_in=self.ladder.started_in,
            )
            entry.run, entry.status = str(run.path.relative_to(self.dir.runs)), "planned"
            entry.reason, entry.reused = "", False
            self.save()
            return run, True

    def with_metric(self, config: Config) -> Config:
        """The configuration with the ladder's metric, which is decided once for all runs."""
        return with_settings(config, {"evaluation.metric": self.ladder.work.metric}) if self.ladder.work else config

    def identity(self, config: Config, machine: dict[str, Any] | None = None) -> str:
        """The identity of a run with this configuration on a machine (None: this one), by which runs are found."""
        fingerprints = self.ladder.work.fingerprints if self.ladder.work else {}
        machine = self.ladder.machine if machine is None else machine
        return identity(self.with_metric(config), fingerprints, self.ladder.versions, machine)

    def has_finished(self, entry: LadderEntry, config: Config) -> bool:
        """Whether a finished run with this configuration would be reused."""
        run = self._existing(entry, config)
        return run is not None and run.state() == "finished"

    def _existing(self, entry: LadderEntry, config: Config) -> RunDir | None:
        """The latest run with this identity: undisturbed, else finished, running, resumable, failed.

        If there is none, the entry's own run that differs only by the machine: a ladder can be resumed on another
        machine. The run's scores count; timings are compared within a device only (`note_other_devices`).
        """
        own, allowed = self.dir.runs / entry.run if entry.run else None, config.cost.max_other_load
        usable_fresh = {own, *self.started}
        runs = self.runs_by_identity.get(self.identity(config), [])
        runs = [run for run in runs if not self.fresh or run.path in usable_fresh]
        states = {run.path: run.state() for run in runs}
        latest_first = [run for run in reversed(runs) if states[run.path] == "finished"]
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

        if self.fresh or own is None:
            return None
        run = RunDir(own)
        try:
            recorded = _IDENTITY.search(read_regular(run.config_file, MAX_SETTINGS_BYTES))
            logged = (event for event in stream(run.events_file, Environment) if isinstance(event, Environment))
            place = next(logged, None)
            if recorded is None or place is None or run.state() not in ("finished", "stopped", "died"):
                return None
        except OSError:
            return None  # deleted
        same_work = self.identity(config, place.machine) == recorded.group(1).decode()
        return run if place.machine != self.ladder.machine and same_work else None

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
            if entry.kind != "probe":
                run_hooks.started(run)
        except RunFailed as error:
            entry.reason = str(error)

    def _wait(self, entry: LadderEntry, run: RunDir) -> None:
        """Wait until the run's worker exits. Stopping the ladder stops only a run that it started itself."""
        forwarded, deadline = False, time.monotonic() + STARTUP_SECONDS
        if entry.status not in ("live", "skipped"):
            entry.status, entry.started = "live", time.time()  # already running when it was found
            self.save()
        while run.is_active() or (run.state() == "starting" and time.monotonic() < deadline):
            if self.stopping.requested and entry.reused and run.path not in self.started:
                break
            if (self.stopping.requested or run.path in self.dropped) and not forwarded:
                forwarded = start.try_to_stop(run)
            job = run.job_state()
            text = job.text if job is not None and job.is_waiting else ""  # what its job waits for
            if text != entry.progress:
                entry.progress, entry.started = text, None if text else time.time()
                self.save()
            time.sleep(POLL_SECONDS)
            for worker in self.workers:
                worker.poll()
        entry.progress = ""
        self.stopping.check()
