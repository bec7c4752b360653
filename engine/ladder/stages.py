"""The stages of a ladder besides its runs: timing probes, learning-rate trials and exports."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import msgspec

from engine.config import quantities
from engine.config.device_defaults import answers_together
from engine.config.errors import RunFailed, UserError
from engine.config.files import read_item_lines
from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.config.settings import with_settings
from engine.ladder.phrases import rung_title
from engine.ladder.results import worked_seconds
from engine.ladder.runner import LadderRunner, PlannedRun
from engine.runs.ladder.ladder_state import (
    REDUCTION,
    LadderEntry,
    LadderPlan,
    Rung,
    RungDuration,
    SharedWork,
    artifact_of,
    round_sizes,
)
from engine.runs.rpc_client import Cancelled, CancelToken, ask
from engine.runs.run.event_log import stream
from engine.runs.run.events import Step
from engine.runs.run.exports import (
    Artifact,
    Fidelity,
    export_arguments,
    exports_folder,
    read_fidelity,
    read_item_scores,
    remove_unfinished,
)
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import StopRequest, StopRequested

PROBE_STEPS = 4
"""The first step warms up and is not timed."""


def probe_config(config: Config, device: str) -> Config:
    """A few steps and one batch of answers; an upper bound, because an untrained model generates longer answers.

    `device`: cpu or cuda. The batch is the largest that the run may decide on: fewer rows take as long on a GPU.
    """
    batch = answers_together(config.evaluation.batch, device)
    rows = min(batch, config.evaluation.rows or batch)
    return with_settings(
        config,
        {
            "train.steps": PROBE_STEPS,
            "train.evaluate_every": PROBE_STEPS + 1,
            "train.select": "last",
            "train.patience": None,
            "train.checkpoint_every": PROBE_STEPS + 1,
            "train.probe": False,  # the worker's own memory probe would take half as long again
            "evaluation.when": "after",
            "evaluation.rows": rows,
            "evaluation.forgetting_text": "none",
            "evaluation.benchmarks": [],
            "track.to": [],
        },
    )


def duration(rung: Rung, probe: RunDir, result: Result, work: SharedWork) -> RungDuration:
    """The expected duration of a rung's runs, from its timing probe."""
    events = stream(probe.events_file, Step)
    steps = [event.seconds for event in events if isinstance(event, Step)][1:] or [result.step_seconds]
    scored_items = result.after.score.rows if result.after else 0
    scoring = result.seconds.get("evaluation", 0.0)
    overhead = max(0.0, worked_seconds(result) - scoring - result.step_seconds)
    return RungDuration(
        rung=rung.name,
        low=overhead + work.steps * min(steps),
        high=overhead + work.steps * max(steps) + scoring * max(1.0, work.test / max(1, scored_items)),
        step_seconds=median(steps),
        steps_measured=len(steps),
    )


MIN_STEPS = 4
"""The shortest trial, in optimizer steps."""


def rate_grid(rate: float, count: int) -> list[float]:
    """`count` rates around `rate`, half a decade apart, rounded to two digits; an even count has one more above it."""
    below = (count - 1) // 2
    rates = [_rounded(rate * 10 ** ((place - below) / 2)) if place != below else rate for place in range(count)]
    return [min(value, 1.0) for value in rates]


