"""Runs the ladders of a sweep one after another: shares runs and the base model, estimates the time, keeps a budget."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.quantities import duration
from engine.config.schema import Config
from engine.config.settings import flatten
from engine.ladder import sweep_report
from engine.ladder.pipeline import LadderPipeline, load_or_create, run_to_outcome
from engine.ladder.runner import LadderRunner
from engine.ladder.sweep_results import summarize_sweep
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir
from engine.runs.ladder.ladder_state import BASE, BASE_4BIT, Ladder, Outcome
from engine.runs.ladder.sweep import Sweep, SweepCell, SweepPlan, SweepStage, cell_text
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import StopRequest, StopRequested

SHARED_FINGERPRINTS = ("test", "model", "general")
SHARED_MACHINE = ("device", "cpu", "threads", "cuda")


def base_key(config: Config, ladder: Ladder) -> str:
    """SHA-256 of everything that affects the score of the base model."""
    flat = flatten(config)
    quantized = method_spec(config.method).quantizes_base
    sections = ("model.", "evaluation.", *(("quantization.",) if quantized else ()))
    settings = {key: value for key, value in flat.items() if key.startswith(sections) and key != "evaluation.when"}
    settings |= {"train.max_length": flat["train.max_length"], "quantized": quantized}
    work = ladder.work
    prints = {name: work.fingerprints.get(name, "") for name in SHARED_FINGERPRINTS} if work else {}
    machine = {name: ladder.machine.get(name) for name in SHARED_MACHINE}
    parts: list[Any] = [settings, prints, ladder.versions, machine]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _scored_bases(folder: LadderDir) -> dict[str, str]:
    """Key -> run, for each base model that a finished run of this ladder scored; none in a damaged ladder."""
    try:
        ladder, rungs = folder.state(), {rung.name: rung for rung in folder.plan().rungs}
    except UserError:
        return {}
    bases: dict[str, str] = {}
    for entry in ladder.entries if ladder else []:
        if ladder and entry.kind == "run" and entry.status == "finished" and entry.rung in rungs:
            try:
                result = RunDir(folder.runs / entry.run).result()
            except UserError:
                continue
            if result and result.before:
                bases.setdefault(base_key(rungs[entry.rung].config, ladder), entry.run)
    return bases


DONE = ("finished", "failed")
"""Statuses of cells with nothing left to do in this process. A failed one is tried again when the sweep is resumed."""


@dataclass
class SweepRunner:
    """A sweep's state, and the ladders that this process runs for it."""

    dir: SweepDir
    plan: SweepPlan
    sweep: Sweep
    stopping: StopRequest
    started: set[Path] = field(default_factory=set)
    """Runs that the ladders of this sweep started; they are shared also with --fresh."""

    def run(self) -> None:
        """Measure the time of all cells, run them, and write the report. Raises StopRequested and UserError."""
        self._enter("measuring")
        for cell in self.sweep.cells:
            if cell.status not in DONE:
                print(f"measuring {cell_text(cell.values)}", flush=True)
                self._finish(cell, LadderPipeline.measure)
                self.save()
        self._refuse_if_all_failed()
        self._add_up_estimates()
        self._enter("running")
        for number, cell in enumerate(self.sweep.cells):
            if cell.status in DONE:
                continue
            if why := self._over_budget(cell):
                self._leave_out(self.sweep.cells[number:], why)
                break
            self._run_cell(cell)
        self.summarize()
        self.sweep.status, self.sweep.stage, self.sweep.reason = "finished", "done", ""
        self.save()

    def _refuse_if_all_failed(self) -> None:
        """Raise UserError with the reason of the first cell if none can be run."""
        if all(cell.status == "failed" for cell in self.sweep.cells):
            first = self._folder(self.sweep.cells[0]).state()
            raise UserError(self.sweep.cells[0].reason, code=(first and first.reason_code) or "sweep.refused")

    def save(self) -> None:
        self.dir.write_state(self.sweep)

    def summarize(self) -> None:
        """Compute points, trends and sentences from the ladders, and write the report."""
        ladders = [self._folder(cell).state() for cell in self.sweep.cells]
        summarize_sweep(self.sweep, ladders)
        sweep_report.write(self.dir, self.sweep)

    def _enter(self, stage: SweepStage) -> None:
        self.stopping.check()
        self.sweep.stage = stage
        self.save()
        print(f"sweep: {stage}", flush=True)

    def _folder(self, cell: SweepCell) -> LadderDir:
        return self.dir.ladder(cell.ladder)

    def _finish(self, cell: SweepCell, work: Callable[[LadderPipeline], None]) -> Outcome:
        """Do work for the cell's ladder; a failure is recorded in both. Raises StopRequested if it was stopped.

        Returns `running` if work is left.
        """
        with self._pipeline(cell) as pipeline:
            ladder = pipeline.runner.ladder
            outcome, reason = run_to_outcome(partial(work, pipeline), ladder, pipeline.runner.dir)
            if outcome in ("stopped", "failed"):
                ladder.status, ladder.reason, cell.status, cell.reason = outcome, reason, outcome, reason
            elif outcome == "running":  # it is continued later: until then no process works on it
                ladder.status, ladder.reason = "stopped", f"waits for the sweep {self.dir.name}"
            pipeline.runner.save()
        if outcome == "stopped":
            raise StopRequested(reason)
        return outcome

    def _add_up_estimates(self) -> None:
        """Expected seconds of each cell: every run counts once, in the first cell that has it."""
        counted: set[str] = set()
        total = [0.0, 0.0]
        self.sweep.runs = 0
        for cell in self.sweep.cells:
            if cell.status in DONE:
                continue
            with self._pipeline(cell) as pipeline:
                pending = {
                    key: duration_of_run
                    for key, duration_of_run in pipeline.pending_runs().items()
                    if key not in counted
                }
                counted |= pending.keys()
                self.sweep.runs += len(pending)
                known = [duration_of_run for duration_of_run in pending.values() if duration_of_run is not None]
                complete, at_once = len(known) == len(pending), max(1, pipeline.runner.ladder.runs_at_once)
                cell.low = sum(duration_of_run.low for duration_of_run in known) / at_once if complete else None
                cell.high = sum(duration_of_run.high for duration_of_run in known) / at_once if complete else None
                total = [total[0] + (cell.low or 0.0), total[1] + (cell.high or 0.0)]
        complete = all(cell.high is not None for cell in self.sweep.cells if cell.status not in DONE)
        spent = self.sweep.spent
        self.sweep.low, self.sweep.high = (spent + total[0], spent + total[1]) if complete else (None, None)
        self.save()

    def _over_budget(self, cell: SweepCell) -> str:
        """Why the budget does not suffice for this cell; '' if it does. Without an estimate: the longest cell.

        A cell whose runs all exist is always finished.
        """
        budget, spent = self.sweep.budget, self.sweep.spent
        if budget is None or cell.high == 0:
            return ""
        longest = max((other.seconds for other in self.sweep.cells if other.status == "finished"), default=None)
        expected = cell.high if cell.high is not None else longest
        if spent + (expected or 0.0) <= budget:
            return ""
        parts = f"{duration(spent)} spent" + (f", {duration(expected)} expected" if expected else "")
        return f"the budget of {duration(budget)} would be exceeded ({parts})"

    def _leave_out(self, cells: list[SweepCell], why: str) -> None:
        for cell in cells:
            if cell.status not in DONE:
                cell.status, cell.reason = "missing", why
        self.save()

    def _run_cell(self, cell: SweepCell) -> None:
        print(f"running {cell_text(cell.values)}: {cell.ladder}", flush=True)
        cell.status, cell.reason = "live", ""
        self.save()
        cell.status = self._finish(cell, LadderPipeline.run)
        self.save()
        self.summarize()

    @contextlib.contextmanager
    def _pipeline(self, cell: SweepCell) -> Iterator[LadderPipeline]:
        """The pipeline of the cell's ladder, whose lock is held; adds the time that it took to the cell."""
        folder = self._folder(cell)
        plan = folder.plan()
        lock = folder.acquire(str(os.getpid()))
        if lock is None:
            hint = f"`ftbench stop {folder.argument}` stops it"
            raise UserError("ladder is already running", folder.name, hint, code="ladder.already_running")
        since = time.monotonic()
        try:
            ladder = load_or_create(folder, plan)
            runner = LadderRunner(
                folder, ladder, StopRequest(self.stopping), plan.fresh, plan.retime, started=self.started
            )
            folder.reserve_end()
            yield LadderPipeline(runner, plan, share_bases=lambda pipeline: self._share_bases(cell, pipeline))
        finally:
            cell.seconds += time.monotonic() - since
            os.close(lock)

    def _share_bases(self, cell: SweepCell, ladder: Ladder) -> None:
        """Fill in `base_runs` with runs of other ladders that scored the same base model on the same test rows."""
        needed = {base_key(rung.config, ladder): rung for rung in self._folder(cell).plan().rungs}
        for other in self.sweep.cells:
            for key, run in _scored_bases(self._folder(other)).items() if other is not cell else ():
                if key in needed:
                    name = BASE_4BIT if method_spec(needed[key].method).quantizes_base else BASE
                    ladder.base_runs.setdefault(name, run)


