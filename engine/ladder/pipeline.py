"""Runs the stages of a ladder in this process: preparation, probes, trials, runs, exports, analysis, report."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from engine.config.errors import RunFailed, UserError, error_text
from engine.config.files import is_no_space_error
from engine.config.method_specs import method_spec
from engine.config.metric_specs import metric_spec
from engine.config.schema import Config
from engine.config.settings import with_settings
from engine.hardware.devices import device_settings, runs_at_once
from engine.ladder import report
from engine.ladder.aggregate import aggregate, memory_of_full
from engine.ladder.runner import EntryQueue, LadderRunner, PlannedRun
from engine.ladder.sentences import conclude
from engine.ladder.sequential import FIRST_LOOK, decide_questions, next_look
from engine.ladder.served import ask_served, check_served, examples_of_base, record_failure, with_examples
from engine.ladder.stages import (
    ArtifactExports,
    RateTrials,
    duration,
    equal_rates_warning,
    probe_config,
    require_gguf_tools,
)
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir
from engine.runs.ladder.ladder_plan import differing_settings, refuse_missing_splits, shared
from engine.runs.ladder.ladder_state import (
    BASE_4BIT,
    Kind,
    Ladder,
    LadderEntry,
    LadderPlan,
    Look,
    Outcome,
    Rung,
    RungDuration,
    SharedWork,
    Stage,
)
from engine.runs.rpc_client import ask
from engine.runs.run.folder import State
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import StopRequest, StopRequested


def run_to_outcome(work: Callable[[], None], state: State, folder: LadderDir | SweepDir) -> tuple[Outcome, str]:
    """Do the work; returns (status, reason) and records the error's code in the state."""
    try:
        work()
    except StopRequested as error:
        return "stopped", f"{str(error) or 'stopped by request'}; `ftbench resume {folder.argument}` resumes it"
    except UserError as error:
        state.reason_code = error.code
        return "failed", error.line
    except RunFailed as error:
        state.reason_code = error.code
        return "failed", str(error)
    except Exception as error:  # noqa: BLE001 - top level: the state records any error
        if is_no_space_error(error):
            state.reason_code = "disk.full"
            return "failed", f"disk full ({error}); free disk space, then `ftbench resume {folder.argument}`"
        traceback.print_exc()
        return "failed", f"{error_text(error)}; the traceback is in {folder.log_file}"
    return state.status, state.reason


NOT_RETRIED = ("out_of_memory", "failed", "died")
"""Outcomes that would be the same with another seed."""