def halving_rounds(count: int, steps: int) -> list[tuple[int, int | None]]:
    """(rates, steps of a trial) of each round of successive halving; None: all steps, as in the last round.

    A third of the rates, at least two, is left after each round, whose trials are three times as long as those before
    (Jamieson and Talwalkar 2016, arXiv:1502.07943). Up to three rates are compared in one round of complete trials.
    """
    sizes = round_sizes(count)
    shares = [REDUCTION ** (len(sizes) - 1 - number) for number in range(len(sizes))]
    lengths = [None if share == 1 else max(MIN_STEPS, steps // share) for share in shares]
    return list(zip(sizes, lengths, strict=True))


def best_trials(trials: Sequence[LadderEntry]) -> list[LadderEntry]:
    """The trials with a validation loss, the lowest first."""
    finished = [trial for trial in trials if trial.status == "finished" and trial.validation_loss is not None]
    return sorted(finished, key=lambda trial: trial.validation_loss or 0.0)


def is_grid_edge(chosen: float, rates: Sequence[float]) -> bool:
    """Whether the best rate is the lowest or highest of the grid: a wider grid may have a better one."""
    return len(rates) > 1 and chosen in (min(rates), max(rates))


def _rounded(value: float) -> float:
    digits = 1 - math.floor(math.log10(value))
    return round(value, digits)


def equal_rates_warning(plan: LadderPlan) -> str:
    """A warning where methods that need different learning rates get the same one; '' otherwise."""
    rates = {rung.config.train.learning_rate for rung in plan.rungs}
    kinds = {method_spec(rung.method).trains for rung in plan.rungs}
    if len(kinds) > 1 and len(rates) == 1 and plan.learning_rates == 1:
        return "all rungs use the same learning rate: full fine-tuning needs about a tenth of LoRA's"
    return ""


@dataclass(frozen=True)
class RateTrials:
    """The trials of one ladder, in rounds of successive halving; the test rows are not used."""

    runner: LadderRunner
    plan: LadderPlan
    execute: Callable[[Sequence[PlannedRun]], Iterator[tuple[PlannedRun, Result | None]]]
    """Runs all and yields each with its result."""
    configure: Callable[[Rung, int, float, str], Config]
    """The configuration of a rung's run with a seed, a rate and a value of `evaluation.when`."""
    failed: Callable[[Rung, LadderEntry], None]
    """Called with the entry of a trial that gave no result."""

    def list_entries(self) -> None:
        """Add an entry for every trial of the first round."""
        for rung in self.plan.rungs if self.plan.learning_rates > 1 else []:
            self._entries(rung, self._grid(rung), self._rounds()[0][1])

    def choose_rates(self) -> dict[str, str]:
        """Run the trials and mark the best one of each rung. Returns rung -> why no rate worked."""
        all_rates = {rung.name: self._grid(rung) for rung in self.plan.rungs}
        rates, trials = dict(all_rates), dict[str, list[LadderEntry]]()
        for size, steps in self._rounds():
            if trials:
                best = {name: best_trials(done)[:size] for name, done in trials.items()}
                rates = {name: [trial.learning_rate for trial in left] for name, left in best.items()}
            trials = {rung.name: self._entries(rung, rates[rung.name], steps) for rung in self.plan.rungs}
            self._run(trials)
        reasons = {}
        for rung in self.plan.rungs:
            if reason := self._choose(rung, trials[rung.name], all_rates[rung.name]):
                reasons[rung.name] = reason
            self.runner.save()
        return reasons

    def rate(self, rung: Rung) -> float:
        """The chosen rate of a rung; before it is chosen, and without trials, that of its configuration."""
        chosen = next((e for e in self.runner.ladder.entries if e.rung == rung.name and e.chosen), None)
        return chosen.learning_rate if chosen else rung.config.train.learning_rate

    def config(self, rung: Rung, trial: LadderEntry) -> Config:
        """The configuration of a trial."""
        config = self.configure(rung, trial.seed, trial.learning_rate, "never")
        return config if trial.steps is None else with_settings(config, {"train.steps": trial.steps})

    def _grid(self, rung: Rung) -> list[float]:
        return rate_grid(rung.config.train.learning_rate, self.plan.learning_rates)

    def _rounds(self) -> list[tuple[int, int | None]]:
        """(rates, steps) of each round of trials."""
        work = self.runner.ladder.work
        return halving_rounds(self.plan.learning_rates, work.steps if work else 1)

    def _run(self, trials: dict[str, list[LadderEntry]]) -> None:
        runs = [
            PlannedRun(trial, rung, partial(self.config, rung, trial))
            for rung in self.plan.rungs
            for trial in trials[rung.name]
        ]
        for run, result in self.execute(runs):
            if result is None:
                self.failed(run.rung, run.entry)

    def _choose(self, rung: Rung, trials: list[LadderEntry], rates: list[float]) -> str:
        """Mark the best of the trials of the last round; returns why no rate worked, else ''."""
        chosen = next(iter(best_trials(trials)), None)
        if chosen is None:
            tried = [entry for entry in self.runner.ladder.entries if (entry.rung, entry.kind) == (rung.name, "trial")]
            reason = next((entry.reason for entry in tried if entry.reason), "no trial has a finite loss")
            return f"no learning rate worked: {reason}"
        for trial in trials:
            trial.chosen = trial is chosen
        if is_grid_edge(chosen.learning_rate, rates):
            best = quantities.rate(chosen.learning_rate)
            text = f"{rung.name}: the best learning rate, {best}, is at the end of the grid; "
            text += "one beyond it may be better (--learning-rates 5 tries more)"
            self.runner.warn("ladder.rate_at_edge", text)
        return ""

    def _entries(self, rung: Rung, rates: Sequence[float], steps: int | None) -> list[LadderEntry]:
        """The trials of a rung at these rates, of this many steps."""
        seed = self.plan.seeds[-1] + 1  # not compared: the best of several rates would be partly luck of its seed
        return [
            self.runner.entry(LadderEntry(rung=rung.name, kind="trial", seed=seed, learning_rate=rate, steps=steps))
            for rate in rates
        ]


SAVE_SECONDS = 1.0
"""Minimum time between two updates of an export's progress in `ladder.json`."""
STOP_POLL_SECONDS = 0.2


def require_gguf_tools(plan: LadderPlan) -> None:
    """Raises UserError if the plan has GGUF artifacts and this machine has no tools for them."""
    artifacts = [parts[1] for name in plan.ship if (parts := artifact_of(name))]
    if any(artifact.kind == "gguf" for artifact in artifacts):
        ask("export.tools", {})


@dataclass
class ArtifactExports:
    """Exports the artifacts of a plan. An artifact that exists with scores for all test items is reused."""

    runner: LadderRunner
    plan: LadderPlan

    def list_entries(self) -> None:
        """Add an entry for every export; one whose artifact was deleted since is planned again."""
        for name in self.plan.ship:
            artifact = artifact_of(name)
            for seed in self.plan.seeds:
                entry = self._entry(name, seed)
                run = RunDir((self.runner.dir.runs / entry.run).parent.parent)
                if entry.status == "finished" and not (artifact and scored_export(run, artifact[1])):
                    entry.status, entry.reason = "planned", ""

    def export(self) -> Iterator[LadderEntry]:
        """Export the artifacts one after another and yield the entry of each.

        A failed export is reported and does not end the ladder; the same artifact of other seeds is skipped. Raises
        StopRequested if the ladder was stopped.
        """
        for name in self.plan.ship:
            failed = ""
            for seed in self.plan.seeds:
                self.runner.stopping.check()
                entry = self._entry(name, seed)
                if failed:
                    entry.status, entry.reason = "skipped", failed
                else:
                    self._export(entry)
                    failed = entry.reason if entry.status == "failed" else ""
                self.runner.save()
                yield entry

    def _entry(self, name: str, seed: int) -> LadderEntry:
        return self.runner.entry(LadderEntry(rung=name, kind="export", seed=seed, learning_rate=0.0))

    def _export(self, entry: LadderEntry) -> None:
        parts = artifact_of(entry.rung)
        assert parts is not None
        rung, artifact = parts
        entries = self.runner.ladder.entries
        source = next(e for e in entries if (e.rung, e.kind, e.seed) == (rung, "run", entry.seed))
        entry.learning_rate = source.learning_rate
        if source.status != "finished":
            entry.status, entry.reason = "skipped", f"{rung} has no finished run with seed {entry.seed}"
            return
        run = RunDir(self.runner.dir.runs / source.run)
        folder = exports_folder(run) / artifact.folder
        entry.run = str(folder.relative_to(self.runner.dir.runs))
        fidelity = scored_export(run, artifact)
        entry.reused = fidelity is not None and (entry.reused or entry.status != "finished")
        try:
            self._record(entry, fidelity or self._ask(entry, run, artifact))
        except (UserError, RunFailed) as error:
            entry.status = "failed"
            entry.reason = error.line if isinstance(error, UserError) else str(error)
            self.runner.warn("ladder.export_failed", f"{rung_title(entry.rung)}, seed {entry.seed}: {entry.reason}")

    def _ask(self, entry: LadderEntry, run: RunDir, artifact: Artifact) -> Fidelity:
        """Export in a new process, which a stop request ends. Raises StopRequested, and UserError and RunFailed."""
        entry.status, entry.reason, entry.progress = "live", "", ""
        self.runner.save()
        print(f"[{time.strftime('%H:%M:%S')}] export {entry.rung} seed {entry.seed}: {entry.run}", flush=True)
        question = export_arguments(
            run, artifact.kind, artifact.requested_type, margin=self.plan.margin, overwrite=True
        )
        saved = 0.0

        def progress(text: str, done: int | None = None, total: int | None = None) -> None:
            nonlocal saved
            entry.progress = text if done is None or total is None else f"{text} {done}/{total}"
            if time.monotonic() - saved >= SAVE_SECONDS:
                saved = time.monotonic()
                self.runner.save()

        token = CancelToken()
        try:
            with _cancelled_by(self.runner.stopping, token):
                answer = ask("export", question, progress, token, counted=progress)
        except Cancelled as error:
            remove_unfinished(run)
            entry.status, entry.run = "planned", ""
            raise StopRequested from error
        finally:
            entry.progress = ""
        return msgspec.convert(answer["fidelity"], Fidelity)

    def _record(self, entry: LadderEntry, fidelity: Fidelity) -> None:
        entry.status, entry.reason, entry.seconds = "finished", "", fidelity.write_seconds
        for defect in fidelity.defects:
            text = f"{rung_title(entry.rung)}, seed {entry.seed}, has a defect: {defect.text}"
            self.runner.warn("ladder.artifact_defect", text)


def scored_export(run: RunDir, artifact: Artifact) -> Fidelity | None:
    """The check of an artifact of the run that exists with a score for each of its test items, else None."""
    folder = exports_folder(run) / artifact.folder
    try:
        fidelity, scored = read_fidelity(folder), len(read_item_scores(folder))
        items = len(read_item_lines(run.predictions_file))
    except (UserError, OSError):
        return None
    return fidelity if fidelity.run == run.name and scored == items > 0 else None


@contextlib.contextmanager
def _cancelled_by(stopping: StopRequest, token: CancelToken) -> Iterator[None]:
    """Cancel a request of this thread as soon as a stop is requested."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(STOP_POLL_SECONDS):
            if stopping.requested:
                token.cancel()
                return

    watcher = threading.Thread(target=watch, daemon=True, name="watch for a stop request")
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