def run_sweep(folder: SweepDir) -> tuple[Outcome, str]:
    """Start or resume the sweep; returns (status, reason). Raises UserError if its files are damaged."""
    plan = folder.plan()
    stopping = StopRequest()
    stopping.listen()
    folder.reserve_end()
    runner = SweepRunner(folder, plan, _load_or_create(folder, plan), stopping)
    for cell in plan.cells:  # what its ladders started before it was resumed
        state = folder.ladder(cell.ladder).state()
        runner.started |= {folder.runs / e.run for e in (state.entries if state else []) if e.run and not e.reused}
    runner.save()
    status, reason = run_to_outcome(runner.run, runner.sweep, folder)
    if status in ("stopped", "failed"):
        runner.sweep.status, runner.sweep.reason = status, reason
        with contextlib.suppress(UserError):  # a ladder is damaged, which is the reason already
            runner.summarize()
        runner.save()
    return status, reason


def _load_or_create(folder: SweepDir, plan: SweepPlan) -> Sweep:
    """The stored state, or a new one; missing, stopped and failed cells are planned again."""
    sweep = folder.state() or Sweep(
        name=folder.name,
        preset=plan.preset,
        command=plan.command,
        created=plan.created,
        axes=plan.axes,
        budget=plan.budget,
        cells=[SweepCell(values=cell.values, ladder=cell.ladder) for cell in plan.cells],
    )
    sweep.started_in = plan.started_in
    sweep.status, sweep.stage, sweep.reason, sweep.reason_code = "running", "planned", "", ""
    for cell in sweep.cells:
        if cell.status != "finished":
            cell.status, cell.reason = "planned", ""
    return sweep
