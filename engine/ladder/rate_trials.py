"""Learning-rate trials of a ladder: each rung's rate is chosen by the loss on the validation rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from engine.config import quantities
from engine.config.preset import with_settings
from engine.config.schema import Config
from engine.ladder.entry_queue import PlannedRun
from engine.ladder.rates import best_rates, best_trial, halving_rounds, is_grid_edge, rate_grid
from engine.ladder.runner import LadderRunner
from engine.runs.ladder import LadderEntry
from engine.runs.result import Result
from engine.runs.rungs import LadderPlan, Rung


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
                rates = {name: best_rates(done, size) for name, done in trials.items()}
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
        chosen = best_trial(trials)
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

    def _seed(self) -> int:
        """A seed that is not compared: the best of several rates would be partly luck of its seed.

        A ladder of an earlier version continues with the seed that its trials have.
        """
        known = (entry.seed for entry in self.runner.ladder.entries if entry.kind == "trial")
        return next(known, self.plan.seeds[-1] + 1)

    def _entries(self, rung: Rung, rates: Sequence[float], steps: int | None) -> list[LadderEntry]:
        """The trials of a rung at these rates, of this many steps."""
        seed = self._seed()
        return [
            self.runner.entry(LadderEntry(rung=rung.name, kind="trial", seed=seed, learning_rate=rate, steps=steps))
            for rate in rates
        ]