@dataclass
class LadderPipeline:
    """Runs the stages of one ladder. After an interruption all stages are repeated and reuse what has finished."""

    runner: LadderRunner
    plan: LadderPlan
    excluded: dict[str, str] = field(default_factory=dict)
    """Rung -> why it is no longer run."""
    base_scorers: dict[bool, LadderEntry | None] = field(default_factory=dict)
    """The run that scores the base model: as loaded by unquantized rungs, and in QLoRA's 4 bits (True). None: it was
    scored by another ladder of the sweep."""
    share_bases: Callable[[Ladder], None] = lambda ladder: None
    """In a sweep: fills in the ladder's `base_runs`."""

    def run(self) -> None:
        """Run all stages. Raises StopRequested, and UserError if data or model are refused."""
        self.prepare()
        self.list_entries()
        self.probe()
        self.try_rates()
        self.train()
        self.ask_served()
        self.export()
        self.analyze()

    def measure(self) -> None:
        """Run the stages that tell how long the others will take. Raises as `run` does."""
        self.prepare()
        self.list_entries()
        self.probe()

    def pending_runs(self) -> dict[str, RungDuration | None]:
        """Identity -> expected duration of every trial and run that has no finished run yet; None if not measured."""
        self.runner.index_runs()
        known = {estimate.rung: estimate for estimate in self.runner.ladder.estimates}
        pending: dict[str, RungDuration | None] = {}
        for entry in self.runner.ladder.entries:
            if entry.kind not in ("trial", "run") or entry.is_done:
                continue
            rung = next(rung for rung in self.plan.rungs if rung.name == entry.rung)
            is_trial = entry.kind == "trial"
            configs = (self.trials.config(rung, entry),) if is_trial else self._run_configs(rung, entry)
            if not any(self.runner.has_finished(entry, config) for config in configs):
                pending[self.runner.identity(configs[0])] = known.get(entry.rung)
        return pending

    def prepare(self) -> None:
        """Record what all rungs share, read from data and model."""
        self._enter("preparing")
        ladder, plan = self.runner.ladder, self.plan
        require_gguf_tools(plan)
        if plan.rungs[0].config.executor.name == "local":
            ladder.runs_at_once = runs_at_once(device_settings(rung.config) for rung in plan.rungs)
        request = {"config": msgspec.to_builtins(plan.rungs[0].config)}
        workload = ask("ladder.workload", request, print)
        ladder.work = msgspec.convert(workload["work"], SharedWork)
        ladder.versions, ladder.machine = workload["versions"], workload["machine"]
        for notice in workload["warnings"]:
            self.runner.warn(notice["code"], notice["text"])
        ladder.differs, ladder.config = differing_settings(plan.rungs), shared(plan.rungs)
        refuse_missing_splits(ladder.work.test, ladder.work.validation, plan.learning_rates)
        spec = metric_spec(ladder.work.metric)
        check_served(plan.served, spec.name, spec.picks_from_choices, spec.needs_answers)
        if text := equal_rates_warning(plan):
            self.runner.warn("ladder.equal_learning_rates", text)

    def list_entries(self) -> None:
        """Add an entry for every run that is planned, so that the ladder shows all of them from the start."""
        plan = self.plan
        for rung in plan.rungs if plan.probe else []:
            self._probe_entry(rung)
        self.trials.list_entries()
        for seed in plan.seeds[:FIRST_LOOK] if plan.until_decided else plan.seeds:
            for rung in plan.rungs:
                self._entry(rung, "run", seed, rung.config.train.learning_rate)
        ArtifactExports(self.runner, plan).list_entries()
        self.runner.save()

    def probe(self) -> None:
        """Run a few steps and one scored batch of every rung: its duration, and whether it fits in memory."""
        if not self.plan.probe:
            return
        self._enter("probing")
        ladder, work = self.runner.ladder, self.runner.ladder.work
        assert work is not None
        device = "cuda" if "cuda" in ladder.machine else "cpu"
        runs = [
            PlannedRun(self._probe_entry(rung), rung, partial(probe_config, rung.config, device))
            for rung in self.plan.rungs
        ]
        for run, result in self._execute(runs):
            if result is None:
                self._exclude(run.rung, run.entry)
                continue
            ladder.estimates = [known for known in ladder.estimates if known.rung != run.rung.name]
            ladder.estimates.append(duration(run.rung, self.runner.run_of(run.entry), result, work))
            self.runner.save()

    def try_rates(self) -> None:
        """Choose each rung's learning rate by the loss on the validation rows; the test rows are not used."""
        if self.plan.learning_rates == 1:
            return
        self._enter("tuning")
        for rung, reason in self.trials.choose_rates().items():
            self.excluded.setdefault(rung, reason)

    @property
    def trials(self) -> RateTrials:
        """The learning-rate trials."""
        return RateTrials(self.runner, self.plan, self._execute, self._config, self._exclude_if_final)

    def train(self) -> None:
        """Run every rung with every seed. Seeds are the outer loop, so that all rungs have a result early."""
        self._enter("training")
        self.share_bases(self.runner.ladder)
        self.base_scorers = {name == BASE_4BIT: None for name in self.runner.ladder.base_runs}
        if self.plan.until_decided:
            self._train_until_decided()
        else:
            self._train_seeds(self.plan.seeds, [rung.name for rung in self.plan.rungs])

    def _train_seeds(self, seeds: Sequence[int], rungs: Collection[str]) -> None:
        """Run these rungs with these seeds."""
        runs = []
        for seed in seeds:
            for rung in self.plan.rungs:
                if rung.name in rungs:
                    entry = self._entry(rung, "run", seed, rung.config.train.learning_rate)
                    entry.learning_rate = self.trials.rate(rung)
                    runs.append(PlannedRun(entry, rung, partial(self._run_config, rung, entry)))
        for run in runs:
            if run.rung.name in self.excluded:
                self.runner.drop(run.entry, self.excluded[run.rung.name])
        self._train(runs)
        if again := self._without_base_score(runs):
            self._train(again)

    def _train_until_decided(self) -> None:
        """Run one seed after the other, as long as a rung has an open question; looks that were taken are kept."""
        ladder, plan = self.runner.ladder, self.plan
        looks = {look.seeds: look for look in ladder.looks}
        rungs = [rung.name for rung in plan.rungs]
        for number in range(1, len(plan.seeds) + 1):
            ladder.seeds = plan.seeds[: max(number, FIRST_LOOK)]
            self._train_seeds([plan.seeds[number - 1]], rungs)
            if look := looks.get(number) or self._look(number):
                rungs = look.rungs
            if not rungs:
                return

    def _look(self, seeds: int) -> Look | None:
        """Evaluate the ladder after this many seeds, and decide which rungs get a further one; None without a look."""
        ladder = self.runner.ladder
        runs = sum((entry.kind, entry.status) == ("run", "finished") for entry in ladder.entries)
        look = next_look(self.plan, seeds, runs)
        if look is None:
            return None
        samples = aggregate(self.runner.dir, ladder, self.plan, look)
        if samples is not None:
            decide_questions(ladder, samples, look, self.plan, self.excluded)
        ladder.looks.append(look)
        self._evaluate()
        self.runner.save()
        print(f"look after {look.runs} runs: {len(look.decisions)} decided; next seed: {look.rungs}", flush=True)
        return look

    def _train(self, runs: Sequence[PlannedRun]) -> None:
        for run, result in self._execute(runs):
            quantized = method_spec(run.rung.method).quantizes_base
            if result is None and self.base_scorers.get(quantized) is run.entry:
                del self.base_scorers[quantized]
            if result is None:
                self._exclude_if_final(run.rung, run.entry)
            self._evaluate()
            self.runner.save()

    def ask_served(self) -> None:
        """Let served models answer the test items. One that fails is reported and does not end the ladder."""
        if not self.plan.served:
            return
        self._enter("asking")
        ladder, folder = self.runner.ladder, self.runner.dir
        entry = next((run for run in ladder.entries if run.kind == "run" and run.status == "finished"), None)
        if entry is None or ladder.work is None:
            return
        config, predictions = self.plan.rungs[0].config, RunDir(folder.runs / entry.run).predictions_file
        for model, shots in with_examples(self.plan.served, self.plan.base_shots):
            try:
                examples = self._examples(shots)
                metric, stopping = ladder.work.metric, self.runner.stopping
                state = ask_served(folder, model, config, predictions, metric, stopping, examples)
            except (UserError, RunFailed) as error:
                state = record_failure(folder, model, error)
            if state.status == "failed":
                self.runner.warn("ladder.served_failed", f"{model.name} is not scored: {state.reason}")
            self._evaluate()
            self.runner.save()

    def _examples(self, shots: int) -> list[str]:
        """The places of the examples in the prompts of the base model. Raises UserError without them."""
        ladder, folder = self.runner.ladder, self.runner.dir
        runs = [RunDir(folder.runs / entry.run) for entry in ladder.entries if entry.kind == "run" and entry.run]
        runs += [RunDir(folder.runs / run) for run in ladder.base_runs.values()]
        scored = (run for run in runs if run.few_shot_examples_file(shots).exists())
        return examples_of_base(next(scored, runs[0]), shots)

    def export(self) -> None:
        """Export, check and score the artifacts of the finished runs."""
        if not self.plan.ship:
            return
        self._enter("exporting")
        for _ in ArtifactExports(self.runner, self.plan).export():
            self._evaluate()
            self.runner.save()

    def analyze(self) -> None:
        """Compute statistics and verdict, and write the report."""
        self._enter("analyzing")
        ladder = self.runner.ladder
        self._evaluate()
        done = [entry for entry in ladder.entries if entry.kind == "run" and entry.status == "finished"]
        ladder.status, ladder.stage = ("finished", "done") if done else ("failed", "done")
        reasons = "; ".join(f"{rung}: {reason}" for rung, reason in self.excluded.items())
        ladder.reason = "" if done else f"no rung finished: {reasons}"
        self.runner.save()
        report.write(self.runner.dir, ladder)

    def _evaluate(self) -> None:
        """Compute rows, comparisons and verdict from what has finished."""
        aggregate(self.runner.dir, self.runner.ladder, self.plan)
        self.runner.ladder.full_needs = memory_of_full(self.runner.ladder, self.plan)
        if self.runner.ladder.looks or not self.plan.until_decided:
            conclude(self.runner.ladder)

    def _enter(self, stage: Stage) -> None:
        self.runner.stopping.check()
        self.runner.ladder.stage = stage
        self.runner.save()
        print(stage, flush=True)

    def _entry(self, rung: Rung, kind: Kind, seed: int, rate: float) -> LadderEntry:
        return self.runner.entry(LadderEntry(rung=rung.name, kind=kind, seed=seed, learning_rate=rate))

    def _config(self, rung: Rung, seed: int, rate: float, when: str) -> Config:
        values = {"train.seed": seed, "train.learning_rate": rate, "evaluation.when": when}
        return with_settings(rung.config, values)

    def _execute(self, runs: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, Result | None]]:
        return EntryQueue(self.runner, lambda rung: rung.name in self.excluded).execute(runs)

    def _run_config(self, rung: Rung, entry: LadderEntry) -> Config:
        """The configuration of a run; the first one of each kind of base also scores the base."""
        quantized = method_spec(rung.method).quantizes_base
        scorer = self.base_scorers.setdefault(quantized, entry)
        return self._run_configs(rung, entry)[scorer is entry]

    def _run_configs(self, rung: Rung, entry: LadderEntry) -> tuple[Config, Config]:
        """The configurations of a run that scores the trained model only, and of one that also scores the base."""
        after, both = (self._config(rung, entry.seed, entry.learning_rate, when) for when in ("after", "both"))
        if not (method_spec(rung.method).quantizes_base and self._has_unquantized):
            both = with_settings(both, {"evaluation.base_shots": self.plan.base_shots})
        return after, both

    @property
    def _has_unquantized(self) -> bool:
        """Whether a rung loads the base model as it is: then that one is tried with examples in the prompt."""
        rungs = [rung for rung in self.plan.rungs if rung.name not in self.excluded]
        return any(not method_spec(rung.method).quantizes_base for rung in rungs)

    def _without_base_score(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """A finished run of each kind of base that was not scored, because the run that would have scored it failed."""
        unscored: dict[bool, PlannedRun] = {}
        for run in runs:
            quantized = method_spec(run.rung.method).quantizes_base
            if run.entry.status == "finished" and quantized not in self.base_scorers:
                unscored.setdefault(quantized, run)
        for run in unscored.values():
            run.entry.status = "planned"
        return list(unscored.values())

    def _probe_entry(self, rung: Rung) -> LadderEntry:
        return self._entry(rung, "probe", self.plan.seeds[0], rung.config.train.learning_rate)

    def _exclude_if_final(self, rung: Rung, entry: LadderEntry) -> None:
        """Exclude a rung whose run failed in a way that another seed or rate would not change."""
        if entry.status in NOT_RETRIED:
            self._exclude(rung, entry)

    def _exclude(self, rung: Rung, entry: LadderEntry) -> None:
        self.excluded[rung.name] = f"{entry.status.replace('_', ' ')}: {entry.reason}"
        for other in self.runner.ladder.entries:
            if (other.rung, other.kind) == (rung.name, entry.kind) and other is not entry and not other.is_done:
                self.runner.drop(other, self.excluded[rung.name])
        self.runner.warn("ladder.rung_excluded", f"{rung.name} is not run: {self.excluded[rung.name]}")


def run_ladder(folder: LadderDir, plan: LadderPlan) -> tuple[Outcome, str]:
    """Start or resume the ladder; returns (status, reason). Raises OSError if its state cannot be written."""
    stopping = StopRequest()
    stopping.listen()
    folder.reserve_end()
    runner = LadderRunner(folder, load_or_create(folder, plan), stopping, plan.fresh, plan.retime)
    for notice in plan.notices:
        runner.warn(notice.code, notice.text)
    runner.save()
    pipeline = LadderPipeline(runner, plan)
    status, reason = run_to_outcome(pipeline.run, runner.ladder, folder)
    if status != "finished":
        runner.ladder.status, runner.ladder.reason = status, reason
        runner.save()
    return runner.ladder.status, runner.ladder.reason


def load_or_create(folder: LadderDir, plan: LadderPlan) -> Ladder:
    """The ladder's stored state, or a new one."""
    ladder = folder.state() or Ladder(
        name=folder.name,
        preset=plan.preset,
        command=plan.command,
        created=plan.created,
        seeds=plan.seeds[:FIRST_LOOK] if plan.until_decided else plan.seeds,
        max_seeds=len(plan.seeds) if plan.until_decided else None,
        started_in=plan.started_in,
    )
    ladder.status, ladder.stage, ladder.reason, ladder.reason_code = "running", "planned", "", ""
    ladder.updated = time.time()
    return ladder
