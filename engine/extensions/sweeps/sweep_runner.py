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
from engine.extensions.sweeps import sweep_report
from engine.extensions.sweeps.sweep import Sweep, SweepCell, SweepStage, cell_text
from engine.extensions.sweeps.sweep_dir import SweepDir
from engine.ladder.pipeline import LadderPipeline, load_or_create, run_to_outcome
from engine.ladder.runner import LadderRunner
from engine.runs.ladder.ladder_state import BASE, BASE_4BIT, Ladder, LadderPlan, Outcome
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


DONE = ("finished", "failed")
"""Statuses of cells with nothing left to do in this process. A failed one is tried again when the sweep is resumed."""


@dataclass
class SweepRunner:
    """A sweep's state, and the ladders that this process runs for it."""

    dir: SweepDir
    sweep: Sweep
    stopping: StopRequest
    started: set[Path] = field(default_factory=set)
    """Runs that the ladders of this sweep started; they are shared also with --fresh."""

    def run(self) -> None:
        """Measure the time of all cells, run them, and write the report. Raises StopRequested and UserError."""
        cells = self.sweep.cells
        self._enter("measuring")
        for cell in cells:
            if cell.status not in DONE:
                print(f"measuring {cell_text(cell.values)}", flush=True)
                self._finish(cell, LadderPipeline.measure)
                self.save()
        if all(cell.status == "failed" for cell in cells):
            first = self.dir.ladder(cells[0].ladder).state()
            raise UserError(cells[0].reason, code=(first and first.reason_code) or "sweep.refused")
        self._add_up_estimates()

        self._enter("running")
        over_budget = ""
        for cell in cells:
            if cell.status in DONE:
                continue
            over_budget = over_budget or self._over_budget(cell)
            if over_budget:
                cell.status, cell.reason = "missing", over_budget
                continue
            print(f"running {cell_text(cell.values)}: {cell.ladder}", flush=True)
            cell.status, cell.reason = "live", ""
            self.save()
            cell.status = self._finish(cell, LadderPipeline.run)
            self.save()
            self.summarize()
        self.summarize()
        self.sweep.status, self.sweep.stage, self.sweep.reason = "finished", "done", ""
        self.save()

    def save(self) -> None:
        self.dir.write_state(self.sweep)

    def summarize(self) -> None:
        """Compute points, trends and sentences from the ladders, and write the report."""
        ladders = [self.dir.ladder(cell.ladder).state() for cell in self.sweep.cells]
        sweep_report.summarize_sweep(self.sweep, ladders)
        sweep_report.write(self.dir, self.sweep)

    def _enter(self, stage: SweepStage) -> None:
        self.stopping.check()
        self.sweep.stage = stage
        self.save()
        print(f"sweep: {stage}", flush=True)

    def _finish(self, cell: SweepCell, work: Callable[[LadderPipeline], None]) -> Outcome:
        """Do work for the cell's ladder; a failure is recorded in both. Raises StopRequested if it was stopped.

        Returns `running` if work is left.
        """
        with self._pipeline(cell) as pipeline:
            ladder = pipeline.ladder
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
                pending = {key: expected for key, expected in pipeline.pending_runs().items() if key not in counted}
                counted |= pending.keys()
                self.sweep.runs += len(pending)
                known = [expected for expected in pending.values() if expected is not None]
                complete, at_once = len(known) == len(pending), max(1, pipeline.ladder.runs_at_once)
                cell.low = sum(expected.low for expected in known) / at_once if complete else None
                cell.high = sum(expected.high for expected in known) / at_once if complete else None
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

    @contextlib.contextmanager
    def _pipeline(self, cell: SweepCell) -> Iterator[LadderPipeline]:
        """The pipeline of the cell's ladder, whose lock is held; adds the time that it took to the cell."""
        folder = self.dir.ladder(cell.ladder)
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
            yield LadderPipeline(runner, plan, share_bases=lambda: self._share_bases(cell, ladder, plan))
        finally:
            cell.seconds += time.monotonic() - since
            os.close(lock)

    def _share_bases(self, cell: SweepCell, ladder: Ladder, plan: LadderPlan) -> None:
        """Fill in `base_runs` with runs of other ladders that scored the same base model on the same test rows."""
        needed = {base_key(rung.config, ladder): rung for rung in plan.rungs}
        for folder in (self.dir.ladder(other.ladder) for other in self.sweep.cells if other is not cell):
            try:
                other, rungs = folder.state(), {rung.name: rung for rung in folder.plan().rungs}
            except UserError:
                continue  # damaged
            for entry in other.entries if other else []:
                if other is None or (entry.kind, entry.status) != ("run", "finished") or entry.rung not in rungs:
                    continue
                try:
                    result = RunDir(folder.runs / entry.run).result()
                except UserError:
                    continue
                key = base_key(rungs[entry.rung].config, other)
                if result and result.before and key in needed:
                    name = BASE_4BIT if method_spec(needed[key].method).quantizes_base else BASE
                    ladder.base_runs.setdefault(name, entry.run)


def run_sweep(folder: SweepDir) -> tuple[Outcome, str]:
    """Start or resume the sweep; returns (status, reason). Raises UserError if its files are damaged."""
    plan = folder.plan()
    stopping = StopRequest()
    stopping.listen()
    folder.reserve_end()
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
    runner = SweepRunner(folder, sweep, stopping)
    for cell in sweep.cells:
        if cell.status != "finished":
            cell.status, cell.reason = "planned", ""
        state = folder.ladder(cell.ladder).state()  # runs started before the sweep was resumed
        runner.started |= {folder.runs / e.run for e in (state.entries if state else []) if e.run and not e.reused}
    runner.save()
    status, reason = run_to_outcome(runner.run, sweep, folder)
    if status in ("stopped", "failed"):
        sweep.status, sweep.reason = status, reason
        with contextlib.suppress(UserError):  # a ladder is damaged, which is the reason already
            runner.summarize()
        runner.save()
    return status, reason
