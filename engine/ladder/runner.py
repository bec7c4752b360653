"""Runs the rungs one after another as ordinary runs, finds done what is done, and goes on where it was stopped."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import RunFailed, UserError
from engine.config.preset import Effective, flatten
from engine.config.preset_library import called
from engine.config.schema import Config
from engine.config.split_version import OLDEST, versions_differ
from engine.ladder.identity import identity, index, split_otherwise
from engine.runs import launch, locks, run_dir
from engine.runs.events import Step
from engine.runs.follow import last_line, stream
from engine.runs.ladder import Ladder, LadderRun, Rung
from engine.runs.ladder_dir import LadderDir
from engine.runs.result import Result
from engine.runs.run_dir import RunDir
from engine.runs.stop_request import StopRequest, StopRequested

POLL_SECONDS = 0.2
MOST_DEATHS = 3
"""A worker that dies this often without a step between is left dead."""
NOT_WORK = ("waiting", "baseline")
"""Phases that not every rung has."""
FINAL = ("out_of_memory", "diverged", "failed")


@dataclass
class LadderRunner:
    """The state of the ladder that this process is."""

    dir: LadderDir
    ladder: Ladder
    stopping: StopRequest
    fresh: bool
    known: dict[str, list[RunDir]] = field(default_factory=dict)
    begun: set[Path] = field(default_factory=set)
    """Runs that this process has started or resumed."""
    worker: launch.Worker | None = None
    """The process started last, to be reaped when it ends."""

    def look_around(self) -> None:
        """Learn which runs there are: this ladder's, earlier ones, and those that another ladder has begun."""
        self.known = index(self.dir.runs)
        for work, runs in index(self.dir.probes).items():
            self.known[work] = [*runs, *self.known.get(work, [])]

    def save(self) -> None:
        self.dir.write_state(self.ladder)

    def warn(self, text: str) -> None:
        if text not in self.ladder.warnings:
            self.ladder.warnings.append(text)
        print(f"warning: {text}", flush=True)

    def entry(self, wanted: LadderRun) -> LadderRun:
        """The entry of the same rung, kind, seed and rate, added where there is none."""
        for entry in self.ladder.entries:
            if _key(entry) == _key(wanted):
                return entry
        self.ladder.entries.append(wanted)
        return wanted

    def do(self, entry: LadderRun, config: Config, rung: Rung) -> Result | None:
        """The entry's result: found, or waited for, or run. None where there will be none; the entry says why.

        Raises StopRequested where the ladder or the run was asked to stop.
        """
        self.stopping.check()
        rule = self._split_version()
        work = identity(config, self._fingerprints(), self.ladder.versions, self.ladder.machine, rule)
        with locks.alone(self.dir.runs):  # two ladders that looked at once would both find nothing
            self.look_around()
            run, made = self._found(entry, work), False
            if run is None:
                run, made = self._create(entry, config, work, rung), True
        if made:
            self._start(entry, run)
        elif entry.run != (name := self._relative(run)):
            entry.run, entry.reused = name, True
            print(f"{entry.rung} seed {entry.seed}: {name} has done this work", flush=True)
        try:
            self._see_through(entry, run)
        except StopRequested:
            entry.status = "stopped" if run.state() == "stopped" else "planned"
            raise
        return self._settle(entry, run)

    def _found(self, entry: LadderRun, work: str) -> RunDir | None:
        """A run of equal fingerprint that is worth having: finished first, else one that can go on."""
        own = self.dir.runs / entry.run if entry.run else None
        runs = [run for run in self.known.get(work, []) if not self.fresh or run.path == own]
        states = {run.path: run.state() for run in runs}
        for wanted in (("finished",), ("live", "starting"), ("stopped", "died"), FINAL):
            for run in reversed(runs):
                # What failed elsewhere gets another try here, and what failed in an earlier life of this ladder too.
                usable = wanted != FINAL or (run.path == own and (run.path in self.begun or states[own] != "failed"))
                if states[run.path] in wanted and usable:
                    return run
        return None

    def _create(self, entry: LadderRun, config: Config, work: str, rung: Rung) -> RunDir:
        if entry.status == "finished":
            there = (self.dir.runs / entry.run).exists()
            gone = "ran under other data, libraries or threads" if there else "is gone"
            self.warn(f"{entry.run} {gone}: {entry.rung} is run again")
        origins = dict.fromkeys(flatten(config), f"ladder {self.dir.name}")
        folder = self.dir.probes if entry.kind == "probe" else self.dir.runs
        preset = re.sub(r"-(qlora|lora|full)$", "", called(self.ladder.preset))
        name = f"{preset}-{rung.name}" if rung.name != rung.method else preset
        self._name_split_otherwise(config)
        run = run_dir.create(
            folder,
            name,
            Effective(config, origins),
            work=work,
            split_version=self._split_version(),
            data_fingerprint=self._fingerprints().get("data", ""),
            started_in=self.ladder.started_in,
        )
        entry.run, entry.status, entry.reason, entry.reused = self._relative(run), "planned", "", False
        self.save()
        return run

    def _name_split_otherwise(self, config: Config) -> None:
        """Say why runs of the same settings are not reused."""
        mine = self._split_version()
        for run, version in split_otherwise(self.dir.runs, config, mine):
            self.warn(f"{run.name} is not reused: {versions_differ(version, mine)}")

    def _split_version(self) -> int:
        return self.ladder.work.split_version if self.ladder.work else OLDEST

    def _see_through(self, entry: LadderRun, run: RunDir) -> None:
        """Start or resume the run as often as it takes until it has an outcome."""
        deaths, reached = 0, -1
        while (state := run.state()) not in ("finished", *FINAL):
            self.stopping.check()
            if state == "damaged":
                entry.status, entry.reason = "failed", f"{run.name} is damaged or gone"
                return
            if state not in ("live", "starting"):
                if deaths >= MOST_DEATHS:
                    return
                self._start(entry, run)
            self._wait(entry, run)
            if run.state() == "died":
                step = _last_step(run)
                deaths, reached = (deaths + 1, reached) if step <= reached else (1, step)
            elif run.state() == "stopped":
                raise StopRequested(f"its run {run.name} was stopped")

    def _start(self, entry: LadderRun, run: RunDir) -> None:
        size = run.events_file.stat().st_size if run.events_file.exists() else 0
        entry.status = "live"
        self.begun.add(run.path)
        self.save()
        print(f"[{time.strftime('%H:%M:%S')}] {entry.kind} {entry.rung} seed {entry.seed}: {entry.run}", flush=True)
        self.worker = launch.launch(run)
        try:
            launch.wait_for_hello(run, self.worker, size)
        except RunFailed as error:
            entry.reason = str(error)

    def _wait(self, entry: LadderRun, run: RunDir) -> None:
        """Until nobody works on the run. A stop of the ladder is passed on to its run, not to another ladder's."""
        told, young = False, time.monotonic() + 2.0
        if entry.status != "live":
            entry.status = "live"
            self.save()
        while run.is_live() or (run.state() == "starting" and time.monotonic() < young):
            if self.stopping.asked and entry.reused and run.path not in self.begun:
                break
            if self.stopping.asked and not told:
                with contextlib.suppress(UserError, ProcessLookupError):  # it ended in this moment
                    launch.stop(run)
                told = True
            time.sleep(POLL_SECONDS)
            if self.worker:
                self.worker.poll()  # a child that ended must not stay a zombie
        self.stopping.check()

    def _settle(self, entry: LadderRun, run: RunDir) -> Result | None:
        """Write down how it ended."""
        try:
            result = run.result()
        except UserError as error:
            result, entry.reason = None, error.line
        if result is None:
            last = last_line(run.log_file)
            entry.status = "died"
            entry.reason = entry.reason or f"killed {MOST_DEATHS} times at the same place; last words: {last}"
        else:
            entry.status, entry.reason = result.status, result.reason
            entry.validation_loss = result.final_validation
            entry.seconds = worked_seconds(result)
        self.save()
        return result if result and result.status == "finished" else None

    def _fingerprints(self) -> dict[str, str]:
        return self.ladder.work.fingerprints if self.ladder.work else {}

    def _relative(self, run: RunDir) -> str:
        return str(run.path.relative_to(self.dir.runs))


def worked_seconds(result: Result) -> float:
    """All phases of a run but waiting for the card and scoring the base, which not every rung does."""
    return sum(seconds for phase, seconds in result.seconds.items() if phase not in NOT_WORK)


def worked_joules(result: Result) -> float | None:
    """What the card drew in the same phases."""
    drawn = [joules for phase, joules in result.joules.items() if phase not in NOT_WORK]
    return sum(drawn) if drawn else None


def with_values(config: Config, **sections: dict[str, Any]) -> Config:
    """The configuration with some values replaced: with_values(config, train={"seed": 1})."""
    changed = {name: msgspec.structs.replace(getattr(config, name), **values) for name, values in sections.items()}
    return msgspec.structs.replace(config, **changed)


def _key(entry: LadderRun) -> tuple[Any, ...]:
    return (entry.rung, entry.kind, entry.seed, entry.learning_rate if entry.kind == "trial" else None)


def _last_step(run: RunDir) -> int:
    return max((event.step for event in stream(run.events_file, Step) if isinstance(event, Step)), default=0)
