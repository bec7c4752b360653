"""A ladder from start to end, read top to bottom: survey, probes, trials of learning rates, runs, judgement, page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.ladder import report
from engine.ladder.aggregate import aggregate
from engine.ladder.rates import at_the_edge, choose, grid
from engine.ladder.runner import LadderRunner, with_values, worked_seconds
from engine.runs.events import Step
from engine.runs.follow import stream
from engine.runs.ladder import LadderPlan, LadderRun, Rung, RungDuration, SharedWork
from engine.runs.ladder_plan import differing, shared
from engine.runs.result import Result
from engine.runs.rpc_client import ask
from engine.runs.run_dir import RunDir

PROBE_STEPS = 4
"""The first one warms up and does not count."""
HOPELESS = ("out_of_memory", "failed", "died")
"""Outcomes that another seed would meet too."""


@dataclass
class LadderPipeline:
    """One ladder's way; every stage may be entered again after an interruption."""

    climb: LadderRunner
    plan: LadderPlan
    out: dict[str, str] = field(default_factory=dict)
    """Rung -> why it is not run any more."""

    def all(self) -> None:
        """Raises StopRequested, and UserError for what the data or the model is refused for."""
        self.survey()
        self.list_entries()
        self.probe()
        self.try_rates()
        self.runs()
        self.finish()

    def survey(self) -> None:
        """What all rungs do alike, from the data and the model themselves."""
        self._enter("preparing")
        ladder, plan = self.climb.ladder, self.plan
        question = {"config": msgspec.to_builtins(plan.rungs[0].config), "split_version": plan.split_version}
        found = ask("ladder.survey", question, print)
        ladder.work = msgspec.convert(found["work"], SharedWork)
        ladder.versions, ladder.machine = found["versions"], found["machine"]
        for notice in found["warnings"]:
            self.climb.warn(notice["text"])
        ladder.differs, ladder.config = differing(plan.rungs), shared(plan.rungs)
        if ladder.work.test == 0:
            do = "set data.test to a file of test rows or to a share, or give more rows"
            raise UserError("no test rows: a ladder has nothing to score", "data.test", do, code="ladder.no_test_rows")
        if ladder.work.validation == 0 and plan.learning_rates > 1:
            what = "no validation rows, and learning rates are chosen on them"
            raise UserError(what, "data.validation", "give more rows or a larger share, or leave --learning-rates out")
        rates = {rung.config.train.learning_rate for rung in plan.rungs}
        if {rung.method for rung in plan.rungs} >= {"lora", "full"} and len(rates) == 1 and plan.learning_rates == 1:
            self.climb.warn("all methods train at one learning rate: a full update wants about a tenth of an adapter's")

    def list_entries(self) -> None:
        """Everything that is going to be run, so that whoever looks sees all of it."""
        plan = self.plan
        for rung in plan.rungs if plan.probe else []:
            self._entry(rung, "probe", plan.seeds[0], rung.config.train.learning_rate)
        for rung in plan.rungs if plan.learning_rates > 1 else []:
            for rate in grid(rung.config.train.learning_rate, plan.learning_rates):
                self._entry(rung, "trial", plan.seeds[0], rate)
        for seed in plan.seeds:
            for rung in plan.rungs:
                self._entry(rung, "run", seed, rung.config.train.learning_rate)
        self.climb.save()

    def probe(self) -> None:
        """A few steps and one batch of answers of every rung: how long it will take, and whether it fits at all."""
        if not self.plan.probe:
            return
        self._enter("probing")
        ladder = self.climb.ladder
        for rung in self.plan.rungs:
            entry = self._entry(rung, "probe", self.plan.seeds[0], rung.config.train.learning_rate)
            result = self.climb.do(entry, probe_config(rung.config), rung)
            if result is None:
                self._give_up(rung, entry)
                continue
            ladder.estimates = [known for known in ladder.estimates if known.rung != rung.name]
            ladder.estimates.append(self._estimate(rung, entry, result))
            self.climb.save()

    def try_rates(self) -> None:
        """Each rung's own learning rate, by the loss on the validation rows; the test rows are not touched."""
        if self.plan.learning_rates == 1:
            return
        self._enter("tuning")
        for rung, trials in self._trials():
            for trial in trials:
                config = self._config(rung, trial.seed, trial.learning_rate, "never")
                if rung.name not in self.out and not self.climb.do(trial, config, rung) and trial.status in HOPELESS:
                    self._give_up(rung, trial)
            chosen = choose(trials)
            if chosen is None:
                self.out.setdefault(rung.name, f"no learning rate worked: {trials[0].reason}")
                continue
            for trial in trials:
                trial.chosen = trial is chosen
            if at_the_edge(chosen, trials):
                self.climb.warn(
                    f"{rung.name}: the best learning rate, {chosen.learning_rate:g}, is at the end of the grid; "
                    "one beyond it may be better (--learning-rates 5 looks further)"
                )
            self.climb.save()

    def runs(self) -> None:
        """Seed by seed, so that every rung is seen early and times of all rungs alternate."""
        self._enter("training")
        bases = set[bool]()
        for seed in self.plan.seeds:
            for rung in self.plan.rungs:
                entry = self._entry(rung, "run", seed, rung.config.train.learning_rate)
                if rung.name in self.out:
                    entry.status, entry.reason = "skipped", self.out[rung.name]
                    continue
                entry.learning_rate = self._rate(rung)
                # The base is scored once as unquantized rungs load it, and once in QLoRA's 4 bits.
                when = "after" if (method_spec(rung.method).quantizes_base) in bases else "both"
                config = self._config(rung, seed, entry.learning_rate, when)
                result = self.climb.do(entry, config, rung)
                if result is None and entry.status in HOPELESS:
                    self._give_up(rung, entry)
                if result and result.before:
                    bases.add(method_spec(rung.method).quantizes_base)
                aggregate(self.climb.dir, self.climb.ladder, self.plan)
                self.climb.save()

    def finish(self) -> None:
        """The verdict and the page."""
        self._enter("analyzing")
        ladder = self.climb.ladder
        aggregate(self.climb.dir, ladder, self.plan)
        done = [entry for entry in ladder.entries if entry.kind == "run" and entry.status == "finished"]
        ladder.status, ladder.stage = ("finished", "done") if done else ("failed", "done")
        ladder.reason = "" if done else "no rung finished: " + "; ".join(f"{k}: {v}" for k, v in self.out.items())
        self.climb.save()
        report.write(self.climb.dir, ladder)

    def _enter(self, stage: Any) -> None:
        self.climb.stopping.check()
        self.climb.ladder.stage = stage
        self.climb.save()
        print(stage, flush=True)

    def _entry(self, rung: Rung, kind: Any, seed: int, rate: float) -> LadderRun:
        return self.climb.entry(LadderRun(rung=rung.name, kind=kind, seed=seed, learning_rate=rate))

    def _trials(self) -> Iterator[tuple[Rung, list[LadderRun]]]:
        seed = self.plan.seeds[0]
        for rung in self.plan.rungs:
            rates = grid(rung.config.train.learning_rate, self.plan.learning_rates)
            yield rung, [self._entry(rung, "trial", seed, rate) for rate in rates]

    def _rate(self, rung: Rung) -> float:
        chosen = next((e for e in self.climb.ladder.entries if e.rung == rung.name and e.chosen), None)
        return chosen.learning_rate if chosen else rung.config.train.learning_rate

    def _config(self, rung: Rung, seed: int, rate: float, when: str) -> Config:
        return with_values(rung.config, train={"seed": seed, "learning_rate": rate}, evaluation={"when": when})

    def _give_up(self, rung: Rung, entry: LadderRun) -> None:
        self.out[rung.name] = f"{entry.status.replace('_', ' ')}: {entry.reason}"
        self.climb.warn(f"{rung.name} is out: {self.out[rung.name]}")

    def _estimate(self, rung: Rung, entry: LadderRun, result: Result) -> RungDuration:
        work = self.climb.ladder.work
        assert work is not None
        events = stream(RunDir(self.climb.dir.runs / entry.run).events_file, Step)
        steps = [event.seconds for event in events if isinstance(event, Step)][1:] or [result.step_seconds]
        asked = result.after.score.rows if result.after else 0
        answering = result.seconds.get("evaluation", 0.0)
        around = max(0.0, worked_seconds(result) - answering - result.step_seconds)
        return RungDuration(
            rung=rung.name,
            low=around + work.steps * min(steps),
            high=around + work.steps * max(steps) + answering * max(1.0, work.test / max(1, asked)),
            step_seconds=median(steps),
            steps_measured=len(steps),
        )


def probe_config(config: Config) -> Config:
    """A few steps of the same batches and one batch of answers: an upper bound, for an untuned model rambles."""
    rows = min(config.evaluation.batch, config.evaluation.rows or config.evaluation.batch)
    return with_values(
        config,
        # Its few steps are the trial: looking for the longest of them first would cost half as much again.
        train={
            "steps": PROBE_STEPS,
            "evaluate_every": PROBE_STEPS + 1,
            "checkpoint_every": PROBE_STEPS + 1,
            "probe": False,
        },
        evaluation={"when": "after", "rows": rows, "general": "none"},
    )
