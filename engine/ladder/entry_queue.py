"""The order in which a ladder's runs are executed: as many at a time as they have devices, or all as jobs of Slurm.

On this machine the device queue gives each run a device that is free; more runs would only wait for each other. In
Slurm all runs of a stage are tasks of one job array, so that the cluster sees how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice

from engine.config.errors import RunFailed, UserError
from engine.config.schema import Config
from engine.executors.slurm import submit_array
from engine.hardware.devices import device_settings, runs_at_once
from engine.ladder.runner import LadderRunner
from engine.runs.ladder import LadderEntry
from engine.runs.result import Result
from engine.runs.run_dir import RunDir
from engine.runs.rungs import Rung
from engine.runs.tracking import start_configured


@dataclass(frozen=True)
class PlannedRun:
    """A run that is to be executed."""

    entry: LadderEntry
    rung: Rung
    configure: Callable[[], Config]
    """Called when its turn comes, because settings can depend on the runs before it."""


class EntryQueue:
    """Executes the runs of one stage."""

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
                    yield from self._ended(waiting)
            except BaseException:
                self.runner.stopping.ask()  # each thread stops its run
                raise

    @staticmethod
    def _ended(waiting: dict[Future[Result | None], PlannedRun]) -> Iterator[tuple[PlannedRun, Result | None]]:
        """Wait until one of the runs has ended; remove and yield those that have."""
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield waiting.pop(future), future.result()

    def _as_jobs(self, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Result | None]]:
        runs = [run for run in runs if not self.excluded(run.rung)]
        configs = [run.configure() for run in runs]
        self._submit(runs, configs)
        with ThreadPoolExecutor(max(1, len(runs)), "follow run") as threads:
            waiting: dict[Future[Result | None], PlannedRun] = {}
            for run, config in zip(runs, configs, strict=True):
                waiting[threads.submit(self.runner.run_entry, run.entry, config, run.rung)] = run
            try:
                while waiting:
                    yield from self._ended(waiting)
            except BaseException:
                self.runner.stopping.ask()  # each thread stops its run
                raise

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
            start_configured(run)
            print(f"submitted {run.name} as Slurm job {job.id}", flush=True)
